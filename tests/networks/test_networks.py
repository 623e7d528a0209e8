"""Policies: probabilities against formulas, shapes, and what is shared between actor and critic (nothing)."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.networks import mlp_policy


@pytest.fixture(scope="module")
def point_env():
    return mrl.make("PointNavigation-v0")[0]


@pytest.fixture(scope="module")
def bandit_env():
    return mrl.make("BernoulliBandit-v0", num_arms=3)[0]


def test_gaussian_log_prob_sums_over_action_dimensions(point_env):
    policy = mlp_policy(point_env, hidden=(), init_std=0.5)
    params = policy.init(jax.random.key(0))
    observation = jax.random.normal(jax.random.key(1), (7, 5, 2))
    distribution = policy.apply(params, observation)
    action = jax.random.normal(jax.random.key(2), (7, 5, 2))

    layer = params["actor"]["MLP_0"]["output"]
    mean = np.asarray(observation @ layer["kernel"] + layer["bias"])
    expected = np.sum(-0.5 * ((action - mean) / 0.5) ** 2 - np.log(0.5) - 0.5 * np.log(2 * np.pi), axis=-1)
    got = distribution.log_prob(action)
    assert got.shape == (7, 5)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(
        distribution.entropy(), np.full((7, 5), 2 * np.log(0.5 * np.sqrt(2 * np.pi * np.e))), rtol=1e-5
    )


def test_gaussian_samples_have_its_moments(point_env):
    policy = mlp_policy(point_env, hidden=(4,), init_std=0.3)
    distribution = policy.apply(policy.init(jax.random.key(0)), jnp.ones((20_000, 2)))
    sample, log_prob = distribution.sample_and_log_prob(seed=jax.random.key(1))
    np.testing.assert_allclose(sample.mean(axis=0), distribution.mean()[0], atol=0.01)
    np.testing.assert_allclose(sample.std(axis=0), 0.3, rtol=0.03)
    np.testing.assert_allclose(log_prob, distribution.log_prob(sample), rtol=1e-4, atol=1e-5)


def test_gaussian_std_has_a_floor(point_env):
    policy = mlp_policy(point_env, hidden=(), min_std=0.1)
    params = policy.init(jax.random.key(0))
    params = {"actor": {**params["actor"], "log_std": jnp.array([-50.0, 0.0])}}
    np.testing.assert_allclose(policy.apply(params, jnp.zeros(2)).stddev(), [0.1, 1.0], rtol=1e-6)


def test_categorical_log_prob(bandit_env):
    policy = mlp_policy(bandit_env, hidden=(4,), output_gain=1.0)
    params = policy.init(jax.random.key(0))
    distribution = policy.apply(params, jnp.ones((6, 2, 1)))
    log_probs = jnp.stack([distribution.log_prob(jnp.full((6, 2), a)) for a in range(3)])
    assert log_probs.shape == (3, 6, 2)
    np.testing.assert_allclose(jnp.exp(log_probs).sum(axis=0), 1.0, rtol=1e-5)


def test_new_policies_act_almost_uniformly(bandit_env, point_env):
    policy = mlp_policy(bandit_env)
    probabilities = policy.apply(policy.init(jax.random.key(0)), jnp.ones(1)).probs
    np.testing.assert_allclose(probabilities, 1 / 3, atol=0.02)
    policy = mlp_policy(point_env)
    np.testing.assert_allclose(policy.apply(policy.init(jax.random.key(0)), jnp.ones(2)).mean(), 0.0, atol=0.05)


@pytest.mark.parametrize("lead", [(), (3,), (4, 3)])
def test_leading_axes_are_a_batch(point_env, lead):
    policy = mlp_policy(point_env, hidden=(4,), critic=True)
    params = policy.init(jax.random.key(0))
    observation = jax.random.normal(jax.random.key(1), (*lead, 2))
    assert policy.apply(params, observation).sample(seed=jax.random.key(2)).shape == (*lead, 2)
    assert policy.value(params, observation).shape == lead
    one = observation.reshape(-1, 2)[0]
    np.testing.assert_allclose(policy.value(params, observation).ravel()[0], policy.value(params, one), rtol=1e-5)


def test_actor_and_critic_share_nothing(point_env):
    policy = mlp_policy(point_env, hidden=(4,), critic=True)
    params = policy.init(jax.random.key(0))
    observation = jnp.ones((3, 2))
    by_value = jax.grad(lambda p: policy.value(p, observation).sum())(params)
    by_action = jax.grad(lambda p: policy.apply(p, observation).log_prob(jnp.ones((3, 2))).sum())(params)
    assert all(bool(jnp.all(x == 0)) for x in jax.tree.leaves((by_value["actor"], by_action["critic"])))
    assert all(bool(jnp.any(x != 0)) for x in jax.tree.leaves((by_value["critic"], by_action["actor"])))
    assert mlp_policy(point_env).value is None


def test_integer_observations_are_cast(bandit_env):
    policy = mlp_policy(bandit_env, hidden=(4,))
    params = policy.init(jax.random.key(0))
    assert policy.apply(params, jnp.ones((2, 1), int)).log_prob(jnp.zeros(2, int)).dtype == jnp.float32


def test_unknown_activation_is_named(point_env):
    with pytest.raises(ValueError, match="activation = 'tahn'"):
        mlp_policy(point_env, activation="tahn").init(jax.random.key(0))


def test_kernels_are_orthogonal_with_their_gains_and_all_different():
    env, _ = mrl.make("PointNavigation-v0")
    params = mrl.networks.mlp_policy(env, (16, 16), critic=True, output_gain=0.01).init(jax.random.key(0))
    gains = {"actor": 0.01, "critic": 1.0}
    kernels = [(path, x) for path, x in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "kernel"]
    assert len(kernels) == 6
    for path, kernel in kernels:
        gain = gains[path[0].key] if path[-2].key == "output" else 2**0.5
        gram = kernel.T @ kernel if kernel.shape[0] >= kernel.shape[1] else kernel @ kernel.T
        np.testing.assert_allclose(gram, gain**2 * np.eye(min(kernel.shape)), atol=1e-5)
    square = [x / np.abs(x).max() for _, x in kernels if x.shape == (16, 16)]
    assert np.abs(square[0] - square[1]).max() > 0.1


def test_on_a_cpu_no_batch_of_matrices_is_decomposed_at_once():
    """Within a loop such batches have hung for ever on two cores (jaxlib 0.10.2)."""
    env, _ = mrl.make("PointNavigation-v0")
    keys = jax.random.split(jax.random.key(0), 3)

    init = mlp_policy(env, hidden=(4, 4), critic=True).init
    calls = [line for line in jax.jit(jax.vmap(init)).lower(keys).as_text().splitlines() if "geqrf" in line]
    operands = [re.search(r": \(tensor<([0-9x]+)xf\d+>", line) for line in calls]
    sizes = [operand[1].split("x") for operand in operands if operand]
    assert len(sizes) == len(calls) > 0 and all(len(size) == 2 for size in sizes), calls
    alone = [init(key) for key in keys]
    together = jax.jit(jax.vmap(init))(keys)
    for i in range(3):
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[i], together), alone[i], rtol=1e-6)  # noqa: B023
