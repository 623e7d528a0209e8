"""Estimators on a million sampled trajectories against the exact oracle, coordinate by coordinate.

The exact tests weight all trajectories by their probability; here they are sampled, and means must agree within 4
standard errors. A gradient has 6 coordinates, a Hessian 36 of which 21 differ: 27 comparisons a surrogate, about 270
in all, at a two-sided 6e-5 each, so that chance alone would fail this file once in 70 seeds. The seed is fixed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.reference import exact
from metarl_jax.rl import losses, returns

pytestmark = pytest.mark.slow

S, A, H = 3, 2, 4
GAMMA = 0.9
NUM_TRAJECTORIES = 1_000_000
CHUNK = 10_000
LR = 0.7

# name, options, the curvature of `exact.hessian` that its mean Hessian is, or None: a bias in between, enumerated
CASES = [
    ("vpg", {}, "vpg"),
    ("lvc", {}, "lvc"),
    ("dice", {}, "exact"),
    ("tmaml", {}, "exact"),
    ("loaded_dice", {"dice_lambda": 0.0}, "lvc"),
    ("loaded_dice", {"dice_lambda": 0.5}, None),
    ("loaded_dice", {"dice_lambda": 1.0}, "exact"),
    ("ppo", {"clip_eps": 0.2}, "lvc"),
    ("smooth_ppo", {"clip_eps": 0.2}, "lvc"),
    ("dpo", {}, "lvc"),
]


@functools.cache
def problem():
    rng = np.random.default_rng(0)
    transitions = rng.dirichlet(np.ones(S), size=(S, A))
    mdp = exact.MDP(transitions, rng.normal(size=(S, A)), np.eye(S)[0], GAMMA, horizon=H)
    logits = rng.normal(size=(S, A))
    return mdp, logits, exact.evaluate(mdp, logits).value


@functools.cache
def sample():
    """States and actions [N, H] of the policy, drawn step by step from inverse cumulative distributions."""
    mdp, logits, _ = problem()
    policy, transitions = np.cumsum(jax.nn.softmax(logits), axis=-1), np.cumsum(mdp.transitions, axis=-1)

    def draw(cumulative, uniform):
        return jnp.minimum((uniform[:, None] >= cumulative).sum(axis=1), cumulative.shape[1] - 1)

    def step(state, uniforms):
        action = draw(jnp.asarray(policy)[state], uniforms[0])
        return draw(jnp.asarray(transitions)[state, action], uniforms[1]), (state, action)

    uniforms = jax.random.uniform(jax.random.key(0), (H, 2, NUM_TRAJECTORIES))
    _, (states, actions) = jax.jit(lambda u: jax.lax.scan(step, jnp.zeros(NUM_TRAJECTORIES, int), u))(uniforms)
    return np.asarray(states).T, np.asarray(actions).T


def mean_and_error(f, *data):
    """Mean and standard error of a pytree f(one row of each of data), CHUNK rows at a time."""

    @jax.jit
    def sums(chunk):
        x = jax.vmap(f)(*chunk)
        return jax.tree.map(lambda x: (x.sum(axis=0), (x * x).sum(axis=0)), x)

    n, total = len(data[0]), None
    for i in range(0, n, CHUNK):
        part = sums([x[i : i + CHUNK] for x in data])
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    is_pair = lambda x: isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], jax.Array)  # noqa: E731
    return jax.tree.map(
        lambda p: (np.asarray(p[0] / n), np.asarray(jnp.sqrt(jnp.maximum(p[1] / n - (p[0] / n) ** 2, 0) / n))),
        total,
        is_leaf=is_pair,
    )


def agree(found, expected):
    """Within 4 standard errors, and the comparison is not empty: the error is small beside what is compared."""
    mean, error = found
    np.testing.assert_array_less(np.abs(mean - expected), 4 * error + 1e-12)
    assert error.max() < 0.01


def objective(surrogate, states, actions):
    """logits -> -H loss on trajectories [N, H] drawn at the logits of the problem."""
    mdp, logits, value = problem()
    batch = exact.trajectory_batch(mdp, logits, states, actions, value)
    return lambda x: -H * surrogate(jax.nn.log_softmax(x)[batch.observation, batch.action], batch)


def test_the_batch_of_the_samples(x64):
    """G_t by `returns`, and the mean return is V within 4 standard errors."""
    mdp, logits, value = problem()
    states, actions = sample()
    batch = exact.trajectory_batch(mdp, logits, states, actions, value)
    reward = jnp.asarray(mdp.rewards)[batch.observation, batch.action]
    to_go = returns.discounted_returns(reward, jnp.zeros(reward.shape, bool), GAMMA)
    np.testing.assert_allclose(batch.target, to_go, atol=1e-12)
    error = float(to_go[0].std()) / NUM_TRAJECTORIES**0.5
    assert abs(float(to_go[0].mean()) - exact.evaluate(mdp, logits).expected_return) < 4 * error


def test_every_surrogate_is_here():
    assert {name for name, _, _ in CASES} == set(losses.SURROGATES)


@pytest.mark.parametrize("name, options, curvature", CASES, ids=str)
def test_derivatives_of_sampled_surrogates(x64, name, options, curvature):
    mdp, logits, value = problem()
    surrogate = losses.surrogate(name, **options)

    def derivatives(states, actions):
        f = objective(surrogate, states[None], actions[None])
        return jax.grad(f)(logits), jax.hessian(f)(logits)

    gradient, hessian = mean_and_error(derivatives, *sample())
    moments = exact.surrogate_moments(mdp, logits, surrogate, value)
    agree(gradient, exact.policy_gradient(mdp, logits))
    agree(hessian, exact.hessian(mdp, logits, curvature) if curvature else moments.hessian)
    for found, variance in ((gradient, moments.gradient_variance), (hessian, moments.hessian_variance)):
        np.testing.assert_allclose((found[1] ** 2).sum() * NUM_TRAJECTORIES, variance, rtol=0.02)


def test_sampled_meta_gradients(x64):
    """E-MAML with vpg against grad J_2, and MAML with dice against its mean with the data held: pairs of trajectories.

    V(theta) is taken off V(theta_1) in the score term, which changes its variance, not its mean.
    """
    mdp, logits, value = problem()
    here = exact.evaluate(mdp, logits).expected_return
    options = {"inner_lr": LR, "num_trajectories": 2, "baseline": value}
    pairs = [x.reshape(-1, 2, H) for x in sample()]

    def outcome(x):
        return adapted_return(mdp, x)

    def estimate(states, actions):
        def after(surrogate):
            f = objective(losses.surrogate(surrogate), states, actions)
            return jax.value_and_grad(lambda x: outcome(x + LR * jax.grad(f)(x)))(logits)

        score = jax.grad(lambda x: jax.nn.log_softmax(x)[states, actions].sum())(logits)
        (value_after, path), (_, with_dice) = after("vpg"), after("dice")
        return path + (value_after - here) * score, with_dice

    e_maml, maml = mean_and_error(estimate, *pairs)
    agree(e_maml, exact.sampled_meta_gradient(mdp, logits, losses.surrogate("vpg"), **options).total)
    agree(maml, exact.sampled_meta_gradient(mdp, logits, losses.surrogate("dice"), **options).fixed_data)


def adapted_return(mdp, logits):
    """V(theta), written out for automatic differentiation in the estimator."""
    pi, following = jax.nn.softmax(logits), jnp.zeros(S)
    for _ in range(H):
        following = (pi * (mdp.rewards + GAMMA * mdp.transitions @ following)).sum(axis=1)
    return following[0]
