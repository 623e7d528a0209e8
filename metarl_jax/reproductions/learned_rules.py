"""What learned rules are worth to agents that begin a life with them, beside A2C and PPO.

Three rules, each trained by a shipped configuration on one family of tasks, frozen, and handed to new agents: in
held-out tasks of that family, and where they fit in other environments. A score is the mean return over the stages of a
life, so that it counts how fast an agent learns and how far it gets. The rival makes as many updates on as many steps,
with the best of five step sizes on training tasks; in other environments it has the same choice again there.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.meta import evaluation
from metarl_jax.reproductions import NO_RULE, Claim
from metarl_jax.reproductions.cells import kept
from metarl_jax.runs import config, evaluate
from metarl_jax.runs import train as experiment
from metarl_jax.runs.build import Job, build
from metarl_jax.runs.config import shipped_config

NUM_SEEDS, NUM_TASKS = 3, 40
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the rule's own step size, for its rival
TRAINING_TASKS = 10  # that the rival's step size is chosen on


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a rule is tried."""

    what: str
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)


CASES: dict[str, tuple[str, list[Place]]] = {
    "lpg": (
        "lpg_tabular",
        [
            Place("held-out MDPs"),
            Place("GridNavi", {"env": "GridNavi-v0", "env_options": {"observation": "one_hot"}}),
            Place("Catch", {"env": "gymnax:Catch-bsuite"}),
        ],
    ),
    "lpo": (
        "lpo_cartpole",
        [
            Place("held-out CartPoles"),
            Place("Acrobot", {"env": "gymnax:Acrobot-v1", "env_options": {"horizon": 200}}),
            Place("Catch", {"env": "gymnax:Catch-bsuite"}),
        ],
    ),
    "lirpg": ("lirpg_cartpole", [Place("held-out CartPoles, paid late")]),
}
CELLS = tuple(CASES)


def run(directory: Path, report: Callable[[Any], None], cells: tuple[str, ...]) -> list[Claim]:
    """Train (going on where it was left), hand over, compare."""
    claims = []
    for cell in cells:
        name, places = CASES[cell]
        chosen = config.load(shipped_config(name), [f"num_seeds={NUM_SEEDS}"])
        job = build(chosen)
        experiment.train(job, directory / cell, resume=True, report=report)
        _, rules = evaluate.restore(job, directory / cell)
        for place in places:
            report(f"{cell}: {place.what}")
            there = chosen.model_copy(update=place.changes)
            files = directory / f"{cell}-{place.what}".replace(" ", "_").replace(",", "")
            claims += _compared(cell, place, there, rules, files)
    return claims


def _compared(cell: str, place: Place, there: Any, rules: Any, files: Path) -> list[Claim]:
    job = build(there)
    rival = next(name for name in job.parts if name != "run")
    # Not the first `NUM_TASKS`: designs were compared on those.
    tasks = jax.tree.map(lambda x: x[NUM_TASKS:], job.evaluation_tasks(2 * NUM_TASKS))

    def rule_lives() -> Any:
        return jax.jit(lambda trees: jax.lax.map(lambda eta: _lived(job, "run", eta, tasks), trees))(rules)

    def rival_lives() -> Any:
        rates = [there.lr * f for f in FACTORS]
        train, _ = job.tasks.split(there.task_seed)
        some = jax.vmap(train.sample)(jax.random.split(jax.random.key(3), TRAINING_TASKS))

        @jax.jit
        def at(rate: jax.Array, tasks: Any) -> jax.Array:
            made = build(there.model_copy(update={"rival_lr": rate}))
            return _lived(made, rival, {}, tasks)

        tried = [float(jnp.mean(at(rate, some))) for rate in rates]
        return at(rates[int(np.nanargmax(tried))], tasks)

    ours = kept(files.with_suffix(".npy"), rule_lives)  # [seed, task]
    theirs = kept(files.parent / f"{files.name}-{rival}.npy", rival_lives)  # [task]
    found = []
    for what, values in ((cell.upper(), ours), (rival, theirs[None])):
        mean, low, high = evaluation.bootstrap_interval(values, evaluation.mean)
        found.append(Claim(f"{place.what}: {what}", mean, (low, high), NO_RULE, True))
    mean, low, high = evaluation.bootstrap_interval(ours - theirs, evaluation.mean)
    is_home = not place.changes
    rule = ">= 0" if is_home else NO_RULE
    found.append(Claim(f"{place.what}: {cell.upper()} - {rival}", mean, (low, high), rule, not is_home or mean >= 0))
    return found


def _lived(job: Job, who: str, eta: Any, tasks: Any) -> jax.Array:
    """[task] mean return over the stages of a life."""
    stages = job.config.eval_updates  # type: ignore[union-attr]
    curves = evaluation.adaptation_curve(job.parts[who], eta, jax.random.key(12), tasks, stages)
    return jnp.mean(curves[:, 1:], axis=(1, 2))
