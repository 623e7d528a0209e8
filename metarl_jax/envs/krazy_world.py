"""KrazyWorld (Stadie et al. 2018, E-MAML and E-RL2): a board of tiles whose places and colours must be found out.

On a `size` x `size` board the agent takes one step along an axis; a step over the edge stays. Then the tile it is on
acts: *goal*: +1, once; *death*: the episode terminates; *energy*: `replenish` more steps of life, once; *ice*: it
slides on in its direction to the first tile that is not ice, or to the edge; *transporter*: it is moved to the other
one of the pair. Every action costs one unit of energy, a slide costs no more; below one unit the episode terminates.
After the last goal the episode goes on. Tiles and start are the task, and the same in all its episodes.

The board is shown one-hot [size, size, 10], flattened: the colour of each tile, the agent's own over the one it is
on. A `local` view shows the 3 x 3 tiles around the agent in their places and zeros elsewhere, `full` all,
`egocentric` only the 3 x 3 tiles [3, 3, 10] (zeros beyond the edge). With `shuffle_colors` every task has its own
colours for the ten kinds of tile (three are never placed), with `shuffle_actions` its own meaning of the four
actions. The authors' defaults shuffle neither and show all, which leaves nothing to adapt to: here the view is local
and colours are shuffled. Energy is not shown.

Deviations from the authors' code, which we take to be slips unless said otherwise: it never places tiles or start in
the last row and column; goals keep their distance from (-1, -1), not from the start; a slide costs one unit of
energy a tile, against its README; the two transporters of a pair may fall together; sampling does not end on boards
without room (here an error). Left out: pictures, the dense reward, and starts drawn anew. Episodes there have no
limit but energy; ours is `horizon`, by default the most steps that energy allows (50 + 5 x 8). As there, goals may
be walled in by death, so not every board has 3 to win: see the oracle.
"""

import functools
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.tasks import TaskDistribution, check_count, check_positive

NORMAL, GOAL, AGENT, TRANSPORTER, DEATH, ICE, ENERGY = 1, 2, 3, 4, 7, 8, 9  # as the authors': 0, 5, 6 are not placed
NUM_KINDS = 10
MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1))  # (row, column)
OBSERVATIONS = ("local", "full", "egocentric")
_MAX_ORACLE_BITS = 10  # goals and energy tiles together: the oracle's states are size^2 2^bits


@struct.dataclass(kw_only=True)
class KrazyParams(environment.EnvParams):
    """One task."""

    tiles: Array  # [size, size] kinds of tile
    exits: Array  # [size^2] cell index after arriving in a cell: the other transporter's, or its own
    start: Array  # [2] integer cell (row, column)
    colors: Array  # [10] the colour of each kind of tile, a permutation
    actions: Array  # [4] index into MOVES of each action, a permutation
    max_steps_in_episode: Array


@struct.dataclass
class KrazyState(environment.EnvState):
    """Where the agent is, and what it has left."""

    position: Array  # [2] integer cell (row, column)
    taken: Array  # [size, size] bool: goals and energy used up in this episode
    energy: Array  # [] units left
    dead: Array  # [] bool
    time: Array  # [] steps taken in this episode


class KrazyWorld(environment.Environment[KrazyState, KrazyParams]):
    """The board; its tiles, colours and actions are in the parameters. Deterministic: no key is read."""

    def __init__(
        self,
        size: int = 10,
        horizon: int = 90,
        initial_energy: int = 50,
        replenish: int = 8,
        observation: str = "local",
    ):
        super().__init__()
        self.size = check_count("size", size)
        self.horizon = check_count("horizon", horizon)
        self.initial_energy = check_count("initial_energy", initial_energy)
        self.replenish = check_count("replenish", replenish)
        if observation not in OBSERVATIONS:
            raise ValueError(f"observation must be one of {', '.join(OBSERVATIONS)}, got {observation!r}")
        self._observation = observation

    def params(
        self,
        tiles: Array,
        start: Array,
        exits: Array | None = None,
        colors: Array | None = None,
        actions: Array | None = None,
    ) -> KrazyParams:
        """The task with these tiles [size, size] and start [2]; by default no transporters, nothing shuffled."""
        exits = jnp.arange(self.size**2) if exits is None else exits
        colors = jnp.arange(NUM_KINDS) if colors is None else colors
        actions = jnp.arange(len(MOVES)) if actions is None else actions
        return KrazyParams(
            tiles=jnp.asarray(tiles, int),
            exits=jnp.asarray(exits, int),
            start=jnp.asarray(start, int),
            colors=jnp.asarray(colors, int),
            actions=jnp.asarray(actions, int),
            max_steps_in_episode=jnp.asarray(self.horizon, int),
        )

    @property
    def default_params(self) -> KrazyParams:
        """An empty board with a goal in the far corner."""
        return self.params(jnp.full((self.size, self.size), NORMAL).at[-1, -1].set(GOAL), jnp.zeros(2))

    def reset_env(self, key: Array, params: KrazyParams) -> tuple[Array, KrazyState]:
        del key
        state = KrazyState(
            position=params.start,
            taken=jnp.zeros((self.size, self.size), bool),
            energy=jnp.asarray(self.initial_energy, int),
            dead=jnp.zeros((), bool),
            time=jnp.zeros((), int),
        )
        return self.get_obs(state, params), state

    def step_env(
        self, key: Array, state: KrazyState, action: int | float | Array, params: KrazyParams
    ) -> tuple[Array, KrazyState, Array, Array, dict[Any, Any]]:
        del key
        row, column = self.arrive(state.position, params.actions[jnp.asarray(action, int)], params)
        tile = jnp.where(state.taken[row, column], NORMAL, params.tiles[row, column])
        energy = state.energy - 1 + jnp.where(tile == ENERGY, self.replenish, 0)
        state = KrazyState(
            position=self._exit(row, column, params),
            taken=state.taken.at[row, column].set(state.taken[row, column] | (tile == GOAL) | (tile == ENERGY)),
            energy=energy,
            dead=(tile == DEATH) | (energy < 1),
            time=state.time + 1,
        )
        reward = (tile == GOAL).astype(float)
        return self.get_obs(state, params), state, reward, self.is_terminated(state, params), {}

    def arrive(self, position: Array, move: Array, params: KrazyParams) -> Array:
        """[2] the cell where one move from `position` ends, slides included, before its tile acts."""
        step = jnp.asarray(MOVES, int)[move]

        def go(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            cell, moving = carry
            ahead = cell + step
            moving &= jnp.all((ahead >= 0) & (ahead < self.size))
            cell = jnp.where(moving, ahead, cell)
            return cell, moving & (params.tiles[cell[0], cell[1]] == ICE)

        return jax.lax.fori_loop(0, self.size, go, (position, jnp.ones((), bool)))[0]

    def _exit(self, row: Array, column: Array, params: KrazyParams) -> Array:
        return jnp.stack(jnp.divmod(params.exits[row * self.size + column], self.size))

    def is_terminated(self, state: KrazyState, params: KrazyParams) -> Array:
        return state.dead

    def is_truncated(self, state: KrazyState, params: KrazyParams) -> Array:
        return state.time >= params.max_steps_in_episode

    def get_obs(self, state: KrazyState, params: Any = None, key: Array | None = None) -> Array:
        row, column = state.position
        tiles = jnp.where(state.taken, NORMAL, params.tiles).at[row, column].set(AGENT)
        board = jax.nn.one_hot(params.colors[tiles], NUM_KINDS, dtype=float)  # [size, size, 10]
        if self._observation == "egocentric":
            padded = jnp.pad(board, ((1, 1), (1, 1), (0, 0)))
            board = jax.lax.dynamic_slice(padded, (row, column, jnp.zeros_like(row)), (3, 3, NUM_KINDS))
        elif self._observation == "local":
            rows, columns = jnp.indices((self.size, self.size))
            near = (jnp.abs(rows - row) <= 1) & (jnp.abs(columns - column) <= 1)
            board = jnp.where(near[..., None], board, 0)
        return board.reshape(-1)

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def action_space(self, params: KrazyParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: KrazyParams | None = None) -> spaces.Box:
        cells = 9 if self._observation == "egocentric" else self.size**2
        return spaces.Box(0.0, 1.0, (cells * NUM_KINDS,), jnp.float32)


def most_goals(env: KrazyWorld, num_goals: int, num_energy: int, params: KrazyParams) -> Array:
    """The most goals that one episode can reach when the board is known: breadth first, one action a sweep.

    A state is a cell and the sets of goals and energy tiles used up. Energy follows from the set and the number of
    actions, and more of them never help, so it is enough to know which states can be alive after t actions.
    """
    cells, sets = env.size**2, 2 ** (num_goals + num_energy)
    flat = params.tiles.reshape(-1)
    goals = jnp.nonzero(flat == GOAL, size=num_goals, fill_value=cells)[0]
    energies = jnp.nonzero(flat == ENERGY, size=num_energy, fill_value=cells)[0]
    bit = jnp.zeros(cells, int).at[goals].set(1 << jnp.arange(num_goals), mode="drop")
    bit = bit.at[energies].set(1 << (num_goals + jnp.arange(num_energy)), mode="drop")

    index = jnp.arange(cells)
    positions = jnp.stack(jnp.divmod(index, env.size), axis=1)
    over_moves = jax.vmap(env.arrive, (None, 0, None))
    arrived = jax.vmap(over_moves, (0, None, None))(positions, jnp.arange(len(MOVES)), params)  # [cells, 4, 2]
    arrived = arrived[..., 0] * env.size + arrived[..., 1]
    used = jnp.arange(sets)
    new_used = used | bit[arrived][..., None]  # [cells, 4, sets]
    successor = params.exits[arrived][..., None] * sets + new_used
    survives = (flat[arrived] != DEATH)[..., None]
    goal_count, energy_count = (
        jax.lax.population_count(x) for x in (used & (2**num_goals - 1), used >> num_goals)
    )  # [sets]

    def act(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], None]:
        alive, best = carry  # [cells, sets] after t - 1 actions
        reached = jnp.zeros(cells * sets, bool).at[successor].max(alive[:, None] & survives).reshape(cells, sets)
        won = jnp.where(alive[:, None] & jnp.ones_like(survives), goal_count[new_used], 0).max()
        energy = env.initial_energy - t + env.replenish * energy_count
        return (reached & (energy >= 1), jnp.maximum(best, won)), None

    start = params.start[0] * env.size + params.start[1]
    alive = jnp.zeros((cells, sets), bool).at[start, 0].set(True)
    (_, best), _ = jax.lax.scan(act, (alive, jnp.zeros((), int)), jnp.arange(1, env.horizon + 1))
    return best.astype(float)


def krazy_world(
    *,
    size: int = 10,
    horizon: int = 90,
    num_goals: int = 3,
    min_goal_distance: int = 2,
    death: float = 0.08,
    ice: float = 0.05,
    energy: float = 0.05,
    num_transporters: int = 1,
    initial_energy: int = 50,
    replenish: int = 8,
    observation: str = "local",
    shuffle_colors: bool = True,
    shuffle_actions: bool = False,
) -> tuple[KrazyWorld, TaskDistribution]:
    """Random boards. Start uniform; goals uniform beyond `min_goal_distance` (in |dx| + |dy|) of it; then the rest.

    `death`, `ice` and `energy` are shares of the size^2 tiles, rounded down; `num_transporters` counts pairs. The
    oracle, the most goals within reach of who knows the board, is exact; None if goals and energy tiles are more
    than 10 together (its states would be too many).

    Raises: ValueError for shares or numbers out of range, or a board too small for its tiles.
    """
    env = _environment(size, horizon, initial_energy, replenish, observation)
    cells = size**2
    shares = {"death": death, "energy": energy, "ice": ice}
    num_death, num_energy, num_ice = (
        int(check_positive(name, share, or_zero=True) * cells + 1e-9) for name, share in shares.items()
    )
    for name, value in (("num_transporters", num_transporters), ("min_goal_distance", min_goal_distance)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
            raise ValueError(f"{name} must be an integer of at least 0, got {value!r}")
    check_count("num_goals", num_goals)
    num_rest = num_death + num_energy + num_ice + 2 * num_transporters
    near = 2 * min_goal_distance * (min_goal_distance + 1) + 1  # cells that no goal may take, at most
    if cells - near < num_goals or cells - 1 - num_goals < num_rest:
        raise ValueError(f"size must be larger for its tiles, got {size!r}: {num_goals} goals, {num_rest} others")

    def sample(key: Array) -> KrazyParams:
        draws = jax.random.uniform(key, (3 * cells + NUM_KINDS + len(MOVES),), float)
        scores, colors, actions = jnp.split(draws, (3 * cells, 3 * cells + NUM_KINDS))
        scores = scores.reshape(3, cells)
        start = jnp.argmax(scores[0]).astype(int)
        rows, columns = jnp.divmod(jnp.arange(cells), size)
        distance = jnp.abs(rows - rows[start]) + jnp.abs(columns - columns[start])
        goals = jax.lax.top_k(jnp.where(distance > min_goal_distance, scores[1], -1.0), num_goals)[1]
        left = scores[2].at[start].set(-1.0).at[goals].set(-1.0)
        rest = jax.lax.top_k(left, num_rest)[1]
        pairs = rest[num_rest - 2 * num_transporters :]
        kinds = [DEATH] * num_death + [ENERGY] * num_energy + [ICE] * num_ice + [TRANSPORTER] * 2 * num_transporters
        tiles = jnp.full(cells, NORMAL).at[goals].set(GOAL).at[rest].set(jnp.asarray(kinds, int))
        ours, others = pairs[::2], pairs[1::2]
        return env.params(
            tiles.reshape(size, size),
            jnp.stack([rows[start], columns[start]]),
            jnp.arange(cells).at[ours].set(others).at[others].set(ours),
            jnp.argsort(colors) if shuffle_colors else None,
            jnp.argsort(actions) if shuffle_actions else None,
        )

    exact = num_goals + num_energy <= _MAX_ORACLE_BITS
    oracle = functools.partial(most_goals, env, num_goals, num_energy) if exact else None
    description = f"{size} x {size} boards of unknown tiles, {num_goals} goals"
    return env, TaskDistribution(sample, horizon, oracle=oracle, description=description)


_environment = functools.lru_cache(maxsize=None, typed=True)(KrazyWorld)
