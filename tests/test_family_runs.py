"""Every algorithm of the family through the command: trained, cut off, resumed to the same bits, evaluated, drawn."""

import json

import pytest

from metarl_jax import cli
from metarl_jax.schemas import SCHEMAS, GradientConfig

TINY = [
    "env=PointNavigation-v0", "meta_batch_size=2", "episodes_per_task=2", "horizon=4", "hidden=[4]", "eval_tasks=2",
    "eval_updates=1", "checkpoint_every=1", "num_iterations=2",
]  # fmt: skip
OWN = {"promp": ["kl_target=0.01"], "imaml": ["num_proximal_steps=2"]}
QUICK = ("promp", "meta_sgd")  # a state with coefficients, one with step sizes
FAMILY = [name for name, schema in SCHEMAS.items() if issubclass(schema, GradientConfig)]


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILY if n != "maml"]
)
def test_train_resume_evaluate(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(f"# a test\nalgorithm: {name}\nenv: PointNavigation-v0\nnum_iterations: 2\n")

    def train(directory, *more):
        return cli.main(["train", "c.yaml", *TINY, *OWN.get(name, []), "--run-dir", directory, *more])

    assert train("whole") == 0, capsys.readouterr().err
    assert train("part") == 0
    newest = sorted((tmp_path / "part" / "checkpoints").iterdir(), key=lambda p: int(p.name))[-1]
    for path in sorted(newest.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    newest.rmdir()
    assert train("part", "--resume") == 0, capsys.readouterr().err
    assert (tmp_path / "part/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert cli.main(["evaluate", "whole", "--json", "--no-baselines"]) == 0
    assert len(json.loads(capsys.readouterr().out)["adaptation"]) == 2
    assert cli.main(["evaluate", "whole", "--no-baselines"]) == 0
    assert (tmp_path / "whole/adaptation.png").stat().st_size > 1000
