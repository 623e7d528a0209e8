"""GridNavi (Zintgraf et al. 2020, section 5.1): VariBAD and RL2 beside the exact Bayes-optimal agent.

Four episodes of 15 steps on one of 21 hidden goals; +1 on the goal, -.1 elsewhere. The paper shows curves without
numbers. Bayes-optimal, posterior-sampling and random returns are exact (`reference.grid_navi`); the sampled strategies
have to agree with them. Posterior sampling finds the goal late: an agent that is good in episode 2 explores as a
Bayes-optimal one does. Training is that of configs/varibad_grid_navi.yaml and configs/rl2_grid_navi.yaml, 3 seeds.

The picture is one trial of VariBAD: the chance of a reward that its decoder gives every cell, above the exact
posterior, all maps on one scale. Where the two agree is in which cells are ruled out. The decoder's numbers are higher:
it has learned the reward of cells that were *visited*, and a cell is visited most where it is the goal.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.algorithms.varibad import belief_of
from metarl_jax.envs.grid_navi import MOVES, goal_cells, grid_navi
from metarl_jax.reference import grid_navi as exact
from metarl_jax.reference.tabular import random_actions
from metarl_jax.reproductions import NO_RULE, Claim
from metarl_jax.reproductions.cells import kept, mean_interval, played, trained
from metarl_jax.reproductions.pictures import belief_map
from metarl_jax.runs import evaluate
from metarl_jax.runs.build import build
from metarl_jax.runs.config import shipped_config

LEARNERS = {"RL2": "rl2_grid_navi", "VariBAD": "varibad_grid_navi"}
BOUNDS = (3.6, 10.8, 10.8, 10.8)
NUM_SEEDS = 3
NUM_TRIALS = 2100  # by each seed at evaluation, 100 a goal
MOMENTS = (0, 3, 6, 9, 12, 15)  # steps into the trial that the picture shows
SAMPLES = 1000  # of a belief that are decoded for it


def strategy_claims(directory: Path) -> list[Claim]:
    """Posterior sampling and the Bayes-optimal plan, played, against their exact returns."""
    env, tasks = grid_navi()
    of = {
        "Bayes-optimal": (exact.bayes_optimal_strategy(env), exact.bayes_optimal().returns),
        "posterior sampling": (exact.posterior_sampling_strategy(env), exact.posterior_sampling_returns()),
        "random": (random_actions(env.num_actions), np.full(4, exact.random_return())),
    }
    claims = []
    for name, (strategy, known) in of.items():

        def make(strategy: Any = strategy) -> np.ndarray:
            return np.asarray(
                jax.jit(lambda: played(env, tasks, strategy, num_tasks=10_000, num_episodes=4, tasks_per_batch=500))()
            )

        returns = kept(directory / f"{name.replace(' ', '_')}.npy", make)
        for episode in range(4):
            ours, between = mean_interval(returns[:, episode])
            error = (between[1] - between[0]) / 2 / 1.96
            agrees = bool(abs(ours - known[episode]) <= 4 * error + 1e-6)
            what = f"{name}: episode {episode + 1}"
            claims.append(Claim(what, ours, between, "within 4 SE of exact", agrees, None, float(known[episode])))
    return claims


def draw_belief(directory: Path, path: Path) -> Path:
    """One trial of the first seed, its goal in the far corner: the decoded chance of a reward above the exact one.

    Decoded are samples of the belief, whose chances are averaged.
    """
    job = evaluate.open_run(directory)
    _, params = evaluate.restore(job, directory)
    first = jax.tree.map(lambda x: x[0], params)
    goal, size = np.array([4, 4]), job.env.env.size
    learner = build(job.config.model_copy(update={"trials_per_task": 1, "num_minibatches": 1})).algorithm
    belief, task = belief_of(job.config, job.env), job.env.env.params(jnp.asarray(goal))
    trial = learner.collect(first, jax.random.key(0), task)[0].outer
    moments = list(MOMENTS)
    mean, log_var = (
        x[jnp.asarray(moments), 0] for x in belief.encode(first["belief"], trial.observation)
    )  # [moment, Z]
    noise = jax.random.normal(jax.random.key(1), (SAMPLES, *mean.shape))
    z = mean + jnp.exp(0.5 * log_var) * noise
    cells = jnp.eye(size**2)
    chances = jax.nn.sigmoid(belief.reward(first["belief"], z, cells[:, None, None]))  # [cell, sample, moment]
    shown = np.asarray(trial.observation[:, 0, : size**2].argmax(axis=1))
    positions = np.stack(np.divmod(shown, size), axis=1)
    reached = np.clip(positions + np.asarray(MOVES)[np.asarray(trial.action[:, 0])], 0, size - 1)
    possible = np.zeros((size, size))
    possible[tuple(goal_cells(size).T)] = 1
    posterior = [possible]
    for (x, y), reward in zip(reached, np.asarray(trial.reward[:, 0]), strict=True):
        possible = posterior[-1].copy()
        if reward > 0:
            possible[:] = 0
        possible[x, y] = reward > 0
        posterior.append(possible)
    maps = {
        "VariBAD": np.asarray(chances.mean(axis=1)).T.reshape(-1, size, size),
        "exact": np.stack([posterior[t] / posterior[t].sum() for t in moments]),
    }
    return belief_map(path, maps, positions[moments], goal, [f"step {t}" for t in moments])


def run(directory: Path, report: Callable[[Any], None] = print) -> list[Claim]:
    """Strategies, RL2 and VariBAD; what was measured or trained is kept in `directory`."""
    report("strategies")
    claims = strategy_claims(directory / "strategies")
    optimum = exact.bayes_optimal().returns
    for name, source in LEARNERS.items():
        report(name)
        place = directory / source

        def make(source: str = source, place: Path = place) -> np.ndarray:
            return trained(shipped_config(source), [f"num_seeds={NUM_SEEDS}"], place, NUM_TRIALS, report)

        by_seed = kept(directory / f"{source}.npy", make)  # [seed, trial, episode]
        for episode, bound in enumerate(BOUNDS):
            ours, between = mean_interval(by_seed[..., episode])
            what, best = f"{name}: episode {episode + 1}", float(optimum[episode])
            claims.append(Claim(what, ours, between, f">= {bound}", ours >= bound, None, best))
        worst = float(by_seed.sum(axis=2).mean(axis=1).min())
        what = f"{name}: whole trial, worst of {len(by_seed)} seeds"
        claims.append(Claim(what, worst, None, NO_RULE, True, None, float(optimum.sum())))
    draw_belief(directory / LEARNERS["VariBAD"], directory / "varibad-gridnavi.png")
    return claims
