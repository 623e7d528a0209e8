"""Families of walking robots: closed loop against gymnasium, rewards by their formulas, what may vary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import double_precision

mujoco = pytest.importorskip("mujoco")
gymnasium = pytest.importorskip("gymnasium")

from metarl_jax.envs import make  # noqa: E402
from metarl_jax.rl.rollout import episode_returns, rollout  # noqa: E402

CHEETAHS, ANTS = ("HalfCheetahDir-v0", "HalfCheetahVel-v0"), ("AntDir-v0", "AntGoal-v0")
NAMES = (*CHEETAHS, *ANTS, "Walker2DRandParams-v0", "HopperRandParams-v0")
STEPS = 1200


def gaits(size, seed):
    """Actions [STEPS, size]: a quarter uniform, then swinging joints, which make robots run and fall."""
    rng = np.random.default_rng(seed)
    random = rng.uniform(-1, 1, (STEPS, size))
    swing = 0.8 * np.sin(0.4 * np.arange(STEPS)[:, None] + rng.uniform(0, 6, size)) + 0.2 * random
    return np.where(np.arange(STEPS)[:, None] < STEPS // 4, random, np.clip(swing, -1, 1))


@pytest.mark.parametrize(
    "ours,theirs,options,shown",
    [
        ("HalfCheetahDir-v0", "HalfCheetah-v5", {}, slice(None)),
        ("AntDir-v0", "Ant-v5", {"contact_observations": True}, slice(None)),
        ("Walker2DRandParams-v0", "Walker2d-v5", {}, slice(None)),
        ("HopperRandParams-v0", "Hopper-v5", {}, slice(None)),
    ],
)
def test_closed_loop_with_gymnasium(ours, theirs, options, shown):
    """1,200 steps, ours from its own states: observations to 1e-6 (they agree to the bit), in float64."""
    peer = gymnasium.make(theirs).unwrapped
    peer.reset(seed=0)
    with double_precision():
        env, _ = make(ours, horizon=STEPS, **options)
        task, model = env.default_params, env.physics.model
        _, state = env.reset_env(jax.random.key(0), task)
        first = np.zeros(model.state_size)
        mujoco.mj_getState(peer.model, peer.data, first, model.state_bits)
        state = state.replace(physics=jnp.asarray(first))
        actions = gaits(model.ctrl_size, seed=1)

        @jax.jit
        def run(state, actions):
            def step(state, action):
                physics, seen = env.physics.step(state.physics, action, task.patch)  # past the end of an episode too
                seen.pop("unstable")
                state = state.replace(physics=physics, seen=seen)
                return state, env.get_obs(state, task)

            return jax.lax.scan(step, state, actions)[1]

        found = np.asarray(run(state, jnp.asarray(actions)))
    expected = np.stack([peer.step(action)[0] for action in actions])
    np.testing.assert_allclose(found, expected[:, shown], rtol=0, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 1  # the robot did move


@functools.cache
def stepped(name, **options):
    """An environment and 30 steps of it: task, states, actions, observations, rewards, terminated."""
    env, tasks = make(name, **options)
    task = tasks.sample(jax.random.key(1))

    @jax.jit
    def run(task):
        _, state = env.reset_env(jax.random.key(2), task)
        actions = jax.random.uniform(jax.random.key(3), (30, env.num_actions), float, -1.5, 1.5)

        def step(state, action):
            seen = env.step_env(jax.random.key(0), state, action, task)
            return seen[1], (state, *seen[:4])

        return actions, jax.lax.scan(step, state, actions)[1]

    actions, (before, observation, after, reward, ended) = run(task)
    applied = np.clip(actions * options.get("action_scale", 1.0), -1, 1)
    return env, task, before, applied, observation, after, reward, ended


def velocities(env, before, after, axes):
    model = env.physics.model
    return (model.part(after.physics, "QPOS")[:, axes] - model.part(before.physics, "QPOS")[:, axes]) / model.dt


def contacts(after):
    return 5e-4 * np.sum(np.clip(after.seen["contacts"], -1, 1) ** 2, axis=(1, 2))


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_rewards_of_the_cheetah(scale):
    env, task, before, actions, observation, after, reward, ended = stepped("HalfCheetahDir-v0", action_scale=scale)
    v = velocities(env, before, after, 0)
    np.testing.assert_allclose(reward, task.goal * v - 0.05 * np.sum(actions**2, axis=1), rtol=1e-3, atol=1e-4)
    assert observation.shape == (30, 17) and abs(task.goal) == 1 and not ended.any()
    env, task, before, actions, _, after, reward, _ = stepped("HalfCheetahVel-v0", action_scale=scale)
    v = velocities(env, before, after, 0)
    np.testing.assert_allclose(reward, -abs(v - task.goal) - 0.05 * np.sum(actions**2, axis=1), rtol=1e-3, atol=1e-4)


def test_rewards_of_the_ant():
    env, task, before, actions, observation, after, reward, ended = stepped("AntDir-v0", survive_bonus=0.05)
    along = velocities(env, before, after, slice(2)) @ task.goal
    expected = along - 0.5 * np.sum(actions**2, axis=1) - contacts(after) + 0.05
    np.testing.assert_allclose(reward, expected, rtol=1e-3, atol=1e-4)
    assert observation.shape == (30, 27) and contacts(after).max() > 0
    height = env.physics.model.part(after.physics, "QPOS")[:, 2]
    assert np.array_equal(ended, (height < 0.2) | (height > 1))
    env, task, before, actions, observation, after, reward, ended = stepped("AntGoal-v0")
    where = env.physics.model.part(after.physics, "QPOS")[:, :2]
    expected = -np.abs(where - task.goal).sum(axis=1) - 0.1 * np.sum(actions**2, axis=1) - contacts(after)
    np.testing.assert_allclose(reward, expected, rtol=1e-3, atol=1e-4)
    assert observation.shape == (30, 29) and not ended.any()


def test_no_contact_has_a_force_where_the_ant_starts():
    """So that its first observation needs no physics."""
    env, _ = make("AntDir-v0")
    _, states = jax.vmap(env.reset_env, in_axes=(0, None))(jax.random.split(jax.random.key(1), 500), env.default_params)
    assert not np.any(jax.vmap(env.physics.look)(states.physics)["contacts"])
    assert np.array_equal(states.seen["contacts"], jnp.zeros_like(states.seen["contacts"]))


@pytest.mark.parametrize("name,size", [("Walker2DRandParams-v0", 17), ("HopperRandParams-v0", 11)])
def test_rewards_on_two_legs_and_one(name, size):
    env, task, before, actions, observation, after, reward, ended = stepped(name)
    live = np.concatenate([[True], ~np.maximum.accumulate(ended)[:-1]])
    expected = velocities(env, before, after, 0) + 1 - 1e-3 * np.sum(actions**2, axis=1)
    np.testing.assert_allclose(reward[live], expected[live], rtol=2e-3, atol=2e-3)
    assert observation.shape == (30, size)


def test_parameters_vary_around_those_of_the_xml():
    env, tasks = make("Walker2DRandParams-v0")
    drawn = jax.vmap(tasks.sample)(jax.random.split(jax.random.key(0), 200)).patch
    for name, own in env.physics.model.default_patch().items():
        base = 1.3 if name == "dof_damping" else 1.5
        own, found = np.asarray(own), np.asarray(drawn[name])
        exponent = np.log(np.where(own > 0, found, 1) / np.where(own > 0, own, 1)) / np.log(base)
        assert np.all(found[:, own == 0] == 0)
        varied = exponent[:, own > 0]
        assert abs(varied.mean()) < 0.15 and -3.01 < varied.min() < -2.9 and 2.9 < varied.max() < 3.01
        assert len(np.unique(varied[0])) == varied.shape[1]  # a factor for every number


def test_a_patch_changes_what_happens():
    env, tasks = make("HopperRandParams-v0")
    a, b = (tasks.sample(jax.random.key(i)) for i in range(2))
    _, state = env.reset_env(jax.random.key(0), a)
    found = [env.step_env(jax.random.key(0), state, jnp.ones(3), task)[0] for task in (a, b)]
    assert not np.allclose(found[0], found[1])


@pytest.mark.parametrize("name", NAMES)
def test_rollouts_of_every_family(name):
    env, tasks = make(name, horizon=12)

    def act(params, observation):
        import distrax

        zeros = jnp.zeros((observation.shape[0], env.num_actions))
        return distrax.MultivariateNormalDiag(zeros, jnp.ones_like(zeros))

    @jax.jit
    @jax.vmap
    def run(key):
        task_key, key = jax.random.split(key)
        return rollout(env, act, {}, key, tasks.sample(task_key), num_steps=12, num_envs=3)[0]

    data = run(jax.random.split(jax.random.key(0), 2))
    assert np.isfinite(jax.vmap(episode_returns)(data)).all() and data.observation.shape[:3] == (2, 12, 3)
    assert np.all(data.done.sum(axis=1) == 1)


def test_equal_arguments_give_the_same_environment():
    assert make("AntDir-v0")[0] is make("AntDir-v0")[0] and make("AntDir-v0", horizon=5)[0] is not make("AntDir-v0")[0]


@pytest.mark.parametrize(
    "name,options,message",
    [
        ("AntDir-v0", {"directions": "up"}, "directions = up: must be one of all, forward_backward"),
        ("AntDir-v0", {"survive_bonus": -1}, "survive_bonus"),
        ("HalfCheetahVel-v0", {"max_velocity": 0}, "max_velocity"),
        ("HalfCheetahDir-v0", {"action_scale": float("nan")}, "action_scale"),
        ("HalfCheetahDir-v0", {"horizon": 0}, "horizon"),
        ("HalfCheetahDir-v0", {"backend": "gpu"}, "backend = gpu: must be one of auto, c, mjx"),
        ("HalfCheetahDirr-v0", {}, "did you mean HalfCheetahDir-v0"),
    ],
)
def test_bad_options_are_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        make(name, **options)
    assert "\n" not in str(error.value)
