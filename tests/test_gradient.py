"""Meta-gradients: against formulas, against finite differences, and one mode against another."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from probes import Probe, probe
from problems import flat, is_finite, point, point_maml, random_directions, relative_error, store_trial

from metarl_jax.envs import TaskDistribution
from metarl_jax.gradient import MODES, value_and_grad
from metarl_jax.meta import adaptation
from metarl_jax.networks import mlp_policy
from metarl_jax.rl import learners, losses
from metarl_jax.tree import leaf_names
from metarl_jax.types import Learner, LearnerState, Trial

CENTRES = jnp.array([[1.0, -2.0], [0.5, 4.0]])


@pytest.mark.parametrize("num_steps", [0, 1, 5])
@pytest.mark.parametrize("mode", MODES)
def test_quadratic(x64, mode, num_steps):
    """L = |theta - c|^2 / 2: (1 - a)^(2K) (theta - c) second order, (1 - a)^K (theta - c) first order."""
    a, theta, centre = 0.3, {"x": jnp.array([[3.0, 1.0], [0.0, 2.0]])}, jnp.asarray(CENTRES, float)
    loss = lambda p, c: (0.5 * jnp.sum((p["x"] - c) ** 2), {})  # noqa: E731

    def update(state, key, c, differentiation="reverse"):
        (value, _), grads = value_and_grad(loss, differentiation)(state.params, c)
        return LearnerState(jax.tree.map(lambda p, g: p - a * g, state.params, grads), ()), {"loss": value}

    learner = Learner(lambda params: LearnerState(params, ()), lambda state, c: c, update)
    keys = jax.random.split(jax.random.key(0), num_steps)
    trial = Trial(inner=jnp.broadcast_to(centre, (num_steps, 2, 2)), outer=centre, keys=keys)

    def meta_loss(theta):
        return 0.5 * jnp.sum((adaptation.adapt(learner, theta, trial, mode).params["x"] - centre) ** 2)

    value, got = jax.jit(jax.value_and_grad(meta_loss))(theta)
    power = num_steps if mode == "first_order" else 2 * num_steps
    np.testing.assert_allclose(
        value, 0.5 * (1 - a) ** (2 * num_steps) * jnp.sum((theta["x"] - centre) ** 2), rtol=1e-12
    )
    np.testing.assert_allclose(got["x"], (1 - a) ** power * (theta["x"] - centre), rtol=1e-12)


def test_unknown_mode_is_named():
    with pytest.raises(ValueError, match="differentiation = 'mixd'"):
        value_and_grad(lambda p, d: (p, {}), "mixd")


@pytest.mark.parametrize("critic", [False, True])
def test_finite_differences(x64, critic):
    """meta_loss on a stored trial, through 3 PPO updates of 2 epochs x 2 minibatches, along random directions.

    The clip is tight, so that many ratios are beyond it; none crosses it between theta - h d and theta + h d.
    """
    problem = point(critic=critic)
    options = dict(entropy_coef=0.02, max_grad_norm=None if critic else 0.5, clip_eps=0.02, target_return=4.0)

    def loss(mode, **changed):
        inner_options = {**options, **changed}
        return point_maml(problem, 0.5, inner_options=inner_options, num_inner_steps=3, differentiation=mode).meta_loss

    params, trial = store_trial(point_maml(problem, 0.5, inner_options=options, num_inner_steps=3), problem)
    directions, unravel = random_directions(jax.random.key(5), params, 6)
    h = 1e-6

    @jax.jit
    def compute(params, trial):
        gradients = [jax.grad(loss(mode))(params, trial) for mode in MODES]
        at = jax.vmap(lambda d: loss("reverse")(unravel(flat(params) + d), trial))
        slopes = (at(h * directions) - at(-h * directions)) / (2 * h)
        return gradients, slopes, loss("reverse")(params, trial), loss("reverse", clip_eps=9.0)(params, trial)

    (reverse, mixed, first_order), slopes, value, unclipped = compute(params, trial)
    assert abs(float(value - unclipped)) > 1e-4, "the clip is at work"
    scale = jnp.linalg.norm(slopes)
    for gradient in (reverse, mixed):
        assert float(jnp.linalg.norm(directions @ flat(gradient) - slopes) / scale) < 1e-6
    assert float(jnp.linalg.norm(directions @ flat(first_order) - slopes) / scale) > 1e-2
    assert relative_error(mixed, reverse) < 1e-10


HYPERPARAMETERS = {
    "lr": 0.5, "clip_eps": 0.02, "entropy_coef": 0.02, "gamma": 0.9, "max_grad_norm": 0.5, "target_return": 4.0
}  # fmt: skip


def hyper_loss(problem, mode):
    """(hyperparameters, params, trial) -> meta-loss; the inner surrogate is PPO with a loss that closes over gamma."""

    def make(h):
        def surrogate(log_prob, batch):
            advantage = batch.advantage + 0.1 * (h["gamma"] * batch.target - batch.value) * batch.mask
            return losses.ppo_clip(log_prob, batch.log_prob, advantage, batch.mask, h["clip_eps"])

        options = {k: v for k, v in h.items() if k in ("entropy_coef", "max_grad_norm", "target_return")}
        options |= {"surrogate": surrogate}
        return point_maml(problem, h["lr"], inner_options=options, num_inner_steps=3, differentiation=mode)

    return lambda h, params, trial: make(h).meta_loss(params, trial)


def hyper_setting():
    problem = point(critic=True)
    params, trial = store_trial(point_maml(problem, 0.5, num_inner_steps=3), problem)
    return problem, params, trial, jax.tree.map(jnp.asarray, HYPERPARAMETERS)


def hyper_gradients(problem):
    """mode -> gradient with respect to hyperparameters and parameters."""
    return {m: jax.grad(hyper_loss(problem, m), (0, 1)) for m in ("reverse", "mixed")}


def test_mixed_is_reverse_in_every_traced_input(x64):
    """With respect to parameters and to what the loss closes over, under vmap; reverse is right by finite differences.

    clip_eps is the exception that proves nothing wrong: it moves the border between samples with and without a
    gradient, and no gradient, so its meta-gradient is 0 almost everywhere.
    """
    problem, params, trial, h = hyper_setting()
    both = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x]), h)
    many = {m: jax.vmap(grad, (0, None, None)) for m, grad in hyper_gradients(problem).items()}
    found = jax.jit(lambda h: {m: grad(h, params, trial) for m, grad in many.items()})(both)
    chex.assert_tree_all_finite(found)
    assert relative_error(found["mixed"][1], found["reverse"][1]) < 1e-10
    for name in h:
        smallest = float(jnp.min(jnp.abs(found["reverse"][0][name])))
        assert smallest == 0 if name == "clip_eps" else smallest > 1e-6, name
        np.testing.assert_allclose(found["mixed"][0][name], found["reverse"][0][name], rtol=1e-8, err_msg=name)

    vector, unravel = ravel_pytree(h)
    step = 1e-6
    at = jax.jit(jax.vmap(lambda v: hyper_loss(problem, "reverse")(unravel(v), params, trial)))
    offsets = step * jnp.eye(vector.size)
    slopes = unravel((at(vector + offsets) - at(vector - offsets)) / (2 * step))
    for name in h:
        np.testing.assert_allclose(found["reverse"][0][name][0], slopes[name], rtol=1e-5, atol=1e-9, err_msg=name)


def test_mixed_is_reverse_in_float32():
    problem, params, trial, h = hyper_setting()
    found = jax.jit(lambda h: {m: grad(h, params, trial) for m, grad in hyper_gradients(problem).items()})(h)
    for of_mixed, of_reverse in zip(found["mixed"], found["reverse"], strict=True):
        assert relative_error(of_mixed, of_reverse) < 1e-5


@pytest.mark.parametrize("mode", ["reverse", "mixed"])
def test_zero_inner_gradients_leave_the_meta_gradient_finite(mode):
    """All rewards equal: no advantage, no inner step, and the meta-gradient is the plain outer gradient.

    Norm clipping and Adam both have derivatives that a naive implementation makes NaN at zero.
    """
    problem = point(horizon=5)
    _, _, policy = problem
    maml = point_maml(problem)
    params, trial = store_trial(maml, problem)
    trial = trial.replace(inner=trial.inner.replace(advantage=jnp.zeros_like(trial.inner.advantage)))

    @jax.jit
    def compute(params, trial):
        settings = ({"max_grad_norm": 0.5}, {"optimizer": learners.adam(0.1), "max_grad_norm": 0.5})
        plain = point_maml(problem, num_inner_steps=0).meta_loss
        nothing = jax.tree.map(lambda x: x[:0], trial).replace(outer=trial.outer)
        make = lambda s: point_maml(problem, inner_options=s, differentiation=mode)  # noqa: E731
        found = [jax.grad(make(s).meta_loss)(params, trial) for s in settings]
        return found, jax.grad(plain)(params, nothing)

    found, expected = compute(params, trial)
    assert float(jnp.linalg.norm(flat(expected))) > 1e-3
    for gradient in found:
        chex.assert_trees_all_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_tasks_without_a_signal_are_survived():
    """The same from the environment on: steps of MAML where every reward is 0, or every reward is 1, are finite."""
    env = Probe()
    policy = mlp_policy(env, hidden=(4,))

    def step(constant, key):
        tasks = TaskDistribution(lambda key: probe(constant=0.0, length=3).replace(constant=constant), horizon=4)
        options = {"max_grad_norm": 0.5, "optimizer": learners.adam(0.1)}
        algo = point_maml((env, tasks, policy), inner_options=options)
        return algo.step(algo.init(key), key)

    state, metrics = jax.jit(jax.vmap(step, (0, None)))(jnp.array([0.0, 1.0]), jax.random.key(0))
    assert metrics["return_2"].tolist() == [0.0, 3.0]
    assert is_finite(state) and is_finite(metrics)


@pytest.mark.parametrize(
    "critic, mode", [(False, "reverse"), (True, "reverse"), (True, "mixed"), (True, "first_order")]
)
def test_every_leaf_is_trained(critic, mode):
    """Adam's first step moves a leaf exactly where its meta-gradient is not zero."""
    algo = point_maml(point(critic=critic, horizon=5), differentiation=mode, num_inner_steps=1)
    before = algo.init(jax.random.key(0))
    after, _ = jax.jit(algo.step)(before, jax.random.key(1))
    moved = jax.tree.map(lambda a, b: jnp.any(a != b), after.params, before.params)
    stuck = [name for name, m in zip(leaf_names(moved), jax.tree.leaves(moved), strict=True) if not m]
    assert is_finite(after) and not stuck
