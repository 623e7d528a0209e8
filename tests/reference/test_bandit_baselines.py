"""Bandit strategies that are not learned: against exact values, brute force, and the published table of RL2."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import reference
from metarl_jax.envs.bandit import bernoulli_bandit, gaussian_bandit
from metarl_jax.reference import bayes_optimal, gittins_index
from metarl_jax.reference.bandits import Counts

KEY = jax.random.key(0)

# Duan et al. 2016, Table 1: the mean of 1,000 tasks, rounded to .1.
PUBLISHED = {
    (10, 5): {"random": 5.0, "gittins": 6.6, "ts": 5.7, "ots": 6.5, "ucb1": 6.7, "eps": 6.6, "greedy": 6.6},
    (100, 5): {"random": 49.9, "gittins": 78.3, "ts": 74.7, "ots": 77.9, "ucb1": 78.0, "eps": 75.4, "greedy": 74.8},
}
# The best of each grid for these cells.
BEST = {
    (10, 5): {"discount": 0.9, "num_samples": 20, "c": 0.1, "epsilon": 0.0},
    (100, 5): {"discount": 0.99, "num_samples": 7, "c": 0.2, "epsilon": 0.0},
}


def strategies(num_pulls, num_arms):
    best = BEST[num_pulls, num_arms]
    return {
        "random": reference.random_arms(num_arms),
        "gittins": reference.gittins(num_arms, num_pulls, best["discount"]),
        "ts": reference.thompson_sampling(num_arms),
        "ots": reference.optimistic_thompson_sampling(num_arms, best["num_samples"]),
        "ucb1": reference.ucb1(num_arms, best["c"]),
        "eps": reference.epsilon_greedy(num_arms, best["epsilon"]),
        "greedy": reference.greedy(num_arms),
    }


def trial_returns(strategy, num_pulls, num_arms, num_tasks, horizon=1, make=bernoulli_bandit):
    """[task] total rewards of trials of num_pulls pulls."""
    env, tasks = make(num_arms=num_arms, horizon=horizon)

    def one(key):
        task_key, play_key = jax.random.split(key)
        task = tasks.sample(task_key)
        return reference.play(env, strategy, play_key, task, num_episodes=num_pulls // horizon, horizon=horizon).sum()

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, num_tasks)), np.float64)


def standard_error(returns):
    return returns.std(ddof=1) / len(returns) ** 0.5


def act(strategy, pulls, total, key=KEY):
    counts = Counts(pulls=jnp.asarray(pulls, float), total=jnp.asarray(total, float))
    return int(strategy.act(counts, key, jnp.zeros(1)))


# --- play -----------------------------------------------------------------------------------------------


def counting():
    """A strategy that counts its calls, and acts on how many steps it has seen."""

    def observe(memory, key, observation, action, reward, next_observation, done):
        return memory | {"steps": memory["steps"] + 1, "ends": memory["ends"] + done}

    return reference.Strategy(
        init=lambda key: {name: jnp.zeros((), int) for name in ("episodes", "steps", "ends")},
        begin_episode=lambda memory, key: memory | {"episodes": memory["episodes"] + 1},
        act=lambda memory, key, observation: memory["steps"] % 2,
        observe=observe,
    )


def test_memory_survives_episodes_and_ended_steps_are_masked():
    env, _ = bernoulli_bandit(num_arms=2, horizon=3)
    task = env.params(jnp.array([0.0, 1.0]))  # the reward is the arm: step number, modulo 2
    rewards = reference.play(env, counting(), KEY, task, num_episodes=3, horizon=5)
    np.testing.assert_array_equal(rewards, [[0, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 1, 0, 0, 0]])


def test_an_episode_that_outlasts_the_horizon_is_cut_off():
    env, _ = bernoulli_bandit(num_arms=2, horizon=5)
    task = env.params(jnp.array([0.0, 1.0]))
    rewards = reference.play(env, counting(), KEY, task, num_episodes=2, horizon=3)
    np.testing.assert_array_equal(rewards, [[0, 1, 0], [1, 0, 1]])


@pytest.mark.parametrize("horizon", [1, 10])
def test_a_trial_is_many_short_episodes_or_one_long(horizon):
    returns = trial_returns(reference.greedy(3), 10, 3, 2000, horizon=horizon)
    assert abs(returns.mean() - greedy_value(3, 10)) < 4 * standard_error(returns)


def greedy_value(num_arms, num_pulls):
    """Exact value of greedy with ties to the first arm."""

    @functools.cache
    def value(state, left):
        if not left:
            return 0.0
        means = [Fraction(1 + s, 2 + s + f) for s, f in state]
        i = means.index(max(means))
        return outcome(state, i, left, value)

    return value(((0, 0),) * num_arms, num_pulls)


def outcome(state, i, left, value):
    """Expected reward now and later of pulling arm i."""
    s, f = state[i]
    p = (1 + s) / (2 + s + f)
    won, lost = ((*state[:i], pair, *state[i + 1 :]) for pair in ((s + 1, f), (s, f + 1)))
    return p * (1 + value(won, left - 1)) + (1 - p) * value(lost, left - 1)


# --- Gittins indices ------------------------------------------------------------------------------------


def test_gittins_indices_of_the_literature():
    """Gittins, Glazebrook & Weber 2011, tables of the Beta-Bernoulli index; (0, 0), (1, 1) and (0, 1) by (s, f)."""
    table = reference.gittins_table(10, 0.9)
    np.testing.assert_allclose(table[[0, 1, 0], [0, 1, 1]], [0.7029, 0.6346, 0.5001], atol=6e-5)
    assert abs(reference.gittins_table(2, 0.99)[0, 0] - 0.8699) < 6e-5


def calibrated(successes, failures, discount, remaining):
    """The index by bisection, with a plain recursion for the stopping problem."""
    low, high = 0.0, 1.0
    while high - low > 1e-7:
        level = (low + high) / 2

        @functools.cache
        def gain(s, f, left, level=level):
            if not left:
                return 0.0
            p = (1 + s) / (2 + s + f)
            later = p * max(0.0, gain(s + 1, f, left - 1)) + (1 - p) * max(0.0, gain(s, f + 1, left - 1))
            return p - level + discount * later

        low, high = (level, high) if gain(successes, failures, remaining) > 0 else (low, level)
    return low


def test_gittins_table_is_the_root_of_the_stopping_problem():
    table = reference.gittins_table(8, 0.8)
    for s, f in [(0, 0), (3, 0), (0, 4), (2, 5)]:
        assert abs(table[s, f] - calibrated(s, f, 0.8, 60)) < 1e-4
    assert np.isnan(table[4, 4]) and np.isfinite(table[4, 3])


def test_finite_horizon_table_is_the_root_of_the_stopping_problem():
    table = reference.finite_horizon_table(12)
    for s, f, remaining in [(0, 0, 12), (0, 0, 2), (3, 1, 8), (0, 5, 7), (6, 5, 1)]:
        index = table[gittins_index.finite_horizon_position(s, s + f, remaining)]
        assert abs(index - calibrated(s, f, 1.0, remaining)) < 3e-4
    positions = [
        gittins_index.finite_horizon_position(s, m, total - m)
        for total in range(1, 13)
        for m in range(total)
        for s in range(m + 1)
    ]
    assert positions == list(range(len(table)))


def test_tables_are_shared_and_cannot_be_written():
    assert reference.gittins_table(8, 0.8) is reference.gittins_table(8, 0.8)
    with pytest.raises(ValueError, match="read-only"):
        reference.gittins_table(8, 0.8)[0, 0] = 1


@pytest.mark.parametrize("discount", [0.0, 1.0, -1, 2])
def test_gittins_wants_a_discount(discount):
    with pytest.raises(ValueError, match="discount must be in"):
        reference.gittins_table(5, discount)


# --- the Bayes optimum ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_arms", "num_pulls"), [(1, 4), (2, 1), (2, 5), (3, 4), (4, 3)])
def test_bayes_optimum_is_that_of_brute_force(num_arms, num_pulls):
    @functools.cache
    def value(state, left):
        return max(outcome(state, i, left, value) for i in range(num_arms)) if left else 0.0

    exact = value(((0, 0),) * num_arms, num_pulls)
    np.testing.assert_allclose(reference.bayes_optimal_value(num_arms, num_pulls), exact, rtol=1e-12)


@pytest.mark.parametrize(("num_arms", "value"), [(5, 6.660), (10, 6.714), (50, 6.714)])
def test_bayes_optimum_of_ten_pulls(num_arms, value):
    assert abs(reference.bayes_optimal_value(num_arms, 10) - value) < 5e-4


@pytest.mark.parametrize(("num_arms", "num_pulls"), [(1, 1), (1, 6), (2, 7), (5, 10), (9, 4)])
def test_states_are_counted_before_they_are_enumerated(num_arms, num_pulls):
    assert bayes_optimal.count_states(num_arms, num_pulls) == len(bayes_optimal.solve(num_arms, num_pulls).value)


def test_too_many_states_are_refused():
    with pytest.raises(ValueError, match=r"num_arms 5, num_pulls 100: 3\.63e\+11 states, above 300,000"):
        reference.bayes_optimal_value(5, 100)


def test_bayes_optimal_strategy_attains_its_value_and_greedy_does_not():
    returns = {
        name: trial_returns(strategy, 8, 3, 4000)
        for name, strategy in [
            ("optimal", reference.bayes_optimal_bandit(3, 8)),
            ("index", reference.finite_horizon_gittins(3, 8)),
            ("greedy", reference.greedy(3)),
        ]
    }
    value = reference.bayes_optimal_value(3, 8)
    assert abs(returns["optimal"].mean() - value) < 4 * standard_error(returns["optimal"])
    assert abs(returns["index"].mean() - value) < 4 * standard_error(returns["index"])
    # Same tasks, same chance: the difference is known better than either.
    paired = returns["greedy"] - returns["optimal"]
    assert abs(paired.mean() - (greedy_value(3, 8) - value)) < 4 * standard_error(paired)


# --- the strategies -------------------------------------------------------------------------------------


def test_ties_go_to_the_first_arm():
    fresh = {
        "greedy": reference.greedy(4),
        "eps": reference.epsilon_greedy(4, 0.0),
        "ucb1": reference.ucb1(4, 0.5),
        "gittins": reference.gittins(4, 10, 0.9),
        "finite_horizon": reference.finite_horizon_gittins(4, 10),
    }
    for name, strategy in fresh.items():
        assert act(strategy, [0, 0, 0, 0], [0, 0, 0, 0]) == 0, name
        assert act(strategy, [1, 0, 0, 0], [0, 0, 0, 0]) == 1, name
        assert act(strategy, [1, 2, 2, 0], [0, 2, 2, 0]) == 1, name
    assert act(reference.greedy(3), [1, 2, 0], [0, 1, 0]) == 1  # Beta(2, 2) and Beta(1, 1) have one mean


def test_scores_are_those_of_the_paper():
    # t = 3, mean + c sqrt(2 ln t / pulls) with Beta(1, 1): 3/5 + .663 c against 1/2 + 1.048 c, equal at c = .26.
    assert [act(reference.ucb1(2, c), [3, 0], [2, 0]) for c in (0.25, 0.27)] == [0, 1]
    # Exploration is worth something while there are pulls left, and nothing with the last one.
    assert act(reference.finite_horizon_gittins(2, 20), [3, 0], [2, 0]) == 1
    assert act(reference.finite_horizon_gittins(2, 4), [3, 0], [2, 0]) == 0


def test_epsilon_greedy_explores_with_probability_epsilon():
    counts = Counts(pulls=jnp.array([4.0, 0, 0, 0]), total=jnp.array([4.0, 0, 0, 0]))
    keys = jax.random.split(KEY, 4000)

    def frequency(epsilon):
        arms = jax.vmap(lambda key: reference.epsilon_greedy(4, epsilon).act(counts, key, jnp.zeros(1)))(keys)
        return jnp.mean(arms != 0)

    np.testing.assert_allclose(jax.vmap(frequency)(jnp.array([0.0, 0.4, 1.0])), [0, 0.3, 0.75], atol=0.03)


def test_optimistic_samples():
    keys = jax.random.split(KEY, 1000)

    def second(strategy, pulls, total):
        """How often the second arm is pulled."""
        counts = Counts(pulls=jnp.asarray(pulls, float), total=jnp.asarray(total, float))
        return float(jnp.mean(jax.vmap(lambda key: strategy.act(counts, key, jnp.zeros(1)))(keys)))

    thompson = reference.thompson_sampling(2)
    truncated = reference.optimistic_thompson_sampling(2, rule="truncated")
    densest = reference.optimistic_thompson_sampling(2, 20)
    # An arm of mean .4, well known, and one that is not known, of mean .5: no draw of the latter counts below .5.
    assert abs(second(thompson, [1998, 0], [798, 0]) - 0.6) < 0.06
    assert second(truncated, [1998, 0], [798, 0]) == 1
    # Beta(1, 6) and Beta(3, 4), of modes 0 and .4: the densest draws are near the modes.
    assert second(thompson, [5, 5], [0, 2]) < 0.96 < second(densest, [5, 5], [0, 2])
    with pytest.raises(ValueError, match="rule must be one of densest, truncated"):
        reference.optimistic_thompson_sampling(2, rule="sparse")


def test_a_grid_is_one_batch():
    env, tasks = bernoulli_bandit(num_arms=3)
    task = tasks.sample(KEY)

    def rewards(c):
        return reference.play(env, reference.ucb1(3, c), KEY, task, num_episodes=20)

    grid = jnp.array([0.0, 0.5])
    batched = jax.jit(jax.vmap(rewards))(grid)
    np.testing.assert_array_equal(batched, jnp.stack([rewards(c) for c in grid]))


@pytest.mark.parametrize("make", [reference.greedy, reference.random_arms, reference.thompson_sampling])
def test_arms_are_counted(make):
    with pytest.raises(ValueError, match="num_arms must be an integer of at least 1"):
        make(0)


def test_gaussian_posterior():
    posterior = reference.gaussian(sigma=2.0, mean=1.0, std=0.5)
    counts = Counts(pulls=jnp.array([0.0, 4.0]), total=jnp.array([0.0, 12.0]))
    # Precisions 4 and 4 + 4/4: means 1 and (4 * 1 + 3) / 5.
    np.testing.assert_allclose(posterior.mean(counts), [1, 7 / 5], rtol=1e-6)
    draws = jax.vmap(lambda key: posterior.sample(counts, key))(jax.random.split(KEY, 20_000))
    np.testing.assert_allclose(draws.mean(0), [1, 7 / 5], atol=0.02)
    np.testing.assert_allclose(draws.std(0), [4**-0.5, 5**-0.5], rtol=0.03)
    gradient = jax.grad(lambda x: posterior.log_density(counts, x).sum())(jnp.array([2.0, 2.0]))
    np.testing.assert_allclose(gradient, [-4, -5 * (2 - 7 / 5)], rtol=1e-5)


def test_gaussian_strategies_beat_chance():
    posterior = reference.gaussian(sigma=0.5)
    make = functools.partial(gaussian_bandit, sigma=0.5)
    for strategy in [
        reference.greedy(5, posterior),
        reference.ucb1(5, 0.2, posterior),
        reference.thompson_sampling(5, posterior),
    ]:
        returns = trial_returns(strategy, 50, 5, 200, make=make)
        assert 25 * 1.2 < returns.mean() < 50 * 5 / 6


# --- the published table --------------------------------------------------------------------------------


def check_published(num_pulls, num_arms, num_tasks, best_value):
    """Within 4 combined standard errors of the published means, and not better than the best there is."""
    for name, strategy in strategies(num_pulls, num_arms).items():
        # Beta variates are slow to draw, and 20 times as many of them more so.
        returns = trial_returns(strategy, num_pulls, num_arms, num_tasks // 4 if name == "ots" else num_tasks)
        error = standard_error(returns)
        published_error = returns.std() / 1000**0.5 + 0.05  # of 1,000 tasks, and rounding
        published = PUBLISHED[num_pulls, num_arms][name]
        assert abs(returns.mean() - published) < 4 * np.hypot(error, published_error), (name, returns.mean(), error)
        assert returns.mean() < best_value + 4 * error, (name, returns.mean(), error)


def test_published_returns_of_ten_pulls_of_five_arms():
    check_published(10, 5, 1000, reference.bayes_optimal_value(5, 10))


@pytest.mark.slow
def test_published_returns_of_a_hundred_pulls_of_five_arms():
    check_published(100, 5, 1000, 100 * 5 / 6)
    returns = trial_returns(reference.finite_horizon_gittins(5, 100), 100, 5, 4000)
    assert abs(returns.mean() - 78.66) < 4 * standard_error(returns)
