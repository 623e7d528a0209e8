"""Every surrogate against the exact return: all trajectories of a tiny MDP, weighted by their probability.

The gradient at the sampling parameters must be that of the return. The Hessian is all that second-order MAML
adds to first order, and there the surrogates differ: measured here, not believed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.reference import exact
from metarl_jax.rl import losses

S, A, H = 3, 2, 4
SURROGATES = {
    "vpg": losses.surrogate("vpg"),
    "lvc": losses.surrogate("lvc"),
    "dice": losses.surrogate("dice"),
    "tmaml": losses.surrogate("tmaml"),
    "loaded_dice_1": losses.surrogate("loaded_dice", dice_lambda=1.0),
    "loaded_dice_0": losses.surrogate("loaded_dice", dice_lambda=0.0),
    "ppo": losses.surrogate("ppo", clip_eps=0.2),
}
CASES = [(0, 1.0, False), (1, 0.9, False), (2, 1.0, True), (3, 0.9, True)]  # MDP, gamma, does state 2 end it?
MDPS = range(5)


def problem(seed, gamma, ends):
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.ones(S), size=(S, A))  # [S, A, S]
    theta, rewards = rng.normal(size=(S, A)), rng.normal(size=(S, A))
    if ends:  # the return of an MDP that ends in state 2 is that of one that stays there for nothing
        transitions[2], rewards[2] = np.eye(S)[2], 0.0
    return exact.MDP(transitions, rewards, np.eye(S)[0], gamma, horizon=H), theta


@functools.partial(jax.jit, static_argnums=0)
def derivatives(name, theta, batch):
    """Gradient [N, P] and Hessian [N, P, P] of the objective of each trajectory by itself."""

    def objective(theta, one):
        log_prob = jax.nn.log_softmax(theta.reshape(S, A))[one.observation, one.action]
        return -SURROGATES[name](log_prob, one) * one.mask.sum()  # the losses are means over steps

    return jax.vmap(lambda one: (jax.grad(objective)(theta, one), jax.hessian(objective)(theta, one)))(batch)


@functools.cache
def enumerate_trajectories(seed, gamma, ends):
    """{name: (expected gradient, expected Hessian, total variance of the Hessian)}, and the "exact" return's."""
    mdp, theta = problem(seed, gamma, ends)
    paths = exact.enumerate_trajectories(mdp)
    probability = np.asarray(paths.probability(theta))
    assert abs(probability.sum() - 1) < 1e-12

    batch = exact.trajectory_batch(mdp, theta, paths.states, paths.actions, exact.evaluate(mdp, theta).value)
    arrived = np.cumsum(paths.states == 2, axis=1).T > 0
    mask = jnp.where(arrived & ends, 0.0, 1.0)  # what follows the end stays in the batch, as junk to be ignored
    junk = jax.tree.map(lambda x: jnp.where(mask == 0, 7, x) if x.shape == mask.shape else x, batch)
    batch = junk.replace(observation=batch.observation, action=batch.action, log_prob=batch.log_prob, mask=mask)
    batch = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0)[:, :, None], batch)  # [N, T, 1]

    found = {}
    x = jnp.asarray(theta).ravel()
    for name in SURROGATES:
        gradients, hessians = (np.asarray(y) for y in derivatives(name, x, batch))
        hessian = np.einsum("n,nij->ij", probability, hessians)
        variance = np.einsum("n,nij->", probability, (hessians - hessian) ** 2)
        found[name] = (probability @ gradients, hessian, variance)
    found["exact"] = (exact.policy_gradient(mdp, theta).ravel(), exact.hessian(mdp, theta).reshape(S * A, S * A), None)
    return found


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", SURROGATES)
def test_gradient_is_exact(x64, name, case):
    found = enumerate_trajectories(*case)
    assert relative(found[name][0], found["exact"][0]) < 1e-10


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ["dice", "tmaml", "loaded_dice_1"])
def test_dice_hessian_is_exact(x64, name, case):
    found = enumerate_trajectories(*case)
    assert relative(found[name][1], found["exact"][1]) < 1e-10


@pytest.mark.parametrize("seed", MDPS)
def test_lvc_hessian_is_near(x64, seed):
    """How near depends on the MDP: over these five the error is .06 to .49, the cosine .92 to .998."""
    found = enumerate_trajectories(seed, 1.0, False)
    lvc, exact = found["lvc"][1], found["exact"][1]
    cosine = np.sum(lvc * exact) / np.linalg.norm(lvc) / np.linalg.norm(exact)
    assert 0.05 < relative(lvc, exact) < 0.5
    assert cosine > 0.9


@pytest.mark.parametrize("seed", MDPS)
def test_vpg_has_no_hessian(x64, seed):
    """E[A | s] = 0, and the Hessian of a softmax log pi(a|s) does not depend on a: MAML becomes first order."""
    found = enumerate_trajectories(seed, 1.0, False)
    assert np.linalg.norm(found["exact"][1]) > 0.1
    assert np.linalg.norm(found["vpg"][1]) < 1e-12


@pytest.mark.parametrize("seed", MDPS)
def test_loaded_dice_without_memory_is_lvc(x64, seed):
    found = enumerate_trajectories(seed, 1.0, False)
    assert relative(found["loaded_dice_0"][1], found["lvc"][1]) < 1e-10


@pytest.mark.parametrize("seed", MDPS)
def test_ppo_at_the_sampling_parameters_is_lvc(x64, seed):
    """At rho = 1 min(rho A, clip(rho) A) is a tie: jax gives half the derivative to each, and both are rho A."""
    found = enumerate_trajectories(seed, 1.0, False)
    assert relative(found["ppo"][1], found["lvc"][1]) < 1e-10


@pytest.mark.parametrize("seed", MDPS)
def test_variance_is_the_price_of_an_unbiased_hessian(x64, seed):
    """lvc = loaded_dice(0) < loaded_dice(1) < dice. Where vpg, pure noise, stands among them depends on the MDP."""
    found = enumerate_trajectories(seed, 1.0, False)
    variance = {name: found[name][2] for name in SURROGATES}
    assert variance["loaded_dice_0"] <= variance["lvc"] * (1 + 1e-9)
    assert 2 * variance["lvc"] < variance["loaded_dice_1"] < variance["dice"]
    assert variance["vpg"] < variance["dice"]


@pytest.mark.parametrize("name, curvature", [("lvc", "lvc"), ("vpg", "vpg"), ("dice", "exact")])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_mean_hessian_is_the_curvature_named(x64, name, curvature, case):
    expected = exact.hessian(*problem(*case), curvature).reshape(S * A, S * A)
    np.testing.assert_allclose(enumerate_trajectories(*case)[name][1], expected, atol=1e-12)
