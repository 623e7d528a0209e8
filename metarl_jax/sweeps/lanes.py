"""The lanes of one program of a sweep: where they begin, how they are trained here or on a cluster, what they leave.

A program keeps its checkpoints in a directory. On a cluster it is trained in units; each that has ended is kept in
`units/` there, by this process, until all have.
"""

import functools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.runs import training_loop
from metarl_jax.runs.build import build
from metarl_jax.runs.checkpoint import Checkpoints
from metarl_jax.runs.progress import Progress
from metarl_jax.runs.states import learned_elsewhere, with_params
from metarl_jax.runs.termination import Terminated, asked_to_end
from metarl_jax.sweeps import units
from metarl_jax.sweeps.engines import Cluster
from metarl_jax.sweeps.plan import Sweep
from metarl_jax.sweeps.units import Piece, Trained, Unit


class Lanes:
    """The lanes of one program: the trials of a group that are trained on a rung, with every seed."""

    def __init__(self, sweep: Sweep, config: Any, trials: list[int], curves: np.ndarray, bad: np.ndarray):
        self.sweep, self.config, self.trials = sweep, config, trials
        self.values, self.seeds = training_loop.lanes([sweep.settings[t] for t in trials], sweep.traced, sweep.seeds)
        self.init = training_loop.make_init(config)
        self.curves = curves.reshape(len(self.seeds), -1)  # [lane, iteration]
        self.bad = bad.reshape(-1)  # [lane] first iteration with NaN or infinity, -1: none

    def of(self) -> dict[str, Any]:
        """What a checkpoint is of."""
        return {**self.config.model_dump(), "settings": [self.sweep.settings[t] for t in self.trials]}

    def like(self) -> dict[str, Any]:
        """The shapes of a checkpoint."""
        return {"states": jax.eval_shape(self.init, self.values, self.seeds), "curves": self.curves, "bad": self.bad}

    def given(self) -> Any:
        """What was learned elsewhere and training starts from, leaves [lane, ...], or None."""
        given = learned_elsewhere(build(self.config))  # [seed, ...], and the seeds of a trial stand next to each other
        many = len(self.trials)
        return None if given is None else jax.tree.map(lambda x: jnp.concatenate([x] * many), given)

    def by_trial(self, curves: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[lane, ...] -> [trial, seed, ...]."""
        num_seeds = len(self.sweep.seeds)
        return curves.reshape(-1, num_seeds, curves.shape[1]), bad.reshape(-1, num_seeds)


class Program(NamedTuple):
    """What is to be trained on a rung, and where it is kept."""

    lanes: Lanes
    place: Path
    begin: tuple[int, Callable] | None  # (iteration, lanes -> states) where it goes on from another rung
    end: int
    label: str


def _start(program: Program, checkpoints: Checkpoints) -> tuple[int, Any, np.ndarray, np.ndarray]:
    """(iteration, states, curves, bad) from which a program goes on; no states: from the start."""
    lanes = program.lanes
    if checkpoints.iterations():
        start, kept = checkpoints.restore(lanes.like(), end=program.end)
        return start, jax.tree.map(jnp.asarray, kept["states"]), np.array(kept["curves"]), np.array(kept["bad"])
    if program.begin is None:
        return 0, None, lanes.curves, lanes.bad
    return program.begin[0], program.begin[1](lanes), lanes.curves, lanes.bad


def train(program: Program, report: Callable) -> tuple[np.ndarray, np.ndarray]:
    """Train in this process: curves [trial, seed, iteration], bad [trial, seed]."""
    lanes, end, label = program.lanes, program.end, program.label
    config, values, seeds, length = lanes.config, lanes.values, lanes.seeds, lanes.sweep.call_length
    job = build(config)
    checkpoints = Checkpoints(program.place, lanes.of())
    start, states, curves, bad = _start(program, checkpoints)
    if states is None:
        given, states = lanes.given(), lanes.init(values, seeds)
        states = states if given is None else with_params(job, states, given)
    if start < end:
        began, args = time.perf_counter(), (states, values, seeds, jnp.asarray(start))
        make = functools.partial(training_loop.make_call, config, length)
        compiled = training_loop.compile_to_fit(make, args, len(seeds), lanes.sweep.lanes_at_a_time)
        report(f"{label}: {len(seeds)} lanes, compiled in {time.perf_counter() - began:.1f} s")
        progress = Progress(start, end, job.work_per_iteration * len(seeds), job.unit, report, f"{label}: ")
        with progress, asked_to_end() as ending:
            while start < end:
                began = time.perf_counter()
                states, score, finite = compiled(states, values, seeds, jnp.asarray(start))
                units.note(curves, bad, start, np.asarray(score), np.asarray(finite))
                start += length
                progress.update(start, time.perf_counter() - began)
                stop = ending()
                if stop or start % config.checkpoint_every < length or start == end:
                    checkpoints.save(start, {"states": states, "curves": curves, "bad": bad})
                if stop:
                    raise Terminated(f"terminated; --resume goes on from iteration {start} of {label}")
    checkpoints.close()
    return lanes.by_trial(curves, bad)


def survivors(place: Path, came: list[int], lanes: Lanes) -> Any:
    """The states of the lanes at the end of the rung kept at `place`, out of all the trials `came` to its end."""
    sweep, n = lanes.sweep, len(lanes.sweep.seeds)
    shape = (len(came), n, lanes.curves.shape[1])
    before = Lanes(sweep, lanes.config, came, np.zeros(shape), np.zeros(shape[:2], int))
    checkpoints = Checkpoints(place, before.of())
    _, kept = checkpoints.restore(before.like())
    checkpoints.close()
    chosen = np.concatenate([came.index(t) * n + np.arange(n) for t in lanes.trials])
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[chosen]), kept["states"])


# --- on a cluster ---------------------------------------------------------------------------------------


def train_on(
    cluster: Cluster, programs: list[Program], label: str, report: Callable
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """(number of a program, what `train` returns) of all programs, as they end; their units run side by side."""
    parts = [_Parted(cluster, number, program) for number, program in enumerate(programs)]
    for part in parts:
        if part.is_done():
            yield part.number, part.end()
    left = {part.number: part for part in parts if part.units}
    if not left:
        return
    waiting = [unit for part in left.values() for unit in part.units]
    lanes, begun = (sum(getattr(part, what) for part in left.values()) for what in ("num_lanes", "num_kept"))
    report(f"{label}{lanes - begun} lanes as {len(waiting)} units of {len(left)} program(s), {cluster.describe()}")
    done = begun
    work = np.mean([part.work for part in left.values()])
    job = build(programs[0].lanes.config)
    found = cluster.run(
        units.train,
        waiting,
        split=units.halves,
        report=report,
        name=lambda unit: f"{programs[unit.program].label}, {_lanes_of(unit.piece)}",
    )
    with Progress(begun, lanes, float(work), job.unit, report, label) as progress:
        began = time.perf_counter()
        for unit, trained in found:
            part = left[unit.program]
            done += part.keep(unit, trained)
            progress.update(done, time.perf_counter() - began, "lanes")
            began = time.perf_counter()
            if part.is_done():
                yield part.number, part.end()


def _lanes_of(piece: Piece) -> str:
    first, last = piece.lanes[0], piece.lanes[-1]
    return f"lane {first + 1}" if first == last else f"lanes {first + 1} to {last + 1}"


class _Parted:
    """A program in units: what is still to be trained of it, and what came back."""

    def __init__(self, cluster: Cluster, number: int, program: Program):
        self.number, self.program = number, program
        lanes, sweep = program.lanes, program.lanes.sweep
        self.checkpoints = Checkpoints(program.place, lanes.of())
        self.start, states, self.curves, self.bad = _start(program, self.checkpoints)
        shapes, self.structure = jax.tree.flatten(lanes.like()["states"])
        self.num_lanes = len(lanes.seeds)
        leaves = None if states is None else [np.array(x) for x in jax.tree.leaves(states)]
        self.leaves = leaves or [np.zeros(x.shape, x.dtype) for x in shapes]
        self.missing = np.full(self.num_lanes, self.start < program.end)
        self.units: list[Unit] = []
        self.num_kept = 0
        job = build(lanes.config)
        self.work = job.work_per_iteration * (program.end - self.start)
        if not self.missing.any():
            return
        given = lanes.given() if states is None else None
        for piece in self._pieces(cluster):
            at = piece.lanes
            unit = Unit(
                program=number, config=lanes.config.model_dump(), piece=piece, length=sweep.call_length,
                start=self.start, end=program.end, values={k: np.asarray(v)[at] for k, v in lanes.values.items()},
                seeds=np.asarray(lanes.seeds)[at], states=None if leaves is None else [x[at] for x in leaves],
                given=None if given is None else [np.asarray(x)[at] for x in jax.tree.leaves(given)],
            )  # fmt: skip
            kept = self._kept(unit)
            if kept is None:
                self.units.append(unit)
            else:
                self._put(unit, kept)
        self.num_kept = self.num_lanes - int(self.missing.sum())

    def _pieces(self, cluster: Cluster) -> list[Piece]:
        """As one CPU device would compute the lanes; a GPU takes all that it would in a host of them all."""
        asked = self.program.lanes.sweep.lanes_at_a_time
        if cluster.uses_gpus:
            return units.cut(self.num_lanes, min(cluster.workers, self.num_lanes), asked)
        return units.cut(self.num_lanes, 1, asked or training_loop.LANES_AT_A_TIME)

    def _at(self, unit: Unit) -> Checkpoints:
        first, last = unit.piece.lanes[[0, -1]]
        place = self.program.place / units.FOLDER / f"{unit.start}-lanes-{first}-{last}"
        return Checkpoints(place, {**self.program.lanes.of(), "seeds": unit.seeds.tolist()})

    def _like(self, unit: Unit) -> dict[str, Any]:
        num, length = len(unit.seeds), unit.end - unit.start
        shapes = [np.zeros((num, *x.shape[1:]), x.dtype) for x in self.leaves]
        return {"states": shapes, "score": np.zeros((num, length)), "finite": np.zeros((num, length), bool)}

    def _kept(self, unit: Unit) -> Trained | None:
        """What the unit came to before this process was started, if that is here and whole."""
        if not (self.program.place / units.FOLDER).is_dir():
            return None
        kept = units.left(self._at(unit), self._like(unit), unit.end)
        return None if kept is None else Trained(kept["states"], kept["score"], kept["finite"])

    def keep(self, unit: Unit, trained: Trained) -> int:
        """Write what came back; returns how many lanes that ends."""
        checkpoints = self._at(unit)
        checkpoints.save(unit.end, trained._asdict())
        checkpoints.close()
        return self._put(unit, trained)

    def _put(self, unit: Unit, trained: Trained) -> int:
        at, first = np.unique(unit.piece.lanes, return_index=True)
        new = int(self.missing[at].sum())
        for whole, part in zip(self.leaves, trained.states, strict=True):
            whole[at] = part[first]
        curves, bad = self.curves[at], self.bad[at]
        units.note(curves, bad, unit.start, trained.score[first], trained.finite[first])
        self.curves[at], self.bad[at], self.missing[at] = curves, bad, False
        return new

    def is_done(self) -> bool:
        return not self.missing.any()

    def end(self) -> tuple[np.ndarray, np.ndarray]:
        """The checkpoint of the whole, as training here leaves it, in the place of the units."""
        program = self.program
        if self.start < program.end:
            states = jax.tree.unflatten(self.structure, self.leaves)
            self.checkpoints.save(program.end, {"states": states, "curves": self.curves, "bad": self.bad})
        self.checkpoints.close()
        shutil.rmtree(program.place / units.FOLDER, ignore_errors=True)
        return program.lanes.by_trial(self.curves, self.bad)
