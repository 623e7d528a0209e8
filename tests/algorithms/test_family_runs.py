"""Every algorithm of the family through the command: trained, cut off, resumed to the same bits, evaluated, drawn."""

import json
import shutil

import pytest
from problems import gradient_family

from metarl_jax.cli.main import main

TINY = [
    "env=PointNavigation-v0", "meta_batch_size=2", "episodes_per_task=2", "horizon=4", "hidden=[4]", "eval_tasks=2",
    "eval_updates=1", "checkpoint_every=1", "num_iterations=2",
]  # fmt: skip
OWN = {"promp": ["kl_target=0.01"], "imaml": ["num_proximal_steps=2"]}
QUICK = ("promp", "meta_sgd")  # a state with coefficients, one with step sizes
FAMILY = gradient_family()


TRIALS = ["num_iterations=2", "checkpoint_every=1", "meta_batch_size=2", "num_episodes=2", "horizon=3", "eval_tasks=2"]
ON_TRIALS = {
    "rl2": ["size=4", "num_minibatches=1"],
    "varibad": [
        "encoder_size=4", "hidden=[4]", "decoder_hidden=[4]", "num_minibatches=1", "decoder=table",
        "env_options={observation: one_hot}",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILY if n != "maml"]
)
def test_train_resume_evaluate(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(f"# a test\nalgorithm: {name}\nenv: PointNavigation-v0\nnum_iterations: 2\n")

    def train(directory, *more):
        return main(["train", "c.yaml", *TINY, *OWN.get(name, []), "--run-dir", directory, *more])

    assert train("whole") == 0, capsys.readouterr().err
    shutil.copytree("whole", "part")
    shutil.rmtree(max((tmp_path / "part" / "checkpoints").iterdir(), key=lambda p: int(p.name)))
    assert train("part", "--resume") == 0, capsys.readouterr().err
    assert (tmp_path / "part/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["evaluate", "whole", "--json", "--no-baselines"]) == 0
    assert len(json.loads(capsys.readouterr().out)["adaptation"]) == 2
    assert main(["evaluate", "whole", "--no-baselines"]) == 0
    assert (tmp_path / "whole/adaptation.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ON_TRIALS)
def test_train_resume_evaluate_on_trials(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(f"# a test\nalgorithm: {name}\nenv: GridNavi-v0\nnum_iterations: 2\n")

    def train(directory, *more):
        return main(["train", "c.yaml", *TRIALS, *ON_TRIALS[name], "--run-dir", directory, *more])

    assert train("whole") == 0, capsys.readouterr().err
    shutil.copytree("whole", "part")
    shutil.rmtree(max((tmp_path / "part" / "checkpoints").iterdir(), key=lambda p: int(p.name)))
    assert train("part", "--resume") == 0, capsys.readouterr().err
    assert (tmp_path / "part/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["evaluate", "whole", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["update"] for row in table["adaptation"]] == [0, 1] and table["stage"] == "episode"
    assert table["trial"]["mean"] == pytest.approx(sum(row["mean"] for row in table["adaptation"]))
    assert {name: len(rows) for name, rows in table["baselines"].items()} == {
        "random initialisation": 1, "random policy": 1,
    }  # fmt: skip
    assert main(["evaluate", "whole"]) == 0
    out = capsys.readouterr().out
    assert "episode 1" in out and "whole trial of 2 episodes" in out and "update" not in out
    assert main(["evaluate", "whole", "--num-updates", "5"]) == 2
    assert "num-updates = 5: a trial of 2 episodes is scored whole, so it must be 1" in capsys.readouterr().err
    key = "size" if name == "rl2" else "encoder_size"
    resolved = (tmp_path / "whole/config.yaml").read_text()
    (tmp_path / "whole/config.yaml").write_text(resolved.replace(f"\n{key}: 4\n", f"\n{key}: 8\n"))
    assert main(["evaluate", "whole"]) == 2
    said = capsys.readouterr().err
    assert f"is of another configuration ({key}: 4 there, 8 here)" in said and said.count("\n") == 1
