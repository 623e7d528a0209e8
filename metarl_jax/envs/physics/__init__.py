"""MuJoCo as a pure function of its state, on two back ends."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl_jax.envs.physics.interface import BACKENDS, Physics, load
    from metarl_jax.envs.physics.model import Model

__all__ = ["BACKENDS", "Model", "Physics", "load"]

_HOME = {
    **dict.fromkeys(("BACKENDS", "Physics", "load"), "interface"),
    "Model": "model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
