"""Late rewards: every return is what it was, nothing is paid in between, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs import make
from metarl_jax.meta import evaluation
from metarl_jax.rl.rollout import rollout

KEY = jax.random.key(0)


def played(env, task, **options):
    act = evaluation.uniform_policy(env)
    return jax.jit(lambda: rollout(env, act, {}, KEY, task, **{"num_steps": 40, "num_envs": 8, **options})[0])()


@pytest.mark.parametrize(
    "name, options", [("CartPolePhysics-v0", {"horizon": 30}), ("PointNavigation-v0", {"horizon": 30})]
)
def test_the_same_episodes_paid_late(name, options):
    """CartPole terminates, and truncates at 30; the point is truncated: what is saved up is paid either way."""
    prompt, late = make(name, **options), make(f"Delayed:{name}", every=7, **options)
    task = prompt[1].sample(KEY)
    here, there = played(prompt[0], task), played(late[0], task)
    np.testing.assert_array_equal(here.observation, there.observation)
    np.testing.assert_array_equal(here.done, there.done)
    np.testing.assert_allclose(here.episode_return[-1], there.episode_return[-1], rtol=1e-5)
    time = np.arange(1, 41)[:, None]
    is_paid = (time % 7 == 0) | np.asarray(there.done)
    assert (np.asarray(there.reward)[~is_paid] == 0).all()
    saved = np.cumsum(np.asarray(here.reward), axis=0)
    np.testing.assert_allclose(np.asarray(there.episode_return)[is_paid], saved[is_paid], rtol=1e-5)


def test_nothing_is_left_over_for_the_next_episode():
    env, tasks = make("Delayed:CartPolePhysics-v0", every=1000)
    data = played(env, tasks.sample(KEY), num_steps=200, auto_reset=True)
    done = np.asarray(data.done)
    assert done.sum() > 20
    np.testing.assert_array_equal(np.asarray(data.reward)[done], np.asarray(data.episode_length)[done])


def test_it_is_another_environment_with_the_same_tasks():
    env, tasks = make("Delayed:PointNavigation-v0", every=5)
    assert env is make("Delayed:PointNavigation-v0", every=5)[0] and env is not make("Delayed:PointNavigation-v0")[0]
    plain, same = make("PointNavigation-v0")
    jax.tree.map(np.testing.assert_array_equal, tasks.sample(KEY), same.sample(KEY))
    assert tasks.horizon == same.horizon and "paid every 5 steps" in tasks.description
    params = env.default_params
    assert env.observation_space(params).shape == plain.observation_space(params).shape
    assert float(jnp.max(env.action_space(params).high)) == float(jnp.max(plain.action_space(params).high))


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("Delayed:PointNavigation-v9", {}, "unknown environment 'PointNavigation-v9'; did you mean PointNavigation-v"),
        ("Delayed:PointNavigation-v0", {"every": 0}, "every must be an integer of at least 1, got 0"),
        ("Delayed:PointNavigation-v0", {"horizn": 3}, "has no option 'horizn' .*did you mean horizon"),
        ("Delayed:PointNavigation-v0", {"evry": 3}, "has no option 'evry' .*; of Delayed: every"),
        ("Delayed:XOR-v0", {}, "XOR-v0: has no rewards that could be late"),
    ],
)
def test_bad_input_is_one_line(name, options, said):
    with pytest.raises(ValueError, match=said):
        make(name, **options)
