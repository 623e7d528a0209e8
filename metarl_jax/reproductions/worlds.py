"""Worlds whose rules an agent is not told: driving, recommendation and a game, by two meta-learners beside PPO.

`configs/promp_WORLD.yaml` and `configs/rl2_WORLD.yaml` say what is trained. Multi-task PPO is one policy for all tasks,
without a memory and without updates: ProMP's network and optimiser, on `LONGER` times ProMP's environment steps. All
are scored on the same 40 held-out tasks: ProMP before and after one update, RL2 in the first and in the last episode of
a trial. In the game the reference is PPO that is told what the actions do.

Judged is that the return after adaptation is above that before it, and above that of multi-task PPO, each by a 95%
bootstrap interval over tasks, stratified by seed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.algorithms.interface import RANDOM_INIT
from metarl_jax.meta import evaluation
from metarl_jax.reproductions import NO_RULE, Claim, records
from metarl_jax.reproductions.locomotion import training_curve
from metarl_jax.reproductions.pictures import training_curves
from metarl_jax.runs import config, evaluate, train
from metarl_jax.runs.build import build

WORLDS: dict[str, dict[str, str]] = {  # world -> method -> its configuration; a world is one entry
    "driving": {"promp": "promp_driving", "rl2": "rl2_driving"},
    "recommender": {"promp": "promp_recommender", "rl2": "rl2_recommender"},
    "games": {"promp": "promp_minatar", "rl2": "rl2_minatar"},
}
PPO = "ppo"  # one policy for all tasks, the rival of ...
BESIDE = "promp"  # ... this method, on so many times its steps:
LONGER = {"driving": 4, "recommender": 4, "games": 1}
TOLD = "told"  # the same network where only these rules are drawn: the others need not be found out
STILL_DRAWN = {"games": ["sticky"]}
PLAIN = {PPO: "multi-task PPO", TOLD: "PPO, told what actions do"}
CELLS = {
    f"{world}-{method}": (world, method)
    for world, methods in WORLDS.items()
    for method in (PPO, *([TOLD] if world in STILL_DRAWN else []), *methods)
}
LABELS = ("before, or first episode", "after, or last episode")


def configuration(world: str, method: str) -> Any:
    """What a cell trains."""
    chosen = config.load(config.shipped_config(WORLDS[world][BESIDE if method in PLAIN else method]))
    if method not in PLAIN:
        return chosen
    changed = {"num_seeds": chosen.num_seeds, "num_iterations": LONGER[world] * chosen.num_iterations}
    if method == TOLD:
        changed["env_options"] = {**chosen.env_options, "rules": STILL_DRAWN[world]}
    return evaluate.without_adaptation(build(chosen)).model_copy(update=changed)


def run(directory: Path, report: Callable[[Any], None], cells: tuple[str, ...]) -> list[Claim]:
    """Train `cells` (kept in `directory`, going on where they were left), evaluate on held-out tasks, judge.

    Returns the claims of all cells that have a record in `directory`.
    """
    for cell in cells:
        world, method = CELLS[cell]
        where, found = directory / cell, _scores(directory, world, method, report)
        if method in PLAIN:
            records.write(directory, cell, _rows(world, method, found), None, where)
            continue
        rival = _scores(directory, world, PPO, report)["run"]
        claims = [*_judged(f"{world}, {method}", found["run"], rival), *_in_trials(world, found)]
        curve = training_curve(where, build(configuration(world, method)).work_per_iteration)
        records.write(directory, cell, claims, curve, where)
    known = records.read(directory, CELLS)
    for world, methods in WORLDS.items():
        curves = records.curves_of(known, [f"{world}-{method}" for method in methods])
        if curves:
            training_curves(directory / f"worlds-{world}.png", curves, labels=LABELS)
    return records.claims_of(known)


def _scores(directory: Path, world: str, method: str, report: Callable[[Any], None]) -> dict[str, np.ndarray]:
    """Returns [seed, task, update or episode, episode or trial] on held-out tasks, of the method and of references.

    References stand beside PPO, of which each plays single episodes, and again beside RL2 in trials.
    """
    c, where = configuration(world, method), directory / f"{world}-{method}"
    job = build(c)
    report(
        f"{world}, {method}: {c.num_seeds} seeds x {c.num_iterations} iterations of {job.work_per_iteration:,} steps"
    )
    train.train(job, where, resume=True, report=report)
    updates = 0 if method in PLAIN else job.evaluation.num_updates
    table, scores = evaluate.assess(where, num_updates=updates, baselines=method not in (BESIDE, TOLD), report=report)
    evaluate.save(where, table, scores)
    return scores


def _judged(name: str, scores: np.ndarray, rival: np.ndarray) -> list[Claim]:
    """`scores` of a method; `rival`: those of multi-task PPO."""
    before, after, plain = (x.mean(axis=-1) for x in (scores[:, :, 0], scores[:, :, -1], rival[:, :, 0]))
    claims = [_reported(f"{name}: return before adaptation", before)]
    claims.append(_reported(f"{name}: return after adaptation", after))
    for what, difference in (("gain by adapting", after - before), ("more than multi-task PPO", after - plain)):
        mean, low, high = evaluation.bootstrap_interval(difference, evaluation.mean)
        claims.append(Claim(f"{name}: {what}", mean, (low, high), "interval > 0", low > 0))
    return claims


def _rows(world: str, method: str, scores: dict[str, np.ndarray]) -> list[Claim]:
    """Returns of those that do not adapt: the policy trained, and what plays single episodes beside it."""
    names = {"run": PLAIN[method], **{name: name for name in scores if name not in ("run", RANDOM_INIT)}}
    return [
        _reported(f"{world}, {label}: return", scores[name][:, :, 0].mean(axis=-1)) for name, label in names.items()
    ]


def _in_trials(world: str, scores: dict[str, np.ndarray]) -> list[Claim]:
    """Returns of references that play trials, in the first and in the last episode."""
    return [
        _reported(f"{world}, {name}, in trials: return of the {episode} episode", values[:, :, at].mean(axis=-1))
        for name, values in scores.items()
        if name != "run" and values.shape[2] > 1
        for episode, at in (("first", 0), ("last", -1))
    ]


def _reported(what: str, returns: np.ndarray) -> Claim:
    """Of returns [seed, task]."""
    mean, low, high = evaluation.bootstrap_interval(returns, evaluation.mean)
    return Claim(what, mean, (low, high), NO_RULE, True)
