"""Population-based training on a cluster: a unit a population, in the batches in which one device computes all."""

import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.runs import training_loop
from metarl_jax.runs.build import build
from metarl_jax.runs.checkpoint import Checkpoints
from metarl_jax.runs.config import validate
from metarl_jax.runs.progress import Progress
from metarl_jax.runs.states import with_params
from metarl_jax.runs.train import RunFailed
from metarl_jax.sweeps import pbt, units
from metarl_jax.sweeps.engines import Cluster
from metarl_jax.sweeps.plan import Sweep
from metarl_jax.sweeps.units import Piece


class Population(NamedTuple):
    """Populations to train to their end, the lanes of each next to each other. Plain data: it goes elsewhere."""

    numbers: tuple[int, ...]  # of the seeds
    made: Sweep  # its configuration as plain data
    done: int  # intervals
    per_call: int
    lanes: Any  # [lane]
    values: Any  # {name: [lane]}
    states: Any  # leaves [lane, ...]; None: new ones
    given: Any  # learned elsewhere, leaves [lane, ...], or None
    size: int | None  # lanes at a time
    pieces: tuple[Piece, ...] = ()  # or the batches that they are computed in


def make_call(made: Sweep, per_call: int, batch_size: int | None, pieces: tuple[Piece, ...] = ()) -> Any:
    """`pbt.make_call` of a sweep."""
    better = build(made.config).higher_is_better
    sizes = (len(made.settings), made.interval, per_call)
    options: dict[str, Any] = {"higher_is_better": better, "batch_size": batch_size, "pieces": pieces}
    return pbt.make_call(made.config, made.dimensions, *sizes, **options)


def check(records: pbt.Record, interval: int) -> None:
    """Raises: RunFailed where all members of a population have diverged."""
    if np.asarray(records.diverged)[interval].all(axis=1).any():
        raise RunFailed("every member of a population became NaN or infinite; narrow the ranges, lr first")


def train(unit: Population) -> dict[str, Any]:
    """Train in this process: states (leaves [lane, ...]), values, and the record [interval, ...]."""
    made = dataclasses.replace(unit.made, config=validate(unit.made.config))
    job, init = build(made.config), training_loop.make_init(made.config)
    lanes, values = jnp.asarray(unit.lanes), jax.tree.map(jnp.asarray, unit.values)
    if unit.states is None:
        states = init(values, lanes)
    else:
        structure = jax.tree.structure(jax.eval_shape(init, values, lanes))
        states = jax.tree.unflatten(structure, [jnp.asarray(x) for x in unit.states])
    if unit.given is not None:
        states = with_params(job, states, [jnp.asarray(x) for x in unit.given])

    def make(size: int | None) -> Any:
        return make_call(made, unit.per_call, size, unit.pieces)

    args = (states, values, lanes, jnp.asarray(0))
    compiled = training_loop.compile_to_fit(make, args, len(lanes), unit.size)
    found = []
    for done in range(unit.done, made.config.num_iterations // made.interval, unit.per_call):
        states, values, record = compiled(states, values, lanes, jnp.asarray(done * made.interval))
        found.append(jax.tree.map(np.asarray, record))
        check(found[-1], -1)
    record = jax.tree.map(lambda *x: np.concatenate(x), *found)
    leaves = [np.asarray(x) for x in jax.tree.leaves(states)]
    return {"states": leaves, "values": jax.tree.map(np.asarray, values), "record": record}


def smaller(unit: Population) -> list[Population]:
    """The same, half as many lanes at a time, which may round differently; none for one lane at a time."""
    size = unit.size or len(unit.lanes)
    return [unit._replace(size=-(-size // 2), pieces=())] if size > 1 else []


def train_on(
    cluster: Cluster, whole: Population, kept: dict[str, Any], directory: Path, report: Callable
) -> dict[str, Any]:
    """`kept`, the states, values and record so far of all populations, as they are at the end.

    What a population comes to is kept in `units/` until all have ended.
    """
    made = whole.made
    config, members = made.config, len(made.settings)
    shapes, structure = jax.tree.flatten(kept["states"])
    leaves = [np.array(x) for x in whole.states] if whole.states else [np.zeros(x.shape, x.dtype) for x in shapes]
    values, record = jax.tree.map(np.array, (kept["values"], kept["record"]))
    job, todo, done = build(config), [], 0

    def at(unit: Population) -> Checkpoints:
        name = f"{unit.done}-population-{made.seeds[unit.numbers[0]]}"
        return Checkpoints(directory / units.FOLDER / name, {**config.model_dump(), "settings": made.settings})

    def put(unit: Population, found: dict[str, Any]) -> None:
        lanes = slice(unit.numbers[0] * members, (unit.numbers[-1] + 1) * members)
        new = jax.tree.leaves((found["states"], found["values"]))
        for all_of_it, part in zip(jax.tree.leaves((leaves, values)), new, strict=True):
            all_of_it[lanes] = part
        for all_of_it, part in zip(jax.tree.leaves(record), jax.tree.leaves(found["record"]), strict=True):
            all_of_it[unit.done :, unit.numbers[0] : unit.numbers[-1] + 1] = part

    for unit in _units(cluster, whole, members):
        lanes = slice(unit.numbers[0] * members, (unit.numbers[-1] + 1) * members)
        few = slice(unit.numbers[0], unit.numbers[-1] + 1)
        like = {
            "states": [x[lanes] for x in leaves],
            "values": {k: x[lanes] for k, x in values.items()},
            "record": jax.tree.map(lambda x, few=few, unit=unit: x[unit.done :, few], record),
        }
        there = units.left(at(unit), like, config.num_iterations) if (directory / units.FOLDER).is_dir() else None
        if there is None:
            todo.append(unit)
        else:
            put(unit, there)
            done += len(unit.numbers)
    report(f"{len(todo)} units of {members} members each, {cluster.describe()}")
    found = cluster.run(
        train,
        todo,
        split=smaller,
        report=report,
        name=lambda unit: f"the population of seed {made.seeds[unit.numbers[0]]}, {unit.size or 'all'} lanes at a time",
    )
    work = job.work_per_iteration * members * (config.num_iterations - whole.done * made.interval)
    with Progress(done, len(made.seeds), work, job.unit, report) as progress:
        began = time.perf_counter()
        for unit, trained in found:
            checkpoints = at(unit)
            checkpoints.save(config.num_iterations, trained)
            checkpoints.close()
            put(unit, trained)
            done += len(unit.numbers)
            progress.update(done, time.perf_counter() - began, "populations")
            began = time.perf_counter()
    return {"states": jax.tree.unflatten(structure, leaves), "values": values, "record": record}


def _units(cluster: Cluster, whole: Population, members: int) -> list[Population]:
    """A unit a population, computed in the batches in which one device would compute all of them."""
    num, asked, plain = len(whole.lanes), whole.made.lanes_at_a_time, whole.made.config.model_dump()
    whole = whole._replace(
        made=dataclasses.replace(whole.made, config=plain), lanes=np.asarray(whole.lanes), size=asked,
        values=jax.tree.map(np.asarray, whole.values),
        given=None if whole.given is None else [np.asarray(x) for x in jax.tree.leaves(whole.given)],
    )  # fmt: skip
    size = asked or training_loop.LANES_AT_A_TIME
    pieces = [] if cluster.uses_gpus else units.cut(num, 1, size)
    found = []
    for number in whole.numbers:
        first, end = number * members, (number + 1) * members

        def take(x: Any, first: int = first, end: int = end) -> Any:
            return None if x is None else jax.tree.map(lambda leaf: np.asarray(leaf)[first:end], x)

        found.append(
            whole._replace(
                numbers=(number,),
                lanes=take(whole.lanes),
                values=take(whole.values),
                states=take(whole.states),
                given=take(whole.given),
                pieces=tuple(units.of_population(pieces, first, end)),
                size=asked if cluster.uses_gpus else size,
            )  # fmt: skip
        )
    return found


def remove(directory: Path) -> None:
    """Remove the units, once the whole is kept."""
    shutil.rmtree(directory / units.FOLDER, ignore_errors=True)
