"""Attention to the last steps of a stream: rotary positions, whole trials in parallel, and one step on a ring of keys.

Letters: B streams, T steps, N heads, H numbers a head, C the context: steps that a step attends to, itself included.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import tree

BASE = 10_000.0  # of the rotary frequencies
TURN = 2**32  # parts of a turn


def rotation(time: jax.Array, width: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    r"""Cosine and sine of the rotary angles of steps `time` [T], each [1, T, 1, width / 2].

    .. math::

        \text{angle}_i(t) = t \, 10000^{-2i / \text{width}}

    (Su et al. 2021, eq. 15). Angles are counted in parts of a turn of 2^-32, in whole numbers that wrap around as
    angles do: the same angle between two steps is the same number however late they are, where t times a frequency in
    float32 is off by 1e-4 rad at step 4,096. Frequencies are rounded to 2^-32 of a turn a step, for all uses alike.
    """
    frequency = BASE ** (-np.arange(width // 2) / (width // 2)) / (2 * math.pi)  # turns a step
    parts = jnp.asarray(np.round(frequency * TURN).astype(np.uint32))
    turned = time.astype(jnp.uint32)[None, :, None, None] * parts[None, None, None, :]
    signed = jax.lax.bitcast_convert_type(turned, jnp.int32)  # half a turn either way: small numbers are rounded less
    angle = signed.astype(dtype) * jnp.asarray(2 * math.pi / TURN, dtype)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, by: tuple[jax.Array, jax.Array]) -> jax.Array:
    """x [B, T, N, H], pairs (x_i, x_{i + H/2}) turned by their angles; computed in their type, returned in x's.

    The product of a query and a key that are turned so depends on how many steps lie between them, not on when.
    """
    cos, sin = by
    a, b = jnp.split(x.astype(cos.dtype), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(q k' / sqrt(H)) v of q [B, T, N, H] and k, v [B, S, N, H] where `mask` [1 or B, 1, T, S] is true.

    The softmax is in float32 for float32 and bfloat16. `jax.nn` rounds it to float32 in float64 too, so there it is
    written out.
    """
    if q.dtype != jnp.float64:
        with tree.usual_promotion():  # JAX's own code mixes bfloat16 and float32
            return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / math.sqrt(q.shape[-1])
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)), v)


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array, context: int) -> jax.Array:
    """Attention of every step of q, k, v [B, T, N, H] to the last `context` steps, its own included.

    Flash attention of cuDNN where the device, the type and the shapes allow it (`flash_fits`): no T x T matrix.
    Otherwise by XLA: where T > 2 context, in blocks of `context` queries and 2 `context` keys, so that time and memory
    grow with T context instead of T^2.

    *Not differentiated:* twice, and forward, where cuDNN computes it (bfloat16 on a GPU): it has a reverse mode only.
    """
    length = q.shape[1]
    window = None if context >= length else (context - 1, 0)
    if flash_fits(q, k, v, window):
        return _flash(q, k, v, window)
    if length <= 2 * context:
        age = jnp.arange(length)[:, None] - jnp.arange(length)[None]
        return attend(q, k, v, ((age >= 0) & (age < context))[None, None])
    count = -(-length // context)

    def blocks(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, count * context - length), (0, 0), (0, 0)))
        return x.reshape(x.shape[0], count, context, *x.shape[2:])

    def with_the_one_before(x: jax.Array) -> jax.Array:
        x = blocks(x)
        before = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
        return jnp.concatenate([before, x], axis=2)

    key = jnp.arange(2 * context)[None]
    age = context + jnp.arange(context)[:, None] - key
    is_there = (jnp.arange(count)[:, None] > 0) | (key >= context)  # nothing is before the first block
    mask = ((age >= 0) & (age < context))[None] & is_there[:, None]
    out = jax.vmap(attend, in_axes=(0, 0, 0, None))(
        blocks(q), with_the_one_before(k), with_the_one_before(v), mask[:, None]
    )
    return out.reshape(out.shape[0], count * context, *out.shape[3:])[:, :length]


def _flash(q: jax.Array, k: jax.Array, v: jax.Array, window: tuple[int, int] | None) -> jax.Array:
    length = q.shape[1]
    # cuDNN's backward pass takes even lengths only; what stands at the end is seen by no earlier step.
    q, k, v = (jnp.pad(x, ((0, 0), (0, length % 2), (0, 0), (0, 0))) for x in (q, k, v))
    with tree.usual_promotion():
        out = jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=window, implementation="cudnn")
    return out[:, :length]


def flash_fits(q: Any, k: Any, v: Any, window: tuple[int, int] | None) -> bool:
    """Whether cuDNN's flash attention takes these arrays: a CUDA device, 16 bits, heads of a width that it knows.

    JAX's own checks are asked, of the forward and the backward pass, by tracing them.
    """
    if q.dtype not in (jnp.bfloat16, jnp.float16) or jax.default_backend() != "gpu":
        return False
    try:
        jax.eval_shape(lambda *x: jax.vjp(lambda q, k, v: _flash(q, k, v, window), *x)[1](x[0]), q, k, v)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def ring(num_streams: int, num_heads: int, context: int, width: int, dtype: Any) -> dict[str, jax.Array]:
    """The keys and values of the last `context` steps, none yet, [B, N, C, H]: step t lies at t mod C.

    Heads stand before steps, so that a step's product with all keys reads them in order.
    """
    return {name: jnp.zeros((num_streams, num_heads, context, width), dtype) for name in ("key", "value")}


def attend_on_ring(
    memory: dict[str, jax.Array], time: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array]:
    """One step, number `time` [], of q, k, v [B, 1, N, H]: (the ring with it, its attention to the last `context`)."""
    context = memory["key"].shape[2]

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(old, jnp.swapaxes(new, 1, 2), time % context, axis=2)

    memory = {"key": put(memory["key"], k), "value": put(memory["value"], v)}
    filled = (jnp.arange(context) <= time)[None, None, None]
    return memory, attend(q, jnp.swapaxes(memory["key"], 1, 2), jnp.swapaxes(memory["value"], 1, 2), filled)
