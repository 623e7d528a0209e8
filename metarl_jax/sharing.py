"""How devices share the tasks of one training, or the columns of its data: each has a part, and some find the whole.

Nothing is shared unless `devices` says so while a training is traced; then the code of one device is that of all.
"""

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.tree import chunked_map, chunked_mean


class Sharing(NamedTuple):
    """How devices share the tasks of one training, or the columns of its data; `devices` makes it."""

    num_parts: int
    place: Callable[[], jax.Array]  # the number of this device's part
    mean: Callable[[Any], Any]  # of what every device has found
    gather: Callable[[Any, int], Any]  # the parts of all devices, one after the other along an axis


_SHARING: contextvars.ContextVar[Sharing | None] = contextvars.ContextVar("sharing", default=None)


@contextmanager
def shared(sharing: Sharing | None) -> Iterator[None]:
    """While a training is traced: its devices share tasks in this way (None: each does all)."""
    token = _SHARING.set(sharing)
    try:
        yield
    finally:
        _SHARING.reset(token)


class Shares(NamedTuple):
    """n tasks or columns, and how devices share them; without `sharing` each device has all.

    Parts have one size. Where the devices do not divide n, the last parts begin early enough to have it, and what
    stands in an earlier part too does not count in theirs.
    """

    n: int
    sharing: Sharing | None

    @property
    def size(self) -> int:
        """Tasks of a part."""
        return self.n if self.sharing is None else -(-self.n // self.sharing.num_parts)

    @property
    def is_even(self) -> bool:
        """Whether every task stands in one part."""
        return self.sharing is None or self.n % self.sharing.num_parts == 0

    @property
    def weight(self) -> float:
        """Of what counts in a part's mean, for the mean of these means to be that of all tasks."""
        return 1.0 if self.sharing is None else self.size * self.sharing.num_parts / self.n

    def start(self) -> jax.Array:
        """The first task that counts in this device's part; beyond the last where none does."""
        assert self.sharing is not None
        return self.sharing.place() * self.size

    def part(self, whole: Any, axis: int = 0) -> Any:
        """This device's part of what every device has."""
        if self.sharing is None:
            return whole
        start = self.start()  # a slice that would end beyond the last begins earlier
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, self.size, axis), whole)

    def counts(self) -> jax.Array:
        """[size] whether each task of this device's part counts in it."""
        if self.sharing is None:
            return jnp.ones(self.n, bool)
        start = self.start()
        return jnp.minimum(start, self.n - self.size) + jnp.arange(self.size) >= start

    def whole(self, part: Any, axis: int = 0) -> Any:
        """The parts of all devices in one."""
        if self.sharing is None:
            return part
        found = self.sharing.gather(part, axis)
        if self.is_even:
            return found
        tasks = np.arange(self.n)
        places = tasks // self.size
        tasks = places * self.size + tasks - np.minimum(places * self.size, self.n - self.size)
        return jax.tree.map(lambda x: jnp.take(x, tasks, axis=axis), found)

    def map(self, f: Callable, part: Any, batch_size: int | None = None) -> Any:
        """`chunked_map` over the tasks of this device's part."""
        if self.sharing is None:
            return chunked_map(f, part, batch_size)
        with shared(None):
            return chunked_map(f, part, batch_size)

    def mean(self, f: Callable, part: Any, batch_size: int | None = None) -> Any:
        """The mean of f over all n tasks: each device takes that of its part, and then that of all devices is taken."""
        if self.sharing is None:
            return chunked_mean(f, part, batch_size)
        with shared(None):
            if self.is_even:
                return self.sharing.mean(chunked_mean(f, part, batch_size))

            def counted(x: tuple[Any, jax.Array]) -> Any:
                return jax.tree.map(lambda y: jnp.where(x[1], y, jnp.zeros_like(y)), f(x[0]))

            found = chunked_mean(counted, (part, self.counts()), batch_size)
            return self.sharing.mean(jax.tree.map(lambda y: self.weight * y, found))


def shares_of(n: int) -> Shares:
    """How devices share n tasks or columns. One is not shared."""
    return Shares(n, _SHARING.get() if n > 1 else None)


def map_tasks(f: Callable, xs: Any, batch_size: int | None = None) -> Any:
    """`chunked_map` over tasks, which devices may share; each gets what all have found."""
    shares = shares_of(jax.tree.leaves(xs)[0].shape[0])
    return shares.whole(shares.map(f, shares.part(xs), batch_size))


def mean_over_tasks(f: Callable, xs: Any, batch_size: int | None = None) -> Any:
    """`chunked_mean` over tasks, which devices may share."""
    shares = shares_of(jax.tree.leaves(xs)[0].shape[0])
    return shares.mean(f, shares.part(xs), batch_size)


def map_columns(f: Callable, xs: Any) -> Any:
    """f of leaves [T, B, ...], which treats columns alike, gives leaves [T, B, ...]; devices may share the columns."""
    shares = shares_of(jax.tree.leaves(xs)[0].shape[1])
    return shares.whole(f(shares.part(xs, 1)), 1)
