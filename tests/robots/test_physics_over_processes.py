"""Two processes with two devices each: every one calls the physics on its own host."""

import json
import subprocess

import numpy as np
import pytest
from processes import METARL, ends, environment, start

pytest.importorskip("mujoco")

CONFIG = {
    "algorithm": "promp", "env": "HalfCheetahDir-v0", "num_iterations": 1, "meta_batch_size": 4, "horizon": 6,
    "episodes_per_task": 2, "hidden": [4], "outer_epochs": 1,
}  # fmt: skip


def test_processes_train_a_robot(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(CONFIG))
    command = [*METARL, "train", path, "--run-dir", tmp_path / "one"]
    subprocess.run(command, check=True, env=environment(1), capture_output=True)
    found = ends(start([[path, "--run-dir", tmp_path / "two"]] * 2))
    assert [status for status, _ in found] == [0, 0], found
    one, two = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two"))
    for ours, theirs in zip(map(json.loads, one), map(json.loads, two), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            np.testing.assert_allclose(theirs[key], value, rtol=1e-4, atol=1e-6, err_msg=key)
