"""Meta-World's Sawyer arm as a gymnax environment: observation and reward in JAX, physics in C MuJoCo.

After package metaworld 3.1.1 (Yu et al. 2019, "Meta-World"; McLean et al. 2025, "Meta-World+"), under the MIT
licence. Its wheel carries that one licence and no other notice for its models. Nothing of it is copied here: the models
are read from where the package is installed.

Actions [4] in [-1, 1]: how far the hand is told to move, in cm along x, y, z, and the gripper (1 closes). Observations
[39]: the frame now [18], the frame before [18], and three zeros in the place of the goal, which is hidden as in ML1 and
ML10. A frame: hand [3], opening of the gripper in [0, 1], position [3] and quaternion [4] of the object, seven zeros.
80 steps a second, 500 an episode; success does not end it.

What differs from the package. Its resets run the simulator; here the settled state is a constant (see `settle`).
Actions are always scaled in float32, as the package does with float32 actions. Where MuJoCo warns that the simulation
became unstable, the package returns the last stable observation until the time is up; here the episode terminates, with
reward 0 and the last observation.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.metaworld.mixed import state_size, stepper
from metarl_jax.envs.metaworld.settle import OBJECT, load, observed, settle
from metarl_jax.envs.metaworld.task import SawyerParams, Seen, Task
from metarl_jax.envs.physics import film
from metarl_jax.envs.tasks import check_count

HAND_HIGH = (0.5, 1.0, 0.5)
FRAME_LOW = np.array([-0.525, 0.348, -0.0525, -1.0] + 14 * [-np.inf])
FRAME_HIGH = np.array([0.525, 1.025, 0.7, 1.0] + 14 * [np.inf])


@struct.dataclass
class SawyerState(environment.EnvState):
    """The physics, and what is remembered of the last observation."""

    physics: Array  # [S] see `physics.Physics`
    frame: Array  # [18] as it was last observed, not clipped
    time: Array  # [] steps taken in this episode
    reports: dict[str, Array]  # [] bool each: `success` in this episode so far; `unstable`: the simulation broke


class Sawyer(environment.Environment[SawyerState, SawyerParams]):
    """The arm with the objects of one task, or of several: then a task's `kind` says which, and states are padded.

    Every step is one call of the host, for all lanes that are vmapped together. Resets call nothing.
    """

    calls_host = has_large_step = True
    reports = ("success", "unstable")
    # Where films look from: beside the arm, down on the table. The cameras of the XML stand on their heads.
    view: Mapping[str, Any] = {"lookat": (0.0, 0.65, 0.15), "distance": 1.6, "azimuth": 135.0, "elevation": -30.0}

    def __init__(self, tasks: Sequence[tuple[str, Task]], reward: str = "v2", horizon: int = 500):
        super().__init__()
        self.names = tuple(name for name, _ in tasks)
        self.tasks = tuple(task for _, task in tasks)
        self.rewards = tuple(task.v2 if reward == "v2" else task.v1 for task in self.tasks)
        self.horizon = check_count("horizon", horizon)
        self._physics = tuple(load(task) for task in self.tasks)
        self._settled = tuple(settle(*pair) for pair in zip(self.tasks, self._physics, strict=True))
        self._frames = tuple(observed(*pair) for pair in zip(self.tasks, self._physics, strict=True))
        self._step, self._size = stepper(self._physics), state_size(self._physics)

    # ---- tasks

    def params(self, vector: Array, kind: int = 0) -> SawyerParams:
        """The task that a random vector [3 or 6] of the package makes."""
        task, settled = self.tasks[kind], self._settled[kind]
        zeros = jnp.zeros(3, float)
        places = {"body_pos": zeros, "handle": zeros, **task.place(jnp.asarray(vector, float), settled)}
        return SawyerParams(
            kind=jnp.asarray(kind, int),
            init_tcp=jnp.asarray(settled.tcp, float),
            max_steps_in_episode=jnp.asarray(self.horizon, int),
            **{name: jnp.asarray(place, float) for name, place in places.items()},
        )

    def sample(self, key: Array, kind: int = 0) -> SawyerParams:
        """A task of that kind, uniform over the package's range."""
        task = self.tasks[kind]
        low, high = jnp.asarray(task.low, float), jnp.asarray(task.high, float)

        def draw(key: Array) -> Array:
            return jax.random.uniform(key, low.shape, float, minval=low, maxval=high)

        def again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            key = jax.random.split(carry[0])[0]
            return key, draw(key)

        if not task.min_distance:
            return self.params(draw(key), kind)
        carry = (key, draw(key))
        return self.params(jax.lax.while_loop(lambda c: too_near(task, c[1]), again, carry)[1], kind)

    @property
    def default_params(self) -> SawyerParams:
        task = self.tasks[0]
        return self.params(jnp.asarray((np.asarray(task.low) + np.asarray(task.high)) / 2, float))

    # ---- episodes

    def reset_env(self, key: Array, params: SawyerParams) -> tuple[Array, SawyerState]:
        del key  # all that is random is the task
        physics, frame = self._of_kind(params.kind, self._start, params)
        nothing = dict.fromkeys(self.reports, jnp.zeros((), bool))
        state = SawyerState(physics=physics, frame=frame, time=jnp.zeros((), int), reports=nothing)
        return jnp.concatenate([frame, frame, jnp.zeros(3, frame.dtype)]), state

    def step_env(
        self, key: Array, state: SawyerState, action: Array, params: SawyerParams
    ) -> tuple[Array, SawyerState, Array, Array, dict[Any, Any]]:
        del key
        action = jnp.asarray(action, jnp.float32)
        skip = self.is_truncated(state, params) | state.reports["unstable"]
        told = self._of_kind(params.kind, self._told, state.physics, action)
        grip = action[3].astype(told.dtype)
        physics, seen = self._step(params.kind, told, jnp.stack([grip, -grip]), params.body_pos, skip)
        broke = seen["unstable"] | state.reports["unstable"]
        still = broke | skip
        frame, reward, success = self._of_kind(params.kind, self._judge, physics, seen, action, params)
        now, before = _clipped(jnp.where(still, state.frame, frame)), _clipped(state.frame)
        state = SawyerState(
            physics=jnp.where(still, state.physics, physics),
            frame=jnp.where(still, state.frame, frame),
            time=state.time + 1,
            reports={"success": state.reports["success"] | (success & ~still), "unstable": broke},
        )
        observation = jnp.concatenate([now, before, jnp.zeros(3, now.dtype)])
        return observation, state, jnp.where(still, 0.0, reward), self.is_terminated(state, params), dict(state.reports)

    def is_terminated(self, state: SawyerState, params: SawyerParams) -> Array:
        return state.reports["unstable"]

    def is_truncated(self, state: SawyerState, params: SawyerParams) -> Array:
        return state.time >= params.max_steps_in_episode

    def get_obs(self, state: SawyerState, params: SawyerParams | None = None, key: Array | None = None) -> Array:
        """As after a step that changed nothing: both frames are the last one."""
        frame = _clipped(state.frame)
        return jnp.concatenate([frame, frame, jnp.zeros(3, frame.dtype)])

    def frames(self, states: SawyerState, params: SawyerParams) -> np.ndarray:
        """See `physics.film.frames`."""
        model = self._physics[int(params.kind)].model
        return film.frames(model, np.asarray(states.physics), {"body_pos": params.body_pos}, camera=self.view)

    @property
    def seconds_a_step(self) -> float:
        return self._physics[0].model.dt

    @property
    def name(self) -> str:
        return f"Sawyer({', '.join(self.names)})"

    @property
    def num_actions(self) -> int:
        return 4

    def action_space(self, params: SawyerParams | None = None) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (4,), jnp.float32)

    def observation_space(self, params: SawyerParams | None = None) -> spaces.Box:
        low, high = (np.concatenate([x, x, np.zeros(3)]) for x in (FRAME_LOW, FRAME_HIGH))
        return spaces.Box(jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32), (39,), jnp.float32)

    # ---- what depends on the kind

    def _of_kind(self, kind: Array, function: Callable[..., Any], *args: Any) -> Any:
        if len(self.tasks) == 1:
            return function(0, *args)
        return jax.lax.switch(kind, [functools.partial(function, k) for k in range(len(self.tasks))], *args)

    def _start(self, kind: int, params: SawyerParams) -> tuple[Array, Array]:
        task, settled, model = self.tasks[kind], self._settled[kind], self._physics[kind].model
        physics, frame = jnp.asarray(settled.state, float), jnp.asarray(settled.frame, float)
        moved = params.object_pos if task.free else params.body_pos
        if task.free:
            qpos = model.part(physics, "QPOS").at[OBJECT : OBJECT + 3].set(params.object_pos)
            physics = model.with_part(physics, "QPOS", qpos)
        frame = frame.at[4:7].set(moved + jnp.asarray(settled.first_object, float))
        return self._padded(physics), frame

    def _told(self, kind: int, physics: Array, action: Array) -> Array:
        """The state with the mocap body, which the hand is welded to, moved by the action."""
        task, model = self.tasks[kind], self._physics[kind].model
        physics = physics[: model.state_size]
        move = (jnp.clip(action[:3], -1, 1) * jnp.float32(0.01)).astype(physics.dtype)
        low, high = jnp.asarray(task.hand_low, physics.dtype), jnp.asarray(HAND_HIGH, physics.dtype)
        mocap = jnp.clip(model.part(physics, "MOCAP_POS") + move, low, high)
        return self._padded(model.with_part(physics, "MOCAP_POS", mocap))

    def _judge(
        self, kind: int, physics: Array, seen: Any, action: Array, params: SawyerParams
    ) -> tuple[Array, Array, Array]:
        """Frame [18], reward [] and success [] of a step."""
        model = self._physics[kind].model
        frame = self._frames[kind](seen)
        clipped = _clipped(frame)
        reads = Seen(
            hand=clipped[:3],
            opening=clipped[3],
            object=clipped[4:7],
            tcp=(seen["right_tip"] + seen["left_tip"]) / 2,
            left_tip=seen["left_tip"],
            left_pad=seen["left_pad"],
            right_pad=seen["right_pad"],
            head=seen["head"],
            joint=model.part(physics[: model.state_size], "QPOS")[OBJECT],
        )
        reward, success = self.rewards[kind](reads, action, params, self._settled[kind])
        return frame, reward.astype(frame.dtype), success

    def _padded(self, physics: Array) -> Array:
        return jnp.pad(physics, (0, self._size - physics.shape[0]))


def too_near(task: Task, vector: Any) -> Any:
    """Whether the package draws this vector again."""
    other = vector[-3:-1] if task.near is None else np.asarray(task.near)
    gap = vector[:2] - other
    return (gap * gap).sum() < task.min_distance**2


def _clipped(frame: Array) -> Array:
    return jnp.clip(frame, jnp.asarray(FRAME_LOW, frame.dtype), jnp.asarray(FRAME_HIGH, frame.dtype))
