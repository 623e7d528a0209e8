"""LOLA-DiCE: the lookahead gradient against exact returns, the part that the magic box plays, and a run cut short."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.reproductions import lola_dice
from metarl_jax.reproductions.lola_dice import PAYOFF, START, Settings

SHORT = Settings(horizon=3, batch=1 << 12, inner_lr=1.0)
TINY = Settings(num_updates=3, horizon=4, batch=8)
REPEATS = 16


@pytest.fixture
def logits():
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, lola_dice.NUM_STATES)))


def exact_value(own, other, agent, settings=SHORT):
    """Discounted return, not normalised."""
    return lola_dice.exact_returns(jnp.stack([own, other]), settings)[agent] / (1 - settings.gamma)


def estimate(function):
    """Mean and standard error of function(key) over keys."""
    values = jax.jit(lambda keys: jax.lax.map(function, keys))(jax.random.split(jax.random.key(0), REPEATS))
    return np.asarray(values.mean(axis=0)), np.asarray(values.std(axis=0, ddof=1)) / np.sqrt(REPEATS)


def assert_agrees(estimated, exact):
    """Within 5 standard errors everywhere, and those are small beside what is measured."""
    mean, error = estimated
    exact = np.asarray(exact)
    assert np.linalg.norm(exact) > 10 * np.linalg.norm(error)
    np.testing.assert_array_less(np.abs(mean - exact), 5 * error + 1e-6)


def test_exact_returns_are_those_of_all_action_sequences(logits):
    settings = Settings(horizon=2)
    cooperation = np.asarray(jax.nn.sigmoid(logits), np.float64)
    expected = np.zeros(2)
    for sequence in itertools.product(itertools.product((0, 1), repeat=2), repeat=2):
        states, probability, total = (START, START), 1.0, np.zeros(2)
        for t, (a, b) in enumerate(sequence):
            for agent, action in enumerate((a, b)):
                p = cooperation[agent, states[agent]]
                probability *= p if action == 0 else 1 - p
            total += settings.gamma**t * np.array([PAYOFF[a][b], PAYOFF[b][a]])
            states = (2 * a + b, 2 * b + a)
        expected += probability * total
    np.testing.assert_allclose(lola_dice.exact_returns(logits, settings), (1 - settings.gamma) * expected, atol=1e-6)


def test_sampled_games_have_the_exact_return(logits):
    def sampled(key):
        reward = lola_dice.play(key, logits, SHORT).reward.mean(axis=2)
        return (1 - SHORT.gamma) * reward @ SHORT.gamma ** jnp.arange(SHORT.horizon)

    assert_agrees(estimate(sampled), lola_dice.exact_returns(logits, SHORT))


def test_both_cooperating_is_the_optimum():
    always = jnp.full((2, lola_dice.NUM_STATES), 30.0)
    np.testing.assert_allclose(lola_dice.exact_returns(always, Settings()), lola_dice.optimum(Settings()), rtol=1e-5)


@pytest.mark.parametrize("lookahead", [1, 2])
def test_lookahead_gradient_is_that_of_the_exact_return(logits, lookahead):
    settings = SHORT._replace(lookahead=lookahead)

    def exact_loss(own, other):
        for _ in range(lookahead):
            other = other + settings.inner_lr * jax.grad(exact_value, argnums=1)(own, other, 1)
        return -exact_value(own, other, 0)

    gradient = jax.grad(lola_dice.lookahead_loss)
    estimated = estimate(lambda key: gradient(*logits, key, settings))
    assert_agrees(estimated, jax.jit(jax.grad(exact_loss))(*logits))


def cross_derivative(logits, key, settings):
    """d/d own of the step that the opponent takes, [S, S]."""
    games = lola_dice.play(key, logits, settings)
    step = jax.grad(lola_dice.surrogate, argnums=1)
    return jax.jacobian(step)(*logits, games, 1, settings)


def test_the_magic_box_is_what_lets_an_agent_see_its_effect_on_the_other(logits):
    exact = -jax.jit(jax.jacobian(jax.grad(lambda a, b: exact_value(a, b, 1), argnums=1)))(*logits)
    assert_agrees(estimate(lambda key: cross_derivative(logits, key, SHORT)), exact)
    plain = jax.jit(lambda key: cross_derivative(logits, key, SHORT._replace(magic=False)))(jax.random.key(0))
    np.testing.assert_array_equal(plain, 0)


def test_without_lookahead_the_magic_box_changes_nothing(logits):
    def gradient(magic):
        settings = SHORT._replace(lookahead=0, batch=64, magic=magic)
        return jax.jit(jax.grad(lambda *x: lola_dice.lookahead_loss(*x, settings)))(*logits, jax.random.key(1))

    np.testing.assert_allclose(gradient(True), gradient(False), atol=1e-5)


def test_run_goes_on_from_what_it_left(tmp_path, monkeypatch):
    variant = lola_dice.VARIANTS["dice_1"]
    plain = variant._replace(settings=TINY._replace(magic=False), rule=lola_dice.NO_RULE)
    monkeypatch.setattr(lola_dice, "VARIANTS", {"a": variant._replace(settings=TINY), "b": plain})
    monkeypatch.setattr(lola_dice, "NUM_SEEDS", 2)
    lines = []
    first = lola_dice.run(tmp_path, lines.append)
    assert len(first) == len(lines) == 2
    assert first[1].passed and first[0].passed == (first[0].ours >= -1.3)
    assert first[0].interval[0] <= first[0].ours <= first[0].interval[1]
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert lola_dice.run(tmp_path, lines.append) == first
    assert before == {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}

    longer = lola_dice.measure("a", TINY._replace(num_updates=4), tmp_path, 2)  # other settings: trained again
    assert np.shape(longer["curve"]) == (2, 4) and np.shape(longer["cooperation"]) == (2, 2, lola_dice.NUM_STATES)
    assert np.isfinite(longer["curve"]).all()


def test_a_rule_is_what_it_says():
    assert lola_dice.holds(-1.3, ">= -1.30") and not lola_dice.holds(-1.31, ">= -1.30")
    assert lola_dice.holds(-1.95, "<= -1.95") and not lola_dice.holds(-1.94, "<= -1.95")
