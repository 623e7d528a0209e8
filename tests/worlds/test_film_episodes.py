"""What films show, replayed step by step: the episodes that are played, each up to its end, and their returns."""

import types

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.runs import config, film
from metarl_jax.runs.build import build

SMALL = {"num_seeds": 1, "num_iterations": 1, "iterations_per_call": 1, "meta_batch_size": 2, "eval_tasks": 3}
ON_TRIALS = {"num_episodes": 3, "size": 4, "num_minibatches": 1, "num_epochs": 1}
BY_GRADIENT = {"episodes_per_task": 2, "hidden": [4]}
HORIZON, KEY = 8, jax.random.key(6)


def _job(name, sizes):
    """(job, first parameters, a town)."""
    shipped = config.load(config.shipped_config(name))
    job = build(shipped.model_copy(update={**SMALL, **sizes, "env_options": {"horizon": HORIZON}}))
    params = jax.jit(lambda key: job.params(job.algorithm.init(key)))(jax.random.key(0))
    return job, params, job.evaluation_tasks(1)


def _places(states):
    return np.asarray(states.car.along)


def test_a_film_of_a_trial_shows_its_first_and_its_last_episode():
    job, params, tasks = _job("rl2_driving", ON_TRIALS)
    task = jax.tree.map(lambda x: x[0], tasks)
    found = film._episodes(job, jax.jit(film._player(job))(params, KEY, task))

    @jax.jit
    def step(observation, state, memory, key):
        memory, distribution = job.policy.step(params, memory, observation[None])
        action = distribution.sample(seed=key)[0]
        reached = job.env.env.step_env(jax.random.split(key)[0], state.env_state, action, task)[1]
        observation, state, reward, terminated, info = job.env.step_env(key, state, action, task)
        return (observation, state, memory), (reached.car.along, reward, info["episode_over"], terminated)

    key = jax.random.split(KEY)[1]
    carry, episodes = (*job.env.reset_env(key, task), job.policy.remember(1)), [[]]
    for step_key in jax.random.split(key, job.env.num_steps):
        carry, (place, reward, over, done) = step(*carry, step_key)
        episodes[-1].append((float(place), float(reward)))
        if done:
            break
        if over:  # `step_env` of a trial has begun the next one by itself
            episodes.append([])
    assert len(episodes) == 3
    for (states, total), played in zip(found, (episodes[0], episodes[-1]), strict=True):
        places, rewards = np.array(played).T
        np.testing.assert_allclose(_places(states), places, rtol=1e-5)
        np.testing.assert_array_equal(states.time, np.arange(1, len(played) + 1))
        assert total == pytest.approx(rewards.sum(), abs=1e-4)


def test_a_film_of_an_update_shows_the_policies_before_and_after_it():
    job, params, tasks = _job("promp_driving", BY_GRADIENT)
    task = jax.tree.map(lambda x: x[0], tasks)
    found = film._episodes(job, jax.jit(film._player(job))(params, KEY, task))
    collect_key, act_key = jax.random.split(KEY)

    @jax.jit
    def adapted():
        trial, _ = job.algorithm.collect(params, collect_key, task, num_updates=1)
        return job.algorithm.adapt(params, trial).params

    @jax.jit
    def step(acting, observation, state, key):
        action = job.policy.apply(acting, observation[None]).sample(seed=key)[0]
        return job.env.step_env(key, state, action, task)[:4]

    after = adapted()
    reset_key, key = jax.random.split(act_key)
    observation, state = job.env.reset_env(reset_key, task)
    places, total = [], 0.0
    for step_key in jax.random.split(key, HORIZON):
        observation, state, reward, terminated = step(after, observation, state, step_key)
        places, total = [*places, float(state.car.along)], total + float(reward)
        if terminated:
            break
    np.testing.assert_allclose(_places(found[1][0]), places, rtol=1e-5)
    assert found[1][1] == pytest.approx(total, abs=1e-4)
    assert np.abs(_places(found[0][0])[-1] - places[-1]) > 1e-6  # the same draws, another policy


def test_episodes_end_where_they_end():
    job = types.SimpleNamespace(env=types.SimpleNamespace(num_episodes=3))
    states, rewards = np.arange(9), np.arange(9.0) ** 2
    ends = np.isin(states, (2, 3, 7, 8))  # what is after the third end is no part of the trial
    (first, a), (last, b) = film._episodes(job, (states, rewards, ends))
    assert first.tolist() == [0, 1, 2] and last.tolist() == [4, 5, 6, 7]
    assert (a, b) == (0 + 1 + 4, 16 + 25 + 36 + 49)
    twice = [(states[:5], rewards[:5], np.isin(states[:5], over)) for over in ((2, 4), (4,))]
    (before, a), (after, b) = film._episodes(job, twice)
    assert before.tolist() == [0, 1, 2] and after.tolist() == [0, 1, 2, 3, 4]
    assert (a, b) == (5.0, 30.0)


def test_a_filmed_episode_ends_where_the_environment_cuts_it_off():
    def step_env(key, state, action, task):
        return state[None], state + 1, action * 1.0, state < 0, {}

    clock = types.SimpleNamespace(
        reset_env=lambda key, task: (jnp.zeros(1, int), jnp.zeros((), int)),
        step_env=step_env,
        is_truncated=lambda state, task: state >= task,
    )
    policy = types.SimpleNamespace(apply=lambda params, seen: distrax.Categorical(jnp.array([[0.0, -jnp.inf]])))
    job = types.SimpleNamespace(env=clock, policy=policy, horizon=6)
    assert film._episode(job, None, KEY, 4)[2].tolist() == [False, False, False, True, True, True]
    assert film._episode(job, None, KEY, 9)[2].tolist() == [False] * 5 + [True]
