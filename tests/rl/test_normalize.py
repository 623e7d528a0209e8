"""Running statistics: against NumPy, in trials that replay, in every algorithm that keeps them, and where they pay."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import environment, spaces
from problems import BOTH, flat, normalized_point, of_family, random_directions, with_statistics

import metarl_jax as mrl
from metarl_jax.envs.point import PointNavigation
from metarl_jax.envs.trial import trials
from metarl_jax.meta.meta_gradient import evolution
from metarl_jax.networks import mlp_policy, recurrent_policy
from metarl_jax.rl import learners, returns
from metarl_jax.rl.normalize import Moments, normalize, normalized, scale_of_rewards, scale_of_task, update
from metarl_jax.rl.rollout import rollout
from metarl_jax.types import Policy

# --- the arithmetic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[60], [1, 59], [20, 20, 20], [7, 0, 53]])
def test_moments_are_those_of_all_data_in_any_parts(parts):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(60, 4, 3)) * [1.0, 1e3, 1e-3] + [0.0, 5e4, 1.0]).astype(np.float32)
    mask = rng.random((60, 4)) < 0.7
    x[~mask] = np.nan
    moments, start = Moments.of((3,)), 0
    for size in parts:
        moments = jax.jit(update)(moments, x[start : start + size], mask[start : start + size])
        start += size
    real = x[mask].astype(np.float64)
    assert float(moments.count) == mask.sum()
    np.testing.assert_allclose(moments.mean, real.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moments.var, real.var(axis=0), rtol=1e-4)  # float32 has 1e-7 of 5e4, and 1e3 to hold
    np.testing.assert_allclose(np.std(jax.jit(normalize)(moments, real), axis=0), 1.0, rtol=0.1)


def test_nothing_seen_changes_nothing_but_what_is_far():
    moments = jax.jit(update)(Moments.of((2,)), np.full((3, 2), np.nan), np.zeros(3))
    chex.assert_trees_all_equal(moments, Moments.of((2,)))
    np.testing.assert_allclose(jax.jit(normalize)(moments, np.array([[0.5, 40.0]])), [[0.5, 10.0]], rtol=1e-6)


def test_many_numbers_are_counted_on():
    """Beyond 2^24 float32 cannot count by one; batches still have their weight."""
    moments = Moments(np.float32(2.0**26), np.zeros(1), np.ones(1))
    moments = jax.jit(update)(moments, np.full((2**16, 1), 1.0), np.ones(2**16))
    np.testing.assert_allclose(moments.mean, 2**16 / (2**26 + 2**16), rtol=1e-5)


def test_running_returns_restart_with_episodes_and_go_on_between_rollouts():
    rng = np.random.default_rng(1)
    reward, done = rng.normal(size=(12, 3)).astype(np.float32), rng.random((12, 3)) < 0.3
    expected, so_far = np.zeros((12, 3)), np.zeros(3)
    for t in range(12):
        so_far = reward[t] + 0.9 * so_far
        expected[t] = so_far
        so_far = np.where(done[t], 0.0, so_far)
    running = jax.jit(returns.running_returns)
    whole = np.asarray(running(reward, done, 0.9))
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-6)
    then = running(reward[7:], done[7:], 0.9, np.where(done[6], 0, whole[6]))
    np.testing.assert_allclose(then, expected[7:], rtol=1e-5, atol=1e-6)


# --- the policy -------------------------------------------------------------------------------------------


def test_all_functions_of_a_policy_read_normalised_observations():
    env, tasks = mrl.make("PointNavigation-v0", horizon=5)
    plain = mlp_policy(env, (4,), critic=True)
    policy = normalized(plain, env, **BOTH)
    params = with_statistics(jax.jit(policy.init)(jax.random.key(0)))
    own = {name: x for name, x in params.items() if name != "normalizer"}
    chex.assert_trees_all_equal(own, jax.jit(plain.init)(jax.random.key(0)))
    rng = np.random.default_rng(0)
    o = rng.normal(0, 0.3, (7, 3, 2)).astype(np.float32)
    z = np.clip((o - np.float32([0.02, -0.03])) / np.sqrt(np.float32([0.01, 0.04]) + np.float32(1e-8)), -10, 10)
    assert (np.abs(z) > 2).any()

    def read(policy):
        return jax.jit(lambda params, x: (policy.apply(params, x).mean(), policy.value(params, x)))

    (mean, value), (plain_mean, plain_value) = read(policy)(params, o), read(plain)(own, z)
    np.testing.assert_allclose(mean, plain_mean, rtol=1e-6)
    np.testing.assert_allclose(value, plain_value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(policy.features)(params, o), z, rtol=1e-6)

    on_trials = trials(env, tasks, 2)
    plain = recurrent_policy(on_trials, 4)
    policy = normalized(plain, on_trials, **BOTH)
    params = jax.jit(policy.init)(jax.random.key(0))
    o = rng.normal(0.1, 0.3, (10, 3, 6)).astype(np.float32)
    params["normalizer"]["observation"] = jax.jit(update)(Moments.of((6,)), o, np.ones((10, 3)))
    own = {name: x for name, x in params.items() if name != "normalizer"}
    z = np.asarray(jax.jit(normalize)(params["normalizer"]["observation"], o))  # also the previous action and reward
    for mine, its in zip(jax.jit(policy.joint)(params, o), jax.jit(plain.joint)(own, z), strict=True):
        chex.assert_trees_all_close(jax.tree.leaves(mine), jax.tree.leaves(its), rtol=1e-6)

    def step(policy, params, x):
        memory, distribution = policy.step(params, policy.remember(3), x)
        return memory, distribution.mean()

    memory, first = jax.jit(functools.partial(step, policy))(params, o[0])
    plain_memory, _ = jax.jit(functools.partial(step, plain))(own, z[0])
    chex.assert_trees_all_close(memory, plain_memory, rtol=1e-6)
    whole = jax.jit(lambda params, x: policy.apply(params, x).mean())(params, o)
    np.testing.assert_allclose(first, np.asarray(whole)[0], rtol=1e-5, atol=1e-7)


def acted(env, tasks, policy, params):
    """Three episodes of a task."""

    @jax.jit
    def act(params):
        task = tasks.sample(jax.random.key(2))
        return rollout(env, policy.apply, params, jax.random.key(1), task, num_steps=5, num_envs=3)[0]

    return jax.tree.map(np.asarray, act(params))


def test_rewards_are_divided_where_advantages_are_made_and_nowhere_else():
    env, tasks, policy = normalized_point(critic=True)
    unknown = jax.jit(policy.init)(jax.random.key(0))
    params = with_statistics(unknown)
    data = acted(env, tasks, policy, params)
    options = {"gamma": 0.9, "gae_lambda": 0.8, "baseline": "critic", "normalize_advantage": False}
    prepare = jax.jit(lambda params, data: learners.prepare_batch(policy, params, data, **options))
    batch = prepare(params, data)
    plain = {**params, "normalizer": {"observation": params["normalizer"]["observation"]}}
    expected = prepare(plain, dataclasses.replace(data, reward=data.reward / np.float32(np.sqrt(0.3))))
    assert expected.running_return is None
    np.testing.assert_allclose(batch.advantage, expected.advantage, rtol=1e-5, atol=1e-6)
    running = jax.jit(returns.running_returns)(data.reward, data.done, 0.9)
    np.testing.assert_allclose(batch.running_return, running, rtol=1e-6)
    options["reward_scale"] = float(1 / np.sqrt(0.3))
    twice = jax.jit(lambda params, data: learners.prepare_batch(policy, params, data, **options))(plain, data)
    np.testing.assert_allclose(batch.target, twice.target, rtol=1e-5, atol=1e-6)
    assert float(scale_of_rewards(unknown)) == 1.0, "rewards that are all equal, or unknown, are left as they are"


def test_each_task_divides_its_rewards_by_the_deviation_of_its_own_returns():
    """A task whose rewards are 100 times another's learns from the same numbers."""
    env, tasks = mrl.make("PointNavigation-v0", horizon=5)
    policy = mlp_policy(env, (4,), critic=True)
    params = jax.jit(policy.init)(jax.random.key(0))
    data = acted(env, tasks, policy, params)
    mask = data.mask.copy()
    mask[3:, 1] = 0
    data = dataclasses.replace(data, mask=mask)
    options = {"gamma": 0.9, "gae_lambda": 0.8, "baseline": "zero", "normalize_advantage": False}

    def prepare(**more):
        return jax.jit(lambda data: learners.prepare_batch(policy, params, data, **options, **more))

    own, running = prepare(normalize_task_rewards=True), jax.jit(returns.running_returns)
    sigma = np.asarray(running(data.reward * data.mask, data.done, 0.9))[data.mask > 0].std()
    expected = prepare()(dataclasses.replace(data, reward=data.reward / sigma))
    np.testing.assert_allclose(own(data).advantage, expected.advantage, rtol=1e-4, atol=1e-5)
    hundredfold = dataclasses.replace(data, reward=100 * np.asarray(data.reward))
    np.testing.assert_allclose(own(hundredfold).advantage, own(data).advantage, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(own(dataclasses.replace(data, reward=0 * data.reward)).advantage, 0.0)
    assert own(data).running_return is None, "nothing to fold into statistics that all tasks share"

    memory = recurrent_policy(trials(env, tasks, 2), 4)
    size = np.array([1.0, 10.0, 0.1])
    reward = np.arange(1.0, 6)[:, None] * size
    scale = jax.jit(functools.partial(scale_of_task, each_stream=True))
    batch = np.asarray(scale(running(reward, data.done, 0.9), np.ones((5, 3))))
    np.testing.assert_allclose(batch / size, batch[0], rtol=1e-5)
    with pytest.raises(ValueError, match="normalize_task_rewards = True: divides by each task's own"):
        learners.ppo(normalized_point(critic=True)[2], normalize_task_rewards=True)
    with pytest.raises(ValueError, match="target_return = 0.0"):
        learners.policy_gradient(policy, target_return=0.0, normalize_task_rewards=True)
    learners.ppo(memory, normalize_task_rewards=True)


def test_promp_learns_the_same_from_rewards_of_any_size_where_each_task_has_its_own_scale():
    class Scaled(PointNavigation):
        size = 1.0

        def step_env(self, *args):
            observation, state, reward, terminated, info = super().step_env(*args)
            return observation, state, self.size * reward, terminated, info

    def trained(size, own):
        env, tasks = Scaled(), mrl.make("PointNavigation-v0", horizon=4)[1]
        env.size = size
        policy = mlp_policy(env, (4,))
        inner = learners.policy_gradient(policy, normalize_task_rewards=own, normalize_advantage=False)
        algo = mrl.promp(env, tasks, policy, inner, meta_batch_size=2, episodes_per_task=3)
        return jax.jit(lambda key: algo.step(algo.init(key), jax.random.key(1))[0].params)(jax.random.key(0))

    chex.assert_trees_all_close(trained(1.0, True), trained(50.0, True), rtol=1e-3, atol=1e-5)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(trained(1.0, False), trained(50.0, False), rtol=1e-3, atol=1e-5)


def test_what_cannot_be_normalised_is_refused():
    env, tasks, policy = normalized_point()
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
    learners.policy_gradient(normalized_point(rewards=False)[2], target_return=0.0)

    class Discrete(FarSides):
        def observation_space(self, params):
            return spaces.Discrete(4)

    with pytest.raises(ValueError, match="normalize_observations = True: observations of FarSides have no quantity"):
        normalized(mlp_policy(Discrete()), Discrete(), normalize_observations=True)


# --- trials -----------------------------------------------------------------------------------------------


def stored(name="maml", seed=0, **options):
    """(algorithm, params with statistics, a trial)."""
    problem = normalized_point()
    algo = of_family(name, *problem, meta_batch_size=2, episodes_per_task=3, num_inner_steps=2, **options)
    _, tasks, policy = problem

    @jax.jit
    def collect(key):
        params = jax.tree.map(lambda x: x.astype(float), with_statistics(policy.init(key)))
        return params, algo.collect(params, key, tasks.sample(jax.random.key(seed + 1)))[0]

    return algo, policy, *collect(jax.random.key(seed))


def test_a_trial_replays_exactly():
    algo, policy, params, trial = stored()
    adapt = jax.jit(algo.adapt)
    first = adapt(params, trial).params
    chex.assert_trees_all_equal(first, adapt(params, trial).params)
    chex.assert_trees_all_equal(first["normalizer"], params["normalizer"])
    log_prob = jax.jit(lambda p, batch: policy.apply(p, batch.observation).log_prob(batch.action))
    for p, batch in ((params, jax.tree.map(lambda x: np.asarray(x)[0], trial.inner)), (first, trial.outer)):
        np.testing.assert_allclose(np.exp(log_prob(p, batch) - np.asarray(batch.log_prob)), 1.0, atol=1e-5)


def test_the_meta_gradient_is_that_of_finite_differences(x64):
    algo, _, params, trial = stored()
    loss = jax.jit(algo.meta_loss)
    grads = jax.jit(algo.meta_gradient)(params, trial)[1]
    chex.assert_trees_all_equal(grads["normalizer"], jax.tree.map(np.zeros_like, params["normalizer"]))
    assert all(np.any(g) for g in jax.tree.leaves(grads["actor"]))
    directions, unravel = random_directions(jax.random.key(5), params["actor"], 3)
    h, theta, slope = 1e-5, np.asarray(flat(params["actor"])), np.asarray(flat(grads["actor"]))
    for d in np.asarray(directions):
        plus, minus = (float(loss({**params, "actor": unravel(theta + s * h * d)}, trial)) for s in (1, -1))
        np.testing.assert_allclose(slope @ d, (plus - minus) / (2 * h), rtol=1e-6, atol=1e-9)


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

    assert np.min(late_return(True)) > 900
    assert np.max(late_return(False)) < 800
