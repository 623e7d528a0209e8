"""Scores on held-out tasks, of the parameters of all seeds at a time: at evaluation, and while a run trains."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metarl_jax import devices
from metarl_jax.runs import files, memory, training_loop
from metarl_jax.runs.build import Job, build
from metarl_jax.types import Params

EVALUATION = 0xE7A1  # tag of the key that evaluation uses
FILE = "held_out.jsonl"


def scorer(
    job: Job, num_tasks: int, num_updates: int, report: Callable[[Any], None], seed: int = 0
) -> Callable[[Params], tuple[np.ndarray, dict[str, np.ndarray]]]:
    """params [seed, ...] -> scores [seed, task, update + 1, episode], and rates of reports [seed, task, update + 1].

    Args: job: built for evaluation. seed: of the key; runs that are compared are scored with the same.
    Raises: ConfigError where that many tasks do not fit into memory.
    """
    how = job.evaluation
    memory.fits(memory.of_call(jax.jit(lambda: how.tasks(num_tasks))), f"eval_tasks = {num_tasks}", report)
    tasks = how.tasks(num_tasks)
    key = jax.random.fold_in(jax.random.key(seed), EVALUATION)  # apart from every key of training
    compiled: list[Any] = []

    def scoring(_: int | None = None) -> Any:
        return jax.jit(lambda trees: jax.lax.map(lambda p: how.scores(p, key, tasks, num_updates), trees))

    def fitting(params: Params) -> Any:
        if devices.memory() is not None:
            program, fitted = training_loop.fit(scoring, (params,), 1)
            if fitted.worded():
                report(f"memory: {memory.worded(fitted.needed)} needed; {fitted.worded()}")
            return program
        traced = scoring().trace(params)
        updates = "" if how.stage == "episode" or num_updates < 2 else f", eval_updates = {num_updates}"
        memory.fits(memory.peak(traced.jaxpr), f"eval_tasks = {num_tasks}{updates} or eval_episodes", report)
        return traced.lower().compile()

    def score(params: Params) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        if not compiled:
            compiled.append(fitting(params))
        found = compiled[0](params)
        values, rates = found if isinstance(found, tuple) else (found, {})
        return np.asarray(values), jax.tree.map(np.asarray, rates)

    return score


class HeldOut:
    """The held-out scores of a run, every `eval_every` iterations, in held_out.jsonl: means over tasks and episodes."""

    def __init__(self, job: Job, run_dir: Path, start: int, report: Callable[[Any], None]):
        self._path, self._every, self._job = run_dir / FILE, job.config.eval_every, job
        if self._every is None or not devices.is_first_process():
            return
        files.keep_rows(self._path, start)
        self._job = build(job.config, evaluation=True)
        self._score = scorer(self._job, job.config.eval_tasks, job.evaluation.num_updates, report)

    def __call__(self, iteration: int, states: Any) -> None:
        """Score the states reached after `iteration` iterations, if it is time to."""
        if self._every is None or iteration % self._every:
            return
        params = self._job.params(states)
        if devices.num_processes() > 1:
            params = devices.whole(params)
        if not devices.is_first_process():
            return
        scores, rates = self._score(params)
        what = {
            "score": scores.mean(axis=(1, 3)),
            **{name: x.mean(axis=1) for name, x in rates.items()},
        }  # [seed, update]
        row: dict[str, Any] = {"iteration": iteration}
        for name, values in what.items():
            for update in range(values.shape[1]):
                numbers = [float(v) if np.isfinite(v) else None for v in values[:, update]]
                row[f"{name}_{update}"] = numbers[0] if len(numbers) == 1 else numbers
        with open(self._path, "a") as file:
            file.write(json.dumps(row) + "\n")
