"""Helpers on pytrees that jax and optax lack: norms safe at zero, masks, chunked maps, minibatches, finiteness."""

import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

UNROLLED_STEPS = 4  # of a rollout, in one turn of a loop on an accelerator


@contextmanager
def usual_promotion() -> Iterator[None]:
    """JAX's default promotion of types and ranks, for what optax, distrax and flax compute within.

    Their code does not pass `jax_numpy_dtype_promotion=strict` and `jax_numpy_rank_promotion=raise`; ours does.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def global_norm(tree: Any) -> jax.Array:
    """Euclidean norm over all leaves, with gradient 0 (not NaN) where every leaf is zero."""
    squares = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree))
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def masked(tree: Any, mask: jax.Array) -> Any:
    """Every leaf where `mask` is not 0, and 0 elsewhere; `mask` has the leading axes of the leaves.

    What stands behind the mask has no part in the value or in any derivative, NaN and infinity included. A product
    with the mask does not do that: 0 * NaN is NaN, and so is the derivative of a masked value where the slope is
    infinite. Mask what goes into a formula, not only what comes out.
    """
    keep = mask.astype(bool)

    def one(x: jax.Array) -> jax.Array:
        return jnp.where(keep.reshape(*keep.shape, *[1] * (x.ndim - keep.ndim)), x, jnp.zeros((), x.dtype))

    return jax.tree.map(one, tree)


def finite_behind(tree: Any, mask: jax.Array) -> Any:
    """Every leaf as it is, but 0 behind the mask where it is NaN or infinite: fit to be read by a network."""

    def one(x: jax.Array) -> jax.Array:
        real = mask.astype(bool).reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
        return jnp.where(real | jnp.isfinite(x), x, jnp.zeros((), x.dtype))

    return jax.tree.map(one, tree)


def clip_by_global_norm(max_norm: float | jax.Array) -> optax.GradientTransformation:
    """g * min(1, max_norm / |g|), differentiable everywhere, g = 0 included.

    `optax.clip_by_global_norm` divides by the norm, which makes a meta-gradient NaN as soon as one
    inner gradient is exactly zero (a task whose rewards are all equal).
    """

    def clip(grads: Any, _: Any = None) -> Any:
        scale = jnp.minimum(1.0, max_norm / jnp.maximum(global_norm(grads), 1e-12))
        return jax.tree.map(lambda g: (g * scale).astype(g.dtype), grads)

    return optax.stateless(clip)


def optimizer_step(optimizer: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
    """One step of an optax optimiser: (params, opt_state)."""
    with usual_promotion():
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state


def scan_steps(
    step: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any, reverse: bool = False, large: bool = False
) -> Any:
    """`jax.lax.scan` over the time steps of a rollout.

    On an accelerator a step is a handful of small kernels whose launches cost more than they compute, so
    `UNROLLED_STEPS` of them make one turn of the loop (docs/benchmarks.md has what that gains). A CPU gains nothing.
    A `large` step is not repeated.
    """
    unroll = 1 if large or jax.default_backend() == "cpu" else UNROLLED_STEPS
    return jax.lax.scan(step, init, xs, reverse=reverse, unroll=unroll)


class Limits(NamedTuple):
    """What is computed at a time, at most, where a program would not fit into memory otherwise."""

    batch: int | None = None  # tasks, agents
    parts: int = 1  # that a gradient is added up over, at least


class Limited(NamedTuple):
    """What limits have been held against while a program was traced: numbers of tasks, of columns of a gradient."""

    tasks: list[int]
    columns: list[int]


_LIMITS: contextvars.ContextVar[tuple[Limits, Limited | None]] = contextvars.ContextVar(
    "limits", default=(Limits(), None)
)


@contextmanager
def limited(limits: Limits) -> Iterator[Limited]:
    """While a program is traced: these limits."""
    held = Limited([], [])
    token = _LIMITS.set((limits, held))
    try:
        yield held
    finally:
        _LIMITS.reset(token)


def default_batch_size(n: int) -> int:
    """How many of `n` tasks (or seeds) to process at a time: one on a CPU, all on an accelerator, or as `limited` says.

    On a CPU a vmap over tasks turns large matrix products into many small batched ones that fall
    out of cache; on an accelerator the batch is what fills the device.
    """
    limits, held = _LIMITS.get()
    if held is not None:
        held.tasks.append(n)
    size = 1 if jax.default_backend() == "cpu" else n
    return size if limits.batch is None else min(size, limits.batch)


def num_parts(n: int, given: int) -> int:
    """In how many parts a gradient over n columns (or samples) is added up: `given`, or more as `limited` says."""
    limits, held = _LIMITS.get()
    if held is not None:
        held.columns.append(n)
    wanted = max(given, limits.parts)
    return next(parts for parts in range(min(wanted, n), n + 1) if n % parts == 0)


def chunked_map(f: Callable, xs: Any, batch_size: int | None = None) -> Any:
    """`jax.vmap(f)(xs)`, computed `batch_size` elements at a time (None: `default_batch_size`).

    Memory is that of one chunk plus the stacked outputs. The result does not depend on `batch_size`
    beyond floating-point rounding.
    """
    n = jax.tree.leaves(xs)[0].shape[0]
    size = default_batch_size(n) if batch_size is None else batch_size
    if size >= n and n > 1:
        return jax.vmap(f)(xs)
    if size == 1 or n == 1:  # no batch axis at all: plain matrix products
        return jax.lax.map(f, xs)
    return jax.lax.map(f, xs, batch_size=size)


def where_in_groups(f: Callable, where: jax.Array, args: Any, otherwise: Any, group_size: int) -> Any:
    """`jax.vmap(f)(args)` in the lanes `where` [B] is true, leaves of `otherwise` [B, ...] elsewhere.

    f is computed for `group_size` lanes at a time, as often as there are such lanes left: not at all where there are
    none. Lanes that are vmapped outside of this take as many turns as the one with the most.
    """
    n = where.shape[0]

    def turn(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        left, now = carry
        (index,) = jnp.nonzero(left, size=group_size, fill_value=n)
        new = jax.vmap(f)(jax.tree.map(lambda x: x[jnp.minimum(index, n - 1)], args))
        now = jax.tree.map(lambda x, y: x.at[index].set(y.astype(x.dtype), mode="drop"), now, new)
        return left.at[index].set(False, mode="drop"), now

    return jax.lax.while_loop(lambda carry: jnp.any(carry[0]), turn, (where, otherwise))[1]


def traced_once(f: Callable) -> Callable:
    """`f`, whose shapes can be asked (`jax.eval_shape`) before it runs in a loop without tracing it a second time."""
    return jax.jit(f, inline=True)


def chunked_mean(f: Callable, xs: Any, batch_size: int | None = None) -> Any:
    """The mean of `jax.vmap(f)(xs)` over its leading axis, `batch_size` elements at a time.

    One element at a time it adds up as it goes, so that memory does not grow with their number.
    """
    n = jax.tree.leaves(xs)[0].shape[0]
    size = default_batch_size(n) if batch_size is None else batch_size
    if size > 1 or n == 1:
        return tree_mean(chunked_map(f, xs, batch_size))
    once = traced_once(f)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(once, jax.tree.map(lambda x: x[0], xs)))

    def add(total: Any, x: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, once(x)), None

    total, _ = jax.lax.scan(add, zeros, xs)
    return jax.tree.map(lambda x: x / n, total)


def tree_mean(tree: Any) -> Any:
    """Mean over the leading axis of every leaf."""
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)


def one_row(tree: Any, num_axes: int = 2) -> Any:
    """Leaves [T, B, ...] as [T * B, ...], the first `num_axes` axes in one, for what does not read time.

    On a CPU XLA unrolls short rows: the code is longer, takes longer to compile, and is slower.
    """
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[num_axes:]), tree)


def draw(random: Callable[..., jax.Array], key: jax.Array, shape: tuple[int, ...], *args: Any) -> jax.Array:
    """`random(key, shape, *args)` of `jax.random`, the same numbers drawn as one row.

    On a CPU XLA unrolls short rows, which takes long to compile (`one_row`).
    """
    drawn = random(key, (math.prod(shape),), *args)
    return drawn.reshape(*shape, *drawn.shape[1:])  # keys of the old kind have an axis of their own


def minibatch_indices(key: jax.Array, num_samples: int, num_epochs: int, num_minibatches: int) -> jax.Array:
    """[num_epochs * num_minibatches, num_samples / num_minibatches] indices, reshuffled every epoch."""
    shuffled = _permutations(key, num_epochs, num_samples)
    return shuffled.reshape(num_epochs * num_minibatches, num_samples // num_minibatches)


def _permutations(key: jax.Array, count: int, n: int) -> jax.Array:
    """[count, n] random permutations of range(n).

    Up to 4,096 samples the index rides in the low bits of the random word, so that a plain sort of one array
    does it, cheaper on a CPU than sorting pairs. The 20 or more random bits left then tie now and
    then, and a tie keeps its order: an effect far below what a shuffle of a batch is for.
    """
    if n > 4096:
        return jax.vmap(lambda k: jax.random.permutation(k, n))(jax.random.split(key, count))
    low = jnp.uint32((1 << (n - 1).bit_length()) - 1)
    words = jax.random.bits(key, (count, n), jnp.uint32) & ~low
    return (jnp.sort(words | jnp.arange(n, dtype=jnp.uint32)[None], axis=1) & low).astype(jnp.int32)


def mean_or_nothing(total: jax.Array, count: jax.Array) -> jax.Array:
    """total / count, and infinity where there was nothing to count: see `types.Metrics`."""
    counted = count.astype(total.dtype)
    return jnp.where(count > 0, total / jnp.maximum(counted, 1.0), jnp.inf)


def finite_mean(x: jax.Array, axis: int | None = None) -> jax.Array:
    """Mean of the finite entries, and infinity where there are none."""
    is_finite = jnp.isfinite(x)
    return mean_or_nothing(jnp.sum(masked(x, is_finite), axis=axis), jnp.sum(is_finite, axis=axis))


def select(tree: Any, names: Sequence[str] | None) -> Any:
    """The leaves whose path holds one of `names` (a parameter or a module), as a list; None: the whole tree.

    Raises: ValueError for a name that no leaf has.
    """
    if names is None:
        return tree
    return [leaf for leaf, chosen in zip(jax.tree.leaves(tree), _chosen(tree, names), strict=True) if chosen]


def replace_selected(tree: Any, names: Sequence[str] | None, selected: Any) -> Any:
    """`tree` with the leaves that `select` picked replaced."""
    if names is None:
        return selected
    new = iter(selected)
    leaves, structure = jax.tree.flatten(tree)
    merged = [next(new) if chosen else leaf for leaf, chosen in zip(leaves, _chosen(tree, names), strict=True)]
    return jax.tree.unflatten(structure, merged)


def _chosen(tree: Any, names: Sequence[str]) -> list[bool]:
    paths = [name.split(".") for name in leaf_names(tree)]
    known = sorted({part for path in paths for part in path})
    for name in names:
        if name not in known:
            raise ValueError(f"adapts = {name!r}: no parameter has that name; there are {', '.join(known)}")
    return [any(name in path for name in names) for path in paths]


def finite(tree: Any) -> Any:
    """The same tree with one boolean per leaf (per leading index is the caller's vmap)."""
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), tree)


def leaf_names(tree: Any) -> list[str]:
    """Dotted names of the leaves, in `jax.tree.leaves` order."""
    return [".".join(_key_name(k) for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _key_name(key: Any) -> str:
    for field in ("key", "name", "idx"):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)
