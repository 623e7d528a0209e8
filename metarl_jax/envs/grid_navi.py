"""GridNavi (Zintgraf et al. 2020, VariBAD, section 5.1): find a hidden goal cell, then go straight to it ever after.

Cells are (x, y), 0 <= x, y < size; an episode starts in (0, 0) and lasts `horizon` steps. Actions: 0 stay, 1 up
(y + 1), 2 right (x + 1), 3 down, 4 left; a step off the grid stays. The reward is that of the cell arrived in: +1 on
the goal, -.1 elsewhere. The goal ends nothing, so an agent that has found it stays there. Goals are uniform over the
cells other than (0, 0), (0, 1), (1, 0) and (1, 1): 21 of them on the 5 x 5 grid. A trial is 4 episodes.

The last step of an episode *terminates* it: the horizon is part of the problem, as in the authors' settings (their
`use_proper_time_limits` is off for the grid world).

Deviations from the original code: it keeps the state of the world in the environment object, and its belief
bookkeeping and sixth "hint" action are left out. Its observation is `observation="position"`, normalised by a
running mean and variance outside the environment; the two other observations are ours.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.tasks import TaskDistribution, check_count

MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))  # (dx, dy) of stay, up, right, down, left
GOAL_REWARD, STEP_REWARD = 1.0, -0.1
OBSERVATIONS = ("position", "scaled", "one_hot")


@struct.dataclass(kw_only=True)
class GridNaviParams(environment.EnvParams):
    """One task."""

    goal: Array  # [2] integer cell (x, y)
    max_steps_in_episode: Array


@struct.dataclass
class GridNaviState(environment.EnvState):
    """Where the agent is."""

    position: Array  # [2] integer cell (x, y)
    time: Array  # [] steps taken in this episode


class GridNavi(environment.Environment[GridNaviState, GridNaviParams]):
    """The grid. Deterministic: no key is read.

    `observation`: "position", the cell (x, y) as numbers in [0, size - 1]; "scaled", the same in [0, 1]; "one_hot"
    [size^2], of the cell's index x * size + y.
    """

    def __init__(self, size: int = 5, horizon: int = 15, observation: str = "position"):
        super().__init__()
        self.size = check_count("size", size)
        if size < 3:
            raise ValueError(f"size must be an integer of at least 3, got {size!r}: a smaller grid has no goals")
        self.horizon = check_count("horizon", horizon)
        if observation not in OBSERVATIONS:
            raise ValueError(f"observation must be one of {', '.join(OBSERVATIONS)}, got {observation!r}")
        self._observation = observation

    def params(self, goal: Array) -> GridNaviParams:
        """The task with this goal cell [2]."""
        return GridNaviParams(goal=jnp.asarray(goal, int), max_steps_in_episode=jnp.asarray(self.horizon, int))

    @property
    def default_params(self) -> GridNaviParams:
        return self.params(jnp.full(2, self.size - 1))

    def reset_env(self, key: Array, params: GridNaviParams) -> tuple[Array, GridNaviState]:
        del key
        state = GridNaviState(position=jnp.zeros(2, int), time=jnp.zeros((), int))
        return self.get_obs(state, params), state

    def step_env(
        self, key: Array, state: GridNaviState, action: int | float | Array, params: GridNaviParams
    ) -> tuple[Array, GridNaviState, Array, Array, dict[Any, Any]]:
        del key
        move = jnp.asarray(MOVES, int)[jnp.asarray(action, int)]
        position = jnp.clip(state.position + move, 0, self.size - 1)
        at_goal = jnp.all(position == params.goal)
        reward = jnp.where(at_goal, jnp.asarray(GOAL_REWARD, float), jnp.asarray(STEP_REWARD, float))
        state = GridNaviState(position=position, time=state.time + 1)
        return self.get_obs(state, params), state, reward, self.is_terminated(state, params), {}

    def is_terminated(self, state: GridNaviState, params: GridNaviParams) -> Array:
        return state.time >= params.max_steps_in_episode

    def is_truncated(self, state: GridNaviState, params: GridNaviParams) -> Array:
        return jnp.zeros((), bool)

    def get_obs(self, state: GridNaviState, params: GridNaviParams | None = None, key: Array | None = None) -> Array:
        if self._observation == "one_hot":
            return jax.nn.one_hot(self.state_index(state), self.num_states, dtype=float)
        position = state.position.astype(float)
        return position / (self.size - 1) if self._observation == "scaled" else position

    def cell(self, observation: Array) -> Array:
        """[2] the integer cell (x, y) that an observation shows."""
        if self._observation == "one_hot":
            return jnp.stack(jnp.divmod(jnp.argmax(observation), self.size))
        scale = self.size - 1 if self._observation == "scaled" else 1
        return jnp.round(observation * scale).astype(int)

    def state_index(self, state: GridNaviState) -> Array:
        """[] index x * size + y of the agent's cell, below `num_states`."""
        return state.position[0] * self.size + state.position[1]

    @property
    def num_states(self) -> int:
        """Cells of the grid."""
        return self.size**2

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def action_space(self, params: GridNaviParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: GridNaviParams | None = None) -> spaces.Box:
        if self._observation == "one_hot":
            return spaces.Box(0.0, 1.0, (self.num_states,), jnp.float32)
        high = self.size - 1.0 if self._observation == "position" else 1.0
        return spaces.Box(0.0, high, (2,), jnp.float32)


def goal_cells(size: int) -> np.ndarray:
    """[N, 2] the cells that can be the goal, ordered by x, then y; N = size^2 - 4."""
    return np.asarray([(x, y) for x in range(size) for y in range(size) if max(x, y) > 1])


def optimal_return(horizon: int, params: GridNaviParams) -> Array:
    """Best return of one episode when the goal is known: d = |goal|_1 steps to it, where staying pays +1 a step.

    Of H steps, m = clip(d - 1, 0, H) end elsewhere: R = H - m - .1 m. On the 5 x 5 grid, H = 15: 16.1 - 1.1 d, in
    the mean over the 21 goals 11.0714.
    """
    distance = jnp.abs(params.goal).sum()
    missed = jnp.clip(distance - 1, 0, horizon).astype(float)
    return GOAL_REWARD * (horizon - missed) + STEP_REWARD * missed


def grid_navi(
    *, size: int = 5, horizon: int = 15, observation: str = "position", hold_out: bool = False
) -> tuple[GridNavi, TaskDistribution]:
    """Goals uniform over all cells but the four in the starting corner. Mean oracle return of the defaults: 11.0714.

    VariBAD trains and evaluates on all 21 goals, and what it measures is the search, which no goal gives away: so
    nothing is held out by default. With `hold_out` a fifth of the goals is kept for evaluation; the Bayes-optimal
    values of `reference.grid_navi`, whose prior is uniform over all goals, are then no bound for either half.

    Raises: ValueError for a size below 3, a horizon below 1 or an unknown observation.
    """
    env = _environment(size, horizon, observation)
    members = jax.vmap(env.params)(jnp.asarray(goal_cells(size)))
    description = f"{size} x {size} grid, one of {len(goal_cells(size))} hidden goals, {horizon} steps"
    oracle = functools.partial(optimal_return, horizon)
    tasks = TaskDistribution.from_members(members, horizon, oracle, description, hold_out)
    return env, tasks


_environment = functools.lru_cache(maxsize=None, typed=True)(GridNavi)
