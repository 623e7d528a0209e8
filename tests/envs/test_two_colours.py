"""Two colours: the rules, step by step; the optimum, against an agent that follows it and against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs import make
from metarl_jax.envs.two_colours import NUM_CELLS, TwoColoursState, optimal_return

KEY = jax.random.key(0)


def state(agent, blue, red, time=0):
    return TwoColoursState(cells=jnp.asarray([agent, blue, red], int), time=jnp.asarray(time, int))


@pytest.fixture(scope="module")
def world():
    env, tasks = make("TwoColours-v0", swap_every=10, horizon=50)
    return env, tasks, jax.jit(env.step_env)


def test_moves_and_edges(world):
    env, _, step = world
    task = env.params(0)
    for action, after in ((0, 7), (1, 17), (2, 11), (3, 13)):  # up, down, left, right of the middle
        obs, new, reward, terminated, _ = step(KEY, state(12, 0, 24), action, task)
        assert new.cells.tolist() == [after, 0, 24] and int(new.time) == 1
        assert float(reward) == pytest.approx(-0.04) and not terminated
        rows = np.asarray(obs).reshape(3, 2, 5)
        np.testing.assert_array_equal(rows.argmax(axis=-1), [[after // 5, after % 5], [0, 0], [4, 4]])
        assert rows.sum() == 6
    for start, action in ((2, 0), (22, 1), (10, 2), (14, 3)):  # off the grid: it stays
        assert int(step(KEY, state(start, 6, 8), action, task)[1].cells[0]) == start


@pytest.mark.parametrize("first", [0, 1])
def test_an_item_pays_by_its_colour_and_moves_to_a_free_cell(world, first):
    env, _, step = world
    task = env.params(first)
    places = {1: set(), 2: set()}
    for i in range(300):
        for item, cells in ((1, (12, 13, 3)), (2, (12, 3, 13))):
            _, new, reward, _, _ = step(jax.random.key(i), state(*cells), 3, task)
            assert float(reward) == (1.0 if item == 1 + first else -1.0)
            assert int(new.cells[0]) == 13 and int(new.cells[3 - item]) == 3, "agent and other item stay"
            places[item].add(int(new.cells[item]))
    free = set(range(NUM_CELLS)) - {13, 3}
    assert places == {1: free, 2: free}


def test_colours_swap_and_swap_back(world):
    env, _, step = world
    task = env.params(0)
    rewards = [float(step(KEY, state(12, 13, 3, time), 3, task)[2]) for time in (0, 9, 10, 19, 20)]
    assert rewards == [1.0, 1.0, -1.0, -1.0, 1.0]


def test_nothing_ends_but_time(world):
    env, tasks, step = world
    assert tasks.horizon == 50 and tasks.oracle is None, "colours swap within the horizon"
    task = tasks.sample(KEY)
    assert not bool(env.is_truncated(state(0, 1, 2, 49), task)) and bool(env.is_truncated(state(0, 1, 2, 50), task))
    first = [int(tasks.sample(jax.random.key(i)).first) for i in range(40)]
    assert 5 < sum(first) < 35


def test_a_start_has_three_different_cells(world):
    env, _, _ = world
    cells = jax.vmap(lambda k: env.reset_env(k, env.default_params)[1].cells)(jax.random.split(KEY, 2000))
    ordered = np.sort(cells, axis=1)
    assert (ordered[:, 0] < ordered[:, 1]).all() and (ordered[:, 1] < ordered[:, 2]).all()
    counts = np.stack([np.bincount(cells[:, i], minlength=NUM_CELLS) for i in range(3)])
    assert (np.abs(counts / 2000 - 1 / 25) < 0.02).all()


def test_the_optimum(x64):
    """One step: +1 for those beside the good item; in the long run .2789 a step, the known optimum."""
    env, tasks = make("TwoColours-v0")
    neighbours = sum((x > 0) + (x < 4) + (y > 0) + (y < 4) for x in range(5) for y in range(5))
    beside = neighbours / (25 * 24)
    one = float(jax.jit(lambda: optimal_return(1, env.default_params))())
    assert one == pytest.approx(beside - 0.04 * (1 - beside))
    assert float(tasks.oracle(env.default_params)) == pytest.approx(26.741, abs=1e-3)
    longer, long = (float(jax.jit(lambda h=h: optimal_return(h, env.default_params))()) for h in (4000, 3000))
    assert (longer - long) / 1000 == pytest.approx(0.2789, abs=5e-5)


@pytest.mark.parametrize("overrides, said", [({"swap_every": 0}, "swap_every"), ({"horizon": 1.5}, "horizon")])
def test_bad_options(overrides, said):
    with pytest.raises(ValueError, match=said):
        make("TwoColours-v0", **overrides)
