"""The command as a person meets it: exit codes, one-line errors, quick help, JSON, pictures."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from metarl_jax.cli.main import main

TINY = [
    "num_iterations=2", "checkpoint_every=1", "meta_batch_size=2", "episodes_per_task=2", "horizon=5", "hidden=[8]",
    "outer_epochs=1", "eval_tasks=3", "eval_episodes=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "maml_ppo_point", *TINY, "--run-dir", str(directory)]) == 0
    return directory


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "maml_ppo_pont"], "did you mean maml_ppo_point?"),
        (["train", "maml_ppo_point", "inner_lrr=1"], "did you mean inner_lr?"),
        (["train", "maml_ppo_point", "env=PointNavigaton-v0"], "did you mean PointNavigation-v0"),
        (["train", "maml_ppo_point", "env=Sinusoid-v0"], "labelled examples"),
        (["train", "maml_ppo_point", "env_options.gaol_limit=1"], "did you mean goal_limit"),
        (["train", "maml_ppo_point", "--seeds", "0"], "num_seeds = 0: must be greater than or equal to 1"),
        (["train", "maml_ppo_point", "--seeds", "2", "inner_lrr=1"], "did you mean inner_lr?"),
        (["train"], "config is missing"),
        (["train", "maml_ppo_point", "--resume"], "--resume needs --run-dir"),
        (["evaluate", "nowhere"], "is not a run directory"),
        (["show", "nothing"], "no such file"),
        (["show", "TwoColour-v0"], "did you mean TwoColours-v0?"),
        (["show", "meta_gradient_r"], "did you mean meta_gradient_rl?"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(capsys, monkeypatch, tmp_path, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert expected in captured.err
    assert captured.out == "" and not list(tmp_path.iterdir()), "nothing printed, nothing made"


def test_an_existing_run_is_refused(run, capsys):
    before = (run / "metrics.jsonl").read_bytes()
    assert main(["train", "maml_ppo_point", *TINY, "--run-dir", str(run)]) == 2
    assert "is not empty; add --resume" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before


def test_resume_needs_no_config_and_finds_nothing_to_do(run, capsys):
    assert main(["train", "--resume", "--run-dir", str(run)]) == 0
    assert "nothing left to do" in capsys.readouterr().err


def test_evaluate_prints_one_json_object(run, capsys):
    assert main(["evaluate", str(run), "--json", "--num-updates", "2"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["update"] for row in table["adaptation"]] == [0, 1, 2]
    low, high = table["adaptation"][0]["mean_interval"]
    assert low <= table["adaptation"][0]["mean"] <= high


def test_evaluate_prints_a_table_and_makes_pictures(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    for label in ("before adaptation", "after 1 update", "after 3 updates", "no adaptation", "random policy"):
        assert label in out
    for name in ("learning_curve.png", "adaptation.png", "adaptation.gif"):
        assert str(run / name) in out
        with Image.open(run / name) as picture:
            picture.verify()
    with Image.open(run / "adaptation.gif") as film:
        assert film.n_frames >= 5


def test_evaluate_refuses_impossible_sizes(run, capsys):
    assert main(["evaluate", str(run), "--num-tasks", "0"]) == 2
    assert "--num-tasks = 0: must be at least 1" in capsys.readouterr().err


def test_list_and_show(run, capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "PointNavigation-v0" in out and "maml_ppo_point" in out and "supervised_maml" in out
    for what, expected in (
        ("maml", "inner_lr"), ("maml_ppo_point", "outer_epochs: 3"), (str(run), "last iteration"), ("XOR-v0", "XOR")
    ):  # fmt: skip
        assert main(["show", what]) == 0
        assert expected in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom metarl_jax.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('jax', 'gymnax', 'distrax', 'matplotlib', 'orbax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_second_run_compiles_nothing(tmp_path):
    """The persistent cache of the first process serves every program of the second."""
    import os

    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    code = (
        "import sys, jax\nfrom jax._src import monitoring\nfrom metarl_jax.cli.main import main\nmisses = []\n"
        "monitoring.register_event_listener("
        "lambda name, **_: misses.append(name) if name.endswith('/compilation_cache/cache_misses') else None)\n"
        "assert main(sys.argv[1:]) == 0\nprint('misses', len(misses))"
    )
    counts = []
    for name in ("one", "two"):
        command = [sys.executable, "-c", code, "train", "maml_ppo_point", *TINY, "--run-dir", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        counts.append(int(done.stdout.split()[-1]))
    assert counts[0] > 0 and counts[1] == 0
