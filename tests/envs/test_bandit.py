import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs import make
from metarl_jax.envs.bandit import bernoulli_bandit, gaussian_bandit

KEYS = jax.random.split(jax.random.key(0), 4000)


def pulls(env, params, arm):
    state = env.reset_env(jax.random.key(0), params)[1]
    return np.asarray(jax.jit(jax.vmap(lambda key: env.step_env(key, state, arm, params)[2]))(KEYS))


def test_bernoulli_pulls():
    env, _ = make("BernoulliBandit-v0", num_arms=3)
    params = env.params(jnp.asarray([0.1, 0.5, 0.9]))
    for arm, p in enumerate([0.1, 0.5, 0.9]):
        rewards = pulls(env, params, arm)
        assert set(np.unique(rewards)) == {0.0, 1.0} and rewards.mean() == pytest.approx(p, abs=0.03)


def test_gaussian_pulls():
    env, _ = make("GaussianBandit-v0", num_arms=2, sigma=0.5)
    rewards = pulls(env, env.params(jnp.asarray([0.2, 0.8])), 1)
    assert rewards.mean() == pytest.approx(0.8, abs=0.03) and rewards.std() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("factory, field", [(bernoulli_bandit, "probs"), (gaussian_bandit, "means")])
@pytest.mark.parametrize("num_arms, horizon", [(5, 1), (10, 4)])
def test_tasks_and_oracle(factory, field, num_arms, horizon):
    env, tasks = factory(num_arms=num_arms, horizon=horizon)
    params = jax.jit(jax.vmap(tasks.sample))(KEYS)
    values = np.asarray(getattr(params, field))
    assert values.shape == (4000, num_arms) and env.num_actions == num_arms and tasks.horizon == horizon
    assert values.min() >= 0 and values.max() <= 1 and values.mean() == pytest.approx(0.5, abs=0.01)
    oracle = np.asarray(jax.vmap(tasks.oracle)(params))
    np.testing.assert_allclose(oracle, horizon * values.max(1), rtol=1e-6)
    assert oracle.mean() == pytest.approx(horizon * num_arms / (num_arms + 1), rel=0.01)


@pytest.mark.parametrize("name", ["BernoulliBandit-v0", "GaussianBandit-v0"])
def test_an_episode_is_horizon_pulls_and_then_terminates(name):
    env, tasks = make(name, horizon=3)
    params = tasks.sample(jax.random.key(1))
    obs, state = env.reset(jax.random.key(0), params)
    assert obs.shape == env.observation_space(params).shape == (1,)
    ends = []
    for t in range(6):
        obs, state, _, terminated, truncated, _ = env.step(jax.random.key(t), state, 0, params)
        np.testing.assert_array_equal(obs, 0)
        ends.append(bool(terminated))
        assert not truncated
    assert ends == [False, False, True, False, False, True]
