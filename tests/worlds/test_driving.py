"""Driving-v0: each rule is charged when it is broken, and episodes, towns, options and runs are as they say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs import make
from metarl_jax.envs.driving import road, traffic
from metarl_jax.envs.driving.town import COSTS, LEFT, MAIN_ROAD, RIGHT
from metarl_jax.options import ConfigError
from metarl_jax.runs import train
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def env():
    return make("Driving-v0")[0]


def car(along=0.0, offset=0.0, heading=0.0, speed=5.0):
    return road.Car(*(jnp.asarray(x, float) for x in (along, offset, heading, speed)))


# --- rules -------------------------------------------------------------------------------------------------------


def charged(env, town, here, distance=(500.0, 500.0), crossing_speed=(0.0, 0.0), crossing=100.0, lanes=None):
    """Names of what is charged in a state."""
    others = traffic.first_traffic(jnp.full(10, 0.5), town.sign, town.limit).replace(
        crossing=jnp.asarray(crossing),
        distance=jnp.asarray(distance),
        crossing_speed=jnp.asarray(crossing_speed),
        along=jnp.asarray([150.0, -150.0, 150.0, -150.0] if lanes is None else lanes),
    )
    return {name for name, cost in zip(COSTS, env.costs(here, others, town), strict=True) if cost > 0}


def test_each_cost_is_charged_exactly_when_its_rule_is_broken(env):
    left, right = (env.params(side, 12.0, MAIN_ROAD) for side in (LEFT, RIGHT))
    assert charged(env, right, car(offset=-1.0)) == set() and charged(env, left, car(offset=1.0)) == set()
    assert charged(env, right, car(offset=1.0)) == {"wrong_side"} == charged(env, left, car(offset=-1.0))
    assert charged(env, right, car(offset=0.0)) == set()
    assert charged(env, right, car(offset=-1.0, speed=12.01)) == {"speeding"}
    assert charged(env, right, car(offset=-1.0, speed=11.99)) == set()
    assert charged(env, right, car(offset=-3.6)) == {"off_road"} and charged(env, right, car(offset=-3.4)) == set()
    assert charged(env, right, car(offset=-1.75), lanes=[4.4, 150, 150, -150]) == {"collision"}
    assert charged(env, right, car(offset=-1.75), lanes=[4.6, 150, 150, -150]) == set()
    assert charged(env, right, car(offset=-1.75), lanes=[150, -150, 0, -150]) == set()  # it passes
    assert charged(env, right, car(offset=0.1), lanes=[150, -150, 0, -150]) == {"collision", "wrong_side"}


@pytest.mark.parametrize("priority", [LEFT, RIGHT, MAIN_ROAD])
def test_the_right_of_way_is_taken_in_the_box_only_and_only_from_who_has_it(env, priority):
    town = env.params(RIGHT, 12.0, priority)
    for index, who in ((0, LEFT), (1, RIGHT)):
        for along, distance, speed, near in (
            (97.0, 15.0, 8.0, True), (97.0, 17.9, 8.0, True), (97.0, 18.1, 8.0, False),
            (97.0, 15.0, 2.0, False), (97.0, 30.0, 8.0, False), (97.0, -7.0, 8.0, False),
            (90.0, 15.0, 8.0, False), (110.0, 15.0, 8.0, False),
        ):  # fmt: skip
            distances, speeds = [500.0, 500.0], [0.0, 0.0]
            distances[index], speeds[index] = distance, speed
            found = charged(env, town, car(along=along, offset=-1.75), distances, speeds)
            assert found == ({"right_of_way"} if near and who == priority else set())


def test_the_reward_is_progress_less_the_costs(env):
    town = env.params(RIGHT, 12.0, RIGHT, 2.0)
    state = env.reset_env(KEY, town)[1]
    heavy, _ = make("Driving-v0", wrong_side_cost=4.0)
    for offset, speed, costs, heavier in ((-1.0, 6.0, 0.0, 0.0), (1.0, 6.0, 1.0, 4.0), (1.0, 15.0, 1.6, 4.6)):
        now = state.replace(car=car(offset=offset, speed=speed), bends=jnp.zeros(2))
        for one, cost in ((env, costs), (heavy, heavier)):
            _, after, reward, terminated, info = one.step_env(KEY, now, jnp.zeros(2), town)
            assert float(reward) == pytest.approx(speed / 15 - cost, abs=1e-5) and not terminated
        assert bool(info["wrong_side"]) == (offset > 0) and bool(info["speeding"]) == (speed > 12)
        assert not (info["collision"] or info["off_road"] or info["right_of_way"])
        again = env.step_env(KEY, after.replace(car=car(offset=-1.0)), jnp.zeros(2), town)[4]
        assert bool(again["wrong_side"]) == (offset > 0) and float(again["costs"].sum()) == 0  # it has happened


def test_a_collision_terminates_and_the_clock_truncates(env):
    town = env.params(RIGHT, 14.0)
    state = env.reset_env(KEY, town)[1]
    others = state.traffic.replace(along=jnp.asarray([8.0, 200.0, 100.0, -100.0]), speed=jnp.zeros(4))
    crash = state.replace(car=car(offset=-1.75, speed=20.0), traffic=others, bends=jnp.zeros(2))
    for _ in range(3):
        _, crash, reward, terminated, info = env.step_env(KEY, crash, jnp.zeros(2), town)
        if terminated:
            break
    assert terminated and info["collision"] and reward < -25 and not env.is_truncated(crash, town)
    assert env.is_truncated(state.replace(time=jnp.asarray(300)), town)
    assert not env.is_truncated(state.replace(time=jnp.asarray(299)), town)


# --- episodes ----------------------------------------------------------------------------------------------------


def episode(env, key, town, actions):
    obs, state = env.reset_env(key, town)

    def step(state, action):
        obs, state, reward, terminated, _ = env.step_env(key, state, action, town)
        return state, (obs, reward, terminated)

    return obs, jax.lax.scan(step, state, actions)[1]


def test_mirrored_towns_give_mirrored_episodes(env):
    drives = jax.jit(jax.vmap(functools.partial(episode, env)))
    keys = jax.random.split(KEY, 16)
    sides = np.resize([LEFT, RIGHT], 16)
    priority = np.resize([LEFT, LEFT, RIGHT, MAIN_ROAD, RIGHT], 16)
    towns, mirrored = (jax.vmap(lambda s, p: env.params(s, 13.0, p, 0.6))(s * sides, s * priority) for s in (1, -1))
    actions = 0.2 * jax.random.normal(jax.random.key(1), (16, 200, 2)).at[..., 1].add(0.1)
    first, (obs, reward, terminated) = drives(keys, towns, actions)
    other_first, (other_obs, other_reward, other_terminated) = drives(keys, mirrored, actions * jnp.asarray([-1, 1]))

    def mirror(x):
        rays = [x[..., :11][..., ::-1], x[..., 11:22][..., ::-1]]
        return np.concatenate([*rays, x[..., 22:] * np.array([-1, -1, 1, 1, 1, -1, -1, -1])], axis=-1)

    np.testing.assert_allclose(mirror(np.asarray(first)), other_first, atol=1e-5)
    alike = np.isclose(reward, other_reward, atol=1e-3)
    assert alike.mean() > 0.995  # rounding may charge a cost one step later
    assert np.median(np.abs(mirror(np.asarray(obs)) - np.asarray(other_obs))) < 1e-5
    assert (
        len(np.unique(np.asarray(reward).sum(1))) == 16 and (np.asarray(terminated) == other_terminated).mean() > 0.995
    )


def test_rules_are_not_observed_at_the_start(env):
    first = np.asarray(env.reset_env(KEY, env.params(RIGHT, 10.0, LEFT, 0.4))[0])
    for town in (
        env.params(RIGHT, 18.0, LEFT, 0.4),
        env.params(RIGHT, 10.0, RIGHT, 0.4),
        env.params(RIGHT, 10.0, LEFT, 0.9),
    ):
        np.testing.assert_array_equal(env.reset_env(KEY, town)[0], first)
    assert first.shape == env.observation_space().shape and first[22] == 0


def test_episodes_are_a_function_of_the_key_however_they_are_run(env):
    town = env.params(LEFT, 15.0, RIGHT)
    actions = 0.3 * jax.random.normal(KEY, (30, 2))
    run = jax.jit(functools.partial(episode, env))
    first, (obs, reward, _) = run(KEY, town, actions)
    again_first, (again, *_rest) = run(KEY, town, actions)
    np.testing.assert_array_equal(obs, again)
    np.testing.assert_array_equal(first, again_first)
    assert np.abs(np.asarray(run(jax.random.key(9), town, actions)[1][0]) - obs).max() > 0.01
    many = jax.jit(jax.vmap(functools.partial(episode, env), (0, None, None)))(jax.random.split(KEY, 3), town, actions)
    alone = run(jax.random.split(KEY, 3)[1], town, actions)
    np.testing.assert_allclose(many[1][0][1], alone[1][0], atol=1e-4)
    state, step = env.reset_env(KEY, town)[1], jax.jit(env.step_env)
    for t in range(5):
        seen, state, paid, _, _ = step(jax.random.key(t), state, actions[t], town)  # a step reads no key
        np.testing.assert_allclose(seen, obs[t], atol=1e-4)
        assert float(paid) == pytest.approx(float(reward[t]), abs=1e-4)


def test_towns_are_drawn_from_what_the_options_say():
    _, tasks = make("Driving-v0", min_limit=11.0, max_limit=12.0, min_grip=0.5, max_grip=0.6)
    towns = jax.tree.map(np.asarray, jax.jit(jax.vmap(tasks.sample))(jax.random.split(KEY, 600)))
    assert ((towns.limit >= 11) & (towns.limit <= 12)).all() and np.ptp(towns.limit) > 0.9
    assert ((towns.grip >= 0.5) & (towns.grip <= 0.6)).all() and np.ptp(towns.grip) > 0.09
    assert set(towns.side.tolist()) == {-1, 1} and abs(towns.side.mean()) < 0.15
    np.testing.assert_allclose(np.unique(towns.priority, return_counts=True)[1] / 600, 1 / 3, atol=0.08)


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("horizon", 0, "horizon must be an integer of at least 1, got 0"),
        ("min_limit", 0.0, "min_limit must be a finite number above 0, got 0.0"),
        ("min_limit", 19.0, "min_limit must be at most max_limit = 18.0, got 19.0"),
        ("max_limit", 26.0, "max_limit must be at most 25, got 26.0"),
        ("min_grip", 1.0, "min_grip must be at most max_grip = 0.9, got 1.0"),
        ("max_grip", 3.0, "max_grip must be at most 2, got 3.0"),
        *((f"{name}_cost", -1.0, f"{name}_cost must be a finite number of at least 0, got -1.0") for name in COSTS),
        ("collision_cost", "much", "collision_cost must be a finite number, got 'much'"),
    ],
)
def test_bad_options_are_told_in_one_line(option, value, message):
    with pytest.raises(ValueError) as error:
        make("Driving-v0", **{option: value})
    assert str(error.value) == message


TINY = {"env": "Driving-v0", "num_iterations": 2, "meta_batch_size": 2, "eval_tasks": 2}
RUNS = {
    "rl2": {"num_episodes": 2, "horizon": 12, "size": 4, "num_minibatches": 1},
    "promp": {"horizon": 12, "episodes_per_task": 2, "hidden": [4], "outer_epochs": 1},
}


@pytest.mark.parametrize("algorithm", [*RUNS])
def test_configurations_train(algorithm, tmp_path):
    job = build(validate({"algorithm": algorithm, **TINY, **RUNS[algorithm]}))
    rows = []
    states = train.train(job, tmp_path / "run", report=lambda _: None, on_metrics=rows.append)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(states) if jnp.issubdtype(x.dtype, jnp.floating))
    assert len(rows) == 2 and any("collision" in name for name in rows[0]), sorted(rows[0])
    with pytest.raises(ConfigError, match="max_limit must be at most 25"):
        build(validate({"algorithm": algorithm, **TINY, **RUNS[algorithm], "env_options": {"max_limit": 30.0}}))
