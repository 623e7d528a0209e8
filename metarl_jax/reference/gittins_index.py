"""Gittins indices of a Bernoulli arm whose probability is uniform a priori, by calibration (Gittins 1979).

After s successes in m pulls the belief is Beta(1 + s, 1 + m - s), and the index is the reward per pull, known for
sure, at which one would as soon turn to it for good as pull on:

    nu = sup_tau E[sum_{t < tau} beta^t r_t] / E[sum_{t < tau} beta^t]     over stopping times tau >= 1.

Let Q(s, m; x) be the most that pulling once, and then as long as is wise, can gain over a sure x per pull:

    Q(s, m; x) = p - x + beta (p max(0, Q(s + 1, m + 1; x)) + (1 - p) max(0, Q(s, m + 1; x))),    p = (1 + s) / (2 + m).

Q falls in x and is convex, and nu is its root. All states are solved backwards in m at once for a grid of x, denser
towards 0 and 1, and the root is interpolated linearly: nu is never too low by that (Q is convex), and too high by less
than a cell of the grid. Tables are NumPy arrays, read-only, kept for the life of the process.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from metarl_jax.envs.tasks import check_count


def gittins_table(num_pulls: int, discount: float, *, lookahead: int = 1000, grid: int = 800) -> np.ndarray:
    r"""Indices [successes, failures], each < num_pulls, for rewards discounted by `discount`, in float64.

    .. math::

        \nu = \sup_{\tau \ge 1} \frac{\mathbb{E} \left[ \sum_{t < \tau} \beta^t r_t \right]}{\mathbb{E}
          \left[ \sum_{t < \tau} \beta^t \right]}

    Entries with successes + failures >= num_pulls are NaN. Beyond num_pulls + `lookahead` pulls (fewer where
    discount^lookahead < 1e-6) the arm is pulled for ever or never, which makes indices too low: with discount .99 by
    less than 1e-6, with .9999 by at most 2e-4 for an arm never pulled and .004 after 499 pulls. The grid makes them
    too high by 6e-4 at most, 2e-4 on average. Beta(1, 1) has .7029 at .9 and .8699 at .99. 500 pulls take 3 s.

    Raises: ValueError: if discount is not in (0, 1), a count is not one, or grid is below 2.
    """
    if not 0 < discount < 1:
        raise ValueError(f"discount must be in (0, 1), got {discount!r}; finite_horizon_table does not discount")
    lookahead = min(check_count("lookahead", lookahead), math.ceil(math.log(1e-6) / math.log(discount)))
    return _gittins_table(check_count("num_pulls", num_pulls), float(discount), lookahead, _check_grid(grid))


def finite_horizon_table(num_pulls: int, *, grid: int = 200) -> np.ndarray:
    """Undiscounted indices of all states (s, m, remaining) with m + remaining <= num_pulls, in float32, packed.

    `remaining` >= 1 pulls are left, so tau <= remaining; entry `finite_horizon_position(s, m, remaining)` is theirs.
    The index with one pull left is the posterior mean. To pull the highest index is not exactly Bayes-optimal, but
    within .05% in every case tried (16 pulls of 5 arms, 40 of 2; Kaufmann 2018 and Lattimore 2016 study it). The
    grid makes indices too high by .002 at most after up to 200 pulls, .004 up to 500, and half of that on average.
    Memory is 2/3 num_pulls^3 bytes; 100 pulls take .2 s, 500 pulls 15 s.

    Raises: ValueError: if num_pulls is not a count, or grid is below 2.
    """
    return _finite_horizon_table(check_count("num_pulls", num_pulls), _check_grid(grid))


def finite_horizon_position(successes: Any, pulls: Any, remaining: Any) -> Any:
    """Where the state lies in `finite_horizon_table`: integers, or integer arrays of NumPy or JAX (in int32 correct
    up to pulls + remaining = 1290).
    """
    total = pulls + remaining
    return (total - 1) * total * (total + 1) // 6 + pulls * (pulls + 1) // 2 + successes


@functools.lru_cache(maxsize=16)
def _gittins_table(num_pulls: int, discount: float, lookahead: int, grid: int) -> np.ndarray:
    levels, last = _levels(grid), num_pulls + lookahead
    p = (1 + np.arange(last + 1)) / (2 + last)
    gain = np.maximum(p[:, None] - levels, 0) / (1 - discount)
    table = np.full((num_pulls, num_pulls), np.nan)
    for m, index in _calibrate(gain, levels, discount, num_pulls):
        s = np.arange(m + 1)
        table[s, m - s] = index
    table.flags.writeable = False
    return table


@functools.lru_cache(maxsize=4)
def _finite_horizon_table(num_pulls: int, grid: int) -> np.ndarray:
    levels = _levels(grid).astype(np.float32)
    table = np.empty(finite_horizon_position(0, 0, num_pulls + 1), np.float32)
    for total in range(1, num_pulls + 1):  # m + remaining does not change while an arm is pulled
        gain = np.zeros((total + 1, grid), np.float32)
        for m, index in _calibrate(gain, levels, 1.0, total):
            start = finite_horizon_position(0, m, total - m)
            table[start : start + m + 1] = index
    table.flags.writeable = False
    return table


def _check_grid(grid: int) -> int:
    if check_count("grid", grid) < 2:
        raise ValueError(f"grid must be at least 2, got {grid!r}")
    return grid


def _levels(grid: int) -> np.ndarray:
    """[grid] sure rewards from 0 to 1."""
    return (1 - np.cos(np.linspace(0, np.pi, grid))) / 2


def _calibrate(gain: np.ndarray, levels: np.ndarray, discount: float, keep: int) -> Iterator[tuple[int, np.ndarray]]:
    """(m, nu [m + 1]) for m = keep - 1, ..., 0, from gain = max(0, Q) [s, x] of the last m; overwrites `gain`."""
    spare = np.empty_like(gain)
    for m in range(len(gain) - 2, -1, -1):
        p = ((1 + np.arange(m + 1)) / (2 + m)).astype(gain.dtype)[:, None]
        fail, q = gain[: m + 1], spare[: m + 1]
        np.subtract(gain[1 : m + 2], fail, out=q)  # in place: this loop is all the time that a table takes
        q *= p
        q += fail
        if discount < 1:
            q *= discount
        q += p
        q -= levels
        if m < keep:
            s, i = np.arange(m + 1), np.argmax(q <= 0, axis=1) - 1  # Q(x = 0) >= p > 0 > p - 1 = Q(x = 1)
            above, below = q[s, i], q[s, i + 1]
            yield m, levels[i] + (levels[i + 1] - levels[i]) * above / (above - below)
        np.maximum(q, 0, out=q)
        gain, spare = spare, gain
