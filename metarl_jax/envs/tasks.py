"""Task distributions: how tasks are drawn, which are held out, and the best return that each allows."""

import dataclasses
import functools
import numbers
from collections.abc import Callable
from typing import Any, Optional

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

EnvParams = Any  # a gymnax EnvParams: one task; stacked EnvParams: a batch of tasks

MIN_SPLIT = 8  # finite sets smaller than this hold nothing out
TEST_FRACTION = 0.2
_TRAIN_TAG, _TEST_TAG = 0x7EA1, 0x7E57  # distinct streams of the same sampler


@dataclasses.dataclass(frozen=True, eq=False)
class TaskDistribution:
    """A distribution over the `EnvParams` of one environment, as pure functions.

    Attributes:
      sample: key -> one task. Traceable, a pure function of the key; `vmap` it for a batch of tasks.
      horizon: natural episode length in environment steps; static.
      members: all tasks stacked, leaves [N, ...], when the set is finite; build those with `from_members`.
      oracle: task -> exact optimal expected undiscounted return of one episode; None where it is not known.
      description: one line.
      held_out: whether `split` holds tasks out. False for finite sets of fewer than 8 members, or by choice, such as
        where `sample` draws from so few tasks that the halves would share some.
      part: "all", "train" or "test": which part of a split this is.
    """

    sample: Callable[[Array], EnvParams]
    horizon: int
    members: EnvParams | None = None
    oracle: Callable[[EnvParams], Array] | None = None
    description: str = ""
    held_out: bool = True
    part: str = "all"
    _test: Optional["TaskDistribution"] = dataclasses.field(default=None, repr=False)

    @classmethod
    def from_members(
        cls,
        stacked: EnvParams,
        horizon: int,
        oracle: Callable[[EnvParams], Array] | None = None,
        description: str = "",
        hold_out: bool = True,
    ) -> "TaskDistribution":
        """The uniform distribution over a finite set of tasks, given stacked: leaves [N, ...].

        Without `hold_out`, or with fewer than 8 of them, `split` holds nothing out: both halves are all tasks.

        Raises:
          ValueError: if the leaves do not share a leading dimension N >= 1.
        """
        size = num_members(stacked)
        return cls(
            sample=functools.partial(_sample_member, stacked),
            horizon=horizon,
            members=stacked,
            oracle=oracle,
            description=description,
            held_out=hold_out and size >= MIN_SPLIT,
        )

    def split(self, seed: int) -> tuple["TaskDistribution", "TaskDistribution"]:
        """`(train, test)`: two distributions that share no task.

        Continuous families draw the halves from distinct key streams: the seed names the test stream, and the
        training stream is one for all seeds. A finite set of at least 8 members is shuffled by the seed and a
        fifth of it is held out. Where `held_out` is False both halves are all of it.

        Raises:
          ValueError: if a finite set contains the same task twice, which would leak it into both halves.
        """
        if not self.held_out:
            return self._halves((self.sample, self.members), (self.sample, self.members), held_out=False)
        if self.members is None:
            draw_train = functools.partial(_sample_stream, self.sample, _TRAIN_TAG, 0)
            draw_test = functools.partial(_sample_stream, self.sample, _TEST_TAG, seed)
            return self._halves((draw_train, None), (draw_test, None), held_out=True)
        size = num_members(self.members)
        _check_distinct(self.members)
        order = np.random.default_rng(seed).permutation(size)
        num_test = max(1, round(TEST_FRACTION * size))
        train, test = _take(self.members, order[num_test:]), _take(self.members, order[:num_test])
        draw_train, draw_test = (functools.partial(_sample_member, half) for half in (train, test))
        return self._halves((draw_train, train), (draw_test, test), held_out=True)

    def evaluation_tasks(self, num_tasks: int, seed: int = 0) -> EnvParams:
        """The fixed list of held-out tasks named by the seed: stacked EnvParams, leaves [num_tasks, ...].

        Finite sets cycle through their test members. On a half of a split the tasks come from that split's
        test half, otherwise from that of `split(seed)`. A shorter list is the beginning of a longer one.
        """
        check_count("num_tasks", num_tasks)
        test = self if self.part == "test" else self._test or self.split(seed)[1]
        if test.members is not None:
            return _take(test.members, np.arange(num_tasks) % num_members(test.members))
        keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(jnp.arange(num_tasks))
        return jax.vmap(test.sample)(keys)

    def _halves(
        self, train: tuple[Any, Any], test: tuple[Any, Any], held_out: bool
    ) -> tuple["TaskDistribution", "TaskDistribution"]:
        def half(part: str, sample: Any, members: Any, of: Optional["TaskDistribution"]) -> "TaskDistribution":
            new = dataclasses.replace(self, sample=sample, members=members)
            return dataclasses.replace(new, part=part, held_out=held_out, _test=of)

        held = half("test", *test, None)
        return half("train", *train, held), held


def num_members(stacked: EnvParams) -> int:
    """The shared leading dimension N >= 1 of a stacked pytree; ValueError if there is none."""
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(stacked)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(
            f"members must be stacked, every leaf [N, ...] with N >= 1, got leading {sorted(sizes)}; a list of "
            "tasks is stacked by jax.tree.map(lambda *x: jnp.stack(x), *tasks)"
        )
    return sizes.pop()[0]


def as_arrays(params: EnvParams) -> EnvParams:
    """Turn every leaf into an array with a strong dtype, so that the pytree can be vmapped and carried."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=jnp.result_type(leaf)), params)


def check_count(name: str, value: int) -> int:
    """Return `value` if it is an integer of at least 1; ValueError naming it otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def check_positive(name: str, value: float, *, or_zero: bool = False) -> float:
    """Return `value` if it is a finite number above (or at) zero; ValueError naming it otherwise."""
    allowed = "a finite number of at least 0" if or_zero else "a finite number above 0"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    if not np.isfinite(value) or value < 0 or (value == 0 and not or_zero):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return float(value)


def _sample_stream(sample: Callable[[Array], EnvParams], tag: int, seed: int, key: Array) -> EnvParams:
    return sample(jax.random.fold_in(jax.random.fold_in(key, tag), seed))


def _sample_member(stacked: EnvParams, key: Array) -> EnvParams:
    index = jax.random.randint(key, (), 0, num_members(stacked))
    return _take(jax.tree.map(jnp.asarray, stacked), index)  # NumPy arrays have no traced index


def _take(stacked: EnvParams, index: Any) -> EnvParams:
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def _check_distinct(stacked: EnvParams) -> None:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(stacked)]
    size = num_members(stacked)
    if len({b"".join(leaf[i].tobytes() for leaf in leaves) for i in range(size)}) < size:
        raise ValueError(f"members holds a task twice among its {size}; make them distinct before split")
