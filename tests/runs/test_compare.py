"""Runs side by side and in a list: what is compared is comparable, and the numbers are those of the scores."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from metarl_jax.cli.main import main
from metarl_jax.meta import evaluation
from metarl_jax.options import ConfigError
from metarl_jax.runs import compare, listing, train
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate

MAML = {
    "algorithm": "maml", "env": "PointNavigation-v0", "env_options": {"horizon": 5}, "num_iterations": 2,
    "meta_batch_size": 2, "episodes_per_task": 2, "hidden": [4], "eval_tasks": 6, "eval_episodes": 2, "eval_updates": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for name, more in {"a": {"num_seeds": 2}, "b": {"inner_lr": 0.2}, "other": {"task_seed": 5}}.items():
        train.train(build(validate({**MAML, **more})), place / name, report=lambda _: None)
    return place


def test_differences_are_paired_over_tasks():
    rng = np.random.default_rng(0)
    task = rng.normal(size=50) * 10
    a, b = task + 1 + rng.normal(size=(3, 50)) * 0.1, task + rng.normal(size=(2, 50)) * 0.1
    found = compare._against(a, b, 1)
    assert abs(found["difference"] - 1) < 0.1
    low, high = found["difference_interval"]
    assert 0.9 < low < found["difference"] < high < 1.1, "tasks differ by 10, and their pairs by .1"
    assert found["probability_of_improvement"] == 1.0 and found["probability_of_improvement_interval"] == [1.0, 1.0]
    ties = compare._against(a, a[:1], 1)["probability_of_improvement"]
    assert ties == pytest.approx(evaluation.probability_of_improvement(a, a[:1]))
    assert compare._against(a, b, -1)["probability_of_improvement"] == 0.0, "less is better"
    same = compare._against(b, b, 1)
    assert same["difference"] == 0.0 and same["probability_of_improvement"] == 0.5


def test_runs_are_compared_by_what_evaluation_scored(folder, capsys):
    found = compare.compare([folder / "a", folder / "b"], report=lambda _: None)
    scores = {name: np.load(folder / name / "scores.npz")["run"][:, :, -1].mean(axis=-1) for name in "ab"}
    assert [row["mean"] for row in found["runs"]] == [pytest.approx(scores[name].mean()) for name in "ab"]
    assert [row["num_seeds"] for row in found["runs"]] == [2, 1] and found["num_tasks"] == 6
    expected = (scores["a"].mean(axis=0) - scores["b"].mean(axis=0)).mean()
    assert found["first_against"][0]["difference"] == pytest.approx(expected)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    assert main(["compare", str(folder / "a"), str(folder / "b"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["first_against"][0]["difference"] == pytest.approx(expected)
    assert (
        "evaluating" not in captured.err
        and {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before
    )
    assert main(["compare", str(folder / "a"), str(folder / "b")]) == 0
    assert f"{folder / 'a'} minus {folder / 'b'}" in capsys.readouterr().out


def test_what_cannot_be_compared_is_one_line(folder, tmp_path):
    for runs, expected in (
        ([folder / "a"], "runs = 1: compare needs at least 2"),
        ([folder / "a", folder / "other"], "task_seed = 5, .* has 0; only scores on the same tasks"),
        ([folder / "a", tmp_path], "is not a run directory"),
    ):
        with pytest.raises(ConfigError, match=expected):
            compare.compare(runs, report=lambda _: None)


def test_runs_are_listed_the_newest_first_and_the_damaged_with_the_reason(folder, tmp_path, capsys):
    place = tmp_path / "runs"
    shutil.copytree(folder, place)
    (place / "a" / "no_adaptation").mkdir()
    shutil.copy(place / "a" / "config.yaml", place / "a" / "no_adaptation")  # a baseline inside a run is none
    (place / "b" / "metrics.jsonl").write_text("[]\n")
    past = time.time() - 3 * 86400
    for p in (place / "other").iterdir():
        os.utime(p, (past, past))
    rows = listing.runs(place)
    assert len(rows) == 3 and rows[-1]["name"].endswith("other")
    whole = next(row for row in rows if row["name"].endswith("a"))
    last = json.loads((place / "a" / "metrics.jsonl").read_text().splitlines()[-1])
    assert whole["score"] == pytest.approx(np.mean(last["return_1"])) and whole["about"] == "return 1"
    assert (whole["algorithm"], whole["env"], whole["iteration"], whole["of"]) == ("maml", "PointNavigation-v0", 2, 2)
    assert main(["runs", str(place)]) == 0
    out = capsys.readouterr().out
    assert "last line: is damaged" in out and "3 days ago" in out and "2/2" in out
    with pytest.raises(ConfigError, match="there is no such folder"):
        listing.runs(tmp_path / "no")


def test_listing_imports_no_jax(folder):
    code = (
        "import sys\nfrom metarl_jax.cli.main import main\n"
        f"assert main(['runs', {str(folder)!r}]) == 0\nassert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_sweep_is_listed_with_its_best(tmp_path, capsys):
    sizes = [
        "num_envs=2",
        "num_steps=8",
        "num_minibatches=2",
        "hidden=[4]",
        "num_iterations=4",
        "iterations_per_call=2",
    ]
    place = tmp_path / "sweep"
    assert main(["sweep", "ppo_cartpole", *sizes, "lr=[1e-3,1e-2]", "--method", "grid", "--run-dir", str(place)]) == 0
    rows = listing.runs(tmp_path)
    assert len(rows) == 1 and rows[0]["about"] == "sweep, grid, 2 trials" and rows[0]["algorithm"] == "ppo"
    assert rows[0]["iteration"] == 4
