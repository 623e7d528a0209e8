"""The command as a person meets it: exit codes, one-line errors, quick help, JSON, pictures."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from metarl_jax.cli.main import main
from metarl_jax.options import ConfigError

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
        (["train", "maml_ppo"], "did you mean maml_ppo_point?"),
        (["train", "maml_ppo_point", "inner_lr", "=", "1"], "override 'inner_lr': must be key=value, without spaces"),
        (["train", "maml_ppo_point", "env=boat:boat"], "No module named 'boat'); looked for it in "),
        (["train", "maml_ppo_point", "inner_lrr=1"], "did you mean inner_lr?"),
        (["train", "maml_ppo_point", "env=PointNavigaton-v0"], "did you mean PointNavigation-v0"),
        (["train", "maml_ppo_point", "env=Sinusoid-v0"], "labelled examples"),
        (["train", "maml_ppo_point", "env_options.gaol_limit=1"], "did you mean goal_limit"),
        (["train", "maml_ppo_point", "--seeds", "0"], "num_seeds = 0: must be greater than or equal to 1"),
        (["train", "maml_ppo_point", "--seeds", "2", "inner_lrr=1"], "did you mean inner_lr?"),
        (["train"], "config is missing"),
        (["train", "maml_ppo_point", "--resume"], "--resume needs --run-dir"),
        (["evaluate", "nowhere"], "is not a run directory"),
        (["evaluate", "\r"], "run \\r: is not a run directory"),
        (["show", "a\nb\x1b[31m"], "config a b\\x1b[31m: no such file"),
        (["train", "rl2"], "is an algorithm; configurations of it: rl2_bandit, "),
        (["train", "rl2_bandit", "inner_lr=1"], "inner_lr = 1: not a key of algorithm rl2; it is a key of maml"),
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


def test_an_evaluation_that_cannot_be_saved_is_printed(run, capsys, monkeypatch, tmp_path):
    from metarl_jax.runs import files

    def read_only(path, what):
        raise ConfigError(f"{what} {path}: cannot be written to: the file system is read-only")

    monkeypatch.setattr(files, "check_writable", read_only)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert main(["evaluate", str(run), "--no-baselines"]) == 0
    captured = capsys.readouterr()
    assert "before adaptation" in captured.out
    assert "the file system is read-only; the table is printed and not saved" in captured.err
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_a_damaged_evaluation_is_said_before_anything_is_computed(run, capsys, tmp_path):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    for content in ("{", "[]", '{"num_tasks": 3}'):
        (copy / "evaluation.json").write_text(content)
        assert main(["evaluate", str(copy)]) == 2
        captured = capsys.readouterr()
        assert "evaluation.json: is damaged" in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_check_says_what_a_run_needs_and_makes_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["check", "maml_ppo_point", "num_seeds=2"]) == 0
    out = capsys.readouterr().out
    assert "maml on PointNavigation-v0, 2 seed(s)" in out and "4,484 numbers a seed" in out and "memory" in out
    assert main(["check", "maml_ppo_point", "meta_batch_size=1000000000"]) == 2
    captured = capsys.readouterr()
    assert "make meta_batch_size = 1000000000 smaller" in captured.err and captured.err.count("\n") == 1
    assert main(["train", "maml_ppo_point", "meta_batch_size=1000000000"]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("horizon, said", [(100, ""), (120, "the rest of each is padding"), (20, "are cut off")])
def test_another_horizon_than_the_environment_s_is_said(capsys, horizon, said):
    assert main(["check", "maml_ppo_point", f"horizon={horizon}"]) == 0
    line = capsys.readouterr().err
    assert line.count("\n") == bool(said) and said in line
    assert not said or line.startswith(f"horizon = {horizon}: episodes of PointNavigation-v0 end after 100 steps")


def test_a_file_and_runs_beside_what_was_meant_are_pointed_at(run, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boat.py").write_text("")
    assert main(["check", "maml_ppo_point", "env=boat"]) == 2
    assert "unknown environment 'boat'; boat.py here is named boat:<its factory>\n" in capsys.readouterr().err
    assert main(["evaluate", str(run.parent)]) == 2
    assert f"(it has no config.yaml); `metarl runs {run.parent}` lists those in it\n" in capsys.readouterr().err


def test_a_folder_of_the_same_name_does_not_hide_a_configuration(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ppo_cartpole").mkdir()
    (tmp_path / "configs").mkdir()
    assert main(["show", "ppo_cartpole"]) == 0
    assert "algorithm: ppo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device", "runs/a/metrics.jsonl"), "runs/a/metrics.jsonl: no space is left on"),
        (MemoryError(), "out of memory: make the sizes"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12000000000 bytes.\nmore"), "of 11.2 GiB): make"),
    ],
)
def test_what_fails_while_it_runs_is_one_line_and_exit_status_1(capsys, monkeypatch, error, expected):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("metarl_jax.runs.memory.check", fail)
    assert main(["check", "maml_ppo_point"]) == 1
    captured = capsys.readouterr()
    assert expected in captured.err and captured.err.count("\n") == 1


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
        "heavy = ('jax', 'gymnax', 'matplotlib', 'orbax', 'evosax', 'tensorboardX', 'PIL', 'rich', 'shtab')\n"
        "print([m for m in heavy if m in sys.modules])"
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
        sizes = ["num_iterations=4", "iterations_per_call=2", "num_envs=2", "num_steps=8", "num_minibatches=2"]
        command = [sys.executable, "-c", code, "train", "ppo_cartpole", *sizes, "--run-dir", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        counts.append(int(done.stdout.split()[-1]))
    assert counts[0] > 0 and counts[1] == 0


def test_an_interrupt_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    from metarl_jax.sweeps import run as sweep
    from metarl_jax.tuning import tune

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "run", interrupted)
    monkeypatch.setattr(tune, "tune", interrupted)
    for words in (["sweep", "ppo_cartpole", "lr=log(1e-5,1e-1)", "--trials", "2"], ["tune", "gymnax:CartPole-v1"]):
        assert main([*words, "--run-dir", str(tmp_path / words[0])]) == 130
        again = f"the same command with --run-dir {tmp_path / words[0]} --resume"
        assert capsys.readouterr().err.splitlines()[-1] == f"interrupted; {again} goes on from what is kept there"


def test_show_says_what_an_environment_takes(capsys, tmp_path, monkeypatch):
    assert main(["show", "BernoulliBandit-v0"]) == 0
    shown = capsys.readouterr().out
    assert "num_arms" in shown and "action                 one of 5" in shown and "observation            [" in shown
    assert main(["show", "gymnax:<id>"]) == 0 and main(["show", "gymnax:CartPole-v1"]) == 0
    assert "observation            [4] numbers" in capsys.readouterr().out
    assert main(["show", "no_module_here:env"]) == 2
    assert "no_module_here cannot be imported" in capsys.readouterr().err
    assert main(["show", "gymnax:Cartpol-v1"]) == 2 and "gymnax:Cartpol-v1: " in capsys.readouterr().err


def test_the_command_of_a_run_is_what_a_person_would_type(monkeypatch):
    from metarl_jax.runs.directory import environment_info

    for program in ("bin/metarl", "lib/metarl_jax/cli/__main__.py"):
        monkeypatch.setattr(sys, "argv", [program, "train", "ppo_cartpole"])
        assert environment_info()["command"] == "metarl train ppo_cartpole"
