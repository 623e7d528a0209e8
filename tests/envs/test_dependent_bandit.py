import functools

import jax
import numpy as np
import pytest

from metarl_jax.envs import make

KEYS = jax.random.split(jax.random.key(0), 4000)
TWO = {"easy": (0.1, 0.9), "medium": (0.25, 0.75), "hard": (0.4, 0.6)}
TOTALS = {"uniform": 73.7786, "easy": 89.3750, "medium": 74.0000, "hard": 57.6879}


@pytest.mark.parametrize("kind", ["uniform", *TWO])
def test_the_second_arm_mirrors_the_first(kind):
    env, tasks = make("DependentBandit-v0", kind=kind, horizon=3)
    probs = np.asarray(jax.jit(jax.vmap(tasks.sample))(KEYS).probs)
    assert env.num_actions == 2 and tasks.horizon == 3
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-6)
    assert probs.mean() == pytest.approx(0.5) and abs(probs[:, 0].mean() - 0.5) < 0.02
    if kind == "uniform":
        assert probs[:, 0].std() == pytest.approx(1 / np.sqrt(12), rel=0.05)
    else:
        np.testing.assert_allclose(np.unique(probs), TWO[kind], rtol=1e-6)
    task = tasks.sample(jax.random.key(1))
    assert float(tasks.oracle(task)) == pytest.approx(3 * float(task.probs.max()))


def test_independent_arms():
    _, tasks = make("DependentBandit-v0", kind="independent")
    probs = np.asarray(jax.jit(jax.vmap(tasks.sample))(KEYS).probs)
    assert probs.shape == (4000, 2) and abs(np.corrcoef(probs.T)[0, 1]) < 0.06


def test_the_informative_arm_tells_which_arm_pays():
    env, tasks = make("DependentBandit-v0", kind="informative", horizon=5)
    assert env.num_actions == 11 and not tasks.held_out and len(tasks.split(0)[0].members.means) == 10
    pull = jax.jit(lambda task, arm: env.step_env(KEYS[0], env.reset_env(KEYS[0], task)[1], arm, task)[2])
    for target in range(10):
        task = env.params(tasks.members.means[target])
        rewards = np.asarray([pull(task, arm) for arm in range(11)])
        told = round(10 * float(rewards[10])) - 1
        assert told == target and rewards.argmax() == target and rewards.argmin() == 10
        np.testing.assert_allclose(np.sort(rewards)[1:], [1.1] * 9 + [5.0], rtol=1e-6)
        assert float(tasks.oracle(task)) == pytest.approx(25)


@pytest.mark.parametrize("kind", ["uniform", "easy", "informative"])
def test_the_task_outlives_its_episodes(kind):
    env, tasks = make("DependentBandit-v0", kind=kind, horizon=2)
    task = tasks.sample(jax.random.key(5))
    obs, state = env.reset(jax.random.key(0), task)
    best = int((task.means if kind == "informative" else task.probs).argmax())
    rewards = []
    for t in range(6):
        obs, state, reward, terminated, truncated, _ = env.step(jax.random.key(t), state, best, task)
        assert bool(terminated) == (t % 2 == 1) and not truncated and obs.shape == (1,)
        rewards.append(float(reward))
    assert kind != "informative" or rewards == [5.0] * 6


@pytest.mark.parametrize("kind", TOTALS)
def test_bayes_optimal_totals_of_the_table(kind):
    """Beliefs about p after a pieces of evidence for a large p and t - a against, whichever arm was pulled."""

    def mean(a, b):
        if kind == "uniform":
            return (1 + a) / (2 + a + b)
        values = np.asarray(TWO[kind])
        weights = values**a * (1 - values) ** b
        return float(weights @ values / weights.sum())

    value = np.zeros(101)
    for t in reversed(range(100)):
        means = np.asarray([mean(a, t - a) for a in range(t + 1)])
        value = np.maximum(means, 1 - means) + means * value[1 : t + 2] + (1 - means) * value[: t + 1]
    assert value[0] == pytest.approx(TOTALS[kind], abs=5e-5)


def test_bayes_optimal_total_with_the_informative_arm():
    @functools.cache
    def value(candidates, pulls):
        if pulls == 0:
            return 0.0
        k = len(candidates)
        if k == 1:
            return 5.0 * pulls
        tell = np.mean([0.1 * (i + 1) for i in candidates]) + 5.0 * (pulls - 1)
        try_one = max(
            (5.0 * pulls + (k - 1) * (1.1 + value(candidates - {i}, pulls - 1))) / k for i in candidates
        )  # arms already ruled out pay 1.1 and tell nothing
        return max(tell, try_one)

    assert value(frozenset(range(10)), 5) == pytest.approx(20.55)


def test_unknown_kinds_and_horizons():
    with pytest.raises(ValueError, match="kind must be one of uniform, .*got 'soft'"):
        make("DependentBandit-v0", kind="soft")
    with pytest.raises(ValueError, match="horizon must be"):
        make("DependentBandit-v0", kind="informative", horizon=0)
