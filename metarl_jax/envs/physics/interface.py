"""One interface to physics, and the choice between its two back ends."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from metarl_jax.envs.physics.model import Model

BACKENDS = ("auto", "c", "mjx")


class Physics(NamedTuple):
    """A robot's physics as pure functions of a state [S]: time (s), positions, velocities, activations, warm start.

    init(qpos [nq], qvel [nv]) -> state.
    step(state, ctrl [nu], patch, skip) -> (state, seen): `model.frame_skip` substeps with constant controls. `patch` is
    a dictionary of a task's own numbers, `skip` [] bool leaves the state as it is without computing anything. `seen`
    has what is watched, by name, and `unstable` [] bool: the step led to numbers that are not finite or beyond 1e10,
    and the state is the one before it.
    look(state, patch) -> seen: what is watched in that state, without a step.

    *Not differentiated:* a step stops the gradient of its arguments.
    """

    model: Model
    init: Callable[..., jax.Array]
    step: Callable[..., tuple[jax.Array, dict[str, Any]]]
    look: Callable[..., dict[str, Any]]
    calls_host: bool  # every step is a call of the host, for all lanes that are vmapped together at once
    backend: str


def load(
    path: str | Path,
    *,
    frame_skip: int = 1,
    patches: Mapping[str, Sequence[str] | None] | None = None,
    watch: Mapping[str, tuple[str, str | Sequence[str] | None]] | None = None,
    refresh: bool = False,
    backend: str = "auto",
    extra: str = "robots",
) -> Physics:
    """The physics of a MuJoCo XML.

    Args:
      frame_skip: substeps of one step.
      patches: what tasks change: the name of a model's field (`model.PATCHES`) -> names of its rows; None: all of them.
      watch: what comes back beside the state: a name -> (field of `model.WATCHES`, a name or names of its rows, or None
        for all).
      refresh: compute positions of the new state. Otherwise they are, as `mj_step` leaves them, those before the last
        substep.
      backend: "c": C MuJoCo in a call of the host; "mjx": MuJoCo in JAX, compiled into the program; "auto": "c" on a
        CPU, where it is the faster one by far, and "mjx" on accelerators.
      extra: named where a package is missing.

    Raises: ValueError, one line, for what does not fit; MissingPackage.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend = {backend}: must be one of {', '.join(BACKENDS)}")
    model = Model(path, frame_skip=frame_skip, patches=patches, watch=watch, refresh=refresh, extra=extra)
    if backend == "auto":
        backend = "c" if jax.default_backend() == "cpu" else "mjx"
    if backend == "c":
        from metarl_jax.envs.physics.c_mujoco import on_host

        return Physics(model, model.init, *on_host(model), True, backend)
    from metarl_jax.envs.physics.mjx import in_jax

    return Physics(model, model.init, *in_jax(model, extra), False, backend)
