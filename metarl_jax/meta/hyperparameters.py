"""Hyperparameters as functions of unconstrained numbers: no gradient step can take one out of its range.

With both ends, h = low + (high - low) sigmoid(x); with a lower end alone, h = low + softplus(x). The x are learned
themselves (`constant`), or are what a network makes of the rewards that an agent lately earned (`reactive`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

Float = float | jax.Array
MARGIN = 1e-4  # of the range: a start nearer to an end than this is moved inside, as x would be infinite at the end


class Tuned(NamedTuple):
    """A hyperparameter that is learned: where it starts, and its range. `high` None: there is no upper end."""

    start: Float
    low: Float = 0.0
    high: Float | None = 1.0


class Schedule(NamedTuple):
    """What hyperparameters are, by meta-parameters of any kind."""

    init: Callable[[jax.Array], Any]  # key -> meta-parameters
    at: Callable[[Any, Any], dict[str, jax.Array]]  # meta-parameters, recent mean rewards [R] -> h, leaves []


def constant(tuned: Mapping[str, Tuned]) -> Schedule:
    """One unconstrained number for each of them, whatever was earned."""
    return Schedule(lambda key: unconstrained(tuned), lambda x, recent: squash(x, tuned))


def reactive(tuned: Mapping[str, Tuned], num_recent: int, hidden: Sequence[int] = (32,)) -> Schedule:
    """x = x_start + network(recent), an MLP of ReLUs (Flennerhag et al. 2022, section 5.1).

    Its last layer begins at 0: they are at their start until something was learned.
    """
    widths = [nn.Dense(width) for width in hidden]
    layers = [layer for dense in widths for layer in (dense, nn.relu)]
    network = nn.Sequential([*layers, nn.Dense(len(tuned), kernel_init=nn.initializers.zeros)])

    def at(params: Any, recent: jax.Array) -> dict[str, jax.Array]:
        out = jnp.asarray(network.apply(params, recent))
        x = {name: start + out[i] for i, (name, start) in enumerate(unconstrained(tuned).items())}
        return squash(x, tuned)

    return Schedule(lambda key: network.init(key, jnp.zeros(num_recent)), at)


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
