"""Procedural mazes in the shape of MetaMaze (Miconi et al. 2019; gymnax), each maze and its goal a task.

A maze is `size` x `size` cells, size odd: rooms at even (row, column), walls between them, the world beyond the edge
all wall. A random depth-first search carves a spanning tree of the rooms (a perfect maze, with long corridors); then
every wall left between two rooms is opened with probability `openings`, so that there are loops. The goal is uniform
over the free cells, the start over those at least `min_distance` steps from it.

Actions: 0 up (row - 1), 1 right (column + 1), 2 down, 3 left; a step into a wall stays. Reward: `goal_reward` for a
step that ends on the goal, minus `wall_penalty` for one into a wall. What the goal does next is `at_goal`:
"teleport" (to a free cell drawn anew, never the goal), "start" (back to the start) or "end" (the episode terminates).
Episodes are otherwise cut off by the clock, a truncation. The goal is invisible: the observation is the square of
walls (1) and free cells (0) within `view_radius` cells of the agent, [(2 r + 1)^2], row by row.

Deviations from gymnax's MetaMaze: walls differ from task to task (there, one grid of pillars); wall map, goal and
start are in the parameters and outlive auto-resets (there, each reset draws the goal); the goal pays 1, not 10; the
teleport does not lead onto the goal; the observation holds no last action, last reward or time, which trials add.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.tasks import TaskDistribution, check_count, check_positive

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (row, column) of up, right, down, left
AT_GOAL = ("teleport", "start", "end")
OBSERVATIONS = ("view", "one_hot")


@struct.dataclass(kw_only=True)
class MazeParams(environment.EnvParams):
    """One task."""

    walls: Array  # [size, size] integers, 1 a wall
    goal: Array  # [2] integer cell (row, column)
    start: Array  # [2] integer cell (row, column)
    max_steps_in_episode: Array


@struct.dataclass
class MazeState(environment.EnvState):
    """Where the agent is."""

    position: Array  # [2] integer cell (row, column)
    time: Array  # [] steps taken in this episode


class Maze(environment.Environment[MazeState, MazeParams]):
    """The maze walker; all of the maze is in the parameters.

    `observation`: "view" [(2 view_radius + 1)^2], or "one_hot" [size^2] of the agent's cell.
    """

    def __init__(
        self,
        size: int = 9,
        view_radius: int = 1,
        horizon: int = 200,
        at_goal: str = "teleport",
        goal_reward: float = 1.0,
        wall_penalty: float = 0.0,
        observation: str = "view",
    ):
        super().__init__()
        self.size = check_count("size", size)
        if size < 3 or size % 2 == 0:
            raise ValueError(f"size must be an odd integer of at least 3, got {size!r}")
        self.view_radius = check_count("view_radius", view_radius)
        self.horizon = check_count("horizon", horizon)
        self.goal_reward = check_positive("goal_reward", goal_reward)
        self.wall_penalty = check_positive("wall_penalty", wall_penalty, or_zero=True)
        self.at_goal = _check_choice("at_goal", at_goal, AT_GOAL)
        self._observation = _check_choice("observation", observation, OBSERVATIONS)

    def params(self, walls: Array, goal: Array, start: Array) -> MazeParams:
        """The task with these walls [size, size], goal [2] and start [2]."""
        walls, goal, start = (jnp.asarray(x, int) for x in (walls, goal, start))
        return MazeParams(walls=walls, goal=goal, start=start, max_steps_in_episode=jnp.asarray(self.horizon, int))

    @property
    def default_params(self) -> MazeParams:
        """An empty room, from corner to corner."""
        return self.params(jnp.zeros((self.size, self.size)), jnp.full(2, self.size - 1), jnp.zeros(2))

    def reset_env(self, key: Array, params: MazeParams) -> tuple[Array, MazeState]:
        del key
        state = MazeState(position=params.start, time=jnp.zeros((), int))
        return self.get_obs(state, params), state

    def step_env(
        self, key: Array, state: MazeState, action: int | float | Array, params: MazeParams
    ) -> tuple[Array, MazeState, Array, Array, dict[Any, Any]]:
        ahead = state.position + jnp.asarray(MOVES, int)[jnp.asarray(action, int)]
        inside = jnp.all((ahead >= 0) & (ahead < self.size))
        bumps = ~inside | (params.walls[ahead[0], ahead[1]] > 0)
        position = jnp.where(bumps, state.position, ahead)
        reached = jnp.all(position == params.goal)
        reward = self.goal_reward * reached.astype(float) - self.wall_penalty * bumps.astype(float)
        if self.at_goal == "teleport":
            free = (params.walls == 0).at[params.goal[0], params.goal[1]].set(False)
            fresh = _highest(jax.random.uniform(key, free.shape), free)
            position = jnp.where(reached, fresh, position)
        elif self.at_goal == "start":
            position = jnp.where(reached, params.start, position)
        state = MazeState(position=position, time=state.time + 1)
        return self.get_obs(state, params), state, reward, self.is_terminated(state, params), {}

    def is_terminated(self, state: MazeState, params: MazeParams) -> Array:
        return jnp.all(state.position == params.goal) & (self.at_goal == "end")

    def is_truncated(self, state: MazeState, params: MazeParams) -> Array:
        return state.time >= params.max_steps_in_episode

    def get_obs(self, state: MazeState, params: Any = None, key: Array | None = None) -> Array:
        if self._observation == "one_hot":
            return jax.nn.one_hot(self.state_index(state), self.num_states, dtype=float)
        padded = jnp.pad(params.walls, self.view_radius, constant_values=1)
        side = 2 * self.view_radius + 1
        view = jax.lax.dynamic_slice(padded, (state.position[0], state.position[1]), (side, side))
        return view.reshape(-1).astype(float)

    def state_index(self, state: MazeState) -> Array:
        """[] index row * size + column of the agent's cell, below `num_states`: the state of a tabular learner."""
        return state.position[0] * self.size + state.position[1]

    @property
    def num_states(self) -> int:
        """Cells of the maze, walls included."""
        return self.size**2

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def action_space(self, params: MazeParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: MazeParams | None = None) -> spaces.Box:
        length = self.num_states if self._observation == "one_hot" else (2 * self.view_radius + 1) ** 2
        return spaces.Box(0.0, 1.0, (length,), jnp.float32)


def carve(key: Array, size: int, openings: float = 0.0) -> Array:
    """Walls [size, size] of a random maze: every room can be reached from every other.

    The depth-first search starts in a random room, goes on to a random neighbour not yet seen, and back where there
    is none: each of the m^2 - 1 other rooms is entered once and left once.
    """
    rooms = (size + 1) // 2
    visits = 2 * (rooms**2 - 1)
    draws = jax.random.uniform(key, (1 + visits * len(MOVES) + size**2,), float)  # in one call: each costs compile time
    root = jnp.minimum(jnp.floor(draws[0] * rooms**2).astype(int), rooms**2 - 1)
    moves = jnp.asarray(MOVES, int)
    is_room = jnp.zeros((size, size), bool).at[::2, ::2].set(True)
    stack = jnp.zeros(rooms**2, int).at[0].set(root)
    search: tuple[Array, ...] = (
        (~is_room).astype(int),
        jnp.zeros(rooms**2, bool).at[root].set(True),
        stack,
        jnp.zeros((), int),
    )

    def visit(search: tuple[Array, ...], scores: Array) -> tuple[tuple[Array, ...], None]:
        walls, seen, stack, top = search
        room = jnp.stack(jnp.divmod(stack[top], rooms))
        neighbours = room + moves  # [4, 2]
        inside = jnp.all((neighbours >= 0) & (neighbours < rooms), axis=1)
        index = jnp.where(inside, neighbours[:, 0] * rooms + neighbours[:, 1], 0)
        unseen = inside & ~seen[index]
        choice = jnp.argmax(jnp.where(unseen, scores, -1.0))
        forth = jnp.any(unseen)
        new, between = index[choice], 2 * room + moves[choice]
        between = jnp.clip(between, 0, size - 1)
        walls = walls.at[between[0], between[1]].set(jnp.where(forth, 0, walls[between[0], between[1]]))
        seen = seen.at[new].set(seen[new] | forth)
        top = jnp.where(forth, top + 1, jnp.maximum(top - 1, 0))
        stack = stack.at[top].set(jnp.where(forth, new, stack[top]))
        return (walls, seen, stack, top), None

    (walls, *_), _ = jax.lax.scan(visit, search, draws[1 : -(size**2)].reshape(visits, len(MOVES)))
    row, column = jnp.indices((size, size))
    separates = (row + column) % 2 == 1  # the other cells are rooms, and the corners between four of them
    opened = (draws[-(size**2) :].reshape(size, size) < openings) & separates
    return jnp.where(opened, 0, walls)


def distances(walls: Array, goal: Array) -> Array:
    """[size, size] steps from every cell to the goal, by breadth-first search; size^2 where it cannot be reached."""
    far = jnp.asarray(walls.size, int)
    steps = jnp.full(walls.shape, far).at[goal[0], goal[1]].set(0)

    def sweep(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        steps, _ = carry
        padded = jnp.pad(steps, 1, constant_values=far)
        rows, columns = walls.shape
        around = [padded[1 + dr : 1 + dr + rows, 1 + dc : 1 + dc + columns] for dr, dc in MOVES]
        nearest = functools.reduce(jnp.minimum, around)
        new = jnp.where(walls > 0, far, jnp.minimum(steps, nearest + 1))
        new = jnp.minimum(new, far)
        return new, jnp.any(new != steps)

    return jax.lax.while_loop(lambda carry: carry[1], sweep, (steps, jnp.ones((), bool)))[0]


def optimal_return(env: Maze, horizon: int, params: MazeParams) -> Array:
    """Best expected return of one episode for a walker who knows the maze: always the shortest way, d steps.

    "end": the reward r, if d <= H. "start": r floor(H / d). "teleport": the return W(h) of h steps from a cell
    drawn anew obeys W(h) = mean_s [d(s) <= h] (r + W(h - d(s))), and the whole is [d <= H] (r + W(H - d)). No
    detour pays, as W never falls with h.
    """
    steps = distances(params.walls, params.goal)
    length = steps[params.start[0], params.start[1]]
    reward = jnp.asarray(env.goal_reward, float)
    if env.at_goal == "start":
        return reward * (horizon // jnp.maximum(length, 1)).astype(float)
    if env.at_goal == "end":
        return jnp.where(length <= horizon, reward, 0.0)
    free = (params.walls == 0) & (steps > 0)
    lengths = jnp.arange(1, horizon + 1)
    # probability that the way from a new cell takes 1, ..., H steps; longer ways earn nothing
    probs = (free.reshape(-1, 1) & (steps.reshape(-1, 1) == lengths)).sum(0) / jnp.maximum(free.sum(), 1).astype(float)

    def longer(values: Array, h: Array) -> tuple[Array, None]:
        arrive = jnp.where(lengths <= h, reward + values[h - lengths], 0.0)
        return values.at[h].set(probs @ arrive), None

    values, _ = jax.lax.scan(longer, jnp.zeros(horizon + 1, float), lengths)  # [H + 1] W(0), ..., W(H)
    return jnp.where(length <= horizon, reward + values[horizon - length], 0.0)


def maze(
    *,
    size: int = 9,
    view_radius: int = 1,
    horizon: int = 200,
    openings: float = 0.1,
    min_distance: int | None = None,
    at_goal: str = "teleport",
    goal_reward: float = 1.0,
    wall_penalty: float = 0.0,
    observation: str = "view",
) -> tuple[Maze, TaskDistribution]:
    """Random mazes with a hidden goal. `min_distance` in steps, at most size - 1; by default half of that.

    From every free cell some corner is at least size - 1 steps away, so a start that far from the goal always exists.
    The oracle is exact: it knows the maze and the goal, not where a teleport will lead.

    Raises: ValueError for an even size, a distance beyond size - 1, or another option out of its range.
    """
    env = _environment(size, view_radius, horizon, at_goal, goal_reward, wall_penalty, observation)
    openings = check_positive("openings", openings, or_zero=True)
    if openings > 1:
        raise ValueError(f"openings must be a probability, got {openings!r}")
    nearest = (size - 1) // 2 if min_distance is None else check_count("min_distance", min_distance)
    if nearest > size - 1:
        raise ValueError(f"min_distance must be at most size - 1 = {size - 1}, got {min_distance!r}")

    def sample(key: Array) -> MazeParams:
        walls_key, cells_key = jax.random.split(key)
        walls = carve(walls_key, size, openings)
        scores = jax.random.uniform(cells_key, (2, size, size))
        goal = _highest(scores[0], walls == 0)
        steps = distances(walls, goal)
        return env.params(walls, goal, _highest(scores[1], (steps >= nearest) & (walls == 0)))

    oracle = functools.partial(optimal_return, env, horizon)
    description = f"{size} x {size} mazes, hidden goal, {horizon} steps"
    return env, TaskDistribution(sample, horizon, oracle=oracle, description=description)


_environment = functools.lru_cache(maxsize=None, typed=True)(Maze)


def _highest(scores: Array, mask: Array) -> Array:
    """[2] the cell of the mask [rows, columns] with the highest score: with random ones, a cell drawn uniformly."""
    index = jnp.argmax(jnp.where(mask, scores, -1.0))
    return jnp.stack(jnp.unravel_index(index, mask.shape)).astype(int)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value
