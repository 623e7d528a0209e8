"""Meta-World's tasks as pure JAX environments, with the physics in C MuJoCo behind one call of the host a step."""

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
