"""A robot of one's own: a planar arm that must find a target it cannot see, with links of unknown mass.

pip install 'metarl_jax[robots]'
cd examples/arm_tasks
metarl train maml_arm.yaml --run-dir ../../runs/arm
metarl film ../../runs/arm
"""

from pathlib import Path

import jax
import jax.numpy as jnp

from metarl_jax.envs import physics

XML = Path(__file__).parent / "arm.xml"
MASSES = ("upper", "lower")  # whose masses a task changes, in the order of its patch


def reward(goal, before, action, after):
    """Minus the distance of the hand from the target (m), minus a little effort."""
    return -jnp.linalg.norm(after.seen["hand"][:2] - goal) - 0.01 * jnp.sum(action**2)


def observe(goal, frame):
    """Angles, angular velocities, and where the hand is; not the target."""
    return jnp.concatenate([frame.qpos, frame.qvel, frame.seen["hand"][:2]])


def solved(goal, frame):
    return jnp.linalg.norm(frame.seen["hand"][:2] - goal) < 0.05


def task(key):
    """(target [2], the physics' own numbers): a target within reach, each mass between a half and twice .2 kg."""
    place_key, mass_key = jax.random.split(key)
    angle, distance = jax.random.uniform(place_key, (2,), minval=jnp.array([0.0, 0.15]), maxval=jnp.array([6.28, 0.35]))
    target = distance * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    masses = 0.2 * 2 ** jax.random.uniform(mass_key, (2,), minval=-1.0, maxval=1.0)
    return target, {"body_mass": masses, "site_pos": jnp.append(target, 0.0)[None]}


def arm(horizon: int = 60, backend: str = "auto"):
    """(env, tasks), as `env: arm:arm` in a configuration makes them."""
    return physics.from_xml(
        XML, reward=reward, observe=observe, tasks=task, success=solved, horizon=horizon, frame_skip=5,
        patches={"body_mass": MASSES, "site_pos": ["target"]},  # the target's site is moved for the film only
        watch={"hand": ("site_xpos", "hand")}, refresh=True, backend=backend,
    )  # fmt: skip
