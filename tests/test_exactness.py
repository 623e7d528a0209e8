"""Every surrogate against the exact return: all trajectories of a tiny MDP, weighted by their probability.

The gradient at the sampling parameters must be that of the return. The Hessian is all that second-order MAML
adds to first order, and there the surrogates differ: measured here, not believed.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import losses
from metarl_jax.types import Batch

S, A, H = 3, 2, 4
SURROGATES = {
    "vpg": losses.surrogate("vpg"),
    "lvc": losses.surrogate("lvc"),
    "dice": losses.surrogate("dice"),
    "loaded_dice_1": losses.surrogate("loaded_dice", dice_lambda=1.0),
    "loaded_dice_0": losses.surrogate("loaded_dice", dice_lambda=0.0),
    "ppo": losses.surrogate("ppo", clip_eps=0.2),
}
CASES = [(0, 1.0, False), (1, 0.9, False), (2, 1.0, True), (3, 0.9, True)]  # MDP, gamma, does state 2 end it?
MDPS = range(5)


def problem(seed):
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.ones(S), size=(S, A))  # [S, A, S]
    return rng.normal(size=(S, A)), transitions, rng.normal(size=(S, A))  # theta, transitions, rewards


def values(theta, transitions, rewards, gamma, ends):
    """[H, S] exact V_t(s) of the softmax policy with logits theta, by dynamic programming."""
    pi = jax.nn.softmax(theta)
    alive = jnp.array([1.0, 1.0, 0.0 if ends else 1.0])
    following, table = jnp.zeros(S), []
    for _ in range(H):
        following = (pi * (rewards + gamma * transitions @ (alive * following))).sum(axis=1)
        table.append(following)
    return jnp.stack(table[::-1])


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
    theta, transitions, rewards = problem(seed)
    states = np.array([(0, *s) for s in itertools.product(range(S), repeat=H - 1)])
    actions = np.array(list(itertools.product(range(A), repeat=H)))
    states, actions = np.repeat(states, len(actions), axis=0), np.tile(actions, (len(states), 1))  # [N, H]
    arrived = np.cumsum(states == 2, axis=1) > 0
    mask = np.where(arrived & ends, 0.0, 1.0)  # what follows the end stays in the batch, as junk to be ignored
    log_pi = np.asarray(jax.nn.log_softmax(theta))
    probability = np.exp(log_pi[states, actions].sum(axis=1))
    probability *= transitions[states[:, :-1], actions[:, :-1], states[:, 1:]].prod(axis=1)
    assert abs(probability.sum() - 1) < 1e-12

    discount = gamma ** np.arange(H)
    reward = rewards[states, actions] * mask * discount  # gamma^t r_t
    to_go = np.cumsum(reward[:, ::-1], axis=1)[:, ::-1]  # gamma^t G_t
    exact_values = np.asarray(values(theta, transitions, rewards, gamma, ends))
    value = exact_values[np.arange(H), states] * mask * discount  # gamma^t V_t(s_t)

    def column(x):
        return jnp.asarray(x)[..., None]  # [N, T, 1]

    batch = Batch(
        observation=column(states),
        action=column(actions),
        log_prob=column(log_pi[states, actions]),
        advantage=column(to_go - value),
        value=column(value),
        target=column(to_go),
        discounted_reward=column(reward),
        discounted_value=column(value),
        mask=column(mask),
    )

    found = {}
    x = jnp.asarray(theta).ravel()
    for name in SURROGATES:
        gradients, hessians = (np.asarray(y) for y in derivatives(name, x, batch))
        hessian = np.einsum("n,nij->ij", probability, hessians)
        variance = np.einsum("n,nij->", probability, (hessians - hessian) ** 2)
        found[name] = (probability @ gradients, hessian, variance)

    def exact_return(x):
        return values(x.reshape(S, A), transitions, rewards, gamma, ends)[0, 0]

    found["exact"] = (np.asarray(jax.grad(exact_return)(x)), np.asarray(jax.hessian(exact_return)(x)), None)
    return found


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", SURROGATES)
def test_gradient_is_exact(x64, name, case):
    found = enumerate_trajectories(*case)
    assert relative(found[name][0], found["exact"][0]) < 1e-10


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ["dice", "loaded_dice_1"])
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
