"""Films of robots, drawn from stored states by MuJoCo's own renderer."""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from metarl_jax.envs.packages import package
from metarl_jax.envs.physics.model import Model, compiled
from metarl_jax.options import suggest
from metarl_jax.user_code import said

FREE = ("lookat", "distance", "azimuth", "elevation")  # what places a free camera


class NoRenderer(RuntimeError):
    """There is no OpenGL to draw with; the message says what to install."""


def frames(
    model: Model,
    states: np.ndarray,
    patch: Mapping[str, Any] | None = None,
    *,
    size: tuple[int, int] = (240, 320),
    camera: str | Mapping[str, Any] | None = None,
) -> np.ndarray:
    """States [T, S] as pictures, uint8 [T, height, width, 3].

    Args:
      patch: the task's own numbers, as in a step: an object stands where the task has put it.
      camera: a camera of the XML, or `lookat`, `distance` (metres), `azimuth` and `elevation` (degrees) of one that is
        free; by default "track" where the XML has it, which follows the robot, or the free camera as it stands.
    Raises: NoRenderer where MuJoCo finds no OpenGL; ValueError for a camera that the XML has not, or that cannot be.
    """
    mj = package("mujoco", "robots", "a film")
    own = compiled(mj, model.path)
    for c in model.patches:
        if patch and c.name in patch:
            field = getattr(own, c.field)
            field[c.index] = np.asarray(patch[c.name]).reshape(field[c.index].shape)
    cameras = [own.camera(i).name for i in range(own.ncam)]
    if isinstance(camera, str) and camera not in cameras:
        there = ", ".join(cameras) or "none"
        raise ValueError(f"camera = {camera}: {model.path} has {there}{suggest(camera, cameras)}")
    chosen: Any = camera if camera is not None else "track" if "track" in cameras else -1
    if isinstance(camera, Mapping):
        chosen = mj.MjvCamera()
        for name, value in camera.items():
            if name not in FREE:
                raise ValueError(f"camera: {name} is none of {', '.join(FREE)}{suggest(name, FREE)}")
            try:
                setattr(chosen, name, value)
            except (TypeError, ValueError):  # MuJoCo's words are about its bindings
                raise ValueError(f"camera: {name} = {value!r}: must be numbers, three for lookat") from None
    own.vis.global_.offheight, own.vis.global_.offwidth = max(size[0], 480), max(size[1], 640)
    renderer = _renderer(mj, own, size)
    data, pictures = mj.MjData(own), []
    try:
        for state in np.array(states, np.float64):  # MuJoCo 3.3 takes writable arrays only
            mj.mj_setState(own, data, state[: model.state_size], model.state_bits)
            mj.mj_forward(own, data)
            renderer.update_scene(data, chosen)
            pictures.append(renderer.render())
    finally:
        renderer.close()
    return np.stack(pictures)


def _renderer(mj: Any, model: Any, size: tuple[int, int]) -> Any:
    """A renderer, by the OpenGL that MUJOCO_GL names or, without a display, by EGL or OSMesa."""
    given = os.environ.get("MUJOCO_GL")
    chosen = [given] if given or os.environ.get("DISPLAY") else ["egl", "osmesa"]
    why = ""
    for name in chosen:
        try:
            if name and name != given:  # MuJoCo reads it when it is imported
                os.environ["MUJOCO_GL"] = name
                for module in ("mujoco.rendering.classic.gl_context", "mujoco.gl_context"):
                    if module in sys.modules:
                        importlib.reload(sys.modules[module])
            return mj.Renderer(model, *size)
        except Exception as error:  # whatever a GL library raises
            why = said(error)
        finally:
            if given is None:
                os.environ.pop("MUJOCO_GL", None)
    raise NoRenderer(
        f"MuJoCo cannot draw here ({why}); install Mesa's EGL (Debian: libegl1 libgl1-mesa-dri) or OSMesa (libosmesa6)"
    )
