"""Running statistics: against NumPy, in trials that replay, in every algorithm that keeps them, and where they pay."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import environment, spaces
from problems import BOTH, flat, normalized_point, of_family, random_directions, store_trial, with_statistics

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

    on_trials = trials(env, tasks, 2)
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
    env, tasks, policy = normalized_point(critic=True)
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


def test_each_task_divides_its_rewards_by_the_deviation_of_its_own_returns():
    """A task whose rewards are 100 times another's learns from the same numbers."""
    env, tasks = mrl.make("PointNavigation-v0", horizon=5)
    policy = mlp_policy(env, (4,), critic=True)
    params = policy.init(jax.random.key(0))
    data, _ = rollout(env, policy.apply, params, jax.random.key(1), tasks.sample(jax.random.key(2)), num_steps=5, num_envs=3)  # fmt: skip # noqa: E501
    data = dataclasses.replace(data, mask=data.mask.at[3:, 1].set(0))
    options = {"gamma": 0.9, "gae_lambda": 0.8, "baseline": "zero", "normalize_advantage": False}
    own = functools.partial(learners.prepare_batch, policy, params, normalize_task_rewards=True, **options)
    real = np.asarray(returns.running_returns(data.reward * data.mask, data.done, 0.9))[np.asarray(data.mask) > 0]
    sigma = real.std()
    scaled = dataclasses.replace(data, reward=data.reward / sigma)
    expected = learners.prepare_batch(policy, params, scaled, **options)
    np.testing.assert_allclose(own(data).advantage, expected.advantage, rtol=1e-4, atol=1e-5)
    hundredfold = dataclasses.replace(data, reward=100 * data.reward)
    np.testing.assert_allclose(own(hundredfold).advantage, own(data).advantage, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(own(dataclasses.replace(data, reward=0 * data.reward)).advantage, 0.0)
    assert own(data).running_return is None, "nothing to fold into statistics that all tasks share"

    memory = recurrent_policy(trials(env, tasks, 2), 4)
    size = jnp.array([1.0, 10.0, 0.1])
    trial = dataclasses.replace(
        data, reward=jnp.ones((5, 1)) * jnp.arange(1.0, 6)[:, None] * size, mask=jnp.ones((5, 3))
    )
    batch = scale_of_task(returns.running_returns(trial.reward, trial.done, 0.9), trial.mask, each_stream=True)
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
        return jax.jit(algo.step)(algo.init(jax.random.key(0)), jax.random.key(1))[0].params

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
