"""The algorithms against their definitions: what adapts, what is learned, and what each meta-gradient is equal to."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import flat, of_family, point, random_directions, relative_error, store_trial

import metarl_jax as mrl
from metarl_jax import tree
from metarl_jax.algorithms.boil import body
from metarl_jax.meta.outer_update import gradient_steps
from metarl_jax.networks import mlp_policy
from metarl_jax.reference import exact
from metarl_jax.reproductions import exact_meta_gradients as tabular
from metarl_jax.rl import learners, losses

LR = 0.3
SMALL = {"meta_batch_size": 3, "episodes_per_task": 4}


def problem(context_size=0):
    """Point navigation, 4 steps, 4 hidden units."""
    env, tasks, _ = point(horizon=4)
    return env, tasks, mlp_policy(env, hidden=(4,), context_size=context_size, output_gain=1.0)


def maml(here, lr=LR, surrogate="lvc", **options):
    options = {**SMALL, "num_inner_steps": 2, "outer_surrogate": "lvc", "num_outer_epochs": 1, **options}
    return mrl.maml(*here, learners.policy_gradient(here[2], lr, surrogate=surrogate), **options)


@functools.cache
def stored():
    """(problem, params, trial) in float64, the trial being one of `maml`: two inner updates and what came after."""
    here = problem()
    return here, *store_trial(maml(here), here)


def slopes(f, params, gradient, num=3, eps=1e-5):
    """(found, expected): the gradient along `num` random directions, and central differences of f."""
    directions, unravel = random_directions(jax.random.key(5), params, num)
    x = flat(params)
    ends = jnp.concatenate([x + eps * directions, x - eps * directions])
    up, down = jax.lax.map(lambda y: f(unravel(y)), ends).reshape(2, num)
    return directions @ flat(gradient), (up - down) / (2 * eps)


def trials_of_step(algo, here, params, key, num_tasks=SMALL["meta_batch_size"]):
    """The trials [task] and scores [task, K + 1, episode] that `algo.step` collects with this key."""

    def one(i):
        task_key, trial_key = jax.random.split(jax.random.fold_in(key, i))
        return algo.collect(params, trial_key, here[1].sample(task_key))

    return jax.lax.map(one, jnp.arange(num_tasks))


def start(algo):
    """The first state, in the current default precision."""
    return jax.tree.map(lambda x: x.astype(float), algo.init(jax.random.key(0)))


# --- first order -----------------------------------------------------------------------------------------


def test_reptile_moves_to_where_adaptation_ends(x64):
    """theta += outer_lr mean_i (theta'_i - theta), on the trials that the step collects."""
    here = problem()
    algo = of_family("reptile", *here, LR, outer_lr=0.7, num_inner_steps=2, **SMALL)
    state, key = start(algo), jax.random.key(1)

    @jax.jit
    def both(state):
        trials, _ = trials_of_step(algo, here, state.params, key)
        away = jax.lax.map(lambda t: flat(algo.adapt(state.params, t).params) - flat(state.params), trials)
        after, metrics = algo.step(state, key)
        return flat(after.params) - flat(state.params), metrics["loss"], away

    moved, loss, away = both(state)
    np.testing.assert_allclose(moved, 0.7 * away.mean(axis=0), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(loss, 0.5 * (away**2).sum(axis=1).mean(), rtol=1e-12)
    assert float(jnp.linalg.norm(away)) > 1e-2


def test_fomaml_takes_the_gradient_at_the_adapted_parameters(x64):
    here, params, trial = stored()
    algo = maml(here, differentiation="first_order")

    def outer_loss(params):
        log_prob = here[2].apply(params, trial.outer.observation).log_prob(trial.outer.action)
        return losses.surrogate("lvc")(log_prob, trial.outer)

    @jax.jit
    def both(params):
        there = algo.adapt(params, trial).params
        return algo.meta_gradient(params, trial), jax.value_and_grad(outer_loss)(there), jax.grad(outer_loss)(params)

    (loss, found), (expected_loss, expected), at_theta = both(params)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    assert relative_error(found, expected) < 1e-12
    assert relative_error(at_theta, expected) > 1e-3


# --- part of the parameters adapts -------------------------------------------------------------------------


def test_anil(x64):
    """Only the head adapts; all is trained; it is MAML with a step size of 0 outside the head."""
    here, params, trial = stored()
    algo = of_family("anil", *here, LR, num_inner_steps=2, outer_surrogate="lvc", **SMALL)
    is_head = ["output" in name.split(".") for name in tree.leaf_names(params)]
    leaves, structure = jax.tree.flatten(params)
    lr = [jnp.full_like(x, LR * head) for x, head in zip(leaves, is_head, strict=True)]
    full = maml(here, jax.tree.unflatten(structure, lr))

    @jax.jit
    def compute(params):
        ends = [a.adapt(params, trial).params for a in (algo, full)]
        gradients = [a.meta_gradient(params, trial)[1] for a in (algo, full)]
        return ends, gradients, slopes(lambda p: algo.meta_loss(p, trial), params, gradients[0])

    (adapted, other), (found, expected), (slope, difference) = compute(params)
    for head, before, after in zip(is_head, leaves, jax.tree.leaves(adapted), strict=True):
        assert bool(jnp.all(before != after)) if head else bool(jnp.all(before == after))
    assert any(is_head) and not all(is_head)
    assert all(float(jnp.linalg.norm(g)) > 1e-6 for g in jax.tree.leaves(found))
    assert relative_error(adapted, other) < 1e-14 and relative_error(found, expected) < 1e-12
    np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-9)


def test_boil(x64):
    """The complement of ANIL: the head stays, all is trained, and the gradient is that of finite differences."""
    here, params, trial = stored()
    algo = of_family("boil", *here, LR, num_inner_steps=2, outer_surrogate="lvc", **SMALL)
    is_head = ["output" in name.split(".") for name in tree.leaf_names(params)]

    @jax.jit
    def compute(params):
        found = algo.meta_gradient(params, trial)[1]
        return algo.adapt(params, trial).params, found, slopes(lambda p: algo.meta_loss(p, trial), params, found)

    adapted, found, (slope, difference) = compute(params)
    for head, before, after in zip(is_head, jax.tree.leaves(params), jax.tree.leaves(adapted), strict=True):
        assert bool(jnp.all(before == after)) if head else bool(jnp.any(before != after))
    assert any(is_head) and not all(is_head)
    assert all(float(jnp.linalg.norm(g)) > 1e-6 for g in jax.tree.leaves(found))
    np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="outptu"):
        body(here[2], frozen=("outptu",))


def test_cavia(x64):
    """theta stays, the context moves from zeros; theta is trained through the inner update."""
    here = problem(context_size=2)
    policy = here[2]
    algo = of_family("cavia", *here, LR, num_inner_steps=2, outer_surrogate="lvc", **SMALL)
    params, trial = store_trial(algo, here)
    assert "context" not in params
    zeros = {**params, "context": jnp.zeros(2)}

    @jax.jit
    def compute(params):
        log_probs = [policy.apply(p, trial.inner.observation).log_prob(trial.inner.action) for p in (params, zeros)]
        gradient = algo.meta_gradient(params, trial)[1]
        checked = slopes(lambda p: algo.meta_loss(p, trial), params, gradient)
        return algo.adapt(params, trial).params, gradient, checked, log_probs

    adapted, gradient, (slope, difference), (without, with_zeros) = compute(params)
    context = adapted.pop("context")
    assert relative_error(adapted, params) == 0.0 and bool(jnp.all(context != 0))
    np.testing.assert_allclose(without, with_zeros, rtol=1e-14)
    np.testing.assert_allclose(without[0], trial.inner.log_prob[0], rtol=1e-12)  # the first data are of zeros
    np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-9)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert all(float(jnp.linalg.norm(g)) > 1e-6 for g in jax.tree.leaves(gradient))
    by_name = dict(zip(tree.leaf_names(gradient), jax.tree.leaves(gradient), strict=True))
    reads_context = by_name["actor.MLP_0.Dense_0.kernel"][-2:]
    assert bool(jnp.all(jnp.abs(reads_context).sum(axis=1) > 1e-8))


def test_meta_sgd(x64):
    """With equal step sizes it is MAML; the step sizes' gradients sum to the derivative in MAML's inner_lr."""
    here, params, trial = stored()
    plain = maml(here)
    algo = of_family("meta_sgd", *here, LR, num_inner_steps=2, outer_surrogate="lvc", **SMALL)
    meta = {"params": params, "lr": jax.tree.map(lambda x: jnp.full_like(x, LR), params)}
    first = start(algo).params
    assert jax.tree.structure(first) == jax.tree.structure(meta)
    np.testing.assert_allclose(flat(first["lr"]), LR, rtol=1e-6)

    @jax.jit
    def compute(meta):
        params = meta["params"]
        ends = algo.adapt(meta, trial).params, plain.adapt(params, trial).params
        gradients = algo.meta_gradient(meta, trial)[1], plain.meta_gradient(params, trial)[1]
        by_lr = jax.grad(lambda a: maml(here, a).meta_loss(params, trial))(LR)
        checked = slopes(lambda lr: algo.meta_loss({**meta, "lr": lr}, trial), meta["lr"], gradients[0]["lr"])
        return ends, gradients, by_lr, checked

    (end, plain_end), (found, expected), by_lr, (slope, difference) = compute(meta)
    assert relative_error(end, plain_end) < 1e-14 and relative_error(end, params) > 1e-3
    assert relative_error(found["params"], expected) < 1e-12
    np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(flat(found["lr"]).sum(), by_lr, rtol=1e-10)
    assert abs(float(by_lr)) > 1e-6


# --- E-MAML ----------------------------------------------------------------------------------------------


def test_the_term_of_e_maml(x64):
    """-coef credit mean log pi_theta(a|s) over the inner data, and its gradient."""
    here, params, trial = stored()
    coefficient, credit = 0.7, 1.3
    options = {"num_inner_steps": 1, "outer_surrogate": "vpg", **SMALL}
    algo = of_family("e_maml", *here, LR, exploration_coef=coefficient, **options)
    plain = maml(here, surrogate="vpg", **options)
    first, batch = (jax.tree.map(lambda x, i=i: x[i], trial.inner) for i in (slice(0, 1), 0))
    trial = dataclasses.replace(trial, inner=first, keys=trial.keys[:1], credit=jnp.asarray(credit))

    def term(params):
        log_prob = here[2].apply(params, batch.observation).log_prob(batch.action)
        return -coefficient * credit * jnp.sum(log_prob * batch.mask) / jnp.sum(batch.mask)

    @jax.jit
    def compute(params):
        return [a.meta_gradient(params, trial) for a in (algo, plain)], jax.value_and_grad(term)(params)

    [(loss, found), (plain_loss, plain_gradient)], (expected_loss, expected) = compute(params)
    np.testing.assert_allclose(loss - plain_loss, expected_loss, rtol=1e-10)
    assert relative_error(optax.tree.sub(found, plain_gradient), expected) < 1e-10
    assert float(jnp.linalg.norm(flat(expected))) > 1e-3


def test_the_credit_of_e_maml_is_the_standardised_outcome(x64):
    """An SGD step of size 1 is minus the mean of the gradients with (mean_e R_ie - mean R) / std R as credits."""
    here = problem()
    algo = of_family("e_maml", *here, LR, outer=gradient_steps(optax.sgd(1.0)), **SMALL)
    state, key = start(algo), jax.random.key(1)

    @jax.jit
    def both(state):
        trials, scores = trials_of_step(algo, here, state.params, key)
        last = scores[:, -1]
        credit = (last.mean(axis=1) - last.mean()) / last.std()
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), (trials, credit))
        twice = (twice[0], twice[1].at[len(credit) :].set(0.0))  # and once more without credit
        gradients = jax.lax.map(
            lambda x: flat(algo.meta_gradient(state.params, x[0].replace(credit=x[1]))[1]), twice
        ).reshape(2, len(credit), -1)
        return flat(algo.step(state, key)[0].params) - flat(state.params), gradients.mean(axis=1), credit

    moved, (gradient, without), credit = both(state)
    np.testing.assert_allclose(moved, -gradient, rtol=1e-9, atol=1e-13)
    assert abs(float(credit.mean())) < 1e-14 and float(jnp.abs(credit).max()) > 0.1
    assert relative_error(without, gradient) > 1e-3


RATES = {"inner_lr": tabular.INNER_LR, "inner_gamma": tabular.INNER_GAMMA}


def mean_estimate(setup, **options):
    return tabular.finite_batches(setup, *RATES.values(), **options)


@pytest.mark.parametrize("num_steps, num_trajectories, outer_surrogate", [(1, 2, "vpg"), (2, 1, "ppo")])
def test_e_maml_is_unbiased(x64, num_steps, num_trajectories, outer_surrogate):
    """Its mean over all data is the total gradient of J_N, with the coefficient N H at a credit of V(theta_K) / H.

    V is a sum over H steps and the losses are means, so the estimate is scaled by -H, and the step size by H.
    """
    setup = tabular.problem(0, num_states=2)
    size = {"num_steps": num_steps, "num_trajectories": num_trajectories}
    oracle = exact.sampled_meta_gradient(setup.mdp, setup.theta, losses.surrogate("vpg"), **RATES, **size)
    found = mean_estimate(setup, outer_surrogate=outer_surrogate, **size)
    assert tabular.relative_error(found, oracle.total) < 1e-9
    assert tabular.relative_error(oracle.fixed_data + oracle.sampling, oracle.total) < 1e-9
    assert tabular.relative_error(oracle.fixed_data, oracle.total) > 0.05


@pytest.mark.parametrize("surrogate, num_steps, num_trajectories", [("vpg", 2, 1), ("lvc", 1, 2), ("dice", 2, 1)])
def test_maml_is_the_gradient_with_the_data_held(x64, surrogate, num_steps, num_trajectories):
    """The mean over all data of what differentiation through the updates gives, scaled as above."""
    setup, size = tabular.problem(1, num_states=2), {"num_steps": num_steps, "num_trajectories": num_trajectories}
    oracle = exact.sampled_meta_gradient(setup.mdp, setup.theta, losses.surrogate(surrogate), **RATES, **size)
    found = mean_estimate(setup, surrogate=surrogate, explores=False, **size)
    assert tabular.relative_error(found, oracle.fixed_data) < 1e-9


def test_maml_on_infinite_batches_is_exact(x64):
    """One case of the reproduction, K = 2: in theta, in alpha and in the inner gamma."""
    errors = tabular.measure_infinite("maml", 2, seed=0)
    assert len(errors) == 3 and max(errors.values()) < 1e-12, errors
