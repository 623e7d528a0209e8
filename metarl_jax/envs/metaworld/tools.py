"""What Meta-World's rewards are made of: tolerances, a soft "and", cages of the gripper's pads, bonuses for progress.

The functions of `metaworld.utils.reward_utils` and the caging rewards of package 3.1.1, as formulas. Every value is
finite: where the package divides by a margin of 0 or refuses one below, these give 1 inside the bounds and 0 outside.
Lengths are in metres.
"""

import jax.numpy as jnp
from jax import Array

from metarl_jax.envs.metaworld.task import SawyerParams, Seen

AT_MARGIN = 0.1  # the value of a tolerance one margin outside its bounds


def norm(x: Array) -> Array:
    """|x|_2 of a vector."""
    return jnp.sqrt(jnp.sum(x * x))


def tolerance(x: Array, upper: float, margin: float | Array, lower: float = 0.0) -> Array:
    """1 for lower <= x <= upper, else 1 / (1 + 9 d^2): d margins outside ("long_tail")."""
    d, inside = _outside(x, lower, upper, margin)
    return jnp.where(inside, 1.0, jnp.where(d < jnp.inf, 1 / (1 + (1 / AT_MARGIN - 1) * d * d), 0.0))


def gaussian_tolerance(x: Array, upper: float, margin: float | Array, lower: float = 0.0) -> Array:
    """1 for lower <= x <= upper, else .1^(d^2): d margins outside ("gaussian")."""
    d, inside = _outside(x, lower, upper, margin)
    return jnp.where(inside, 1.0, jnp.exp(jnp.log(AT_MARGIN) * d * d))


def _outside(x: Array, lower: float, upper: float, margin: float | Array) -> tuple[Array, Array]:
    beyond = jnp.where(x < lower, lower - x, x - upper)
    has_margin = jnp.asarray(margin) > 0
    return jnp.where(has_margin, beyond / jnp.where(has_margin, margin, 1.0), jnp.inf), (lower <= x) & (x <= upper)


def hamacher(a: Array, b: Array) -> Array:
    """Hamacher's product ab / (a + b - ab) of two numbers in [0, 1]; 0 where both are 0."""
    below = a + b - a * b
    return jnp.where(below > 0, a * b / jnp.where(below > 0, below, 1.0), 0.0)


def prism(x: Array, zero: Array, one: Array) -> Array:
    """1 outside the box between the corners `zero` and `one` [3], inside it the product of the shares of the way."""
    inside = jnp.all((jnp.minimum(zero, one) <= x) & (x <= jnp.maximum(zero, one)))
    return jnp.where(inside, jnp.prod((x - zero) / (one - zero)), 1.0)


def closing(action: Array, seen: Seen) -> Array:
    """How hard the gripper is told to close, in [0, 1]."""
    return jnp.clip(action[3], 0, 1).astype(seen.object.dtype)


def cage(
    seen: Seen, action: Array, task: SawyerParams, *, radius: float, pads: float, xz: float, dense: bool = True
) -> Array:
    """How well the gripper holds an object: its pads beside it in y, its centre over it in x and z, and closing.

    A pad is in place between `radius` and `pads` from the object. Margins: how far the pad is from where the object
    was at first, and how far the gripper was. Closing counts once the cage exceeds .97; `dense` averages with the
    cage itself. (`_gripper_caging_reward` of the package's base class.)
    """
    pad_y = jnp.stack([seen.left_pad[1], seen.right_pad[1]])
    margins = jnp.abs(jnp.abs(pad_y - task.object_pos[1]) - pads)
    beside = tolerance(jnp.abs(pad_y - seen.object[1]), pads, margins, lower=radius)
    caged = hamacher(hamacher(beside[0], beside[1]), _over(seen, task, xz))
    held = hamacher(caged, jnp.where(caged > 0.97, closing(action, seen), 0.0))
    return (held + caged) / 2 if dense else held


def pad_cage(seen: Seen, action: Array, task: SawyerParams, *, radius: float, xz: float) -> Array:
    """The cage of pick-place: as `cage`, but a pad must be on its own side, within .05, and margins follow the pads.

    The package means margins from where the pads were at first; it keeps a view of where they are instead, so that
    margins change with the gripper. So here.
    """
    caged = hamacher(_beside(seen, radius, 0.05), _over(seen, task, xz))
    held = hamacher(caged, jnp.where(caged > 0.97, closing(action, seen), 0.0))
    return (held + caged) / 2


def sweep_cage(seen: Seen, task: SawyerParams, *, radius: float, grip: float, xz: float) -> Array:
    """The cage of the sweeping tasks: as `pad_cage`; held when the pads are within `grip` of the object's surface."""
    caged = hamacher(_beside(seen, radius, 0.05), _over(seen, task, xz))
    held = jnp.where(caged > 0.95, _beside(seen, radius, radius + grip), 0.0)
    return (caged + held) / 2


def _beside(seen: Seen, radius: float, reach: float) -> Array:
    side = jnp.stack([seen.left_pad[1] - seen.object[1], seen.object[1] - seen.right_pad[1]])
    each = tolerance(side, reach, jnp.abs(jnp.abs(side) - 0.05), lower=radius)
    return hamacher(each[0], each[1])


def _over(seen: Seen, task: SawyerParams, xz: float) -> Array:
    def apart(a: Array, b: Array) -> Array:
        return jnp.sqrt((a[0] - b[0]) ** 2 + (a[2] - b[2]) ** 2)

    return tolerance(apart(seen.tcp, seen.object), xz, apart(task.object_pos, task.init_tcp) - xz)


# ---- V1


def progress(most: Array | float, distance: Array) -> Array:
    """1000 (most - d + exp(-d^2 / .01) + exp(-d^2 / .001)): what V1 pays for every way to a goal."""
    square = distance * distance
    return 1000 * (most - distance) + 1000 * (jnp.exp(-square / 0.01) + jnp.exp(-square / 0.001))


def reach_then(reach: Array, bonus: Array) -> Array:
    """-reach, and the bonus while the gripper is within .05 of the object (V1)."""
    return -reach + jnp.where(reach < 0.05, bonus, 0.0)


def lift_then_place(
    seen: Seen, action: Array, task: SawyerParams, *, lift: float, above: float = 2.0, head: Array | None = None
) -> Array:
    """V1 of the tasks that pick something up: come near from above, close, lift by `lift`, then progress to the goal.

    `above` weighs the height over the object until it is below the gripper. `head` [3] is what has to arrive, where it
    is not the object's own position: within .05 the object's own position counts all the same.
    """
    obj, tcp = seen.object, seen.tcp
    reach, reach_xy, placing = norm(obj - tcp), norm((obj - tcp)[:2]), norm(obj - task.goal)
    height, target = task.object_pos[2], task.object_pos[2] + lift
    reached = jnp.where(reach_xy < 0.05, -reach, -reach_xy - above * jnp.abs(tcp[2] - task.init_tcp[2]))
    reached = jnp.where(reach < 0.05, -reach + jnp.maximum(action[3], 0).astype(obj.dtype) / 50, reached)
    dropped = (obj[2] < height + 0.005) & (placing > 0.02) & (reach > 0.02)
    picked = (obj[2] >= target - 0.01) & ~dropped
    lifting = (reach < 0.1) & (obj[2] > height + 0.005)
    lifted = jnp.where(picked, 100 * target, jnp.where(lifting, 100 * jnp.minimum(target, obj[2]), 0.0))
    most = norm(jnp.stack([task.object_pos[0], task.object_pos[1], target]) - task.goal) + target
    left = placing
    if head is not None:
        ahead = norm(head - task.goal)
        left = jnp.where(ahead <= 0.05, placing, ahead)
    placed = jnp.where(picked & (reach < 0.1), jnp.maximum(progress(most, left), 0.0), 0.0)
    return reached + lifted + placed
