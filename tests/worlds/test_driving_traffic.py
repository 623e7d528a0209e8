"""Driving-v0: other cars follow their model, stop for the agent, and never collide with one another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs import make
from metarl_jax.envs.driving import road, traffic
from metarl_jax.envs.driving.town import MAIN_ROAD, RIGHT
from metarl_jax.reference import driving as driver

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def env():
    return make("Driving-v0")[0]


def car(along=0.0, offset=0.0, heading=0.0, speed=5.0):
    return road.Car(*(jnp.asarray(x, float) for x in (along, offset, heading, speed)))


@pytest.mark.parametrize("speed", [5.0, 12.0])
def test_followers_settle_at_the_gap_of_the_model(speed):
    """The root of the IDM at equal speeds, found by bisection."""
    desired = 14.0

    def step(carry, _):
        v, gap = carry
        a = traffic.idm(v, desired, traffic.crowding(v, v - speed, gap))
        new = jnp.maximum(v + road.DT * a, 0)
        return (new, gap + road.DT * (speed - (v + new) / 2)), None

    (v, gap), _ = jax.jit(lambda: jax.lax.scan(step, (jnp.asarray(2.0), jnp.asarray(80.0)), length=6000))()
    low, high = 0.1, 500.0
    for _ in range(60):
        middle = (low + high) / 2
        wanted = traffic.STANDING_GAP + speed * traffic.HEADWAY
        low, high = (low, middle) if 1 - (speed / desired) ** 4 - (wanted / middle) ** 2 > 0 else (middle, high)
    assert float(v) == pytest.approx(speed, rel=1e-3) and float(gap) == pytest.approx(low, rel=5e-3)


@functools.cache
def long_drives(manner):
    """Traffic [town, step] around an agent that drives by the rules, without them, or as it likes."""
    env, tasks = make("Driving-v0", horizon=1000)

    def one(key):
        town = tasks.sample(key)
        _, state = env.reset_env(key, town)
        believed = env.params(RIGHT, 14.0, MAIN_ROAD) if manner == "wrong" else town

        def step(state, noise):
            action = driver.act(state, town, believed)
            if manner == "wild":  # swerves, speeds and stops for some seconds at a time
                t = state.time.astype(float)
                waves = jnp.stack([0.05 * jnp.sin(0.13 * t) - 0.3 * state.car.heading, jnp.sin(0.031 * t)])
                action = waves + 0.1 * noise
            _, state, _, _, _ = env.step_env(key, state, action, town)
            return state, (state.traffic, state.car)

        return town, jax.lax.scan(step, state, jax.random.normal(key, (1000, 2)))[1]

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(KEY, 24)))


@pytest.mark.parametrize("manner", ["informed", "wrong", "wild"])
def test_traffic_never_collides_with_itself(manner):
    towns, (others, cars) = long_drives(manner)
    assert (others.speed >= 0).all() and others.speed.max() < 25
    assert np.isfinite(others.along).all() and np.isfinite(cars.along).all()
    for a, b in ((0, 1), (2, 3)):
        apart = np.abs((others.along[..., a] - others.along[..., b] + 200) % traffic.RING - 200)
        assert apart.min() > road.LENGTH
    side = towns.side.astype(float)[:, None, None]
    there = (others.crossing[..., None] - cars.along[..., None] < traffic.TRIGGER) & (others.distance > -traffic.EXIT)
    cross_along = others.crossing[..., None] + side * road.LANE / 2 * np.array([1, -1])
    cross_across = others.distance * np.array([1, -1])
    lanes = side * road.LANE / 2 * np.array([1, 1, -1, -1])
    for i in range(2):
        along = np.abs((others.along - cross_along[..., i : i + 1] + 200) % traffic.RING - 200)
        across = np.abs(lanes - cross_across[..., i : i + 1])
        half = (road.LENGTH + road.WIDTH) / 2
        assert not ((along < half) & (across < half) & there[..., i : i + 1]).any()
    crossed = (np.abs(others.distance) < 2).any((1, 2))
    assert crossed[towns.priority != MAIN_ROAD].mean() > 0.5 if manner == "informed" else crossed.any()


def test_cars_stop_for_an_agent_in_their_lane(env):
    town = env.params(RIGHT, 14.0)
    for offset, waits in ((-1.75, slice(0, 2)), (1.75, slice(2, 4))):
        state = env.reset_env(KEY, town)[1]
        here = car(offset=offset, speed=0.0)
        others = jax.jit(lambda here, others: jax.lax.fori_loop(
            0, 600, lambda _, t: traffic.move(t, town.sign, town.limit, town.gives_way, here), others
        ))(here, state.traffic)  # fmt: skip
        assert np.asarray(others.speed)[waits].max() < 0.5 and np.asarray(others.speed).max() > 5


def test_cars_of_the_main_road_brake_for_a_car_in_the_box(env):
    town = env.params(RIGHT, 14.0)
    others = traffic.first_traffic(jnp.full(10, 0.5), town.sign, town.limit)
    others = others.replace(crossing=jnp.asarray(100.0), along=jnp.asarray([70.0, -100.0, 130.0, -150.0]))
    here = car(along=50.0, offset=-1.75)
    slower = {}
    for name, distance in (("in the box", 0.0), ("before it", 7.0), ("behind it", -7.0)):
        now = others.replace(distance=jnp.asarray([distance, 500.0]), crossing_speed=jnp.zeros(2))
        slower[name] = np.asarray(now.speed - traffic.move(now, town.sign, town.limit, town.gives_way, here).speed)
    assert (slower["in the box"][[0, 2]] > 0.2).all() and (slower["in the box"][[1, 3]] < 0.05).all()
    assert (slower["before it"] < 0.05).all() and (slower["behind it"] < 0.05).all()
