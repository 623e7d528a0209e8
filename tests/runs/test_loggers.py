"""Where metrics go: thinned files, TensorBoard, functions of the user's, Weights & Biases without a network."""

import json
import struct
import sys

import jax
import numpy as np
import pytest

from metarl_jax.options import ConfigError
from metarl_jax.runs import loggers
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate
from metarl_jax.runs.train import train

PPO = {
    "algorithm": "ppo", "env": "gymnax:CartPole-v1", "num_iterations": 10, "iterations_per_call": 2,
    "checkpoint_every": 4, "num_envs": 2, "num_steps": 8, "num_minibatches": 1, "num_epochs": 1, "hidden": [4],
    "num_seeds": 2, "anneal_lr": False,
}  # fmt: skip


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def run(place, resume=False, on_metrics=None, **changes):
    return train(
        build(validate({**PPO, **changes})), place, resume=resume, report=lambda _: None, on_metrics=on_metrics
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place, told = tmp_path_factory.mktemp("loggers") / "whole", []
    states = run(place, on_metrics=told.append)
    return place, told, states


def test_a_callback_is_told_every_row_that_is_written(whole):
    place, told, _ = whole
    assert told == rows_of(place) and [row["iteration"] for row in told] == list(range(1, 11))


def test_log_every_thins_what_is_written_and_changes_nothing_else(whole, tmp_path):
    place, _, states = whole
    told = []
    thin = run(tmp_path / "thin", log_every=4, on_metrics=told.append)
    assert rows_of(tmp_path / "thin") == [rows_of(place)[i - 1] for i in (4, 8, 10)] == told
    jax.tree.map(np.testing.assert_array_equal, thin, states)


def test_a_logger_that_raises_ends_the_run_in_one_line_and_it_goes_on_without(whole, tmp_path):
    def fails(row):
        if row["iteration"] == 7:
            raise KeyError("loss")

    with pytest.raises(
        loggers.LoggerFailed,
        match=r"^log_to = on_metrics: fails at iteration 7: KeyError: 'loss' \(test_loggers.py:\d+\)$",
    ):
        run(tmp_path / "run", on_metrics=fails)
    told = []
    run(tmp_path / "run", resume=True, on_metrics=told.append)
    assert rows_of(tmp_path / "run") == rows_of(whole[0])
    assert [row["iteration"] for row in told] == [5, 6, 7, 8, 9, 10], "from the checkpoint on"


def test_a_function_of_the_users_by_its_address(whole, tmp_path, monkeypatch):
    (tmp_path / "my_log.py").write_text("ROWS = []\nNOT = 3\n\n\ndef keep(row):\n    ROWS.append(row)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run(tmp_path / "run", log_to=["my_log:keep"], log_every=5)
    assert sys.modules.pop("my_log").ROWS == rows_of(tmp_path / "run") != []
    for name, said in {
        "my_log:kep": r"^log_to = my_log:kep: my_log has no kep; did you mean keep\?$",
        "my_log:NOT": r"^log_to = my_log:NOT: must be a function of a row of metrics, not 3$",
        "no_such_module:log": r"^log_to = no_such_module:log: no_such_module cannot be imported",
        "wanbd": r"^log_to = wanbd: must be wandb or a function, my_package.my_module:name; did you mean wandb\?$",
    }.items():
        with pytest.raises(ConfigError, match=said):
            run(tmp_path / "other", log_to=[name])
    assert not (tmp_path / "other").exists(), "before anything is written"


def stored_records(data):
    """The records of a .wandb file, LevelDB's log format: blocks of 32 KiB, pieces (checksum 4, length 2, type 1)."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield whole
            whole = b""


def test_weights_and_biases_offline_keeps_one_run_over_a_resumption(whole, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tmp_path / "run", log_to=["wandb"], num_iterations=6)
    run(tmp_path / "run", log_to=["wandb"], resume=True)
    assert rows_of(tmp_path / "run") == rows_of(whole[0])
    stored = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    name = (tmp_path / "run" / loggers.WANDB_ID).read_text().strip()
    assert len(stored) == 2 and all(path.stem == f"run-{name}" for path in stored)
    found = {}
    for path in stored:
        for data in stored_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                items = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                found[items["_step"]] = items
    assert sorted(found) == list(range(1, 11))
    for row in rows_of(whole[0]):
        for metric, mean in loggers.means(row).items():
            assert found[row["iteration"]][metric] == pytest.approx(mean, rel=1e-12), metric


def test_without_the_package_a_line_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ValueError, match=r"^log_to = wandb needs the package wandb: pip install 'metarl_jax\[wandb\]'$"
    ):
        loggers.check(("wandb",))
