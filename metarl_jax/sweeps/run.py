"""A sweep: many settings of one configuration trained as populations, kept in a directory, shown in one table.

A sweep directory holds
  sweep.json        what was asked, and every setting
  rung-*/group-*/   checkpoints of each program: states, learning curves, when a lane diverged
  table.csv         a row a trial: setting, score, the score of each seed, iterations, environment steps, divergence
  curves.npz        `score` [trial, seed, iteration], NaN where a trial was not trained, and `seeds`
  sweep.png         score against each key, and parallel coordinates

Settings that differ in a static key are trained by different programs (groups). Successive halving (Jamieson and
Talwalkar 2016) trains all trials for a part of the iterations and goes on with the best third, on each rung; other
methods have one rung. Population-based training is in `pbt_run`.
"""

import csv
import functools
import io
import math
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
from metarl_jax.runs.train import RunFailed
from metarl_jax.sweeps import best, pbt_run
from metarl_jax.sweeps.pictures import sweep_picture
from metarl_jax.sweeps.plan import ETA, Sweep, groups, make, open_directory, with_static

__all__ = ["Sweep", "final_scores", "format_rows", "make", "run"]


def run(sweep: Sweep, directory: Path, *, resume: bool = False, report: Callable[[Any], None] = print) -> list[dict]:
    """Train all trials, or go on where `directory` was left; returns the rows of the table, the best first.

    A lane that becomes NaN or infinite is reported and ranked last; the others are not touched by it.

    Raises: ConfigError for a directory that holds something else; RunFailed if every trial diverged.
    """
    if sweep.method == "pbt":
        return pbt_run.run(sweep, directory, resume=resume, report=report)
    open_directory(sweep, directory, resume)
    with locked(directory):
        alive = entered = list(range(len(sweep.settings)))  # of this rung, of the one before
        curves = np.full((len(sweep.settings), len(sweep.seeds), sweep.config.num_iterations), np.nan)
        bad = np.full(curves.shape[:2], -1)
        done = np.zeros(len(sweep.settings), int)
        for rung, end in enumerate(sweep.rungs):
            for group, (static, trials) in enumerate(groups(sweep).items()):
                here = [t for t in trials if t in alive]
                if here:
                    progress = f"rung {rung + 1}/{len(sweep.rungs)}, " if len(sweep.rungs) > 1 else ""
                    progress += f"program {group + 1}/{len(groups(sweep))}"
                    config = with_static(sweep, dict(static))
                    place, last = (_place(directory, r, group) for r in (rung, rung - 1))
                    came = [t for t in trials if t in entered]
                    begin = None if rung == 0 else (sweep.rungs[rung - 1], functools.partial(_survivors, last, came))
                    lanes = _Lanes(sweep, config, here, curves[here], bad[here])
                    found = _train(lanes, place, begin, end, progress, report)
                    curves[here], bad[here] = found
                    done[here] = end
            rows = _rows(sweep, curves, bad, done)
            _write(sweep, directory, rows, curves)
            if rung + 1 < len(sweep.rungs):
                keep = max(1, math.ceil(len(alive) / ETA))
                entered = alive
                ranked = [row["trial"] for row in rows if row["trial"] in alive and not row["diverged_seeds"]]
                alive = ranked[:keep]
                report(f"rung {rung + 1}: {len(alive)} of {len(sweep.settings)} trials go on")
            if not alive or all(row["diverged_seeds"] for row in rows):
                raise RunFailed("every trial became NaN or infinite; narrow the ranges, lr first")
        diverged = sum(bool(row["diverged_seeds"]) for row in rows)
        if diverged:
            report(f"{diverged} of {len(rows)} trials became NaN or infinite: kept apart, ranked last")
    job = build(with_static(sweep, dict(next(iter(groups(sweep))))))
    bars = ", bars: lowest to highest seed" if len(sweep.seeds) > 1 else ""
    of = f"{len(rows)} trials x {len(sweep.seeds)} seed(s), {sweep.method}{bars}"
    title = f"{sweep.config.algorithm} on {sweep.config.env}: {of}"
    sweep_picture(rows, sweep.dimensions, job.score, job.higher_is_better, directory / "sweep.png", title)
    _keep_best(sweep, directory, rows[0], done, curves, report)
    return rows


def _keep_best(
    sweep: Sweep, directory: Path, row: dict, done: np.ndarray, curves: np.ndarray, report: Callable
) -> None:
    """The trial at the head of the table as a run of its own, and its configuration as best.yaml."""
    trial = row["trial"]
    if row["diverged_seeds"] or not math.isfinite(row["score"]):
        report("no best trial is kept: none has a score from every seed")
        return
    rung = sweep.rungs.index(int(done[trial]))
    group, (static, trials) = next((g, x) for g, x in enumerate(groups(sweep).items()) if trial in x[1])
    came = [t for t in trials if done[t] >= sweep.rungs[rung]]
    lanes = _Lanes(sweep, with_static(sweep, dict(static)), [trial], curves[[trial]], np.zeros((1, curves.shape[1])))
    states = _survivors(_place(directory, rung, group), came, lanes)
    best.keep(sweep.config, sweep.settings[trial], int(done[trial]), states, curves[trial], directory)


class _Lanes:
    """The lanes of one program: the trials of a group that are trained on a rung, with every seed."""

    def __init__(self, sweep: Sweep, config: Any, trials: list[int], curves: np.ndarray, bad: np.ndarray):
        self.sweep, self.config, self.trials = sweep, config, trials
        self.values, self.seeds = population.lanes([sweep.settings[t] for t in trials], sweep.traced, sweep.seeds)
        self.init = population.make_init(config)
        self.curves = curves.reshape(len(self.seeds), -1)  # [lane, iteration]
        self.bad = bad.reshape(-1)  # [lane] first iteration with NaN or infinity, -1: none

    def of(self) -> dict[str, Any]:
        """What a checkpoint is of."""
        return {**self.config.model_dump(), "settings": [self.sweep.settings[t] for t in self.trials]}

    def like(self) -> dict[str, Any]:
        """The shapes of a checkpoint."""
        return {"states": jax.eval_shape(self.init, self.values, self.seeds), "curves": self.curves, "bad": self.bad}


def _train(
    lanes: _Lanes, place: Path, begin: tuple[int, Callable] | None, end: int, label: str, report: Callable
) -> tuple[np.ndarray, np.ndarray]:
    """Train to iteration `end`: curves [trial, seed, iteration], bad [trial, seed].

    `begin` is (iteration, lanes -> states) where training goes on from another rung; None: from the start.
    """
    config, values, seeds, length = lanes.config, lanes.values, lanes.seeds, lanes.sweep.call_length
    job = build(config)
    checkpoints = Checkpoints(place, lanes.of())
    start = 0
    if checkpoints.iterations():
        start, kept = checkpoints.restore(lanes.like(), end=end)
        states, curves, bad = jax.tree.map(jnp.asarray, kept["states"]), np.array(kept["curves"]), np.array(kept["bad"])
    else:
        curves, bad = lanes.curves, lanes.bad
        if begin is None:
            given = learned_elsewhere(job)  # [seed, ...], and the seeds of a trial stand next to each other
            states = lanes.init(values, seeds)
            if given is not None:
                many = len(lanes.trials)
                states = with_params(job, states, jax.tree.map(lambda x: jnp.concatenate([x] * many), given))
        else:
            start, states = begin[0], begin[1](lanes)
    if start < end:
        began, args = time.perf_counter(), (states, values, seeds, jnp.asarray(start))
        make = functools.partial(population.make_call, config, length)
        compiled = population.compile_to_fit(make, args, len(seeds), lanes.sweep.lanes_at_a_time)
        report(f"{label}: {len(seeds)} lanes, compiled in {time.perf_counter() - began:.1f} s")
        progress = Progress(start, end, job.work_per_iteration * len(seeds), job.unit, report, f"{label}: ")
        with progress, asked_to_end() as ending:
            while start < end:
                began = time.perf_counter()
                states, score, finite = compiled(states, values, seeds, jnp.asarray(start))
                curves[:, start : start + length] = np.where(np.isfinite(score), score, np.nan)
                failed = ~np.asarray(finite)
                new = (bad < 0) & failed.any(axis=1)
                bad[new] = start + failed[new].argmax(axis=1)
                start += length
                progress.update(start, time.perf_counter() - began)
                stop = ending()
                if stop or start % config.checkpoint_every < length or start == end:
                    checkpoints.save(start, {"states": states, "curves": curves, "bad": bad})
                if stop:
                    raise Terminated(f"terminated; --resume goes on from iteration {start} of {label}")
    checkpoints.close()
    num_seeds = len(lanes.sweep.seeds)
    return curves.reshape(-1, num_seeds, curves.shape[1]), bad.reshape(-1, num_seeds)


def _place(directory: Path, rung: int, group: int) -> Path:
    return directory / f"rung-{rung}" / f"group-{group}"


def _survivors(place: Path, came: list[int], lanes: _Lanes) -> Any:
    """The states of the lanes at the end of the rung kept at `place`, out of all the trials `came` to its end."""
    sweep, n = lanes.sweep, len(lanes.sweep.seeds)
    shape = (len(came), n, lanes.curves.shape[1])
    before = _Lanes(sweep, lanes.config, came, np.zeros(shape), np.zeros(shape[:2], int))
    checkpoints = Checkpoints(place, before.of())
    _, kept = checkpoints.restore(before.like())
    checkpoints.close()
    chosen = np.concatenate([came.index(t) * n + np.arange(n) for t in lanes.trials])
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[chosen]), kept["states"])


def format_rows(sweep: Sweep, rows: list[dict], most: int = 10) -> str:
    """The best trials, as text."""
    names = [d.name for d in sweep.dimensions]
    cells = [["trial", *names, "score", "iterations", "diverged seeds"]]
    for row in rows[:most]:
        values = [f"{row[n]:.4g}" if isinstance(row[n], float) else str(row[n]) for n in names]
        numbers = [f"{row['score']:.3f}", str(row["iterations"]), str(row["diverged_seeds"])]
        cells.append([str(row["trial"]), *values, *numbers])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([*lines, *([f"({len(rows) - most} more in table.csv)"] if len(rows) > most else [])])


# --- scores and files -----------------------------------------------------------------------------------


def final_scores(curves: np.ndarray, done: np.ndarray) -> np.ndarray:
    """[trial, seed] mean score over the last tenth of the iterations `done` [trial]; NaN where there is none.

    Scores that are not finite (no episode ended) are left out.
    """
    import warnings

    curves = np.where(np.isfinite(curves), curves, np.nan)
    scores = np.full(curves.shape[:2], np.nan)
    for trial, end in enumerate(done):
        if end:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                scores[trial] = np.nanmean(curves[trial, :, end - max(1, end // 10) : end], axis=1)
    return scores


def _rows(sweep: Sweep, curves: np.ndarray, bad: np.ndarray, done: np.ndarray) -> list[dict]:
    job = build(with_static(sweep, dict(next(iter(groups(sweep))))))
    scores = final_scores(curves, done)
    rows = []
    for trial, setting in enumerate(sweep.settings):
        diverged = bad[trial] >= 0
        fine = scores[trial][~diverged]
        score = float(np.nanmean(fine)) if np.isfinite(fine).any() else math.nan
        rows.append(
            {
                "trial": trial,
                **setting,
                "score": score,
                **{f"score_seed_{s}": float(x) for s, x in zip(sweep.seeds, scores[trial], strict=True)},
                "iterations": int(done[trial]),
                job.unit.replace(" ", "_"): int(done[trial]) * job.work_per_iteration * len(sweep.seeds),
                "diverged_seeds": int(diverged.sum()),
                "diverged_at": int(bad[trial][diverged].min()) + 1 if diverged.any() else "",
            }
        )
    sign = -1 if job.higher_is_better else 1

    def rank(row: dict) -> tuple:
        nothing = not math.isfinite(row["score"])
        return bool(row["diverged_seeds"]), -row["iterations"], nothing, 0 if nothing else sign * row["score"]

    return sorted(rows, key=rank)


def _write(sweep: Sweep, directory: Path, rows: list[dict], curves: np.ndarray) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({k: list(v) if isinstance(v, tuple) else v for k, v in row.items()} for row in rows)
    files.write_whole(directory / "table.csv", text.getvalue())
    files.write_arrays(directory / "curves.npz", {"score": curves.astype(np.float32), "seeds": np.asarray(sweep.seeds)})
