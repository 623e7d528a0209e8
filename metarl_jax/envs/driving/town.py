"""Driving-v0: an unknown town, whose rules a driver finds out by what it costs to break them.

A car on a two-lane road with bends, traffic and crossings (see `road`, `traffic`) is steered by a box action [2] in
[-1, 1], clipped: steering in units of .3 rad, to the left, and acceleration in units of 5 m/s^2. A step is .1 s.

A town is a task. It has a side to drive on, a speed limit, a rule for crossings (who comes from the left has the right
of way, who comes from the right, or the main road, on which the agent is) and a grip of its road. **None of these is
observed**, and an episode starts on the centre line, so that nothing betrays the side but the other cars, which keep
to it, and the rewards. The reward of a step is

| term                                                                        | unit       | weight             |
|-----------------------------------------------------------------------------|------------|--------------------|
| + progress along the road, per 1.5 m: 1 a step at 15 m/s in any town        | 1.5 m      | 1                  |
| - the middle of the car is on the wrong side of the centre line             | step       | wrong_side_cost    |
| - speed above the limit, per 15 m/s                                         | 15 m/s     | speeding_cost      |
| - in the box of a crossing that a car with the right of way is about to use | step       | right_of_way_cost  |
| - the middle of the car is beyond the edge of the road                      | step       | off_road_cost      |
| - a collision, which terminates the episode                                 | collision  | collision_cost     |

Observation [30], all of the order of 1: 11 rays, from right to left at -140, -90, -50, -25, -10, 0, ... degrees from
the heading, first to other cars and then to the edge of the road, distances in units of 60 m; offset from the centre
line in lanes; sine and cosine of the heading from the road's; speed in 20 m/s; curvature here and 15 and 30 m ahead in
units of 1/50 m; distance to the middle of the next crossing in units of 120 m, in [-1, 1]. Hidden: the town; the speeds
of other cars, and which kind of cost was paid, which is only in the reward (and in `info["costs"]`, which no agent is
shown). `info` also says what has happened in the episode so far, by the names of `reports`; `slipped` costs nothing.

Random are the bends, the first crossing, and the places and paces of the other cars, all at the reset. A step reads no
key. Mirrored towns are mirror images: one key gives the mirrored episode.

*Not differentiated:* rollouts never are; costs are steps and gradients through them are 0.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.driving import road, traffic
from metarl_jax.envs.tasks import TaskDistribution, check_count, check_positive

NOMINAL_SPEED = 15.0  # m/s, whose progress is 1 a step
START_SPEED = 5.0  # m/s
COSTS = ("wrong_side", "speeding", "right_of_way", "off_road", "collision")  # as in `info["costs"]`
LEFT, RIGHT = 1, -1  # sides of the road; also who has the right of way
MAIN_ROAD = 0
_PREVIEW = np.array([0.0, 15.0, 30.0])  # m
_CURVATURE_SCALE, _SPEED_SCALE = 50.0, 20.0  # m, m/s


@struct.dataclass(kw_only=True)
class Town(environment.EnvParams):
    """One task."""

    side: Array  # [] integer: LEFT or RIGHT, where one drives
    limit: Array  # [] m/s
    priority: Array  # [] integer: LEFT or RIGHT, from where cars at crossings have the right of way; or MAIN_ROAD
    grip: Array  # [] friction coefficient of the tyres
    max_steps_in_episode: Array

    @property
    def sign(self) -> Array:
        """[] the side as a float, 1 or -1."""
        return self.side.astype(self.limit.dtype)

    @property
    def gives_way(self) -> Array:
        """[2] bool: whether the agent gives way to the car from the left, from the right."""
        return self.priority == jnp.asarray([LEFT, RIGHT], self.priority.dtype)


@struct.dataclass
class DrivingState(environment.EnvState):
    """The agent's car, the others, and the bends of the road."""

    car: road.Car
    traffic: traffic.Traffic
    bends: Array  # [2] 1/m
    phases: Array  # [2] rad
    reports: dict[str, Array]  # {name: [] bool}: what has happened in this episode so far
    time: Array  # [] steps taken


class Driving(environment.Environment[DrivingState, Town]):
    """The road; the rules of the town are in the parameters, the weights of the costs in the environment."""

    reports = (*COSTS, "slipped")
    references = "metarl_jax.reference.driving:references"
    seconds_a_step = road.DT

    def __init__(
        self,
        horizon: int = 300,
        wrong_side_cost: float = 1.0,
        speeding_cost: float = 3.0,
        right_of_way_cost: float = 5.0,
        off_road_cost: float = 2.0,
        collision_cost: float = 100.0,
    ):
        super().__init__()
        self.horizon = check_count("horizon", horizon)
        weights = (wrong_side_cost, speeding_cost, right_of_way_cost, off_road_cost, collision_cost)
        self.weights = tuple(
            check_positive(f"{name}_cost", w, or_zero=True) for name, w in zip(COSTS, weights, strict=True)
        )

    def params(
        self,
        side: int | Array = RIGHT,
        limit: float | Array = 14.0,
        priority: int | Array = RIGHT,
        grip: float | Array = 0.8,
    ) -> Town:
        """The town with these rules, see `Town`."""
        return Town(
            side=jnp.asarray(side, int),
            limit=jnp.asarray(limit, float),
            priority=jnp.asarray(priority, int),
            grip=jnp.asarray(grip, float),
            max_steps_in_episode=jnp.asarray(self.horizon, int),
        )

    @property
    def default_params(self) -> Town:
        return self.params()

    def reset_env(self, key: Array, params: Town) -> tuple[Array, DrivingState]:
        uniform = jax.random.uniform(key, (14,), float)
        zero = jnp.zeros((), float)
        bends = params.sign * (2 * uniform[:2] - 1) * jnp.asarray(road.MAX_BENDS, float)
        state = DrivingState(
            car=road.Car(along=zero, offset=zero, heading=zero, speed=jnp.asarray(START_SPEED, float)),
            traffic=traffic.first_traffic(uniform[4:], params.sign, params.limit),
            bends=bends,
            phases=2 * np.pi * uniform[2:4],
            reports=dict.fromkeys(self.reports, jnp.zeros((), bool)),
            time=jnp.zeros((), int),
        )
        return self.get_obs(state, params), state

    def step_env(
        self, key: Array, state: DrivingState, action: Array, params: Town
    ) -> tuple[Array, DrivingState, Array, Array, dict[Any, Any]]:
        del key
        action = jnp.clip(jnp.asarray(action, float), -1, 1)
        car, slipped = road.bicycle(
            state.car,
            road.MAX_STEERING * action[0],
            road.MAX_ACCELERATION * action[1],
            params.grip,
            state.bends,
            state.phases,
        )
        others = traffic.move(state.traffic, params.sign, params.limit, params.gives_way, state.car)
        others = traffic.next_crossing(others, car.along)
        costs = self.costs(car, others, params)
        progress = (car.along - state.car.along) / (road.DT * NOMINAL_SPEED)
        now = jnp.concatenate([costs > 0, slipped[None]])
        reports = {name: state.reports[name] | now[i] for i, name in enumerate(self.reports)}
        state = DrivingState(
            car=car,
            traffic=others,
            bends=state.bends,
            phases=state.phases,
            reports=reports,
            time=state.time + 1,
        )
        reward = progress - jnp.sum(costs * jnp.asarray(self.weights, float))
        info = {**reports, "costs": costs}
        return self.get_obs(state, params), state, reward, self.is_terminated(state, params), info

    def costs(self, car: road.Car, others: traffic.Traffic, params: Town) -> Array:
        """[5] what is charged in this state, named by `COSTS`, before the weights: 0 or 1 each; speeding in 15 m/s.

        A collision is two rectangles that overlap; the agent's is taken to lie along the road.
        """
        ahead, left, half_along, half_across = traffic.rectangles(others, params.sign, car)
        touching = jnp.abs(ahead) < half_along + road.LENGTH / 2
        touching &= jnp.abs(left) < half_across + road.WIDTH / 2
        happened = (
            car.offset * params.sign < 0,
            traffic.takes_right_of_way(others, params.gives_way, car),
            jnp.abs(car.offset) > road.LANE,
            jnp.any(touching),
        )
        wrong_side, right_of_way, off_road, collision = (x.astype(params.limit.dtype) for x in happened)
        speeding = jnp.maximum(car.speed - params.limit, 0) / NOMINAL_SPEED
        return jnp.stack([wrong_side, speeding, right_of_way, off_road, collision])

    def is_terminated(self, state: DrivingState, params: Town) -> Array:
        return state.reports["collision"]

    def is_truncated(self, state: DrivingState, params: Town) -> Array:
        return state.time >= params.max_steps_in_episode

    def get_obs(self, state: DrivingState, params: Town, key: Array | None = None) -> Array:
        car, others = state.car, state.traffic
        cars = road.car_distances(car, *traffic.rectangles(others, params.sign, car))
        ahead = car.along + jnp.asarray(_PREVIEW, float)
        rest = [
            car.offset / road.LANE,
            jnp.sin(car.heading),
            jnp.cos(car.heading),
            car.speed / _SPEED_SCALE,
            jnp.clip((others.crossing - car.along) / traffic.SPACING, -1, 1),
        ]
        return jnp.concatenate(
            [
                cars / road.RAY_LENGTH,
                road.edge_distances(car) / road.RAY_LENGTH,
                jnp.stack(rest),
                _CURVATURE_SCALE * road.curvature(ahead, state.bends, state.phases),
            ]
        )

    def frames(self, states: DrivingState, params: Town) -> np.ndarray:
        """See `picture.frames`."""
        from metarl_jax.envs.driving import picture

        return picture.frames(self, states, params)

    @property
    def name(self) -> str:
        return "Driving"

    @property
    def num_actions(self) -> int:
        return 2

    def action_space(self, params: Town | None = None) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (2,), jnp.float32)

    def observation_space(self, params: Town | None = None) -> spaces.Box:
        return spaces.Box(-jnp.inf, jnp.inf, (2 * len(road.RAY_ANGLES) + 8,), jnp.float32)


def driving(
    *,
    horizon: int = 300,
    min_limit: float = 10.0,
    max_limit: float = 18.0,
    min_grip: float = 0.3,
    max_grip: float = 0.9,
    wrong_side_cost: float = 1.0,
    speeding_cost: float = 3.0,
    right_of_way_cost: float = 5.0,
    off_road_cost: float = 2.0,
    collision_cost: float = 100.0,
) -> tuple[Driving, TaskDistribution]:
    """Towns: side, and who has the right of way, uniform; limit and grip uniform between two values.

    No oracle: the best return is not known. `reference.driving` has a driver who is told the rules.

    Args:
      horizon: steps of .1 s. min_limit, max_limit: speed limits [m/s]. min_grip, max_grip: friction coefficients.
      wrong_side_cost, ..., collision_cost: weights of the costs, see above.

    Raises: ValueError for numbers out of range.
    """
    weights = (wrong_side_cost, speeding_cost, right_of_way_cost, off_road_cost, collision_cost)
    env = _environment(horizon, *weights)
    limits = _interval("limit", min_limit, max_limit, road.MAX_SPEED)
    grips = _interval("grip", min_grip, max_grip, 2.0)

    def sample(key: Array) -> Town:
        uniform = jax.random.uniform(key, (4,), float)
        limit, grip = (low + u * (high - low) for u, (low, high) in zip(uniform[:2], (limits, grips), strict=True))
        side = jnp.where(uniform[2] < 0.5, LEFT, RIGHT)
        priority = jnp.floor(3 * uniform[3]).astype(int) - 1
        return env.params(side, limit, priority, grip)

    description = f"driving, unknown rules of the road, limits U[{min_limit:g}, {max_limit:g}] m/s"
    return env, TaskDistribution(sample, horizon, description=description)


def _interval(name: str, low: float, high: float, most: float) -> tuple[float, float]:
    """The two ends as given. Raises: ValueError for ends out of (0, most] or in the wrong order."""
    low, high = check_positive(f"min_{name}", low), check_positive(f"max_{name}", high)
    if high > most:
        raise ValueError(f"max_{name} must be at most {most:g}, got {high!r}")
    if low > high:
        raise ValueError(f"min_{name} must be at most max_{name} = {high!r}, got {low!r}")
    return low, high


_environment = functools.lru_cache(maxsize=None, typed=True)(Driving)
