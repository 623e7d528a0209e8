"""What a task of Meta-World is made of: the declaration, the parameters of one task, and what a reward reads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flax import struct
from gymnax.environments import environment
from jax import Array

Vector = tuple[float, float, float]


@struct.dataclass(kw_only=True)
class SawyerParams(environment.EnvParams):
    """One task: where things are at first, and where they should go. Positions [3] are in metres, in the world."""

    kind: Array  # [] which of the environment's tasks: 0 where it has one
    body_pos: Array  # where the fixture (button box, door, shelf, ...) stands; unused where there is none
    object_pos: Array  # what the package calls `obj_init_pos`; objects that move freely are put there
    goal: Array  # `_target_pos`
    handle: Array  # a part of the object at the reset, that some rewards read: handle, lever, head of the peg
    init_tcp: Array  # the middle of the two finger tips at the reset
    max_steps_in_episode: Array


class Seen(NamedTuple):
    """What a reward reads of the state after a step. Positions [3] are in metres, in the world."""

    hand: Array  # clipped as it is observed
    opening: Array  # [] of the gripper, in [0, 1], as it is observed
    object: Array  # as it is observed
    tcp: Array  # the middle of the two finger tips
    left_tip: Array
    left_pad: Array
    right_pad: Array
    head: Array  # of the peg; elsewhere the object
    joint: Array  # [] position of the object's joint, m or rad


class Settled(NamedTuple):
    """What the simulator says once the hand is in its place, with the fixture and the object at reference places.

    Positions [3] are offsets from the fixture (`SawyerParams.body_pos`), or where there is none from the world.
    """

    state: np.ndarray  # [S] of the physics
    frame: np.ndarray  # [18] the first observation's frame
    tcp: np.ndarray  # [3] in the world
    object: np.ndarray  # [3] where the object came to rest
    head: np.ndarray
    first_object: np.ndarray  # as it is first observed, an offset from what moves it: fixture or free object
    sites: dict[str, np.ndarray]


Reward = Callable[[Seen, Array, SawyerParams, Settled], tuple[Array, Array]]  # (seen, action [4], ...) -> r, success


class Task(NamedTuple):
    """A task as the package defines it.

    Attributes:
      xml: file in the package's folder of Sawyer models.
      policy: the scripted expert's name in `metaworld.policies`.
      low, high: the range of the random vector [3 or 6] that makes a task.
      min_distance: vectors whose first two numbers are nearer than this to the next such pair (`near`: to this point)
        are drawn again.
      place: (vector, settled) -> body_pos, object_pos, goal, handle of the task; what is missing is object_pos.
      hand: where the hand starts.
      single: the package keeps that in float32.
      hand_low: the lowest corner that the hand can be told to go to.
      fixture: name of the body that the task moves, None: none.
      free: the object moves freely and is put at `object_pos`.
      joint: otherwise, where its joint is put at the reset, None: nowhere.
      at_rest: that also stops the joint.
      refresh: the package recomputes positions after that.
      observed: (field, name) of the object's position, `offset` [3] from there.
      head: the same of `Seen.head`.
      turn: (body, geom or None, how) of the observed quaternion. "wxyz": the body's; "xyzw": scipy's of the geom's
        (the largest component is positive), None: four zeros.
      v2, v1: the rewards.
    """

    xml: str
    policy: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    place: Callable[[Array, Settled], dict[str, Any]]
    observed: tuple[str, str]
    turn: tuple[str, str | None, str] | None
    v2: Reward
    v1: Reward
    hand: Vector = (0.0, 0.6, 0.2)
    single: bool = False
    hand_low: Vector = (-0.5, 0.40, 0.05)
    fixture: str | None = None
    free: bool = False
    joint: float | None = None
    at_rest: bool = True
    refresh: bool = True
    offset: Vector = (0.0, 0.0, 0.0)
    head: tuple[str, str] | None = None
    min_distance: float = 0.0
    near: tuple[float, float] | None = None
