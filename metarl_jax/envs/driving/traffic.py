"""Other cars: two in the agent's lane, two that come towards it, and two on the road that crosses next.

All follow the Intelligent Driver Model. Those on the main road live on a ring of `RING` metres: who leaves at one end
comes back at the other, 200 m from the agent, out of its sight. They keep their lanes and their order. The agent is
an obstacle for all of them where it stands in their lane, and they brake for it as for one another.

Crossings are `SPACING` apart. At the next one a car comes from either side, once the agent is within `TRIGGER` of it
(before, and beyond its own exit, such a car is away: nobody sees or meets it). A crossing car waits for gaps in the
traffic of the main road. Where the town has it give way to the agent, it waits for the agent too; where it has not,
it goes, unless the agent stands in the box.

What is simple about it: lane cars go ds/dt = v in bends too, and a car that can no longer stop before the box
drives through it.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from metarl_jax.envs.driving.road import DT, LANE, LENGTH, WIDTH, Car

RING = 400.0  # m
SPACING = 120.0  # m between crossings
TRIGGER = 80.0  # m before a crossing at which its cars appear
PASSED = 15.0  # m behind a crossing from which the next one counts
BOX = 6.0  # m: a car is in the box if its middle is nearer to the crossing's, on either road
NEAREST, SPREAD = 25.0, 50.0  # m from the crossing: where crossing cars appear, at NEAREST + U[0, 1] SPREAD
EXIT = 60.0  # m behind the crossing, where they vanish
CROSSING_SPEED = 8.0  # m/s
ACCEPTED_GAP = 4.0  # s: crossing cars wait for who would be in the box sooner
WARNING = 1.5  # s: who is in the box takes the right of way of a car that would be there sooner

ACCELERATION = 1.5  # m/s^2, a of the IDM
COMFORTABLE = 2.0  # m/s^2, its b
STANDING_GAP = 2.0  # m, its s0
HEADWAY = 1.2  # s, its T
HARDEST = 8.0  # m/s^2, the most that cars brake
COMMITTED = 4.0  # m/s^2: who would have to brake more to stop before the box drives on
_GOLDEN = 0.6180339887  # multiples of it, modulo 1, are spread evenly
_AWAY = 1e4  # m
_NEAR = 0.1  # m, the least gap that a formula sees

DIRECTIONS = np.array([1.0, 1.0, -1.0, -1.0])  # of the lane cars: as the agent's road leads, or against it
SIDES = np.array([1.0, -1.0])  # crossing cars: from the left, from the right


@struct.dataclass
class Traffic:
    """Where the other cars are. Two of the agent's lane, then two of the other one."""

    along: Array  # [4] m on the ring, any number of turns
    speed: Array  # [4] m/s
    pace: Array  # [4] speed that each likes best, as a share of the limit
    crossing: Array  # [] m along the road, the next crossing
    distance: Array  # [2] m that crossing cars still have to the middle of it, negative behind
    crossing_speed: Array  # [2] m/s
    luck: Array  # [2] in [0, 1): where the next crossing cars appear


def first_traffic(uniform: Array, side: Array, limit: Array) -> Traffic:
    """Traffic at the start, from 10 uniform numbers. `side`: 1 where one drives on the left, -1 on the right."""
    own = jnp.stack([35 + 40 * uniform[0], -35 - 40 * uniform[1]])
    oncoming = 90 + 80 * uniform[2] + jnp.asarray([0, RING / 2], uniform.dtype)
    pace = 0.8 + 0.2 * uniform[3:7]
    luck = jnp.where(side > 0, uniform[7:9], uniform[7:9][::-1])  # mirrored towns: mirrored episodes
    return Traffic(
        along=jnp.concatenate([own, oncoming]),
        speed=pace * limit,
        pace=pace,
        crossing=60 + 60 * uniform[9],
        distance=NEAREST + SPREAD * luck,
        crossing_speed=jnp.full_like(luck, CROSSING_SPEED),
        luck=luck,
    )


def desired_gap(speed: Array, closing: Array) -> Array:
    r"""The gap [m] that a driver wants at a speed, closing in on what is ahead at `closing` m/s.

    .. math::

        s^* = s_0 + \max(0, v T + v \Delta v / (2 \sqrt{a b}))
    """
    return STANDING_GAP + jnp.maximum(
        speed * HEADWAY + speed * closing / (2 * math.sqrt(ACCELERATION * COMFORTABLE)), 0
    )


def crowding(speed: Array, closing: Array, gap: Array) -> Array:
    """Desired gap / gap, what the IDM reads of an obstacle ahead; gaps below .1 m count as that."""
    return desired_gap(speed, closing) / jnp.maximum(gap, _NEAR)


def idm(speed: Array, desired_speed: Array, crowded: Array) -> Array:
    r"""The acceleration [m/s^2] of the Intelligent Driver Model (Treiber, Hennecke and Helbing 2000, eq. 3).

    .. math::

        \dot v = a \left[1 - (v / v_0)^4 - (s^* / s)^2\right]

    at least -HARDEST. At rest with the car ahead (equal speeds) the gap is s0 + vT over the root of 1 - (v / v0)^4.

    Args:
      crowded: s*/s, see `crowding`; the largest one if there are several obstacles; 0 on a free road.
    """
    ratio = jnp.square(speed / desired_speed)
    return jnp.maximum(ACCELERATION * (1 - ratio * ratio - crowded * crowded), -HARDEST)


def lane_offset(side: Array) -> Array:
    """[4] m: the middle of each lane car's lane, left of the centre line."""
    return side * LANE / 2 * jnp.asarray(DIRECTIONS, side.dtype)


def crossing_along(traffic: Traffic, side: Array) -> Array:
    """[2] m along the road: the lanes of the crossing cars. They keep to the same side as everybody."""
    return traffic.crossing + side * LANE / 2 * jnp.asarray(SIDES, side.dtype)


def around(x: Array) -> Array:
    """The same place on the ring, within half a turn of 0."""
    return x - RING * jnp.floor(x / RING + 0.5)


def is_active(traffic: Traffic, along: Array) -> Array:
    """[2] bool: the crossing car is there."""
    return (traffic.crossing - along < TRIGGER) & (traffic.distance > -EXIT)


def in_box(traffic: Traffic, along: Array) -> Array:
    """[2] bool: the crossing car is in the box."""
    return is_active(traffic, along) & (jnp.abs(traffic.distance) < BOX)


def rectangles(traffic: Traffic, side: Array, car: Car) -> tuple[Array, Array, Array, Array]:
    """(ahead, left, half_along, half_across) [6] of all other cars, from the agent's, see `road.car_distances`."""
    ahead = jnp.concatenate([around(traffic.along - car.along), crossing_along(traffic, side) - car.along])
    across = jnp.where(is_active(traffic, car.along), traffic.distance * jnp.asarray(SIDES, side.dtype), _AWAY)
    left = jnp.concatenate([lane_offset(side), across]) - car.offset
    lengths = np.array([LENGTH / 2] * 4 + [WIDTH / 2] * 2), np.array([WIDTH / 2] * 4 + [LENGTH / 2] * 2)
    half_along, half_across = (jnp.asarray(x, side.dtype) for x in lengths)
    return ahead, left, half_along, half_across


def takes_right_of_way(traffic: Traffic, gives_way: Array, car: Car) -> Array:
    """[] bool: the agent is in the box while a car that it must let pass is there, or would be within `WARNING`.

    Args:
      gives_way: [2] bool: to the car from the left, from the right.
    """
    coming = is_active(traffic, car.along) & (traffic.distance > -BOX)
    coming &= traffic.distance - BOX < WARNING * traffic.crossing_speed
    return (jnp.abs(traffic.crossing - car.along) < BOX) & jnp.any(coming & gives_way)


def move(traffic: Traffic, side: Array, limit: Array, gives_way: Array, car: Car) -> Traffic:
    """Traffic one step later; all react to what was there before it. Speeds change at a constant rate within a step."""
    forward = car.speed * jnp.cos(car.heading)
    lanes = _lane_acceleration(traffic, side, limit, car, forward)
    crossers = _crossing_acceleration(traffic, side, gives_way, car, forward)
    speed, step = _advance(traffic.speed, lanes)
    crossing_speed, crossing_step = _advance(traffic.crossing_speed, crossers)
    active = traffic.crossing - car.along < TRIGGER
    return dataclasses.replace(
        traffic,
        along=traffic.along + jnp.asarray(DIRECTIONS, step.dtype) * step,
        speed=speed,
        distance=jnp.where(active, traffic.distance - crossing_step, traffic.distance),
        crossing_speed=jnp.where(active, crossing_speed, traffic.crossing_speed),
    )


def next_crossing(traffic: Traffic, along: Array) -> Traffic:
    """Traffic whose crossing is the next one, if the agent has passed this."""
    passed = along > traffic.crossing + PASSED
    luck = traffic.luck + _GOLDEN
    luck = jnp.where(passed, luck - jnp.floor(luck), traffic.luck)
    return dataclasses.replace(
        traffic,
        crossing=jnp.where(passed, traffic.crossing + SPACING, traffic.crossing),
        distance=jnp.where(passed, NEAREST + SPREAD * luck, traffic.distance),
        crossing_speed=jnp.where(passed, CROSSING_SPEED, traffic.crossing_speed),
        luck=luck,
    )


def _advance(speed: Array, acceleration: Array) -> tuple[Array, Array]:
    """(new speed, distance) of a step; no car goes backwards."""
    new = jnp.maximum(speed + DT * acceleration, 0)
    return new, DT / 2 * (speed + new)


def _lane_acceleration(traffic: Traffic, side: Array, limit: Array, car: Car, forward: Array) -> Array:
    """[4]: behind the other car of the lane, the agent, and a crossing car in the box."""
    directions = jnp.asarray(DIRECTIONS, side.dtype)
    speed = traffic.speed
    leader, leader_speed = (x.reshape(2, 2)[:, ::-1].reshape(4) for x in (traffic.along, speed))
    crowded = crowding(speed, speed - leader_speed, _gap(directions * (leader - traffic.along)))
    by_agent = crowding(speed, speed - directions * forward, _gap(directions * (car.along - traffic.along)))
    to_box = directions * around(traffic.crossing - traffic.along) - BOX - LENGTH / 2
    closed = jnp.any(in_box(traffic, car.along)) & (to_box > 0)
    by_box = crowding(speed, speed, to_box)
    crowded = jnp.maximum(
        crowded, jnp.maximum(jnp.where(_in_lane(car, side), by_agent, 0), jnp.where(closed, by_box, 0))
    )
    return idm(speed, traffic.pace * limit, crowded)


def _in_lane(car: Car, side: Array) -> Array:
    """[4] bool: the agent is in the way of cars of this lane."""
    return jnp.abs(car.offset - lane_offset(side)) < WIDTH + 0.2


def _gap(difference: Array) -> Array:
    """From bumper to bumper, once around the ring at most."""
    return difference - RING * jnp.floor(difference / RING) - LENGTH


def _crossing_acceleration(traffic: Traffic, side: Array, gives_way: Array, car: Car, forward: Array) -> Array:
    """[2]: up to the box, if it must wait there, and behind the agent in its way."""
    speed, reach = traffic.crossing_speed, BOX + LENGTH / 2
    directions = jnp.asarray(DIRECTIONS, side.dtype)
    ahead = directions * around(traffic.crossing - traffic.along)
    to_agent = directions * around(car.along - traffic.along)
    behind_agent = _in_lane(car, side) & (to_agent > 0) & (to_agent < ahead)  # the agent comes first: see `near`
    soon = (ahead > -reach) & (ahead < reach + STANDING_GAP + ACCEPTED_GAP * traffic.speed)
    taken = jnp.any(soon & ~behind_agent)
    agent_ahead = traffic.crossing - car.along
    near = (agent_ahead > -reach) & (agent_ahead < reach + STANDING_GAP + ACCEPTED_GAP * jnp.maximum(forward, 0))
    waits = taken | jnp.where(gives_way, jnp.abs(agent_ahead) < BOX, near)
    to_line = traffic.distance - BOX
    can_stop = to_line >= jnp.square(speed) / (2 * COMMITTED)
    by_line = jnp.where(waits & can_stop, crowding(speed, speed, to_line), 0)
    to_agent = traffic.distance - car.offset * jnp.asarray(SIDES, side.dtype) - (LENGTH + WIDTH) / 2
    width = (LENGTH + WIDTH) / 2 + 0.3
    in_way = (jnp.abs(car.along - crossing_along(traffic, side)) < width) & (to_agent > -WIDTH)
    by_agent = jnp.where(in_way, crowding(speed, speed, to_agent), 0)
    return idm(speed, jnp.asarray(CROSSING_SPEED, speed.dtype), jnp.maximum(by_line, by_agent))
