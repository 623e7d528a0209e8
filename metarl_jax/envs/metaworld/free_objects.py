"""Tasks with an object that moves freely: reach, push, pick-place, peg-insert-side, sweeping, basketball, shelf-place.

`v`: the random vector of a task; `r`: the reward of package 3.1.1, in [0, 10] (V2). d: a distance from the goal, D: the
same at the reset. tol(x; b, m): 1 up to b, falling over a margin m; a & b: Hamacher's product (see `tools`).
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from metarl_jax.envs.metaworld.task import SawyerParams, Seen, Settled, Task
from metarl_jax.envs.metaworld.tools import (
    cage,
    hamacher,
    lift_then_place,
    norm,
    pad_cage,
    prism,
    progress,
    reach_then,
    sweep_cage,
    tolerance,
)

Result = tuple[Array, Array]


def _const(x: object, like: Array) -> Array:
    return jnp.asarray(x, like.dtype)


def _on(v: Array, z: object) -> Array:
    """(v_x, v_y, z)."""
    return jnp.concatenate([v[:2], _const(z, v)[None]])


# ---- reach


def _reach_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = 10 tol(d; .05, D): d of the finger tips, D of where the hand starts."""
    d = norm(seen.tcp - task.goal)
    return 10 * tolerance(d, 0.05, norm(_const(REACH.hand, d) - task.goal)), d <= 0.05


def _reach_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    d = norm(seen.tcp - task.goal)
    return jnp.maximum(progress(norm(task.init_tcp - task.goal), d), 0.0), d <= 0.05


REACH = Task(
    xml="sawyer_reach_v3.xml",
    policy="SawyerReachV3Policy",
    low=(-0.1, 0.6, 0.02, -0.1, 0.8, 0.05),
    high=(0.1, 0.7, 0.02, 0.1, 0.9, 0.3),
    min_distance=0.15,
    place=lambda v, settled: {"object_pos": v[:3], "goal": v[3:]},
    free=True,
    observed=("xpos", "obj"),
    turn=("obj", "objGeom", "xyzw"),
    v2=_reach_v2,
    v1=_reach_v1,
)

# ---- push


def _push_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = 2 c, c the cage; when it is held: 1 + 4 c + 5 tol(d; .05, D); 10 when d < .05."""
    obj = seen.object
    d = norm(obj - task.goal)
    in_place = tolerance(d, 0.05, norm(task.object_pos - task.goal))
    reward = 2 * cage(seen, action, task, radius=0.015, pads=0.05, xz=0.005)
    holds = (norm(obj - seen.tcp) < 0.02) & (seen.opening > 0)
    reward = jnp.where(holds, 1 + 2 * reward + 5 * in_place, reward)
    return jnp.where(d < 0.05, 10.0, reward), d <= 0.05


def _push_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    d, most = norm((seen.object - task.goal)[:2]), norm((task.object_pos - task.goal)[:2])
    return reach_then(norm(seen.object - seen.tcp), jnp.maximum(progress(most, d), 0.0)), d <= 0.05


PUSH = REACH._replace(
    xml="sawyer_push_v3.xml",
    policy="SawyerPushV3Policy",
    low=(-0.1, 0.6, 0.02, -0.1, 0.8, 0.01),
    high=(0.1, 0.7, 0.02, 0.1, 0.9, 0.02),
    place=lambda v, settled: {"object_pos": _on(v, settled.object[2]), "goal": _on(v[3:], settled.object[2])},
    v2=_push_v2,
    v1=_push_v1,
)

# ---- pick-place


def _pick_place_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = c & p, p = tol(d; .05, D); + 1 + 5 p once it is lifted; 10 when d < .05."""
    obj = seen.object
    d = norm(obj - task.goal)
    in_place = tolerance(d, 0.05, norm(task.object_pos - task.goal))
    reward = hamacher(pad_cage(seen, action, task, radius=0.015, xz=0.005), in_place)
    lifted = (norm(obj - seen.tcp) < 0.02) & (seen.opening > 0) & (obj[2] - 0.01 > task.object_pos[2])
    reward = reward + jnp.where(lifted, 1 + 5 * in_place, 0.0)
    return jnp.where(d < 0.05, 10.0, reward), d <= 0.07


def _pick_place_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    return lift_then_place(seen, action, task, lift=0.04), norm(seen.object - task.goal) <= 0.07


PICK_PLACE = REACH._replace(
    xml="sawyer_pick_place_v3.xml", policy="SawyerPickPlaceV3Policy", v2=_pick_place_v2, v1=_pick_place_v1
)  # fmt: skip

# ---- peg-insert-side


def _peg_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = c & p; + 1 + 5 p once lifted (then c = 1); 10 when d <= .07.

    p = tol(d; .07, D) & b; d of the peg's head, heights and depths twice as dear; b keeps the head out of two boxes.
    """
    obj, site = seen.object, settled.sites
    scale = _const([1.0, 2.0, 2.0], obj)
    d = norm((seen.head - task.goal) * scale)
    corner = {k: task.body_pos + _const(v, obj) for k, v in site.items() if "collision_box" in k}
    boxes = [
        prism(seen.head, corner[f"bottom_right_corner_collision_box_{i}"], corner[f"top_left_corner_collision_box_{i}"])
        for i in (1, 2)
    ]
    in_place = hamacher(tolerance(d, 0.07, norm((task.handle - task.goal) * scale)), hamacher(boxes[1], boxes[0]))
    held = cage(seen, action, task, radius=0.0075, pads=0.03, xz=0.005)
    lifted = (norm(obj - seen.tcp) < 0.08) & (seen.opening > 0) & (obj[2] - 0.01 > task.object_pos[2])
    reward = hamacher(jnp.where(lifted, 1.0, held), in_place) + jnp.where(lifted, 1 + 5 * in_place, 0.0)
    return jnp.where(d <= 0.07, 10.0, reward), d <= 0.07


def _peg_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    reward = lift_then_place(seen, action, task, lift=0.11, above=1.0, head=seen.head)
    return reward, norm(seen.object - task.goal) <= 0.07


PEG_INSERT_SIDE = Task(
    xml="sawyer_peg_insertion_side.xml",
    policy="SawyerPegInsertionSideV3Policy",
    low=(0.0, 0.5, 0.02, -0.35, 0.4, -0.001),
    high=(0.2, 0.7, 0.02, -0.25, 0.7, 0.001),
    min_distance=0.1,
    place=lambda v, settled: {
        "object_pos": v[:3],
        "body_pos": v[3:],
        "goal": v[3:] + _const([0.03, 0.0, 0.13], v),
        "handle": _const(settled.head, v),  # before the peg is put in its place, as in the package
    },
    fixture="box",
    free=True,
    observed=("site_xpos", "pegGrasp"),
    head=("site_xpos", "pegHead"),
    turn=("peg", None, "xyzw"),
    v2=_peg_v2,
    v1=_peg_v1,
)

# ---- sweep, sweep-into


def _swept(seen: Seen, task: SawyerParams, goal: Array, grip: float, xz: float) -> Result:
    """r = 2 c + 6 (c & tol(d; .05, D)); 10 when d < .05."""
    d = norm(seen.object - goal)
    in_place = tolerance(d, 0.05, norm(task.object_pos - goal))
    held = sweep_cage(seen, task, radius=0.02, grip=grip, xz=xz)
    return jnp.where(d < 0.05, 10.0, 2 * held + 6 * hamacher(held, in_place)), d <= 0.05


def _sweep_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    return _swept(seen, task, task.goal, grip=0.01, xz=0.005)


def _swept_v1(seen: Seen, task: SawyerParams, fallen: Array) -> Result:
    reach, d = norm(seen.object - seen.tcp), norm((seen.object - task.goal)[:2])
    d = jnp.where(fallen, 0.0, d)
    bonus = jnp.maximum(progress(norm((task.object_pos - task.goal)[:2]), d), 0.0)
    return jnp.where(fallen, 0.0, -reach) + jnp.where(reach < 0.05, bonus, 0.0), d <= 0.05


def _sweep_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """Off the table counts as there."""
    return _swept_v1(seen, task, seen.object[2] < task.object_pos[2] - 0.05)


SWEEP = Task(
    xml="sawyer_sweep_v3.xml",
    policy="SawyerSweepV3Policy",
    low=(-0.1, 0.6, 0.02),
    high=(0.1, 0.7, 0.02),
    place=lambda v, settled: {
        "object_pos": _on(v, 0.02),
        "goal": jnp.stack([_const(0.5, v), v[1], _const(0.01, v)]),
    },
    free=True,
    observed=("xpos", "obj"),
    turn=("obj", None, "wxyz"),
    v2=_sweep_v2,
    v1=_sweep_v1,
)


def _sweep_into_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """Heights do not count."""
    return _swept(seen, task, jnp.stack([task.goal[0], task.goal[1], seen.object[2]]), grip=0.005, xz=0.01)


def _sweep_into_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    y, z = seen.object[1], seen.object[2]
    return _swept_v1(seen, task, (z < task.object_pos[2] - 0.05) & (0.4 < y) & (y < 1.0))


SWEEP_INTO = Task(
    xml="sawyer_table_with_hole.xml",
    policy="SawyerSweepIntoV3Policy",
    low=(-0.1, 0.6, 0.02, -0.001, 0.8399, 0.0199),  # the last three are drawn and not read: the hole stays where it is
    high=(0.1, 0.7, 0.02, 0.001, 0.8401, 0.0201),
    min_distance=0.15,
    near=(0.0, 0.84),
    place=lambda v, settled: {"object_pos": _on(v, settled.object[2]), "goal": _const([0.0, 0.84, 0.02], v)},
    free=True,
    observed=("xpos", "obj"),
    turn=("obj", "objGeom", "xyzw"),
    v2=_sweep_into_v2,
    v1=_sweep_into_v1,
)

# ---- basketball


def _basketball_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = c & p, p = tol(d; .08, D) of a point over the hoop, heights twice as dear; + 1 + 5 p once lifted (c = 1)."""
    obj = seen.object
    target, scale = _on(task.goal, 0.3), _const([1.0, 1.0, 2.0], obj)
    d = norm((obj - target) * scale)
    in_place = tolerance(d, 0.08, norm((task.object_pos - target) * scale))
    held = cage(seen, action, task, radius=0.025, pads=0.06, xz=0.005)
    lifted = (norm(obj - seen.tcp) < 0.035) & (seen.opening > 0) & (obj[2] - 0.01 > task.object_pos[2])
    reward = hamacher(jnp.where(lifted, 1.0, held), in_place) + jnp.where(lifted, 1 + 5 * in_place, 0.0)
    return jnp.where(d < 0.08, 10.0, reward), d <= 0.08


def _basketball_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    return lift_then_place(seen, action, task, lift=0.3), norm(seen.object - task.goal) <= 0.08


BASKETBALL = Task(
    xml="sawyer_basketball.xml",
    policy="SawyerBasketballV3Policy",
    low=(-0.1, 0.6, 0.0299, -0.1, 0.85, 0.0),
    high=(0.1, 0.7, 0.0301, 0.1, 0.9 + 1e-7, 0.0),
    min_distance=0.15,
    place=lambda v, settled: {
        "object_pos": _on(v, np.float32(0.03)),
        "body_pos": v[3:],
        "goal": v[3:] + _const([0.0, -0.083, 0.25], v),
    },
    single=True,
    fixture="basket_goal",
    free=True,
    observed=("xpos", "bsktball"),
    turn=("bsktball", None, "wxyz"),
    v2=_basketball_v2,
    v1=_basketball_v1,
)

# ---- shelf-place


def _shelf_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = c & p; + 1 + 5 p' once lifted; 10 when d < .05. p' is p less what running into the shelf costs."""
    obj, goal = seen.object, task.goal
    d = norm(obj - goal)
    in_place = tolerance(d, 0.05, norm(task.object_pos - goal))
    reward = hamacher(cage(seen, action, task, radius=0.02, pads=0.05, xz=0.01, dense=False), in_place)
    before = obj[1] - (goal[1] - 0.15)
    low = (obj[2] > 0) & (obj[2] < 0.24) & (goal[0] - 0.15 < obj[0]) & (obj[0] < goal[0] + 0.15)
    loss = hamacher(jnp.clip(before / 0.15, 0, 1), jnp.clip((0.24 - obj[2]) / 0.24, 0, 1))
    kept = jnp.where(low & (before > 0) & (obj[1] < goal[1]), jnp.clip(in_place - loss, 0, 1), in_place)
    kept = jnp.where(low & (obj[1] > goal[1]), 0.0, kept)
    lifted = (norm(obj - seen.tcp) < 0.025) & (seen.opening > 0) & (obj[2] - 0.01 > task.object_pos[2])
    reward = reward + jnp.where(lifted, 1 + 5 * kept, 0.0)
    return jnp.where(d < 0.05, 10.0, reward), d <= 0.07


def _shelf_place(v: Array, settled: Settled) -> dict[str, Array]:
    up = _const([0.0, 0.0, 0.3], v)
    return {"object_pos": _on(v, settled.object[2]), "body_pos": v[3:] - up, "goal": up + (v[3:] - up)}


SHELF_PLACE = Task(
    xml="sawyer_shelf_placing.xml",
    policy="SawyerShelfPlaceV3Policy",
    low=(-0.1, 0.5, 0.019, -0.1, 0.8, 0.299),
    high=(0.1, 0.6, 0.021, 0.1, 0.9, 0.301),
    min_distance=0.1,
    place=_shelf_place,
    single=True,
    fixture="shelf",
    free=True,
    observed=("xpos", "obj"),
    turn=("obj", "objGeom", "xyzw"),
    v2=_shelf_v2,
    v1=_pick_place_v1,  # the same lift, the same radius
)
