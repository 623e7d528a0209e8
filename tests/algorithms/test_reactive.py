"""Hyperparameters that a network makes of what was lately earned, and the experiment that asks for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from probes import STREAM, Probe, probe
from problems import flat, random_directions, relative_error

import metarl_jax as mrl
from metarl_jax.meta.hyperparameters import Tuned, reactive
from metarl_jax.networks import mlp_policy
from metarl_jax.reproductions import two_colours

TUNED = {"entropy_coef": Tuned(0.05, high=0.5), "gamma": Tuned(0.9), "lr": Tuned(0.1, high=None)}
SIZES = {"num_envs": 2, "num_steps": 8, "recent": 3, "meta_hidden": (4,), "outer_entropy_coef": 0.02}


def make(**options):
    policy = mlp_policy(Probe(), (3,), critic=True, output_gain=1.0)
    return mrl.meta_gradient_rl(Probe(), probe(**STREAM), policy, TUNED, **{**SIZES, **options})


def lived(algo, segments=3):
    """(meta-parameters off their start, where all of them matter; segment; state before, state after it)."""
    after = jax.jit(algo.init)(jax.random.key(0))
    meta = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(5), x.shape), after.meta)
    before, segment = after, None
    for i in range(segments):
        before = dataclasses.replace(after, meta=meta)
        segment, after, _ = jax.jit(algo.collect)(before, jax.random.key(1 + i))
    return meta, segment, before, after


def test_they_start_at_their_start_whatever_was_earned():
    schedule = reactive(TUNED, 3, (4,))
    params = schedule.init(jax.random.key(0))
    for recent in (jnp.zeros(3), jnp.array([-1.0, 0.5, 30.0])):
        h = schedule.at(params, recent)
        for name, tuned in TUNED.items():
            assert float(h[name]) == pytest.approx(tuned.start, rel=1e-5)
    moved = jax.tree.map(lambda x: x + 0.5, params)
    a, b = schedule.at(moved, jnp.zeros(3)), schedule.at(moved, jnp.ones(3))
    assert all(abs(float(a[name] - b[name])) > 1e-3 for name in TUNED)


@pytest.mark.parametrize("objective", ["gradient", "bootstrapped"])
def test_meta_gradient_of_the_network(x64, objective):
    """K = 3 updates, each with hyperparameters of its own, against central differences on stored data."""
    algo = make(objective=objective, num_inner_steps=3, num_target_steps=2)
    meta, segment, _, _ = lived(algo)
    assert np.ptp(segment.recent[:, -1]) > 0 and segment.recent.shape == (3, 3)
    x, unravel = ravel_pytree(meta)
    value_and_grad = jax.jit(jax.value_and_grad(lambda x: algo.meta_loss(unravel(x), segment)))
    directions, _ = random_directions(jax.random.key(7), meta, 8)
    grads = value_and_grad(x)[1]
    want = [(value_and_grad(x + 1e-6 * d)[0] - value_and_grad(x - 1e-6 * d)[0]) / 2e-6 for d in directions]
    scale = float(jnp.linalg.norm(grads))
    assert scale > 1e-6
    np.testing.assert_allclose(directions @ grads, want, rtol=1e-5, atol=1e-6 * scale)
    moved = jax.tree.map(lambda g: float(jnp.abs(g).max()), unravel(grads))
    assert min(jax.tree.leaves(moved)) > 0, f"every layer of the network matters: {moved}"


def test_an_update_knows_the_rewards_up_to_its_own(x64):
    algo = make(num_inner_steps=4)
    meta, segment, before, after = lived(algo)
    rewards = segment.rollouts.reward.mean(axis=(1, 2))
    ever = np.concatenate([before.recent, rewards])
    for k in range(4):
        np.testing.assert_allclose(segment.recent[k], ever[k + 1 : k + 4])
    np.testing.assert_allclose(after.recent, rewards[-3:])
    assert relative_error(jax.jit(algo.adapt)(meta, segment), after.learner) < 1e-12, "reliving is what happened"


def test_nothing_flows_through_recent_rewards(x64):
    algo = make(num_inner_steps=2, objective="bootstrapped")
    meta, _, before, _ = lived(algo)

    def total(meta, recent):
        stored, after, _ = algo.collect(dataclasses.replace(before, meta=meta, recent=recent), jax.random.key(1))
        found = jax.tree.leaves((stored.recent, stored.outer, after.learner.params, after.recent))
        return sum(jnp.sum(x) for x in found if jnp.issubdtype(x.dtype, jnp.floating))

    grads = jax.jit(jax.grad(total, (0, 1)))(meta, before.recent)
    assert float(jnp.abs(flat(grads)).max()) == 0


def test_a_policy_of_the_hyperparameters_is_refused():
    with pytest.raises(ValueError, match="recent = 3: needs a policy that is not a function"):
        mrl.meta_gradient_rl(Probe(), probe(), lambda h: mlp_policy(Probe(), (), critic=True), TUNED, recent=3)


# --- two colours ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fixed", "BMG"])  # MG has another objective, which is tested above
def test_one_iteration_of_a_method(method):
    """16 rollouts of 16 steps in one environment, which goes on; 15 updates; coefficients where they start."""
    algo = two_colours.algorithm(method, 0.03)
    state, metrics = jax.jit(algo.step)(algo.init(jax.random.key(0)), jax.random.key(1))
    assert int(state.envs.episode_length[0]) == 256 and -1 <= float(metrics["reward"]) <= 1
    if method == "fixed":
        assert "tuned_entropy_coef" not in metrics and state.recent is None
    else:
        assert float(metrics["tuned_entropy_coef"]) == pytest.approx(two_colours.START, rel=1e-5)
        assert state.recent.shape == (10,) and float(metrics["meta_grad_norm"]) > 0


def test_the_claims_are_about_the_order():
    rewards = {"constant 0.1": np.array([0.1, 0.11]), "MG": np.array([0.12, 0.13]), "BMG": np.array([0.12, 0.14])}
    found = {claim.what: claim for claim in two_colours.claims(rewards, {0.1: 0.1, 0.2: 0.05})}
    assert found["MG - constant 0.1"].passed and found["BMG - constant 0.1"].passed
    assert not found["BMG - MG"].passed, "its interval reaches 0"
    assert found["BMG"].ours == pytest.approx(0.13) and found["constant 0.2, seeds to choose by"].ours == 0.05
