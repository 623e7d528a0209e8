r"""Slates of items, and which of them a user with a known taste clicks: the conditional logit (McFadden 1974).

Items have factors x_i [num_factors] with |x_i| = 1, drawn once from `catalogue_seed`, in uniform directions. A user
with taste u [num_factors] who is shown items i_0, i_1, ... clicks on one of the slots j, or on none:

.. math::

    P(\text{slot } j) = \frac{e^{s_j}}{e^{b} + \sum_l e^{s_l}}, \quad
    P(\text{no click}) = \frac{e^{b}}{e^{b} + \sum_l e^{s_l}}, \quad
    s_j = \frac{u \cdot x_{i_j}}{\tau} - \beta \log(j + 1)

with the `temperature` tau, the score `no_click` b, and the `position_bias` beta: attention falls with the rank as
1 / (j + 1)^beta (Joachims et al. 2017). RecSim and SlateQ have the same choice model (Ie et al. 2019).

An item that fills several slots is shown once, in the first of them. The others stay empty and cannot be clicked, so
that a slate of one item k times is a slate of that item alone.

Not differentiated: clicks, and the order of a best slate.
"""

import numbers

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metarl_jax.envs.tasks import check_count, check_positive

EMPTY = -1  # a slot without an item
_MIN_TEMPERATURE = 1e-3  # scores stay far from overflow


class SlateChoice:
    """A catalogue, and the choice from slates of it. Functions are of one user."""

    def __init__(
        self,
        num_items: int,
        num_factors: int,
        slate_size: int,
        temperature: float,
        no_click: float,
        position_bias: float,
        catalogue_seed: int,
    ):
        self.num_items = check_count("num_items", num_items)
        self.num_factors = check_count("num_factors", num_factors)
        self.slate_size = check_count("slate_size", slate_size)
        if slate_size > num_items:
            raise ValueError(f"slate_size must be at most num_items = {num_items}, got {slate_size!r}")
        self.temperature = check_between("temperature", temperature, low=_MIN_TEMPERATURE)
        self.no_click = check_between("no_click", no_click)
        self.position_bias = check_positive("position_bias", position_bias, or_zero=True)
        if isinstance(catalogue_seed, bool) or not isinstance(catalogue_seed, numbers.Integral) or catalogue_seed < 0:
            raise ValueError(f"catalogue_seed must be an integer of at least 0, got {catalogue_seed!r}")
        directions = np.random.default_rng(int(catalogue_seed)).normal(size=(num_items, num_factors))
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        self.items: np.ndarray = directions / lengths  # [num_items, num_factors]
        ranks = np.arange(self.slate_size) + 1.0
        self._log_attention: np.ndarray = -self.position_bias * np.log(ranks)  # [slate_size]

    def shown(self, action: int | float | Array) -> Array:
        """[slate_size] the items that an action shows: each in its first slot, EMPTY in the others that it fills.

        Raises: ValueError for a slate of several items that are not integers.
        """
        action = jnp.asarray(action)
        if self.slate_size > 1 and not jnp.issubdtype(action.dtype, jnp.integer):
            raise ValueError(f"action must be {self.slate_size} integers (MultiDiscrete), got {action.dtype}")
        slate = action.astype(int).reshape(self.slate_size)
        again = jnp.tril(slate[:, None] == slate[None, :], -1).any(axis=1)
        return jnp.where(again, EMPTY, slate)

    def factors(self, shown: Array) -> Array:
        """[slate_size, num_factors] factors of the items shown, zeros in empty slots."""
        return jnp.where((shown >= 0)[:, None], jnp.asarray(self.items, float)[shown], 0.0)

    def logits(self, taste: Array, shown: Array) -> Array:
        """[slate_size + 1] log P, up to a constant, of a click on each slot, and of none; -inf for empty slots."""
        scores = self.factors(shown) @ taste / self.temperature + jnp.asarray(self._log_attention, float)
        none = jnp.full(1, self.no_click, scores.dtype)
        return jnp.concatenate([jnp.where(shown >= 0, scores, -jnp.inf), none])

    def click(self, key: Array, taste: Array, shown: Array) -> Array:
        """[] the slot that is clicked, slate_size for none. One uniform number, by the inverse CDF."""
        cumulative = jnp.cumsum(jax.nn.softmax(self.logits(taste, shown)))
        threshold = jax.random.uniform(key, (), cumulative.dtype) * cumulative[-1]
        return jnp.minimum((threshold >= cumulative).sum(dtype=int), self.slate_size)

    def best_slate(self, taste: Array) -> Array:
        """The action with the highest chance of a click under this taste [num_factors]: the best items, best first.

        P(click) grows with the sum over slots of attention_j exp(u . x_j / tau). A repeated item wastes a slot, and by
        the rearrangement inequality the sum is largest with the largest exponentials, in the order of the attention.
        """
        order = jax.lax.top_k(jnp.asarray(self.items, float) @ taste, self.slate_size)[1].astype(int)
        return order[0] if self.slate_size == 1 else order

    def best_chance(self, taste: Array) -> Array:
        """[] probability of a click on `best_slate`."""
        scores = jnp.asarray(self.items, float) @ taste
        best = scores.max(keepdims=True) if self.slate_size == 1 else jax.lax.top_k(scores, self.slate_size)[0]
        logits = best / self.temperature + jnp.asarray(self._log_attention, float)
        return jax.nn.sigmoid(jax.nn.logsumexp(logits) - self.no_click)


def check_between(name: str, value: float, low: float = -np.inf, high: float = np.inf) -> float:
    """Return `value` if it is a finite number from `low` to `high`; ValueError naming it otherwise."""
    allowed = f"a number from {low:g} to {high:g}" if np.isfinite(high) else "a finite number"
    allowed += f" of at least {low:g}" if np.isfinite(low) and not np.isfinite(high) else ""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    if not np.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return float(value)
