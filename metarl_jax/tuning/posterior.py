"""What is known of a task after some trials: what the networks expect of it, as the prior of a Gaussian process.

Before any trial the ensemble's members expect mu_m(x) of a setting x, from the task's traits alone. Their mean is the
prior mean, and their covariance over m the prior covariance: members that were shown different families disagree where
families differ, and a trial that agrees with some of them speaks for them everywhere. To it come a constant, for a
task that is easier or harder than all of them, a smooth rest that no family has shown, and the noise of one training:

    score(x) / unit ~ GP(mean_m mu_m(x), A^2 cov_m(mu_m(x), mu_m(x')) + C^2 + S^2 exp(-d(x, x')^2 / 2 L^2)) + N(0, E^2)

(pre-trained priors: Wistuba & Grabocka 2021, Wang et al. 2024). A score is counted from the untrained policy's; its
unit, the best score of the task, is not known, and is the one that makes the trials most likely. Being a posterior, it
is not taken in by the luckiest of many trials.
"""

from typing import Any, NamedTuple

import numpy as np

AGREEMENT = 1.5  # A: members disagree less than families differ
COMMON = 0.3  # C
REST = 0.3  # S
LENGTH = 0.2  # L, in `distances`
NOISE = 0.2  # E, of one training, where 1 is the best score of the task
LOWEST = -1.0  # scores below count as this
UNITS = np.geomspace(0.7, 6.0, 25)  # of the largest score seen, tried as units
UNIT_PRIOR = (1.2, 0.6)  # log-normal: median, standard deviation of the logarithm


class Known(NamedTuple):
    """A posterior; `members` [M, ...] means are those that the ensemble has before any trial."""

    x: np.ndarray  # [N, D]
    means: np.ndarray  # [M, N] of the settings tried
    unit: float
    root: np.ndarray  # [N, N] Cholesky factor
    weights: np.ndarray  # [N]


def distances(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[A, B] roots of weighted mean squared differences of settings."""
    return np.sqrt(((a[:, None] - b[None]) ** 2) @ (weights / weights.sum()))


def condition(x: np.ndarray, means: np.ndarray, gains: np.ndarray, weights: np.ndarray) -> Known:
    """Of settings [N, D] with prior `means` [M, N], and what they gained on the untrained policy [N]; N may be 0."""
    covariance = _covariance(means, means, x, x, weights) + NOISE**2 * np.eye(len(x))
    root = np.linalg.cholesky(covariance)
    largest = max(float(np.abs(gains).max(initial=0.0)), 1e-6)

    def likelihood(unit: float) -> float:
        r = np.linalg.solve(root, np.maximum(gains / unit, LOWEST) - means.mean(axis=0))
        prior = (np.log(unit / largest / UNIT_PRIOR[0]) / UNIT_PRIOR[1]) ** 2
        return float(-0.5 * (r @ r) - len(x) * np.log(unit) - 0.5 * prior)

    unit = max(largest * UNITS, key=likelihood)
    rest = np.maximum(gains / unit, LOWEST) - means.mean(axis=0)
    return Known(x, means, float(unit), root, np.linalg.solve(root.T, np.linalg.solve(root, rest)))


def expected(known: Known, x: np.ndarray, means: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [Q] of the expected score of settings [Q, D], 1 being one `unit`."""
    across = _covariance(means, known.means, x, known.x, weights)
    centred = means - means.mean(axis=0)
    before = AGREEMENT**2 * (centred**2).sum(axis=0) / (len(means) - 1) + COMMON**2 + REST**2
    explained = (np.linalg.solve(known.root, across.T) ** 2).sum(axis=0)
    return means.mean(axis=0) + across @ known.weights, np.sqrt(np.maximum(before - explained, 1e-9))


def _covariance(a: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    by_member = (a - a.mean(axis=0)).T @ (b - b.mean(axis=0)) / (len(a) - 1)
    near: Any = np.exp(-0.5 * (distances(x, y, weights) / LENGTH) ** 2)
    return AGREEMENT**2 * by_member + COMMON**2 + REST**2 * near
