"""Pictures of MinAtar's games: colours against the observation, words against what was done."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.envs import minatar_picture as picture


def played(game, length=12):
    """(env, task, observations [T, 10, 10, C] in the game's own order, states [T]) of random actions."""
    env, tasks = mrl.make(f"MinAtar:{game}", rules=["sticky", "channels", "actions"], sticky=0.5)
    task = tasks.sample(jax.random.key(1))

    def one(state, key):
        action = jax.random.randint(key, (), 0, env.num_actions)
        seen, state, *_ = env.step_env(key, state, action, task)
        return state, (seen[..., jnp.argsort(task.channels)], state)

    _, start = env.reset_env(jax.random.key(0), task)
    seen, states = jax.jit(lambda: jax.lax.scan(one, start, jax.random.split(jax.random.key(2), length))[1])()
    return env, task, np.asarray(seen), states


@pytest.mark.parametrize("game", ["Seaquest", "SpaceInvaders"])
def test_a_cell_has_the_colour_of_the_last_channel_that_is_on(game):
    env, task, seen, states = played(game)
    frames = env.frames(states, task)
    size = 10 * picture.CELL
    assert frames.shape == (12, picture.ABOVE + size + picture.BELOW, size + picture.BESIDE, 3)
    assert frames.dtype == np.uint8
    for t in (0, 11):
        for row, column in np.ndindex(10, 10):
            on = np.flatnonzero(seen[t, row, column])
            corner = np.array([picture.ABOVE + row * picture.CELL, column * picture.CELL])
            cell = frames[t, corner[0] : corner[0] + picture.CELL, corner[1] : corner[1] + picture.CELL]
            assert (cell == (picture.COLOURS[on[-1]] if len(on) else picture.GROUND)).all(), (t, row, column)
    assert len({tuple(c) for c in picture.COLOURS[: seen.shape[-1]]} | {picture.GROUND}) == seen.shape[-1] + 1


def test_red_is_what_was_done_in_the_order_of_the_tasks_actions():
    env, _, _, states = played("SpaceInvaders", length=4)
    assert env.does == ("nothing", "left", "right", "fire")
    states = states.replace(action=jnp.arange(4))  # as the game counts them
    task = env.default_params.replace(actions=jnp.array([3, 0, 2, 1]))  # fire, nothing, right, left
    legends = env.frames(states, task)[:, -picture.BELOW :].astype(int)
    red = (legends[..., 0] > 150) & (legends[..., 1] < 120)
    columns = [np.nonzero(red[done].any(axis=0))[0].mean() for done in (3, 0, 2, 1)]
    assert (np.diff(columns) > 25).all(), "the words from left to right"
