"""Ways of choosing hyperparameters on one task, many searches side by side: what a learned optimiser is compared with.

A search is a function `ask(s, tried) -> setting in [0, 1]^7`: what search s tries next, given what it has tried.
Searches take one trial at a time; `run` trains those of all searches together, which changes nothing for any of them.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from metarl_jax.tuning import landscapes, learned_optimizer
from metarl_jax.tuning.learned_optimizer import Optimizer

GRID_KEYS = ("lr", "entropy_coef", "gae_lambda", "clip_eps")  # two values each: a third and two thirds of the range


class Tried(NamedTuple):
    """What searches tried, in order."""

    points: np.ndarray  # [search, trial, 7]
    curves: np.ndarray  # [search, trial, 16] NaN: diverged
    scores: np.ndarray  # [search, trial]

    def best(self, trials: int) -> np.ndarray:
        """[search] the trial with the best score among the first `trials`."""
        return np.nan_to_num(self.scores[:, :trials], nan=-np.inf).argmax(axis=1)


Ask = Callable[[int, Tried], np.ndarray]  # (search, what it has tried so far) -> [7]


def run(trainer: Any, ask: Ask, searches: int, trials: int, task: int, tag: int) -> Tried:
    """`trials` trials of `searches` independent searches. `tag` keeps their training seeds apart from others'."""
    tried = Tried(np.zeros((searches, 0, 7)), np.zeros((searches, 0, landscapes.CURVE_POINTS)), np.zeros((searches, 0)))
    for trial in range(trials):
        points = np.stack([ask(s, Tried(*(a[s : s + 1] for a in tried))) for s in range(searches)])
        seeds = [training_seed(tag, s, trial) for s in range(searches)]
        curves, scores = trainer(points, seeds, [task] * searches)
        new = (points[:, None], curves[:, None], scores[:, None])
        tried = Tried(*(np.concatenate(pair, axis=1) for pair in zip(tried, new, strict=True)))
    return tried


def training_seed(tag: int, search: int, trial: int) -> int:
    """No two trainings of a comparison share one."""
    return (tag * 1000 + search) * 1000 + trial


def random_search(searches: int) -> Ask:
    """Uniform in [0, 1]^7."""
    generators = [np.random.default_rng([7, s]) for s in range(searches)]
    return lambda s, tried: generators[s].random(7)


def grid_search() -> Ask:
    """The corners of a grid, two values of each of `GRID_KEYS`, the rest as in the configuration that is tuned."""
    dimensions, plain = landscapes.space(), landscapes.tuned_config().model_dump()
    usual = np.asarray([d.unit(plain[d.name]) for d in dimensions])
    places = [[d.name for d in dimensions].index(key) for key in GRID_KEYS]
    corners = []
    for values in itertools.product((1 / 3, 2 / 3), repeat=len(places)):
        corners.append(usual.copy())
        corners[-1][places] = values
    return lambda s, tried: corners[tried.points.shape[1] % len(corners)]


def tpe(searches: int) -> Ask:
    """Tree-structured Parzen estimators (Bergstra et al. 2011), Optuna's by ask and tell. Needs metarl_jax[optuna]."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = [d.name for d in landscapes.space()]
    studies = [
        optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=s)) for s in range(searches)
    ]
    asked: dict[int, Any] = {}

    def ask(s: int, tried: Tried) -> np.ndarray:
        if s in asked:
            score = tried.scores[0, -1]
            failed = optuna.trial.TrialState.FAIL
            if np.isfinite(score):
                studies[s].tell(asked[s], float(score))
            else:
                studies[s].tell(asked[s], state=failed)
        asked[s] = studies[s].ask()
        return np.asarray([asked[s].suggest_float(name, 0.0, 1.0) for name in names])

    return ask


def learned(model: Optimizer, traits: np.ndarray) -> Ask:
    """The learned optimiser, its first trial included."""

    def ask(s: int, tried: Tried) -> np.ndarray:
        history = learned_optimizer.history_of(model, tried.points[0], tried.curves[0], traits)
        count = tried.points.shape[1]
        return learned_optimizer.propose(model, history, count, 1, np.random.default_rng([11, s, count]))[0]

    return ask


def learned_choice(model: Optimizer, traits: np.ndarray, tried: Tried, trials: int) -> np.ndarray:
    """[search] the trial that the learned optimiser keeps of the first `trials`."""
    kept = []
    for points, curves in zip(tried.points, tried.curves, strict=True):
        history = learned_optimizer.history_of(model, points[:trials], curves[:trials], traits)
        kept.append(learned_optimizer.best_tried(model, history))
    return np.asarray(kept)
