"""Evaluation on held-out tasks: adaptation curves, baselines to compare them with, and intervals.

Scores are kept whole, `scores[seed, task, update, episode]`, and reduced only when they are shown.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import tree
from metarl_jax.envs.protocol import tasks_at_a_time
from metarl_jax.rl.rollout import episode_returns, rollout
from metarl_jax.types import MetaLearner, Params, Task


def adaptation_curve(
    learner: MetaLearner,
    params: Params,
    key: jax.Array,
    tasks: Task,
    num_updates: int,
    tasks_per_batch: int | None = None,
) -> jax.Array:
    """Scores before and after each of `num_updates` inner updates, [task, num_updates + 1, episode].

    `tasks` is stacked, leaves [task, ...]. Task i always gets the same key, whatever their number. Every
    update learns from the very episodes that the score before it was measured on; their number is that of
    the sampler that `learner` was made with.
    """
    return adaptation_curve_and_reports(learner, params, key, tasks, num_updates, tasks_per_batch)[0]


def adaptation_curve_and_reports(
    learner: MetaLearner,
    params: Params,
    key: jax.Array,
    tasks: Task,
    num_updates: int,
    tasks_per_batch: int | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`adaptation_curve`, and the rate of each report of the environment, such as success, [task, num_updates + 1]."""

    def one(x: tuple[jax.Array, Task]) -> tuple[jax.Array, dict[str, jax.Array]]:
        index, task = x
        trial, scores = learner.collect(params, jax.random.fold_in(key, index), task, num_updates=num_updates)
        return scores, getattr(trial, "reports", None) or {}  # lives of learned rules are no trials

    return tree.chunked_map(one, (_indices(tasks), tasks), tasks_per_batch)


def policy_returns(
    env: Any,
    act: Callable[[Params, jax.Array], Any],
    params: Params,
    key: jax.Array,
    tasks: Task,
    *,
    num_steps: int,
    num_episodes: int,
    tasks_per_batch: int | None = None,
) -> jax.Array:
    """Undiscounted returns [task, episode] of one policy that does not adapt."""

    def one(x: tuple[jax.Array, Task]) -> jax.Array:
        index, task = x
        k = jax.random.fold_in(key, index)
        return episode_returns(rollout(env, act, params, k, task, num_steps=num_steps, num_envs=num_episodes)[0])

    indices = _indices(tasks)
    return tree.chunked_map(one, (indices, tasks), tasks_at_a_time(env, indices.size, tasks_per_batch))


def uniform_policy(env: Any) -> Callable[[Params, jax.Array], Any]:
    """The policy that draws uniformly from the action space, in `Policy.apply` form."""
    from metarl_jax.networks.actions import uniform

    of_batch = uniform(env)
    return lambda params, observation: of_batch(observation.shape[:1])


def oracle_returns(oracle: Callable[[Task], jax.Array], tasks: Task) -> jax.Array:
    """The exact best expected return of each task, [task]."""
    return jax.vmap(oracle)(tasks)


def _indices(tasks: Task) -> jax.Array:
    return jnp.arange(jax.tree.leaves(tasks)[0].shape[0])


# --- statistics: plain NumPy, on scores that have left the device ---------------------------------------


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean over the last axis."""
    return scores.mean(axis=-1)


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis: the mean of the middle half (Agarwal et al. 2021)."""
    count = scores.shape[-1]
    cut = count // 4
    return np.partition(scores, (cut, count - cut - 1), axis=-1)[..., cut : count - cut].mean(axis=-1)


def bootstrap_interval(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = iqm,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(statistic, low, high) of scores [seed, task] by a stratified percentile bootstrap.

    Seeds are the strata: tasks are redrawn with replacement within each seed, so the interval speaks of
    the mean over tasks for these trained seeds. One row of scores is one seed. (Agarwal et al. 2021 redraw
    seeds within fixed benchmark tasks; held-out tasks here are themselves a sample.)

    Raises: ValueError if scores is not [seed, task] or not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores of shape {scores.shape}: must be [seed, task]")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity, so they have no interval")
    rng = np.random.default_rng(seed)
    num_seeds, num_tasks = scores.shape
    rows = np.arange(num_seeds)[None, :, None]
    resampled = scores[rows, rng.integers(num_tasks, size=(num_resamples, num_seeds, num_tasks))]
    values = statistic(resampled.reshape(num_resamples, -1))
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(statistic(scores.reshape(-1))), float(low), float(high)


def probability_of_improvement(a: np.ndarray, b: np.ndarray) -> float:
    r"""P(A > B) + P(A = B) / 2 for scores [seed, task] of two methods, averaged over tasks.

    .. math::

        P(A > B) + \frac{1}{2} P(A = B)

    Within a task every seed of one is compared with every seed of the other (Agarwal et al. 2021, eq. 2).
    """
    return float((np.sign(a[:, None] - b[None]) / 2 + 0.5).mean())


def paired_improvement(after: np.ndarray, before: np.ndarray) -> float:
    """Share of (seed, task) pairs whose score is higher after than before; ties count half."""
    return float((np.sign(after - before) / 2 + 0.5).mean())


def convergence_update(scores: np.ndarray, fraction: float = 0.9) -> int:
    """First update whose mean score has made `fraction` of the whole gain; scores [seed, task, update]."""
    curve = scores.mean(axis=(0, 1))
    gain = curve.max() - curve[0]
    return int(np.argmax(curve >= curve[0] + fraction * gain))
