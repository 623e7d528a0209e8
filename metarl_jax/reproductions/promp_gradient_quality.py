"""ProMP's first claim (Rothfuss et al. 2018): LVC trades a little bias for much less variance.

DiCE estimates the Hessian of the return without bias; low-variance curvature (LVC) leaves out the pairs of different
steps. The paper measures the noise of sampled meta-gradients. Here nothing is sampled: mean and variance of the
Hessian that one trajectory gives are sums over all trajectories of random tabular MDPs. Both estimators have the same
baseline, the exact V; the paper's have a fitted one.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.reference import exact
from metarl_jax.reproductions import NO_RULE, Claim
from metarl_jax.rl import losses
from metarl_jax.runs import files

NUM_STATES, NUM_ACTIONS = 3, 2
HORIZONS = (2, 4, 6, 8)
SEEDS = range(24)  # one random MDP each
HELD_TO = (4, 6, 8)  # the horizons that the claims are about
INNER_LR = 1.0  # for the meta-gradient: one exact inner step
SURROGATES = {"dice": losses.surrogate("dice"), "lvc": losses.surrogate("lvc")}


def problem(seed: int, horizon: int) -> tuple[exact.MDP, np.ndarray]:
    """P(s, a) ~ Dirichlet(1), R ~ N(0, 1), logits ~ N(0, 1), start in state 0, gamma = 1; one MDP for all horizons."""
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.ones(NUM_STATES), size=(NUM_STATES, NUM_ACTIONS))
    rewards, logits = rng.normal(size=(2, NUM_STATES, NUM_ACTIONS))
    return exact.MDP(transitions, rewards, np.eye(NUM_STATES)[0], horizon=horizon), logits


def measure(seed: int, horizon: int) -> dict[str, float]:
    """Variance ratios DiCE / LVC of one trajectory's Hessian, and how far LVC is from the exact Hessian."""
    mdp, logits = problem(seed, horizon)
    value, hessian = exact.evaluate(mdp, logits).value, exact.hessian(mdp, logits)
    baselines = {"variance_ratio": value, "variance_ratio_without_baseline": None}
    found = {}
    for name, baseline in baselines.items():
        moments = {k: exact.surrogate_moments(mdp, logits, f, baseline) for k, f in SURROGATES.items()}
        found[name] = float(moments["dice"].hessian_variance / moments["lvc"].hessian_variance)
    lvc = moments["lvc"].hessian  # the baseline changes no mean
    found["bias"] = float(np.linalg.norm(lvc - hessian) / np.linalg.norm(hessian))
    found["cosine"] = cosine(lvc, hessian)
    full, *others = (
        exact.meta_gradient(mdp, logits, inner_lr=INNER_LR, method=method).gradient
        for method in ("maml", "lvc", "fomaml")
    )
    found["meta_cosine"], found["meta_cosine_first_order"] = (cosine(other, full) for other in others)
    return found


def run(directory: Path, report: Callable[[Any], None]) -> list[Claim]:
    """Measure every MDP and horizon (kept in measurements.json, so that a run cut off goes on), then judge."""
    path = directory / "measurements.json"
    rows: dict[str, dict[str, float]] = files.read_json(path, "measurements") if path.exists() else {}
    for horizon in HORIZONS:
        for seed in SEEDS:
            key = f"{horizon}/{seed}"
            if key not in rows:
                rows[key] = measure(seed, horizon)
                directory.mkdir(parents=True, exist_ok=True)
                files.write_whole(path, json.dumps(rows, indent=1))
        shown = {name: median(rows, horizon, name)[0] for name in ("variance_ratio", "bias", "cosine", "meta_cosine")}
        report(f"H = {horizon}, medians: " + ", ".join(f"{name} {value:.3f}" for name, value in shown.items()))
    return [claim for horizon in HELD_TO for claim in claims(rows, horizon)] + [growth(rows)]


def claims(rows: dict[str, dict[str, float]], horizon: int) -> list[Claim]:
    """The ratio and the cosine are held to their rules; the rest is measured and has none."""
    ratio, cosine_ = median(rows, horizon, "variance_ratio"), median(rows, horizon, "cosine")
    held = [
        Claim(f"Hessian variance DiCE / LVC, H = {horizon}", ratio[0], ratio[1:], "interval > 1", ratio[1] > 1),
        Claim(f"cosine of LVC and exact Hessian, H = {horizon}", cosine_[0], cosine_[1:], "> 0.9", cosine_[0] > 0.9),
    ]
    for name, least in (("variance_ratio", 1.0), ("cosine", 0.9)):
        share = np.mean([rows[f"{horizon}/{seed}"][name] > least for seed in SEEDS])
        held.append(Claim(f"share of MDPs with {name} > {least:g}, H = {horizon}", float(share), None, NO_RULE, True))
    for name, what in MEASURED.items():
        value, *interval = median(rows, horizon, name)
        held.append(Claim(f"{what}, H = {horizon}", value, (interval[0], interval[1]), NO_RULE, True))
    return held


MEASURED = {
    "variance_ratio_without_baseline": "Hessian variance DiCE / LVC without a baseline",
    "bias": "|LVC - exact Hessian| / |exact Hessian|",
    "meta_cosine": "cosine of the LVC and exact meta-gradients",
    "meta_cosine_first_order": "cosine of the first-order and exact meta-gradients",
}


def growth(rows: dict[str, dict[str, float]]) -> Claim:
    """The exponent of the variance ratio as a power of the horizon, a least-squares slope in each MDP."""
    ratios = [[rows[f"{horizon}/{seed}"]["variance_ratio"] for horizon in HORIZONS] for seed in SEEDS]
    slopes = np.polyfit(np.log(HORIZONS), np.log(ratios).T, 1)[0]
    slope, low, high = bootstrap_median(slopes)
    return Claim("exponent of H in variance DiCE / LVC", slope, (low, high), "interval > 0", low > 0)


def median(rows: dict[str, dict[str, float]], horizon: int, name: str) -> tuple[float, float, float]:
    """Median over MDPs with its interval."""
    return bootstrap_median(np.array([rows[f"{horizon}/{seed}"][name] for seed in SEEDS]))


def bootstrap_median(values: np.ndarray, num_resamples: int = 10_000) -> tuple[float, float, float]:
    """(median, low, high): a 95% percentile bootstrap over MDPs."""
    chosen = np.random.default_rng(0).integers(len(values), size=(num_resamples, len(values)))
    low, high = np.percentile(np.median(values[chosen], axis=1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two arrays, as vectors."""
    return float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))
