"""Environments and the task distributions over them: `env, tasks = make("PointNavigation-v0")`.

A task is a gymnax `EnvParams` pytree. Importing this package is quick: gymnax is loaded by the first `make`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl_jax.envs.gymnax_adapter import from_gymnax
    from metarl_jax.envs.registry import make, register, registered
    from metarl_jax.envs.tasks import TaskDistribution

__all__ = ["TaskDistribution", "from_gymnax", "make", "register", "registered"]

_HOME = {
    "TaskDistribution": "tasks",
    "from_gymnax": "gymnax_adapter",
    "make": "registry",
    "register": "registry",
    "registered": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
