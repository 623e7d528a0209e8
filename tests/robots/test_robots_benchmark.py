"""The benchmark of robots runs and writes what it prints."""

import json
import sys

import pytest

pytest.importorskip("mujoco")

from benchmarks import robots  # noqa: E402


def test_the_benchmark_of_robots(tmp_path, monkeypatch, capsys):
    path = tmp_path / "robots.json"
    monkeypatch.setattr(
        sys, "argv", ["robots", "--small", "--only", "HalfCheetah", "--repeats", "1", "--output", str(path)]
    )
    robots.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["work"].split(",")[0] for row in rows] == [
        "HalfCheetahDir-v0", "HalfCheetah-v5", "ProMP HalfCheetahDir", "ProMP HalfCheetahDir",
    ]  # fmt: skip
    assert all(row["env_steps_per_cpu_s"] > 0 for row in rows) and rows[0]["times_peer"] > 0
    assert "env_steps_per_cpu_s" in capsys.readouterr().out
