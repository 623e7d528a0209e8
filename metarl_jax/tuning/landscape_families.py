"""Task families for a learned hyperparameter optimiser: PPO's hyperparameters are looked at on all of them.

A family is an environment with something that differs between its tasks (`task_seed` says which task): physics, the
goal, the walls, the whole MDP. What is held out is whole families: another kind of problem, not another draw of a
known one.
"""

import dataclasses
from typing import Any

# The space of ARLBench (Becktepe et al. 2024) without its sizes; where 0 is no number for PPO the range starts at .01.
SPACE = (
    "lr=log(1e-6,1e-1)",
    "entropy_coef=uniform(0,.5)",
    "gae_lambda=uniform(.8,.9999)",
    "clip_eps=uniform(.01,.5)",
    "value_clip_eps=uniform(.01,.5)",
    "value_coef=uniform(0,1)",
    "max_grad_norm=uniform(.01,1)",
)


@dataclasses.dataclass(frozen=True)
class Family:
    """An environment and its options, as in a configuration."""

    env: str
    env_options: dict[str, Any] = dataclasses.field(default_factory=dict)


FAMILIES: dict[str, Family] = {
    "acrobot": Family(
        "gymnax:Acrobot-v1",
        {"horizon": 200, "ranges": {"link_mass_1": [0.7, 1.3], "link_mass_2": [0.7, 1.3], "link_length_1": [0.8, 1.2]}},
    ),
    "cartpole": Family("CartPolePhysics-v0"),
    "catch": Family("gymnax:Catch-bsuite"),
    "grid_navi": Family("GridNavi-v0", {"observation": "one_hot"}),
    "half_circle": Family("PointHalfCircle-v0"),
    "maze": Family("Maze-v0"),
    "mountain_car": Family(
        "gymnax:MountainCarContinuous-v0",
        {"horizon": 200, "ranges": {"power": [0.001, 0.002], "gravity": [0.002, 0.003]}},
    ),
    "pendulum": Family("gymnax:Pendulum-v1", {"ranges": {"g": [7.0, 13.0], "m": [0.7, 1.3], "l": [0.7, 1.3]}}),
    "point": Family("PointNavigation-v2"),
    "reacher": Family("gymnax:Reacher-misc", {"ranges": {"torque_scale": [0.5, 1.5]}}),
    "swimmer": Family("gymnax:Swimmer-misc", {"horizon": 250, "ranges": {"dt": [0.03, 0.07]}}),
    "tabular": Family("TabularMDP-v0"),
}
