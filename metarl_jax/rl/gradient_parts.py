"""The gradient of one step, in parts: added up over parts of the data to save memory, and shared by devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import sharing, tree
from metarl_jax.types import Batch


def added_up(gradient: Callable, num_parts: int) -> Callable:
    """gradient(params, (batch, ...)), added up over parts of the batch's episodes (or samples).

    There are `num_parts`, or more where memory is limited (`tree.limited`) or these do not divide a device's part.
    """

    def added(params: Any, batch: Batch, *rest: Any) -> Any:
        axis = _axis(batch)
        parts = tree.num_parts(batch.mask.shape[axis], num_parts)
        if parts == 1:
            return gradient(params, (batch, *rest))

        def split(x: jax.Array) -> jax.Array:
            shape = (*x.shape[:axis], parts, x.shape[axis] // parts, *x.shape[axis + 1 :])
            return jnp.moveaxis(x.reshape(shape), axis, 0)

        split_up = jax.tree.map(split, batch)
        real = jnp.maximum(jnp.sum(batch.mask), 1.0)

        def add(total: Any, part: Batch) -> tuple[Any, None]:
            share = jnp.sum(part.mask) / real
            found = once(params, part, *rest)
            return jax.tree.map(lambda t, x: t + share * x, total, found), None

        once = tree.traced_once(lambda params, part, *rest: gradient(params, (part, *rest)))
        shapes = jax.eval_shape(once, params, jax.tree.map(lambda x: x[0], split_up), *rest)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, split_up)[0]

    return added


def over_devices(gradient: Callable) -> Callable:
    """gradient(params, batch, ...), of which every device computes that of its part of the columns (or samples)."""

    def shared(params: Any, batch: Batch, *rest: Any) -> Any:
        axis = _axis(batch)
        shares = sharing.shares_of(batch.mask.shape[axis])
        if shares.sharing is None:
            return gradient(params, batch, *rest)
        part = shares.part(batch, axis)
        if not shares.is_even:
            part = part.replace(mask=tree.masked(part.mask.swapaxes(0, axis), shares.counts()).swapaxes(0, axis))
        weight = shares.sharing.num_parts * jnp.sum(part.mask) / jnp.maximum(jnp.sum(batch.mask), 1.0)
        return shares.sharing.mean(jax.tree.map(lambda x: weight * x, gradient(params, part, *rest)))

    return shared


def _axis(batch: Batch) -> int:
    return min(1, batch.mask.ndim - 1)
