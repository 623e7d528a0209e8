"""Pictures of driving beside the plane's own arithmetic: other cars, the crossing, the paint, and headings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs import make
from metarl_jax.envs.driving import picture

WIDTH, HEIGHT = picture.SIZE
AHEAD, DISTANCE = np.array([25.0, -12.0, 40.0, 8.0]), np.array([15.0, 9.0])  # m: the cars of both roads
TO_CROSSING = 55.0  # m


@pytest.fixture(scope="module")
def env():
    return make("Driving-v0")[0]


def _scene(env, side, offset=-0.6, heading=0.0, bend=0.0, along=37.3):
    """(one state with every car in sight, the town)."""
    town = env.params(side)
    _, state = env.reset_env(jax.random.key(0), town)
    where = {"along": along, "offset": offset, "heading": heading}
    car = state.car._replace(**{name: jnp.asarray(value) for name, value in where.items()})
    others = state.traffic.replace(
        along=jnp.asarray(along + AHEAD),
        crossing=jnp.asarray(along + TO_CROSSING),
        distance=jnp.asarray(DISTANCE),
    )
    bends = {"bends": jnp.asarray([bend, 0.0]), "phases": jnp.asarray([0.4, 0.0])}
    return state.replace(car=car, traffic=others, **bends), town


def _drawn(env, state, town):
    return env.frames(jax.tree.map(lambda x: x[None], state), town)[0].astype(int)


def _pixel(ahead, left):
    """(row, column) of a point of a straight road, m from the agent's place on the centre line."""
    return round(HEIGHT / 2 - 4 * left), round(4 * (20 + ahead))


def _is(frame, at, colour):
    return np.abs(frame[at] - colour).max() < 12


@pytest.mark.parametrize("side", (1, -1))
def test_other_cars_stand_where_the_traffic_has_them(env, side):
    state, town = _scene(env, side)
    frame = _drawn(env, state, town)
    lanes = zip(AHEAD, 1.75 * side * np.array([1, 1, -1, -1]), strict=True)
    cars = [(x, y, 2.25, 0.9) for x, y in lanes]
    cars += [(TO_CROSSING + 1.75 * side, DISTANCE[0], 0.9, 2.25), (TO_CROSSING - 1.75 * side, -DISTANCE[1], 0.9, 2.25)]
    for x, y, half_along, half_across in cars:
        for i, j in ((0, 0), (0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7)):
            assert _is(frame, _pixel(x + i * half_along, y + j * half_across), picture.OTHER), (x, y)
        for i, j in ((1.5, 0), (-1.5, 0), (0, 1.5), (0, -1.5)):
            assert not _is(frame, _pixel(x + i * half_along, y + j * half_across), picture.OTHER), (x, y)


def test_the_crossing_is_as_far_as_it_is_and_as_wide(env):
    state, town = _scene(env, 1)
    frame = _drawn(env, state, town)
    for left in (18.0, 22.0, -6.0):
        for off in (-4.0, -3.0, 3.0, 4.0):
            colour = picture.ASPHALT if abs(off) < 3.5 else picture.GRASS
            assert _is(frame, _pixel(TO_CROSSING + off, left), colour), (left, off)


def test_the_paint_of_the_road_stays_where_it_is(env):
    for along in (37.3, 39.0, 44.9):
        state, town = _scene(env, 1, offset=1.75, along=along)
        frame = _drawn(env, state, town)
        for place in np.arange(np.ceil(along - 18), along + 50):
            phase = place % 8
            if phase in (1, 2, 3):
                assert not _is(frame, _pixel(place - along, 0.0), picture.PAINT)
            elif phase in (5, 6, 7):
                assert frame[_pixel(place - along, 0.0)].min() > 170, (along, place)


@pytest.mark.parametrize("heading", (0.5, -0.3))
def test_the_car_points_along_its_heading(env, heading):
    state, town = _scene(env, -1, offset=-1.75, heading=heading)
    rows, columns = np.nonzero((np.abs(_drawn(env, state, town) - picture.AGENT) < 40).all(axis=-1))
    axis = np.linalg.eigh(np.cov(columns, -rows))[1][:, -1]
    assert np.arctan(axis[1] / axis[0]) == pytest.approx(heading, abs=0.04)


def test_other_cars_follow_the_bends(env):
    state, town = _scene(env, 1, bend=0.013)
    frame = _drawn(env, state, town)
    fine = np.linspace(0, 50, 50001)
    bend = 0.013 * np.sin(2 * np.pi / 127.0 * (37.3 + fine) + 0.4)
    angle = np.cumsum(bend) * 1e-3
    x, y = np.cumsum(np.cos(angle)) * 1e-3, np.cumsum(np.sin(angle)) * 1e-3
    for ahead, left in ((25.0, 1.75), (40.0, -1.75)):
        for off, inside in ((0.0, True), (1.9, True), (-1.9, True), (2.6, False), (-2.6, False)):
            i = round((ahead + off) * 1000)
            at = _pixel(x[i] - left * np.sin(angle[i]), y[i] + left * np.cos(angle[i]))
            assert _is(frame, at, picture.OTHER) == inside, (ahead, off)


def test_the_car_is_red_in_the_very_steps_that_are_charged(env):
    town = env.params(-1, 18.0)  # it swings to the right, and then over the centre line
    start, _ = _scene(env, -1, offset=0.0, heading=-0.06)
    start = start.replace(car=start.car._replace(speed=jnp.asarray(12.0)))

    def step(state, _):
        _, state, _, _, info = env.step_env(jax.random.key(0), state, jnp.asarray([0.05, 0.0]), town)
        return state, (state, info["costs"])

    states, costs = jax.jit(lambda start: jax.lax.scan(step, start, length=24)[1])(start)
    charged = np.asarray(costs).sum(axis=1) > 0
    assert charged.any() and not charged.all()
    frames = env.frames(states, town).astype(int)
    red = (np.abs(frames - picture.PAYING) < 12).all(axis=-1).sum(axis=(1, 2)) > 50
    np.testing.assert_array_equal(red, charged)


def test_the_words_below_a_picture_name_the_rules():
    env, _ = make("Driving-v0")
    for priority, words in picture.PRIORITIES.items():
        left, right = np.asarray(env.params(1, 14.0, priority).gives_way)
        assert (left, right) == ("left" in words, "right" in words)
    assert {1: "left", -1: "right"} == picture.SIDES and float(env.params(1).sign) > 0
