"""Returns and advantages against plain loops, the linear baseline against float64 least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.rl import returns

T, B = 9, 3


@pytest.fixture
def stream():
    """Random rewards and values, with terminations and truncations in between, never both at once."""
    rng = np.random.default_rng(0)
    terminated = rng.random((T, B)) < 0.25
    truncated = (rng.random((T, B)) < 0.25) & ~terminated
    assert terminated.any() and truncated.any() and not (terminated | truncated)[-1].all()
    return {
        "reward": rng.normal(size=(T, B)),
        "value": rng.normal(size=(T, B)),
        "next_value": rng.normal(size=(T, B)),
        "terminated": terminated,
        "truncated": truncated,
    }


def test_discounted_returns_against_a_loop(x64, stream):
    reward, bootstrap = stream["reward"], stream["next_value"]
    done = stream["terminated"] | stream["truncated"]
    expected = np.zeros((T, B))
    for b in range(B):
        for t in reversed(range(T)):
            follows = bootstrap[t, b] if done[t, b] or t == T - 1 else expected[t + 1, b]
            expected[t, b] = reward[t, b] + 0.9 * follows
    got = jax.jit(returns.discounted_returns)(reward, done, 0.9, bootstrap)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_discounted_returns_without_bootstrap_end_at_done():
    done = np.array([False, True, False, False])
    got = jax.jit(returns.discounted_returns)(np.array([1.0, 2.0, 4.0, 8.0]), done, 0.5)
    np.testing.assert_allclose(got, [2.0, 2.0, 8.0, 8.0])


def test_gae_against_a_loop(x64, stream):
    gamma, lam = 0.9, 0.7
    expected = np.zeros((T, B))
    for b in range(B):
        following = 0.0
        for t in reversed(range(T)):
            after = 0.0 if stream["terminated"][t, b] else stream["next_value"][t, b]
            delta = stream["reward"][t, b] + gamma * after - stream["value"][t, b]
            ends = stream["terminated"][t, b] or stream["truncated"][t, b]
            following = delta if ends else delta + gamma * lam * following
            expected[t, b] = following
    got = jax.jit(returns.gae)(**stream, gamma=gamma, gae_lambda=lam)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_gae_with_lambda_one_is_the_return_minus_the_value(x64, stream):
    data = dict(stream)
    data["next_value"] = np.concatenate([data["value"][1:], data["next_value"][-1:]])  # consistent in a stream
    advantage = jax.jit(returns.gae)(**data, gamma=0.9, gae_lambda=1.0)
    done = data["terminated"] | data["truncated"]
    bootstrap = np.where(data["terminated"], 0.0, data["next_value"])
    full = jax.jit(returns.discounted_returns)(data["reward"], done, 0.9, bootstrap)
    np.testing.assert_allclose(advantage, full - data["value"], rtol=1e-12)


def test_gae_is_differentiable_in_gamma_lambda_and_values(x64, stream):
    data = {k: jnp.asarray(v) for k, v in stream.items()}

    def total_of(gamma, lam, value):
        return jnp.sum(jnp.square(returns.gae(**{**data, "value": value}, gamma=gamma, gae_lambda=lam)))

    compiled, h = jax.jit(total_of), 1e-6
    total = lambda gamma, lam: compiled(gamma, lam, data["value"])  # noqa: E731
    by_gamma, by_lambda, by_value = jax.jit(jax.grad(total_of, (0, 1, 2)))(0.9, 0.7, data["value"])
    np.testing.assert_allclose(by_gamma, (total(0.9 + h, 0.7) - total(0.9 - h, 0.7)) / (2 * h), rtol=1e-7)
    np.testing.assert_allclose(by_lambda, (total(0.9, 0.7 + h) - total(0.9, 0.7 - h)) / (2 * h), rtol=1e-7)
    assert abs(by_gamma) > 0.1 and abs(by_lambda) > 0.1
    assert np.all(by_value), "estimators do not stop gradients, callers do"


def test_standardize_divides_by_the_standard_deviation():
    x = np.random.default_rng(0).normal(3.0, 5.0, size=(T, B)).astype(np.float32)
    mask = np.ones((T, B), np.float32)
    mask[5:, 1] = 0.0
    got = np.asarray(jax.jit(returns.standardize)(x, mask))
    kept = x[mask > 0]
    np.testing.assert_allclose(got[mask > 0], (kept - kept.mean()) / kept.std(), rtol=1e-4, atol=1e-6)
    assert np.all(got[mask == 0] == 0)


def test_standardize_at_zero_variance_is_zero_with_finite_derivatives():
    standardize, one = jax.jit(returns.standardize), np.ones((4, 2))
    np.testing.assert_array_equal(standardize(2 * one, one), 0)
    assert np.isfinite(jax.jit(jax.jacrev(returns.standardize))(2 * one, one)).all()
    np.testing.assert_array_equal(standardize(one, 0 * one), 0)


def test_baseline_features():
    got = jax.jit(returns.baseline_features)(np.array([[0.5, -20.0]]), np.array([50]))
    np.testing.assert_allclose(got, [[0.5, -10.0, 0.25, 100.0, 0.5, 0.25, 0.125, 1.0]])


def test_linear_baseline_in_float32_against_float64():
    """H = 100 x 20 episodes, 2-D observations that wander by steps of .1, as in point navigation."""
    rng = np.random.default_rng(0)
    observation = np.cumsum(rng.uniform(-0.1, 0.1, size=(100, 20, 2)), axis=0)
    reward = -np.linalg.norm(observation - 0.3, axis=-1)
    targets = np.cumsum(reward[::-1], axis=0)[::-1]
    time = np.broadcast_to(np.arange(100)[:, None], (100, 20))
    mask = (time < rng.integers(40, 101, size=20)).astype(np.float64)  # episodes of different lengths

    x = np.asarray(jax.jit(returns.baseline_features)(observation, time), np.float64)
    rows = np.concatenate([x.reshape(-1, 8) * mask.reshape(-1, 1), np.sqrt(1e-5) * np.eye(8)])
    w = np.linalg.lstsq(rows, np.concatenate([(targets * mask).ravel(), np.zeros(8)]), rcond=None)[0]
    expected = x @ w

    fit = jax.jit(returns.linear_baseline)
    features, y, m = (v.astype(np.float32) for v in (x, targets, mask))
    got = fit(features, y, m)
    assert np.max(np.abs(got - expected)) < 1e-3 * np.max(np.abs(expected))
    junk = fit(features, np.where(m > 0, y, np.float32(1e6)), m)
    np.testing.assert_array_equal(got, junk)


def test_linear_baseline_carries_no_gradient():
    slopes = jax.jit(jax.grad(lambda x, y: jnp.sum(returns.linear_baseline(x, y, jnp.ones(6))), (0, 1)))
    for slope in slopes(np.arange(12.0).reshape(6, 2), np.arange(6.0)):
        np.testing.assert_array_equal(slope, 0)
