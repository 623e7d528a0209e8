"""Collect and adapt: the replay is the adaptation, and one task does not feel how many others there are."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import flat, point, point_maml, store_trial

from metarl_jax.meta import adaptation, outer_update
from metarl_jax.meta.meta_learner import Objective, meta_learner
from metarl_jax.rl import learners
from metarl_jax.rl.rollout import rollout
from metarl_jax.types import Learner, LearnerState


@pytest.fixture(scope="module")
def problem():
    return point(critic=True, hidden=(4,), horizon=4)


@pytest.mark.parametrize("critic", [False, True])
def test_replay_is_what_happened_during_collection(critic):
    """The score of a sampling is set to the parameters that acted, so `collect` reports all K + 1 of them."""
    env, tasks, policy = point(critic=critic, horizon=6)
    baseline = "critic" if critic else "linear"
    learner = learners.ppo(policy, 0.3, num_epochs=2, num_minibatches=2, baseline=baseline, max_grad_norm=1.0)

    def sample(params, key, task):
        return rollout(env, policy.apply, params, key, task, num_steps=6, num_envs=4)[0], flat(params)

    @jax.jit
    def compute(params, key, task):
        trial, acted = adaptation.collect(sample, learner, params, key, task, 3)
        upto = [jax.tree.map(lambda x, k=k: x[:k], trial) for k in range(4)]
        replayed = [adaptation.adapt(learner, params, t.replace(outer=trial.outer)).params for t in upto]
        seen = [jax.tree.map(lambda x, k=k: x[k], trial.inner) for k in range(3)] + [trial.outer]
        ratios = [
            jnp.exp(policy.apply(p, b.observation).log_prob(b.action) - b.log_prob)
            for p, b in zip(replayed, seen, strict=True)
        ]
        return acted, jnp.stack([flat(p) for p in replayed]), jnp.stack(ratios)

    acted, replayed, ratios = compute(
        policy.init(jax.random.key(0)), jax.random.key(1), tasks.sample(jax.random.key(2))
    )
    assert acted.shape == replayed.shape
    assert float(jnp.min(jnp.max(jnp.abs(acted[1:] - acted[:-1]), axis=1))) > 1e-3, "every update moved"
    np.testing.assert_allclose(replayed, acted, atol=1e-6)
    np.testing.assert_allclose(ratios, 1.0, atol=1e-5)


def test_adapt_is_a_fold_of_updates_with_their_optimiser_state(problem):
    """With Adam inside, whose moments outlive an update."""
    policy = problem[2]
    learner = learners.ppo(policy, optimizer=learners.adam(0.05), num_epochs=2, num_minibatches=2)
    maml = point_maml(problem, num_inner_steps=3)
    params, trial = store_trial(maml, problem)

    @jax.jit
    def both(params, trial):
        state = learner.init(params)
        for k in range(3):
            state, _ = learner.update(state, trial.keys[k], jax.tree.map(lambda x, k=k: x[k], trial.inner))
        return adaptation.adapt(learner, params, trial), state

    adapted, folded = both(params, trial)
    chex.assert_trees_all_close(adapted, folded, rtol=1e-5, atol=1e-6)
    assert int(adapted.opt_state[0].count) == 12


def test_nothing_collected_depends_differentiably_on_the_parameters(problem):
    env, tasks, policy = problem
    learner = learners.ppo(policy, 0.3, num_epochs=1, num_minibatches=1)

    def sample(params, key, task):
        data, _ = rollout(env, policy.apply, params, key, task, num_steps=4, num_envs=2)
        return data, flat(params)

    def total(params):
        trial, scores = adaptation.collect(
            sample, learner, params, jax.random.key(0), tasks.sample(jax.random.key(1)), 1
        )
        return jnp.sum(scores) + jnp.sum(trial.inner.log_prob) + jnp.sum(trial.outer.log_prob + trial.outer.value)

    gradient = jax.jit(jax.grad(total))(policy.init(jax.random.key(2)))
    assert all(bool(jnp.all(x == 0)) for x in jax.tree.leaves(gradient))


def test_one_task_does_not_feel_the_others(problem):
    """Adapted alone, in a batch of one and in a batch of three, a task gives the same parameters and gradient."""
    algo = point_maml(problem)
    _, tasks, policy = problem
    keys = jax.random.split(jax.random.key(0), 3)
    params = policy.init(jax.random.key(1))
    task = jax.vmap(tasks.sample)(keys)
    trials, _ = jax.jit(jax.vmap(algo.collect, (None, 0, 0)))(params, keys, task)

    def both(params, trial):
        return algo.adapt(params, trial).params, jax.grad(algo.meta_loss)(params, trial)

    first = jax.tree.map(lambda x: x[0], trials)
    one = jax.tree.map(lambda x: x[:1], trials)
    batched = jax.jit(jax.vmap(both, (None, 0)))
    alone, of_one, of_three = jax.jit(both)(params, first), batched(params, one), batched(params, trials)
    for result in (of_one, of_three):
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], result), alone, rtol=1e-4, atol=1e-6)
    adapted = flat(alone[0])
    assert float(jnp.max(jnp.abs(adapted - flat(params)))) > 1e-3
    assert float(jnp.max(jnp.abs(adapted - flat(jax.tree.map(lambda x: x[1], of_three[0]))))) > 1e-3


CENTRE = jnp.array([1.0, -2.0, 0.5])


def quadratic_step(num_tasks, tasks_per_batch, num_inner_steps=2, num_outer_epochs=1):
    """One meta-step, outer SGD .5, on copies of L = |theta - c|^2 / 2 with inner step .1; from theta = 0."""

    def update(state, key, c, differentiation="reverse"):
        params = state.params - 0.1 * (state.params - c)
        return LearnerState(params, state.opt_state), {}

    algo = meta_learner(
        lambda key: CENTRE,
        lambda params, key, c: (c, jnp.sum(params)),
        Learner(lambda params: LearnerState(params, ()), lambda state, c: c, update),
        Objective(lambda params, c: (0.5 * jnp.sum(jnp.square(params - c)), {})),
        lambda key: jnp.zeros(3),
        num_inner_steps=num_inner_steps,
        meta_batch_size=num_tasks,
        outer=outer_update.gradient_steps(optax.sgd(0.5), num_outer_epochs),
        tasks_per_batch=tasks_per_batch,
    )
    state, metrics = jax.jit(algo.step)(algo.init(jax.random.key(0)), jax.random.key(1))
    return state.params, metrics


@pytest.mark.parametrize("num_tasks, tasks_per_batch", [(1, None), (1, 1), (6, None), (6, 1), (6, 4), (6, 6)])
def test_meta_step_is_a_mean_over_tasks(num_tasks, tasks_per_batch):
    """theta - .5 * .9^(2 K) (theta - c), however many equal tasks there are and however they are chunked."""
    params, metrics = quadratic_step(num_tasks, tasks_per_batch)
    np.testing.assert_allclose(params, 0.5 * 0.9**4 * CENTRE, rtol=1e-5)
    assert float(metrics["loss"]) == pytest.approx(float(0.5 * 0.9**4 * jnp.sum(CENTRE**2)), rel=1e-5)
    assert float(metrics["grad_norm"]) == pytest.approx(float(0.9**4 * jnp.linalg.norm(CENTRE)), rel=1e-5)


@pytest.mark.parametrize("num_inner_steps, num_outer_epochs", [(0, 1), (0, 3), (2, 3)])
def test_outer_epochs_replay_the_adaptation(num_inner_steps, num_outer_epochs):
    params, metrics = quadratic_step(2, None, num_inner_steps, num_outer_epochs)
    remaining = (1 - 0.5 * 0.9 ** (2 * num_inner_steps)) ** num_outer_epochs
    np.testing.assert_allclose(params, (1 - remaining) * CENTRE, rtol=1e-5)
    assert [k for k in metrics if k.startswith("return_")] == [f"return_{k}" for k in range(num_inner_steps + 1)]


def test_scores_are_those_before_and_after_each_update():
    _, metrics = quadratic_step(2, None)
    for k in range(3):
        expected = float((1 - 0.9**k) * CENTRE.sum())
        assert float(metrics[f"return_{k}"]) == pytest.approx(expected, abs=1e-6)


def test_tasks_per_batch_does_not_change_the_step(problem):
    """One at a time, and two: all at once is in the contract of every algorithm."""
    states, all_metrics = [], []
    for tasks_per_batch in (1, 2):
        algo = point_maml(problem, meta_batch_size=4, tasks_per_batch=tasks_per_batch, num_inner_steps=1)
        state, metrics = jax.jit(algo.step)(algo.init(jax.random.key(0)), jax.random.key(1))
        states.append(state.params)
        all_metrics.append(metrics)
    for params, metrics in zip(states[1:], all_metrics[1:], strict=True):
        chex.assert_trees_all_close(params, states[0], rtol=1e-5, atol=1e-5)
        chex.assert_trees_all_close(metrics, all_metrics[0], rtol=1e-4, atol=1e-5)


def test_without_inner_steps_it_is_ordinary_policy_optimisation(problem):
    algo = point_maml(problem, num_inner_steps=0, meta_batch_size=2)
    params, trial = store_trial(algo, problem)
    assert trial.keys.shape == (0,)
    chex.assert_trees_all_equal(jax.jit(algo.adapt)(params, trial).params, params)
    state, metrics = jax.jit(algo.step)(algo.init(jax.random.key(0)), jax.random.key(1))
    assert "return_0" in metrics and "return_1" not in metrics
    assert float(metrics["grad_norm"]) > 1e-3


def test_step_size_tree(problem):
    """A constant tree is the scalar; each leaf has its own step size; a zero keeps its leaf where it is."""
    lr = 0.3
    algo = point_maml(problem, lr)
    params, trial = store_trial(algo, problem)
    constant = jax.tree.map(lambda x: jnp.full_like(x, lr), params)
    frozen = {**constant, "actor": {**constant["actor"], "log_std": jnp.zeros(2)}}

    @jax.jit
    def adapt(params, trial):
        return [point_maml(problem, rate).adapt(params, trial).params for rate in (lr, constant, frozen)]

    by_scalar, by_tree, without_std = adapt(params, trial)
    chex.assert_trees_all_close(by_tree, by_scalar, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), without_std, params)
    assert moved["actor"]["log_std"] == 0.0
    assert moved["actor"]["MLP_0"]["output"]["kernel"] > 1e-3
    assert float(jnp.max(jnp.abs(by_scalar["actor"]["log_std"] - params["actor"]["log_std"]))) > 1e-3


def test_step_sizes_are_learnable(problem):
    """Meta-SGD: the meta-gradient with respect to every single step size."""
    algo = point_maml(problem)
    params, trial = store_trial(algo, problem)
    rates = jax.tree.map(lambda x: jnp.full_like(x, 0.1), params)
    gradient = jax.jit(jax.grad(lambda r: point_maml(problem, r).meta_loss(params, trial)))(rates)
    chex.assert_tree_all_finite(gradient)
    assert all(bool(jnp.any(x != 0)) for x in jax.tree.leaves(gradient))
