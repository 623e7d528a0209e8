"""Running statistics: against NumPy, in trials that replay, in every algorithm that keeps them, and where they pay."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnax.environments import environment, spaces
from problems import flat, gradient_family, of_family, on_devices, random_directions, store_trial

import metarl_jax as mrl
from metarl_jax.algorithms import registry
from metarl_jax.meta.meta_gradient import evolution
from metarl_jax.networks import mlp_policy, recurrent_policy
from metarl_jax.rl import learners, returns
from metarl_jax.rl.normalize import Moments, fold, normalize, normalized, scale_of_rewards, update
from metarl_jax.rl.rollout import rollout
from metarl_jax.runs.build import build
from metarl_jax.runs.checkpoint import Checkpoints
from metarl_jax.runs.config import validate
from metarl_jax.types import Policy

BOTH = {"normalize_observations": True, "normalize_rewards": True}


def point(horizon=5, hidden=(4,), *, rewards=True, **options):
    """Point navigation with statistics: env, tasks, policy."""
    env, tasks = mrl.make("PointNavigation-v0", horizon=horizon)
    return env, tasks, normalized(mlp_policy(env, hidden, **options), env, **{**BOTH, "normalize_rewards": rewards})


def with_statistics(params):
    """Parameters whose statistics are those of other data."""
    observation = Moments(jnp.asarray(50.0), jnp.array([0.02, -0.03]), jnp.array([0.01, 0.04]))
    reward = Moments(jnp.asarray(50.0), jnp.asarray(-0.7), jnp.asarray(0.3))
    return {**params, "normalizer": jax.tree.map(jnp.asarray, {"observation": observation, "reward": reward})}


# --- the arithmetic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[60], [1, 59], [20, 20, 20], [7, 0, 53]])
def test_moments_are_those_of_all_data_in_any_parts(parts):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(60, 4, 3)) * [1.0, 1e3, 1e-3] + [0.0, 5e4, 1.0]).astype(np.float32)
    mask = rng.random((60, 4)) < 0.7
    x[~mask] = np.nan
    moments, start = Moments.of((3,)), 0
    for size in parts:
        moments = jax.jit(update)(
            moments, jnp.asarray(x[start : start + size]), jnp.asarray(mask[start : start + size])
        )
        start += size
    real = x[mask].astype(np.float64)
    assert float(moments.count) == mask.sum()
    np.testing.assert_allclose(moments.mean, real.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moments.var, real.var(axis=0), rtol=1e-4)  # float32 has 1e-7 of 5e4, and 1e3 to hold
    np.testing.assert_allclose(np.asarray(normalize(moments, jnp.asarray(real))).std(axis=0), 1.0, rtol=0.1)


def test_nothing_seen_changes_nothing_but_what_is_far():
    moments = update(Moments.of((2,)), jnp.full((3, 2), jnp.nan), jnp.zeros(3))
    chex.assert_trees_all_equal(moments, Moments.of((2,)))
    np.testing.assert_allclose(normalize(moments, jnp.array([[0.5, 40.0]])), [[0.5, 10.0]], rtol=1e-6)


def test_many_numbers_are_counted_on():
    """Beyond 2^24 float32 cannot count by one; batches still have their weight."""
    moments = Moments(jnp.asarray(2.0**26), jnp.zeros(1), jnp.ones(1))
    moments = update(moments, jnp.full((2**16, 1), 1.0), jnp.ones(2**16))
    np.testing.assert_allclose(moments.mean, 2**16 / (2**26 + 2**16), rtol=1e-5)


def test_running_returns_restart_with_episodes_and_go_on_between_rollouts():
    rng = np.random.default_rng(1)
    reward, done = rng.normal(size=(12, 3)).astype(np.float32), rng.random((12, 3)) < 0.3
    expected, so_far = np.zeros((12, 3)), np.zeros(3)
    for t in range(12):
        so_far = reward[t] + 0.9 * so_far
        expected[t] = so_far
        so_far = np.where(done[t], 0.0, so_far)
    whole = returns.running_returns(jnp.asarray(reward), jnp.asarray(done), 0.9)
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-6)
    between = jnp.where(done[6], 0.0, whole[6])
    then = returns.running_returns(jnp.asarray(reward[7:]), jnp.asarray(done[7:]), 0.9, between)
    np.testing.assert_allclose(then, expected[7:], rtol=1e-5, atol=1e-6)


# --- the policy -------------------------------------------------------------------------------------------


def test_all_functions_of_a_policy_read_normalised_observations():
    env, tasks = mrl.make("PointNavigation-v0", horizon=5)
    plain = mlp_policy(env, (4,), critic=True)
    policy = normalized(plain, env, **BOTH)
    params = with_statistics(policy.init(jax.random.key(0)))
    own = {name: x for name, x in params.items() if name != "normalizer"}
    chex.assert_trees_all_equal(own, plain.init(jax.random.key(0)))
    o = jax.random.normal(jax.random.key(1), (7, 3, 2)) * 0.3
    z = jnp.clip((o - jnp.array([0.02, -0.03])) / jnp.sqrt(jnp.array([0.01, 0.04]) + 1e-8), -10, 10)
    assert bool(jnp.any(jnp.abs(z) > 2))
    np.testing.assert_allclose(policy.apply(params, o).mean(), plain.apply(own, z).mean(), rtol=1e-6)
    np.testing.assert_allclose(policy.value(params, o), plain.value(own, z), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(policy.features(params, o), z, rtol=1e-6)

    on_trials = mrl.envs.trial.trials(env, tasks, 2)
    plain = recurrent_policy(on_trials, 4)
    policy = normalized(plain, on_trials, **BOTH)
    params = policy.init(jax.random.key(0))
    o = 0.3 * jax.random.normal(jax.random.key(1), (10, 3, 6)) + 0.1
    params["normalizer"]["observation"] = update(Moments.of((6,)), o, jnp.ones((10, 3)))
    own = {name: x for name, x in params.items() if name != "normalizer"}
    z = normalize(params["normalizer"]["observation"], o)  # the previous action and reward are among them
    for mine, its in zip(policy.joint(params, o), plain.joint(own, z), strict=True):
        chex.assert_trees_all_close(jax.tree.leaves(mine), jax.tree.leaves(its), rtol=1e-6)
    memory, first = policy.step(params, policy.remember(3), o[0])
    chex.assert_trees_all_close(memory, plain.step(own, plain.remember(3), z[0])[0], rtol=1e-6)
    np.testing.assert_allclose(first.mean(), policy.apply(params, o).mean()[0], rtol=1e-5, atol=1e-7)


def test_rewards_are_divided_where_advantages_are_made_and_nowhere_else():
    env, tasks, policy = point(critic=True)
    params = with_statistics(policy.init(jax.random.key(0)))
    data, _ = rollout(env, policy.apply, params, jax.random.key(1), tasks.sample(jax.random.key(2)), num_steps=5, num_envs=3)  # fmt: skip # noqa: E501
    options = {"gamma": 0.9, "gae_lambda": 0.8, "baseline": "critic", "normalize_advantage": False}
    batch = learners.prepare_batch(policy, params, data, **options)
    plain = {**params, "normalizer": {"observation": params["normalizer"]["observation"]}}
    scaled = dataclasses.replace(data, reward=data.reward / jnp.sqrt(0.3))
    expected = learners.prepare_batch(policy, plain, scaled, **options)
    assert expected.running_return is None
    np.testing.assert_allclose(batch.advantage, expected.advantage, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.running_return, returns.running_returns(data.reward, data.done, 0.9), rtol=1e-6)
    twice = learners.prepare_batch(policy, plain, data, reward_scale=float(1 / np.sqrt(0.3)), **options)
    np.testing.assert_allclose(batch.target, twice.target, rtol=1e-5, atol=1e-6)
    unknown = policy.init(jax.random.key(0))
    assert float(scale_of_rewards(unknown)) == 1.0, "rewards that are all equal, or unknown, are left as they are"


def test_what_cannot_be_normalised_is_refused():
    env, tasks, policy = point()
    assert normalized(policy, env) is policy
    own = Policy(lambda key: jnp.zeros(3), lambda params, o: None)
    with pytest.raises(ValueError, match="normalize_rewards = True: needs a policy whose parameters are a dictionary"):
        normalized(own, env, normalize_rewards=True)
    with pytest.raises(ValueError, match="differentiation = evolution: perturbs every parameter"):
        mrl.maml(env, tasks, policy, learners.policy_gradient(policy), differentiation=evolution(4))
    with pytest.raises(ValueError, match="target_return = 0.0: is a return of the environment's rewards"):
        learners.policy_gradient(policy, target_return=0.0)
    with pytest.raises(ValueError, match="target_return = 0.0"):
        learners.policy_gradient(mlp_policy(env, (4,)), target_return=0.0, reward_scale=0.1)
    learners.policy_gradient(point(rewards=False)[2], target_return=0.0)

    class Discrete(FarSides):
        def observation_space(self, params):
            return spaces.Discrete(4)

    with pytest.raises(ValueError, match="normalize_observations = True: observations of FarSides are discrete"):
        normalized(mlp_policy(Discrete()), Discrete(), normalize_observations=True)


# --- trials -----------------------------------------------------------------------------------------------


def stored(name="maml", seed=0, **options):
    """(algorithm, params with statistics, a trial)."""
    problem = point()
    algo = of_family(name, *problem, meta_batch_size=2, episodes_per_task=3, num_inner_steps=2, **options)
    params, _ = store_trial(algo, problem, seed)
    params = jax.tree.map(lambda x: x.astype(float), with_statistics(params))
    trial, _ = jax.jit(algo.collect)(params, jax.random.key(seed), problem[1].sample(jax.random.key(seed + 1)))
    return algo, problem[2], params, trial


def test_a_trial_replays_exactly():
    algo, policy, params, trial = stored()
    first = jax.jit(algo.adapt)(params, trial).params
    chex.assert_trees_all_equal(first, jax.jit(algo.adapt)(params, trial).params)
    chex.assert_trees_all_equal(first["normalizer"], params["normalizer"])
    for p, batch in ((params, jax.tree.map(lambda x: x[0], trial.inner)), (first, trial.outer)):
        again = policy.apply(p, batch.observation).log_prob(batch.action)
        np.testing.assert_allclose(jnp.exp(again - batch.log_prob), 1.0, atol=1e-5)


def test_the_meta_gradient_is_that_of_finite_differences(x64):
    algo, _, params, trial = stored()
    loss = jax.jit(algo.meta_loss)
    grads = jax.jit(algo.meta_gradient)(params, trial)[1]
    chex.assert_trees_all_equal(grads["normalizer"], jax.tree.map(jnp.zeros_like, params["normalizer"]))
    assert all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads["actor"]))
    directions, unravel = random_directions(jax.random.key(5), params["actor"], 3)
    h = 1e-5
    for d in directions:
        plus, minus = ({**params, "actor": unravel(flat(params["actor"]) + s * h * d)} for s in (1, -1))
        difference = (loss(plus, trial) - loss(minus, trial)) / (2 * h)
        np.testing.assert_allclose(flat(grads["actor"]) @ d, difference, rtol=1e-6, atol=1e-9)


# --- every algorithm --------------------------------------------------------------------------------------


def statistics_by_numpy(before, batches):
    """{name: (count, mean, var)} of what `before` knows (nothing) and the batches."""
    found = {}
    for name, of in (("observation", lambda b: b.observation), ("reward", lambda b: b.running_return)):
        live = [np.asarray(of(b))[np.asarray(b.mask) > 0] for b in batches]
        x = np.concatenate(live).astype(np.float64)
        found[name] = Moments(np.float64(len(x)), x.mean(axis=0), x.var(axis=0))
    return found


@pytest.mark.parametrize("name", [n for n in gradient_family() if n != "e_maml"])
def test_the_family_folds_in_all_trials_and_no_optimiser_has_a_say(name):
    env, tasks = mrl.make("PointNavigation-v0", horizon=4)
    network = mlp_policy(env, (4,), context_size=2 if name == "cavia" else 0)
    policy = normalized(network, env, **BOTH)
    algo = of_family(name, env, tasks, policy, meta_batch_size=2, episodes_per_task=3, num_inner_steps=2)
    at = (lambda p: p["params"]) if name == "meta_sgd" else (lambda p: p)
    state, key = jax.jit(algo.init)(jax.random.key(0)), jax.random.key(1)

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
        assert all(bool(jnp.all(x)) for x in jax.tree.leaves(metrics["finite"]))
    first = jax.tree.map(lambda x: x[0], batches[-2:])
    stored = dataclasses.replace(jax.tree.map(lambda x: x[0], trial), inner=first[0], outer=first[1])
    adapted = jax.jit(algo.adapt)(state.params, stored).params  # an inner loop leaves them alone, and so do gradients
    chex.assert_trees_all_equal(adapted["normalizer"], at(state.params)["normalizer"])
    grads = jax.tree.leaves(at(jax.jit(algo.meta_gradient)(state.params, stored)[1])["normalizer"])
    assert all(bool(jnp.all(g == 0)) for g in grads)
    chex.assert_trees_all_close(
        at(state.params)["normalizer"], statistics_by_numpy(None, batches), rtol=1e-3, atol=1e-5
    )
    if name == "meta_sgd":
        steps = state.params["lr"]["normalizer"]
        assert all(bool(jnp.all(x == 0.1)) for x in jax.tree.leaves(steps)), "they have no step size to learn"


def test_not_even_decay_of_weights_moves_them():
    env, tasks, policy = point()
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
    agent, task = (jax.tree.map(lambda x: x[0], x) for x in (state.population.agent, state.population.task))
    segment, after, _ = jax.jit(algo.segment)(state.params, agent, jax.random.key(1), task)
    moments = after.learner.params["normalizer"]["observation"]
    seen = np.asarray(segment.rollouts.observation, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(moments.mean, seen.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moments.var, seen.var(axis=0), rtol=1e-3, atol=1e-7)
    again = jax.jit(algo.adapt)(state.params, segment).params
    again["outer_critic"] = after.learner.params["outer_critic"]  # which a replay leaves where it was
    chex.assert_trees_all_close(again, after.learner.params, rtol=1e-5, atol=1e-6)
    _, metrics = jax.jit(algo.step)(state, jax.random.key(2))
    assert all(bool(jnp.all(x)) for x in jax.tree.leaves(metrics["finite"]))
    with pytest.raises(ValueError, match="normalize_rewards = True: is not for agents with a learned rule"):
        both = normalized(policy, env, normalize_rewards=True)
        mrl.learn_rule(env, tasks, mrl.lpo(both, width=4), both, lifetime=5).init(jax.random.key(0))


@pytest.mark.parametrize("algorithm", ["meta_gradient_rl", "lirpg", "lpo"])
def test_configurations_of_rules_take_the_key_of_observations(algorithm):
    sizes = {"hidden": [4], "num_envs": 2, "num_steps": 4, "num_inner_steps": 2, "num_agents": 2, "lifetime": 4}
    sizes |= {"eval_updates": 2, "outer": "evolution", "population_size": 2}
    known = registry.entry(algorithm).options.model_fields
    sizes = {name: value for name, value in sizes.items() if name in known}
    more = {"env": "PointNavigation-v0", "env_options": {"horizon": 4}, "num_iterations": 2}
    assert "normalize_rewards" not in known
    job = build(validate({"algorithm": algorithm, "normalize_observations": True, **more, **sizes}))
    state, metrics = jax.jit(job.algorithm.step)(job.algorithm.init(jax.random.key(0)), jax.random.key(1))
    assert all(bool(jnp.all(x)) for x in jax.tree.leaves(metrics["finite"]))
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
    job = job_of(algorithm, squash=True)
    steps = {"ppo": 24, "rl2": 40, "varibad": 40, "promp": 60, "e_maml": 60}[algorithm]  # no episode ends early
    state = jax.jit(job.algorithm.init)(jax.random.key(0))
    start = policy_params(job.params(state))
    step = jax.jit(job.algorithm.step)
    state, metrics = step(state, jax.random.key(1))
    learned = policy_params(job.params(state))
    assert float(start["normalizer"]["observation"].count) == 0
    for name, moments in learned["normalizer"].items():
        assert float(moments.count) == steps, name
        assert bool(jnp.all(moments.var > 0)) or name == "observation"
    moved = {n: x for n, x in learned.items() if n != "normalizer"}
    assert all(bool(jnp.any(a != start_)) for a, start_ in zip(jax.tree.leaves(moved), jax.tree.leaves({n: start[n] for n in moved}), strict=True))  # fmt: skip # noqa: E501

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    _, again = checkpoints.restore(state)
    checkpoints.close()
    chex.assert_trees_all_equal(again, state)
    chex.assert_trees_all_equal(step(again, jax.random.key(2)), step(state, jax.random.key(2)))

    params, task = job.params(state), job.tasks.sample(jax.random.key(3))
    if algorithm != "ppo":  # evaluation adapts, and leaves the statistics where they are
        trial, _ = jax.jit(job.algorithm.collect)(params, jax.random.key(4), task)
        adapted = policy_params(jax.jit(job.algorithm.adapt)(params, trial).params)
        chex.assert_trees_all_equal(adapted["normalizer"], learned["normalizer"])


@pytest.mark.parametrize("algorithm", ["promp", "rl2", "varibad"])
def test_devices_that_share_a_training_keep_the_same_statistics(algorithm):
    job = job_of(algorithm)
    state = jax.jit(job.algorithm.init)(jax.random.key(0))

    def step():
        return policy_params(job.algorithm.step(state, jax.random.key(1))[0].params)["normalizer"]

    alone, each = jax.jit(step)(), on_devices(step, 2)
    for place in range(2):
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[place], each), alone, rtol=1e-4, atol=1e-6)  # noqa: B023


def test_seeds_have_their_own_statistics():
    job = job_of("ppo")

    def train(key):
        return job.algorithm.step(job.algorithm.init(key), key)[0].learner.params["normalizer"]["observation"]

    moments = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 2))
    assert moments.mean.shape == (2, 2) and not bool(jnp.all(moments.mean[0] == moments.mean[1]))


def test_returns_of_streams_go_on_from_iteration_to_iteration():
    """Two iterations of PPO that learns nothing see the returns of one rollout of twice the length."""
    env, tasks = mrl.make("PointNavigation-v0", horizon=7)
    policy, task = normalized(mlp_policy(env, (4,), critic=True), env, normalize_rewards=True), None
    task = tasks.sample(jax.random.key(0))
    algo = mrl.ppo(env, task, policy, lr=1e-30, num_envs=2, num_steps=6, num_minibatches=2, gamma=0.9)
    state = algo.init(jax.random.key(0))
    start, datas = state, []
    for i in range(3):
        key = jax.random.fold_in(jax.random.key(1), i)
        data, _ = rollout(env, policy.apply, state.learner.params, jax.random.split(key)[0], task, state.envs[0], num_steps=6, num_envs=2, auto_reset=True)  # fmt: skip # noqa: E501
        datas.append(data)
        state, _ = jax.jit(algo.step)(state, key)
    assert start.envs[1].shape == (2,)
    reward, done = (jnp.concatenate([getattr(d, name) for d in datas]) for name in ("reward", "done"))
    running = np.asarray(returns.running_returns(reward, done, 0.9), np.float64)
    moments = state.learner.params["normalizer"]["reward"]
    assert bool(done.any()) and float(moments.count) == 36
    np.testing.assert_allclose([moments.mean, moments.var], [running.mean(), running.var()], rtol=1e-4)


def test_without_statistics_fold_is_nothing():
    params = {"actor": jnp.ones(2)}
    assert fold(params, params, None) is params
    assert fold(jnp.ones(2), params) is params


# --- where it pays ----------------------------------------------------------------------------------------


class FarSides(environment.Environment):
    """One step: the observation is 500 + 1000 x with x in (-1, 1), and the reward 1000 where the action is its side."""

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=1)

    def reset_env(self, key, params):
        x = jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)
        return 500 + 1000 * x, environment.EnvState(time=x[0])

    def step_env(self, key, state, action, params):
        reward = jnp.where((state.time > 0) == (action == 1), 1000.0, 0.0)
        return jnp.full(1, 500 + 1000 * state.time), state, reward, jnp.ones((), bool), {}

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    name, num_actions = "FarSides", 2

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (1,), jnp.float32)


def test_a_badly_scaled_problem_is_learned_with_statistics_and_not_without():
    env = FarSides()

    def late_return(on):
        policy = mlp_policy(env, (8,), critic=True)
        policy = normalized(policy, env, normalize_observations=on, normalize_rewards=on)
        algo = mrl.ppo(env, env.default_params, policy, lr=0.01, num_envs=32, num_steps=8)
        keys = jax.random.split(jax.random.key(0), 3)

        def train(key):
            return jax.lax.scan(algo.step, algo.init(key), jax.random.split(key, 40))[1]["episode_return"][-10:].mean()

        return jax.jit(jax.vmap(train))(keys)

    assert bool(jnp.all(late_return(True) > 900))
    assert bool(jnp.all(late_return(False) < 800))
