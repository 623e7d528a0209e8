"""ProMP's second claim (Rothfuss et al. 2019, section 6.3): seeing how sampling depends on theta makes one explore.

The reward of the corner task is 0 near the start, so that only data gathered far out says which corner is meant. MAML
on log-likelihoods treats the data it adapts to as given; ProMP's likelihood ratios and E-MAML's extra term do not. One
setting for all three: the same task, outer optimiser and number of environment steps.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax import assessment, config, evaluation, experiment
from metarl_jax.build import build
from metarl_jax.reproductions import NO_RULE, Claim
from metarl_jax.reproductions.papers import paper_config

METHODS = {
    "maml": ["algorithm=maml", "inner_surrogate=vpg"],
    "promp": ["algorithm=promp"],
    "e_maml": ["algorithm=e_maml"],
}


def run(directory: Path, report: Callable[[Any], None]) -> list[Claim]:
    """Train the methods (resumable in `directory`), evaluate them on the four corners, compare after one update."""
    after, before = {}, {}
    for name, overrides in METHODS.items():
        experiment.train(
            build(config.load(paper_config("promp_sparse_corner"), overrides)),
            directory / name,
            resume=True,
            report=report,
        )
        table, scores = assessment.assess(directory / name, baselines=False, report=report)
        assessment.save(directory / name, table, scores)
        before[name], after[name] = (scores["run"][:, :, update] for update in (0, 1))  # [seed, task, episode]
    claims = []
    for name in METHODS:
        mean, low, high = over_tasks(after[name])
        claims.append(Claim(f"{name}: return after 1 update", mean, (low, high), NO_RULE, True))
    for name in ("promp", "e_maml"):
        mean, low, high = over_tasks(after[name] - after["maml"])
        claims.append(
            Claim(f"{name} - maml: return after 1 update", mean, (low, high), "interval above 0", bool(low > 0))
        )
    return claims


def over_tasks(scores: np.ndarray) -> tuple[float, float, float]:
    """Mean over seeds and the four corners with its 95% bootstrap interval; each seed and corner is one sample."""
    return evaluation.bootstrap_interval(scores.mean(axis=-1).reshape(1, -1), evaluation.mean)
