"""What only the simulator knows of a task, computed once on the host: how the robot stands when an episode starts.

The package resets by 50 steps in which the hand is pulled to its first place, 7 to 11 ms. All of it but the object's
place is the same for all tasks of a name: bit for bit, except that the *warm start* (the accelerations from which the
solver starts to iterate) depends on how an object lies in contact, and the lever's first velocity by 2e-18 rad/s. So
the state is a constant here, with the object put in its place. From there, in float64, a first step differs from the
package's by 2e-15 at most. Contacts amplify that as they amplify any rounding: over one goal a task and 500 steps, push
came to differ most, by 7e-3 in its observation. With the package's warm start in the state nothing grows: 2e-15.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metarl_jax.envs import physics
from metarl_jax.envs.metaworld.task import Settled, Task
from metarl_jax.envs.packages import MissingPackage, package

FRAME_SKIP = 5  # 80 steps a second
SETTLING_STEPS = 50
MOCAP_QUAT = (1.0, 0.0, 1.0, 0.0)  # the hand points down
# Anchor, position and quaternion of the hand in the mocap body's frame, and how torque weighs against force.
WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)
OBJECT = 9  # the first of the object's coordinates, after 7 of the arm and 2 of the gripper

Watch = dict[str, tuple[str, str]]


def watch(task: Task) -> Watch:
    """What comes back of a step: nine positions [3] and a quaternion [4], under the same names for all tasks."""
    body = task.turn[0] if task.turn else "hand"
    return {
        "hand": ("xpos", "hand"),
        "right_claw": ("xpos", "rightclaw"),
        "left_claw": ("xpos", "leftclaw"),
        "right_tip": ("site_xpos", "rightEndEffector"),
        "left_tip": ("site_xpos", "leftEndEffector"),
        "right_pad": ("xpos", "rightpad"),
        "left_pad": ("xpos", "leftpad"),
        "object": task.observed,
        "head": task.head or task.observed,
        "turn": ("xquat", body),
    }


def load(task: Task) -> physics.Physics:
    """The physics of a task, by C MuJoCo. Raises: MissingPackage."""
    return _load(task.xml, task.fixture, tuple(watch(task).items()))


@functools.cache
def _load(xml: str, fixture: str | None, watched: Any) -> physics.Physics:
    package("mujoco", "metaworld", "Meta-World")
    loaded = physics.load(
        _assets() / "sawyer_xyz" / xml,
        frame_skip=FRAME_SKIP,
        patches={"body_pos": [fixture]} if fixture else None,
        watch=dict(watched),
        refresh=True,
        backend="c",  # MJX has no collisions of cylinders with boxes, which these models need
        extra="metaworld",
    )
    model = loaded.model.mujoco
    model.eq_data[:] = WELD  # their only constraint
    return loaded


def _assets() -> Path:
    """The folder of the package's models. Its code is not imported."""
    found = importlib.util.find_spec("metaworld")
    if found is None or found.origin is None or not found.submodule_search_locations:  # a mere folder has no origin
        raise MissingPackage("Meta-World needs the package metaworld: pip install 'metarl_jax[metaworld]'")
    return Path(next(iter(found.submodule_search_locations))) / "assets"


def hand_start(task: Task) -> np.ndarray:
    """[3] where the hand is pulled to, in m; a number of float32 where the package's is one."""
    return np.asarray(task.hand, np.float32 if task.single else np.float64).astype(np.float64)


def settle(task: Task, loaded: physics.Physics) -> Settled:
    """The package's `reset_model`, with the fixture where the XML has it and the object in the middle of its range."""
    import copy

    mj, ours = package("mujoco", "metaworld", "Meta-World"), loaded.model
    model = copy.copy(ours.mujoco)
    data = mj.MjData(model)
    anchor = model.body(task.fixture).pos.copy() if task.fixture else np.zeros(3)

    def look() -> dict[str, np.ndarray]:
        return {name: getattr(data, field)[_index(model, field, row)].copy() for name, (field, row) in watched.items()}

    watched = watch(task)
    for _ in range(SETTLING_STEPS):
        data.mocap_pos[0], data.mocap_quat[0], data.ctrl[:] = hand_start(task), MOCAP_QUAT, [-1, 1]
        mj.mj_step(model, data, FRAME_SKIP)
    with jax.enable_x64(True):
        before = look()
        seen = before
        settled = Settled(
            state=np.zeros(0),
            frame=np.zeros(18),
            tcp=(before["right_tip"] + before["left_tip"]) / 2,
            object=before["object"] + np.asarray(task.offset) - anchor,
            head=before["head"],
            first_object=np.zeros(3),
            sites={model.site(i).name: data.site_xpos[i] - anchor for i in range(model.nsite)},
        )
        if task.free:
            middle = jnp.asarray((np.asarray(task.low) + np.asarray(task.high)) / 2)
            anchor = np.asarray(task.place(middle, settled)["object_pos"])
            data.qpos[OBJECT : OBJECT + 3], data.qvel[OBJECT : OBJECT + 6] = anchor, 0
        elif task.joint is not None:
            data.qpos[OBJECT] = task.joint
            if task.at_rest:
                data.qvel[OBJECT] = 0
        if task.refresh:
            mj.mj_forward(model, data)
            seen = look()
        state = np.zeros(ours.state_size)
        mj.mj_getState(model, data, state, ours.state_bits)
        frame = np.asarray(observed(task, loaded)({k: jnp.asarray(x) for k, x in seen.items()}))
    return settled._replace(state=state, frame=frame, first_object=frame[4:7] - anchor)


def observed(task: Task, loaded: physics.Physics) -> Callable[[Mapping[str, Array]], Array]:
    """What is watched -> the frame [18]: hand [3], opening, object's position [3] and quaternion [4], zeros."""
    geom_quat = np.array([1.0, 0.0, 0.0, 0.0])
    if task.turn and task.turn[1]:
        geom_quat = np.array(loaded.model.mujoco.geom(task.turn[1]).quat)

    def frame(seen: Mapping[str, Array]) -> Array:
        dtype = seen["hand"].dtype
        apart = seen["right_claw"] - seen["left_claw"]
        opening = jnp.clip(jnp.sqrt(jnp.sum(apart * apart)) / 0.1, 0.0, 1.0)
        quat = jnp.zeros(4, dtype)
        if task.turn:
            quat = seen["turn"]
        if task.turn and task.turn[2] == "xyzw":
            quat = _positive(_product(quat, jnp.asarray(geom_quat, dtype)))
        position = seen["object"] + jnp.asarray(task.offset, dtype)
        return jnp.concatenate([seen["hand"], opening[None], position, quat, jnp.zeros(7, dtype)])

    return frame


def _product(a: Array, b: Array) -> Array:
    """Of two quaternions (w, x, y, z)."""
    return jnp.concatenate([(a[0] * b[0] - a[1:] @ b[1:])[None], a[0] * b[1:] + b[0] * a[1:] + jnp.cross(a[1:], b[1:])])


def _positive(q: Array) -> Array:
    """(x, y, z, w) of (w, x, y, z), with the sign that scipy gives the quaternion of a matrix: its largest component,
    of equal ones the first, is positive."""
    q = jnp.roll(q, -1)
    largest = q[jnp.argmax(jnp.abs(q))]
    return q * jnp.where(largest < 0, -1, 1).astype(q.dtype)


def _index(model: Any, field: str, row: str) -> int:
    return int(
        getattr(model, {"xpos": "body", "xquat": "body", "site_xpos": "site", "geom_xpos": "geom"}[field])(row).id
    )
