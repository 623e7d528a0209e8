"""Driving in towns whose rules are not shown: `road` (geometry, the car), `traffic` (others), `town` (the tasks)."""

from typing import TYPE_CHECKING

from metarl_jax.envs.packages import on_first_use

if TYPE_CHECKING:
    from metarl_jax.envs.driving.town import Driving, DrivingState, Town, driving

__all__ = ["Driving", "DrivingState", "Town", "driving"]

_HOME = dict.fromkeys(("Driving", "DrivingState", "Town", "driving"), "town")


__getattr__, __dir__ = on_first_use(__name__, _HOME)
