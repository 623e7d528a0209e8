"""What a sweep varies: `lr=log(1e-5,1e-1)`, `gamma=[.9,.99]`, `clip_eps=uniform(.05,.4)`, as points of a space.

A *range* is continuous; a *list* holds values to choose from. A key whose value changes what is compiled (a size, a
name, a switch) is *static* and can only be a list: each combination of static values is a program of its own.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from metarl_jax.algorithms.interface import AROUND_ITERATIONS
from metarl_jax.options import ConfigError
from metarl_jax.runs.config import at_key, parse_value, validate, with_key

MAX_TRIALS = 10**6
METHODS = ("random", "sobol", "grid", "halving", "pbt")
_RANGE = re.compile(r"(\w+)\((.*)\)$")


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One key: values between `low` and `high`, even in their logarithm or in themselves, or one of `values`."""

    name: str
    text: str  # as it was written
    kind: str  # "log", "uniform" or "list"
    low: float = math.nan
    high: float = math.nan
    values: tuple[Any, ...] = ()

    def at(self, u: float) -> Any:
        """The value at u in [0, 1)."""
        if self.kind == "list":
            return self.values[min(int(u * len(self.values)), len(self.values) - 1)]
        if self.kind == "log":
            return math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        return self.low + u * (self.high - self.low)

    def unit(self, value: float) -> float:
        """The u in [0, 1] of a value in a range: `at`, backwards."""
        if self.kind == "log":
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def grid(self, points: int) -> list[Any]:
        """All values of a list; of a range `points` of them, its ends included."""
        if self.kind == "list":
            return list(self.values)
        inner = [self.at(i / (points - 1)) for i in range(1, points - 1)] if points > 1 else []
        return [self.low, *inner, self.high] if points > 1 else [self.at(0.5)]


def is_dimension(override: str, config: dict[str, Any]) -> bool:
    """Whether `key=value` names a range or a list of values, and not one value of a key that is itself a list."""
    name, _, value = (part.strip() for part in override.partition("="))
    if _RANGE.match(value):
        return True
    if not isinstance(at_key(config, name), list):
        return value.startswith("[")
    return value.replace(" ", "").startswith("[[")


def parse(override: str, config: dict[str, Any]) -> Dimension:
    """`key=log(a,b)`, `key=uniform(a,b)` or `key=[a,b,...]`, with every end or value valid for `config`.

    Raises: ConfigError for another form, an empty or reversed range, a log range that does not lie above zero, a
        value that the key does not allow, a range of a key that is not a real number.
    """
    name, _, text = (part.strip() for part in override.partition("="))
    match = _RANGE.match(text)
    if match is None:
        values = parse_value(text, f"{name} = {text}")
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{name} = {text}: an empty list; give the values to try, such as {name}=[a,b]")
        return Dimension(name, text, "list", values=tuple(_checked(name, value, config) for value in values))
    kind, ends = match[1], match[2].split(",")
    if kind not in ("log", "uniform"):
        raise ConfigError(f"{name} = {text}: must be log(low,high), uniform(low,high) or a list [a,b,...]")
    try:
        low, high = (float(end) for end in ends)
    except ValueError:
        raise ConfigError(f"{name} = {text}: must have two numbers, {kind}(low,high)") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{name} = {text}: is empty or reversed; low must be below high")
    if kind == "log" and low <= 0:
        raise ConfigError(f"{name} = {text}: a log range must lie above zero; use uniform, or a low end such as 1e-6")
    for end in (low, high):
        _checked(name, end, config)
    return Dimension(name, text, kind, low, high)


def _checked(name: str, value: Any, config: dict[str, Any]) -> Any:
    """The value as the key has it: a number of its type, a tuple for a list."""
    if name in ("num_seeds", "seed", "algorithm", *AROUND_ITERATIONS):
        raise ConfigError(f"{name}: is one for the whole sweep and cannot be varied in it")
    valid = at_key(validate(with_key(config, name, value)).model_dump(), name)
    return tuple(valid) if isinstance(valid, list) else valid


def points(dimensions: Sequence[Dimension], method: str, num_trials: int | None, grid_points: int, seed: int) -> list:
    """The settings to try: one {name: value} a trial.

    `grid` crosses all values (`grid_points` of a range); `random` draws independently; `sobol` fills the space evenly
    (scrambled, Sobol 1967; best for powers of two); `halving` and `pbt` start from the random ones.

    Raises: ConfigError for more than MAX_TRIALS.
    """
    number = math.prod(len(d.values) or grid_points for d in dimensions) if method == "grid" else num_trials
    assert number is not None
    if number > MAX_TRIALS:
        raise ConfigError(
            f"trials = {number}: must be at most {MAX_TRIALS}, of each of which there is a row and a curve"
        )
    if method == "grid":
        names = [d.name for d in dimensions]
        return [dict(zip(names, v, strict=True)) for v in itertools.product(*(d.grid(grid_points) for d in dimensions))]
    if method == "sobol":
        import warnings

        from scipy.stats import qmc

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that are not powers of two
            unit = qmc.Sobol(len(dimensions), rng=np.random.default_rng(seed)).random(number)
    else:
        unit = np.random.default_rng(seed).random((number, len(dimensions)))
    return [{d.name: d.at(float(u)) for d, u in zip(dimensions, row, strict=True)} for row in unit]
