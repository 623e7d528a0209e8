"""The Discounting Chain: exact values against the returns of its episodes, and what its claims ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments.bsuite.discounting_chain import DiscountingChain

from metarl_jax.networks import mlp_policy
from metarl_jax.reproductions import discounting_chain
from metarl_jax.rl import returns
from metarl_jax.rl.rollout import rollout


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_the_chains_values_are_the_returns_of_its_episodes(gamma):
    """After the first step nothing is random, so V is the discounted return; before it, V is its mean."""
    env = DiscountingChain(mapping_seed=discounting_chain.DELAYED)
    task = env.default_params
    policy = mlp_policy(env, (), output_gain=1.0)
    params = policy.init(jax.random.key(0))
    value = jax.jit(discounting_chain.true_value(env, task, policy, gamma))
    act = jax.jit(lambda p, k: rollout(env, policy.apply, p, k, task, num_steps=100, num_envs=64)[0])
    data = act(params, jax.random.key(1))
    never = jnp.zeros(data.reward.shape, bool)
    want = returns.discounted_returns(data.reward, never, gamma)
    found = value(params, data.observation)
    np.testing.assert_allclose(found[1:], want[1:], atol=1e-5)
    chances = policy.apply(params, data.observation[0, 0]).probs
    first = {int(a): float(r) for a, r in zip(data.action[0], want[0], strict=True)}
    assert set(first) == set(range(5)), "every action was tried"
    np.testing.assert_allclose(found[0], sum(float(chances[a]) * r for a, r in first.items()), rtol=1e-4)
    np.testing.assert_allclose(value(params, data.next_observation[-1]), 0, atol=1e-6)


def test_the_chains_claims_need_the_whole_interval():
    number = discounting_chain.LOW
    assert discounting_chain.claim("x", np.array([0.9, 0.901, 0.905]), number).passed
    found = discounting_chain.claim("x", np.array([0.9, 0.9, 0.912]), number)
    assert found.ours < number.high < found.interval[1] and not found.passed
