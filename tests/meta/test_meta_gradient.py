"""Truncated, implicit and evolution meta-gradients: against formulas and the unrolled ones, and refused in time."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import flat, point, point_maml, random_directions, relative_error, store_trial

import metarl_jax as mrl
from metarl_jax.gradient import value_and_grad
from metarl_jax.meta import meta_gradient as meta_gradient
from metarl_jax.meta.meta_gradient import evolution, implicit, truncated
from metarl_jax.rl import learners
from metarl_jax.types import Learner, LearnerState, Trial

A, CENTRE = 0.3, 2.0


def quadratic_learner():
    """L = (theta - c)^2 / 2, one step of size A."""

    def update(state, key, c, differentiation="reverse"):
        loss = lambda p, c: (0.5 * jnp.sum((p - c) ** 2), {})  # noqa: E731
        (value, _), grads = value_and_grad(loss, differentiation)(state.params, c)
        return LearnerState(state.params - A * grads, ()), {"loss": value}

    return Learner(lambda params: LearnerState(params, ()), lambda state, c: c, update)


def quadratic_trial(num_steps):
    keys = jax.random.split(jax.random.key(0), num_steps)
    return Trial(inner=jnp.full((num_steps, 3), CENTRE), outer=jnp.full(3, CENTRE), keys=keys)


@pytest.mark.parametrize("window", [0, 1, 3, 4])
def test_truncated_quadratic(x64, window):
    """(1 - a)^(K + window) (theta - c): the outer gradient has (1 - a)^K, each differentiated update one more."""
    theta, trial = jnp.array([3.0, 0.0, -1.0]), quadratic_trial(4)

    def loss(theta):
        return 0.5 * jnp.sum((truncated(window).replay(quadratic_learner(), theta, trial)[0].params - CENTRE) ** 2)

    np.testing.assert_allclose(jax.grad(loss)(theta), (1 - A) ** (4 + window) * (theta - CENTRE), rtol=1e-12)


def test_truncated_lies_between_first_order_and_mixed(x64):
    """`mixed` is `reverse` in tests/test_gradient.py."""
    problem = point(critic=True)
    params, trial = store_trial(point_maml(problem, 0.5, num_inner_steps=3), problem)

    @jax.jit
    def gradients(params, trial):
        ways = ("mixed", "first_order", truncated(3), truncated(0), truncated(1))
        algos = [point_maml(problem, 0.5, num_inner_steps=3, differentiation=way) for way in ways]
        return [algo.meta_gradient(params, trial)[1] for algo in algos]

    mixed, first_order, whole, none, one = gradients(params, trial)
    assert relative_error(whole, mixed) < 1e-10
    assert relative_error(none, first_order) < 1e-10
    assert relative_error(one, mixed) > 1e-3 and relative_error(one, first_order) > 1e-3


def proximal_maml(problem, differentiation, num_steps, strength=3.0, target=None, **options):
    env, tasks, policy = problem
    learner = learners.proximal(policy, 0.25, strength=strength, num_steps=num_steps, gamma=0.9, target_return=target)
    options = {"meta_batch_size": 2, "episodes_per_task": 4, "outer_surrogate": "lvc", **options}
    return mrl.maml(env, tasks, policy, learner, differentiation=differentiation, **options)


@pytest.mark.parametrize("num_inner_steps", [1, 2])
def test_implicit_is_the_unrolled_gradient_of_a_converged_inner_problem(x64, num_inner_steps):
    """Through 60 steps to the minimum of L + strength / 2 |p - theta|^2; in strength and R* too, closed over."""
    problem = point(hidden=(4,), horizon=5)

    def meta_loss(params, strength, target, trial, way):
        options = {"num_inner_steps": num_inner_steps}
        return proximal_maml(problem, way, 60, strength, target, **options).meta_loss(params, trial)

    algo = proximal_maml(problem, "reverse", 60, num_inner_steps=num_inner_steps)
    params, trial = store_trial(algo, problem)
    both = [
        jax.jit(jax.grad(lambda *x, w=way: meta_loss(*x, w), (0, 1, 2)))(params, 3.0, 4.0, trial)
        for way in ("reverse", implicit(cg_steps=40, cg_tol=1e-14))
    ]
    assert float(jnp.linalg.norm(flat(both[0][0]))) > 1e-3 and all(abs(float(x)) > 1e-6 for x in both[0][1:])
    assert relative_error(both[1][0], both[0][0]) < 1e-10
    np.testing.assert_allclose(both[1][1:], both[0][1:], rtol=1e-8)


def test_implicit_forward_and_reverse_are_transposes(x64):
    """What the trust region's Fisher products need: <u, J v> = <J^T u, v>."""
    problem = point(hidden=(4,), horizon=5)
    way = implicit(cg_steps=40, cg_tol=1e-14)
    algo = proximal_maml(problem, way, 30)
    params, trial = store_trial(algo, problem)
    env, tasks, policy = problem
    learner = learners.proximal(policy, 0.25, strength=3.0, num_steps=30, gamma=0.9)
    directions, unravel = random_directions(jax.random.key(3), params, 2)

    @jax.jit
    def compute(params, trial, u, v):
        end = lambda replay: lambda p: flat(replay(learner, p, trial)[0].params)  # noqa: E731
        _, forward = jax.jvp(end(way.tangents), (params,), (unravel(v),))
        (back,) = jax.vjp(end(way.replay), params)[1](u)
        return u @ forward, flat(back) @ v

    forward, back = compute(params, trial, *directions)
    np.testing.assert_allclose(forward, back, rtol=1e-9)
    assert abs(float(forward)) > 1e-6


def test_evolution_estimates_the_gradient(x64):
    """Mean over 400 estimates within 4 standard errors of the reverse gradient, along every direction."""
    problem = point(hidden=(3,), horizon=5)
    options = dict(inner_options={"num_epochs": 1, "num_minibatches": 1}, num_inner_steps=1, outer_surrogate="lvc")
    reverse = point_maml(problem, 0.1, differentiation="reverse", **options)
    es = point_maml(problem, 0.1, differentiation=evolution(8, 1e-4), **options)
    params, trial = store_trial(reverse, problem)

    @jax.jit
    def compute(params, trial):
        exact = flat(reverse.meta_gradient(params, trial)[1])

        def one(key):  # with one minibatch the key is used for nothing else
            return flat(es.meta_gradient(params, trial.replace(keys=key[None]))[1])

        return exact, jax.lax.map(one, jax.random.split(jax.random.key(1), 400), batch_size=50)

    exact, estimates = compute(params, trial)
    error = estimates.std(axis=0) / np.sqrt(len(estimates))
    assert float(jnp.max(jnp.abs(estimates.mean(axis=0) - exact) / error)) < 4.0
    cosine = estimates.mean(axis=0) @ exact / jnp.linalg.norm(estimates.mean(axis=0)) / jnp.linalg.norm(exact)
    assert float(cosine) > 0.98


def test_evolution_does_not_need_a_differentiable_learner():
    """A rounded update has derivative 0 everywhere; its smoothed meta-loss does not."""
    learner = quadratic_learner()
    rounded = lambda x: jnp.round(x * 4) / 4  # noqa: E731

    def update(state, key, c, differentiation="reverse"):
        state, metrics = learner.update(state, key, c)
        return LearnerState(rounded(state.params), ()), metrics

    trial = quadratic_trial(1)
    way = evolution(512, 0.5)

    def loss(theta, trial):
        state, _ = way.replay(learner._replace(update=update), theta, trial)
        return 0.5 * jnp.sum((state.params - CENTRE) ** 2), {}

    theta = jnp.array([5.0, -3.0, 2.0])
    _, grads = way.value_and_grad(loss)(theta, trial)
    chex.assert_trees_all_close(jnp.sign(grads[:2]), jnp.array([1.0, -1.0]))
    assert bool(jnp.all(jax.grad(lambda t: loss(t, trial)[0])(theta) == 0))


def test_what_makes_no_sense_is_refused_with_a_way_out():
    env, tasks, policy = problem = point(hidden=(2,), horizon=2)
    step = learners.policy_gradient(policy)
    cases = [
        (
            lambda: point_maml(problem, num_inner_steps=2, differentiation=truncated(3)),
            "longer than the inner loop, num_inner_steps = 2",
        ),
        (lambda: point_maml(problem, differentiation="implicit"), "use algorithm imaml"),
        (lambda: point_maml(problem, differentiation="truncated"), "needs its window"),
        (lambda: point_maml(problem, differentiation="mixd"), "not known; did you mean mixed"),
        (lambda: point_maml(problem, num_inner_steps=0, differentiation="evolution"), "use mixed for none"),
        (lambda: truncated(-1), "window = -1: must be greater than or equal to 0"),
        (lambda: evolution(0), "num_pairs = 0"),
        (lambda: mrl.maml_trpo(env, tasks, policy, step, differentiation="evolution"), "no Fisher matrix"),
        (lambda: mrl.maml_trpo(*point(critic=True), step), "has a critic"),
        (lambda: learners.proximal(policy, num_minibatches=2), "num_minibatches"),
        (lambda: learners.head(policy, head=("outptu",)), "'outptu': no parameter has that name"),
        (lambda: learners.policy_gradient(policy, surrogate="dice", gae_lambda=0.9), "counts the future twice"),
        (
            lambda: mrl.maml(
                env, tasks, policy, step, outer_surrogate="tmaml", num_outer_epochs=1, exploration_coef=1.0
            ),
            "of advantages",
        ),
    ]
    for make, words in cases:
        with pytest.raises((ValueError, TypeError), match=words):
            make()
    params = policy.init(jax.random.key(0))
    with pytest.raises(ValueError, match="adapts = 'outptu': no parameter has that name; there are .*output"):
        learners.policy_gradient(policy, adapts=("outptu",)).init(params)
    assert meta_gradient.resolve("implicit").name == "implicit"
