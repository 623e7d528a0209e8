"""CartPole with random physics: gymnax's CartPole-v1, its derived masses recomputed for every task."""

from typing import Any

from metarl_jax.envs.gymnax_adapter import Range, from_gymnax
from metarl_jax.envs.tasks import TaskDistribution


def cartpole_physics(
    *,
    gravity: Range = (7.5, 12.5),
    masscart: Range = (0.5, 2.0),
    masspole: Range = (0.05, 0.2),
    length: Range = (0.25, 1.0),
    force_mag: Range = (5.0, 15.0),
    horizon: int = 500,
) -> tuple[Any, TaskDistribution]:
    """Uniform gravity [m/s^2], masses [kg], half pole length [m] and force [N].

    Reward 1 a step, so no return exceeds the horizon. No oracle: that all can be balanced is unproven.
    """
    ranges = {
        "gravity": gravity,
        "masscart": masscart,
        "masspole": masspole,
        "length": length,
        "force_mag": force_mag,
    }
    return from_gymnax("CartPole-v1", ranges, horizon=horizon)
