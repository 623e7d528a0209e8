"""MuJoCo in JAX (MJX): compiled into the program, for accelerators."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.envs.packages import package
from metarl_jax.envs.physics.c_mujoco import BEYOND
from metarl_jax.envs.physics.model import Model
from metarl_jax.user_code import said


def in_jax(
    model: Model, extra: str
) -> tuple[Callable[..., tuple[jax.Array, dict[str, Any]]], Callable[..., dict[str, Any]]]:
    """`Physics.step` and `Physics.look` by MJX. Raises: ValueError, one line, for a model that MJX cannot load."""
    mjx = package("mujoco.mjx", extra, "backend = mjx")
    jax_only = {"impl": "jax"} if "impl" in inspect.signature(mjx.put_model).parameters else {}

    @functools.cache
    def loaded(dtype: Any) -> tuple[Any, Any]:
        """The model and an empty `mjx.Data` in JAX's precision, which a test may have changed since."""
        del dtype
        with jax.ensure_compile_time_eval():
            return mjx.put_model(model.mujoco, **jax_only), mjx.make_data(model.mujoco, **jax_only)

    try:
        loaded(jnp.result_type(float))
    except (NotImplementedError, ValueError) as error:
        why = said(error)
        raise ValueError(f"backend = mjx: MJX cannot load {model.path}: {why}; use backend = c") from None
    needs_forces = any(c.field == "cfrc_ext" for c in model.watches)

    def patched(patch: dict[str, Any]) -> Any:
        mjx_model, new = loaded(jnp.result_type(float))[0], {}
        for c in model.patches:
            whole = getattr(mjx_model, c.field)
            given = jnp.asarray(patch[c.name], whole.dtype)
            new[c.field] = whole.at[c.index].set(given.reshape(whole[c.index].shape))
        return mjx_model.replace(**new) if new else mjx_model

    def data_of(state: jax.Array, ctrl: jax.Array) -> Any:
        def part(name: str) -> jax.Array:
            return model.part(state, name)

        return loaded(jnp.result_type(float))[1].replace(
            time=part("TIME")[0],
            qpos=part("QPOS"),
            qvel=part("QVEL"),
            act=part("ACT"),
            qacc_warmstart=part("WARMSTART"),
            mocap_pos=part("MOCAP_POS").reshape(-1, 3),
            mocap_quat=part("MOCAP_QUAT").reshape(-1, 4),
            ctrl=jnp.asarray(ctrl, state.dtype),
        )

    def row_of(own: Any, data: Any, dtype: Any) -> jax.Array:
        if needs_forces:
            data = mjx.rne_postconstraint(own, data)
        watched = [getattr(data, c.field)[c.index] for c in model.watches]
        return jnp.concatenate([jnp.zeros(0, dtype), *(jnp.ravel(x).astype(dtype) for x in watched)])

    def step(
        state: jax.Array, ctrl: jax.Array, patch: Any = None, skip: Any = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        patch = model.check(ctrl, patch)
        state, ctrl, patch = jax.lax.stop_gradient((state, ctrl, patch))
        own = patched(patch)
        data = data_of(state, ctrl)
        data = jax.lax.fori_loop(0, model.frame_skip, lambda _, d: mjx.step(own, d), data)
        if model.refresh:
            data = mjx.forward(own, data)
        parts = (
            data.time, data.qpos, data.qvel, data.act, data.qacc_warmstart, data.mocap_pos, data.mocap_quat,
        )  # fmt: skip
        new = jnp.concatenate([jnp.ravel(x).astype(state.dtype) for x in parts])
        row = row_of(own, data, state.dtype)
        live = ~jnp.asarray(skip, bool)
        unstable = ~(jnp.all(jnp.abs(new) <= BEYOND) & jnp.all(jnp.abs(row) <= BEYOND)) & live
        keep = live & ~unstable
        return jnp.where(keep, new, state), {**model.seen(jnp.where(keep, row, 0)), "unstable": unstable}

    def look(state: jax.Array, patch: Any = None) -> dict[str, Any]:
        nothing = jnp.zeros(model.ctrl_size, state.dtype)
        state, patch = jax.lax.stop_gradient((state, model.check(nothing, patch)))
        own = patched(patch)
        return model.seen(row_of(own, mjx.forward(own, data_of(state, nothing)), state.dtype))

    return step, look
