import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs import make
from metarl_jax.envs.krazy_world import AGENT, DEATH, ENERGY, GOAL, ICE, MOVES, NORMAL, TRANSPORTER

KEY = jax.random.key(0)
DENSE = {"size": 6, "death": 0.06, "ice": 0.25, "energy": 0.06, "num_transporters": 2, "initial_energy": 12}


@pytest.fixture(scope="module")
def boards():
    _, tasks = make("KrazyWorld-v0", shuffle_actions=True)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(tasks.sample))(jax.random.split(KEY, 300)))


def test_boards_have_the_published_tiles(boards):
    kinds = {GOAL: 3, DEATH: 8, ICE: 5, ENERGY: 5, TRANSPORTER: 2, NORMAL: 77}
    for kind, number in kinds.items():
        np.testing.assert_array_equal((boards.tiles == kind).sum((1, 2)), number)
    every = np.arange(300)
    assert (boards.tiles[every, boards.start[:, 0], boards.start[:, 1]] == NORMAL).all()
    for tiles, start, exits in zip(boards.tiles, boards.start, boards.exits, strict=True):
        assert np.abs(np.argwhere(tiles == GOAL) - start).sum(1).min() > 2
        moved = np.flatnonzero(exits != np.arange(100))
        assert (tiles.ravel()[moved] == TRANSPORTER).all() and len(moved) == 2
        assert exits[moved].tolist() == moved[::-1].tolist()
    assert len(np.unique(boards.tiles, axis=0)) == 300
    share = (boards.tiles == DEATH).mean(0)
    assert share.min() > 0.02 and share.max() < 0.16  # everywhere, the last row and column too


def test_colours_and_actions_are_shuffled_if_asked_for(boards):
    np.testing.assert_array_equal(np.sort(boards.colors, axis=1), np.tile(np.arange(10), (300, 1)))
    np.testing.assert_array_equal(np.sort(boards.actions, axis=1), np.tile(np.arange(4), (300, 1)))
    assert len(np.unique(boards.actions, axis=0)) == 24 and len(np.unique(boards.colors, axis=0)) > 290
    task = make("KrazyWorld-v0", shuffle_colors=False)[1].sample(KEY)
    np.testing.assert_array_equal(task.colors, np.arange(10))
    np.testing.assert_array_equal(task.actions, np.arange(4))


class Reference:
    """The rules once more, one board, as loops."""

    def __init__(self, params, energy, replenish=8):
        self.tiles, self.exits = params.tiles.copy(), params.exits
        self.actions, self.cell = params.actions, tuple(params.start)
        self.energy, self.replenish, self.dead = energy, replenish, False

    def step(self, action):
        self.energy -= 1
        size = len(self.tiles)
        dr, dc = MOVES[self.actions[action]]
        while True:
            row, column = self.cell[0] + dr, self.cell[1] + dc
            if not (0 <= row < size and 0 <= column < size):
                break
            self.cell = (row, column)
            if self.tiles[self.cell] != ICE:
                break
        tile, reward = self.tiles[self.cell], 0
        if tile in (GOAL, ENERGY):
            self.tiles[self.cell] = NORMAL
            reward = int(tile == GOAL)
            self.energy += self.replenish * int(tile == ENERGY)
        if tile == TRANSPORTER:
            self.cell = tuple(divmod(self.exits[self.cell[0] * size + self.cell[1]], size))
        self.dead = tile == DEATH or self.energy < 1
        return reward, self.dead


def test_steps_agree_with_the_rules_as_loops():
    env, tasks = make("KrazyWorld-v0", **DENSE, shuffle_actions=True, observation="full", horizon=40)
    step = jax.jit(env.step_env)
    params = jax.jit(jax.vmap(tasks.sample))(jax.random.split(KEY, 30))
    rng, events = np.random.default_rng(0), np.zeros(4, int)
    for i in range(30):
        task = jax.tree.map(lambda leaf: np.asarray(leaf)[i], params)  # noqa: B023
        reference = Reference(task, energy=12)
        state = env.reset_env(None, task)[1]
        for _ in range(40):
            action = rng.integers(4)
            obs, state, reward, terminated, _ = step(None, state, action, task)
            expected = reference.step(action)
            assert (int(reward), bool(terminated)) == expected
            assert tuple(state.position.tolist()) == reference.cell and int(state.energy) == reference.energy
            board = reference.tiles.copy()
            board[reference.cell] = AGENT
            np.testing.assert_array_equal(obs.reshape(6, 6, 10).argmax(-1), task.colors[board])
            energy = bool(reference.energy > 11)
            events += [reward > 0, terminated, energy, task.tiles[reference.cell] == TRANSPORTER]
            if terminated:
                break
    assert (events > 3).all()  # all of it happened


def test_tiles_one_by_one():
    env, _ = make("KrazyWorld-v0", size=5, initial_energy=4, replenish=3)
    tiles = np.full((5, 5), NORMAL)
    tiles[0, 1] = tiles[0, 2] = ICE
    tiles[0, 3], tiles[0, 4], tiles[1, 3], tiles[4, 0], tiles[4, 4] = GOAL, ENERGY, DEATH, TRANSPORTER, TRANSPORTER
    exits = np.arange(25)
    exits[[20, 24]] = [24, 20]
    params = env.params(tiles, [0, 0], exits)
    down, right, left = 0, 2, 3

    def walk(*actions, start=(0, 0)):
        state = env.reset_env(None, params)[1].replace(position=jnp.asarray(start))
        for action in actions:
            _, state, reward, terminated, _ = step(None, state, action, params)
        return state.position.tolist(), float(reward), int(state.energy), bool(terminated)

    step = jax.jit(env.step_env)
    assert walk(right) == ([0, 3], 1.0, 3, False)  # slides over two tiles of ice for one unit, onto the goal
    assert walk(right, right) == ([0, 4], 0.0, 5, False)
    assert walk(right, right, left) == ([0, 3], 0.0, 4, False)  # used up
    assert walk(right, right, left, left) == ([0, 0], 0.0, 3, False)  # and slides back
    assert walk(right, down) == ([1, 3], 0.0, 2, True)
    assert walk(down, start=(3, 0)) == ([4, 4], 0.0, 3, False)
    assert walk(right, start=(4, 4)) == ([4, 0], 0.0, 3, False)  # bumping on a transporter works it again
    assert walk(left, left, left, left) == ([0, 0], 0.0, 0, True)  # energy runs out


@pytest.mark.parametrize("observation", ["local", "egocentric"])
def test_views_are_parts_of_the_board(observation, boards):
    env, full = (make("KrazyWorld-v0", observation=name)[0] for name in (observation, "full"))
    task = jax.tree.map(lambda leaf: jnp.asarray(leaf[1]), boards)
    state = env.reset_env(None, task)[1]
    see = jax.jit(lambda cell: tuple(e.get_obs(state.replace(position=cell), task) for e in (env, full)))
    for cell in [(0, 0), (4, 5), (9, 3), (9, 9)]:
        view, board = see(jnp.asarray(cell))
        assert view.shape == env.observation_space().shape
        board = np.asarray(board).reshape(10, 10, 10)
        tiles = boards.tiles[1].copy()
        tiles[cell] = AGENT
        np.testing.assert_array_equal(board, np.eye(10)[boards.colors[1][tiles]])
        if observation == "egocentric":
            around = np.pad(board, ((1, 1), (1, 1), (0, 0)))[cell[0] : cell[0] + 3, cell[1] : cell[1] + 3]
        else:
            near = np.abs(np.indices((10, 10)) - np.reshape(cell, (2, 1, 1))).max(0) <= 1
            around = board * near[..., None]
        np.testing.assert_array_equal(view, around.reshape(-1))


def test_oracle_agrees_with_exhaustive_search():
    """All 4^6 plans on small boards on which life is short."""
    options = {"size": 4, "num_goals": 2, "min_goal_distance": 2, "death": 0.13, "ice": 0.13, "energy": 0.07}
    env, tasks = make("KrazyWorld-v0", **options, initial_energy=3, replenish=2, horizon=6)
    plans = jnp.asarray(list(itertools.product(range(4), repeat=6)))  # [4096, 6]

    def value(plan, task):
        def step(carry, action):
            state, alive = carry
            _, state, reward, terminated, _ = env.step_env(None, state, action, task)
            return (state, alive & ~terminated), jnp.where(alive, reward, 0)

        return jax.lax.scan(step, (env.reset_env(None, task)[1], jnp.ones((), bool)), plan)[1].sum()

    params = jax.jit(jax.vmap(tasks.sample))(jax.random.split(KEY, 40))

    def both(task):
        return jax.vmap(value, (0, None))(plans, task).max(), tasks.oracle(task)

    best, oracle = jax.jit(lambda params: jax.lax.map(both, params))(params)
    np.testing.assert_array_equal(oracle, best)
    assert set(np.unique(best)) >= {0.0, 1.0, 2.0}


def test_oracle_of_published_boards_and_of_too_many_tiles(boards):
    env, tasks = make("KrazyWorld-v0", shuffle_actions=True)
    oracle = jax.jit(lambda params: jax.lax.map(tasks.oracle, params))(jax.tree.map(lambda leaf: leaf[:10], boards))
    assert oracle.min() >= 2 and oracle.max() == 3
    assert make("KrazyWorld-v0", energy=0.1)[1].oracle is None


def test_the_board_outlives_auto_resets():
    env, _ = make("KrazyWorld-v0", size=4, initial_energy=3, observation="full")
    tiles = np.full((4, 4), NORMAL)
    tiles[0, 1] = GOAL
    params = env.params(tiles, [0, 0])
    first, state = env.reset(KEY, params)
    for t in range(9):  # the goal is back in every episode
        obs, state, reward, terminated, truncated, _ = env.step(jax.random.key(t), state, 2, params)
        assert float(reward) == (t % 3 == 0) and bool(terminated) == (t % 3 == 2) and not truncated
    np.testing.assert_array_equal(obs, first)
    short, _ = make("KrazyWorld-v0", horizon=2)
    task = short.default_params
    state = short.reset(KEY, task)[1]
    for t in range(2):
        *_, state, _, terminated, truncated, _ = short.step(KEY, state, 0, task)
        assert not terminated and bool(truncated) == (t == 1)


@pytest.mark.parametrize(
    "overrides",
    [
        {"size": 3},
        {"death": -0.1},
        {"num_goals": 0},
        {"num_transporters": -1},
        {"min_goal_distance": 1.5},
        {"observation": "pixels"},
        {"replenish": 0},
    ],
)
def test_impossible_values(overrides):
    (name, value), *_ = overrides.items()
    with pytest.raises(ValueError, match=f"{name} must be .*got {value!r}"):
        make("KrazyWorld-v0", **overrides)
