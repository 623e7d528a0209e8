"""RL2 on Bernoulli bandits (Duan et al. 2016, Table 1): total reward of n pulls of k arms, p ~ U[0, 1].

Strategies that are not learned come first, each to agree with the published number. As the authors did, the best of a
grid is shown for each cell: c and epsilon of 0, .1, ..., 1, discounts of .9, .99, .999, .9999, and for OTS of 1 to 20
draws those of `NUM_SAMPLES`. Then RL2 with a GRU, trained by the configurations named in `RECIPES`.

Beside them stands what bounds them: with n = 10 the exact Bayes optimum, beyond it the finite-horizon Gittins index,
which no way of acting is known to beat. The picture shows the regret against always pulling the best arm.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import reference
from metarl_jax.envs.bandit import bernoulli_bandit
from metarl_jax.reference.strategy import Strategy
from metarl_jax.reproductions import NO_RULE, Claim
from metarl_jax.reproductions.cells import agreement, kept, mean_interval, played, trained
from metarl_jax.reproductions.pictures import regret_curves
from metarl_jax.runs.config import shipped_config

NUM_SAMPLES = (1, 2, 3, 5, 7, 10, 14, 20)
DISCOUNTS = (0.9, 0.99, 0.999, 0.9999)
TENTHS = np.linspace(0, 1, 11)
CHOICE_TASKS = 1000  # the first of those below: the best of a grid is chosen on them, as many as the authors had
NUM_TASKS = {10: 40_000, 100: 4_000, 500: 1_000}  # by the number of pulls
OTS_TASKS = 2_000  # at most: it draws up to 20 numbers an arm and pull
RECIPES = {10: "rl2_bandit", 100: "papers/rl2_bandit_n100", 500: "papers/rl2_bandit_n500"}  # in configs/
NUM_SEEDS = 3
TRAINED_PULLS = 1_000_000  # by each seed at evaluation


class Cell(NamedTuple):
    """One column of the table."""

    pulls: int
    arms: int
    published: tuple[float, ...]  # in the order of ROWS, then RL2
    bound: float | None = None  # what RL2 has to reach; None: 99% of the best known
    recipe: str | None = None  # None: that of all cells of as many pulls, `RECIPES`


ROWS = ("random", "Gittins index", "Thompson sampling", "OTS", "UCB1", "epsilon-greedy", "greedy")
CELLS = {
    "n10-k5": Cell(10, 5, (5.0, 6.6, 5.7, 6.5, 6.7, 6.6, 6.6, 6.7), 6.62),
    "n10-k10": Cell(10, 10, (5.0, 6.6, 5.5, 6.2, 6.7, 6.6, 6.6, 6.7)),
    "n10-k50": Cell(10, 50, (5.1, 6.5, 5.2, 5.5, 6.6, 6.5, 6.5, 6.8), recipe="papers/rl2_bandit_n10_k50"),
    "n100-k5": Cell(100, 5, (49.9, 78.3, 74.7, 77.9, 78.0, 75.4, 74.8, 78.7), 78.0),
    "n100-k10": Cell(100, 10, (49.9, 82.8, 76.7, 81.4, 82.4, 77.4, 77.1, 83.5)),
    "n100-k50": Cell(100, 50, (49.8, 85.2, 64.5, 67.7, 84.3, 78.3, 78.0, 84.9)),
    "n500-k5": Cell(500, 5, (249.8, 405.8, 402.0, 406.7, 405.8, 388.2, 380.6, 401.6)),
    "n500-k10": Cell(500, 10, (249.0, 437.8, 429.5, 438.9, 437.1, 408.0, 395.0, 432.5)),
    "n500-k50": Cell(500, 50, (249.6, 463.7, 427.2, 437.6, 457.6, 413.6, 402.8, 438.9)),
}


def strategies(cell: Cell) -> dict[str, tuple[Callable[[Any], Strategy], Any]]:
    """Row -> (setting -> strategy, the settings): an array of them is batched, a list is gone through."""
    n, k = cell.pulls, cell.arms
    return {
        "random": (lambda _: reference.random_arms(k), [None]),
        "Gittins index": (lambda discount: reference.gittins(k, n, discount), list(DISCOUNTS)),
        "Thompson sampling": (lambda _: reference.thompson_sampling(k), [None]),
        "OTS": (lambda draws: reference.optimistic_thompson_sampling(k, draws), list(NUM_SAMPLES)),
        "UCB1": (lambda c: reference.ucb1(k, c), jnp.asarray(TENTHS)),
        "epsilon-greedy": (lambda epsilon: reference.epsilon_greedy(k, epsilon), jnp.asarray(TENTHS)),
        "greedy": (lambda _: reference.greedy(k), [None]),
    }


def best_of_grid(cell: Cell, num_tasks: int, make: Callable[[Any], Strategy], settings: Any) -> np.ndarray:
    """Rewards [task, pull] of the setting that has the highest mean on the first tasks."""

    def rewards(setting: Any, num_tasks: int) -> jax.Array:
        return _played(cell, make(setting), num_tasks)

    if len(settings) == 1:
        best = settings[0]
    elif isinstance(settings, list):
        best = max(settings, key=lambda s: jax.jit(lambda: rewards(s, CHOICE_TASKS).mean())())
    else:
        means = jax.jit(lambda s: jax.lax.map(lambda x: rewards(x, CHOICE_TASKS).mean(), s))(settings)
        best = settings[int(means.argmax())]
    return np.asarray(jax.jit(lambda: rewards(best, num_tasks))())


def best_known(cell: Cell) -> np.ndarray:
    """Rewards [task, pull] of the finite-horizon Gittins index, whose table is an argument and no constant."""

    def rewards(table: jax.Array) -> jax.Array:
        strategy = reference.finite_horizon_gittins(cell.arms, cell.pulls, table)
        return _played(cell, strategy, NUM_TASKS[cell.pulls])

    return np.asarray(jax.jit(rewards)(reference.finite_horizon_table(cell.pulls)))


def _played(cell: Cell, strategy: Strategy, num_tasks: int) -> jax.Array:
    env, tasks = bernoulli_bandit(num_arms=cell.arms)
    return played(env, tasks, strategy, num_tasks=num_tasks, num_episodes=cell.pulls)


def run_cell(name: str, directory: Path, report: Callable[[Any], None]) -> tuple[list[Claim], dict[str, np.ndarray]]:
    """Claims of one cell, and the rewards [trial, pull] of its rows."""
    cell = CELLS[name]
    label = f"n={cell.pulls}, k={cell.arms}: "
    rewards, claims = {}, []
    for (row, grid), published in zip(strategies(cell).items(), cell.published, strict=False):
        report(f"{name}: {row}")
        path = directory / f"{row.replace(' ', '_')}.npy"
        num_tasks = min(NUM_TASKS[cell.pulls], OTS_TASKS) if row == "OTS" else NUM_TASKS[cell.pulls]
        rewards[row] = kept(path, functools.partial(best_of_grid, cell, num_tasks, *grid))
        claims.append(agreement(label + row, rewards[row].sum(axis=1), published))
    report(f"{name}: finite-horizon Gittins index")
    rewards["finite-horizon Gittins"] = kept(directory / "finite_horizon_gittins.npy", lambda: best_known(cell))
    limit, between = mean_interval(rewards["finite-horizon Gittins"].sum(axis=1))
    exact = reference.bayes_optimal_value(cell.arms, cell.pulls) if cell.pulls == 10 else None
    claims.append(
        Claim(f"{label}finite-horizon Gittins index", limit, between, NO_RULE, True, optimum=exact),
    )
    report(f"{name}: RL2")
    by_seed = kept(
        directory / "rl2.npy",
        lambda: trained(
            shipped_config(cell.recipe or RECIPES[cell.pulls]),
            [f"env_options.num_arms={cell.arms}", f"num_seeds={NUM_SEEDS}"],
            directory / "rl2",
            TRAINED_PULLS // cell.pulls,
            report,
        ),
    )
    rewards["RL2"] = by_seed.reshape(-1, cell.pulls)
    ours, between = mean_interval(rewards["RL2"].sum(axis=1))
    best = limit if exact is None else exact
    bound = round(0.99 * best, 2) if cell.bound is None else cell.bound
    worst = float(by_seed.sum(axis=2).mean(axis=1).min())
    claims += [
        Claim(f"{label}RL2", ours, between, f">= {bound}", ours >= bound, cell.published[-1], exact),
        Claim(f"{label}RL2, worst of {len(by_seed)} seeds", worst, None, NO_RULE, True, optimum=exact),
        Claim(f"{label}RL2 / best known", ours / best, None, NO_RULE, True),
    ]
    return claims, rewards


def run(directory: Path, report: Callable[[Any], None], cells: tuple[str, ...]) -> list[Claim]:
    """All rows of `cells`; what was measured or trained is kept in `directory`."""
    claims: list[Claim] = []
    panels = {}
    for name in cells:
        found, rewards = run_cell(name, directory / name, report)
        claims += found
        best_arm = CELLS[name].arms / (CELLS[name].arms + 1)  # E max p
        panels[f"n = {CELLS[name].pulls}, k = {CELLS[name].arms}"] = {
            row: np.cumsum(best_arm - values, axis=1, dtype=np.float64) for row, values in rewards.items()
        }
    regret_curves(directory / "rl2-bandits.png", panels)
    return claims
