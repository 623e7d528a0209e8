"""Running statistics in every algorithm that keeps them: folded in, stored, left to evaluation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import BOTH, gradient_family, normalized_point, of_family, store_trial, with_statistics

import metarl_jax as mrl
from metarl_jax import tree
from metarl_jax.algorithms import registry
from metarl_jax.networks import mlp_policy
from metarl_jax.rl import learners, returns
from metarl_jax.rl.normalize import Moments, fold, normalized
from metarl_jax.rl.rollout import rollout
from metarl_jax.runs.build import build
from metarl_jax.runs.checkpoint import Checkpoints
from metarl_jax.runs.config import validate


def statistics_by_numpy(before, batches):
    """{name: (count, mean, var)} of what `before` knows (nothing) and the batches."""
    found = {}
    for name, of in (("observation", lambda b: b.observation), ("reward", lambda b: b.running_return)):
        live = [np.asarray(of(b))[np.asarray(b.mask) > 0] for b in batches]
        x = np.concatenate(live).astype(np.float64)
        found[name] = Moments(np.float64(len(x)), x.mean(axis=0), x.var(axis=0))
    return found


# The others are one of these with another inner learner or fewer terms in the loss.
OWN_WAY = [n for n in gradient_family() if n not in ("maml", "e_maml", "anil", "boil")]


@pytest.mark.parametrize("name", OWN_WAY)
def test_the_family_folds_in_all_trials_and_no_optimiser_has_a_say(name):
    env, tasks = mrl.make("PointNavigation-v0", horizon=4)
    network = mlp_policy(env, (4,), context_size=2 if name == "cavia" else 0, squash=True)
    policy = normalized(network, env, **BOTH)
    algo = of_family(name, env, tasks, policy, meta_batch_size=2, episodes_per_task=3, num_inner_steps=2)
    at = (lambda p: p["params"]) if name == "meta_sgd" else (lambda p: p)
    start, key = jax.jit(algo.init)(jax.random.key(0)), jax.random.key(1)
    state = start

    def trials(state, key):  # as a step collects them
        def one(i):
            task_key, trial_key = jax.random.split(jax.random.fold_in(key, i))
            return algo.collect(state.params, trial_key, tasks.sample(task_key))[0]

        return jax.vmap(one)(jnp.arange(2))

    found, step, batches = jax.jit(trials), jax.jit(algo.step), []
    for i in range(2):
        k = jax.random.fold_in(key, i)
        trial = found(state, k)
        batches += [trial.inner, trial.outer]
        state, metrics = step(state, k)
        assert all(np.all(x) for x in jax.tree.leaves(metrics["finite"]))
    then, now = jax.tree.leaves(start.params), jax.tree.leaves(state.params)
    for leaf, a, b in zip(tree.leaf_names(start.params), then, now, strict=True):
        assert not np.array_equal(a, b) or leaf.startswith("lr.normalizer"), f"{leaf} is not trained"
    stored = jax.jit(lambda trial: jax.tree.map(lambda x: x[0], trial))(trial)
    # An inner loop leaves them alone, and so do gradients.
    both = jax.jit(lambda p, trial: (algo.adapt(p, trial).params, at(algo.meta_gradient(p, trial)[1])))
    adapted, gradient = both(state.params, stored)
    chex.assert_trees_all_equal(adapted["normalizer"], at(state.params)["normalizer"])
    assert not any(np.any(g) for g in jax.tree.leaves(gradient["normalizer"]))
    chex.assert_trees_all_close(
        at(state.params)["normalizer"], statistics_by_numpy(None, batches), rtol=1e-3, atol=1e-5
    )
    if name == "meta_sgd":
        steps = state.params["lr"]["normalizer"]
        assert all(np.all(x == np.float32(0.1)) for x in jax.tree.map(np.asarray, jax.tree.leaves(steps))), (
            "they have no step size to learn"
        )


def test_not_even_decay_of_weights_moves_them():
    env, tasks, policy = normalized_point()
    inner = learners.ppo(policy, optimizer=optax.adamw(0.1, weight_decay=0.5), num_minibatches=1, baseline="linear")
    algo = mrl.maml(env, tasks, policy, inner, meta_batch_size=2, episodes_per_task=2, differentiation="first_order")
    params, trial = store_trial(algo, (env, tasks, policy))
    params = with_statistics(params)
    chex.assert_trees_all_equal(jax.jit(algo.adapt)(params, trial).params["normalizer"], params["normalizer"])


def test_agents_of_a_rule_see_normalised_observations_and_their_updates_replay():
    env, tasks = mrl.make("PointNavigation-v0", horizon=4)
    policy = normalized(mlp_policy(env, (4,), critic=True), env, normalize_observations=True)
    rule = mrl.lpo(policy, width=4, num_epochs=2, num_minibatches=1)
    algo = mrl.learn_rule(
        env, tasks, rule, policy, num_agents=2, num_inner_steps=3, num_envs=2, num_steps=4, lifetime=6
    )
    state = jax.jit(algo.init)(jax.random.key(0))
    population = state.population
    agent, task = jax.jit(lambda tree: jax.tree.map(lambda x: x[0], tree))((population.agent, population.task))
    segment, after, _ = jax.jit(algo.segment)(state.params, agent, jax.random.key(1), task)
    moments = after.learner.params["normalizer"]["observation"]
    seen = np.asarray(segment.rollouts.observation, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(moments.mean, seen.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moments.var, seen.var(axis=0), rtol=1e-3, atol=1e-7)
    again = jax.jit(algo.adapt)(state.params, segment).params
    again["outer_critic"] = after.learner.params["outer_critic"]  # which a replay leaves where it was
    chex.assert_trees_all_close(again, after.learner.params, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="normalize_rewards = True: is not for agents with a learned rule"):
        both = normalized(policy, env, normalize_rewards=True)
        mrl.learn_rule(env, tasks, mrl.lpo(both, width=4), both, lifetime=5).init(jax.random.key(0))


@pytest.mark.parametrize("algorithm", ["meta_gradient_rl", "lirpg", "lpo"])
def test_configurations_of_rules_take_the_keys_and_train_every_parameter(algorithm):
    sizes = {"hidden": [4], "num_envs": 2, "num_steps": 4, "num_inner_steps": 2, "num_agents": 2, "lifetime": 4}
    sizes |= {"eval_updates": 2, "population_size": 2} | ({"outer": "evolution"} if algorithm == "lpo" else {})
    known = registry.entry(algorithm).options.model_fields
    sizes = {name: value for name, value in sizes.items() if name in known}
    more = {"env": "PointNavigation-v0", "env_options": {"horizon": 4}, "num_iterations": 2}
    assert "normalize_rewards" not in known
    keys = {"normalize_observations": True, "squash": True, "min_std": 1e-3}
    job = build(validate({"algorithm": algorithm, **keys, **more, **sizes}))
    start = jax.jit(job.algorithm.init)(jax.random.key(0))
    state, metrics = jax.jit(job.algorithm.step)(start, jax.random.key(1))
    assert all(np.all(x) for x in jax.tree.leaves(metrics["finite"]))
    before, now = job.params(start), job.params(state)
    for leaf, a, b in zip(tree.leaf_names(before), jax.tree.leaves(before), jax.tree.leaves(now), strict=True):
        assert not np.array_equal(a, b), leaf
    if algorithm == "meta_gradient_rl":
        assert float(state.learner.params["normalizer"]["observation"].count) == 16


CONFIGS = {
    "ppo": {"num_envs": 3, "num_steps": 8, "num_minibatches": 2, "hidden": [4]},
    "rl2": {"num_episodes": 2, "meta_batch_size": 4, "num_minibatches": 2, "size": 4},
    "varibad": {"num_episodes": 2, "meta_batch_size": 4, "num_minibatches": 2, "hidden": [4], "encoder_size": 4},
    "promp": {"meta_batch_size": 2, "episodes_per_task": 3, "hidden": [4]},
    "e_maml": {"meta_batch_size": 2, "episodes_per_task": 3, "hidden": [4], "baseline": "critic"},
}


def job_of(algorithm, **more):
    options = {"env": "PointNavigation-v0", "env_options": {"horizon": 5}, "num_iterations": 3, **CONFIGS[algorithm]}
    return build(validate({"algorithm": algorithm, **options, **BOTH, **more}))


def policy_params(params):
    return params.get("policy", params)


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_configurations_take_the_keys_and_checkpoints_keep_the_statistics(algorithm, tmp_path):
    job = job_of(algorithm, squash=True, min_std=1e-3)
    steps = {"ppo": 24, "rl2": 40, "varibad": 40, "promp": 60, "e_maml": 60}[algorithm]  # no episode ends early
    state = jax.jit(job.algorithm.init)(jax.random.key(0))
    start = policy_params(job.params(state))
    step = jax.jit(job.algorithm.step)
    state, metrics = step(state, jax.random.key(1))
    learned = policy_params(job.params(state))
    assert float(start["normalizer"]["observation"].count) == 0
    for name, moments in learned["normalizer"].items():
        assert float(moments.count) == steps, name
        assert np.all(np.asarray(moments.var) > 0) or name == "observation"
    moved = {n: x for n, x in learned.items() if n != "normalizer"}
    pairs = zip(jax.tree.leaves(moved), jax.tree.leaves({n: start[n] for n in moved}), strict=True)
    assert not any(np.array_equal(a, b) for a, b in pairs)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    _, again = checkpoints.restore(state)
    checkpoints.close()
    chex.assert_trees_all_equal(again, state)
    chex.assert_trees_all_equal(step(again, jax.random.key(2)), step(state, jax.random.key(2)))

    params, task = job.params(state), jax.jit(job.tasks.sample)(jax.random.key(3))
    if algorithm != "ppo":  # evaluation adapts, and leaves the statistics where they are
        trial, _ = jax.jit(job.algorithm.collect)(params, jax.random.key(4), task)
        adapted = policy_params(jax.jit(job.algorithm.adapt)(params, trial).params)
        chex.assert_trees_all_equal(adapted["normalizer"], learned["normalizer"])


def test_seeds_have_their_own_statistics():
    job = job_of("ppo")

    def train(key):
        return job.algorithm.step(job.algorithm.init(key), key)[0].learner.params["normalizer"]["observation"]

    moments = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 2))
    assert moments.mean.shape == (2, 2) and not np.array_equal(*np.asarray(moments.mean))


def test_returns_of_streams_go_on_from_iteration_to_iteration():
    """Two iterations of PPO that learns nothing see the returns of one rollout of twice the length."""
    env, tasks = mrl.make("PointNavigation-v0", horizon=7)
    policy = normalized(mlp_policy(env, (4,), critic=True), env, normalize_rewards=True)
    task = tasks.sample(jax.random.key(0))
    algo = mrl.ppo(env, task, policy, lr=1e-30, num_envs=2, num_steps=6, num_minibatches=2, gamma=0.9)
    state = jax.jit(algo.init)(jax.random.key(0))

    @jax.jit
    def act(state, key):
        start, sizes = jax.random.split(key)[0], {"num_steps": 6, "num_envs": 2}
        return rollout(env, policy.apply, state.learner.params, start, task, state.envs[0], auto_reset=True, **sizes)[0]

    start, datas, step = state, [], jax.jit(algo.step)
    for i in range(3):
        key = jax.random.fold_in(jax.random.key(1), i)
        datas.append(act(state, key))
        state, _ = step(state, key)
    assert start.envs[1].shape == (2,)
    reward, done = (np.concatenate([getattr(d, name) for d in datas]) for name in ("reward", "done"))
    running = np.asarray(jax.jit(returns.running_returns)(reward, done, 0.9), np.float64)
    moments = state.learner.params["normalizer"]["reward"]
    assert bool(done.any()) and float(moments.count) == 36
    np.testing.assert_allclose([moments.mean, moments.var], [running.mean(), running.var()], rtol=1e-4)


def test_without_statistics_fold_is_nothing():
    params = {"actor": jnp.ones(2)}
    assert fold(params, params, None) is params
    assert fold(jnp.ones(2), params) is params
