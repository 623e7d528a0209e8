"""What is read of an observation: one-hot where the space is discrete, everywhere the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import metarl_jax as mrl
from metarl_jax.envs.observations import flattener, state_index
from metarl_jax.envs.trial import trials
from metarl_jax.networks import mlp_policy
from metarl_jax.rl import learners
from metarl_jax.rl.rollout import rollout


class Seen:
    """Only an observation space."""

    name, default_params = "Seen", None

    def __init__(self, space):
        self.space = space

    def observation_space(self, params=None):
        return self.space


class Several:
    """A space of several discrete numbers at once, as gymnasium has it."""

    def __init__(self, nvec):
        self.nvec, self.shape = np.asarray(nvec), np.shape(nvec)


class OneHot:
    """FrozenLake that gives what it observes one-hot."""

    def __init__(self, env):
        self.env = env

    def __getattr__(self, name):
        return getattr(self.env, name)

    def reset_env(self, key, params):
        observation, state = self.env.reset_env(key, params)
        return jax.nn.one_hot(observation, 16), state

    def step_env(self, *args):
        observation, *rest = self.env.step_env(*args)
        return jax.nn.one_hot(observation, 16), *rest

    def observation_space(self, params=None):
        return spaces.Box(0.0, 1.0, (16,), jnp.float32)


@pytest.mark.parametrize("x64", [False, True])
def test_spaces(x64):
    with jax.enable_x64(x64):
        cases = [
            (spaces.Discrete(3), jnp.array([2, 0]), [[0, 0, 1], [1, 0, 0]]),
            (Several([2, 3]), jnp.array([[1, 0]]), [[0, 1, 1, 0, 0]]),
            (spaces.Box(0, 9, (2, 2), jnp.int32), jnp.array([[[7, 1], [2, 3]]]), [[7, 1, 2, 3]]),
            (spaces.Box(0.0, 1.0, (), jnp.float32), jnp.array([0.5]), [[0.5]]),
        ]
        for space, observation, expected in cases:
            size, flat = flattener(Seen(space))
            got = flat(observation)
            assert got.shape[-1] == size and got.dtype == jnp.result_type(float)
            np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="observation space Dict of Seen"):
        flattener(Seen(spaces.Dict({"a": spaces.Discrete(2)})))
    assert int(state_index(jnp.asarray(5))) == 5 and int(state_index(jnp.array([0.0, 1.0]))) == 1


def lake():
    env, tasks = mrl.make("gymnax:FrozenLake-misc")
    return env, OneHot(env), tasks


@pytest.mark.parametrize("baseline", ["critic", "linear"])
def test_an_update_reads_a_state_as_the_one_hot_environment_gives_it(baseline):
    env, one_hot, tasks = lake()
    task, after = tasks.sample(jax.random.key(0)), []
    for each in (env, one_hot):
        policy = mlp_policy(each, (8,), critic=baseline == "critic")
        params = policy.init(jax.random.key(1))
        data, _ = rollout(each, policy.apply, params, jax.random.key(2), task, num_steps=8, num_envs=4)
        learner = learners.ppo(policy, 0.1, num_minibatches=1, baseline=baseline)
        state = learner.init(params)
        batch = learner.prepare(state, data)
        after.append((batch.advantage, learner.update(state, jax.random.key(3), batch)[0].params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *after)


def test_the_linear_baseline_tells_states_beyond_10_apart():
    """It predicts a return for each of the states 10 to 15, where the clipped index would be one number."""
    env, _, tasks = lake()
    policy = mlp_policy(env, (8,))
    params = policy.init(jax.random.key(1))
    data, _ = rollout(
        env, policy.apply, params, jax.random.key(2), tasks.sample(jax.random.key(0)), num_steps=6, num_envs=1
    )
    ones = jnp.ones((6, 1))
    data = dataclasses.replace(
        data, observation=jnp.arange(10, 16)[:, None], reward=jnp.array([[3.0], [1.0], [4.0], [1.0], [5.0], [9.0]]),
        mask=ones, terminated=ones > 0, truncated=ones < 0, episode_length=jnp.ones((6, 1), int),
    )  # fmt: skip
    learner = learners.policy_gradient(policy)
    batch = learner.prepare(learner.init(params), data)
    np.testing.assert_allclose(batch.value, data.reward, atol=1e-2)


def test_networks_and_trials_share_the_features():
    env, _, tasks = lake()
    assert trials(env, tasks, 2, 5).observation_features[0] == flattener(env)[0] == 16
    rule = mrl.lpg(env, hidden=(4,), outcomes=2)
    params = rule.policy.init(jax.random.key(0))
    assert jax.tree.leaves(params["prediction"])[1].shape[0] == 16
    eta = mrl.lirpg(env, mlp_policy(env, (4,), critic=True), reward_hidden=(4,)).init(jax.random.key(0))
    assert eta["Dense_0"]["kernel"].shape[0] == 16 + 4
