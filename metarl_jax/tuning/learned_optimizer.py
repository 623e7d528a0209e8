"""The learned hyperparameter optimiser: learned from landscapes (`fit`), kept in a file, asked what to try (`propose`).

Each member of the ensemble sees families drawn with replacement, so that the members disagree about new families
and not about noise. Histories are random subsets of a task's runs, some of them mostly of its good runs, as they come
about when somebody is searching.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl_jax.options import ConfigError
from metarl_jax.runs import files
from metarl_jax.tree import leaf_names
from metarl_jax.tuning import posterior
from metarl_jax.tuning.landscape_families import SPACE
from metarl_jax.tuning.landscapes import CURVE_POINTS, Landscapes
from metarl_jax.tuning.performance_predictor import History, Predictor, Proposer

DIM = len(SPACE)
MEMBERS = 8
MAX_HISTORY = 24
KAPPAS = (-1.0, 1.0)  # that proposals are trained for
WEIGHTS = np.asarray([16.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # of squared distances: lr and entropy matter most
INCUMBENTS = 6  # settings that proposals start from: the best that were tried
AROUND = 40  # settings that are judged around each of them, beside the proposals
NEARBY = (0.05, 0.15)  # their distance from it, standard deviations
RANDOM = 1500  # settings anywhere that are judged too
EXPLORATION = (-0.5, 0.5)  # kappa of one proposal after another
OPTIMISM = 0.5  # posterior standard deviations that a setting is credited with


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What `fit` learned; arrays only."""

    members: Any  # parameters of the predictors, leaves [MEMBERS, ...]
    proposer: Any
    trait_mean: np.ndarray
    trait_std: np.ndarray
    start: np.ndarray  # [7] the setting that is best on average over the families: the first to be tried
    families: tuple[str, ...]  # that it has seen


class _Data(NamedTuple):
    """Landscapes by task: the runs of task t are `runs[t]`."""

    runs: jax.Array  # [task, R]
    weight: jax.Array  # [member, task] log-probability that a member is shown a task
    x: jax.Array  # [run, 7]
    curve: jax.Array  # [run, 16]
    score: jax.Array  # [run] 0 untrained, 1 the best of the task
    traits: jax.Array  # [task, T]


def tasks_of(landscapes: Landscapes) -> list[tuple[int, int]]:
    """(family, task) of every task that the landscapes have."""
    return sorted(set(zip(landscapes.family.tolist(), landscapes.task.tolist(), strict=True)))


def normalised_scores(landscapes: Landscapes) -> np.ndarray:
    """[run] 0 for the untrained policy of its task, 1 for the best: the mean of the task's three best runs."""
    scores = np.full(len(landscapes.scores), np.nan)
    for family, task in tasks_of(landscapes):
        here = (landscapes.family == family) & (landscapes.task == task)
        fine = here & ~landscapes.diverged
        low = np.nanmedian(landscapes.curves[fine, 0])
        high = np.sort(landscapes.scores[fine])[-3:].mean()
        scores[here] = np.clip((landscapes.scores[here] - low) / max(high - low, 1e-6), posterior.LOWEST, 1.2)
    return np.where(np.isfinite(scores), scores, posterior.LOWEST)


def best_on_average(landscapes: Landscapes, neighbours: int = 8) -> np.ndarray:
    """[7] The setting whose surroundings did best, averaged over families.

    One run tells little: a setting is judged by the runs nearest to it in each family, its own among them.
    """
    scores = normalised_scores(landscapes)
    candidates = landscapes.points[landscapes.family == 0]
    total = np.zeros(len(candidates))
    for family in range(len(landscapes.names)):
        here = landscapes.family == family
        distance = ((candidates[:, None] - landscapes.points[here][None]) ** 2 * WEIGHTS).sum(axis=-1)
        near = np.argsort(distance, axis=1)[:, :neighbours]
        total += scores[here][near].mean(axis=1)
    return candidates[total.argmax()]


def fit(
    landscapes: Landscapes,
    *,
    seed: int = 0,
    steps: int = 3000,
    batch_size: int = 32,
    queries: int = 16,
    lr: float = 2e-3,
    shuffled: bool = False,
) -> tuple[Optimizer, dict[str, np.ndarray]]:
    """Train predictors and proposer together; also returns their losses [steps].

    `shuffled` is the negative control: within each task, settings are dealt anew to the runs, so that the landscapes
    tell nothing about settings.
    """
    rng = np.random.default_rng(seed)
    if shuffled:
        landscapes = _dealt_anew(landscapes, rng)
    every = landscapes.traits.reshape(-1, landscapes.traits.shape[-1])
    mean, std = every.mean(axis=0), every.std(axis=0) + 1e-3
    data = _as_data(landscapes, mean, std, rng)
    start = best_on_average(landscapes)
    empty = empty_history(data.traits.shape[-1])
    keys = jax.random.split(jax.random.key(seed), MEMBERS + 2)
    members = jax.vmap(lambda k: Predictor().init(k, empty, jnp.zeros((1, DIM))))(keys[:MEMBERS])
    proposing = Proposer().init(keys[MEMBERS], empty, jnp.zeros((1, DIM)), jnp.zeros(1))
    (members, proposing, _), (nll, worth) = _train(data, members, proposing, keys[-1], steps, batch_size, queries, lr)
    members, proposing = jax.tree.map(np.asarray, (members, proposing))
    made = Optimizer(members, proposing, mean, std, start, landscapes.names)
    return made, {"predictor": np.asarray(nll), "proposer": np.asarray(worth)}


@partial(jax.jit, static_argnames=("steps", "batch_size", "queries", "lr"))
def _train(
    data: _Data, members: Any, proposing: Any, key: jax.Array, steps: int, batch_size: int, queries: int, lr: float
) -> Any:
    """(members, proposer, optimiser states), and the losses of both [steps]."""
    predictor: Any = Predictor()
    proposer: Any = Proposer()
    adam = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(lr, steps), weight_decay=1e-3)
    )

    def predict(member: Any, history: History, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return predictor.apply(member, history, x)

    def drawn(key: jax.Array, weight: jax.Array) -> tuple[History, jax.Array, jax.Array]:
        """A history of one task, and settings [Q, 7] with their scores [Q]."""
        k = jax.random.split(key, 6)
        task = jax.random.categorical(k[0], weight)
        runs = data.runs[task]
        # A few good runs or any, without replacement: the largest of score * tilt + Gumbel noise.
        tilt = jax.random.uniform(k[1], maxval=8.0)
        noise = jax.random.gumbel(k[2], runs.shape)
        shown = runs[jax.lax.top_k(tilt * data.score[runs] + noise, MAX_HISTORY)[1]]
        shown = jax.random.permutation(k[3], shown)
        count = jax.random.randint(k[4], (), 0, MAX_HISTORY + 1)
        mask = (jnp.arange(MAX_HISTORY) < count).astype(float)
        history = History(data.x[shown], data.curve[shown], mask, data.traits[task])
        asked = jax.random.choice(k[5], data.runs[task], (queries,))
        return history, data.x[asked], data.score[asked]

    def member_loss(member: Any, key: jax.Array, weight: jax.Array) -> jax.Array:
        history, x, y = jax.vmap(drawn, in_axes=(0, None))(jax.random.split(key, batch_size), weight)
        mu, sigma = jax.vmap(predict, in_axes=(None, 0, 0))(member, history, x)
        return jnp.mean(0.5 * ((y - mu) / sigma) ** 2 + jnp.log(sigma))

    def proposer_loss(params: Any, members: Any, key: jax.Array) -> jax.Array:
        k = jax.random.split(key, 5)
        uniform = jnp.zeros_like(data.weight[0])
        history, x, _ = jax.vmap(drawn, in_axes=(0, None))(jax.random.split(k[0], batch_size), uniform)
        x = jnp.where(jax.random.bernoulli(k[1], 0.5, (*x.shape[:-1], 1)), x, jax.random.uniform(k[2], x.shape))
        kappa = jax.random.uniform(k[3], x.shape[:-1], minval=KAPPAS[0], maxval=KAPPAS[1])
        better = jax.vmap(proposer.apply, in_axes=(None, 0, 0, 0))(params, history, x, kappa)
        better = jnp.clip(better + 0.03 * jax.random.normal(k[4], better.shape), 0, 1)  # no needles
        mu = jax.vmap(jax.vmap(lambda m, h, q: predict(m, h, q)[0], in_axes=(None, 0, 0)), in_axes=(0, None, None))(
            members, history, better
        )
        return -jnp.mean(mu.mean(axis=0) + kappa * mu.std(axis=0))

    def step(carry: Any, key: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        members, proposing, states = carry
        first, second = jax.random.split(key)
        value, grads = jax.vmap(jax.value_and_grad(member_loss))(members, jax.random.split(first, MEMBERS), data.weight)
        updates, member_states = jax.vmap(adam.update)(grads, states[0], members)
        members = optax.apply_updates(members, updates)
        worth, grads = jax.value_and_grad(proposer_loss)(proposing, jax.lax.stop_gradient(members), second)
        updates, proposer_state = adam.update(grads, states[1], proposing)
        proposing = optax.apply_updates(proposing, updates)
        return (members, proposing, (member_states, proposer_state)), (value.mean(), worth)

    states = (jax.vmap(adam.init)(members), adam.init(proposing))
    return jax.lax.scan(step, (members, proposing, states), jax.random.split(key, steps))


def _dealt_anew(landscapes: Landscapes, rng: np.random.Generator) -> Landscapes:
    points = landscapes.points.copy()
    for family, task in tasks_of(landscapes):
        its = np.flatnonzero((landscapes.family == family) & (landscapes.task == task))
        points[its] = points[rng.permutation(its)]
    return dataclasses.replace(landscapes, points=points)


def _as_data(landscapes: Landscapes, mean: np.ndarray, std: np.ndarray, rng: np.random.Generator) -> _Data:
    pairs, count = tasks_of(landscapes), len(landscapes.names)
    runs = [np.flatnonzero((landscapes.family == f) & (landscapes.task == t)) for f, t in pairs]
    size = min(len(r) for r in runs)
    drawn = np.stack([np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(MEMBERS)])
    weight = np.log(np.maximum(drawn[:, [f for f, _ in pairs]], 1e-6))
    curves = landscapes.curves.copy()
    for its in runs:
        curves[its] = _without_gaps(curves[its])
    traits = standardised(np.stack([landscapes.traits[f, t] for f, t in pairs]), mean, std)
    arrays = (weight, landscapes.points, curves, normalised_scores(landscapes), traits)
    return _Data(jnp.asarray(np.stack([r[:size] for r in runs])), *(jnp.asarray(x, jnp.float32) for x in arrays))


def standardised(traits: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Traits in units of their deviation over the training tasks, within 3 of it."""
    return np.clip((traits - mean) / std, -3, 3)


def empty_history(num_traits: int) -> History:
    """Nothing tried yet."""
    return History(*(jnp.zeros(s) for s in ((MAX_HISTORY, DIM), (MAX_HISTORY, CURVE_POINTS), MAX_HISTORY, num_traits)))


def _without_gaps(curves: np.ndarray) -> np.ndarray:
    """Curves of one task, with its worst value where a training diverged."""
    finite = np.isfinite(curves)
    return np.where(finite, curves, curves[finite].min() if finite.any() else 0.0)


# --- asking ---------------------------------------------------------------------------------------------


def history_of(optimizer: Optimizer, x: np.ndarray, curves: np.ndarray, traits: np.ndarray) -> History:
    """The last `MAX_HISTORY` of settings [N, 7] tried and their curves [N, 16] (NaN: diverged), padded."""
    x, curves = np.asarray(x, float).reshape(-1, DIM)[-MAX_HISTORY:], np.asarray(curves, float)[-MAX_HISTORY:]
    curves = _without_gaps(curves)
    padded = MAX_HISTORY - len(x)
    mask = np.concatenate([np.ones(len(x)), np.zeros(padded)])
    x = np.concatenate([x, np.zeros((padded, DIM))])
    curves = np.concatenate([curves.reshape(-1, CURVE_POINTS), np.zeros((padded, CURVE_POINTS))])
    known = standardised(traits, optimizer.trait_mean, optimizer.trait_std)
    return History(*(jnp.asarray(v, jnp.float32) for v in (x, curves, mask, known)))


@jax.jit
def predicted(members: Any, history: History, x: jax.Array) -> jax.Array:
    """[MEMBERS, Q] mean scores that the members expect of settings x [Q, 7]."""
    return jax.vmap(lambda m: Predictor().apply(m, history, x)[0])(members)  # type: ignore[index]


@jax.jit
def _candidates(proposer: Any, history: History, x: jax.Array, kappa: jax.Array) -> jax.Array:
    once = Proposer().apply(proposer, history, x, kappa)
    twice = Proposer().apply(proposer, history, once, kappa)
    return jnp.concatenate([once, twice])  # type: ignore[list-item]


def propose(optimizer: Optimizer, history: History, tried: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 7] settings to try next, `optimizer.start` first of all.

    Of proposals from the best that were tried and of what they lead to, of settings around these, of settings anywhere
    and of those that were tried, which may be repeated: the one with the largest posterior mean + `OPTIMISM` standard
    deviations. Each is taken to earn what is expected of it when the next of the same round is chosen.
    """
    x, gains = _tried(history)
    chosen: list[np.ndarray] = []
    for trial in range(tried, tried + count):
        known = _known(optimizer, history, x, gains)
        kappa = EXPLORATION[trial % len(EXPLORATION)]
        setting = optimizer.start if trial == 0 else _most_promising(optimizer, history, known, kappa, rng)
        gain = _expected(optimizer, history, known, setting[None])[0] * known.unit
        x, gains = np.concatenate([x, setting[None]]), np.concatenate([gains, gain])
        chosen.append(setting)
    return np.stack(chosen)


def _most_promising(
    optimizer: Optimizer, history: History, known: posterior.Known, kappa: float, rng: np.random.Generator
) -> np.ndarray:
    starts = optimizer.start[None]
    if len(known.x):
        starts = known.x[np.argsort(-_expected(optimizer, history, known, known.x)[0])]
    starts = np.resize(starts[:INCUMBENTS], (INCUMBENTS, DIM))  # one size: compiled once
    moved = _candidates(optimizer.proposer, history, jnp.asarray(starts, jnp.float32), jnp.full(len(starts), kappa))
    steps = rng.standard_normal((len(NEARBY), INCUMBENTS, AROUND, DIM)) * np.reshape(NEARBY, (-1, 1, 1, 1))
    around = np.clip(starts[:, None] + steps, 0, 1).reshape(-1, DIM)
    options = np.concatenate([np.asarray(moved, float), around, rng.random((RANDOM, DIM)), starts])
    mean, deviation = _expected(optimizer, history, known, options)
    return options[int(np.argmax(mean + OPTIMISM * deviation))]


def best_tried(optimizer: Optimizer, history: History) -> int:
    """Index of the setting to keep: that with the largest posterior mean, which is not the one with the best score."""
    x, gains = _tried(history)
    return int(np.argmax(_expected(optimizer, history, _known(optimizer, history, x, gains), x)[0]))


def _tried(history: History) -> tuple[np.ndarray, np.ndarray]:
    """Settings [N, 7] and what they gained on the untrained policy [N], in the task's units."""
    there = np.asarray(history.mask) > 0
    curves = np.asarray(history.curve, float)[there]
    low = np.median(curves[:, 0]) if len(curves) else 0.0
    return np.asarray(history.x, float)[there], curves[:, -2:].mean(axis=1) - low


def _prior(optimizer: Optimizer, history: History, x: np.ndarray) -> np.ndarray:
    """[MEMBERS, N] what the members expect of settings from the task's traits alone."""
    padded = np.concatenate([x, np.zeros((-len(x) % 32, DIM))])  # few sizes to compile
    blank = history._replace(mask=jnp.zeros_like(history.mask))
    means = predicted(optimizer.members, blank, jnp.asarray(padded, jnp.float32))
    return np.asarray(means, float)[:, : len(x)]


def _known(optimizer: Optimizer, history: History, x: np.ndarray, gains: np.ndarray) -> posterior.Known:
    return posterior.condition(x, _prior(optimizer, history, x), gains, WEIGHTS)


def _expected(optimizer: Optimizer, history: History, known: posterior.Known, x: np.ndarray) -> Any:
    return posterior.expected(known, x, _prior(optimizer, history, x), WEIGHTS)


# --- files ----------------------------------------------------------------------------------------------


def save(optimizer: Optimizer, path: Path) -> None:
    """One compressed .npz, weights in half precision."""
    arrays = {"families": np.asarray(optimizer.families)}
    for part in ("trait_mean", "trait_std", "start"):
        arrays[part] = getattr(optimizer, part)
    for part in ("members", "proposer"):
        tree = getattr(optimizer, part)
        for name, leaf in zip(leaf_names(tree), jax.tree.leaves(tree), strict=True):
            arrays[f"{part}.{name}"] = np.asarray(leaf, np.float16)
    files.write_arrays(path, arrays)


def load(path: Path) -> Optimizer:
    """What `save` wrote. Raises: ConfigError for a file that is something else."""
    arrays = files.read_arrays(path, "optimizer")
    try:
        return _of_arrays(arrays)
    except (KeyError, ValueError, TypeError):
        raise ConfigError(f"optimizer {path}: is not a learned optimiser") from None


def _of_arrays(arrays: dict[str, np.ndarray]) -> Optimizer:
    traits = len(arrays["trait_mean"])
    empty = empty_history(traits)
    shapes = {
        "members": jax.eval_shape(lambda k: Predictor().init(k, empty, jnp.zeros((1, DIM))), jax.random.key(0)),
        "proposer": jax.eval_shape(
            lambda k: Proposer().init(k, empty, jnp.zeros((1, DIM)), jnp.zeros(1)), jax.random.key(0)
        ),
    }
    parts = {}
    for part, shape in shapes.items():
        leaves = [np.asarray(arrays[f"{part}.{name}"], np.float32) for name in leaf_names(shape)]
        parts[part] = jax.tree.unflatten(jax.tree.structure(shape), leaves)
    names = tuple(str(n) for n in arrays["families"])
    return Optimizer(**parts, **{k: arrays[k] for k in ("trait_mean", "trait_std", "start")}, families=names)
