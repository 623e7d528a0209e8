"""The trained half-cheetah of examples/ opens, and runs the right way once it has adapted."""

from pathlib import Path

import jax
import pytest

import metarl_jax as mrl

pytest.importorskip("mujoco")
RUN = Path(__file__).resolve().parents[2] / "examples" / "trained" / "promp_halfcheetah_dir"


def test_it_runs_the_way_that_it_was_not_told():
    run = mrl.load_run(RUN)
    assert jax.tree.leaves(run.params)[0].shape[0] == 3, "three seeds"
    tasks = run.held_out(6)
    directions = [float(task.goal) for task in tasks]
    assert len(set(directions)) == 2, "both are held out"

    @jax.jit
    def returns(task, key):
        agent = run.adapt(task, key, num_updates=1)
        return run.rollout(agent, task, key, num_episodes=5).reward.sum(axis=0).mean()

    for direction in set(directions):
        task = tasks[directions.index(direction)]
        score = float(returns(task, jax.random.key(0)))
        assert score > 50, (direction, score)  # 181 was measured over seeds and directions
