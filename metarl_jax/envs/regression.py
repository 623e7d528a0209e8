"""Supervised task families: sinusoids and rotated XOR, as functions that draw labelled examples.

They stand where an environment stands: `mrl.make("Sinusoid-v0") -> (examples, tasks)` with
`examples(key, task, num) -> {"x": [num, D], "y": [num, 1]}`.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from metarl_jax.envs.tasks import TaskDistribution

Examples = dict[str, Array]


@struct.dataclass
class SinusoidTask:
    """y = amplitude sin(x - phase)."""

    amplitude: Array  # []
    phase: Array  # [] radians


@struct.dataclass
class XORTask:
    """XOR of the signs of two inputs, turned by an angle."""

    angle: Array  # [] radians


def sinusoid_examples(key: Array, task: SinusoidTask, num: int) -> Examples:
    """y = A sin(x - phase), x ~ U[-5, 5] (Finn et al. 2017, section 5.1)."""
    x = jax.random.uniform(key, (num, 1), minval=-5.0, maxval=5.0)
    return {"x": x, "y": task.amplitude * jnp.sin(x - task.phase)}


def xor_examples(key: Array, task: XORTask, num: int) -> Examples:
    """y = sign(u_1 u_2), u = R(angle) x, x ~ U[-1, 1]^2: XOR on rotated axes.

    A quarter turn inverts every label, so a predictor that cannot adapt can do no better than y = 0,
    a mean squared error of 1.
    """
    x = jax.random.uniform(key, (num, 2), minval=-1.0, maxval=1.0)
    cos, sin = jnp.cos(task.angle), jnp.sin(task.angle)
    u = x @ jnp.array([[cos, sin], [-sin, cos]])
    return {"x": x, "y": jnp.where(u[:, :1] * u[:, 1:] < 0, 1.0, -1.0)}


@functools.cache
def sinusoid() -> tuple:
    """Sinusoids with amplitude U[.1, 5] and phase U[0, pi]."""

    def sample(key: Array) -> SinusoidTask:
        amplitude_key, phase_key = jax.random.split(key)
        return SinusoidTask(
            jax.random.uniform(amplitude_key, minval=0.1, maxval=5.0),
            jax.random.uniform(phase_key, maxval=jnp.pi),
        )

    return sinusoid_examples, TaskDistribution(sample, 1, description="sinusoids, A U[.1, 5], phase U[0, pi]")


@functools.cache
def xor() -> tuple:
    """XOR on axes rotated by an angle U[0, pi]."""

    def sample(key: Array) -> XORTask:
        return XORTask(jax.random.uniform(key, maxval=jnp.pi))

    return xor_examples, TaskDistribution(sample, 1, description="XOR on rotated axes, angle U[0, pi]")
