"""The trained runs of examples/ open, and do what their page says: they adapt."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.cli.main import main

TRAINED = Path(__file__).resolve().parents[2] / "examples" / "trained"


def test_maml_finds_goals_as_well_as_was_measured():
    run = mrl.load_run(TRAINED / "maml_point")

    def returns(task, key, updates):
        agent = run.adapt(task, key, num_updates=updates)
        return run.rollout(agent, task, key, num_episodes=10).episode_return[-1].mean()

    score = jax.jit(jax.vmap(returns, in_axes=(0, 0, None)), static_argnums=2)
    tasks = jax.tree.map(lambda *x: np.stack(x), *run.held_out(10))
    keys = jax.random.split(jax.random.key(0), 10)
    before, after = (np.mean(score(tasks, keys, k)) for k in (0, 3))
    table = json.loads((TRAINED / "maml_point" / "evaluation.json").read_text())["adaptation"]
    assert abs(before - table[0]["mean"]) < 15 and abs(after - table[3]["mean"]) < 4, (before, after)


def test_rl2_finds_the_best_arm_as_well_as_was_measured():
    run = mrl.load_run(TRAINED / "rl2_bandit")
    tasks = jax.tree.map(lambda *x: np.stack(x), *run.held_out(200))

    def play(task, key):
        return run.trials(task, key)[1].sum()

    whole = np.asarray(jax.jit(jax.vmap(play))(tasks, jax.random.split(jax.random.key(0), 200)))
    assert 6.0 < whole.mean() < 7.2, whole.mean()  # 6.61 was measured over 1,000 tasks; blind pulling earns 5


@pytest.mark.parametrize("name", ["maml_point", "rl2_bandit"])
def test_commands_take_them(name, tmp_path, capsys):
    assert main(["show", str(TRAINED / name)]) == 0
    assert "num_iterations" in capsys.readouterr().out
    copy = shutil.copytree(TRAINED / name, tmp_path / name)
    assert main(["train", "--resume", "--run-dir", str(copy)]) == 0
    assert "nothing left to do" in capsys.readouterr().err


def test_nothing_of_the_machine_that_trained_them_is_in_them():
    for path in TRAINED.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"/home/" not in content and b"/tmp/" not in content and b"/work/" not in content, path
