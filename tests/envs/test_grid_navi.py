import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs import make
from metarl_jax.envs.grid_navi import MOVES, goal_cells
from metarl_jax.reference import play
from metarl_jax.reference.grid_navi import (
    bayes_optimal,
    bayes_optimal_strategy,
    posterior_sampling_returns,
    posterior_sampling_strategy,
    random_return,
)

KEY = jax.random.key(0)


def test_the_rules():
    env, tasks = make("GridNavi-v0")
    assert tasks.horizon == 15 and env.num_actions == 5 and env.num_states == 25
    params = env.params(jnp.asarray([1, 2]))
    obs, state = env.reset_env(None, params)
    np.testing.assert_array_equal(obs, [0, 0])
    step = jax.jit(env.step_env)
    walk = [(3, [0, 0]), (4, [0, 0]), (2, [1, 0]), (1, [1, 1]), (1, [1, 2]), (0, [1, 2]), (4, [0, 2]), (3, [0, 1])]
    for action, cell in walk:  # down and left run into the edge; the reward is that of the cell arrived in
        obs, state, reward, terminated, _ = step(None, state, action, params)
        np.testing.assert_array_equal(obs, cell)
        assert float(reward) == pytest.approx(1.0 if cell == [1, 2] else -0.1) and not terminated
    assert int(env.state_index(state)) == 1


def test_episodes_terminate_after_15_steps_with_the_same_goal():
    env, tasks = make("GridNavi-v0")
    params = tasks.sample(jax.random.key(3))
    obs, state = env.reset(KEY, params)
    for t in range(45):  # up and right to the far corner, over the goal or not: the same in each episode
        obs, state, reward, terminated, truncated, _ = env.step(jax.random.key(t), state, 1 + (t % 15) // 7, params)
        assert bool(terminated) == (t % 15 == 14) and not truncated
    np.testing.assert_array_equal(obs, [0, 0])


@pytest.mark.parametrize("size", [3, 5, 6])
def test_goals(size):
    cells = {tuple(cell) for cell in goal_cells(size).tolist()}
    assert len(cells) == size**2 - 4 and not cells & {(0, 0), (0, 1), (1, 0), (1, 1)}
    _, tasks = make("GridNavi-v0", size=size)
    assert {tuple(goal) for goal in tasks.members.goal.tolist()} == cells


def test_nothing_is_held_out_unless_asked_for():
    _, tasks = make("GridNavi-v0")
    train, test = tasks.split(1)
    assert not (tasks.held_out or train.held_out or test.held_out)
    for half in (tasks, train, test):
        goals = half.evaluation_tasks(21).goal
        assert {tuple(goal) for goal in goals.tolist()} == {tuple(goal) for goal in goal_cells(5).tolist()}
    drawn = jax.jit(jax.vmap(train.sample))(jax.random.split(KEY, 4000)).goal
    _, counts = np.unique(np.asarray(drawn), axis=0, return_counts=True)
    assert len(counts) == 21 and np.abs(counts / 4000 - 1 / 21).max() < 0.015
    train, test = make("GridNavi-v0", hold_out=True)[1].split(1)
    assert train.held_out and test.held_out and (len(train.members.goal), len(test.members.goal)) == (17, 4)


@pytest.mark.parametrize("observation", ["position", "scaled", "one_hot"])
def test_observations_show_the_cell(observation):
    env, tasks = make("GridNavi-v0", size=4, observation=observation)
    params = tasks.sample(KEY)
    for cell in itertools.product(range(4), repeat=2):
        state = env.reset_env(None, params)[1].replace(position=jnp.asarray(cell))
        obs = env.get_obs(state)
        assert obs.shape == env.observation_space().shape and env.observation_space().contains(obs)
        assert tuple(env.cell(obs).tolist()) == cell
    np.testing.assert_allclose(obs, {"position": [3, 3], "scaled": [1, 1], "one_hot": np.eye(16)[15]}[observation])


def test_oracle_agrees_with_exhaustive_search():
    env, tasks = make("GridNavi-v0", size=3, horizon=5)
    plans = jnp.asarray(list(itertools.product(range(5), repeat=5)))  # [3125, 5]

    def value(plan, params):
        state = env.reset_env(None, params)[1]
        return jax.lax.scan(lambda s, a: env.step_env(None, s, a, params)[1:3], state, plan)[1].sum()

    values = jax.jit(jax.vmap(jax.vmap(value, (0, None)), (None, 0)))(plans, tasks.members)
    np.testing.assert_allclose(jax.vmap(tasks.oracle)(tasks.members), values.max(1), rtol=1e-5)


def test_oracle_mean_and_unreachable_goals():
    _, tasks = make("GridNavi-v0")
    assert float(jax.vmap(tasks.oracle)(tasks.members).mean()) == pytest.approx(11.0714, abs=1e-4)
    env, tasks = make("GridNavi-v0", horizon=3)
    assert float(tasks.oracle(env.params(jnp.asarray([4, 4])))) == pytest.approx(-0.3)


@pytest.mark.parametrize("overrides", [{"size": 2}, {"size": 5.0}, {"horizon": 0}, {"observation": "pixels"}])
def test_impossible_values(overrides):
    (name, value), *_ = overrides.items()
    with pytest.raises(ValueError, match=f"{name} must be .*got {value!r}"):
        make("GridNavi-v0", **overrides)


def test_published_bayes_optimal_returns_and_its_path():
    plan = bayes_optimal()
    assert plan.returns.dtype == np.float64
    np.testing.assert_allclose(plan.returns, [4, 15.5 / 1.4, 15.5 / 1.4, 15.5 / 1.4], rtol=1e-12)  # 11.0714...
    moves = np.asarray(MOVES)[plan.actions]
    np.testing.assert_array_equal(plan.cells[:, 1:], np.clip(plan.cells[:, :-1] + moves, 0, 4))
    np.testing.assert_array_equal(plan.cells[:, 0], 0)
    entered = {}
    for k, cell in enumerate(plan.cells[:, 1:].reshape(-1, 2).tolist()):
        entered.setdefault(tuple(cell), k + 1)
    assert [entered[tuple(goal)] for goal in plan.goals.tolist()] == plan.found_at.tolist()
    assert sorted(plan.found_at)[:14] == list(range(2, 16))  # a new goal with every step of episode 1 but the first


@pytest.mark.parametrize("size, horizon, episodes", [(3, 4, 2), (3, 3, 3), (4, 4, 2), (4, 6, 2), (3, 1, 1)])
def test_bayes_optimal_agrees_with_the_belief_mdp(size, horizon, episodes):
    """Value iteration over (step, cell, belief), in which policies may react to everything: no path is assumed."""
    goals = [tuple(goal) for goal in goal_cells(size).tolist()]
    steps = horizon * episodes

    @functools.cache
    def value(k, cell, possible):
        if k == steps:
            return 0.0
        cell = cell if k % horizon else (0, 0)
        best = -np.inf
        for dx, dy in MOVES:
            new = (min(max(cell[0] + dx, 0), size - 1), min(max(cell[1] + dy, 0), size - 1))
            p = (new in possible) / len(possible)
            total = p * (1 + value(k + 1, new, frozenset([new]))) if p else 0.0
            if p < 1:
                total += (1 - p) * (-0.1 + value(k + 1, new, possible - {new}))
            best = max(best, total)
        return best

    plan = bayes_optimal(size=size, horizon=horizon, num_episodes=episodes)
    assert plan.returns.sum() == pytest.approx(value(0, (0, 0), frozenset(goals)), abs=1e-9)


def test_a_search_that_takes_too_long_gives_up():
    with pytest.raises(ValueError, match="within 50 nodes"):
        bayes_optimal(size=7, max_nodes=50)
    with pytest.raises(ValueError, match="size must be"):
        posterior_sampling_returns(size=2)


def trial_returns(env, strategy, tasks, num_keys):
    """[keys, tasks, 4] returns of the episodes of simulated trials."""

    def trial(key, task):
        return play(env, strategy, key, task, num_episodes=4, horizon=env.horizon).sum(-1)

    over_tasks = jax.vmap(jax.vmap(trial, (None, 0)), (0, None))
    return np.asarray(jax.jit(over_tasks)(jax.random.split(jax.random.key(1), num_keys), tasks.members))


@pytest.mark.parametrize("observation", ["position", "one_hot"])
def test_the_bayes_optimal_strategy_earns_the_plans_returns(observation):
    env, tasks = make("GridNavi-v0", observation=observation)
    simulated = trial_returns(env, bayes_optimal_strategy(env), tasks, 1)[0]  # nothing is random
    np.testing.assert_allclose(simulated.mean(0), bayes_optimal().returns, atol=1e-4)


def test_posterior_sampling_earns_its_exact_returns():
    exact = posterior_sampling_returns()
    np.testing.assert_allclose(exact, [-0.774150, 1.389390, 3.109212, 4.593531], atol=1e-6)
    env, tasks = make("GridNavi-v0")
    simulated = trial_returns(env, posterior_sampling_strategy(env), tasks, 1000).mean(1)  # over the goals
    error = simulated.std(0) / np.sqrt(len(simulated))
    assert (np.abs(simulated.mean(0) - exact) < 4 * error + 1e-5).all()


def test_posterior_sampling_by_hand():
    """3 x 3, two steps, up first: draws of (x, 2) enter (0, 2), that of (2, 0) itself, that of (2, 1) no goal."""
    hit, miss = 0.9, -0.2
    first = 4 / 5 * (1 / 5 * hit + 4 / 5 * miss) + 1 / 5 * miss
    np.testing.assert_allclose(posterior_sampling_returns(size=3, horizon=2, num_episodes=1), [first])


def test_random_return():
    assert random_return() == pytest.approx(-1.165472, abs=1e-6)
    env, tasks = make("GridNavi-v0")

    def episode(key, params):
        actions = jax.random.randint(key, (15,), 0, 5)
        state = env.reset_env(None, params)[1]
        return jax.lax.scan(lambda s, a: env.step_env(None, s, a, params)[1:3], state, actions)[1].sum()

    simulated = jax.jit(jax.vmap(jax.vmap(episode, (None, 0)), (0, None)))(jax.random.split(KEY, 2000), tasks.members)
    simulated = np.asarray(simulated).mean(1)
    assert abs(simulated.mean() - random_return()) < 4 * simulated.std() / np.sqrt(2000)
