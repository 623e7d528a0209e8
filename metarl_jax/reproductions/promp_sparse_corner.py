"""ProMP's second claim (Rothfuss et al. 2019, section 6.3): seeing how sampling depends on theta makes one explore.

The reward of the corner task is 0 near the start, so that only data gathered far out say which corner is meant. MAML
on log-likelihoods treats the data it adapts to as given; ProMP's likelihood ratios and E-MAML's extra term do not. One
setting for all three: the same task, outer optimiser and number of environment steps; the policy starts with a std
(.08 in the plane) that leaves the zone without reward only now and then.

What is judged is how many of the four corners the policy explores *before* it adapts: those whose reward at least 5% of
its episodes get to see. Returns are reported: the reward, as published, pays more for swinging in and out of the zone
(up to 14 an episode) than for walking to the corner (2.6), so that a higher return need not come from exploring.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.meta import evaluation
from metarl_jax.reproductions import NO_RULE, Claim
from metarl_jax.runs import config, evaluate, train
from metarl_jax.runs.build import Job, build
from metarl_jax.runs.config import paper_config
from metarl_jax.types import Params, Task

SEEN = 0.05  # share of the pre-update episodes that makes a corner explored
EXPLORATION = 40.0  # E-MAML's weight, 1 as published, chosen on seeds of its own (100 and on)
METHODS = {
    "maml": ["algorithm=maml", "inner_surrogate=vpg"],
    "promp": ["algorithm=promp"],
    "e_maml": ["algorithm=e_maml", f"exploration_coef={EXPLORATION}"],
}


def run(directory: Path, report: Callable[[Any], None]) -> list[Claim]:
    """Train the methods (resumable in `directory`), look at what they explore and at their returns on the corners."""
    returns, explored = {}, {}
    for name, overrides in METHODS.items():
        job = build(config.load(paper_config("promp_sparse_corner"), overrides))
        train.train(job, directory / name, resume=True, report=report)
        table, scores = evaluate.assess(directory / name, baselines=False, report=report)
        evaluate.save(directory / name, table, scores)
        returns[name] = scores["run"][:, :, 1].mean(axis=-1)  # [seed, corner]
        explored[name] = 4.0 * (visits(job, evaluate.restore(job, directory / name)[1]) >= SEEN)  # [seed, corner]
    claims = []
    for name in METHODS:
        for what, values in (("corners explored before adapting", explored), ("return after 1 update", returns)):
            mean, low, high = over_seeds(values[name])
            optimum = 4.0 if values is explored else None
            claims.append(Claim(f"{name}: {what}", mean, (low, high), NO_RULE, True, optimum=optimum))
    for name in ("promp", "e_maml"):
        mean, low, high = over_seeds(explored[name] - explored["maml"])
        what = f"{name} - maml: corners explored before adapting"
        claims.append(Claim(what, mean, (low, high), "interval above 0", bool(low > 0)))
    return claims


def visits(job: Job, params: Params) -> np.ndarray:
    """[seed, corner] share of 200 pre-update episodes that meet a reward, each task with keys of its own."""
    tasks = job.evaluation_tasks(4)

    def share(params: Params, key: jax.Array, task: Task) -> jax.Array:
        trials = jax.vmap(lambda k: job.algorithm.collect(params, k, task, num_updates=0)[0])(jax.random.split(key, 20))
        return jnp.mean(jnp.any(trials.outer.discounted_reward != 0, axis=1))  # [20, T, 10] -> episodes

    keys = jax.random.split(jax.random.key(0), 4)
    return np.asarray(
        jax.jit(lambda p: jax.lax.map(lambda q: jax.vmap(share, (None, 0, 0))(q, keys, tasks), p))(params)
    )


def over_seeds(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over seeds of the mean over corners, with its 95% bootstrap interval over seeds."""
    return evaluation.bootstrap_interval(values.mean(axis=1)[None], evaluation.mean)
