"""Trials: several episodes on one task as one, and everything that a learner with a memory is shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.envs.observations import features_of
from metarl_jax.envs.trial import episode_ends, episode_returns, trials
from metarl_jax.rl.rollout import rollout
from metarl_jax.rl.trials import sample_tasks, trial_rollout


def walk(env, task, actions, seed=0):
    """Observation [T + 1], reward, terminated and info of a fixed sequence of actions."""
    key = jax.random.key(seed)
    observation, state = env.reset_env(key, task)
    seen, rewards, ends, overs = [observation], [], [], []
    for i, action in enumerate(actions):
        step_key = jax.random.fold_in(key, i)
        observation, state, reward, terminated, info = env.step_env(step_key, state, action, task)
        seen.append(observation)
        rewards.append(float(reward))
        ends.append(bool(terminated))
        overs.append(bool(info["episode_over"]))
    return np.stack(seen), np.array(rewards), ends, overs


def test_what_is_shown_is_observation_action_reward_and_done():
    env, tasks = mrl.make("TabularMDP-v0", num_states=3, num_actions=2, horizon=2)
    trial = trials(env, tasks, 3)
    task = tasks.sample(jax.random.key(1))
    actions = [1, 0, 1, 1, 0, 0]
    seen, rewards, ends, overs = walk(trial, task, actions)
    assert trial.num_steps == 6 and seen.shape == (7, 3 + 1 + 2)
    np.testing.assert_array_equal(seen[0], [1, 0, 0, -1, 0, 0])  # state 0; nothing was done before
    np.testing.assert_array_equal(seen[1:, 3], actions)
    np.testing.assert_allclose(seen[1:, 4], rewards, rtol=1e-6)
    assert overs == [False, True] * 3 and ends == [False] * 5 + [True]
    np.testing.assert_array_equal(seen[1:, 5], overs)
    size, features = features_of(trial.observation_space())
    assert size == 3 + 2 + 2
    np.testing.assert_array_equal(features(seen)[0], [1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(features(seen)[1:, 3:5], np.eye(2)[actions])
    np.testing.assert_array_equal(seen[2::2, :3], [[1, 0, 0]] * 3)  # every episode starts in state 0


def test_the_task_stays_and_the_trial_ends_once():
    env, tasks = mrl.make("BernoulliBandit-v0", num_arms=2)
    trial = trials(env, tasks, 50)
    task = env.params(jnp.array([0.0, 1.0]))
    _, rewards, ends, _ = walk(trial, task, [1, 0] * 25)
    np.testing.assert_array_equal(rewards, [1, 0] * 25)
    assert ends == [False] * 49 + [True]


@pytest.mark.parametrize("name", ["gymnax:CartPole-v1", "gymnax:Pendulum-v1", "PointNavigation-v0"])
def test_any_environment_makes_trials(name):
    env, tasks = mrl.make(name)
    trial = trials(env, tasks, 2, horizon=30)
    space = trial.action_space()
    size = 1 if hasattr(space, "n") else space.shape[0]
    observed = env.observation_space(env.default_params).shape[0]
    act = jax.jit(lambda key: rollout(trial, random_policy(trial), {}, key, task, num_steps=60, num_envs=8)[0])
    task = tasks.sample(jax.random.key(0))
    data = act(jax.random.key(1))
    assert data.observation.shape == (60, 8, observed + size + 2)
    ends = np.asarray(episode_ends(data.next_observation) & (data.mask > 0))
    assert (ends.sum(axis=0) == 2).all(), "each trial has two episodes"
    before = np.asarray(data.observation)[1:, :, observed:-2]
    done = np.asarray(data.action)[:-1]
    alive = np.asarray(data.mask)[1:, :, None]
    shown = done[..., None] if done.ndim == 2 else done
    np.testing.assert_allclose(before * alive, shown * alive, rtol=1e-6)


def random_policy(env):
    from metarl_jax.meta.evaluation import uniform_policy

    return uniform_policy(env)


def test_episode_returns_add_up_each_episode():
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(7, 2))
    ends = np.array([[0, 0], [1, 0], [0, 1], [0, 0], [1, 0], [1, 1], [0, 0]], bool)
    got = episode_returns(jnp.asarray(reward), jnp.asarray(ends), 3)
    want = [
        [reward[:2, 0].sum(), reward[:3, 1].sum()],
        [reward[2:5, 0].sum(), reward[3:6, 1].sum()],
        [reward[5, 0], reward[6, 1]],
    ]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_one_task_for_each_column():
    env, tasks = mrl.make("BernoulliBandit-v0", num_arms=2)
    trial = trials(env, tasks, 4)
    task = jax.vmap(env.params)(jnp.array([[0.0, 0.0], [1.0, 1.0]]))
    policy = mrl.networks.recurrent_policy(trial, 4)
    params = policy.init(jax.random.key(0))
    data, scores = trial_rollout(
        trial, policy.step, policy.remember, params, jax.random.key(1), task, 2, one_task_each=True
    )
    np.testing.assert_array_equal(data.reward, [[0, 1]] * 4)
    np.testing.assert_array_equal(scores, [[0, 1]] * 4)


def test_tasks_are_repeated_for_their_trials():
    _, tasks = mrl.make("BernoulliBandit-v0", num_arms=3)
    drawn = sample_tasks(tasks.sample, jax.random.key(0), 3, 2).probs
    assert drawn.shape == (6, 3)
    np.testing.assert_array_equal(drawn[0::2], drawn[1::2])
    assert len(np.unique(np.asarray(drawn))) == 9


def test_the_same_arguments_give_the_same_instance():
    env, tasks = mrl.make("BernoulliBandit-v0")
    assert trials(env, tasks, 5) is trials(env, tasks, 5)


def test_what_cannot_be_a_trial_is_refused():
    env, tasks = mrl.make("BernoulliBandit-v0")
    with pytest.raises(ValueError, match="num_episodes must be an integer of at least 1, got 0"):
        trials(env, tasks, 0)
