"""Runs survive kills, damage and divergence: with real processes and real signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from metarl_jax.algorithms import interface
from metarl_jax.options import ConfigError
from metarl_jax.runs import checkpoint, directory, evaluate, train
from metarl_jax.runs.build import build
from metarl_jax.runs.checkpoint import Checkpoints, digest
from metarl_jax.runs.config import validate

PPO = {
    "algorithm": "ppo", "env": "gymnax:CartPole-v1", "num_iterations": 60, "iterations_per_call": 5,
    "checkpoint_every": 5, "num_steps": 16, "hidden": [8], "eval_episodes": 4,
}  # fmt: skip
MAML = {
    "algorithm": "maml", "env": "PointNavigation-v0", "num_iterations": 4, "checkpoint_every": 2, "horizon": 5,
    "meta_batch_size": 2, "episodes_per_task": 2, "hidden": [8], "outer_epochs": 2, "eval_tasks": 3, "eval_episodes": 2,
}  # fmt: skip


def final_state(run: Path):
    """(iteration, digest) of the newest checkpoint, after checking that it restores."""
    opened = evaluate.open_run(run)
    states = train.shapes_of_states(opened)
    iteration, state = Checkpoints(run / "checkpoints").restore(states)
    return iteration, digest(jax.tree.map(np.asarray, state))


def start(config: Path, run: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "metarl_jax.cli", "train", str(config), "--run-dir", str(run), *more]
    with open(run.with_suffix(".log"), "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def write_config(path: Path, config: dict) -> Path:
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def test_killed_runs_resume_to_identical_bits(tmp_path):
    """kill -9 while a checkpoint is being written, --resume, kill -9 between two of them, --resume."""
    config = write_config(tmp_path / "c.yaml", PPO)
    train.train(build(validate(PPO)), tmp_path / "whole", report=lambda _: None)
    run = tmp_path / "killed"

    def while_writing() -> bool:
        return any("orbax-checkpoint-tmp" in p.name for p in (run / "checkpoints").glob("*"))

    def after(iteration: int):
        return lambda: (run / "checkpoints" / str(iteration)).exists()

    killed_while_writing = False
    for attempt, moment in enumerate([while_writing, after(15)]):
        process = start(config, run, "--resume") if attempt else start(config, run)
        deadline = time.monotonic() + 240
        while not moment() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.0002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            killed_while_writing |= moment is while_writing
    assert killed_while_writing
    last = start(config, run, "--resume")
    assert last.wait(timeout=240) == 0, run.with_suffix(".log").read_text()
    assert final_state(run) == final_state(tmp_path / "whole")
    assert (run / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == PPO["num_iterations"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "maml"
    train.train(build(validate(MAML)), run, report=lambda _: None)
    return run


def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_a_run_directory_holds_what_it_says(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]) == {"iteration", "loss", "grad_norm", "return_0", "return_1"}
    info = json.loads((trained / "info.json").read_text())
    assert info["versions"]["jax"] == jax.__version__ and info["device"]
    assert list((trained / "tensorboard").glob("events*"))
    assert not list(trained.rglob("*.pkl")) and not list(trained.rglob("*.pickle"))


def test_resume_in_process_repeats_the_uninterrupted_run(trained, tmp_path):
    run = copy(trained, tmp_path)
    reference = (run / "metrics.jsonl").read_bytes(), final_state(run)
    shutil.rmtree(run / "checkpoints" / "4")
    with open(run / "metrics.jsonl", "a") as f:
        f.write('{"iteration": 5, "lo')  # a line cut short
    train.train(build(validate(MAML)), run, resume=True, report=lambda _: None)
    assert ((run / "metrics.jsonl").read_bytes(), final_state(run)) == reference


def test_what_orbax_notes_beside_the_arrays_is_not_needed(trained, tmp_path):
    """The numbers are whole: damage beside them stops neither reading nor resuming."""
    run = copy(trained, tmp_path)
    reference = final_state(run)
    beside = run / "checkpoints" / "4" / "_CHECKPOINT_METADATA"
    for damage in ("0", "[1]", '{"item_handlers": 1}', '{"commit_timestamp_nsecs": "now"}', "", "\0"):
        beside.write_text(damage)
        assert final_state(run) == reference
    train.train(build(validate(MAML)), run, resume=True, report=lambda _: None)
    beside.unlink()
    assert final_state(run) == reference


def test_an_existing_run_is_not_overwritten(trained):
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    with pytest.raises(ConfigError, match="is not empty; add --resume"):
        train.train(build(validate(MAML)), trained, report=lambda _: None)
    changed = validate({**MAML, "inner_lr": 0.2})
    with pytest.raises(ConfigError, match="another configuration .*inner_lr: 0.1 there, 0.2 now"):
        train.train(build(changed), trained, resume=True, report=lambda _: None)
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before


def test_two_processes_cannot_share_a_run(trained):
    before = (trained / "config.yaml").read_text()
    for config in (MAML, {**MAML, "num_iterations": 9}):
        with directory.locked(trained), pytest.raises(ConfigError, match="another process is training in it"):
            train.train(build(validate(config)), trained, resume=True, report=lambda _: None)
    assert (trained / "config.yaml").read_text() == before


def test_a_directory_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    for resume in (False, True):
        with pytest.raises(ConfigError, match="run directory"):
            train.train(build(validate(MAML)), tmp_path, resume=resume, report=lambda _: None)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_checkpoint_is_one_clear_line(trained, tmp_path, damage):
    run = copy(trained, tmp_path)
    files = [p for p in (run / "checkpoints" / "4" / "state").rglob("*") if p.is_file()]
    data = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    if damage == "truncate":
        data.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
        data.write_bytes(content)
    else:
        data.unlink()
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=r"checkpoint .*4: cannot be read .* to go on from 2") as error:
        train.train(build(validate(MAML)), run, resume=True, report=lambda _: None)
    assert "\n" not in str(error.value)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()} == before


def test_an_unfinished_run_of_other_numerics_is_not_resumed(trained, tmp_path, monkeypatch):
    """It would not end in the bits that it began to end in. What it has can still be read."""
    run = copy(trained, tmp_path)
    now = checkpoint.NUMERICS
    monkeypatch.setattr(checkpoint, "NUMERICS", now + 1)
    assert train.train(build(validate(MAML)), run, resume=True, report=lambda _: None) is not None  # it is finished
    shutil.rmtree(run / "checkpoints" / "4")
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=rf"checkpoint .*2: .*numerics {now}, here {now + 1}.*train anew") as error:
        train.train(build(validate(MAML)), run, resume=True, report=lambda _: None)
    assert "\n" not in str(error.value) and final_state(run)[0] == 2
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()} == before


def refused(run, config, expected):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    with pytest.raises(ConfigError, match=expected) as error:
        train.train(build(validate(config)), run, resume=True, report=lambda _: None)
    assert "\n" not in str(error.value)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_a_checkpoint_of_another_run_or_iteration_is_not_gone_on_with(trained, tmp_path):
    run = copy(trained, tmp_path)
    shutil.rmtree(run / "checkpoints" / "4")
    shutil.move(run / "checkpoints" / "2", run / "checkpoints" / "3")
    refused(run, MAML, r"checkpoint .*3: is of iteration 2; give it that name back")
    shutil.move(run / "checkpoints" / "3", run / "checkpoints" / "2")
    other = {**MAML, "inner_lr": 0.3}
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("inner_lr: 0.1", "inner_lr: 0.3"))
    refused(run, other, r"checkpoint .*2: is of another configuration \(inner_lr: 0.1 there, 0.3 here\)")
    with pytest.raises(ConfigError, match="is of another configuration"):
        evaluate.assess(run, report=lambda _: None)
    seed = {**MAML, "seed": 7}
    train.train(build(validate(seed)), tmp_path / "seed", report=lambda _: None)
    shutil.rmtree(tmp_path / "seed" / "checkpoints" / "4")
    shutil.copytree(run / "checkpoints" / "2", tmp_path / "seed" / "checkpoints" / "2", dirs_exist_ok=True)
    refused(tmp_path / "seed", seed, r"is of another configuration \(seed: 0 there, 7 here\)")


def test_a_checkpoint_beyond_the_end_is_refused(trained, tmp_path):
    run = copy(trained, tmp_path)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("num_iterations: 4", "num_iterations: 2"))
    refused(run, {**MAML, "num_iterations": 2}, r"checkpoint .*4: is beyond the last iteration, num_iterations = 2")


def test_a_run_goes_on_to_more_iterations_and_says_what_that_does_to_annealing(trained, tmp_path):
    run, said = copy(trained, tmp_path), []
    longer = {**MAML, "num_iterations": 6}
    train.train(build(validate(longer)), run, resume=True, report=said.append)
    assert said[0] == "prolonged from 4 to 6 iterations"
    train.train(build(validate(longer)), tmp_path / "whole", report=lambda _: None)
    assert final_state(run) == final_state(tmp_path / "whole")
    assert (run / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    refused(run, MAML, "another configuration .*num_iterations: 6 there, 4 now")
    ppo = {**PPO, "num_iterations": 5}
    train.train(build(validate(ppo)), tmp_path / "ppo", report=lambda _: None)
    train.train(build(validate({**ppo, "num_iterations": 10})), tmp_path / "ppo", resume=True, report=said.append)
    assert "prolonged from 5 to 10 iterations; anneal_lr: falls to 0 at the new end" in "\n".join(map(str, said))


def test_damaged_metrics_are_named_and_not_lost(trained, tmp_path):
    run = copy(trained, tmp_path)
    content = (run / "metrics.jsonl").read_bytes()
    for damaged in (b"\x00\xff" + content, content.replace(b'{"iteration"', b"{", 1), b"[]\n" + content):
        (run / "metrics.jsonl").write_bytes(damaged)
        refused(run, MAML, r"metrics .*metrics.jsonl.*: is damaged .*; move it away to go on without it")
        assert (run / "metrics.jsonl").read_bytes() == damaged
    (run / "metrics.jsonl").unlink()
    train.train(build(validate(MAML)), run, resume=True, report=lambda _: None)


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("precious")
    for place in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("a" * 300)):
        with pytest.raises(ConfigError, match="run directory .*(is a file|cannot be made)"):
            train.train(build(validate(MAML)), place, report=lambda _: None)
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "precious"


def test_sigterm_saves_and_ends(tmp_path):
    config = write_config(tmp_path / "c.yaml", {**PPO, "num_iterations": 10_000, "checkpoint_every": 10_000})
    process = start(config, tmp_path / "run")
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not (tmp_path / "run" / "metrics.jsonl").stat().st_size:
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "run.log").read_text()
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 143
    iteration, _ = final_state(tmp_path / "run")
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == iteration > 0
    last = (tmp_path / "run.log").read_text().splitlines()[-1]
    assert last == f"terminated; --resume goes on from the checkpoint of iteration {iteration}"


def test_divergence_stops_the_run_and_keeps_the_good_checkpoint(tmp_path):
    config = validate({**MAML, "outer_lr": 1e30, "num_iterations": 12, "outer_epochs": 1, "checkpoint_every": 1})
    with pytest.raises(train.RunFailed, match=r"at iteration \d+, first in (loss|gradient|params)") as error:
        train.train(build(config), tmp_path / "run", report=lambda _: None)
    kept = max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert f"of iteration {kept}, is kept" in str(error.value)
    assert final_state(tmp_path / "run")[0] == kept
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == kept


def test_the_first_bad_leaf_is_named():
    finite = {
        "loss": np.array([[True], [True], [False]]),
        "gradient": {"actor": {"w": np.array([[True], [False], [False]])}},
        "params": {"actor": {"w": np.array([[True], [False], [False]])}},
    }
    assert train._first_bad(finite) == (1, "gradient actor.w")


def test_seeds_run_in_one_program_equal_single_runs(tmp_path):
    quiet = {"report": lambda _: None}
    both = train.train(build(validate({**MAML, "num_seeds": 2})), tmp_path / "both", **quiet)
    second = train.train(build(validate({**MAML, "seed": 1})), tmp_path / "second", **quiet)
    for a, b in zip(jax.tree.leaves(both.params), jax.tree.leaves(second.params), strict=True):
        np.testing.assert_allclose(a[1], b[0], rtol=1e-5, atol=1e-7)
    row = json.loads((tmp_path / "both" / "metrics.jsonl").read_text().splitlines()[0])
    assert len(row["return_1"]) == 2


def test_assessment_has_every_row_and_keeps_its_scores(trained, tmp_path):
    run = copy(trained, tmp_path)
    table, scores = evaluate.assess(run, report=lambda _: None)
    assert [row["update"] for row in table["adaptation"]] == [0, 1, 2, 3]
    assert set(table["baselines"]) == {
        evaluate.NO_ADAPTATION, interface.RANDOM_INIT, interface.RANDOM_POLICY,
    }  # fmt: skip  # no oracle: the horizon is not the environment's own
    assert scores["run"].shape == (1, 3, 4, 2)
    again, _ = evaluate.assess(run, report=lambda _: None)
    assert again == table
    evaluate.save(run, table, scores)
    assert json.loads((run / "evaluation.json").read_text()) == table
    with np.load(run / "scores.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["run"], scores["run"])
    small, small_scores = evaluate.assess(run, num_tasks=2, baselines=False, report=lambda _: None)
    assert evaluate.save(run, small, small_scores).name == "evaluation-2x2-3-no-baselines.json"
    assert json.loads((run / "evaluation.json").read_text()) == table, "the fuller evaluation is kept"
    plain = json.loads(json.dumps(table["baselines"][evaluate.NO_ADAPTATION]))
    assert len(plain) == 1 and (run / "no_adaptation" / "config.yaml").read_text().count("num_inner_steps: 0") == 1


def test_ppo_takes_its_surrogate_from_the_configuration():
    """The first step of an update is the same for all; those after it are not."""
    plain = {"algorithm": "ppo", "env": "PointNavigation-v0", "num_iterations": 1, "num_steps": 16, "lr": 0.01}
    ends = {}
    for name in ("ppo", "smooth_ppo", "dpo", "lvc"):
        algorithm = build(validate({**plain, "surrogate": name})).algorithm
        state = jax.jit(algorithm.step)(algorithm.init(jax.random.key(0)), jax.random.key(1))[0]
        ends[name] = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.learner.params)])
    for a, b in (("ppo", "smooth_ppo"), ("ppo", "dpo"), ("dpo", "lvc")):
        assert np.abs(ends[a] - ends[b]).max() > 1e-4
