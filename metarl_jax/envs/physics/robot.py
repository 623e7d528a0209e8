"""A robot as an environment: an XML, and functions that say what it observes, what it is paid for, what its tasks are.

    def reward(goal, before, action, after):
        return -jnp.abs((after.qpos[0] - before.qpos[0]) / after.dt - goal) - 0.05 * jnp.sum(action**2)

    env, tasks = physics.from_xml("cheetah.xml", reward=reward, tasks=lambda key: jax.random.uniform(key), frame_skip=5)

Physics are C MuJoCo in a call of the host, or MJX: see `physics.load`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.physics import film
from metarl_jax.envs.physics.interface import Physics, load
from metarl_jax.envs.tasks import TaskDistribution, as_arrays, check_count, check_positive


class Frame(NamedTuple):
    """What observations and rewards read."""

    qpos: Array  # [nq] m, rad, unit quaternions
    qvel: Array  # [nv] m / s, rad / s
    seen: dict[str, Array]  # what is watched, by name
    dt: float  # seconds of a step


@struct.dataclass(kw_only=True)
class RobotTask(environment.EnvParams):
    """One task."""

    goal: Any  # what the reward reads: a pytree
    patch: Any  # the physics' own numbers, by the names of `patches`
    max_steps_in_episode: Any


@struct.dataclass
class RobotState(environment.EnvState):
    """Where a robot stands. `physics` is all that a film needs."""

    physics: Array  # [S], see `Physics`
    seen: Any  # what was watched in the last step, by name
    reports: Any  # {name: bool []}: what has happened in this episode so far; `unstable` has ended it
    time: Array  # [] steps taken


Reward = Callable[[Any, Frame, Array, Frame], Array]  # goal, before, action as applied, after -> []


def whole_state(goal: Any, frame: Frame) -> Array:
    """Positions and velocities, [nq + nv]."""
    del goal
    return jnp.concatenate([frame.qpos, frame.qvel])


def uniform_and_normal(position: float, velocity: float) -> Callable[..., tuple[Array, Array]]:
    """Starts q0 + U[-position, position], velocities N(0, velocity^2)."""

    def reset(key: Array, qpos: Array, qvel: Array) -> tuple[Array, Array]:
        first, second = jax.random.split(key)
        noise = jax.random.uniform(first, qpos.shape, qpos.dtype, -1.0, 1.0)
        return qpos + position * noise, qvel + velocity * jax.random.normal(second, qvel.shape, qvel.dtype)

    return reset


class Robot(environment.Environment[RobotState, RobotTask]):
    """The environment of `from_xml`, whose arguments are documented there.

    An action is in the units of the actuators. It is multiplied by `action_scale` and clipped to their range; the
    reward reads it as it is then, a policy's log-probability is of the action before that. A step whose physics
    become unstable ends the episode with reward 0 in the state before it, and is reported as `unstable`.

    `view`, which may be set, is the `camera` that films look through: see `film.frames`.
    """

    view: Any = None

    def __init__(
        self,
        physics: Physics,
        *,
        reward: Reward,
        observe: Callable[[Any, Frame], Array] = whole_state,
        ended: Callable[[Any, Frame], Array] | None = None,
        success: Callable[[Any, Frame], Array] | None = None,
        reset: Callable[..., tuple[Array, Array]] | None = None,
        horizon: int = 1000,
        action_scale: float = 1.0,
        looks_at_start: bool = True,
        example_goal: Any = 0.0,
        label: str = "",
    ):
        super().__init__()
        self.physics, self.horizon = physics, check_count("horizon", horizon)
        self.calls_host, self.has_large_step = physics.calls_host, True
        self._reward, self._observe, self._ended, self._success = reward, observe, ended, success
        self._reset = uniform_and_normal(0.0, 0.0) if reset is None else reset
        self._scale = check_positive("action_scale", action_scale)
        self._looks = looks_at_start and bool(physics.model.watches)
        self._example_goal, self._label = example_goal, label or Path(physics.model.path).stem
        self.reports = ("unstable",) if success is None else ("unstable", "success")

    @property
    def default_params(self) -> RobotTask:
        return self.params(self._example_goal)

    def params(self, goal: Any, patch: Mapping[str, Array] | None = None) -> RobotTask:
        """The task with this goal; `patch`: the physics' own numbers, None: as the XML has them."""
        patch = self.physics.model.default_patch() if patch is None else dict(patch)
        horizon = jnp.asarray(self.horizon, int)
        return RobotTask(goal=as_arrays(goal), patch=as_arrays(patch), max_steps_in_episode=horizon)

    def reset_env(self, key: Array, params: RobotTask) -> tuple[Array, RobotState]:
        model = self.physics.model
        start = jnp.asarray(model.start, float)
        qpos, qvel = self._reset(key, model.part(start, "QPOS"), model.part(start, "QVEL"))
        physics = self.physics.init(qpos, qvel)
        seen = model.seen(jnp.zeros(model.seen_size, physics.dtype))
        if self._looks:
            seen = self.physics.look(physics, params.patch)
        nothing = dict.fromkeys(self.reports, jnp.zeros((), bool))
        state = RobotState(physics=physics, seen=seen, reports=nothing, time=jnp.zeros((), int))
        return self.get_obs(state, params), state

    def step_env(
        self, key: Array, state: RobotState, action: Any, params: RobotTask
    ) -> tuple[Array, RobotState, Array, Array, dict[Any, Any]]:
        del key
        over = self.is_terminated(state, params) | self.is_truncated(state, params)
        low, high = jnp.asarray(self.physics.model.control_range, state.physics.dtype).T
        action = jnp.clip(jnp.asarray(action, state.physics.dtype) * self._scale, low, high)
        physics, seen = self.physics.step(state.physics, action, params.patch, over)
        unstable = seen.pop("unstable") | state.reports["unstable"]
        model = self.physics.model
        before = self._frame(state)
        after = Frame(model.part(physics, "QPOS"), model.part(physics, "QVEL"), seen, model.dt)
        reward = jnp.where(unstable, 0.0, self._reward(params.goal, before, action, after))
        reports = {"unstable": unstable}
        if self._success is not None:
            reports["success"] = state.reports["success"] | (self._success(params.goal, after) & ~unstable)
        state = RobotState(physics=physics, seen=seen, reports=reports, time=state.time + 1)
        return self.get_obs(state, params), state, reward, self.is_terminated(state, params), dict(reports)

    def is_terminated(self, state: RobotState, params: RobotTask) -> Array:
        unstable = state.reports["unstable"]
        return unstable if self._ended is None else self._ended(params.goal, self._frame(state)) | unstable

    def is_truncated(self, state: RobotState, params: RobotTask) -> Array:
        return state.time >= params.max_steps_in_episode

    def get_obs(self, state: RobotState, params: RobotTask, key: Array | None = None) -> Array:
        return self._observe(params.goal, self._frame(state))

    def _frame(self, state: RobotState) -> Frame:
        model = self.physics.model
        return Frame(model.part(state.physics, "QPOS"), model.part(state.physics, "QVEL"), state.seen, model.dt)

    def frames(self, states: RobotState, params: RobotTask) -> np.ndarray:
        """See `physics.film.frames`."""
        return film.frames(self.physics.model, np.asarray(states.physics), params.patch, camera=self.view)

    @property
    def seconds_a_step(self) -> float:
        return self.physics.model.dt

    @property
    def name(self) -> str:
        return f"Robot({self._label})"

    @property
    def num_actions(self) -> int:
        return self.physics.model.ctrl_size

    def action_space(self, params: RobotTask | None = None) -> spaces.Box:
        low, high = self.physics.model.control_range.T / self._scale
        return spaces.Box(jnp.asarray(low), jnp.asarray(high), (self.num_actions,), jnp.float32)

    def observation_space(self, params: RobotTask | None = None) -> spaces.Box:
        shape = jax.eval_shape(lambda: self.reset_env(jax.random.key(0), self.default_params)[0]).shape
        return spaces.Box(-jnp.inf, jnp.inf, shape, jnp.float32)


def from_xml(
    path: str | Path,
    *,
    reward: Reward,
    observe: Callable[[Any, Frame], Array] = whole_state,
    tasks: Callable[[Array], Any] | None = None,
    ended: Callable[[Any, Frame], Array] | None = None,
    success: Callable[[Any, Frame], Array] | None = None,
    reset: Callable[..., tuple[Array, Array]] | None = None,
    horizon: int = 1000,
    action_scale: float = 1.0,
    frame_skip: int = 1,
    patches: Mapping[str, Sequence[str] | None] | None = None,
    watch: Mapping[str, tuple[str, str | Sequence[str] | None]] | None = None,
    refresh: bool = False,
    backend: str = "auto",
) -> tuple[Robot, TaskDistribution]:
    """`(env, tasks)` of a robot of your own.

    Args:
      path: a MuJoCo XML.
      reward: (goal, before, action, after) -> [], of the `Frame`s before and after a step and the action as applied.
      observe: (goal, frame) -> [D]; by default positions and velocities. What the agent must find out stays out.
      tasks: key -> goal, any pytree; with `patches`: key -> (goal, {name: array}). None: one task, whose goal is 0.
      ended: (goal, frame) -> [] bool: the episode terminates. None: never.
      success: (goal, frame) -> [] bool: the task is solved in this step. The share of episodes in which it was, in any
        step, is reported beside the return.
      reset: (key, qpos, qvel) -> (qpos, qvel) of a start, from those of the XML, which are the default.
      horizon: steps of an episode. action_scale: what actions are multiplied by before they are clipped.
      frame_skip, patches, watch, refresh, backend: see `physics.load`.

    Raises: ValueError, one line, for an XML or names that do not fit; MissingPackage for `metarl_jax[robots]`.
    """
    physics = load(path, frame_skip=frame_skip, patches=patches, watch=watch, refresh=refresh, backend=backend)
    draw = tasks if tasks is not None else (lambda key: (0.0, physics.model.default_patch()) if patches else 0.0)

    def goal_and_patch(key: Array) -> tuple[Any, Any]:
        drawn = draw(key)
        if not patches:
            return drawn, {}
        if not isinstance(drawn, tuple) or len(drawn) != 2:
            raise ValueError("tasks: with patches it must return (goal, patch), a dictionary of arrays")
        return drawn

    goal = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(goal_and_patch, jax.random.key(0))[0])
    env = Robot(
        physics, reward=reward, observe=observe, ended=ended, success=success, reset=reset, horizon=horizon,
        action_scale=action_scale, example_goal=goal,
    )  # fmt: skip
    if tasks is None:
        members = jax.tree.map(lambda x: x[None], env.default_params)
        return env, TaskDistribution.from_members(members, env.horizon, description=f"{env.name}, one task")
    sample = functools.partial(_sample, env, goal_and_patch)
    return env, TaskDistribution(sample=sample, horizon=env.horizon, description=env.name)


def _sample(env: Robot, goal_and_patch: Callable[[Array], tuple[Any, Any]], key: Array) -> RobotTask:
    return env.params(*goal_and_patch(key))
