"""Tuning PPO on one task with a learned optimiser: propose, train, look, propose again.

A directory holds
  tune.json     what was asked
  history.json  every trial: its setting, score, learning curve
  best.yaml     the configuration to keep, for `metarl train`
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from metarl_jax.options import ConfigError
from metarl_jax.runs import config as configs
from metarl_jax.runs import files, user_parts
from metarl_jax.runs import training_loop as population
from metarl_jax.runs.build import build
from metarl_jax.runs.directory import check_free, environment_info, locked
from metarl_jax.runs.train import RunFailed
from metarl_jax.tuning import landscapes, learned_optimizer
from metarl_jax.tuning.learned_optimizer import Optimizer
from metarl_jax.tuning.task_features import describe

AT_ONCE = 10  # lanes computed together on a device, at most


class Trainer:
    """PPO trained with many settings at a time: one compiled program, whatever is asked of it."""

    def __init__(self, config: Any, lanes: int):
        """A call trains `lanes` at a time; fewer are filled up."""
        self.config, self.lanes = config, lanes
        self.names = [*(d.name for d in landscapes.space()), "task_seed"]
        self.job = build(config)
        together = max(n for n in range(1, AT_ONCE + 1) if lanes % n == 0)
        self._init = population.make_init(config)
        self._make = lambda size: population.make_call(config, config.num_iterations, size or together)
        self._compiled: Any = None

    @property
    def steps(self) -> int:
        """Environment steps of one training."""
        return self.config.num_iterations * self.job.work_per_iteration

    def __call__(self, points: np.ndarray, seeds: Sequence[int], tasks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Settings [N, 7] in [0, 1], each with a seed and a task seed -> curves [N, 16], scores [N]; NaN: diverged."""
        settings = [
            {**setting, "task_seed": int(task)}
            for setting, task in zip(landscapes.to_settings(points), tasks, strict=True)
        ]
        raw = []
        for begin in range(0, len(settings), self.lanes):
            part, its = settings[begin : begin + self.lanes], list(seeds[begin : begin + self.lanes])
            missing = self.lanes - len(part)
            values, _ = population.lanes(part + part[:1] * missing, self.names, [0])
            keys = jnp.asarray(its + its[:1] * missing)
            arguments = (self._init(values, keys), values, keys, jnp.asarray(0))
            if self._compiled is None:
                self._compiled = population.compile_to_fit(self._make, arguments, self.lanes)
            _, score, finite = self._compiled(*arguments)
            fine = np.all(np.asarray(finite), axis=1, keepdims=True)
            score = np.where(fine, np.asarray(score, float), np.nan)
            raw.append(score[: len(part)])
        whole = np.concatenate(raw)
        return landscapes.shorten(whole), landscapes.scored(whole)


def tune(
    config: Any,
    learned: Optimizer,
    directory: Path,
    *,
    trials: int,
    at_a_time: int,
    resume: bool = False,
    report: Callable[[Any], None] = print,
) -> list[dict]:
    """Try `trials` settings of `config`, `at_a_time` in each round, or go on where `directory` was left.

    Returns the trials in their order. Raises: ConfigError for a directory that holds something else; RunFailed if no
        trial has a score.
    """
    _open(config, learned, directory, resume)
    user_parts.remember(directory, config)
    file = directory / "history.json"
    with locked(directory):
        done = _trials(file) if file.exists() else []
        dimensions = landscapes.space()
        traits = describe(config, [config.task_seed])[0]
        trainer = Trainer(config, min(at_a_time, trials))
        while len(done) < trials:
            x = np.asarray([[d.unit(t["setting"][d.name]) for d in dimensions] for t in done])
            history = learned_optimizer.history_of(learned, x, np.asarray([t["curve"] for t in done]), traits)
            rng = np.random.default_rng([config.seed, len(done)])
            points = learned_optimizer.propose(learned, history, len(done), min(at_a_time, trials - len(done)), rng)
            began, cpu = time.perf_counter(), time.process_time()
            seeds = [config.seed + len(done) + i for i in range(len(points))]
            curves, scores = trainer(points, seeds, [config.task_seed] * len(points))
            for setting, curve, score in zip(landscapes.to_settings(points), curves, scores, strict=True):
                trial = len(done)
                done.append(
                    {"trial": trial, "setting": setting, "score": _number(score), "curve": [_number(v) for v in curve]}
                )
                report(f"trial {trial + 1:2d}/{trials}  {trainer.job.score} {score:9.3f}  " + format_setting(setting))
            files.write_whole(file, json.dumps(done, indent=1) + "\n")
            report(
                f"{len(points) * trainer.steps:,} steps in {time.perf_counter() - began:.0f} s "
                f"({time.process_time() - cpu:.0f} CPU-s, compilation included)"
            )
        best = chosen(learned, done, traits)
        plain = {**config.model_dump(), **done[best]["setting"]}
        files.write_whole(directory / "best.yaml", configs.dump(configs.validate(plain)))
    return done


def _trials(file: Path) -> list[dict]:
    """The trials of a history. Raises: ConfigError for a file that is damaged."""
    done = files.read_json(file, "file", list)
    names = {d.name for d in landscapes.space()}
    for number, trial in enumerate(done):
        setting = trial.get("setting") if isinstance(trial, dict) and {"score", "curve"} <= trial.keys() else None
        if not isinstance(setting, dict) or setting.keys() != names or trial.get("trial") != number:
            raise ConfigError(f"file {file}: is damaged (trial {number + 1} is not one)")
    return done


def chosen(learned: Optimizer, done: list[dict], traits: np.ndarray) -> int:
    """The trial to keep. Raises: RunFailed if none has a score."""
    if all(t["score"] is None for t in done):
        raise RunFailed("no trial has a score: each became NaN or infinite, or no episode ended in it (see horizon)")
    dimensions = landscapes.space()
    x = np.asarray([[d.unit(t["setting"][d.name]) for d in dimensions] for t in done])
    curves = np.asarray([t["curve"] for t in done], float)
    kept = learned_optimizer.history_of(learned, x, curves, traits)
    return max(0, len(done) - learned_optimizer.MAX_HISTORY) + learned_optimizer.best_tried(learned, kept)


def format_setting(setting: dict[str, float]) -> str:
    """A setting as one line."""
    return "  ".join(f"{name}={value:.3g}" for name, value in setting.items())


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _open(config: Any, learned: Optimizer, directory: Path, resume: bool) -> None:
    asked = {"config": config.model_dump(), "optimizer": list(learned.families)}
    file = directory / "tune.json"
    check_free(directory, resume, "directory")
    if not files.is_free(directory, "directory"):
        if not file.exists():
            raise ConfigError(f"directory {directory}: is not of `metarl tune` (it has no tune.json)")
        there = files.read_json(file, "file")
        if {k: v for k, v in there.items() if k != "info"} != json.loads(json.dumps(asked)):
            raise ConfigError(f"directory {directory}: holds the tuning of something else, see {file}")
        files.check_writable(directory, "directory")
        return
    files.make_directory(directory, "directory")
    files.write_whole(file, json.dumps({**asked, "info": environment_info()}, indent=1) + "\n")
