"""Tasks with something that opens, closes or gives way: buttons, doors, drawers, windows, a lever.

`v`: the random vector of a task, where the mechanism stands; `r`: the reward of package 3.1.1, in [0, 10] (V2). d: how
far the handle is from the goal, D: the same at the reset. tol(x; b, m): 1 up to b, falling over a margin m; a & b:
Hamacher's product (see `tools`).
"""

import jax.numpy as jnp
from jax import Array

from metarl_jax.envs.metaworld.task import SawyerParams, Seen, Settled, Task
from metarl_jax.envs.metaworld.tools import closing, gaussian_tolerance, hamacher, norm, progress, reach_then, tolerance

Result = tuple[Array, Array]


def _const(x: object, like: Array) -> Array:
    return jnp.asarray(x, like.dtype)


# ---- buttons


def _button_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = 2 (opening & near); + 8 tol(d; .005, D) within .05 of the button. near = tol(|button - tips|; .05, ...)."""
    obj = seen.object
    near, d = norm(obj - seen.tcp), jnp.abs(task.goal[1] - obj[1])
    reward = 2 * hamacher(seen.opening, tolerance(near, 0.05, norm(obj - task.init_tcp)))
    pressed = tolerance(d, 0.005, jnp.abs(task.goal[1] - task.handle[1]))
    return reward + jnp.where(near <= 0.05, 8 * pressed, 0.0), d <= 0.02


def _button_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    d, most = jnp.abs(task.goal[1] - seen.object[1]), jnp.abs(task.goal[1] - task.handle[1])
    return reach_then(norm(seen.object - seen.left_tip), jnp.maximum(progress(most, d), 0.0)), d <= 0.02


def _button_place(v: Array, settled: Settled) -> dict[str, Array]:
    return {
        "object_pos": v,
        "body_pos": v,
        "goal": v + _const(settled.sites["hole"], v),
        "handle": v + _const(settled.sites["buttonStart"], v),
    }


BUTTON_PRESS = Task(
    xml="sawyer_button_press.xml",
    policy="SawyerButtonPressV3Policy",
    low=(-0.1, 0.85, 0.115),
    high=(0.1, 0.9, 0.115),
    place=_button_place,
    hand=(0.0, 0.4, 0.2),
    single=True,
    fixture="box",
    joint=0.0,
    observed=("xpos", "button"),
    offset=(0.0, -0.193, 0.0),
    turn=("button", None, "wxyz"),
    v2=_button_v2,
    v1=_button_v1,
)


def _topdown_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = 5 (closed & near); + 5 tol(d; .005, D) within .03 of the button. near = tol(|button - tips|; .01, ...)."""
    obj = seen.object
    near, d = norm(obj - seen.tcp), jnp.abs(task.goal[2] - obj[2])
    reward = 5 * hamacher(1 - seen.opening, tolerance(near, 0.01, norm(obj - task.init_tcp)))
    pressed = tolerance(d, 0.005, jnp.abs(task.goal[2] - task.handle[2]))
    return reward + jnp.where(near <= 0.03, 5 * pressed, 0.0), d <= 0.024


def _topdown_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    d, most = jnp.abs(task.goal[2] - seen.object[2]), jnp.abs(task.goal[2] - task.handle[2])
    return reach_then(norm(seen.object - seen.tcp), jnp.maximum(progress(most, d), 0.0)), d <= 0.024


BUTTON_PRESS_TOPDOWN = BUTTON_PRESS._replace(
    xml="sawyer_button_press_topdown.xml",
    policy="SawyerButtonPressTopdownV3Policy",
    low=(-0.1, 0.8, 0.115),
    joint=None,
    offset=(0.0, 0.0, 0.193),
    v2=_topdown_v2,
    v1=_topdown_v1,
)

# ---- doors


def _door_open_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = 2 (ready & closing) + 8 opened; 10 on success.

    ready: the hand is behind the handle and came there from above a funnel; closing: (1 + the gripper's action) / 2;
    opened: .2 past 2 degrees + .8 tol(120 degrees - angle; .5, 60 degrees).
    """
    hand, door = seen.hand, seen.object + _const([-0.05, 0.0, 0.0], seen.object)
    radius = norm((hand - door)[:2])
    outside = radius > 0.12
    floor = jnp.where(outside, 0.04 * jnp.log(jnp.where(outside, radius - 0.12, 1.0)) + 0.4, 0.0)
    above = jnp.where(hand[2] >= floor, 1.0, tolerance(floor - hand[2], 0.01, floor / 2))
    behind = tolerance(norm(hand - door - _const([0.05, 0.03, -0.01], hand)), 0.06, 0.5)
    turned = -seen.joint
    opened = jnp.where(turned > jnp.pi / 90, 0.2, 0.0) + 0.8 * tolerance(jnp.pi * 2 / 3 - turned, 0.5, jnp.pi / 3)
    grab = (jnp.clip(action[3], -1, 1).astype(hand.dtype) + 1) / 2
    success = jnp.abs(seen.object[0] - task.goal[0]) <= 0.08
    return jnp.where(success, 10.0, 2 * hamacher(hamacher(above, behind), grab) + 8 * opened), success


def _door_bonus(seen: Seen, task: SawyerParams) -> Result:
    d, most = norm((seen.object - task.goal)[:2]), norm((task.handle - task.goal)[:2])
    return reach_then(norm(seen.object - seen.tcp), jnp.maximum(progress(most, d), 0.0)), d


def _door_open_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    return _door_bonus(seen, task)[0], jnp.abs(seen.object[0] - task.goal[0]) <= 0.08


def _door_close_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = 3 gauss(tips to goal; .0125, hand's start to handle + .1) + 6 gauss(d; .05, D); 10 when d < .05."""
    obj, d = seen.object, norm(seen.object - task.goal)
    in_place = gaussian_tolerance(d, 0.05, norm(task.object_pos - task.goal))
    margin = norm(_const(DOOR_CLOSE.hand, obj).astype(jnp.float32).astype(obj.dtype) - obj) + 0.1
    hand = gaussian_tolerance(norm(seen.tcp - task.goal), 0.0125, margin)
    return jnp.where(d < 0.05, 10.0, 3 * hand + 6 * in_place), d <= 0.08


def _door_close_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    reward, d = _door_bonus(seen, task)
    return reward, d <= 0.08


def _door_place(v: Array, settled: Settled, way: tuple[float, float, float]) -> dict[str, Array]:
    handle = v + _const(settled.first_object, v)
    return {"object_pos": v, "body_pos": v, "goal": v + _const(way, v), "handle": handle}


DOOR_OPEN = Task(
    xml="sawyer_door_pull.xml",
    policy="SawyerDoorOpenV3Policy",
    low=(0.0, 0.85, 0.15),
    high=(0.1, 0.95, 0.15),
    place=lambda v, settled: _door_place(v, settled, (-0.3, -0.45, 0.0)),
    fixture="door",
    joint=0.0,
    observed=("geom_xpos", "handle"),
    turn=("door_link", "handle", "xyzw"),
    v2=_door_open_v2,
    v1=_door_open_v1,
)

DOOR_CLOSE = DOOR_OPEN._replace(
    policy="SawyerDoorCloseV3Policy",
    place=lambda v, settled: _door_place(v, settled, (0.2, -0.2, 0.0)),
    hand=(-0.5, 0.6, 0.2),
    single=True,
    joint=-1.5708,
    v2=_door_close_v2,
    v1=_door_close_v1,
)

# ---- drawers


def _drawer_open_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = 5 tol(hand to handle; .01, ...) + 5 tol(d; .02, .2); x and y of the hand three times as dear."""
    handle, d = seen.object, norm(seen.object - task.goal)
    scale = _const([3.0, 3.0, 1.0], handle)
    first = (task.goal + _const([0.0, 0.2, 0.0], handle) - task.init_tcp) * scale
    caging = tolerance(norm((handle - seen.hand) * scale), 0.01, norm(first))
    return 5 * (caging + tolerance(d, 0.02, 0.2)), d <= 0.03


def _drawer_bonus(seen: Seen, task: SawyerParams, most: float) -> Result:
    d = jnp.abs(seen.object[1] - task.goal[1])
    return reach_then(norm(seen.object - seen.tcp), jnp.maximum(progress(most, d), 0.0)), d


def _drawer_open_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    reward, d = _drawer_bonus(seen, task, 0.2)
    return reward, d <= 0.03


def _drawer_close_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = 10 ((reach & closing) & tol(d; .05, D - .05)); 10 when d <= .065. reach: gauss(tips to handle; .005, ...)."""
    obj, d = seen.object, norm(seen.object - task.goal)
    in_place = tolerance(d, 0.05, jnp.abs(norm(task.object_pos - task.goal) - 0.05))
    margin = jnp.abs(norm(task.object_pos - task.init_tcp) - 0.005)
    reach = hamacher(gaussian_tolerance(norm(obj - seen.tcp), 0.005, margin), closing(action, seen))
    return jnp.where(d <= 0.065, 10.0, 10 * hamacher(reach, in_place)), d <= 0.065


def _drawer_close_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    reward, d = _drawer_bonus(seen, task, 0.15)
    return reward, d <= 0.065


DRAWER_OPEN = Task(
    xml="sawyer_drawer.xml",
    policy="SawyerDrawerOpenV3Policy",
    low=(-0.1, 0.9, 0.0),
    high=(0.1, 0.9, 0.0),
    place=lambda v, settled: {"object_pos": v, "body_pos": v, "goal": v + _const([0.0, -0.36, 0.09], v)},
    single=True,
    fixture="drawer",
    refresh=False,
    observed=("xpos", "drawer_link"),
    offset=(0.0, -0.16, 0.0),
    turn=("drawer_link", None, "wxyz"),
    v2=_drawer_open_v2,
    v1=_drawer_open_v1,
)

DRAWER_CLOSE = DRAWER_OPEN._replace(
    policy="SawyerDrawerCloseV3Policy",
    place=lambda v, settled: {
        "object_pos": v + _const(settled.first_object, v),
        "body_pos": v,
        "goal": v + _const([0.0, -0.16, 0.09], v),
    },
    joint=-0.15,
    at_rest=False,
    refresh=True,
    offset=(0.0, -0.16, 0.05),
    turn=None,
    v2=_drawer_close_v2,
    v1=_drawer_close_v1,
)

# ---- windows


def _window_v2(seen: Seen, task: SawyerParams, start: Array, reach: Array) -> Result:
    """r = 10 (reach & tol(d; .05, D - .05)), d and D in x."""
    d = jnp.abs(seen.object[0] - task.goal[0])
    in_place = tolerance(d, 0.05, jnp.abs(jnp.abs(start - task.goal[0]) - 0.05))
    return 10 * hamacher(reach, in_place), d <= 0.05


def _window_open_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """With reach = tol(tips to handle; .02, ...)."""
    margin = jnp.abs(norm(task.handle - task.init_tcp) - 0.02)
    return _window_v2(seen, task, task.object_pos[0], tolerance(norm(seen.object - seen.tcp), 0.02, margin))


def _window_close_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """With reach = gauss(tips to handle; .02, ...)."""
    margin = jnp.abs(norm(task.handle - task.init_tcp) - 0.02)
    return _window_v2(seen, task, task.handle[0], gaussian_tolerance(norm(seen.object - seen.tcp), 0.02, margin))


def _window_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """The bonus can be negative here."""
    d = jnp.abs(seen.object[0] - task.goal[0])
    return reach_then(norm(seen.object - seen.tcp), progress(0.2, d)), d <= 0.05


WINDOW_OPEN = Task(
    xml="sawyer_window_horizontal.xml",
    policy="SawyerWindowOpenV3Policy",
    low=(-0.1, 0.7, 0.16),
    high=(0.1, 0.9, 0.16),
    place=lambda v, settled: {
        "object_pos": v,
        "body_pos": v,
        "goal": v + _const([0.2, 0.0, 0.0], v),
        "handle": v + _const(settled.object, v),
    },
    hand=(0.0, 0.4, 0.2),
    single=True,
    fixture="window",
    joint=0.0,
    at_rest=False,
    refresh=False,
    observed=("site_xpos", "handleOpenStart"),
    turn=None,
    v2=_window_open_v2,
    v1=_window_v1,
)

WINDOW_CLOSE = WINDOW_OPEN._replace(
    policy="SawyerWindowCloseV3Policy",
    low=(0.0, 0.75, 0.2),
    high=(0.0, 0.9, 0.2),
    place=lambda v, settled: {
        "object_pos": v,
        "body_pos": v,
        "goal": v,
        "handle": v + _const(settled.object, v) + _const([0.2, 0.0, 0.0], v),
    },
    joint=0.2,
    observed=("site_xpos", "handleCloseStart"),
    v2=_window_close_v2,
)

# ---- lever-pull


def _lever_v2(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    """r = 10 (ready & tol(d; .04, D)); success: the lever within 7.5 degrees of upright.

    ready: tol(x; .02, x at the reset), x from the arm's shoulder to under the lever, x and z four times as dear.
    """
    lever, d = seen.object, norm(seen.object - task.goal)
    scale, shoulder = _const([4.0, 1.0, 4.0], lever), _const([0.0, 0.055, 0.07], lever)
    first = norm((task.init_tcp + shoulder - task.handle) * scale)
    ready = tolerance(norm((seen.hand + shoulder - lever) * scale), 0.02, first)
    in_place = tolerance(d, 0.04, norm(task.handle - task.goal))
    return 10 * hamacher(ready, in_place), jnp.abs(-seen.joint - jnp.pi / 2) <= jnp.pi / 24


def _lever_v1(seen: Seen, action: Array, task: SawyerParams, settled: Settled) -> Result:
    d, most = norm(seen.object - task.goal), norm(task.goal - task.object_pos)
    return reach_then(norm(seen.object - seen.tcp), jnp.maximum(progress(most, d), 0.0)), d <= jnp.pi / 24


LEVER_PULL = Task(
    xml="sawyer_lever_pull.xml",
    policy="SawyerLeverPullV3Policy",
    low=(-0.1, 0.7, 0.0),
    high=(0.1, 0.8, 0.0),
    place=lambda v, settled: {
        "object_pos": v,
        "body_pos": v,
        "goal": v + _const([0.12, 0.0, 0.45], v),
        "handle": v + _const([0.12, -0.2, 0.25], v),
    },
    hand=(0.0, 0.4, 0.2),
    single=True,
    hand_low=(-0.5, 0.40, -0.15),
    fixture="lever",
    refresh=False,
    observed=("site_xpos", "leverStart"),
    turn=("lever_link1", "objGeom", "xyzw"),
    v2=_lever_v2,
    v1=_lever_v1,
)
