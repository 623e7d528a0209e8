"""The adapter of Craftax-Classic beside the package: the same keys and actions give the same episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("craftax", reason="needs metarl_jax[craftax]; make test-robots has it")

from craftax.craftax_env import make_craftax_env_from_name  # noqa: E402

from metarl_jax.envs import make  # noqa: E402
from metarl_jax.envs.trial import trials  # noqa: E402

KEY = jax.random.key(0)
WORLDS, STEPS = 3, 40


def test_episodes_are_those_of_the_package():
    env, tasks = make("CraftaxClassic-v0", num_worlds=WORLDS, horizon=30)
    theirs = make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=False)
    static = theirs.default_params.replace(max_timesteps=30)
    done = jax.random.randint(jax.random.key(1), (WORLDS, STEPS), 0, env.num_actions)

    def ours(task, done):
        def one(state, now):
            key, action = now
            obs, state, reward, terminated, _ = env.step_env(key, state, action, task)
            return state, (obs, reward, terminated | env.is_truncated(state, task))

        obs, state = env.reset_env(jax.random.key(9), task)
        return obs, jax.lax.scan(one, state, (jax.random.split(KEY, STEPS), done))[1]

    def reference(world, done):
        def one(state, now):
            key, action = now
            obs, state, reward, done, _ = theirs.step_env(key, state, action, static)
            return state, (obs, reward, done)

        obs, state = theirs.reset_env(world, static)
        return obs, jax.lax.scan(one, state, (jax.random.split(KEY, STEPS), done))[1]

    first, (seen, reward, over) = jax.jit(jax.vmap(ours))(tasks.members, done)
    start, after = jax.jit(jax.vmap(reference))(jax.vmap(jax.random.key)(jnp.arange(WORLDS)), done)
    np.testing.assert_array_equal(first, start)
    for x, y in zip((seen, reward, over), after, strict=True):
        np.testing.assert_array_equal(x, y)
    assert first.shape == (WORLDS, *env.observation_space().shape) and (np.asarray(reward) != 0).any()
    assert over[:, 29:].all() and not over[:, 0].any()
    assert len(np.unique(np.asarray(first), axis=0)) == WORLDS


def test_episodes_of_a_trial_begin_in_the_same_world():
    env, tasks = make("CraftaxClassic-v0", horizon=2)
    trial = trials(env, tasks, 2)
    task = tasks.sample(KEY)

    def run(key):
        obs, state = trial.reset_env(key, task)
        after = jax.lax.scan(lambda s, k: trial.step_env(k, s, 0, task)[1::-1], state, jax.random.split(key, 2))[1]
        return obs, after[-1]

    first, second = jax.jit(run)(KEY)
    np.testing.assert_array_equal(first[:1345], second[:1345])
    assert first[-1] == 0 and second[-1] == 1  # the episode before it ended


def test_double_precision_and_what_cannot_be(x64):
    env, tasks = make("CraftaxClassic-v0")
    task = tasks.sample(KEY)
    first = jax.eval_shape(env.reset_env, KEY, task)
    after = jax.eval_shape(env.step_env, KEY, first[1], 0, task)
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype), (first, after[:2]))
    assert kinds[0] == kinds[1] and after[2].dtype == jnp.float64

    def some(key):
        obs, state = env.reset_env(key, task)
        return jax.lax.scan(lambda s, k: env.step_env(k, s, 5, task)[1:3], state, jax.random.split(key, 3))[1]

    assert np.isfinite(jax.jit(jax.vmap(some))(jax.random.split(KEY, 2))).all()
    assert tasks.members is None and tasks.horizon == 10_000
    for option in ("num_worlds", "horizon"):
        with pytest.raises(ValueError, match=f"{option} must be an integer of at least 1, got 0"):
            make("CraftaxClassic-v0", **{option: 0})
