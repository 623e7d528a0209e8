"""Tables made of cells, one length of trial each: fixed strategies and trained learners, measured, kept and judged.

A published mean of 1,000 tasks has an error as ours has: a row agrees with it if the two differ by at most 4 combined
standard errors, sqrt(s^2 / our tasks + s^2 / theirs + .1^2 / 12), with s the standard deviation of a task's total and
the last term for the rounding of what was printed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metarl_jax.meta import evaluation
from metarl_jax.reference.strategy import Strategy, play
from metarl_jax.reproductions import Claim
from metarl_jax.runs import config, evaluate, files, train
from metarl_jax.runs.build import build
from metarl_jax.tree import chunked_map

AUTHORS_TASKS = 1000
ROUNDING = 0.1  # of the printed numbers
Z95 = 1.96


def kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in the .npy file `path`; made and written (whole or not at all) if there is none."""
    if not path.exists():
        made = np.asarray(make())
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_array(path, made)
    return files.read_arrays(path, "results")[""]


def played(
    env: Any, tasks: Any, strategy: Strategy, *, num_tasks: int, num_episodes: int, tasks_per_batch: int = 250
) -> jax.Array:
    """Returns [task, episode] of one strategy; task i and its chance are the same for all strategies. Traceable."""

    def one(key: jax.Array) -> jax.Array:
        task_key, play_key = jax.random.split(key)
        task = tasks.sample(task_key)
        rewards = play(env, strategy, play_key, task, num_episodes=num_episodes, horizon=tasks.horizon)
        return rewards.sum(axis=1)

    return chunked_map(one, jax.random.split(jax.random.key(1), num_tasks), tasks_per_batch)


def trained(path: Path, overrides: list[str], directory: Path, num_tasks: int, report: Callable) -> np.ndarray:
    """Train the configuration `path` (going on where it was left): returns [seed, task, episode] on held-out tasks.

    Each seed meets `num_tasks` trials of its own keys, one a task.
    """
    chosen = config.load(path, overrides)
    job = build(chosen)
    train.train(job, directory, resume=True, report=report)
    _, params = evaluate.restore(job, directory)
    learner = build(chosen.model_copy(update={"trials_per_task": 1, "num_minibatches": 1})).algorithm
    tasks = job.evaluation_tasks(num_tasks)

    def score(x: Any) -> jax.Array:
        key, seed_params = x
        updates = chosen.num_episodes - 1
        return evaluation.adaptation_curve(learner, seed_params, key, tasks, updates, min(num_tasks, 250))[..., 0]

    keys = jax.random.split(jax.random.key(evaluate.EVALUATION), chosen.num_seeds)
    return np.asarray(jax.jit(lambda x: jax.lax.map(score, x))((keys, params)))


def mean_interval(totals: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Mean of independent totals and its 95% interval (normal; for trained seeds it speaks of these seeds)."""
    totals = np.asarray(totals, np.float64).reshape(-1)
    mean, error = totals.mean(), totals.std(ddof=1) / len(totals) ** 0.5
    return float(mean), (float(mean - Z95 * error), float(mean + Z95 * error))


def agreement(what: str, totals: np.ndarray, published: float) -> Claim:
    """That the mean of totals [task] is the published one, within 4 combined standard errors."""
    ours, interval = mean_interval(totals)
    variance = totals.var(ddof=1) * (1 / totals.size + 1 / AUTHORS_TASKS) + ROUNDING**2 / 12
    passed = bool(abs(ours - published) <= 4 * variance**0.5)
    return Claim(what, ours, interval, "within 4 SE of published", passed, published)
