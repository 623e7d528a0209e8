"""Outer optimisers: the trust region's matrix, constraint and refusals; ProMP's penalty and its adaptation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import flat, of_family, point, random_directions

from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.meta.outer_update import Outer, Problem, gradient_steps, trust_region
from metarl_jax.rl import learners
from metarl_jax.types import MetaState


def watched(look, differentiation="mixed", num_inner_steps=2):
    """What `look(problem, params)` returns in the outer update of one step of MAML on two small tasks."""
    env, tasks, policy = point(hidden=(5,), horizon=6)
    learner = learners.policy_gradient(policy, 0.3)
    outer = Outer(lambda params: (), lambda state, problem: (state, {"seen": look(problem, state.params)}))
    algo = policy_meta_learner(
        env, tasks, policy, learner, num_inner_steps=num_inner_steps, meta_batch_size=2, episodes_per_task=4,
        outer=outer, outer_kl=True, inner_kl=True, outer_surrogate="lvc", differentiation=differentiation,
    )  # fmt: skip
    state = jax.tree.map(lambda x: x.astype(float), algo.init(jax.random.key(0)))
    return jax.jit(lambda s, k: algo.step(s, k)[1]["seen"])(state, jax.random.key(1))


def test_the_fisher_product_is_the_hessian_of_the_kl_of_the_adapted_policies(x64):
    """Through two inner updates: J^T F J v against forward-over-reverse of the mean KL, at the sampling point."""

    def look(problem, params):
        directions, unravel = random_directions(jax.random.key(2), params, 3)
        kl = lambda p: problem.value(p, None)[1]["kl"]  # noqa: E731
        found = jax.lax.map(lambda d: flat(problem.fisher(params, unravel(d))), directions)
        slope = lambda d: jax.jvp(jax.value_and_grad(kl), (params,), (unravel(d),))  # noqa: E731
        (value, gradient), (_, expected) = jax.lax.map(slope, directions)
        return found, jax.vmap(flat)(expected), value, jax.vmap(flat)(gradient)

    found, expected, kl, slope = watched(look, "reverse")
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    assert float(jnp.abs(kl).max()) < 1e-14 and float(jnp.linalg.norm(slope)) < 1e-12
    assert float(jnp.linalg.norm(found)) > 1e-2

    def only_fisher(problem, params):
        directions, unravel = random_directions(jax.random.key(2), params, 3)
        return jax.lax.map(lambda d: flat(problem.fisher(params, unravel(d))), directions)

    np.testing.assert_allclose(watched(only_fisher, "mixed"), found, rtol=1e-8, atol=1e-10)


def test_maml_trpo_stays_within_its_constraint_and_improves():
    env, tasks, policy = point(hidden=(8,), horizon=10)
    algo = of_family("maml_trpo", env, tasks, policy, 0.3, max_kl=0.02, meta_batch_size=3, episodes_per_task=5)

    def run(state, key):
        return algo.step(state, key)

    state, metrics = jax.jit(lambda k: jax.lax.scan(run, algo.init(k), jax.random.split(k, 6)))(jax.random.key(0))
    assert bool(jnp.all(metrics["update_skipped"] == 0)), metrics
    assert bool(jnp.all((metrics["kl"] > 0.002) & (metrics["kl"] <= 0.02)))
    assert bool(jnp.all(metrics["loss_improvement"] > 0))


def quadratic_problem(curvature=1.0, value=None, kl=None, slope=1.0):
    """min x^2 / 2 with KL = curvature x^2 / 2 around x = 1."""
    value = value or (lambda x: 0.5 * jnp.sum(x**2))
    kl = kl or (lambda x: 0.5 * curvature * jnp.sum((x - 1.0) ** 2))
    return Problem(
        value=lambda x, w: (value(x), {"kl": kl(x)}),
        value_and_grad=lambda x, w: ((value(x), {"kl": kl(x)}), slope * x),
        fisher=lambda x, v, num_tasks: curvature * v,
    )


def region_step(problem, **options):
    start = MetaState(jnp.ones(2), ())
    return trust_region(max_kl=0.01, cg_damping=0.0, **options).update(start, problem)


def test_the_trust_region_step_has_the_size_of_the_constraint():
    """x moves along -g by sqrt(2 delta / g^T F^-1 g): KL = delta exactly, accepted at the second size at the latest."""
    state, metrics = region_step(quadratic_problem())
    np.testing.assert_allclose(metrics["kl"], 0.01 * 0.8 ** (2 * (metrics["line_search_steps"] - 1)), rtol=1e-5)
    assert int(metrics["line_search_steps"]) <= 2 and float(metrics["update_skipped"]) == 0
    assert bool(jnp.all(state.params < 1.0))


@pytest.mark.parametrize(
    "problem, tried",
    [
        (quadratic_problem(slope=jnp.nan), 0),  # a gradient that is not finite
        (quadratic_problem(curvature=jnp.nan), 0),  # CG that is not
        (quadratic_problem(curvature=-1.0), 0),  # not a direction of descent
        (quadratic_problem(slope=0.0), 0),  # nothing to do
        (quadratic_problem(slope=-1.0), 15),  # no step along it lowers the loss
        (quadratic_problem(kl=lambda x: 1.0 + 0 * jnp.sum(x)), 15),  # the constraint cannot be met
        (quadratic_problem(kl=lambda x: jnp.nan * jnp.sum(x)), 15),
    ],
)
def test_an_update_that_cannot_be_trusted_is_skipped_and_counted(problem, tried):
    state, metrics = region_step(problem)
    assert bool(jnp.all(state.params == 1.0))
    assert float(metrics["update_skipped"]) == 1.0 and int(metrics["line_search_steps"]) == tried
    assert all(bool(jnp.all(x)) for x in jax.tree.leaves(metrics["finite"])), "the run goes on"


def test_the_inner_kl_is_to_the_policy_that_sampled(x64):
    """0 with slope 0 where it sampled; half a metric away from there, whatever the inner updates do."""

    def look(problem, params):
        moved = jax.tree.map(lambda x: x + 0.05, params)
        penalised = lambda p, w: problem.value(p, w)[0]  # noqa: E731
        weights = jnp.array([2.0, 5.0])
        return (
            problem.value(params, None)[1]["inner_kl"],
            problem.value(moved, None)[1]["inner_kl"],
            penalised(moved, weights) - penalised(moved, None),
            flat(jax.grad(penalised)(params, weights)) - flat(jax.grad(lambda p: penalised(p, None))(params)),
        )

    at, away, penalty, slope = watched(look)
    np.testing.assert_allclose(at, 0.0, atol=1e-14)
    assert bool(jnp.all(away > 1e-4))
    np.testing.assert_allclose(penalty, away @ jnp.array([2.0, 5.0]), rtol=1e-10)
    assert float(jnp.max(jnp.abs(slope))) < 1e-12


@pytest.mark.parametrize("kl, factor", [(0.001, 0.5), (0.0099, 1.0), (0.02, 2.0)])
def test_promp_adapts_each_coefficient(kl, factor):
    """Target .01: halve below target / 1.5, double above 1.5 target, else leave; each inner step its own."""
    kls = jnp.array([kl, 0.01])
    problem = Problem(
        value=lambda x, w: (x, {"inner_kl": kls}),
        value_and_grad=lambda x, w: ((x + jnp.sum(w * kls), {"inner_kl": kls}), jnp.ones(())),
        fisher=None,
    )
    outer = gradient_steps(optax.sgd(0.1), 3, kl_coef=0.25, kl_target=0.01, num_inner_steps=2)
    state, metrics = outer.update(MetaState(jnp.zeros(()), outer.init(jnp.zeros(()))), problem)
    np.testing.assert_allclose(state.opt_state[1], [0.25 * factor, 0.25])
    np.testing.assert_allclose(state.params, -0.3, rtol=1e-6)
    np.testing.assert_allclose(metrics["inner_kl"], kls.mean(), rtol=1e-6)


class Counting:
    """An environment that counts how often its step is traced."""

    def __init__(self, env):
        self.env, self.traced = env, 0

    def __getattr__(self, name):
        return getattr(self.env, name)

    def step_env(self, *arguments):
        self.traced += 1
        return self.env.step_env(*arguments)


def test_the_environment_is_never_run_again():
    """As many traces of the environment's step in a whole iteration as in collecting, however many outer steps."""
    env, tasks, policy = point(hidden=(2,), horizon=3)
    small = {"meta_batch_size": 2, "episodes_per_task": 2}

    def count(make, only_collect=False):
        counting = Counting(env)
        algo = make(counting)
        state = jax.eval_shape(algo.init, jax.random.key(0))
        if only_collect:
            task = tasks.sample(jax.random.key(0))
            jax.make_jaxpr(lambda p, k: algo.collect(p, k, task))(state.params, jax.random.key(0))
        else:
            jax.make_jaxpr(algo.step)(state, jax.random.key(0))
        return counting.traced

    promp = lambda n: lambda e: of_family("promp", e, tasks, policy, num_outer_epochs=n, **small)  # noqa: E731
    collected = count(promp(1), only_collect=True)
    assert collected >= 1
    assert count(promp(1)) == count(promp(7)) == collected
    assert count(lambda e: of_family("maml_trpo", e, tasks, policy, **small)) == collected
