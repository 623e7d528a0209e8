"""Robots that walk: families of tasks on the robots of gymnasium, whose XMLs they need (`metarl_jax[robots]`).

| name                  | reward                                                     | tasks                          |
|-----------------------|------------------------------------------------------------|--------------------------------|
| HalfCheetahDir-v0     | d v - .05 abs(a)^2                                         | d = +-1                        |
| HalfCheetahVel-v0     | -abs(v - g) - .05 abs(a)^2                                 | g ~ U[0, 3] m/s                |
| AntDir-v0             | v . d - .5 abs(a)^2 - 5e-4 abs(contacts)^2 + survive_bonus | angle of d ~ U[0, 2 pi]        |
| AntGoal-v0            | -abs(p - g)_1 - .1 abs(a)^2 - 5e-4 abs(contacts)^2         | g in a disc of 3 m             |
| Walker2DRandParams-v0 | v + 1 - .001 abs(a)^2                                      | mass, inertia, damping, ...    |
| HopperRandParams-v0   | the same                                                   | the same                       |

v is the mean velocity of a step in m/s, dx / dt, p a position in m, a the action as applied, in [-1, 1].

What differs from the papers. Robots are gymnasium's v5 XMLs under today's MuJoCo; the papers ran MuJoCo 1.3 to 2.0,
whose contacts and, for the ant, reported contact forces were computed in another way: returns are close, not equal.
Their codes scale and clip actions by a wrapper; here `action_scale` and clipping are the environment's, and costs are
of the applied action. Velocities are of the root joint; those of the papers' ant are of the torso as MuJoCo had left
it, one substep earlier. The XMLs are gymnasium's (MIT), which took them over from OpenAI Gym (MIT).
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from metarl_jax.envs.packages import MissingPackage
from metarl_jax.envs.physics.interface import load
from metarl_jax.envs.physics.robot import Frame, Robot, RobotTask, uniform_and_normal
from metarl_jax.envs.tasks import TaskDistribution, check_positive

DIRECTIONS = ("all", "forward_backward")


def xml(name: str) -> Path:
    """The path of one of gymnasium's robots. Raises: MissingPackage."""
    spec = importlib.util.find_spec("gymnasium")
    if spec is None or spec.origin is None:
        raise MissingPackage("a robot needs the package gymnasium: pip install 'metarl_jax[robots]'")
    return Path(spec.origin).parent / "envs" / "mujoco" / "assets" / name


def velocity(before: Frame, after: Frame, axes: int | slice = 0) -> Array:
    """m/s of the root, over one step."""
    return (after.qpos[axes] - before.qpos[axes]) / after.dt


def effort(action: Array) -> Array:
    """abs(a)^2."""
    return jnp.sum(jnp.square(action))


# --- half-cheetah ------------------------------------------------------------------------------------------------


def _without_x(goal: Any, frame: Frame) -> Array:
    """All but where the robot is: [17] of the cheetah."""
    return jnp.concatenate([frame.qpos[1:], frame.qvel])


def _run_in_direction(goal: Any, before: Frame, action: Array, after: Frame) -> Array:
    return goal * velocity(before, after) - 0.05 * effort(action)


def _run_at_velocity(goal: Any, before: Frame, action: Array, after: Frame) -> Array:
    return -jnp.abs(velocity(before, after) - goal) - 0.05 * effort(action)


@functools.lru_cache(maxsize=None, typed=True)
def _cheetah(reward: Callable, horizon: int, action_scale: float, backend: str, label: str) -> Robot:
    physics = load(xml("half_cheetah.xml"), frame_skip=5, backend=backend)
    return Robot(
        physics, reward=reward, observe=_without_x, reset=uniform_and_normal(0.1, 0.1), horizon=horizon,
        action_scale=action_scale, example_goal=1.0, label=label,
    )  # fmt: skip


def half_cheetah_dir(
    *, horizon: int = 200, action_scale: float = 1.0, backend: str = "auto"
) -> tuple[Robot, TaskDistribution]:
    """Run forwards or backwards (Finn et al. 2017, section 5.3): two tasks, so nothing is held out.

    Args:
      horizon: steps of .05 s; 100 in ProMP's experiments, 200 elsewhere.
      action_scale: .1 in ProMP's code, whose wrapper divides a policy's actions by 10 before it clips them.
      backend: "auto", "c" or "mjx", see `physics.load`.
    """
    env = _cheetah(_run_in_direction, horizon, action_scale, backend, "HalfCheetahDir")
    members = jax.vmap(env.params)(jnp.array([-1.0, 1.0]))
    return env, TaskDistribution.from_members(members, env.horizon, description="HalfCheetah, forwards or backwards")


def half_cheetah_vel(
    *,
    horizon: int = 200,
    max_velocity: float = 3.0,
    action_scale: float = 1.0,
    backend: str = "auto",
) -> tuple[Robot, TaskDistribution]:
    """Run at a velocity g ~ U[0, max_velocity] (m/s): up to 2 in MAML's paper, 3 in those of ProMP, PEARL and VariBAD.

    Other options: see `half_cheetah_dir`.
    """
    check_positive("max_velocity", max_velocity)
    env = _cheetah(_run_at_velocity, horizon, action_scale, backend, "HalfCheetahVel")
    sample = functools.partial(_sample_velocity, env, max_velocity)
    return env, TaskDistribution(sample, env.horizon, description=f"HalfCheetah, velocities U[0, {max_velocity:g}]")


def _sample_velocity(env: Robot, most: float, key: Array) -> RobotTask:
    return env.params(jax.random.uniform(key, (), float, 0.0, most))


# --- ant ---------------------------------------------------------------------------------------------------------


def _contact_cost(frame: Frame) -> Array:
    """.5e-3 abs(forces)^2, forces clipped to [-1, 1], as in Gym."""
    return 0.5e-3 * jnp.sum(jnp.square(jnp.clip(frame.seen["contacts"], -1.0, 1.0)))


def _ant_observation(with_position: bool, with_contacts: bool, goal: Any, frame: Frame) -> Array:
    parts = [frame.qpos if with_position else frame.qpos[2:], frame.qvel]
    if with_contacts:  # of all bodies but the world
        parts.append(jnp.clip(frame.seen["contacts"][1:], -1.0, 1.0).reshape(-1))
    return jnp.concatenate(parts)


def _ant_direction_reward(
    control_cost: float, survive_bonus: float, goal: Any, before: Frame, action: Array, after: Frame
) -> Array:
    along = jnp.sum(goal * velocity(before, after, slice(2)))
    return along - control_cost * effort(action) - _contact_cost(after) + survive_bonus


def _ant_goal_reward(control_cost: float, goal: Any, before: Frame, action: Array, after: Frame) -> Array:
    distance = jnp.sum(jnp.abs(after.qpos[:2] - goal))
    return -distance - control_cost * effort(action) - _contact_cost(after)


def _ant_fell(min_height: float, goal: Any, frame: Frame) -> Array:
    height = frame.qpos[2]
    return (height < min_height) | (height > 1.0)


@functools.lru_cache(maxsize=None, typed=True)
def _ant(
    kind: str, horizon: int, action_scale: float, backend: str, control_cost: float, survive_bonus: float,
    min_height: float | None, contact_observations: bool,
) -> Robot:  # fmt: skip
    physics = load(xml("ant.xml"), frame_skip=5, watch={"contacts": ("cfrc_ext", None)}, backend=backend)
    if kind == "direction":
        reward = functools.partial(_ant_direction_reward, control_cost, survive_bonus)
    else:
        reward = functools.partial(_ant_goal_reward, control_cost)
    return Robot(
        physics, reward=reward, observe=functools.partial(_ant_observation, kind == "goal", contact_observations),
        ended=None if min_height is None else functools.partial(_ant_fell, min_height),
        reset=uniform_and_normal(0.1, 0.1), horizon=horizon, action_scale=action_scale,
        looks_at_start=False,  # nothing touches the ground there
        example_goal=(1.0, 0.0), label=f"Ant, {kind}",
    )  # fmt: skip


def ant_dir(
    *,
    horizon: int = 200,
    directions: str = "all",
    survive_bonus: float = 1.0,
    control_cost: float = 0.5,
    min_height: float = 0.2,
    contact_observations: bool = False,
    action_scale: float = 1.0,
    backend: str = "auto",
) -> tuple[Robot, TaskDistribution]:
    """Run in a direction d of the plane (PEARL, Rakelly et al. 2019; with two directions MAML and ProMP).

    The bonus decides what is learned: with 1 (PEARL, Gym) standing still pays 200 an episode, with .05 (rllab) 10.

    Args:
      directions: "all": angles U[0, 2 pi]; "forward_backward": two tasks.
      survive_bonus: reward of every step. control_cost: weight of abs(a)^2; .005 in rllab.
      min_height: the episode terminates with the torso below it or above 1 m.
      contact_observations: observe the forces of contacts too, clipped to [-1, 1]: [27 + 78].
      Other options: see `half_cheetah_dir`.
    """
    if directions not in DIRECTIONS:
        raise ValueError(f"directions = {directions}: must be one of {', '.join(DIRECTIONS)}")
    check_positive("survive_bonus", survive_bonus, or_zero=True)
    check_positive("control_cost", control_cost, or_zero=True)
    env = _ant(
        "direction", horizon, action_scale, backend, control_cost, survive_bonus, min_height, contact_observations
    )
    if directions == "all":
        sample = functools.partial(_sample_direction, env)
        return env, TaskDistribution(sample, env.horizon, description="Ant, directions of the plane")
    members = jax.vmap(env.params)(jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
    return env, TaskDistribution.from_members(members, env.horizon, description="Ant, forwards or backwards")


def _sample_direction(env: Robot, key: Array) -> RobotTask:
    angle = jax.random.uniform(key, (), float, 0.0, 2 * jnp.pi)
    return env.params(jnp.stack([jnp.cos(angle), jnp.sin(angle)]))


def ant_goal(
    *,
    horizon: int = 200,
    radius: float = 3.0,
    control_cost: float = 0.1,
    contact_observations: bool = False,
    action_scale: float = 1.0,
    backend: str = "auto",
) -> tuple[Robot, TaskDistribution]:
    """Walk to a goal, uniform in a disc (PEARL): r = radius sqrt(u), u ~ U[0, 1], angle U[0, 2 pi].

    The position is observed; an episode never terminates. Other options: see `ant_dir`.
    """
    check_positive("radius", radius)
    check_positive("control_cost", control_cost, or_zero=True)
    env = _ant("goal", horizon, action_scale, backend, control_cost, 0.0, None, contact_observations)
    sample = functools.partial(_sample_goal, env, radius)
    return env, TaskDistribution(sample, env.horizon, description=f"Ant, goals in a disc of {radius:g} m")


def _sample_goal(env: Robot, radius: float, key: Array) -> RobotTask:
    u, turn = jax.random.uniform(key, (2,), float)
    angle = 2 * jnp.pi * turn
    return env.params(radius * jnp.sqrt(u) * jnp.stack([jnp.cos(angle), jnp.sin(angle)]))


# --- walker and hopper -------------------------------------------------------------------------------------------

# The base of the factors of each field; exponents are U[-scale, scale].
RANDOM_PARAMETERS = {"body_mass": 1.5, "body_inertia": 1.5, "dof_damping": 1.3, "geom_friction": 1.5}


def _clipped_velocities(goal: Any, frame: Frame) -> Array:
    """All but x, velocities clipped to [-10, 10]: [17] of the walker, [11] of the hopper."""
    return jnp.concatenate([frame.qpos[1:], jnp.clip(frame.qvel, -10.0, 10.0)])


def _hop(goal: Any, before: Frame, action: Array, after: Frame) -> Array:
    return velocity(before, after) + 1.0 - 1e-3 * effort(action)


def _walker_fell(goal: Any, frame: Frame) -> Array:
    height, angle = frame.qpos[1], frame.qpos[2]
    return ~((height > 0.8) & (height < 2.0) & (jnp.abs(angle) < 1.0))


def _hopper_fell(goal: Any, frame: Frame) -> Array:
    small = jnp.all(jnp.abs(jnp.concatenate([frame.qpos[2:], frame.qvel])) < 100.0)
    return ~(small & (frame.qpos[1] > 0.7) & (jnp.abs(frame.qpos[2]) < 0.2))


def _uniform(spread: float, key: Array, qpos: Array, qvel: Array) -> tuple[Array, Array]:
    noise = jax.random.uniform(key, (qpos.size + qvel.size,), qpos.dtype, -spread, spread)
    return qpos + noise[: qpos.size], qvel + noise[qpos.size :]


@functools.lru_cache(maxsize=None, typed=True)
def _two_legs(name: str, ended: Callable, horizon: int, action_scale: float, backend: str) -> Robot:
    physics = load(xml(name), frame_skip=4, patches=dict.fromkeys(RANDOM_PARAMETERS), backend=backend)
    return Robot(
        physics, reward=_hop, observe=_clipped_velocities, ended=ended, reset=functools.partial(_uniform, 5e-3),
        horizon=horizon, action_scale=action_scale,
    )  # fmt: skip


def _rand_params(env: Robot, scale: float, what: str) -> tuple[Robot, TaskDistribution]:
    check_positive("scale", scale, or_zero=True)
    sample = functools.partial(_sample_parameters, env, scale)
    return env, TaskDistribution(sample, env.horizon, description=f"{what}, random masses, inertias, damping, friction")


def _sample_parameters(env: Robot, scale: float, key: Array) -> RobotTask:
    own: Mapping[str, Array] = env.physics.model.default_patch()
    patch = {}
    for each, (name, numbers) in zip(jax.random.split(key, len(own)), own.items(), strict=True):
        exponent = jax.random.uniform(each, numbers.shape, numbers.dtype, -scale, scale)
        patch[name] = numbers * RANDOM_PARAMETERS[name] ** exponent
    return env.params(0.0, patch)


def walker_rand_params(
    *, horizon: int = 200, scale: float = 3.0, action_scale: float = 1.0, backend: str = "auto"
) -> tuple[Robot, TaskDistribution]:
    """A walker with body masses, inertias and frictions times 1.5^U[-scale, scale], damping times 1.3^U[-scale, scale].

    Every number has a factor of its own (Rothfuss et al. 2019; Rakelly et al. 2019). The episode terminates where the
    torso is not between .8 and 2 m, or leans by 1 rad. A step is .008 s. Constants that MuJoCo derives from masses stay
    as they were, as in the papers' code. Other options: see `half_cheetah_dir`.
    """
    env = _two_legs("walker2d_v5.xml", _walker_fell, horizon, action_scale, backend)
    return _rand_params(env, scale, "Walker2D")


def hopper_rand_params(
    *, horizon: int = 200, scale: float = 3.0, action_scale: float = 1.0, backend: str = "auto"
) -> tuple[Robot, TaskDistribution]:
    """A hopper, as `walker_rand_params`; it has fallen below .7 m, or where it leans by .2 rad."""
    env = _two_legs("hopper.xml", _hopper_fell, horizon, action_scale, backend)
    return _rand_params(env, scale, "Hopper")
