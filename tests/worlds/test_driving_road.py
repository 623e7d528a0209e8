"""Driving-v0: the car and its rays against geometry and integrations of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs.driving import road

STRAIGHT = (jnp.zeros(2), jnp.zeros(2))


def car(along=0.0, offset=0.0, heading=0.0, speed=5.0):
    return road.Car(*(jnp.asarray(x, float) for x in (along, offset, heading, speed)))


@jax.jit
def drive(start, steering, acceleration, grip, bends, phases):
    """Cars and slips of a drive with the given controls [T]."""

    def step(now, x):
        new, slipped = road.bicycle(now, *x, grip, bends, phases)
        return new, (new, slipped)

    return jax.lax.scan(step, start, (steering, acceleration))[1]


# --- the car -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steering", [0.1, -0.25])
def test_constant_steering_drives_a_circle_of_the_radius_of_the_bicycle(steering):
    cars, slipped = drive(car(), jnp.full(30, steering), jnp.zeros(30), 2.0, *STRAIGHT)
    radius = road.WHEELBASE / np.tan(steering)
    distance = np.hypot(cars.along, cars.offset - radius)
    inside = np.abs(cars.offset) < road.FENCE - 1e-3
    assert inside.sum() > 10 and not slipped.any()
    np.testing.assert_allclose(distance[inside], abs(radius), rtol=3e-3)


def by_small_steps(start, steering, acceleration, bends, phases, substeps=500):
    """(along, offset, heading from the road's) of a car in the plane, found anew on the drawn centre line."""
    waves = 2 * np.pi / np.asarray(road.WAVELENGTHS)
    s = np.arange(-20, 150, 0.005)
    bend = sum(b * np.sin(w * s + p) for b, w, p in zip(bends, waves, phases, strict=True))
    turned = np.concatenate([[0], np.cumsum((bend[1:] + bend[:-1]) / 2 * 0.005)])
    x = np.concatenate([[0], np.cumsum(np.cos((turned[1:] + turned[:-1]) / 2) * 0.005)])
    y = np.concatenate([[0], np.cumsum(np.sin((turned[1:] + turned[:-1]) / 2) * 0.005)])
    i = np.argmin(np.abs(s - start.along))
    place = np.array([x[i] - np.sin(turned[i]) * start.offset, y[i] + np.cos(turned[i]) * start.offset])
    direction, speed, dt = turned[i] + float(start.heading), float(start.speed), road.DT / substeps
    for delta, a in zip(steering, acceleration, strict=True):
        for _ in range(substeps):
            middle = direction + dt / 2 * speed * np.tan(delta) / road.WHEELBASE
            place = place + dt * (speed + dt / 2 * a) * np.array([np.cos(middle), np.sin(middle)])
            direction += dt * (speed + dt / 2 * a) * np.tan(delta) / road.WHEELBASE
            speed += dt * a
    i = np.argmin((x - place[0]) ** 2 + (y - place[1]) ** 2)
    left = np.cos(turned[i]) * (place[1] - y[i]) - np.sin(turned[i]) * (place[0] - x[i])
    return s[i], left, direction - turned[i]


def test_the_road_coordinates_follow_the_car_in_the_plane():
    bends, phases = np.array([0.008, -0.004]), np.array([0.4, 2.0])
    t = np.arange(60) * road.DT
    steering, acceleration = 0.03 * np.sin(1.3 * t) + 0.015, np.cos(0.7 * t)
    start = car(offset=1.0, heading=-0.05, speed=10.0)
    inputs = [jnp.asarray(x, float) for x in (steering, acceleration, 2.0, bends, phases)]
    cars, _ = drive(start, *inputs)
    expected = by_small_steps(start, steering, acceleration, bends, phases)
    assert expected[0] > 60 and abs(expected[1]) < 7
    for found, true, within in zip(cars, expected, (0.05, 0.05, 5e-3), strict=False):
        assert float(found[-1]) == pytest.approx(true, abs=within)


def test_tyres_hold_no_more_than_their_grip():
    grip, speed = 0.5, 12.0
    hold = grip * road.GRAVITY
    for steering, acceleration in ((0.2, 0.0), (0.2, -3.0), (-0.2, 3.0), (0.02, 0.0), (0.091, 0.0), (0.092, 0.0)):
        new, slipped = road.bicycle(car(speed=speed), steering, acceleration, grip, *STRAIGHT)
        middle = (speed + float(new.speed)) / 2
        sideways = abs(float(new.heading)) / road.DT * middle
        wanted = middle**2 * np.tan(abs(steering)) / road.WHEELBASE
        most = np.sqrt(hold**2 - acceleration**2)
        assert bool(slipped) == (wanted > most)
        assert sideways == pytest.approx(road.SLIDING * most if slipped else wanted, rel=2e-3)
    new, _ = road.bicycle(car(speed=speed), 0.0, -5.0, 0.3, *STRAIGHT)
    assert float(new.speed) == pytest.approx(speed - 0.3 * road.GRAVITY * road.DT, rel=1e-5)
    fast, _ = road.bicycle(car(speed=road.MAX_SPEED), 0.0, 5.0, 1.0, *STRAIGHT)
    slow, _ = road.bicycle(car(speed=0.1), 0.0, -5.0, 1.0, *STRAIGHT)
    assert (float(fast.speed), float(slow.speed)) == (road.MAX_SPEED, 0.0)


# --- rays --------------------------------------------------------------------------------------------------------


def test_rays_meet_what_small_steps_along_them_meet():
    rng = np.random.default_rng(0)
    reach = np.arange(0, road.RAY_LENGTH + 1, 0.01)
    hits, own_edges = 0, 0
    cars, edges = jax.jit(road.car_distances), jax.jit(road.edge_distances)
    for _ in range(40):
        here = car(offset=rng.uniform(-3.4, 3.4), heading=rng.uniform(-3, 3))
        ahead, left = rng.uniform(-40, 40, 6), rng.uniform(-12, 12, 6)
        half = np.array([[2.25, 0.9]] * 4 + [[0.9, 2.25]] * 2)
        angles = road.RAY_ANGLES + float(here.heading)
        x, y = reach * np.cos(angles)[:, None], reach * np.sin(angles)[:, None]  # [rays, steps]
        inside = (np.abs(x[..., None] - ahead) < half[:, 0]) & (np.abs(y[..., None] - left) < half[:, 1])
        outside = np.abs(y + float(here.offset)) > road.LANE
        found = cars(here, *(jnp.asarray(a, float) for a in (ahead, left, half[:, 0], half[:, 1])))
        for distances, met in ((found, inside.any(-1)), (edges(here), outside)):
            expected = np.where(met.any(1), np.minimum(reach[met.argmax(1)], road.RAY_LENGTH), road.RAY_LENGTH)
            grazing = np.abs(np.asarray(distances) - expected) > 0.02  # a corner cut by less than a small step
            assert grazing.mean() < 0.1
            np.testing.assert_allclose(np.asarray(distances)[~grazing], expected[~grazing], atol=0.02)
        hits += int(inside.any((1, 2)).sum())
        own_edges += int(outside.any(1).sum())
    assert hits > 60 and own_edges > 200


def test_rays_beyond_the_edge():
    np.testing.assert_allclose(road.edge_distances(car(offset=4.5))[road.RAY_ANGLES > 0], 0)
    assert float(road.edge_distances(car(offset=4.5))[1]) == pytest.approx(8.0, abs=1e-3)  # to the other edge
    assert float(road.edge_distances(car(offset=-2.0))[-2]) == pytest.approx(5.5, abs=1e-3)
