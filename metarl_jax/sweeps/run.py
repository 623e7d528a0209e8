"""A sweep: many settings of one configuration trained as populations, kept in a directory, shown in one table.

A sweep directory holds
  sweep.json        what was asked, and every setting
  rung-*/group-*/   checkpoints of each program: states, learning curves, when a lane diverged (`lanes`)
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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.runs import files
from metarl_jax.runs.build import build
from metarl_jax.runs.directory import locked
from metarl_jax.runs.train import RunFailed
from metarl_jax.sweeps import best, lanes, pbt_run
from metarl_jax.sweeps.engines import Cluster
from metarl_jax.sweeps.pictures import sweep_picture
from metarl_jax.sweeps.plan import ETA, Sweep, groups, make, open_directory, with_static

__all__ = ["Sweep", "final_scores", "format_rows", "make", "run"]


def run(
    sweep: Sweep,
    directory: Path,
    *,
    resume: bool = False,
    report: Callable[[Any], None] = print,
    cluster: Cluster | None = None,
) -> list[dict]:
    """Train all trials, or go on where `directory` was left; returns the rows of the table, the best first.

    A lane that becomes NaN or infinite is reported and ranked last; the others are not touched by it.

    Args: cluster: whose workers train (`engines.opened`); None: this process does.
    Raises: ConfigError for a directory that holds something else; RunFailed if every trial diverged.
    """
    if sweep.method == "pbt":
        return pbt_run.run(sweep, directory, resume=resume, report=report, cluster=cluster)
    open_directory(sweep, directory, resume)
    with locked(directory):
        alive = entered = list(range(len(sweep.settings)))  # of this rung, of the one before
        curves = np.full((len(sweep.settings), len(sweep.seeds), sweep.config.num_iterations), np.nan)
        bad = np.full(curves.shape[:2], -1)
        done = np.zeros(len(sweep.settings), int)
        for rung, end in enumerate(sweep.rungs):
            label = f"rung {rung + 1}/{len(sweep.rungs)}, " if len(sweep.rungs) > 1 else ""
            programs = []
            for group, (static, trials) in enumerate(groups(sweep).items()):
                here = [t for t in trials if t in alive]
                if here:
                    config = with_static(sweep, dict(static))
                    place, last = (_place(directory, r, group) for r in (rung, rung - 1))
                    came = [t for t in trials if t in entered]
                    begin = None
                    if rung:
                        begin = (sweep.rungs[rung - 1], functools.partial(lanes.survivors, last, came))
                    some = lanes.Lanes(sweep, config, here, curves[here], bad[here])
                    called = f"{label}program {group + 1}/{len(groups(sweep))}"
                    programs.append(lanes.Program(some, place, begin, end, called))
            ended: Iterable[tuple[int, tuple[np.ndarray, np.ndarray]]]
            if cluster is None:
                ended = ((number, lanes.train(program, report)) for number, program in enumerate(programs))
            else:
                ended = lanes.train_on(cluster, programs, label, report)
            for number, found in ended:
                here = programs[number].lanes.trials
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
    config = with_static(sweep, dict(static))
    one = lanes.Lanes(sweep, config, [trial], curves[[trial]], np.zeros((1, curves.shape[1])))
    states = lanes.survivors(_place(directory, rung, group), came, one)
    best.keep(sweep.config, sweep.settings[trial], int(done[trial]), states, curves[trial], directory)


def _place(directory: Path, rung: int, group: int) -> Path:
    return directory / f"rung-{rung}" / f"group-{group}"


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
