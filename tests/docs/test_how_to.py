"""What docs/how-to.md says is done: its programs run, its commands exist, its table names what a run leaves."""

import re
from pathlib import Path

import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.cli.main import main
from metarl_jax.cli.parser import COMMANDS

TEXT = (Path(__file__).parents[2] / "docs" / "how-to.md").read_text()
TINY = ["num_iterations=2", "meta_batch_size=2", "episodes_per_task=2", "horizon=5", "hidden=[4]", "eval_tasks=2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "maml_ppo_point", *TINY, "eval_every=1", "eval_updates=1", "--run-dir", "runs/mine"]) == 0
    return tmp_path


def test_the_programs_run(here):
    opened, exported = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    names: dict = {}
    exec(compile(opened, "how-to.md", "exec"), names)  # noqa: S102
    assert names["data"].reward.shape == (5, 20)
    assert main(["export", "runs/mine", "--output", "export"]) == 0
    names = {"observation": np.zeros((3, 2), np.float32)}
    exec(compile(exported, "how-to.md", "exec"), names)  # noqa: S102
    assert names["action"].shape == names["likeliest"].shape == (3, 2) and names["arrays"]


def test_the_table_names_what_a_run_leaves(here):
    assert main(["evaluate", "runs/mine"]) == 0
    named = set(re.findall(r"`([\w.]+)/?`", "".join(re.findall(r"^\| (`.*?) \|", TEXT, flags=re.M))))
    there = {
        p.name
        for p in (here / "runs" / "mine").iterdir()
        if not p.name.startswith(".") and p.suffix not in (".png", ".gif")
    }
    assert there <= named and named - there <= {"parts.json"}, (there - named, named - there)


def test_the_commands_exist():
    assert set(re.findall(r"metarl (\w[\w-]*)", TEXT)) <= set(COMMANDS)
    assert hasattr(mrl, "load_run")
