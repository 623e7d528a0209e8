"""Population-based training (Jaderberg et al. 2017): hyperparameters evolve while their owners train.

Members train side by side. After every `interval` iterations the worst quarter of them copies weights, optimiser and
hyperparameters of members drawn from the best quarter (exploit, "truncation selection") and changes the
hyperparameters it got: each is drawn anew with probability .25, else multiplied by .8 or 1.25 (explore). Training,
exploiting and exploring are one compiled program; every member's hyperparameters are recorded.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from metarl_jax import tree
from metarl_jax.runs import training_loop
from metarl_jax.sweeps import units
from metarl_jax.sweeps.search_space import Dimension
from metarl_jax.sweeps.units import Piece

QUANTILE = 0.25
RESAMPLE = 0.25  # the chance that a hyperparameter is drawn anew
FACTORS = (0.8, 1.25)
EVOLVE = 0x9B7  # tag of the keys of exploit and explore


@struct.dataclass
class Record:
    """What happened in one interval, of each member of each population [seed, member]."""

    values: dict[str, Array]  # hyperparameters that were trained with
    fitness: Array  # mean score over the interval, more is better; -inf: diverged, or nothing was scored
    diverged: Array  # became NaN or infinite
    score: Array  # [seed, member, interval]
    source: Array  # whose weights go on in this place; its own index where nothing was copied


def exploit(key: Array, fitness: Array, num_copied: int) -> Array:
    """[member] -> [member] whom to go on from: each of the worst `num_copied` from one of as many best, at random.

    Nobody copies a member that is not better: where nothing has been scored yet, all go on.
    """
    order = jnp.argsort(fitness)  # the worst first
    worst, best = order[:num_copied], order[-num_copied:][jax.random.randint(key, (num_copied,), 0, num_copied)]
    return jnp.arange(fitness.shape[0]).at[worst].set(jnp.where(fitness[best] > fitness[worst], best, worst))


def explore(key: Array, value: Array, d: Dimension) -> Array:
    """[member] values -> changed ones, within the range of `d`."""
    which, direction, draw = jax.random.split(key, 3)
    u = jax.random.uniform(draw, value.shape)
    if d.kind == "list":  # a neighbour in the list
        ordered = jnp.asarray(sorted(float(v) for v in d.values))
        step = jnp.where(jax.random.bernoulli(direction, 0.5, value.shape), 1, -1)
        near = jnp.argmin(jnp.abs(ordered - value[:, None]), axis=1)
        changed = ordered[jnp.clip(near + step, 0, len(d.values) - 1)]
        fresh = ordered[(u * len(d.values)).astype(int)]
    else:
        factor = jnp.where(jax.random.bernoulli(direction, 0.5, value.shape), *FACTORS[::-1])
        changed = jnp.clip(value * factor, d.low, d.high)
        low, high = jnp.asarray(d.low, float), jnp.asarray(d.high, float)
        fresh = low + u * (high - low) if d.kind == "uniform" else low * (high / low) ** u
    return jnp.where(jax.random.bernoulli(which, RESAMPLE, value.shape), fresh, changed)


def make_call(
    config: Any,
    dimensions: Sequence[Dimension],
    num_members: int,
    interval: int,
    num_intervals: int,
    *,
    higher_is_better: bool = True,
    batch_size: int | None = None,
    pieces: Sequence[Piece] = (),
) -> Any:
    """(states, values, seeds [seed * member], first iteration) -> (states, values, Record [num_intervals, ...]).

    Lanes are seed-major: each seed is a population of its own, within which members copy each other. A member that
    diverged has the lowest fitness, and is replaced as soon as there are others to copy.

    Args: pieces: the batches in which the lanes are computed, where they are part of a larger program; together all.
    """
    train = training_loop.train_lanes(config, interval, batch_size)
    if pieces:
        train = units.in_pieces(functools.partial(training_loop.train_lanes, config, interval), pieces)
    num_copied = max(1, int(QUANTILE * num_members))

    def evolve(x: tuple[Array, Array, dict[str, Array]]) -> tuple[Array, dict[str, Array]]:
        key, fitness, values = x
        source = exploit(key, fitness, num_copied)
        copied = source != jnp.arange(num_members)
        after = {}
        for i, d in enumerate(dimensions):
            inherited = values[d.name][source]
            after[d.name] = jnp.where(copied, explore(jax.random.fold_in(key, i + 1), inherited, d), inherited)
        return source, after

    def one(carry: tuple, first: Array, seeds: Array) -> tuple[tuple, Record]:
        states, values = carry
        states, score, finite = train(states, values, seeds, first)
        sign = 1.0 if higher_is_better else -1.0
        diverged = ~jnp.all(finite, axis=1)
        scored = tree.finite_mean(score, axis=1)
        fitness = jnp.where(diverged | ~jnp.isfinite(scored), -jnp.inf, sign * scored).reshape(-1, num_members)
        by_seed = {name: v.reshape(-1, num_members) for name, v in values.items()}
        keys = jax.vmap(
            lambda s: jax.random.fold_in(jax.random.fold_in(jax.random.key(s), EVOLVE), first),
        )(seeds.reshape(-1, num_members)[:, 0])
        source, after = jax.vmap(lambda *x: evolve(x))(keys, fitness, by_seed)
        lane = (source + num_members * jnp.arange(source.shape[0])[:, None]).reshape(-1)
        states = jax.tree.map(lambda x: x[lane], states)
        record = Record(by_seed, fitness, diverged.reshape(source.shape), score.reshape(*source.shape, -1), source)
        return (states, {name: v.reshape(-1) for name, v in after.items()}), record

    def call(states: Any, values: dict[str, Array], seeds: Array, start: Array) -> tuple[Any, dict[str, Array], Record]:
        first = start + interval * jnp.arange(num_intervals)
        (states, values), records = jax.lax.scan(lambda c, i: one(c, i, seeds), (states, values), first)
        return states, values, records

    return jax.jit(call, donate_argnums=0)
