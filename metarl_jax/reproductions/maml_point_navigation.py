"""MAML on 2-D navigation (Finn et al. 2017, section 5.3, figure 4), by the authors' protocol.

Goals U[-.5, .5]^2, reward minus the distance, actions in [-1, 1] scaled to displacements of .1 (the authors' runs wrap
the environment so), 40 tasks x 20 episodes x 100 steps, one inner step of size .5, 100-100 ReLU, linear baseline, TRPO
with a KL of .01. At test 40 episodes an update, the step size halved after the first update, 40 goals.
Ours, and judged: inner steps descend (0 - R)^2 / 2 of the return R in place of -R (`target_return: 0`), so that the
first one tells how far the goal is. Beside it, without a rule, the same program with the authors' -R. In both: 200
iterations (the authors stop at 100), LVC inside (theirs: log-likelihoods, the same first-order step), and the
Fisher matrix is estimated on 5 of the 40 tasks.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.meta import evaluation
from metarl_jax.reproductions import NO_RULE, Claim
from metarl_jax.runs import config, evaluate, train
from metarl_jax.runs.build import build
from metarl_jax.runs.config import paper_config

PUBLISHED = (-40.41, -11.68, -3.33, -3.23)  # the authors' released data
BOUNDS = (None, -8.0, -3.3, -3.3)
OPTIMUM = -0.506  # greedy steps of .1 towards the goal, mean over goals
PLAIN = (None,) * len(BOUNDS)
NEAR = 0.3  # of the start: where to go past the goal costs most


def run(directory: Path, report: Callable[[Any], None]) -> list[Claim]:
    """Train 3 seeds of each (resumable in `directory`), evaluate on held-out goals, judge after each update."""
    ours = config.load(paper_config("maml_point_navigation"))
    plain = config.validate({**ours.model_dump(), "target_return": None})
    return [
        *_claims(directory / "maml", ours, "return after {}", BOUNDS, report),
        *_claims(directory / "plain", plain, "return after {}, inner steps on -R", PLAIN, report),
    ]


def _claims(directory: Path, c: Any, what: str, bounds: tuple, report: Callable[[Any], None]) -> list[Claim]:
    job = build(c)
    train.train(job, directory, resume=True, report=report)
    table, scores = evaluate.assess(directory, baselines=False, report=report)
    evaluate.save(directory, table, scores)
    claims = []
    for row, published, bound in zip(table["adaptation"], PUBLISHED, bounds, strict=True):
        update = row["update"]
        claims.append(
            Claim(
                what=what.format(f"{update} update{'s' * (update != 1)}"),
                ours=row["mean"],
                interval=tuple(row["mean_interval"]),
                rule=NO_RULE if bound is None else f">= {bound}",
                passed=bound is None or row["mean"] >= bound,
                published=published,
                optimum=OPTIMUM,
            )
        )
    near = np.linalg.norm(job.evaluation_tasks(c.eval_tasks).goal, axis=1) < NEAR
    mean, *interval = evaluation.bootstrap_interval(scores["run"][:, near, 1].mean(axis=-1), evaluation.mean)
    name = what.format("1 update") + f", the {near.sum()} goals nearer than {NEAR}"
    return [*claims, Claim(name, mean, (interval[0], interval[1]), NO_RULE, True)]
