"""A learned hyperparameter optimiser for PPO, on families it has not seen, beside other ways of choosing.

Twelve families; every third in alphabetical order is held out (from the third on: two earlier designs had been looked
at on the other two thirds), the rest make the landscapes that the optimiser learns from. On a new task of each held-out
family twenty searches of each kind, each with training seeds of its own. What a search has chosen after t trials is
trained again with two fresh seeds; that is its score, 0 being an untrained policy or worse (actions without bounds can
cost any amount) and 1 the best score that any method reached on the task. A trial is one training of 65,536 steps, the
same for all methods; what the landscapes cost is apart.

The control learned from landscapes whose settings were dealt anew to their runs: it searches in the same way, and knows
nothing. What the optimiser has above it comes from the landscapes.

Population-based training uses the steps of 16 trials. It ends with an agent, not with a setting, so that its score is
that of the last interval, of the member that was best in the interval before. Meta-gradients (Xu et al. 2018) use
those of one: the agent begins with the best fixed setting and tunes step size, entropy weight and lambda while it
learns; every fourth of its rollouts is what the meta-gradient is judged on, and teaches the agent nothing.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from metarl_jax.algorithms import registry
from metarl_jax.algorithms.interface import AROUND_ITERATIONS
from metarl_jax.reproductions import NO_RULE, Claim
from metarl_jax.reproductions.cells import kept
from metarl_jax.reproductions.pictures import search_curves
from metarl_jax.runs import files
from metarl_jax.runs import training_loop as population
from metarl_jax.runs.config import validate
from metarl_jax.sweeps import pbt
from metarl_jax.tuning import landscapes, search_methods
from metarl_jax.tuning import learned_optimizer as optimizer
from metarl_jax.tuning.landscape_families import FAMILIES
from metarl_jax.tuning.search_methods import Tried
from metarl_jax.tuning.task_features import describe
from metarl_jax.tuning.tune import Trainer

HELD_OUT = tuple(sorted(FAMILIES)[2::3])
CELLS = HELD_OUT
TRAINING = tuple(name for name in sorted(FAMILIES) if name not in HELD_OUT)
SEARCHES, TRIALS, FRESH_SEEDS = 20, 16, 2
NEW_TASK = 100  # task seed; the landscapes have 0 to 3
MOMENTS = {"learned": (1, 2, 4, 8, 16), "control": (4, 16), "TPE": (8, 16), "random": (8, 16, 32), "grid": (16,)}
INTERVAL = 4  # of population-based training, iterations
META_GRADIENT: dict[str, Any] = {  # chosen by a look at cartpole and pendulum, which are trained on
    "algorithm": "meta_gradient_rl",
    "surrogate": "ppo",
    "tune": ["lr", "entropy_coef", "gae_lambda"],
    "num_inner_steps": 3,
    "meta_lr": 0.1,
    "meta_max_grad_norm": None,
    "outer_critic": False,
}
TAGS = {name: i + 1 for i, name in enumerate((*MOMENTS, "fixed"))}


def run(directory: Path, report: Callable[[Any], None], cells: tuple[str, ...]) -> list[Claim]:
    """The claims over the held-out families `cells`; landscapes, optimisers and searches are kept in `directory`."""
    data = landscapes.make(directory / "landscapes", TRAINING, report)

    @functools.cache
    def model(name: str) -> optimizer.Optimizer:
        path = directory / f"{name}.npz"
        if not path.exists():
            report(f"{name}: an ensemble of {optimizer.MEMBERS} and a proposer")
            optimizer.save(optimizer.fit(data, shuffled=name == "control")[0], path)
        return optimizer.load(path)

    scores = {name: _scores(directory / name, name, model, report) for name in cells}
    points = {key: interval(values) for key, values in over_tasks(scores).items()}
    search_curves(directory / "learned-optimizer.png", points)
    return claims(scores)


def _scores(directory: Path, family: str, model: Callable[[str], optimizer.Optimizer], report: Callable) -> dict:
    """{(method, trials): scores [search]} on the new task of a family, normalised."""
    config = landscapes.tuned_config(FAMILIES[family])
    trainer = Trainer(config, SEARCHES)
    traits = kept(directory / "traits.npy", lambda: describe(config, [NEW_TASK])[0])
    asks: dict[str, Callable[[], search_methods.Ask]] = {
        "random": lambda: search_methods.random_search(SEARCHES),
        "TPE": lambda: search_methods.tpe(SEARCHES),
        "grid": search_methods.grid_search,
        "learned": lambda: search_methods.learned(model("learned"), traits),
        "control": lambda: search_methods.learned(model("control"), traits),
    }
    raw: dict[tuple[str, int], np.ndarray] = {}
    begins = []
    for method, make in asks.items():
        report(f"{family}: {method}")
        tried = _kept_search(directory / method, trainer, make, max(MOMENTS[method]), TAGS[method])
        begins.append(tried.curves[..., 0])
        for moment in MOMENTS[method]:
            if method in ("learned", "control"):
                chosen = search_methods.learned_choice(model(method), traits, tried, moment)
            else:
                chosen = tried.best(moment)
            points = tried.points[np.arange(SEARCHES), chosen]
            tag = TAGS[method] * 100 + moment
            raw[method, moment] = _fresh(directory / f"{method}-{moment}.npy", trainer, points, tag)
    start = np.tile(model("learned").start, (SEARCHES, 1))
    raw["best fixed", 1] = _fresh(directory / "fixed.npy", trainer, start, TAGS["fixed"] * 100)
    report(f"{family}: meta-gradients")
    raw["meta-gradients", 1] = kept(
        directory / "meta_gradient.npy", functools.partial(_meta_gradient, config, model("learned").start)
    )
    report(f"{family}: PBT")
    raw["PBT", TRIALS] = kept(directory / "pbt.npy", functools.partial(_population_based, config))
    low = np.nanmedian(np.concatenate([b.reshape(-1) for b in begins]))
    high = max(np.nanmax(v) for v in raw.values())
    return {k: np.maximum(np.nan_to_num((v - low) / (high - low), nan=0.0), 0.0) for k, v in raw.items()}


def _kept_search(directory: Path, trainer: Trainer, make: Callable, trials: int, tag: int) -> Tried:
    """A search's arrays, as files."""
    paths = {part: directory / f"{part}.npy" for part in Tried._fields}
    if not all(path.exists() for path in paths.values()):
        tried = search_methods.run(trainer, make(), SEARCHES, trials, NEW_TASK, tag)
        for part, path in paths.items():
            kept(path, functools.partial(getattr, tried, part))
    return Tried(*(files.read_arrays(path, "results")[""] for path in paths.values()))


def _fresh(path: Path, trainer: Trainer, points: np.ndarray, tag: int) -> np.ndarray:
    """[search] mean score of settings [search, 7], each trained anew with `FRESH_SEEDS` seeds."""

    def make() -> np.ndarray:
        seeds = [search_methods.training_seed(tag, s, 900 + i) for i in range(FRESH_SEEDS) for s in range(len(points))]
        _, scores = trainer(np.tile(points, (FRESH_SEEDS, 1)), seeds, [NEW_TASK] * len(seeds))
        return scores.reshape(FRESH_SEEDS, -1).mean(axis=0)

    return kept(path, make)


def _population_based(config: Any) -> np.ndarray:
    """[search] of populations of 16: last interval's score of the member that was best in the one before."""
    config = config.model_copy(update={"task_seed": NEW_TASK})
    dimensions, rng = landscapes.space(), np.random.default_rng(13)
    points = rng.random((SEARCHES * TRIALS, len(dimensions)))
    settings = landscapes.to_settings(points)
    values, _ = population.lanes(settings, [d.name for d in dimensions], [0])
    lanes = jnp.arange(len(settings)) + 10**9
    intervals = config.num_iterations // INTERVAL
    call = pbt.make_call(config, dimensions, TRIALS, INTERVAL, intervals, batch_size=10)
    _, _, record = call(population.make_init(config)(values, lanes), values, lanes, jnp.asarray(0))
    fitness = np.asarray(record.fitness)  # [interval, search, member]
    best = fitness[-2].argmax(axis=1)
    return np.where(np.isfinite(fitness[-1]), fitness[-1], np.nan)[np.arange(SEARCHES), best]


def _meta_gradient(config: Any, start: np.ndarray) -> np.ndarray:
    """[search] of agents that tune themselves from the setting `start` on, as many steps as one trial."""
    setting = landscapes.to_settings(start[None])[0]
    known = registry.entry("meta_gradient_rl").options.model_fields
    shared = config.model_dump(include=set(known) - {"algorithm", *AROUND_ITERATIONS})
    count = config.num_iterations // (META_GRADIENT["num_inner_steps"] + 1)  # rollouts of an iteration
    own = validate({**shared, **setting, **META_GRADIENT, "num_iterations": count, "task_seed": NEW_TASK})
    seeds = jnp.asarray([search_methods.training_seed(TAGS["fixed"] * 100 + 1, s, 900) for s in range(SEARCHES)])
    call = population.make_call(own, count, 10)
    values: dict[str, Any] = {}
    _, score, finite = call(population.make_init(own)(values, seeds), values, seeds, jnp.asarray(0))
    fine = np.all(np.asarray(finite), axis=1, keepdims=True)
    return landscapes.scored(np.where(fine, np.asarray(score, float), np.nan))


# --- what is claimed ------------------------------------------------------------------------------------


def claims(scores: dict[str, dict[tuple[str, int], np.ndarray]]) -> list[Claim]:
    """Each method's score over all tasks, and the differences that the rule is about."""
    by_method = over_tasks(scores)
    found = []
    for (method, trials), values in sorted(by_method.items(), key=lambda kv: (kv[0][0], kv[0][1])):
        mean, between = interval(values)
        found.append(Claim(f"{method}, {trials} trial{'s' * (trials > 1)}", mean, between, NO_RULE, True))
    ours, fixed = by_method["learned", TRIALS], by_method["best fixed", 1]
    for what, other, rule, holds in (
        ("learned - random, 16 trials", by_method["random", TRIALS], "interval > 0", lambda m, b: b[0] > 0),
        ("learned, 16 trials - best fixed", fixed, "mean >= 0", lambda m, b: m >= 0),
        ("learned - TPE, 16 trials", by_method["TPE", TRIALS], NO_RULE, lambda m, b: True),
        ("learned - PBT, 16 trials", by_method["PBT", TRIALS], NO_RULE, lambda m, b: True),
        ("learned - grid, 16 trials", by_method["grid", 16], NO_RULE, lambda m, b: True),
        ("learned - control, 16 trials", by_method["control", TRIALS], NO_RULE, lambda m, b: True),
    ):
        mean, between = interval(ours - other)
        found.append(Claim(what, mean, between, rule, bool(holds(mean, between))))
    for what, one, other in (
        ("learned - control, 4 trials", by_method["learned", 4], by_method["control", 4]),
        ("meta-gradients - best fixed, 1 trial", by_method["meta-gradients", 1], fixed),
    ):
        mean, between = interval(one - other)
        found.append(Claim(what, mean, between, NO_RULE, True))
    mean, between = interval(by_method["control", TRIALS] - fixed)
    found.append(Claim("control, 16 trials - best fixed", mean, between, "interval not > 0", bool(between[0] <= 0)))
    for name, its in scores.items():
        mean, between = interval((its["learned", TRIALS] - its["random", TRIALS])[None])
        found.append(Claim(f"{name}: learned - random, 16 trials", mean, between, NO_RULE, True))
    return found


def over_tasks(scores: dict[str, dict[tuple[str, int], np.ndarray]]) -> dict[tuple[str, int], np.ndarray]:
    """(method, trials) -> [task, search]."""
    return {k: np.stack([s[k] for s in scores.values()]) for k in next(iter(scores.values()))}


def interval(values: np.ndarray, resamples: int = 10_000) -> tuple[float, tuple[float, float]]:
    """Mean of [task, search] and its 95% bootstrap interval: searches resampled within each task, tasks as they are."""
    rng = np.random.default_rng(0)
    tasks, count = values.shape
    means = np.zeros(resamples)
    for row in values:
        means += row[rng.integers(count, size=(resamples, count))].mean(axis=1) / tasks
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), (float(low), float(high))
