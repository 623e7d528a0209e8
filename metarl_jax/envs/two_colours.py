"""Two colours (Flennerhag et al. 2022, Bootstrapped Meta-Learning, section 5.1): which colour pays changes in life.

A blue and a red item lie on a 5 x 5 grid. The agent moves up, down, left or right (a step off the grid stays); a step
onto an item pays +1 or -1, by its colour, and the item moves to a uniformly drawn free cell, while agent and other item
stay where they are. Every other step costs .04. The two colours change places every `swap_every` steps, and nothing
shows it but the rewards: an agent that has stopped exploring does not find out soon.

A task says which colour pays first. Nothing ever terminates; `horizon` is a time limit. The authors' agent has one life
of 6.4M steps with a swap every 100,000, `make("TwoColours-v0", horizon=6_400_000)`; with the horizon of 100 that is the
default, a task is short, and its colour is what is unknown.

The authors' environment is not public: rules and observation (three positions, row and column one-hot) are those of two
public re-implementations, github.com/MagiFeeney/Bootstrapped-Meta-Learning one of them. In the long run .2789 a step
is best (`optimal_return` of 4,000 steps, less that of 3,000): it pays to take the bad item until it lies in a corner,
out of the way. In 100 steps it does not pay, and .267 is best.
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

SIZE = 5
NUM_CELLS = SIZE**2
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # (rows, columns) of up, down, left, right
ITEM_REWARD, STEP_REWARD = 1.0, -0.04


@struct.dataclass(kw_only=True)
class TwoColoursParams(environment.EnvParams):
    """One task."""

    first: Array  # [] which pays +1 until the first swap: 0 blue, 1 red
    max_steps_in_episode: Array


@struct.dataclass
class TwoColoursState(environment.EnvState):
    """Where the agent and the items are."""

    cells: Array  # [3] integer cells row * 5 + column of agent, blue item, red item; all different
    time: Array  # [] steps taken


class TwoColours(environment.Environment[TwoColoursState, TwoColoursParams]):
    """The grid; observation [30], for agent, blue and red the row [5] and the column [5], one-hot."""

    def __init__(self, swap_every: int = 100_000, horizon: int = 100):
        super().__init__()
        self.swap_every = check_count("swap_every", swap_every)
        self.horizon = check_count("horizon", horizon)

    def params(self, first: Array) -> TwoColoursParams:
        """The task in which blue is good first (0), or red (1)."""
        return TwoColoursParams(first=jnp.asarray(first, int), max_steps_in_episode=jnp.asarray(self.horizon, int))

    @property
    def default_params(self) -> TwoColoursParams:
        return self.params(jnp.zeros((), int))

    def reset_env(self, key: Array, params: TwoColoursParams) -> tuple[Array, TwoColoursState]:
        cells = jax.random.choice(key, NUM_CELLS, (3,), replace=False).astype(int)
        state = TwoColoursState(cells=cells, time=jnp.zeros((), int))
        return self.get_obs(state, params), state

    def step_env(
        self, key: Array, state: TwoColoursState, action: int | float | Array, params: TwoColoursParams
    ) -> tuple[Array, TwoColoursState, Array, Array, dict[Any, Any]]:
        agent = jnp.asarray(_AFTER, int)[state.cells[0], jnp.asarray(action, int)]
        taken = agent == state.cells[1:]  # [2] blue, red
        good = (params.first + state.time // self.swap_every) % 2
        sign = jnp.where(good == 0, 1.0, -1.0)
        reward = jnp.where(taken[0], sign, jnp.where(taken[1], -sign, STEP_REWARD)) * jnp.ones((), float)
        other = jnp.where(taken[0], state.cells[2], state.cells[1])
        items = jnp.where(taken, _free_cell(key, agent, other), state.cells[1:])
        state = TwoColoursState(cells=jnp.concatenate([agent[None], items]), time=state.time + 1)
        return self.get_obs(state, params), state, reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: TwoColoursState, params: TwoColoursParams) -> Array:
        return jnp.zeros((), bool)

    def is_truncated(self, state: TwoColoursState, params: TwoColoursParams) -> Array:
        return state.time >= params.max_steps_in_episode

    def get_obs(
        self, state: TwoColoursState, params: TwoColoursParams | None = None, key: Array | None = None
    ) -> Array:
        places = jnp.stack(jnp.divmod(state.cells, SIZE), axis=-1)  # [3, 2]
        return jax.nn.one_hot(places, SIZE, dtype=float).reshape(-1)

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def action_space(self, params: TwoColoursParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: TwoColoursParams | None = None) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (6 * SIZE,), jnp.float32)


def two_colours(*, swap_every: int = 100_000, horizon: int = 100) -> tuple[TwoColours, TaskDistribution]:
    """Blue or red pays first. Oracle return of the defaults: 26.741; none where a swap is within the horizon.

    Raises: ValueError for a `swap_every` or horizon below 1.
    """
    env = _environment(swap_every, horizon)
    members = jax.vmap(env.params)(jnp.arange(2))
    description = f"5 x 5 grid with a good and a bad colour that change places every {swap_every} steps"
    oracle = functools.partial(optimal_return, horizon) if horizon <= swap_every else None
    return env, TaskDistribution.from_members(members, horizon, oracle, description)


def optimal_return(horizon: int, params: TwoColoursParams) -> Array:
    """Best expected return of `horizon` steps without a swap, for one who knows the colour, over random starts.

    V_0 = 0 and V_{h+1}(s) = max_a [r(s, a) + mean over the free cells of V_h(s')], over the 13,800 states
    of agent, good and bad item; both tasks have the same. Divided by long horizons it tends to .2789.
    """
    del params
    agent, good, bad = np.ogrid[:NUM_CELLS, :NUM_CELLS, :NUM_CELLS]
    is_state = jnp.asarray((agent != good) & (agent != bad) & (good != bad))

    def backup(value: Array, _: None) -> tuple[Array, None]:
        after_good = value.sum(axis=1) / (NUM_CELLS - 2)  # [agent, bad]: the good item is laid on a free cell
        after_bad = value.sum(axis=2) / (NUM_CELLS - 2)  # [agent, good]

        def of(action: int) -> Array:
            to = _AFTER[:, action]
            moved = jnp.where(
                to[:, None, None] == bad, (-ITEM_REWARD + after_bad[to])[:, :, None], STEP_REWARD + value[to]
            )
            return jnp.where(to[:, None, None] == good, (ITEM_REWARD + after_good[to])[:, None, :], moved)

        best = functools.reduce(jnp.maximum, (of(action) for action in range(len(MOVES))))
        return jnp.where(is_state, best, 0.0), None

    value, _ = jax.lax.scan(backup, jnp.zeros(is_state.shape), length=horizon)
    return value.sum() / is_state.sum()


def _free_cell(key: Array, *taken: Array) -> Array:
    """A uniformly drawn cell that is none of the `taken` ones."""
    is_free = ~jnp.any(jnp.arange(NUM_CELLS)[:, None] == jnp.stack(taken), axis=1)
    chosen = jax.random.randint(key, (), 0, is_free.sum())
    return jnp.argmax(jnp.cumsum(is_free) > chosen).astype(int)


def _moves() -> np.ndarray:
    """[cell, action] the cell arrived in."""
    rows, columns = np.divmod(np.arange(NUM_CELLS), SIZE)
    to = [np.clip([rows + i, columns + j], 0, SIZE - 1) for i, j in MOVES]
    return np.stack([SIZE * row + column for row, column in to], axis=1)


_AFTER = _moves()
_environment = functools.lru_cache(maxsize=None, typed=True)(TwoColours)
