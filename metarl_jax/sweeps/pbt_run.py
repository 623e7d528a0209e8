"""`metarl sweep --method pbt`: population-based training, kept in a directory.

The directory holds sweep.json and curves.npz as those of other sweeps (`sweep`), and
  checkpoints/      states and hyperparameters of all members, and the record so far
  table.csv         a row a member: population, hyperparameters at the end, score over the last interval, copies taken
  schedule.npz      hyperparameters [interval, population, member] under their names; fitness; source (whom a place
                    goes on from after the interval)
  sweep.png         each hyperparameter over training, the lineage of the best member in front
"""

import csv
import functools
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.runs import files
from metarl_jax.runs import training_loop as population
from metarl_jax.runs.build import build
from metarl_jax.runs.checkpoint import Checkpoints
from metarl_jax.runs.directory import locked
from metarl_jax.runs.progress import Progress
from metarl_jax.runs.states import learned_elsewhere, with_params
from metarl_jax.runs.termination import Terminated, asked_to_end
from metarl_jax.sweeps import best, pbt, pbt_units
from metarl_jax.sweeps.engines import Cluster
from metarl_jax.sweeps.pbt_units import Population
from metarl_jax.sweeps.pictures import schedule_picture
from metarl_jax.sweeps.plan import Sweep, open_directory


def run(
    made: Sweep,
    directory: Path,
    *,
    resume: bool = False,
    report: Callable[[Any], None] = print,
    cluster: Cluster | None = None,
) -> list[dict]:
    """Train the populations, one a seed, or go on where `directory` was left; the rows of the table, the best first.

    Args: cluster: whose workers train, a population each; None: this process does.
    Raises: ConfigError for a directory that holds something else; RunFailed if all members of a population diverged.
    """
    open_directory(made, directory, resume)
    with locked(directory):
        records, states = _train(made, directory, report, cluster)
    rows = _rows(made, records)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    files.write_whole(directory / "table.csv", text.getvalue())
    values = {d.name: np.asarray(records.values[d.name]) for d in made.dimensions}
    files.write_arrays(directory / "schedule.npz", {"fitness": records.fitness, "source": records.source, **values})
    files.write_arrays(directory / "curves.npz", {"score": _curves(np.asarray(records.score))})
    job = build(made.config)
    sign = 1 if job.higher_is_better else -1
    if not rows[0]["diverged_seeds"] and np.isfinite(rows[0]["score"]):
        place, member = made.seeds.index(rows[0]["population"]), rows[0]["trial"]
        lane = place * len(made.settings) + member
        setting = {"num_seeds": 1, "seed": rows[0]["population"], **{d.name: rows[0][d.name] for d in made.dimensions}}
        states = jax.tree.map(lambda x: np.asarray(x)[lane : lane + 1], states)
        curve = _curves(np.asarray(records.score))[member, place : place + 1]
        best.keep(made.config, setting, made.config.num_iterations, states, curve, directory)
    schedule_picture(values, records, made.dimensions, made.interval, (job.score, sign), directory / "sweep.png")
    return rows


def _train(made: Sweep, directory: Path, report: Callable, cluster: Cluster | None) -> tuple[pbt.Record, Any]:
    """The record, and the states at the end, leaves [population * member, ...]."""
    config, members, seeds = made.config, len(made.settings), made.seeds
    lanes = jnp.asarray(np.concatenate([s * members + np.arange(members) for s in seeds]))  # no two alike
    values = {
        d.name: jnp.tile(jnp.asarray([float(s[d.name]) for s in made.settings]), len(seeds)) for d in made.dimensions
    }
    total = config.num_iterations // made.interval
    per_call = max(1, config.iterations_per_call // made.interval)
    while total % per_call:
        per_call -= 1
    job = build(config)
    init = population.make_init(config)
    make = functools.cache(
        functools.partial(pbt_units.make_call, made, per_call)
    )  # traced once, for its shapes and to compile
    shapes = jax.eval_shape(init, values, lanes)
    record = jax.eval_shape(make(made.lanes_at_a_time), shapes, values, lanes, jnp.asarray(0))[2]
    kept = {
        "states": shapes,
        "values": values,
        "record": jax.tree.map(lambda x: np.zeros((total, *x.shape[1:]), x.dtype), record),
    }
    checkpoints = Checkpoints(directory / "checkpoints", {**config.model_dump(), "settings": made.settings})
    done = 0
    if checkpoints.iterations():
        start, kept = checkpoints.restore(kept, end=config.num_iterations)
        done = start // made.interval
        report(f"resuming after iteration {start} of {config.num_iterations}")
    given = None if done else learned_elsewhere(job)  # [seed, ...], and the members of a seed stand next to each other
    given = jax.tree.map(lambda x: jnp.repeat(x, members, axis=0), given)
    if cluster is not None and done < total:
        states = jax.tree.leaves(kept["states"]) if done else None
        everyone = tuple(range(len(seeds)))
        whole = Population(everyone, made, done, per_call, lanes, kept["values"], states, given, made.lanes_at_a_time)
        kept = pbt_units.train_on(cluster, whole, kept, directory, report)
        checkpoints.save(config.num_iterations, kept)
        pbt_units.remove(directory)
        done = total
    states = jax.tree.map(jnp.asarray, kept["states"]) if done else init(values, lanes)
    if given is not None and not done:
        states = with_params(job, states, given)
    values = jax.tree.map(jnp.asarray, kept["values"])
    records: pbt.Record = jax.tree.map(np.array, kept["record"])
    if done < total:
        began = time.perf_counter()
        args = (states, values, lanes, jnp.asarray(0))
        compiled = population.compile_to_fit(make, args, len(lanes), made.lanes_at_a_time)
        report(f"{len(lanes)} lanes, compiled in {time.perf_counter() - began:.1f} s")
    work, sign = job.work_per_iteration * len(lanes), 1 if job.higher_is_better else -1
    progress = Progress(done * made.interval, config.num_iterations, work, job.unit, report)
    with progress, asked_to_end() as ending:
        while done < total:
            began = time.perf_counter()
            states, values, found = compiled(states, values, lanes, jnp.asarray(done * made.interval))
            for whole, new in zip(jax.tree.leaves(records), jax.tree.leaves(found), strict=True):
                whole[done : done + per_call] = np.asarray(new)
            done += per_call
            pbt_units.check(records, done - 1)
            best = sign * records.fitness[done - 1].max()
            progress.update(done * made.interval, time.perf_counter() - began, f"best {job.score} {best:.3f}")
            stop = ending() and done < total
            if stop or done == total or done * made.interval % config.checkpoint_every < per_call * made.interval:
                checkpoints.save(done * made.interval, {"states": states, "values": values, "record": records})
            if stop:
                raise Terminated(f"terminated; --resume goes on from iteration {done * made.interval}")
    checkpoints.close()
    return records, states


def _curves(score: np.ndarray) -> np.ndarray:
    """[interval, population, member, step] -> [member, population, iteration], as other sweeps have them."""
    score = np.where(np.isfinite(score), score, np.nan)  # not finite: no episode ended
    return np.moveaxis(score, 0, 2).reshape(*score.shape[1:3], -1).swapaxes(0, 1)


def _rows(made: Sweep, records: pbt.Record) -> list[dict]:
    job = build(made.config)
    sign = 1 if job.higher_is_better else -1
    copies = (records.source != np.arange(records.source.shape[2])).sum(axis=0)
    rows = []
    for p, seed in enumerate(made.seeds):
        for member in range(len(made.settings)):
            values = {d.name: float(records.values[d.name][-1, p, member]) for d in made.dimensions}
            fitness = float(records.fitness[-1, p, member])
            rows.append(
                {
                    "trial": member,
                    "population": seed,
                    **values,
                    "score": sign * fitness if np.isfinite(fitness) else float("nan"),
                    "iterations": made.config.num_iterations,
                    job.unit: made.config.num_iterations * job.work_per_iteration,
                    "copies_taken": int(copies[p, member]),
                    "diverged_seeds": int(records.diverged[-1, p, member]),
                }
            )
    return sorted(
        rows, key=lambda r: (r["diverged_seeds"], not np.isfinite(r["score"]), -sign * np.nan_to_num(r["score"]))
    )
