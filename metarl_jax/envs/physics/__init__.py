"""MuJoCo as a pure function of its state, on two back ends; `from_xml` makes an environment of a robot of one's own."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl_jax.envs.physics.interface import BACKENDS, Physics, load
    from metarl_jax.envs.physics.model import Model
    from metarl_jax.envs.physics.robot import Frame, Robot, RobotState, RobotTask, from_xml

__all__ = ["BACKENDS", "Frame", "Model", "Physics", "Robot", "RobotState", "RobotTask", "from_xml", "load"]

_HOME = {
    **dict.fromkeys(("BACKENDS", "Physics", "load"), "interface"),
    "Model": "model",
    **dict.fromkeys(("Frame", "Robot", "RobotState", "RobotTask", "from_xml"), "robot"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
