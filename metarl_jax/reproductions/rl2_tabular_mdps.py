"""RL2 on random tabular MDPs (Duan et al. 2016, Table 2): total reward of n episodes of 10 steps.

10 states, 5 actions, mean rewards N(1, 1), noise N(0, 1), transitions Dirichlet(1), each episode from state 0. The
strategies that are not learned have the one setting that comes close to their whole row (see
`reference.tabular`); the authors show the best of a grid at each n. The true prior is no setting of theirs: what
greed is worth that knows it was computed for this project by other code. RL2 has a GRU, trained by
configs/papers/rl2_tabular.yaml. Who knows the MDP gets 21.83 an episode on average, dashed in the picture.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metarl_jax.envs.tabular import tabular_mdp
from metarl_jax.reference import tabular as strategies
from metarl_jax.reproductions import NO_RULE, Claim
from metarl_jax.reproductions.cells import agreement, kept, mean_interval, played, trained
from metarl_jax.reproductions.pictures import return_curves
from metarl_jax.runs.config import paper_config

CELLS = {"n10": 10, "n25": 25, "n50": 50, "n75": 75, "n100": 100}
NUM_TASKS = 1000
TRAINED_EPISODES = 100_000  # by each seed at evaluation
BOUNDS = {"n10": 156.0}  # elsewhere RL2's published number
RL2 = dict(zip(CELLS, (156.2, 445.7, 936.1, 1428.8, 1913.7), strict=True))
OPTIMUM = 21.83  # an episode, mean of 400,000 MDPs; `envs.tabular.optimal_return` of the tasks at hand goes below
ROWS: dict[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "random": (lambda *size: strategies.random_actions(size[1]), (100.1, 250.2, 499.7, 749.9, 999.4)),
    "PSRL": (strategies.psrl, (138.1, 408.8, 904.4, 1417.1, 1939.5)),
    "OPSRL": (functools.partial(strategies.opsrl, num_samples=10), (144.1, 425.2, 930.7, 1449.2, 1973.9)),
    "UCRL2": (
        functools.partial(strategies.ucrl2, scale=0.398, in_place=True),
        (146.6, 424.1, 918.9, 1427.6, 1942.1),
    ),
    "BEB": (functools.partial(strategies.beb, scale=0.00158), (150.2, 427.8, 917.8, 1422.6, 1935.1)),
    "epsilon-greedy": (
        functools.partial(strategies.epsilon_greedy, epsilon=0.1),
        (132.8, 377.3, 823.3, 1293.9, 1778.2),
    ),
    "greedy": (strategies.greedy, (134.8, 368.8, 769.3, 1172.9, 1578.5)),
    "greedy, true prior": (
        functools.partial(strategies.greedy, prior=strategies.Prior(mean=1.0)),
        (154.75, 433.7, 912.2, 1395.0, 1879.2),
    ),
}


def measure(row: str, num_episodes: int, directory: Path) -> np.ndarray:
    """Returns [task, episode] of one strategy, over at least `num_episodes` episodes."""
    env, tasks = tabular_mdp()
    strategy = ROWS[row][0](10, 5, 10)

    def make() -> np.ndarray:
        return np.asarray(
            jax.jit(lambda: played(env, tasks, strategy, num_tasks=NUM_TASKS, num_episodes=num_episodes))()
        )

    return kept(directory / f"{row.replace(', ', '_').replace(' ', '_')}_{num_episodes}.npy", make)


def measure_rl2(name: str, directory: Path, report: Callable[[Any], None]) -> np.ndarray:
    """Returns [seed, trial, episode] of RL2."""
    n = CELLS[name]

    def make() -> np.ndarray:
        path, overrides = paper_config("rl2_tabular"), [f"num_episodes={n}"]
        return trained(path, overrides, directory / "rl2", TRAINED_EPISODES // n, report)

    return kept(directory / "rl2.npy", make)


def run(directory: Path, report: Callable[[Any], None], cells: tuple[str, ...]) -> list[Claim]:
    """All rows of `cells`; what was measured or trained is kept in `directory`."""
    longest = max(CELLS[name] for name in cells)
    returns = {}
    for row in ROWS:
        report(f"{row}, {longest} episodes")
        returns[row] = measure(row, longest, directory / "strategies")
    claims: list[Claim] = []
    for name in cells:
        n, place = CELLS[name], list(CELLS).index(name)
        for row, (_, published) in ROWS.items():
            claims.append(agreement(f"n={n}: {row}", returns[row][:, :n].sum(axis=1), published[place]))
        by_seed = measure_rl2(name, directory / name, report)
        ours, between = mean_interval(by_seed.sum(axis=2))
        worst = float(by_seed.sum(axis=2).mean(axis=1).min())
        bound, optimum = BOUNDS.get(name, RL2[name]), round(OPTIMUM * n, 1)
        claims += [
            Claim(f"n={n}: RL2", ours, between, f">= {bound}", ours >= bound, RL2[name], optimum),
            Claim(f"n={n}: RL2, worst of {len(by_seed)} seeds", worst, None, NO_RULE, True, optimum=optimum),
        ]
        returns[f"RL2, n = {n}"] = by_seed.reshape(-1, n)
    return_curves(directory / "rl2-tabular-mdps.png", returns, OPTIMUM)
    return claims
