"""`metarl compare`: runs side by side, on the same held-out tasks.

Compared is the score after adaptation: after the last update, in the last episode of a trial, at the end of a life.
Differences are paired over tasks. A run that has no evaluation of its newest checkpoint is evaluated first.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.meta import evaluation
from metarl_jax.options import ConfigError, shortened
from metarl_jax.runs import evaluate, files
from metarl_jax.runs.build import Job
from metarl_jax.runs.checkpoint import Checkpoints
from metarl_jax.runs.listing import run_of

SAME = ("env", "env_options", "task_seed", "eval_tasks")  # keys that say which tasks are held out


def compare(directories: Sequence[Path], report: Callable[[Any], None] = print) -> dict[str, Any]:
    """Scores of runs, and of the first against each of the others; JSON.

    Each run has mean and interquartile mean over tasks and seeds with 95% bootstrap intervals over tasks. Against the
    others the first has the difference of the means, paired over tasks, and the probability of improvement, that a
    seed of it scores more on a task than a seed of the other, ties by half (Agarwal et al. 2021, eq. 2).

    Raises: ConfigError for fewer than two runs, and for runs whose held-out tasks, score or number of episodes differ.
    """
    if len(directories) < 2:
        raise ConfigError(f"runs = {len(directories)}: compare needs at least 2 run directories")
    places = [run_of(directory) for directory in directories]
    jobs = [evaluate.open_run(place) for place in places]
    for directory, job in zip(directories[1:], jobs[1:], strict=True):
        for key in SAME:
            there, here = getattr(jobs[0].config, key), getattr(job.config, key)
            if there != here:
                said = f"{key} = {shortened(str(here))}, {directories[0]} has {shortened(str(there))}"
                raise ConfigError(f"run {directory}: {said}; only scores on the same tasks can be compared")
        if job.higher_is_better != jobs[0].higher_is_better:
            raise ConfigError(f"run {directory}: is scored by another measure than {directories[0]}")
    scores = [_after_adaptation(p, job.config.eval_tasks, report) for p, job in zip(places, jobs, strict=True)]
    runs = []
    for directory, job, values in zip(directories, jobs, scores, strict=True):
        about = {"run": str(directory), "algorithm": job.config.algorithm, "num_seeds": len(values)}
        about["after"] = experience(job)
        runs.append({**about, **_summary("mean", values, evaluation.mean), **_summary("iqm", values, evaluation.iqm)})
    sign = 1 if jobs[0].higher_is_better else -1
    first, *others = scores
    pairs = [{"run": str(d), **_against(first, x, sign)} for d, x in zip(directories[1:], others, strict=True)]
    return {
        "env": jobs[0].config.env,
        "score": "return" if sign > 0 else "mean squared error",
        "num_tasks": first.shape[1],
        "runs": runs,
        "first_against": pairs,
        "interval": "95% percentile bootstrap over tasks, stratified by seed; of pairs over tasks",
    }


def experience(job: Job) -> str:
    """What an agent has learned from when it is scored: "3 updates of 10 episodes", "2 episodes", "nothing"."""
    number = job.evaluation.num_updates
    if job.evaluation.stage == "update" and number:
        episodes = getattr(job.config, "episodes_per_task", None)
        of = f" of {episodes} episodes" if episodes else ""
        return f"{number} update{'s' * (number > 1)}{of}"
    if job.evaluation.stage == "episode" and number:
        return f"{number} episode{'s' * (number > 1)}"
    return "a whole life" if job.evaluation.stage == "stage" else "nothing"


def _after_adaptation(place: Path, num_tasks: int, report: Callable[[Any], None]) -> np.ndarray:
    """Scores [seed, task] of the newest checkpoint."""
    table, wanted = evaluate.saved_table(place), (_newest(place), num_tasks)
    there = None if table is None else (table.get("iteration"), table["num_tasks"])
    if there != wanted or not (place / "scores.npz").is_file():
        report(f"evaluating {place}")
        table, scores = evaluate.assess(place, baselines=False, report=report)
        if evaluate.check_directory(place, report):
            evaluate.save(place, table, scores)
        found = scores["run"]
    else:
        found = files.read_arrays(place / "scores.npz", "scores", "run")["run"]
        if found.ndim != 4:
            raise ConfigError(f"scores {place / 'scores.npz'}: is damaged (not [seed, task, update, episode])")
    return np.asarray(found[:, :, -1].mean(axis=-1), np.float64)


def _newest(place: Path) -> int:
    checkpoints = Checkpoints(place / "checkpoints")
    there = checkpoints.iterations()
    checkpoints.close()
    if not there:
        raise ConfigError(f"run {place}: has no checkpoint yet")
    return there[-1]


def _summary(name: str, values: np.ndarray, statistic: Callable) -> dict[str, Any]:
    middle, low, high = evaluation.bootstrap_interval(values, statistic)
    return {name: middle, f"{name}_interval": [low, high]}


def _against(first: np.ndarray, other: np.ndarray, sign: int, num_resamples: int = 2000) -> dict[str, Any]:
    """The difference of the means and the probability of improvement, with intervals over tasks."""
    difference = (first.mean(axis=0) - other.mean(axis=0))[None]
    better, lower, higher = _probability(sign * first, sign * other, num_resamples)
    return {
        **_summary("difference", difference, evaluation.mean),
        "probability_of_improvement": better,
        "probability_of_improvement_interval": [lower, higher],
    }


def _probability(a: np.ndarray, b: np.ndarray, num_resamples: int) -> tuple[float, float, float]:
    """`evaluation.probability_of_improvement` and its percentile bootstrap over tasks."""
    wins = [evaluation.probability_of_improvement(a[:, [i]], b[:, [i]]) for i in range(a.shape[1])]
    drawn = np.random.default_rng(0).integers(len(wins), size=(num_resamples, len(wins)))
    low, high = np.quantile(np.asarray(wins)[drawn].mean(axis=1), [0.025, 0.975])
    return float(np.mean(wins)), float(low), float(high)


def format_comparison(found: dict[str, Any]) -> str:
    """The comparison as text."""

    def cell(row: dict[str, Any], name: str) -> str:
        low, high = row[f"{name}_interval"]
        return f"{row[name]:.3f} [{low:.3f}, {high:.3f}]"

    head = f"{found['env']}: {found['score']} after adaptation on {found['num_tasks']} held-out task(s)"
    names = [
        f"{row['run']} ({row['algorithm']}, {row['num_seeds']} seed{'s' if row['num_seeds'] > 1 else ''})"
        for row in found["runs"]
    ]
    width, wide = max(map(len, names)), max(len("learned from"), *(len(row["after"]) for row in found["runs"]))
    lines = [head, "", f"{'':{width}}  {'learned from':{wide}}  {'mean':>28}  {'IQM':>28}"]
    for name, row in zip(names, found["runs"], strict=True):
        lines.append(f"{name:{width}}  {row['after']:{wide}}  {cell(row, 'mean'):>28}  {cell(row, 'iqm'):>28}")
    lines.append("")
    for row in found["first_against"]:
        better = cell(row, "probability_of_improvement")
        lines.append(
            f"{found['runs'][0]['run']} minus {row['run']}: {cell(row, 'difference')}, "
            f"probability of improvement {better}"
        )
    return "\n".join([*lines, f"intervals: {found['interval']}"])
