"""`metarl tune` and `metarl learn-optimizer`, once the command line is read."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.envs.registry import did_you_mean
from metarl_jax.options import ConfigError
from metarl_jax.runs import config as configs
from metarl_jax.runs.build import build
from metarl_jax.runs.config import shipped_config
from metarl_jax.sweeps import engines
from metarl_jax.tuning import landscapes, learned_optimizer, tune
from metarl_jax.tuning.landscape_families import FAMILIES

SHIPPED = Path(__file__).with_name("optimizer.npz")
OPTIMIZER, LANDSCAPES = "optimizer.npz", "landscapes.npz"
# Of `metarl tune`: trainings start from random parameters, and only their scores are kept.
FIXED = ("algorithm", "env", "init_from", "log_to")
MIN_TRIALS = 4 * (learned_optimizer.MAX_HISTORY + 8)  # of four tasks, each with more runs than a history has


def run_tune(arguments: argparse.Namespace, directory: Path, say: Callable[[Any], None]) -> int:
    """Tune PPO on `arguments.env`. Raises: ConfigError, one line, before anything is compiled."""
    tuned = [d.name for d in landscapes.space()]
    clash = next((o for o in arguments.overrides if o.partition("=")[0].strip() in (*tuned, *FIXED)), None)
    if clash is not None:
        raise ConfigError(f"{clash}: cannot be set here; what is tuned is {', '.join(tuned)}, of ppo on ENV")
    for name in ("trials", "at_a_time"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"{name.replace('_', '-')} = {getattr(arguments, name)}: must be at least 1")
    overrides = [f"env={arguments.env}", "env_options={}", *arguments.overrides]
    config = configs.load(shipped_config("ppo_families"), overrides)
    job = build(config)
    learned = load_optimizer(arguments.optimizer)
    steps = config.num_iterations * job.work_per_iteration
    say(
        f"ppo on {config.env}: {arguments.trials} trials of {steps:,} steps; the optimiser has seen "
        f"{', '.join(learned.families)}; directory {directory}"
    )
    done = tune.tune(
        config, learned, directory, trials=arguments.trials, at_a_time=arguments.at_a_time, resume=arguments.resume,
        report=say,
    )  # fmt: skip
    best = configs.load(directory / "best.yaml").model_dump()
    at = next(t for t in done if all(np.isclose(t["setting"][k], best[k]) for k in tuned))
    print(
        f"{job.score} {at['score']:.3f} in trial {at['trial'] + 1} of {len(done)}: {tune.format_setting(at['setting'])}"
    )
    print(f"cost: {len(done) * steps:,} environment steps")
    print(directory / "best.yaml")
    return 0


def load_optimizer(path: Path | None) -> learned_optimizer.Optimizer:
    """The optimiser in a file, or of a run of `learn-optimizer`; None: the one that comes with the package."""
    file = SHIPPED if path is None else path / OPTIMIZER if path.is_dir() else path
    try:
        return learned_optimizer.load(file)
    except ConfigError as error:
        raise ConfigError(f"{error}; `metarl learn-optimizer` makes one") from None


def run_learn(arguments: argparse.Namespace, directory: Path, say: Callable[[Any], None]) -> int:
    """Make the landscapes of some families and learn from them."""
    names = sorted(FAMILIES) if arguments.families is None else sorted(set(arguments.families.split(",")))
    for name in names:
        if name not in FAMILIES:
            raise ConfigError(f"families: unknown family {name!r}{did_you_mean(name, FAMILIES)}")
    if len(names) < 2:
        raise ConfigError(f"families = {', '.join(names)}: an optimiser needs at least 2 to learn what they share")
    if arguments.trials < MIN_TRIALS:
        raise ConfigError(f"trials = {arguments.trials}: must be at least {MIN_TRIALS} a family")
    kept = directory / OPTIMIZER
    if kept.exists() and load_optimizer(kept).families != tuple(names):
        raise ConfigError(
            f"{kept}: was learned from {', '.join(load_optimizer(kept).families)}; name another --run-dir"
        )
    with engines.opened(arguments.engine, arguments.address) as cluster:
        data = landscapes.make(directory, names, say, arguments.trials, cluster)
    landscapes.save(data, directory / LANDSCAPES)
    data = landscapes.load(directory / LANDSCAPES)  # as it was rounded: the file says all that was learned from
    say(f"learning from {len(data.scores):,} trainings of {len(names)} families")
    learned, losses = learned_optimizer.fit(data)
    learned_optimizer.save(learned, kept)
    last = {name: float(np.mean(loss[-len(loss) // 10 :])) for name, loss in losses.items()}
    say("losses at the end: " + ", ".join(f"{name} {value:.3f}" for name, value in last.items()))
    print(kept)
    return 0
