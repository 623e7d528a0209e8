"""The physics of several models behind one call of the host: lanes that differ in their model step together."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metarl_jax.envs.physics import Physics
from metarl_jax.envs.physics.c_mujoco import Host, call_host, cores

Step = Callable[[Array, Array, Array, Array, Array], tuple[Array, Mapping[str, Array]]]


def state_size(models: Sequence[Physics]) -> int:
    """Of the largest: the states of the others are padded with zeros."""
    return max(p.model.state_size for p in models)


def stepper(models: Sequence[Physics]) -> Step:
    """(kind [], state [S], ctrl, body_pos [3], skip) -> (state, seen) of the model of that kind.

    All models must watch the same names with the same shapes, and patch one `body_pos` or nothing. With one model this
    is `Physics.step`.
    """
    if len(models) == 1:
        alone = models[0]

        def step_alone(kind: Array, state: Array, ctrl: Array, body_pos: Array, skip: Array) -> Any:
            patch = {"body_pos": body_pos[None]} if alone.model.patches else None
            return alone.step(state, ctrl, patch, skip)

        return step_alone

    host, size = _MixedHost(models), state_size(models)
    model = models[0].model

    def step(kind: Array, state: Array, ctrl: Array, body_pos: Array, skip: Array) -> Any:
        dtype = state.dtype
        numbers = [state, ctrl, body_pos, jnp.reshape(skip, 1), jnp.reshape(kind, 1)]
        row = jax.lax.stop_gradient(jnp.concatenate([x.astype(dtype) for x in numbers]))
        out = call_host(host, size + model.seen_size + 1, row)
        return out[:size], {**model.seen(out[size:-1]), "unstable": out[-1] > 0}

    return step


class _MixedHost:
    """rows [..., state, ctrl, body_pos, skip, kind] -> [..., state, seen, unstable]."""

    def __init__(self, models: Sequence[Physics]):
        distinct = {id(p.model): p.model for p in models}  # tasks that share a model share a copy of it
        self.hosts = [Host(model, model.frame_skip) for model in distinct.values()]
        self.host_of = np.array([list(distinct).index(id(p.model)) for p in models])
        self.size, self.seen_size = state_size(models), models[0].model.seen_size
        self.lock, self.pool = threading.Lock(), ThreadPoolExecutor(cores(), thread_name_prefix="models")

    def __call__(self, rows: Any) -> np.ndarray:
        given = np.asarray(rows)
        lanes = np.array(given.reshape(-1, given.shape[-1]))
        out = np.zeros((len(lanes), self.size + self.seen_size + 1), given.dtype)
        which = self.host_of[lanes[:, -1].astype(int)]
        with self.lock:
            list(self.pool.map(lambda number: self._some(number, which == number, lanes, out), np.unique(which)))
        return out.reshape(*given.shape[:-1], -1)

    def _some(self, number: int, here: np.ndarray, lanes: np.ndarray, out: np.ndarray) -> None:
        """All lanes of one model."""
        host, index = self.hosts[number], np.flatnonzero(here)
        own, size = lanes[index], host.model.state_size
        ctrl = own[:, self.size : self.size + host.model.ctrl_size]
        body_pos = own[:, -5:-2] if host.model.patches else own[:, :0]
        new = host(np.concatenate([own[:, :size], ctrl, body_pos, own[:, -2:-1]], axis=1))
        out[index, :size], out[index, self.size :] = new[:, :size], new[:, size:]
