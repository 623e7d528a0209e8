"""A rule-based driver for Driving-v0: what a driver who knows the town can get there, and one who only thinks so.

It sees the whole state. It steers by Stanley's law, and keeps its speed by the Intelligent Driver Model, with up to
four obstacles ahead: a car of its lane, the line of a crossing where it must wait, the limit, and bends, of which none
is taken faster than the tyres hold. It is no optimum: it leaves a margin everywhere, and never overtakes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metarl_jax.envs.driving import road, traffic
from metarl_jax.envs.driving.town import MAIN_ROAD, RIGHT, Driving, DrivingState, Town

GAIN = 0.8  # 1/s, k of Stanley's law
SOFTENING = 2.0  # m/s, its k_s
OF_LIMIT = 0.97  # share of the limit that it drives at
OF_GRIP = 0.7  # share of what the tyres hold that it uses in bends
BRAKING = 0.45  # share of what the tyres hold that it plans to brake with
QUICK = 3.0  # m/s^2, its acceleration on a free road at rest, where the tyres hold it
LATE = 2.0  # m/s^2: it heeds a line once it would have to brake so hard for it, or harder than BRAKING
MARGIN = 1.5  # s between its own passage of a crossing and that of others
SLOWEST = 6.0  # m/s: whom it must let pass is taken to come at this speed at least
OWN_PACE = 4.0  # m/s: as fast it will be in the crossing, at least
_PREVIEW = np.arange(0.0, 61.0, 10.0)  # m, where it looks at bends


class Drive(NamedTuple):
    """One episode, [H] each; after its end nothing is paid and nothing happens."""

    reward: Array
    costs: Array  # [H, 5] as `Driving.costs`
    alive: Array  # bool: the episode had not ended before this step

    @property
    def total(self) -> Array:
        """[] the return."""
        return self.reward.sum()


def steer(car: road.Car, lane: Array, curvature: Array) -> Array:
    r"""Steering [rad] that leads to the middle of the lane, `lane` [m] left of the centre line, and along it.

    Stanley's law (Hoffmann et al. 2007, eq. 5) at the rear axle, with the steering of the bend itself:

    .. math::

        \delta = -e - \arctan\frac{k (d - d_\text{lane})}{k_s + v} + \arctan(L \kappa)
    """
    away = jnp.arctan(GAIN * (car.offset - lane) / (SOFTENING + car.speed))
    return -car.heading - away + jnp.arctan(road.WHEELBASE * curvature)


def safe_speed(state: DrivingState, town: Town) -> Array:
    r"""[] m/s: with it no bend ahead will be too fast for the tyres.

    .. math::

        \min_x \sqrt{\mu_1 g / |\kappa(s + x)| + 2 \mu_2 g x}

    mu_1 and mu_2 are the shares of the grip for turning and for braking.
    """
    ahead = jnp.asarray(_PREVIEW, state.car.along.dtype)
    bends = jnp.abs(road.curvature(state.car.along + ahead, state.bends, state.phases))
    hold = town.grip * road.GRAVITY
    return jnp.sqrt(jnp.min(OF_GRIP * hold / jnp.maximum(bends, 1e-4) + 2 * BRAKING * hold * ahead))


def must_wait(state: DrivingState, town: Town) -> Array:
    """[] bool: a car is in the box, or one with the right of way would be there at about the same time as this one."""
    car, others = state.car, state.traffic
    active = traffic.is_active(others, car.along)
    ahead = others.crossing - car.along
    pace = jnp.maximum(car.speed, OWN_PACE)
    arrives, leaves = (ahead - traffic.BOX) / pace, (ahead + traffic.BOX) / pace
    comes = (others.distance - traffic.BOX) / jnp.maximum(others.crossing_speed, SLOWEST)
    goes = (others.distance + traffic.BOX) / jnp.maximum(others.crossing_speed, 0.1)
    meets = (comes < leaves + MARGIN) & (goes > arrives - MARGIN / 4) & (others.distance > -traffic.BOX)
    return jnp.any(active & meets & town.gives_way) | jnp.any(traffic.in_box(others, car.along))


def act(state: DrivingState, town: Town, believed: Town) -> Array:
    """Action [2] of a driver who takes the town for `believed`; `town` only says where the other cars are."""
    car, others = state.car, state.traffic
    lane = believed.sign * road.LANE / 2
    steering = steer(car, lane, road.curvature(car.along, state.bends, state.phases))
    speed = car.speed
    most = jnp.minimum(OF_LIMIT * believed.limit, safe_speed(state, believed))

    ahead, left, half_along, half_across = traffic.rectangles(others, town.sign, car)
    in_lane = jnp.abs(left + car.offset - lane) < half_across + road.WIDTH / 2 + 0.2
    in_way = jnp.abs(left) < half_across + road.WIDTH / 2
    gap = ahead - half_along - road.LENGTH / 2
    directions = jnp.asarray(traffic.DIRECTIONS, speed.dtype)
    theirs = jnp.concatenate([directions * others.speed, jnp.zeros_like(others.distance)])
    crowded = jnp.where((ahead > 0) & (in_lane | in_way), traffic.crowding(speed, speed - theirs, gap), 0)

    to_line = others.crossing - car.along - traffic.BOX
    hold = believed.grip * road.GRAVITY
    needed = jnp.square(speed) / (2 * jnp.maximum(to_line - traffic.STANDING_GAP, 0.1))  # m/s^2, to stop there
    late = needed > jnp.minimum(LATE, BRAKING * hold)
    can_stop = to_line > jnp.square(speed) / (2 * 0.8 * hold)
    waits = must_wait(state, believed) & can_stop & (late | (to_line < 4 * traffic.STANDING_GAP))
    by_line = jnp.where(waits, traffic.crowding(speed, speed, to_line), 0)
    acceleration = traffic.idm(speed, jnp.maximum(most, 0.1), jnp.maximum(crowded.max(), by_line))
    # The model is slow to reach its speed, and above it hardly brakes: the room for more, and what bends need.
    ratio = jnp.square(speed / jnp.maximum(most, 0.1))
    quicker = jnp.maximum(jnp.minimum(QUICK, BRAKING * hold) - traffic.ACCELERATION, 0)
    acceleration += quicker * jnp.maximum(1 - ratio * ratio, 0)
    acceleration = jnp.minimum(acceleration, 2 * (most - speed))
    acceleration = jnp.clip(acceleration, -0.9 * hold, 0.9 * hold)
    action = jnp.stack([steering / road.MAX_STEERING, acceleration / road.MAX_ACCELERATION])
    return jnp.clip(action, -1, 1)


def guess(env: Driving, min_limit: float = 10.0, max_limit: float = 18.0) -> Town:
    """What a driver believes who does not know the town: the right side, the mean limit, and the main road first."""
    return env.params(RIGHT, (min_limit + max_limit) / 2, MAIN_ROAD)


def drive(env: Driving, key: Array, town: Town, believed: Town | None = None) -> Drive:
    """One episode of the driver who knows the town, or takes it for `believed`."""
    believed = town if believed is None else believed
    _, state = env.reset_env(key, town)

    def step(carry: tuple[DrivingState, Array], _: Any) -> tuple[tuple[DrivingState, Array], Drive]:
        state, alive = carry
        _, state, reward, terminated, info = env.step_env(key, state, act(state, town, believed), town)
        paid = Drive(jnp.where(alive, reward, 0), jnp.where(alive, info["costs"], 0), alive)
        return (state, alive & ~terminated), paid

    return jax.lax.scan(step, (state, jnp.ones((), bool)), length=env.horizon)[1]


def references(env: Driving) -> dict[str, Callable[[Array, Town, int], Array]]:
    """{name: (key, town, number of episodes) -> the return of each [episode]} of drivers who learn nothing."""

    def row(believed: Town | None) -> Callable[[Array, Town, int], Array]:
        def returns(key: Array, town: Town, num_episodes: int) -> Array:
            keys = jax.random.split(key, num_episodes)
            return jax.lax.map(lambda k: drive(env, k, town, believed).total, keys)

        return returns

    return {"driver who knows the town": row(None), "driver who does not": row(guess(env))}
