from collections import deque

import jax
import numpy as np
import pytest

from metarl_jax.envs import make
from metarl_jax.envs.maze import MOVES, carve, distances

KEY = jax.random.key(0)


def search(walls, goal):
    """Steps to the goal from every cell that can reach it, {cell: steps}, by a queue."""
    steps, queue = {tuple(goal): 0}, deque([tuple(goal)])
    while queue:
        cell = queue.popleft()
        for dr, dc in MOVES:
            new = (cell[0] + dr, cell[1] + dc)
            if min(new) >= 0 and max(new) < len(walls) and not walls[new] and new not in steps:
                steps[new] = steps[cell] + 1
                queue.append(new)
    return steps


def sample(tasks, num):
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(tasks.sample))(jax.random.split(KEY, num)))


@pytest.fixture(scope="module")
def mazes():
    """100 tasks of the defaults."""
    return sample(make("Maze-v0")[1], 100)


def one(params, i, env):
    """Task i of a batch, as `env`'s, whose horizon may differ."""
    return env.params(params.walls[i], params.goal[i], params.start[i])


@pytest.mark.parametrize("size, openings, min_distance", [(3, 0.0, 2), (9, 0.0, 8), (13, 0.3, None)])
def test_every_free_cell_can_be_reached_and_the_start_is_far_enough(size, openings, min_distance):
    _, tasks = make("Maze-v0", size=size, openings=openings, min_distance=min_distance)
    params = sample(tasks, 300)
    lengths = []
    for walls, goal, start in zip(params.walls, params.goal, params.start, strict=True):
        steps = search(walls, goal)
        assert len(steps) == (walls == 0).sum() and (walls[::2, ::2] == 0).all()  # all of them, the rooms included
        assert (walls[1::2, 1::2] == 1).all()
        lengths.append(steps[tuple(start)])
        if openings == 0:
            assert (walls == 0).sum() == 2 * ((size + 1) // 2) ** 2 - 1  # a tree
    assert min(lengths) >= (min_distance or (size - 1) // 2)
    assert len(np.unique(params.walls, axis=0)) > (250 if size > 3 else 3)


def test_openings_make_loops():
    walls = jax.jit(jax.vmap(lambda key, openings: carve(key, 9, openings), (0, None)))
    keys = jax.random.split(KEY, 400)
    tree, open_ = np.asarray(walls(keys, 0.0)), np.asarray(walls(keys, 0.3))
    row, column = np.indices((9, 9))
    between = (row + column) % 2 == 1
    assert (open_ <= tree).all()  # the same mazes, with holes
    assert 1 - (open_[:, between].sum() / tree[:, between].sum()) == pytest.approx(0.3, abs=0.02)
    np.testing.assert_array_equal(walls(keys, 1.0)[:, between], 0)


@pytest.mark.slow
def test_large_mazes_are_connected():
    _, tasks = make("Maze-v0", size=25, openings=0.0)
    params = sample(tasks, 1000)
    for walls, goal in zip(params.walls, params.goal, strict=True):
        assert len(search(walls, goal)) == (walls == 0).sum() == 2 * 13**2 - 1


def test_distances_agree_with_a_queue(mazes):
    found = np.asarray(jax.jit(jax.vmap(distances))(mazes.walls, mazes.goal))
    for steps, walls, goal in zip(found, mazes.walls, mazes.goal, strict=True):
        expected = np.full((9, 9), 81)
        for cell, number in search(walls, goal).items():
            expected[cell] = number
        np.testing.assert_array_equal(steps, expected)


@pytest.mark.parametrize("radius", [1, 3])
def test_the_view_is_the_walls_around(radius, mazes):
    env, _ = make("Maze-v0", view_radius=radius)
    params = one(mazes, 4, env)
    walls = np.pad(np.asarray(params.walls), radius, constant_values=1)
    cells = np.argwhere(np.asarray(params.walls) == 0)
    state = env.reset_env(None, params)[1]
    views = jax.jit(jax.vmap(lambda cell: env.get_obs(state.replace(position=cell), params)))(cells)
    assert views.shape == (len(cells), *env.observation_space().shape)
    for (row, column), view in zip(cells, np.asarray(views), strict=True):
        window = walls[row : row + 2 * radius + 1, column : column + 2 * radius + 1]
        np.testing.assert_array_equal(view.reshape(window.shape), window)
        assert window[radius, radius] == 0


@pytest.mark.parametrize("at_goal", ["teleport", "start", "end"])
def test_steps_follow_the_rules(at_goal):
    env, _ = make("Maze-v0", size=3, at_goal=at_goal, goal_reward=2.0, wall_penalty=0.5, horizon=40)
    walls, goal, start = np.asarray([[0, 0, 0], [0, 1, 0], [0, 0, 0]]), np.asarray([0, 2]), np.asarray([2, 1])
    params = env.params(walls, goal, start)
    step = jax.jit(env.step_env)
    state = env.reset_env(None, params)[1]
    reached, after = 0, set()
    for t, action in enumerate(np.random.default_rng(0).integers(4, size=150)):
        cell = np.asarray(state.position)
        obs, state, reward, terminated, _ = step(jax.random.key(t), state, action, params)
        ahead = cell + MOVES[action]
        bumps = not ((ahead >= 0) & (ahead < 3)).all() or walls[tuple(ahead)] == 1
        new = cell if bumps else ahead
        hit = (new == goal).all()
        assert float(reward) == 2.0 * hit - 0.5 * bumps and bool(terminated) == (hit and at_goal == "end")
        assert bool(env.is_truncated(state, params)) == (t + 1 >= 40)
        if hit and at_goal == "end":
            state = state.replace(position=params.start)
        elif hit and at_goal == "teleport":
            after.add(tuple(state.position.tolist()))
            assert walls[tuple(state.position)] == 0 and tuple(state.position.tolist()) != tuple(goal.tolist())
        else:
            np.testing.assert_array_equal(state.position, start if hit else new)
        reached += hit
    assert reached > 5 and (at_goal != "teleport" or len(after) > 3)


@pytest.mark.parametrize("at_goal", ["teleport", "start", "end"])
@pytest.mark.parametrize("horizon", [9, 40])
def test_oracle_agrees_with_backward_induction(at_goal, horizon, mazes):
    env, tasks = make("Maze-v0", at_goal=at_goal, horizon=horizon, wall_penalty=0.25, goal_reward=3.0)
    params = jax.tree.map(lambda leaf: leaf[:5], mazes)
    oracle = np.asarray(jax.jit(jax.vmap(tasks.oracle))(params))
    for walls, goal, start, found in zip(params.walls, params.goal, params.start, oracle, strict=True):
        cells = [tuple(cell) for cell in np.argwhere(walls == 0).tolist()]
        value = {cell: 0.0 for cell in cells}
        for _ in range(horizon):
            fresh = np.mean([value[cell] for cell in cells if cell != tuple(goal)])
            after_goal = {"teleport": fresh, "start": value[tuple(start)], "end": 0.0}[at_goal]
            new_value = {}
            for cell in cells:
                options = []
                for dr, dc in MOVES:
                    new = (cell[0] + dr, cell[1] + dc)
                    bumps = new not in value
                    new = cell if bumps else new
                    future = 3.0 + after_goal if new == tuple(goal) else value[new]
                    options.append(future - 0.25 * bumps)
                new_value[cell] = max(options)
            value = new_value
        assert found == pytest.approx(value[tuple(start)], rel=1e-5, abs=1e-6)


def test_the_maze_outlives_auto_resets(mazes):
    env, _ = make("Maze-v0", horizon=5)
    params = one(mazes, 8, env)
    first, state = env.reset(KEY, params)
    for t in range(15):
        obs, state, _, terminated, truncated, _ = env.step(jax.random.key(t), state, t % 4, params)
        assert bool(truncated) == (t % 5 == 4) and not terminated
        if truncated:
            np.testing.assert_array_equal(obs, first)
            np.testing.assert_array_equal(state.position, params.start)


def test_halves_share_no_maze():
    train, test = make("Maze-v0")[1].split(0)
    both = [{walls.tobytes() for walls in sample(half, 100).walls} for half in (train, test)]
    assert not both[0] & both[1] and len(both[0]) == 100


def test_states_are_numbered_for_tables(mazes):
    env, _ = make("Maze-v0", observation="one_hot")
    obs, state = env.reset_env(None, one(mazes, 0, env))
    assert env.num_states == 81 and int(env.state_index(state)) == mazes.start[0] @ [9, 1]
    np.testing.assert_array_equal(obs, np.eye(81)[mazes.start[0] @ [9, 1]])


@pytest.mark.parametrize(
    "overrides",
    [
        {"size": 8},
        {"size": 1},
        {"min_distance": 9},
        {"min_distance": 0},
        {"openings": 1.5},
        {"at_goal": "stay"},
        {"observation": "pixels"},
        {"view_radius": 0},
        {"goal_reward": 0.0},
    ],
)
def test_impossible_values(overrides):
    (name, value), *_ = overrides.items()
    with pytest.raises(ValueError, match=f"{name} must be .*got {value!r}"):
        make("Maze-v0", **overrides)
