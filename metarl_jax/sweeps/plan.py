"""What a sweep will try: settings, which of them share a program, and the directory that remembers what was asked."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from metarl_jax.options import ConfigError
from metarl_jax.runs import files, training_loop, user_parts
from metarl_jax.runs.build import build
from metarl_jax.runs.config import at_key, validate, with_key
from metarl_jax.runs.directory import check_free, environment_info
from metarl_jax.runs.states import learned_elsewhere
from metarl_jax.sweeps import search_space
from metarl_jax.sweeps.search_space import Dimension

ETA = 3  # a rung of halving keeps one trial in three
RUNGS = 3
WHAT = "sweep directory"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is tried: trial i has `settings[i]`, and is trained with every seed."""

    config: Any  # the configuration that the settings change
    dimensions: tuple[Dimension, ...]
    method: str
    settings: list[dict[str, Any]]
    traced: tuple[str, ...]  # keys that differ within a program; the others make groups
    lanes_at_a_time: int | None = None
    interval: int = 1  # population-based training: iterations between two rounds of exploit and explore

    @property
    def seeds(self) -> list[int]:
        """The seeds of every setting."""
        return [self.config.seed + i for i in range(self.config.num_seeds)]

    @property
    def rungs(self) -> list[int]:
        """The iteration at which each rung ends, a multiple of `call_length`."""
        total, unit = self.config.num_iterations, self.call_length
        count = RUNGS if self.method == "halving" else 1
        return sorted({max(unit, total // ETA**k // unit * unit) for k in range(count)})

    @property
    def call_length(self) -> int:
        """Iterations in one compiled call."""
        return math.gcd(self.config.iterations_per_call, self.config.num_iterations)


def make(
    config: Any,
    overrides: list[str],
    *,
    method: str = "random",
    num_trials: int | None = None,
    grid_points: int = 5,
    lanes_at_a_time: int | None = None,
    interval: int | None = None,
) -> Sweep:
    """The sweep that ranges and lists such as `lr=log(1e-5,1e-1)` ask for; compiles nothing.

    Raises: ConfigError for no range at all, for a range of a static key, for a combination of static values that does
        not fit, for trials given to a grid or missing elsewhere.
    """
    if method not in search_space.METHODS:
        raise ConfigError(f"method = {method!r}: must be one of {', '.join(search_space.METHODS)}")
    if config.log_to:
        raise ConfigError(f"log_to = {', '.join(config.log_to)}: a sweep keeps scores only; leave it out")
    build(config)  # a mistake in what is not varied is said first
    plain = config.model_dump()
    dimensions = tuple(search_space.parse(override, plain) for override in overrides)
    names = [d.name for d in dimensions]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice}: is given twice")
    if not dimensions:
        raise ConfigError("nothing to sweep: give a range or a list, such as lr=log(1e-5,1e-1) or gamma=[.9,.99]")
    if method == "grid" and num_trials is not None:
        raise ConfigError(f"trials = {num_trials}: a grid has as many as its values make; use --grid-points")
    if method != "grid" and (num_trials is None or num_trials < 1):
        raise ConfigError(f"trials = {num_trials}: {method} needs a number of trials, at least 1: --trials 32")
    if grid_points < 1:
        raise ConfigError(f"grid-points = {grid_points}: must be at least 1")
    traced = []
    for d in dimensions:
        example = d.low if d.kind != "list" else next((v for v in d.values if v is not None), None)
        numbers = d.kind != "list" or all(training_loop.is_number(v) for v in d.values)
        own = "." not in d.name  # an option of the environment is part of what is compiled
        if own and numbers and training_loop.is_traceable(config.model_copy(update={d.name: example}), d.name):
            traced.append(d.name)
        elif d.kind != "list":
            raise ConfigError(
                f"{d.name} = {d.text}: changes what is compiled, so it cannot have a range; give a list of values, "
                f"such as {d.name}=[{_plain(at_key(plain, d.name))}]"
            )
    steps = _interval(config, method, interval, num_trials, [d for d in dimensions if d.name not in traced])
    settings = search_space.points(dimensions, method, num_trials, grid_points, config.seed)
    made = Sweep(config, dimensions, method, settings, tuple(traced), lanes_at_a_time, steps)
    for static in groups(made):
        build(with_static(made, dict(static)))  # refuses what does not fit before anything is compiled
    return made


def _plain(value: Any) -> str:
    return json.dumps(value)


def _interval(config: Any, method: str, interval: int | None, num_trials: int | None, static: list[Dimension]) -> int:
    """The interval of population-based training; 1 elsewhere.

    Raises: ConfigError for what that cannot do.
    """
    if method != "pbt":
        if interval is not None:
            raise ConfigError(f"interval = {interval}: is of --method pbt only")
        return 1
    if static:
        raise ConfigError(f"{static[0].name} = {static[0].text}: changes what is compiled, so it cannot evolve in pbt")
    if num_trials is None or num_trials < 2:
        raise ConfigError(f"trials = {num_trials}: pbt needs at least 2 members")
    steps = max(1, config.num_iterations // 20) if interval is None else interval
    if interval is None:
        while config.num_iterations % steps:
            steps -= 1
    if steps < 1 or config.num_iterations % steps:
        raise ConfigError(f"interval = {steps}: must divide num_iterations = {config.num_iterations}")
    return steps


def groups(sweep: Sweep) -> dict[tuple, list[int]]:
    """Values of the static keys -> the trials that have them."""
    static = [d.name for d in sweep.dimensions if d.name not in sweep.traced]
    found: dict[tuple, list[int]] = {}
    for trial, setting in enumerate(sweep.settings):
        found.setdefault(tuple((name, setting[name]) for name in static), []).append(trial)
    return found


def with_static(sweep: Sweep, static: dict[str, Any]) -> Any:
    """The configuration of the settings that share these values, which are compiled in; traced keys hold an example."""
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in static.items()}
    fields = type(sweep.config).model_fields

    def example(name: str) -> Any:  # tells a number from null, and what was given from a default; replaced later
        tried = [setting[name] for setting in sweep.settings]
        return next((value for value in tried if value != fields[name].default), tried[0])

    data = sweep.config.model_dump()
    for name, value in (values | {name: example(name) for name in sweep.traced}).items():
        data = with_key(data, name, value)
    return validate(data)


def open_directory(sweep: Sweep, directory: Path, resume: bool) -> None:
    """Make the directory of a new sweep, or see that it holds the same one.

    Raises: ConfigError where it holds another, and where a new one cannot start from the run of `init_from`.
    """
    asked = {
        "config": sweep.config.model_dump(),
        "dimensions": [f"{d.name}={d.text}" for d in sweep.dimensions],
        "method": sweep.method,
        "traced": list(sweep.traced),
        "settings": sweep.settings,
        "interval": sweep.interval,
    }
    asked = json.loads(json.dumps(asked))
    file = directory / "sweep.json"
    check_free(directory, resume, WHAT)
    if not files.is_free(directory, WHAT):
        if not file.exists():
            raise ConfigError(f"{WHAT} {directory}: is not a sweep of metarl (it has no sweep.json)")
        there = read(file)
        if {k: v for k, v in there.items() if k != "info"} != asked:
            raise ConfigError(f"{WHAT} {directory}: holds another sweep, see {file}; name another directory")
        files.check_writable(directory, WHAT)
        return
    for static in groups(sweep):
        learned_elsewhere(build(with_static(sweep, dict(static))))
    files.make_directory(directory, WHAT)
    user_parts.remember(directory, sweep.config)
    files.write_whole(file, json.dumps({**asked, "info": environment_info()}, indent=1) + "\n")


def read(file: Path) -> dict[str, Any]:
    """What a sweep.json says, with the defaults of keys that an older version did not write.

    Raises: ConfigError for a file that is damaged.
    """
    there = files.read_json(file, "sweep")
    if not isinstance(there.get("config"), dict) or not isinstance(there.get("settings"), list):
        raise ConfigError(f"sweep {file}: is damaged (has no configuration and settings)")
    return json.loads(json.dumps({**there, "config": validate(there["config"]).model_dump()}))
