"""Units: the lanes of a program in parts that any process can train.

How XLA rounds depends on how many lanes are computed together. So a program is cut where one device would end a batch
of lanes: a unit computes batches of the same sizes, and has the bits of the whole.
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.options import ConfigError
from metarl_jax.runs import training_loop
from metarl_jax.runs.build import build
from metarl_jax.runs.checkpoint import Checkpoints
from metarl_jax.runs.config import validate
from metarl_jax.runs.states import with_params

FOLDER = "units"  # of those that have ended, until all have


class Piece(NamedTuple):
    """Which lanes of a program, the last one repeated where it fills a batch."""

    lanes: np.ndarray
    size: int | None  # lanes computed at a time; None: as many as fit


class Unit(NamedTuple):
    """Lanes to train from iteration `start` to `end`. Plain data: it goes to other machines."""

    program: int  # whatever the sender calls it by
    config: dict[str, Any]
    piece: Piece
    length: int  # iterations in a compiled call
    start: int
    end: int
    values: dict[str, np.ndarray]  # [lane]
    seeds: np.ndarray
    states: list[np.ndarray] | None  # leaves [lane, ...]; None: new ones
    given: list[np.ndarray] | None  # learned elsewhere, leaves [lane, ...]


class Trained(NamedTuple):
    """What a unit comes to."""

    states: list[np.ndarray]  # leaves [lane, ...]
    score: np.ndarray  # [lane, start to end]
    finite: np.ndarray  # the same shape


def cut(num_lanes: int, devices: int, batch_size: int | None) -> list[Piece]:
    """The batches in which `tree.chunked_map` computes the lanes of one program, shared out evenly over devices.

    The last batch of a device may be smaller. If it is a single lane it stays with the batch before it, since alone it
    would be computed without an axis of lanes.
    """
    each = -(-num_lanes // devices)
    step = min(batch_size or each, each)
    begins = list(range(0, each, step))
    if step > 1 and len(begins) > 1 and each - begins[-1] == 1:
        begins.pop()
    pieces = []
    for part in range(devices):
        places = part * each + np.arange(each)
        for begin, end in zip(begins, [*begins[1:], each], strict=True):
            if places[begin] < num_lanes:
                pieces.append(Piece(np.minimum(places[begin:end], num_lanes - 1), batch_size and step))
    return pieces


def of_population(pieces: Sequence[Piece], first: int, end: int) -> list[Piece]:
    """The pieces in which the lanes `first` to `end` are computed, as lanes of their own.

    Lanes of others that are computed with them are filled up with their own: the batches keep their sizes.
    """
    chosen = [p for p in pieces if p.lanes[0] < end and p.lanes[-1] >= first]
    return [p._replace(lanes=np.clip(p.lanes, first, end - 1) - first) for p in chosen]


def in_pieces(train: Callable[[int | None], Callable[..., Any]], pieces: Sequence[Piece]) -> Callable[..., Any]:
    """`train(batch size)`, a function of (*lanes, start), for lanes that are computed in these pieces."""
    alike: dict[tuple, list[np.ndarray]] = {}  # batches of one size go through one program
    for number, piece in enumerate(pieces):
        whole = len(piece.lanes) == piece.size
        alike.setdefault((piece.size, len(piece.lanes), None if whole else number), []).append(piece.lanes)

    def call(*args: Any) -> Any:
        *by_lane, start = args
        many = jax.tree.leaves(by_lane)[0].shape[0]
        found = None
        for (size, *_), lanes in alike.items():
            at = np.concatenate(lanes)
            part = train(size)(*jax.tree.map(lambda x, at=at: x[at], by_lane), start)
            if found is None:
                found = jax.tree.map(lambda x: jnp.zeros((many, *x.shape[1:]), x.dtype), part)
            found = jax.tree.map(lambda x, new, at=at: x.at[at].set(new), found, part)
        return found

    return call


def halves(unit: Unit) -> list[Unit]:
    """Two units of half as many lanes, half as many at a time; none for one lane. They may round differently."""
    lanes = unit.piece.lanes
    kept = int(np.searchsorted(lanes, lanes[-1])) + 1  # without repetitions
    if kept < 2:
        return []
    size = -(-min(unit.piece.size or kept, kept) // 2)

    def part(at: slice) -> Unit:
        def take(leaves: list[np.ndarray] | None) -> list[np.ndarray] | None:
            return None if leaves is None else [x[at] for x in leaves]

        return unit._replace(
            piece=unit.piece._replace(lanes=lanes[at], size=size),
            values={name: x[at] for name, x in unit.values.items()},
            seeds=unit.seeds[at],
            states=take(unit.states),
            given=take(unit.given),
        )

    return [part(slice(0, -(-kept // 2))), part(slice(-(-kept // 2), kept))]


def train(unit: Unit) -> Trained:
    """Train the lanes of a unit in this process. What was compiled stays for the next unit of its shape."""
    text = json.dumps(unit.config, sort_keys=True)
    job, init, structure = _program(text)
    values, seeds = jax.tree.map(jnp.asarray, unit.values), jnp.asarray(unit.seeds)
    states = init(values, seeds) if unit.states is None else _tree(structure, unit.states, values, seeds)
    if unit.given is not None:
        states = with_params(job, states, [jnp.asarray(x) for x in unit.given])
    call = _compiled(text, unit.length, unit.piece.size, len(seeds), unit.states is None)
    scores, finites = [], []
    for first in range(unit.start, unit.end, unit.length):
        states, score, finite = call((states, values, seeds, jnp.asarray(first)))
        scores.append(np.asarray(score))
        finites.append(np.asarray(finite))
    leaves = [np.asarray(x) for x in jax.tree.leaves(states)]
    return Trained(leaves, np.hstack(scores).astype(np.float64), np.hstack(finites))


def left(checkpoints: Checkpoints, like: dict[str, Any], end: int) -> dict[str, Any] | None:
    """What a unit left that has ended; None where it is missing, damaged or of another version: it is run again."""
    try:
        return checkpoints.restore(like, end=end)[1] if checkpoints.iterations() else None
    except ConfigError:
        return None
    finally:
        checkpoints.close()


def note(curves: np.ndarray, bad: np.ndarray, start: int, score: np.ndarray, finite: np.ndarray) -> None:
    """Write scores [lane, iteration] from iteration `start` on into `curves`, and first failures into `bad` [lane]."""
    curves[:, start : start + score.shape[1]] = np.where(np.isfinite(score), score, np.nan)
    failed = ~finite
    new = (bad < 0) & failed.any(axis=1)
    bad[new] = start + failed[new].argmax(axis=1)


@functools.lru_cache(maxsize=2)
def _program(text: str) -> tuple[Any, Any, Callable[..., Any]]:
    config = validate(json.loads(text))
    init = training_loop.make_init(config)
    return build(config), init, lambda *lanes: jax.tree.structure(jax.eval_shape(init, *lanes))


@functools.lru_cache(maxsize=4)
def _compiled(text: str, length: int, size: int | None, num_lanes: int, new: bool) -> Callable[[tuple], Any]:
    """A call, compiled by its first use. `new`: initial states may differ from stored ones in what JAX calls weak."""
    config = validate(json.loads(text))
    kept: list[Any] = []

    def call(args: tuple) -> Any:
        if not kept:
            make = functools.partial(training_loop.make_call, config, length)
            kept.append(training_loop.compile_to_fit(make, args, num_lanes, size))
        return kept[0](*args)

    return call


def _tree(structure: Callable[..., Any], leaves: Sequence[np.ndarray], *lanes: Any) -> Any:
    return jax.tree.unflatten(structure(*lanes), [jnp.asarray(x) for x in leaves])
