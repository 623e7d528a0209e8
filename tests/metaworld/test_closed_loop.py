"""Ours against the package, step for step: its actions replayed through ours, from the same state, in float64.

`compare` gives the largest differences of one task."""

import jax
import jax.numpy as jnp
import numpy as np
import package_runs
import pytest

pytest.importorskip("metaworld.sawyer_xyz_env")  # this folder has the package's name

from metarl_jax.envs.metaworld import TASKS, ml1, ml10

GOALS, STEPS = 2, 500
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def everywhere_x64():
    """Double precision on all threads: the host is called on one that does not see `jax.enable_x64` of this one."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def replay(envs, actions, vectors, states):
    """Observations, rewards and successes [lanes, T, ...] of both rewards, and what a reset gives."""

    def lane(actions, vector, physics):
        task = envs[0].params(vector)
        first, state = envs[0].reset_env(jax.random.key(0), task)

        def step(carry, action):
            outs = [
                env.step_env(jax.random.key(0), state, action, task)
                for env, state in zip(envs, carry, strict=True)
            ]  # fmt: skip
            seen = [(obs, reward, info["success"], info["unstable"]) for obs, _, reward, _, info in outs]
            return tuple(out[1].replace(reports=state.reports) for out in outs), seen  # of one step at a time

        began = state.replace(physics=physics)
        return (first, state.physics, task), jax.lax.scan(step, (began, began), actions)[1]

    return jax.jit(jax.vmap(lane))(actions, vectors, states)


def compare(name):
    """Largest differences, by name, over random and expert actions."""
    envs = [ml1(name, reward=reward)[0] for reward in ("v2", "v1")]
    model = envs[0]._physics[0].model
    found = {}
    for expert in (False, True):
        runs = [
            package_runs.run(name, TASKS[name], vector, model.state_bits, expert=expert, seed=k, steps=STEPS)
            for k, vector in enumerate(package_runs.vectors(TASKS[name], GOALS, seed=17))
        ]
        stacked = package_runs.Run(*(np.stack(x) for x in zip(*runs, strict=True)))
        (first, physics, _), ours = replay(envs, stacked.actions, stacked.vector, jnp.asarray(stacked.state))
        (obs, v2, v2_success, unstable), (_, v1, v1_success, _) = ours
        who = "expert" if expert else "random"
        cold = np.array(physics - stacked.state)
        warm = np.array(model.part(cold, "WARMSTART"))
        cold[..., model._slices["WARMSTART"]] = 0
        found |= {
            f"{who} reset state": np.abs(cold).max(),
            f"{who} reset warm start": np.abs(warm).max(),
            f"{who} reset observation": np.abs(first - stacked.first).max(),
            f"{who} observation": np.abs(obs - stacked.observations).max(),
            f"{who} v2": np.abs(v2 - stacked.v2).max(),
            f"{who} v1": np.abs(v1 - stacked.v1).max(),
            f"{who} v2 float64": np.abs(v2 - stacked.v2_float64).max(),
            f"{who} v1 float64": np.abs(v1 - stacked.v1_float64).max(),
            f"{who} success": int((v2_success != stacked.v2_success).sum() + (v1_success != stacked.v1_success).sum()),
            f"{who} unstable": int(unstable.sum()),
            f"{who} steps of success": int(stacked.v2_success.sum()),
        }
    return found


@pytest.mark.parametrize("name", TASKS)
def test_agrees_with_the_package(name, everywhere_x64):
    found = compare(name)
    for who in ("random", "expert"):
        assert found[f"{who} reset state"] < 1e-15
        assert found[f"{who} reset observation"] < 1e-12
        assert found[f"{who} observation"] < 1e-9
        assert found[f"{who} v2"] < 1e-6
        assert found[f"{who} v1"] < 1e-6
        # Given a float32 action, the package computes some of its rewards in float32.
        assert found[f"{who} v2 float64"] < 1e-12
        assert found[f"{who} v1 float64"] < 1e-10  # of up to 3,000
        assert found[f"{who} success"] == 0
        assert found[f"{who} unstable"] == 0
    assert found["expert steps of success"] > 0


def test_ml10_agrees_with_the_package(everywhere_x64):
    """All fifteen models at once, each with its own lane."""
    env, _ = ml10(num_goals=1)
    bits = env._physics[0].model.state_bits
    runs, states, tasks = [], [], []
    for kind, (name, task) in enumerate(zip(env.names, env.tasks, strict=True)):
        vector = package_runs.vectors(task, 1, seed=5)[0]
        runs.append(package_runs.run(name, task, vector, bits, expert=True, steps=120))
        states.append(np.pad(runs[-1].state, (0, env._size - len(runs[-1].state))))
        tasks.append(env.params(vector, kind))

    def lane(task, physics, actions):
        first, state = env.reset_env(jax.random.key(0), task)

        def step(state, action):
            obs, after, reward, _, info = env.step_env(jax.random.key(0), state, action, task)
            return after.replace(reports=state.reports), (obs, reward, info["success"])

        return first, jax.lax.scan(step, state.replace(physics=physics), actions)[1]

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *tasks)
    actions = np.stack([run.actions for run in runs])
    first, (obs, reward, success) = jax.jit(jax.vmap(lane))(stacked, np.stack(states), actions)
    np.testing.assert_allclose(first, [run.first for run in runs], atol=1e-12)
    np.testing.assert_allclose(obs, [run.observations for run in runs], atol=1e-9)
    np.testing.assert_allclose(reward, [run.v2_float64 for run in runs], atol=1e-12)
    np.testing.assert_array_equal(success, [run.v2_success for run in runs])
    assert success.any()
