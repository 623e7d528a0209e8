"""What can be got in GridNavi: Bayes-optimal, posterior sampling and random returns, exact and in float64.

A trial is E episodes of H steps with one goal, uniform over the N goals of the grid. Until the goal is found every
reward is the same, so nothing that happens can change the plan: the Bayes-optimal agent (Duff 2002; VariBAD,
Zintgraf et al. 2020) walks a fixed search path, and from the find on it takes the shortest way to the goal. If the
path first enters goal g at step t = 1..H of episode e = 1..E, its total reward is

    V(e, t, g) = -.1 ((e - 1) H + t - 1) + (H - t + 1) + (E - e) R(g)

with R(g) the best return of one episode that knows g, and -.1 E H if it never enters g. The path that maximises the
mean over g is found by branch and bound: depth first, with the bound that every goal left gets a step of its own, not
before it can be reached (an assignment problem). On the 5 x 5 grid, H = 15 and E = 4 it is met at once.

| 5 x 5, 15 steps, return of episode | 1       | 2       | 3       | 4       |
|------------------------------------|---------|---------|---------|---------|
| told the goal                      | 11.0714 | 11.0714 | 11.0714 | 11.0714 |
| Bayes-optimal                      | 4.0000  | 11.0714 | 11.0714 | 11.0714 |
| posterior sampling                 | -.7741  | 1.3894  | 3.1092  | 4.5935  |
| uniform actions                    | -1.1655 | -1.1655 | -1.1655 | -1.1655 |
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from scipy.optimize import linear_sum_assignment

from metarl_jax.envs.grid_navi import GOAL_REWARD, MOVES, STEP_REWARD, GridNavi, goal_cells
from metarl_jax.envs.tasks import check_count
from metarl_jax.reference.strategy import Strategy

_MARGIN = 1e-9  # between totals that differ by rounding only


class Plan(NamedTuple):
    """The Bayes-optimal search, and what it earns; numpy arrays.

    The belief after k steps without a find is uniform over the goals with `found_at > k`, for drawings.
    """

    returns: np.ndarray  # [E] float64, expected return of each episode
    actions: np.ndarray  # [E, H] of the search path; 0 (stay) once every goal has been entered
    cells: np.ndarray  # [E, H + 1, 2] the path's cells (x, y), each episode's from its start on
    goals: np.ndarray  # [N, 2] the possible goals
    found_at: np.ndarray  # [N] steps of the trial, 1..E H, at which the path first enters the goal; E H + 1 if never


def bayes_optimal(*, size: int = 5, horizon: int = 15, num_episodes: int = 4, max_nodes: int = 200_000) -> Plan:
    """The plan that maximises the expected total reward of the trial. Exact; .1 s for the defaults.

    The total is the maximum over all policies. Where several plans share it, the split into episodes is that of one
    of them; for the defaults there is only one split, since no policy can do better in any single episode.

    Raises: ValueError for impossible sizes, or if the search gives up after `max_nodes` nodes (7 x 7 does).
    """
    _check(size, horizon, num_episodes)
    check_count("max_nodes", max_nodes)
    return _plan(size, horizon, num_episodes, max_nodes)


def posterior_sampling_returns(*, size: int = 5, horizon: int = 15, num_episodes: int = 4) -> np.ndarray:
    """[E] expected return of each episode of `posterior_sampling`: all its draws enumerated."""
    _check(size, horizon, num_episodes)
    goals = goal_cells(size)
    number = len(goals)
    index = {tuple(goal): i for i, goal in enumerate(goals.tolist())}
    informed = _informed_returns(goals, horizon)
    entered, earned = [], np.full((number, number), STEP_REWARD * horizon)  # earned[s, g]: walking to s, goal g
    for sampled, target in enumerate(goals):
        met, position = 0, np.zeros(2, int)
        for _ in range(horizon):
            position = _clip(position + MOVES[_toward(position, target)], size)
            goal = index.get(tuple(position.tolist()))
            if goal is not None:
                met |= 1 << goal
                earned[sampled, goal] += GOAL_REWARD - STEP_REWARD
        entered.append(met)

    @functools.cache
    def play(possible: int, episodes: int) -> np.ndarray:
        """[episodes] returns, the goal uniform over the set of bits."""
        if episodes == 0:
            return np.zeros(0)
        members = [g for g in range(number) if possible >> g & 1]
        total = np.zeros(episodes)
        for sampled in members:
            met, left = entered[sampled] & possible, possible & ~entered[sampled]
            total[0] += earned[sampled, members].sum()
            total[1:] += sum(informed[g] for g in members if met >> g & 1)
            if left:
                total[1:] += left.bit_count() * play(left, episodes - 1)
        return total / len(members) ** 2

    return play((1 << number) - 1, num_episodes)


def random_return(*, size: int = 5, horizon: int = 15) -> float:
    """Expected return of one episode of uniformly random actions: the cells' occupancies, step by step."""
    _check(size, horizon)
    cells = [(x, y) for x in range(size) for y in range(size)]
    step = np.zeros((len(cells), len(cells)))
    for i, cell in enumerate(cells):
        for move in MOVES:
            x, y = _clip(np.add(cell, move), size)
            step[i, x * size + y] += 1 / len(MOVES)
    is_goal = np.asarray([max(cell) > 1 for cell in cells])
    occupancy, hits = np.eye(len(cells))[0], 0.0
    for _ in range(horizon):
        occupancy = occupancy @ step
        hits += occupancy[is_goal].sum() / is_goal.sum()
    return float(STEP_REWARD * horizon + (GOAL_REWARD - STEP_REWARD) * hits)


@struct.dataclass
class Memory:
    """What a searcher knows."""

    possible: Array  # [size^2] bool: cells that may be the goal
    target: Array  # [2] the cell that posterior sampling believes in during this episode
    episode: Array  # [] index of the episode, -1 before the first
    time: Array  # [] steps taken in it


def bayes_optimal_strategy(env: GridNavi, *, num_episodes: int = 4) -> Strategy:
    """Follows `bayes_optimal`'s path until one goal is left, then goes there; in later episodes, at once.

    Its returns are the plan's, in every trial of `num_episodes` episodes of the environment's horizon.
    """
    plan = bayes_optimal(size=env.size, horizon=env.horizon, num_episodes=num_episodes)
    actions = jnp.asarray(plan.actions, int)

    def act(memory: Memory, key: Array, observation: Array) -> Array:
        del key
        only = jnp.stack(jnp.divmod(jnp.argmax(memory.possible), env.size))
        known = memory.possible.sum() == 1
        return jnp.where(known, _step_toward(env.cell(observation), only), actions[memory.episode, memory.time])

    def begin_episode(memory: Memory, key: Array) -> Memory:
        del key
        return dataclasses.replace(memory, episode=memory.episode + 1, time=jnp.zeros((), int))

    return Strategy(functools.partial(_init, env), begin_episode, act, functools.partial(_observe, env))


def posterior_sampling_strategy(env: GridNavi) -> Strategy:
    """Thompson sampling (Thompson 1933; Strens 2000): each episode draws one of the goals still possible, walks there
    and stays, whatever it meets on its way. What it has entered is ruled out, or found, in the next episode.

    Of several shortest ways it takes the one whose next action comes first in the environment's list: up, then right.
    """

    def begin_episode(memory: Memory, key: Array) -> Memory:
        draw = jax.random.categorical(key, jnp.where(memory.possible, 0.0, -jnp.inf))
        target = jnp.stack(jnp.divmod(draw, env.size)).astype(int)
        return dataclasses.replace(memory, target=target, episode=memory.episode + 1, time=jnp.zeros((), int))

    def act(memory: Memory, key: Array, observation: Array) -> Array:
        del key
        return _step_toward(env.cell(observation), memory.target)

    return Strategy(functools.partial(_init, env), begin_episode, act, functools.partial(_observe, env))


def _check(size: int, horizon: int, num_episodes: int = 1) -> None:
    GridNavi(size, horizon)  # raises for grids without goals
    check_count("num_episodes", num_episodes)


def _init(env: GridNavi, key: Array) -> Memory:
    del key
    goals = goal_cells(env.size)
    possible = jnp.zeros(env.num_states, bool).at[goals[:, 0] * env.size + goals[:, 1]].set(True)
    return Memory(possible, jnp.zeros(2, int), jnp.full((), -1, int), jnp.zeros((), int))


def _observe(
    env: GridNavi,
    memory: Memory,
    key: Array,
    observation: Array,
    action: Array,
    reward: Array,
    next_observation: Array,
    done: Array,
) -> Memory:
    """The posterior: the cell entered is the goal, or is not."""
    del key, observation, action, done
    x, y = env.cell(next_observation)
    here = jnp.arange(env.num_states) == x * env.size + y
    possible = jnp.where(reward > 0, here, memory.possible & ~here)
    return dataclasses.replace(memory, possible=possible, time=memory.time + 1)


def _step_toward(position: Array, target: Array) -> Array:
    """[] the first listed of the actions that come nearest to the target."""
    return jnp.argmin(jnp.abs(position + jnp.asarray(MOVES, int) - target).sum(1)).astype(int)


def _toward(position: np.ndarray, target: np.ndarray) -> int:
    """As `_step_toward`."""
    return int(np.abs(position + np.asarray(MOVES) - target).sum(1).argmin())


def _clip(cell: Any, size: int) -> np.ndarray:
    return np.clip(cell, 0, size - 1)


def _informed_returns(goals: np.ndarray, horizon: int) -> np.ndarray:
    """[N] R(g), as `envs.grid_navi.optimal_return` in float64."""
    missed = np.clip(goals.sum(1) - 1, 0, horizon)
    return GOAL_REWARD * (horizon - missed) + STEP_REWARD * missed


@functools.cache
def _plan(size: int, horizon: int, num_episodes: int, max_nodes: int) -> Plan:
    goals = goal_cells(size)
    actions = np.zeros(num_episodes * horizon, int)
    best = _Search(size, horizon, num_episodes, max_nodes).best
    actions[: len(best)] = best
    cells = np.zeros((num_episodes, horizon + 1, 2), int)
    found_at = np.full(len(goals), num_episodes * horizon + 1)
    for k, action in enumerate(actions):
        episode, t = divmod(k, horizon)
        cells[episode, t + 1] = _clip(cells[episode, t] + MOVES[action], size)
        found_at[(goals == cells[episode, t + 1]).all(1) & (found_at > k)] = k + 1
    episode_of, steps = np.divmod(found_at - 1, horizon)  # episode and steps before the step of the find
    episodes = np.arange(num_episodes)[:, None]
    found_here = GOAL_REWARD * (horizon - steps) + STEP_REWARD * steps
    earned = np.where(episodes < episode_of, STEP_REWARD * horizon, _informed_returns(goals, horizon))  # [E, N]
    returns = np.where(episodes == episode_of, found_here, earned).mean(1)
    return Plan(returns, actions.reshape(num_episodes, horizon), cells, goals, found_at)


class _Search:
    """Branch and bound over search paths; a set of goals is the bits of an integer."""

    def __init__(self, size: int, horizon: int, num_episodes: int, max_nodes: int):
        self.size, self.horizon, self.steps = size, horizon, num_episodes * horizon
        self.goals = goal_cells(size)
        self.index = {tuple(goal): i for i, goal in enumerate(self.goals.tolist())}
        k = np.arange(self.steps)[:, None]
        rest = (num_episodes - 1 - k // horizon) * _informed_returns(self.goals, horizon)
        # [E H, N] what it is worth to enter a goal first at step k, beside never entering it; positive
        self.worth = STEP_REWARD * k + GOAL_REWARD * (horizon - k % horizon) + rest - STEP_REWARD * self.steps
        self.value = -1.0
        self.best: list[int] = []
        self.nodes, self.max_nodes = 0, max_nodes
        self.seen: dict[tuple, float] = {}
        self._visit([], (0, 0), (1 << len(self.goals)) - 1, 0.0)

    def _visit(self, path: list[int], cell: tuple[int, int], left: int, value: float) -> None:
        self.nodes += 1
        if self.nodes > self.max_nodes:
            raise ValueError(f"no optimal path proven within {self.max_nodes} nodes; take a smaller grid or trial")
        if value > self.value + _MARGIN:
            self.value, self.best = value, list(path)
        k = len(path)
        if k == self.steps or not left or self.seen.get((k, cell, left), -1.0) >= value - _MARGIN:
            return
        self.seen[k, cell, left] = value
        children: dict[tuple[int, int], tuple] = {}
        for action, move in enumerate(MOVES):
            x, y = _clip(np.add(cell, move), self.size).tolist()
            if (x, y) in children:
                continue
            new_left, new_value = left, value
            goal = self.index.get((x, y))
            if goal is not None and left >> goal & 1:
                new_left, new_value = left & ~(1 << goal), value + self.worth[k, goal]
            start = (x, y) if (k + 1) % self.horizon else (0, 0)
            bound = new_value + self._bound(k + 1, start, new_left)
            children[x, y] = (-bound, action, start, new_left, new_value)
        for minus_bound, action, start, new_left, new_value in sorted(children.values()):
            if -minus_bound <= self.value + _MARGIN:
                return
            self._visit([*path, action], start, new_left, new_value)

    def _bound(self, k: int, cell: tuple[int, int], left: int) -> float:
        """At most this much more is won from step k on: each goal left has one step, none before it is in reach."""
        if k == self.steps or not left:
            return 0.0
        members = [g for g in range(len(self.goals)) if left >> g & 1]
        steps = np.arange(k, self.steps)
        here = np.abs(self.goals[members] - cell).sum(1)
        from_start = self.goals[members].sum(1)
        now = (steps // self.horizon == k // self.horizon)[:, None]
        taken = np.where(now, (steps - k + 1)[:, None], (steps % self.horizon + 1)[:, None])
        worth = np.where(taken >= np.where(now, here, from_start), self.worth[k:, members], 0.0)
        return float(worth[linear_sum_assignment(worth, maximize=True)].sum())
