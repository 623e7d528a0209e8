import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs import make


@pytest.fixture(scope="module")
def sampled():
    _, tasks = make("TabularMDP-v0")

    def sample(key):
        params = tasks.sample(key)
        return params, tasks.oracle(params)

    return jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(0), 4000))


def test_mean_optimal_return(sampled):
    assert float(sampled[1].mean()) == pytest.approx(21.83, abs=0.25)


def test_oracle_agrees_with_enumeration_of_policies():
    """All time-dependent deterministic policies of a tiny MDP: 2 states, 2 actions, 3 steps."""
    _, tasks = make("TabularMDP-v0", num_states=2, num_actions=2, horizon=3)
    sample = jax.jit(tasks.sample)
    for seed in range(3):
        params = sample(jax.random.key(seed))
        transitions, rewards = np.asarray(params.transitions), np.asarray(params.reward_mean)
        best = -np.inf
        for plan in itertools.product(range(2), repeat=6):
            occupancy, total = np.asarray([1.0, 0.0]), 0.0
            for action in np.reshape(plan, (3, 2)):
                total += sum(occupancy[s] * rewards[s, action[s]] for s in range(2))
                occupancy = sum(occupancy[s] * transitions[s, action[s]] for s in range(2))
            best = max(best, total)
        assert float(tasks.oracle(params)) == pytest.approx(best, rel=1e-5)


def test_sampled_parameters(sampled):
    params = jax.tree.map(np.asarray, sampled[0])
    assert params.transitions.shape == (4000, 10, 5, 10) and params.reward_mean.shape == (4000, 10, 5)
    np.testing.assert_allclose(params.transitions.sum(-1), 1, atol=1e-5)
    assert float(params.transitions.var()) == pytest.approx(0.09 / 11, rel=0.05)  # Dirichlet(1): p (1 - p) / (S + 1)
    assert float(params.reward_mean.mean()) == pytest.approx(1, abs=0.03)
    assert float(params.reward_mean.std()) == pytest.approx(1, abs=0.03)


def test_steps_follow_the_parameters():
    env, _ = make("TabularMDP-v0", num_states=3, num_actions=2, reward_std=0.5)
    row = jnp.asarray([0.2, 0.0, 0.8])
    params = env.params(jnp.broadcast_to(row, (3, 2, 3)), jnp.full((3, 2), 2.0))
    obs, state = env.reset_env(jax.random.key(0), params)
    np.testing.assert_array_equal(obs, [1, 0, 0])
    step = jax.jit(jax.vmap(lambda key: env.step_env(key, state, 1, params)))
    obs, _, reward, _, _ = step(jax.random.split(jax.random.key(1), 5000))
    np.testing.assert_allclose(obs.mean(0), row, atol=0.02)
    assert float(obs[:, 1].sum()) == 0  # impossible states are never visited
    assert float(reward.mean()) == pytest.approx(2, abs=0.03) and float(reward.std()) == pytest.approx(0.5, abs=0.02)


def test_episodes_terminate_at_the_horizon_and_restart_in_state_0():
    env, tasks = make("TabularMDP-v0", horizon=4)
    params = tasks.sample(jax.random.key(0))
    obs, state = env.reset(jax.random.key(0), params)
    for t in range(8):
        obs, state, _, terminated, truncated, _ = env.step(jax.random.key(t), state, t % 5, params)
        assert bool(terminated) == (t % 4 == 3) and not truncated
    np.testing.assert_array_equal(obs, np.eye(10)[0])
