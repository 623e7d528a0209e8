"""Hyperparameters as functions of unconstrained numbers: no gradient step can take one out of its range.

With both ends, h = low + (high - low) sigmoid(x); with a lower end alone, h = low + softplus(x).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

Float = float | jax.Array
MARGIN = 1e-4  # of the range: a start nearer to an end than this is moved inside, as x would be infinite at the end


class Tuned(NamedTuple):
    """A hyperparameter that is learned: where it starts, and its range. `high` None: there is no upper end."""

    start: Float
    low: Float = 0.0
    high: Float | None = 1.0


def unconstrained(tuned: Mapping[str, Tuned]) -> dict[str, jax.Array]:
    """x [] of every hyperparameter at its start (moved inside the range by `MARGIN` if it is at an end).

    Raises: ValueError for a range that is empty or not finite, and for a start outside of it.
    """
    return {name: _inverse(name, t) for name, t in tuned.items()}


def squash(x: Mapping[str, jax.Array], tuned: Mapping[str, Tuned]) -> dict[str, jax.Array]:
    """The hyperparameters at x, each in its range; differentiable in x, and 0 slope only where sigmoid rounds."""
    return {name: _squash(x[name], t) for name, t in tuned.items()}


def _squash(x: jax.Array, t: Tuned) -> jax.Array:
    if t.high is None:
        return t.low + jax.nn.softplus(x)
    share = jax.nn.sigmoid(x)
    return t.low * (1.0 - share) + t.high * share  # the ends themselves where the sigmoid rounds to 0 or 1


def _inverse(name: str, t: Tuned) -> jax.Array:
    _check(name, t)
    if t.high is None:
        above = jnp.maximum(jnp.asarray(t.start - t.low, float), 1e-8)
        return above + jnp.log(-jnp.expm1(-above))
    share = jnp.clip((jnp.asarray(t.start, float) - t.low) / (t.high - t.low), MARGIN, 1.0 - MARGIN)
    return jnp.log(share) - jnp.log1p(-share)


def _check(name: str, t: Tuned) -> None:
    high = math.inf if t.high is None else t.high
    if any(isinstance(x, jax.core.Tracer) for x in (t.start, t.low, high)):
        return
    if not (math.isfinite(t.low) and t.low < high and (t.high is None or math.isfinite(high))):
        raise ValueError(f"range of {name} = ({t.low}, {t.high}): must be finite with low < high")
    if not t.low <= t.start <= high:
        raise ValueError(f"start of {name} = {t.start}: must be within its range ({t.low}, {t.high})")
