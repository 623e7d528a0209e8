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
    params = jax.jit(policy.init)(jax.random.key(0))
    observation, action = np.random.default_rng(0).normal(size=(2, 7, 5, 2)).astype(np.float32)

    @jax.jit
    def log_prob_and_entropy(params, observation, action):
        distribution = policy.apply(params, observation)
        return distribution.log_prob(action), distribution.entropy()

    got, entropy = log_prob_and_entropy(params, observation, action)
    layer = jax.tree.map(np.asarray, params["actor"]["MLP_0"]["output"])
    mean = observation @ layer["kernel"] + layer["bias"]
    expected = np.sum(-0.5 * ((action - mean) / 0.5) ** 2 - np.log(0.5) - 0.5 * np.log(2 * np.pi), axis=-1)
    assert got.shape == (7, 5)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(entropy, np.full((7, 5), 2 * np.log(0.5 * np.sqrt(2 * np.pi * np.e))), rtol=1e-5)


def test_gaussian_samples_have_its_moments(point_env):
    policy = mlp_policy(point_env, hidden=(4,), init_std=0.3)

    @jax.jit
    def drawn():
        distribution = policy.apply(policy.init(jax.random.key(0)), jnp.ones((20_000, 2)))
        sample, log_prob = distribution.sample_and_log_prob(seed=jax.random.key(1))
        return distribution.mean()[0], sample, log_prob, distribution.log_prob(sample)

    mean, sample, log_prob, again = (np.asarray(x) for x in drawn())
    np.testing.assert_allclose(sample.mean(axis=0), mean, atol=0.01)
    np.testing.assert_allclose(sample.std(axis=0), 0.3, rtol=0.03)
    np.testing.assert_allclose(log_prob, again, rtol=1e-4, atol=1e-5)


def test_gaussian_std_has_a_floor(point_env):
    policy = mlp_policy(point_env, hidden=(), min_std=0.1)
    params = jax.jit(policy.init)(jax.random.key(0))
    params = {"actor": {**params["actor"], "log_std": np.array([-50.0, 0.0])}}
    std = jax.jit(lambda params: policy.apply(params, jnp.zeros(2)).stddev())(params)
    np.testing.assert_allclose(std, [0.1, 1.0], rtol=1e-6)


def test_categorical_log_prob(bandit_env):
    policy = mlp_policy(bandit_env, hidden=(4,), output_gain=1.0)

    @jax.jit
    def every_log_prob():
        distribution = policy.apply(policy.init(jax.random.key(0)), jnp.ones((6, 2, 1)))
        return jnp.stack([distribution.log_prob(jnp.full((6, 2), a)) for a in range(3)])

    log_probs = every_log_prob()
    assert log_probs.shape == (3, 6, 2)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=0), 1.0, rtol=1e-5)


def test_new_policies_act_almost_uniformly(bandit_env, point_env):
    discrete, continuous = mlp_policy(bandit_env), mlp_policy(point_env)
    key = jax.random.key(0)
    probabilities = jax.jit(lambda: discrete.apply(discrete.init(key), jnp.ones(1)).probs)()
    np.testing.assert_allclose(probabilities, 1 / 3, atol=0.02)
    mean = jax.jit(lambda: continuous.apply(continuous.init(key), jnp.ones(2)).mean())()
    np.testing.assert_allclose(mean, 0.0, atol=0.05)


@pytest.mark.parametrize("lead", [(), (3,), (4, 3)])
def test_leading_axes_are_a_batch(point_env, lead):
    policy = mlp_policy(point_env, hidden=(4,), critic=True)
    observation = np.random.default_rng(0).normal(size=(*lead, 2))

    @jax.jit
    def act(observation):
        params = policy.init(jax.random.key(0))
        action = policy.apply(params, observation).sample(seed=jax.random.key(2))
        return action, policy.value(params, observation), policy.value(params, observation.reshape(-1, 2)[0])

    action, value, alone = act(observation)
    assert action.shape == (*lead, 2) and value.shape == lead
    np.testing.assert_allclose(np.ravel(value)[0], alone, rtol=1e-5)


def test_actor_and_critic_share_nothing(point_env):
    policy = mlp_policy(point_env, hidden=(4,), critic=True)

    @jax.jit
    def slopes():
        params, observation = policy.init(jax.random.key(0)), jnp.ones((3, 2))
        by_value = jax.grad(lambda p: policy.value(p, observation).sum())(params)
        return by_value, jax.grad(lambda p: policy.apply(p, observation).log_prob(jnp.ones((3, 2))).sum())(params)

    by_value, by_action = jax.tree.map(np.asarray, slopes())
    assert all((x == 0).all() for x in jax.tree.leaves((by_value["actor"], by_action["critic"])))
    assert all((x != 0).any() for x in jax.tree.leaves((by_value["critic"], by_action["actor"])))
    assert mlp_policy(point_env).value is None


def test_integer_observations_are_cast(bandit_env):
    policy = mlp_policy(bandit_env, hidden=(4,))

    def log_prob(key):
        return policy.apply(policy.init(key), jnp.ones((2, 1), int)).log_prob(jnp.zeros(2, int))

    assert jax.eval_shape(log_prob, jax.random.key(0)).dtype == jnp.float32


def test_unknown_activation_is_named(point_env):
    with pytest.raises(ValueError, match="activation = 'tahn'"):
        mlp_policy(point_env, activation="tahn").init(jax.random.key(0))


def test_kernels_are_orthogonal_with_their_gains_and_all_different():
    env, _ = mrl.make("PointNavigation-v0")
    policy = mrl.networks.mlp_policy(env, (16, 16), critic=True, output_gain=0.01)
    params = jax.tree.map(np.asarray, jax.jit(policy.init)(jax.random.key(0)))
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
    lowered = jax.jit(jax.vmap(init)).lower(keys)
    calls = [line for line in lowered.as_text().splitlines() if "geqrf" in line]
    operands = [re.search(r": \(tensor<([0-9x]+)xf\d+>", line) for line in calls]
    sizes = [operand[1].split("x") for operand in operands if operand]
    assert len(sizes) == len(calls) > 0 and all(len(size) == 2 for size in sizes), calls
    alone = [jax.jit(init)(key) for key in keys]
    together = jax.tree.map(np.asarray, lowered.compile()(keys))
    for i in range(3):
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[i], together), alone[i], rtol=1e-6)  # noqa: B023
