"""Distributions of several actions at once, against sums over all of them."""

import itertools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from jax.test_util import check_grads

from metarl_jax.envs.spaces import Joint, MultiDiscrete
from metarl_jax.networks.actions import Product, actions_of, uniform
from metarl_jax.networks.gaussian import Squashed


class Acts:
    """Only an action space."""

    name, default_params = "Acts", None

    def __init__(self, space):
        self.space = space

    def action_space(self, params=None):
        return self.space


MIXED = Joint([spaces.Box(-2.0, 2.0, (2,)), spaces.Discrete(3), MultiDiscrete([2, 2])])


def test_several_discrete_numbers_against_enumeration(x64):
    """Probabilities of all actions sum to 1; entropy and KL are the sums that they stand for."""
    actions = actions_of(Acts(MultiDiscrete([2, 3, 2])))
    assert actions.num_outputs == 7 and actions.num_stds == 0
    every = np.array(list(itertools.product(range(2), range(3), range(2))))

    @jax.jit
    def found(logits):
        p, q = (actions.distribution(x, None) for x in logits)
        log_probs = [jax.vmap(d.log_prob)(every) for d in (p, q)]
        samples = jax.vmap(lambda key: p.sample(seed=key))(jax.random.split(jax.random.key(2), 20_000))
        return log_probs, p.entropy(), p.kl_divergence(q), samples

    (log_p, log_q), entropy, kl, samples = jax.tree.map(np.asarray, found(np.random.default_rng(0).normal(size=(2, 7))))
    np.testing.assert_allclose(np.exp(log_p).sum(), 1.0, rtol=1e-12)
    np.testing.assert_allclose(entropy, -(np.exp(log_p) * log_p).sum(), rtol=1e-12)
    np.testing.assert_allclose(kl, (np.exp(log_p) * (log_p - log_q)).sum(), rtol=1e-12)
    assert jnp.issubdtype(samples.dtype, jnp.integer) and samples.shape == (20_000, 3)
    index = samples @ np.array([6, 2, 1])
    seen = np.bincount(index, minlength=12) / 20_000
    np.testing.assert_allclose(seen, np.exp(log_p), atol=4 * np.sqrt(0.25 / 20_000))


@pytest.mark.parametrize("squash", [False, True])
def test_a_mixed_action_is_the_product_of_its_parts(x64, squash):
    actions = actions_of(Acts(MIXED), squash=squash)
    assert actions.num_outputs == 2 + 3 + 2 + 2 and actions.num_stds == 2
    out, log_std = np.random.default_rng(0).normal(size=(5, 9)), np.array([-1.0, 0.5])
    normal = actions.distribution(jnp.asarray(out), jnp.asarray(log_std)).parts[0]
    assert isinstance(normal, Squashed) == squash

    @jax.jit
    def drawn(key):
        joint = actions.distribution(jnp.asarray(out), jnp.asarray(log_std))
        action, log_prob = joint.sample_and_log_prob(seed=key)
        return action, log_prob, joint.log_prob(action), joint.parts[0].log_prob(action[:, :2])

    action, log_prob, again, expected = map(np.array, drawn(jax.random.key(1)))
    assert action.shape == (5, 5) and jnp.issubdtype(action.dtype, jnp.floating)
    for start, size, column in ((2, 3, 2), (5, 2, 3), (7, 2, 4)):
        logits = out[:, start : start + size]
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected += log_probs[np.arange(5), action[:, column].astype(int)]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-12)
    np.testing.assert_allclose(again, log_prob, rtol=1e-12)
    if squash:
        assert (np.abs(action[:, :2]) <= 2).all()

    @jax.jit
    def of_outputs(x, std):
        joint, d = (actions.distribution(*y) for y in ((jnp.asarray(out), jnp.asarray(log_std)), (x, std)))
        return d.log_prob(action).sum() + d.entropy().sum() + d.kl_divergence(joint).sum()

    grads = jax.jit(jax.grad(of_outputs, argnums=(0, 1)))(out + 0.3, log_std + 0.1)
    assert all((np.atleast_2d(x) != 0).any(axis=0).all() for x in grads)
    check_grads(of_outputs, (out + 0.3 * np.sin(out), log_std + 0.1), order=2, modes=["rev"], rtol=1e-5)


def test_one_action_keeps_its_distribution():
    assert isinstance(actions_of(Acts(spaces.Discrete(3))).distribution(jnp.zeros(3), None), distrax.Categorical)
    box = actions_of(Acts(spaces.Box(-1.0, 1.0, (2,))))
    assert isinstance(box.distribution(jnp.zeros(2), jnp.zeros(2)), distrax.Independent) and box.num_stds == 2
    assert isinstance(actions_of(Acts(MultiDiscrete([3]))).distribution(jnp.zeros(3), None), Product)


def test_uniform_actions_are_those_of_the_space():
    def drawn(space):
        return jax.jit(lambda key: uniform(Acts(space))((4000,)).sample(seed=key))(jax.random.key(0))

    action = drawn(MIXED)
    assert action.shape == (4000, 5) and np.all(jax.jit(jax.vmap(MIXED.contains))(action))
    np.testing.assert_allclose(np.mean(action, axis=0), [0, 0, 1, 0.5, 0.5], atol=0.1)
    wide = drawn(spaces.Box(-1.0, np.array([[1.0], [3.0]]), (2, 1)))
    assert wide.shape == (4000, 2, 1)
    np.testing.assert_allclose(np.mean(wide, axis=0)[:, 0], [0, 1], atol=0.1)


@pytest.mark.parametrize(
    ("space", "squash", "message"),
    [
        (MultiDiscrete([2, 2]), True, "squash = True: needs box actions, and those of Acts are discrete"),
        (Joint([spaces.Discrete(2), spaces.Box(-jnp.inf, jnp.inf, (1,))]), True, "squash = True: needs finite bounds"),
        (spaces.Box(-1.0, 1.0, (2, 2)), False, r"action space of shape \(2, 2\): a Gaussian policy needs one"),
        (MultiDiscrete([[2, 2]]), False, r"action space of shape \(1, 2\): several discrete numbers need one axis"),
    ],
)
def test_actions_that_no_head_draws_are_one_line(space, squash, message):
    with pytest.raises(ValueError, match=message):
        actions_of(Acts(space), squash=squash)
