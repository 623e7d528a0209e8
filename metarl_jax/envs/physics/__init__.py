"""MuJoCo as a pure function of its state, on two back ends; `from_xml` makes an environment of a robot of one's own."""

from typing import TYPE_CHECKING

from metarl_jax.envs.packages import on_first_use

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


__getattr__, __dir__ = on_first_use(__name__, _HOME)
