"""Meta-World's tasks as pure JAX environments, with the physics in C MuJoCo behind one call of the host a step."""

from typing import TYPE_CHECKING

from metarl_jax.envs.packages import on_first_use

if TYPE_CHECKING:
    from metarl_jax.envs.metaworld.benchmarks import ML10_TEST, ML10_TRAIN, TASKS, meta_world, ml1, ml10
    from metarl_jax.envs.metaworld.sawyer import Sawyer, SawyerState
    from metarl_jax.envs.metaworld.task import SawyerParams

__all__ = ["ML10_TEST", "ML10_TRAIN", "TASKS", "Sawyer", "SawyerParams", "SawyerState", "meta_world", "ml1", "ml10"]

_HOME = {
    **dict.fromkeys(("ML10_TEST", "ML10_TRAIN", "TASKS", "meta_world", "ml1", "ml10"), "benchmarks"),
    **dict.fromkeys(("Sawyer", "SawyerState"), "sawyer"),
    "SawyerParams": "task",
}


__getattr__, __dir__ = on_first_use(__name__, _HOME)
