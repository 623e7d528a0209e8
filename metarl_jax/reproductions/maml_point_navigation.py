"""MAML on 2-D navigation (Finn et al. 2017, section 5.3, figure 4), by the authors' protocol.

Goals U[-.5, .5]^2, reward minus the distance, actions in [-1, 1] scaled to displacements of .1 (the authors' runs wrap
the environment so), 40 tasks x 20 episodes x 100 steps, one inner step of size .5, 100-100 ReLU, linear baseline, TRPO
with a KL of .01. At test 40 episodes an update, the step size halved after the first update, 40 goals.
Ours: 300 iterations (the authors stop at 100), LVC inside (theirs: log-likelihoods, the same first-order step) on
advantages with lambda = .9 (theirs: 1), hidden biases that start from N(0, .25^2) (theirs: 0, with which the first
inner steps hardly move the actions near the start), and the Fisher matrix is estimated on 5 of the 40 tasks.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from metarl_jax import assessment, config, experiment
from metarl_jax.build import build
from metarl_jax.reproductions import NO_RULE, Claim
from metarl_jax.shipped import paper_config

PUBLISHED = (-40.41, -11.68, -3.33, -3.23)  # the authors' released data
BOUNDS = (None, -8.0, -3.3, -3.3)
OPTIMUM = -0.506  # greedy steps of .1 towards the goal, mean over goals


def run(directory: Path, report: Callable[[Any], None]) -> list[Claim]:
    """Train 3 seeds (resumable in `directory`), evaluate on held-out goals, judge after each update."""
    job = build(config.load(paper_config("maml_point_navigation")))
    experiment.train(job, directory / "maml", resume=True, report=report)
    table, scores = assessment.assess(directory / "maml", baselines=False, report=report)
    assessment.save(directory / "maml", table, scores)
    claims = []
    for row, published, bound in zip(table["adaptation"], PUBLISHED, BOUNDS, strict=True):
        update = row["update"]
        claims.append(
            Claim(
                what=f"return after {update} update{'s' * (update != 1)}",
                ours=row["mean"],
                interval=tuple(row["mean_interval"]),
                rule=NO_RULE if bound is None else f">= {bound}",
                passed=bound is None or row["mean"] >= bound,
                published=published,
                optimum=OPTIMUM,
            )
        )
    return claims
