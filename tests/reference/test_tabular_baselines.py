"""Strategies for tabular MDPs, and tabular Q-learning: planning, learning, and the published rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import linprog

from metarl_jax.envs.tabular import tabular_mdp
from metarl_jax.reference import tabular as strategies
from metarl_jax.reference.q_learning import Transitions, q_learning, q_update
from metarl_jax.reference.strategy import play
from metarl_jax.reference.tabular import Prior, TabularMemory

EPISODES = (10, 25, 50, 75, 100)
GRID = np.geomspace(1e-4, 1, 21)  # the authors' grid of scales
# Total rewards of Duan et al. 2016, table 2, each a mean over 1,000 MDPs, and one setting for all columns.
PUBLISHED = {
    "random": ((100.1, 250.2, 499.7, 749.9, 999.4), lambda *size: strategies.random_actions(size[1])),
    "psrl": ((138.1, 408.8, 904.4, 1417.1, 1939.5), strategies.psrl),
    "opsrl": ((144.1, 425.2, 930.7, 1449.2, 1973.9), strategies.opsrl),
    "ucrl2": (
        (146.6, 424.1, 918.9, 1427.6, 1942.1),
        functools.partial(strategies.ucrl2, scale=GRID[18], in_place=True),
    ),
    "beb": ((150.2, 427.8, 917.8, 1422.6, 1935.1), functools.partial(strategies.beb, scale=GRID[6])),
    "epsilon_greedy": (
        (132.8, 377.3, 823.3, 1293.9, 1778.2),
        functools.partial(strategies.epsilon_greedy, epsilon=0.1),
    ),
    "greedy": ((134.8, 368.8, 769.3, 1172.9, 1578.5), strategies.greedy),
    # not in the table: computed for this project, independently of this code
    "greedy, true prior": (
        (154.75, 433.7, 912.2, 1395.0, 1879.2),
        functools.partial(strategies.greedy, prior=Prior(mean=1.0)),
    ),
}


def rewards(env, distribution, strategy, key, num_tasks, num_episodes):
    """[task, episode] returns."""

    def one(key):
        task_key, play_key = jax.random.split(key)
        task = distribution.sample(task_key)
        options = {"num_episodes": num_episodes, "horizon": distribution.horizon}
        return play(env, strategy, play_key, task, **options).sum(axis=1), distribution.oracle(task)

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(key, num_tasks)))


def deviations(name, num_tasks, num_episodes):
    """{n: distance from the published number in combined standard errors}."""
    published, make = PUBLISHED[name]
    env, distribution = tabular_mdp()
    returns, _ = rewards(env, distribution, make(10, 5, 10), jax.random.key(2), num_tasks, num_episodes)
    total = returns.cumsum(axis=1)
    found = {}
    for n, target in zip(EPISODES, published, strict=True):
        if n <= num_episodes:
            variance = total[:, n - 1].var(ddof=1) * (1 / num_tasks + 1 / 1000)  # ours, and that of 1,000 MDPs
            found[n] = (total[:, n - 1].mean() - target) / variance**0.5
    return found


SLOW_TO_COMPILE = ("greedy, true prior",)  # `greedy` with another number


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.slow] if x in SLOW_TO_COMPILE else []) for x in PUBLISHED]
)
def test_ten_episodes_are_worth_what_was_published(name):
    assert abs(deviations(name, {"psrl": 60, "opsrl": 10}.get(name, 300), 10)[10]) < 4


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_rows(name):
    found = deviations(name, {"psrl": 150, "opsrl": 30}.get(name, 500), 100)
    assert max(map(abs, found.values())) < 4, found


SMALL = (3, 2, 4)  # states, actions, steps
PLANNERS = {
    "psrl": strategies.psrl(*SMALL),
    "opsrl": strategies.opsrl(*SMALL, num_samples=3),
    "ucrl2": strategies.ucrl2(*SMALL, scale=0.1),
    "beb": strategies.beb(*SMALL, scale=0.01),
    "greedy": strategies.greedy(*SMALL, prior=Prior(mean=4.0)),  # optimistic, so that it tries everything
    "epsilon_greedy": strategies.epsilon_greedy(*SMALL, 0.05),
}


@pytest.mark.parametrize("name", PLANNERS)
def test_planning_is_exact_when_nothing_is_uncertain(name):
    _, distribution = tabular_mdp(num_states=3, num_actions=2, horizon=4)
    task = distribution.sample(jax.random.key(0))
    strategy, many = PLANNERS[name], 1e9
    blank = strategy.init(jax.random.key(1))
    memory = TabularMemory(
        counts=many * task.transitions,
        visits=jnp.full((3, 2), many),
        reward_sum=many * task.reward_mean,
        q=blank.q,
        episode=blank.episode,
        time=blank.time,
    )
    memory = jax.jit(strategy.begin_episode)(memory, jax.random.key(2))
    np.testing.assert_allclose(memory.q[0, 0].max(), distribution.oracle(task), atol=2e-3)


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] if x == "opsrl" else []) for x in PLANNERS])
def test_strategies_approach_the_optimum(name):
    env, distribution = tabular_mdp(num_states=3, num_actions=2, horizon=4, reward_std=0.5)
    returns, best = rewards(env, distribution, PLANNERS[name], jax.random.key(3), 40, 120)
    first, last = returns[:, :2].mean(), returns[:, -30:].mean()
    assert last > first
    assert last > (0.92 if name == "epsilon_greedy" else 0.95) * best.mean()


def test_the_posterior_is_that_of_normal_rewards_and_categorical_states():
    strategy = strategies.greedy(3, 2, 4)
    memory = strategy.begin_episode(strategy.init(jax.random.key(0)), jax.random.key(0))
    one_hot = jnp.eye(3)
    for reward, following, done in ((2.0, 2, False), (5.0, 1, True)):
        memory = strategy.observe(
            memory, jax.random.key(0), one_hot[0], jnp.array(1), reward, one_hot[following], jnp.array(done)
        )
    belief = strategies.posterior(memory, Prior(concentration=0.5, mean=1.0, precision=2.0, noise_precision=4.0))
    np.testing.assert_allclose(belief.precision, [[2, 10], [2, 2], [2, 2]])
    np.testing.assert_allclose(belief.mean[0], [1, (2 * 1 + 4 * 7) / 10])
    np.testing.assert_allclose(belief.concentration[0], [[0.5, 0.5, 0.5], [0.5, 0.5, 1.5]])  # not the last step
    assert memory.time == 2 and memory.episode == 1


def test_extended_value_iteration_is_the_best_model_in_the_ball():
    rng = np.random.default_rng(0)
    transitions, reward = rng.dirichlet(np.ones(4), (4, 2)), rng.normal(size=(4, 2))
    radius = np.array([[0.0, 0.1], [0.3, 0.7], [1.2, 1.9], [2.0, 5.0]])
    found = strategies.extended_value_iteration(*map(jnp.asarray, (reward, transitions, radius)), horizon=3)
    value = np.zeros(4)
    for t in (2, 1, 0):
        q = np.array([[reward[s, a] + most(transitions[s, a], radius[s, a], value) for a in (0, 1)] for s in range(4)])
        np.testing.assert_allclose(found[t], q, atol=1e-5)
        value = q.max(axis=1)


def most(centre, radius, value):
    """max p . value over |p - centre|_1 <= radius, as a linear programme in (p, distances)."""
    size = len(centre)
    eye, ones, zeros = np.eye(size), np.ones(size), np.zeros(size)
    within = np.block([[eye, -eye], [-eye, -eye], [zeros, ones]])
    bound = np.concatenate([centre, -centre, [radius]])
    solved = linprog(np.r_[-value, zeros], within, bound, np.r_[ones, zeros][None], [1.0])
    return -solved.fun


def test_extended_value_iteration_in_place_moves_its_centres():
    rng = np.random.default_rng(1)
    transitions, reward = rng.dirichlet(np.ones(3), (3, 2)), rng.normal(size=(3, 2))
    radius = np.array([[0.0, 0.1], [0.3, 0.5], [0.9, 1.9]])
    arguments = map(jnp.asarray, (reward, transitions, radius))
    found = strategies.extended_value_iteration(*arguments, horizon=4, in_place=True)
    centre, value = transitions.copy(), np.zeros(3)
    for t in (3, 2, 1, 0):
        q, order = np.zeros((3, 2)), np.argsort(value, kind="stable")
        for s, a in np.ndindex(3, 2):
            if centre[s, a, order[-1]] + radius[s, a] / 2 > 1:
                p = np.eye(3)[order[-1]]
            else:
                p = centre[s, a]  # the same memory, so that the estimate changes
                p[order[-1]] += radius[s, a] / 2
                for worst in order:
                    p[worst] = max(0.0, p[worst] - max(p.sum() - 1, 0.0))
            q[s, a] = reward[s, a] + p @ value
        np.testing.assert_allclose(found[t], q, atol=1e-5)
        value = q.max(axis=1)


def test_ties_are_broken_at_random_and_exploration_is_uniform():
    keys, q = jax.random.split(jax.random.key(0), 4000), jnp.array([1.0, 0.0, 1.0, -2.0])
    for epsilon, expected in ((0.0, [0.5, 0, 0.5, 0]), (0.4, [0.4, 0.1, 0.4, 0.1])):
        actions = jax.vmap(strategies.explore, in_axes=(0, None, None))(keys, q, epsilon)
        np.testing.assert_allclose(np.bincount(actions, minlength=4) / 4000, expected, atol=0.04)


def test_float_options_may_be_tracers():
    env, distribution = tabular_mdp(num_states=3, num_actions=2, horizon=4)
    task = distribution.sample(jax.random.key(0))

    def total(scale):
        made = (
            strategies.ucrl2(*SMALL, scale=scale, delta=scale),
            strategies.beb(*SMALL, scale=scale, prior=Prior(scale, scale, scale, scale)),
            strategies.epsilon_greedy(*SMALL, scale),
        )
        return [play(env, x, jax.random.key(1), task, num_episodes=2, horizon=4).sum() for x in made]

    assert np.isfinite(jax.jit(jax.vmap(total))(jnp.array([0.1, 0.2]))).all()


@pytest.mark.parametrize("name", ("psrl", "opsrl", "ucrl2", "beb", "greedy"))
def test_counts_must_be_positive(name):
    with pytest.raises(ValueError, match="horizon"):
        getattr(strategies, name)(3, 2, 0)
    with pytest.raises(ValueError, match="num_states"):
        q_learning(0, 2, lr=0.1, gamma=0.9, epsilon=0.1)


# --- Q-learning -----------------------------------------------------------------------------------------

# A ring of four states: action 1 steps forward, action 0 stays. The step out of state 3 is worth 1 and terminates.
STATE, ACTION = (x.reshape(-1) for x in np.meshgrid(np.arange(4), np.arange(2), indexing="ij"))
RING = Transitions(
    state=jnp.asarray(STATE),
    action=jnp.asarray(ACTION),
    reward=jnp.asarray((STATE == 3) & (ACTION == 1), float),
    next_state=jnp.asarray((STATE + ACTION) % 4),
    terminated=jnp.asarray((STATE == 3) & (ACTION == 1)),
)
OPTIMAL = 0.9 ** (4 - STATE - ACTION).reshape(4, 2)  # gamma .9: one factor for each step before the last


def test_q_update_converges_to_the_optimum():
    def sweep(q, _):
        return q_update(q, RING, lr=0.5, gamma=0.9), None

    q, _ = jax.lax.scan(sweep, jnp.zeros((4, 2)), length=100)
    np.testing.assert_allclose(q, OPTIMAL, atol=1e-4)


def test_q_learning_online_converges_to_the_optimum():
    strategy = q_learning(4, 2, lr=0.5, gamma=0.9, epsilon=0.5, initial_q=1.0)

    def step(carry, key):
        q, state = carry
        act_key, observe_key = jax.random.split(key)
        action = strategy.act(q, act_key, jnp.eye(4)[state])
        row = jax.tree.map(lambda x: x[2 * state + action], RING)
        arguments = jnp.eye(4)[state], action, row.reward, jnp.eye(4)[row.next_state], row.terminated
        return (strategy.observe(q, observe_key, *arguments), row.next_state), None

    start = strategy.begin_episode(strategy.init(jax.random.key(0)), jax.random.key(0)), jnp.array(0)
    (q, _), _ = jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 2000))
    np.testing.assert_allclose(q, OPTIMAL, atol=1e-4)


def test_q_learning_plays_a_tabular_mdp():
    env, distribution = tabular_mdp(num_states=3, num_actions=2, horizon=4, reward_std=0.5)
    strategy = q_learning(3, 2, lr=0.1, gamma=0.8, epsilon=0.1, initial_q=4.0)
    returns, best = rewards(env, distribution, strategy, jax.random.key(4), 40, 300)
    assert returns[:, -100:].mean() > 0.88 * best.mean()


def test_masked_transitions_change_nothing():
    q, mask = jnp.ones((4, 2)), jnp.arange(8) < 3
    masked = q_update(q, RING.replace(mask=mask.astype(float)), lr=0.5, gamma=0.9)
    first = q_update(q, jax.tree.map(lambda x: x[:3], RING), lr=0.5, gamma=0.9)
    np.testing.assert_array_equal(masked, first)


def test_q_update_is_differentiable(x64):
    rng = np.random.default_rng(0)
    transitions = Transitions(
        state=jnp.asarray(rng.integers(4, size=30)),
        action=jnp.asarray(rng.integers(2, size=30)),
        reward=jnp.asarray(rng.normal(size=30)),
        next_state=jnp.asarray(rng.integers(4, size=30)),
        terminated=jnp.asarray(rng.random(30) < 0.2),
    )
    weight = rng.normal(size=(4, 2))

    def loss(x):
        return jnp.sum(weight * q_update(x["q"], transitions, lr=x["lr"], gamma=x["gamma"]))

    x = {"q": jnp.asarray(rng.normal(size=(4, 2))), "lr": jnp.asarray(0.3), "gamma": jnp.asarray(0.8)}
    flat, unravel = ravel_pytree(x)
    gradient = jax.grad(lambda v: loss(unravel(v)))(flat)
    step = 1e-6 * np.eye(len(flat))
    value = jax.jit(jax.vmap(lambda v: loss(unravel(v))))
    np.testing.assert_allclose(gradient, (value(flat + step) - value(flat - step)) / 2e-6, atol=1e-7)
    assert np.abs(gradient[:2]).min() > 1e-3  # gamma and lr come first


def test_a_table_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="initial_q"):
        q_learning(4, 2, lr=0.1, gamma=0.9, epsilon=0.1, initial_q=jnp.zeros((2, 4)))
