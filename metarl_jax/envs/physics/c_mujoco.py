"""C MuJoCo as a pure function: one call of the host a step, for all lanes that are vmapped together."""

import copy
import dataclasses
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from metarl_jax.envs.packages import package
from metarl_jax.envs.physics.model import Model, quiet
from metarl_jax.user_code import said

MIN_LANES = 16  # of a thread: fewer are not worth waking one
BEYOND = 1e10  # MuJoCo's own limit of a state that is not bad


class PhysicsError(RuntimeError):
    """What went wrong on the host, in one line."""


def call_host(host: Callable[[np.ndarray], np.ndarray], size: int, row: jax.Array) -> jax.Array:
    """`host(rows)`, [..., size], of rows [..., R], once for all lanes that are vmapped together.

    On a CPU the host works on the program's own buffers. `jax.pure_callback` would have copied rows of 100 KiB and more
    on a thread of the pool that runs the program, and waited for it: for ever, if there was no other thread.
    """
    shape = jax.ShapeDtypeStruct((size,), row.dtype)
    if jax.default_backend() == "cpu":
        return buffer_callback(_InPlace(host), shape, vmap_method="broadcast_all")(row)
    return jax.pure_callback(host, shape, row, vmap_method="broadcast_all")


@dataclasses.dataclass(frozen=True)
class _InPlace:
    """`host` as `buffer_callback` calls it; equal where the host is the same, so that a program is traced once."""

    host: Callable[[np.ndarray], np.ndarray]

    def __call__(self, _: Any, out: Any, rows: Any) -> None:
        np.asarray(out)[...] = self.host(np.asarray(rows))


def on_host(model: Model) -> tuple[Callable[..., tuple[jax.Array, dict[str, Any]]], Callable[..., dict[str, Any]]]:
    """`Physics.step` and `Physics.look` by C MuJoCo."""
    stepping, looking = Host(model, model.frame_skip), Host(model, 0)

    def call(host: Host, state: jax.Array, ctrl: Any, patch: Any, skip: Any) -> tuple[jax.Array, dict[str, Any]]:
        patch = model.check(ctrl, patch)
        dtype = state.dtype
        numbers = [state, ctrl, *(jnp.ravel(patch[c.name]) for c in model.patches), jnp.reshape(skip, 1)]
        # Callbacks have no derivative: the gradient must stop at what goes in.
        row = jax.lax.stop_gradient(jnp.concatenate([jnp.asarray(x, dtype) for x in numbers]))
        out = call_host(host, model.state_size + model.seen_size + 1, row)
        seen = model.seen(out[model.state_size : -1])
        return out[: model.state_size], {**seen, "unstable": out[-1] > 0}

    def step(
        state: jax.Array, ctrl: jax.Array, patch: Any = None, skip: Any = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        return call(stepping, state, ctrl, patch, skip)

    def look(state: jax.Array, patch: Any = None) -> dict[str, Any]:
        seen = call(looking, state, jnp.zeros(model.ctrl_size, state.dtype), patch, False)[1]
        return {name: x for name, x in seen.items() if name != "unstable"}

    return step, look


class _Scratch(NamedTuple):
    """What one thread works with. Fields are views into MuJoCo's memory."""

    model: Any
    data: Any
    patches: list[tuple[np.ndarray, Any, slice, tuple[int, ...]]]
    watches: list[tuple[np.ndarray, Any, slice]]


class Host:
    """rows [..., state, ctrl, patch, skip] -> [..., state, seen, unstable], lane by lane, on as many threads as pay.

    `substeps` 0 computes what is watched in the given states.
    """

    def __init__(self, model: Model, substeps: int):
        self.mj = package("mujoco", "robots", "a robot")
        self.model, self.substeps = model, substeps
        self.lock = threading.Lock()  # scratch belongs to one call at a time
        self.scratch: list[_Scratch] = []
        self.pool: ThreadPoolExecutor | None = None
        self.needs_forces = any(c.field == "cfrc_ext" for c in model.watches)

    def __call__(self, rows: Any) -> np.ndarray:
        given = np.asarray(rows)
        lanes = np.array(given.reshape(-1, given.shape[-1]), np.float64, order="C")  # a copy: arrays arrive read-only
        out = np.zeros((len(lanes), self.model.state_size + self.model.seen_size + 1))
        with self.lock, quiet(self.mj):  # bad states are seen below, and reported as metrics
            try:
                self._step(lanes, out)
            except Exception as error:
                raise PhysicsError(f"the physics of {self.model.path} failed: {said(error)}") from None
        size = self.model.state_size
        bad = ~np.all(np.abs(out) <= BEYOND, axis=1)  # NaN too
        if bad.any():
            out[bad] = 0
            out[bad, :size], out[bad, -1] = lanes[bad, :size], 1
        return out.reshape(*given.shape[:-1], -1).astype(given.dtype)

    def _step(self, lanes: np.ndarray, out: np.ndarray) -> None:
        number = max(1, min(cores(), len(lanes) // MIN_LANES))
        while len(self.scratch) < number:
            self.scratch.append(self._new_scratch(shares=not self.model.patches and bool(self.scratch)))
        if number == 1:
            self._some(self.scratch[0], lanes, out)
            return
        if self.pool is None:
            self.pool = ThreadPoolExecutor(cores(), thread_name_prefix="physics")
        ends = [len(lanes) * k // number for k in range(number + 1)]
        jobs = [
            self.pool.submit(self._some, self.scratch[k], lanes[i:j], out[i:j])
            for k, (i, j) in enumerate(zip(ends[:-1], ends[1:], strict=True))
        ]
        for job in jobs:
            job.result()

    def _new_scratch(self, shares: bool) -> _Scratch:
        """`shares`: nothing is written into the model, so that threads can have one."""
        model = self.scratch[0].model if shares else copy.copy(self.model.mujoco)
        data = self.mj.MjData(model)
        patches = []
        for c in self.model.patches:
            field = getattr(model, c.field)
            patches.append((field, c.index, slice(c.start, c.stop), field[c.index].shape))
        watches = [(getattr(data, c.field), c.index, slice(c.start, c.stop)) for c in self.model.watches]
        return _Scratch(model, data, patches, watches)

    def _some(self, scratch: _Scratch, lanes: np.ndarray, out: np.ndarray) -> None:
        model, data, patches, watches = scratch
        mj, size, bits, substeps = self.mj, self.model.state_size, self.model.state_bits, self.substeps
        past = size + self.model.ctrl_size
        forward = self.model.refresh or not substeps
        set_state, step, get_state, ctrl = mj.mj_setState, mj.mj_step, mj.mj_getState, data.ctrl
        rows = zip(
            lanes[:, :size], lanes[:, size:past], lanes[:, past:-1], lanes[:, -1].tolist(),
            out[:, :size], out[:, size:-1], strict=True,
        )  # fmt: skip
        for state, control, patch, skip, new, seen in rows:
            if skip:  # nobody reads what a finished episode goes on to
                new[:] = state
                continue
            for field, index, where, shape in patches:
                field[index] = patch[where].reshape(shape)
            set_state(model, data, state, bits)
            ctrl[:] = control
            if substeps:
                step(model, data, substeps)
            if forward:
                mj.mj_forward(model, data)
            if self.needs_forces:
                mj.mj_rnePostConstraint(model, data)
            get_state(model, data, new, bits)
            for field, index, where in watches:
                seen[where] = field[index].ravel()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
