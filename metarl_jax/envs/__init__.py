"""Environments and the task distributions over them: `env, tasks = make("PointNavigation-v0")`.

A task is a gymnax `EnvParams` pytree. Importing this package is quick: gymnax is loaded by the first `make`.
"""

from typing import TYPE_CHECKING

from metarl_jax.envs.packages import on_first_use

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


__getattr__, __dir__ = on_first_use(__name__, _HOME)
