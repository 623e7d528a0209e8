"""MuJoCo in JAX (MJX): compiled into the program, for accelerators."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.envs.packages import package
from metarl_jax.envs.physics.c_mujoco import BEYOND
from metarl_jax.envs.physics.model import Model


def step_in_jax(model: Model, extra: str) -> Callable[..., tuple[jax.Array, dict[str, Any]]]:
    """`Physics.step` by MJX. Raises: ValueError, one line, for a model that MJX cannot load."""
    mjx = package("mujoco.mjx", extra, "backend = mjx")
    jax_only = {"impl": "jax"} if "impl" in inspect.signature(mjx.put_model).parameters else {}
    try:
        mjx_model = mjx.put_model(model.mujoco, **jax_only)
        empty = mjx.make_data(model.mujoco, **jax_only)
    except (NotImplementedError, ValueError) as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"backend = mjx: MJX cannot load {model.path}: {text}; use backend = c") from None
    needs_forces = any(c.field == "cfrc_ext" for c in model.watches)

    def patched(patch: dict[str, Any]) -> Any:
        new = {}
        for c in model.patches:
            whole = getattr(mjx_model, c.field)
            given = jnp.asarray(patch[c.name], whole.dtype)
            rows = slice(None) if c.rows is None else c.rows
            new[c.field] = whole.at[rows].set(given.reshape(whole[rows].shape))
        return mjx_model.replace(**new) if new else mjx_model

    def step(
        state: jax.Array, ctrl: jax.Array, patch: Any = None, skip: Any = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        patch = model.check(ctrl, patch)
        state, ctrl, patch = jax.lax.stop_gradient((state, ctrl, patch))
        own, part = patched(patch), lambda name: model.part(state, name)
        data = empty.replace(
            time=part("TIME")[0],
            qpos=part("QPOS"),
            qvel=part("QVEL"),
            act=part("ACT"),
            qacc_warmstart=part("WARMSTART"),
            mocap_pos=part("MOCAP_POS").reshape(-1, 3),
            mocap_quat=part("MOCAP_QUAT").reshape(-1, 4),
            ctrl=jnp.asarray(ctrl, state.dtype),
        )
        data = jax.lax.fori_loop(0, model.frame_skip, lambda _, d: mjx.step(own, d), data)
        if model.refresh:
            data = mjx.forward(own, data)
        if needs_forces:
            data = mjx.rne_postconstraint(own, data)
        parts = (
            data.time, data.qpos, data.qvel, data.act, data.qacc_warmstart, data.mocap_pos, data.mocap_quat,
        )  # fmt: skip
        new = jnp.concatenate([jnp.ravel(x).astype(state.dtype) for x in parts])
        watched = [getattr(data, c.field)[slice(None) if c.rows is None else c.rows] for c in model.watches]
        row = jnp.concatenate([jnp.zeros(0, state.dtype), *(jnp.ravel(x).astype(state.dtype) for x in watched)])
        live = ~jnp.asarray(skip, bool)
        unstable = ~(jnp.all(jnp.abs(new) <= BEYOND) & jnp.all(jnp.abs(row) <= BEYOND)) & live
        keep = live & ~unstable
        return jnp.where(keep, new, state), {**model.seen(jnp.where(keep, row, 0)), "unstable": unstable}

    return step
