"""Statistics with known answers, and adaptation curves that do not depend on how they are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import trim_mean

import metarl_jax as mrl
from metarl_jax.meta import evaluation


def test_iqm_is_the_mean_of_the_middle_half():
    assert evaluation.iqm(np.array([0.0, 1, 2, 3, 4, 5, 6, 1000])) == pytest.approx(3.5)
    x = np.random.default_rng(0).normal(size=(5, 41))
    np.testing.assert_allclose(evaluation.iqm(x), trim_mean(x, 0.25, axis=-1))


def test_interval_covers_the_true_mean_at_its_rate():
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(200):
        _, low, high = evaluation.bootstrap_interval(
            rng.normal(3.0, 2.0, size=(2, 30)), evaluation.mean, num_resamples=400, seed=i
        )
        covered += low <= 3.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_is_stratified_by_seed():
    """Seeds that differ hugely but have no spread over tasks leave nothing to resample."""
    scores = np.array([[0.0] * 10, [100.0] * 10])
    assert evaluation.bootstrap_interval(scores, evaluation.mean) == (50.0, 50.0, 50.0)


def test_interval_refuses_what_has_none():
    with pytest.raises(ValueError, match=r"must be \[seed, task\]"):
        evaluation.bootstrap_interval(np.zeros(3))
    with pytest.raises(ValueError, match="NaN or infinity"):
        evaluation.bootstrap_interval(np.array([[1.0, np.nan]]))


def test_probability_of_improvement_and_convergence():
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 4.0]])
    assert evaluation.probability_of_improvement(a, b) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert evaluation.paired_improvement(np.array([[1.0, 2.0, 2.0]]), np.array([[0.0, 3.0, 2.0]])) == 0.5
    assert evaluation.convergence_update(np.array([[[0.0, 8.0, 9.5, 10.0]]])) == 2


def test_adaptation_curve_is_the_same_for_every_chunk_and_task_count():
    env, tasks = mrl.make("PointNavigation-v0")
    policy = mrl.networks.mlp_policy(env, (8,))
    algo = mrl.maml(
        env, tasks, policy, mrl.inner.policy_gradient(policy, 0.5), meta_batch_size=2, episodes_per_task=3, horizon=10
    )
    params = algo.init(jax.random.key(0)).params
    held_out = tasks.evaluation_tasks(4, 0)

    def curve(batch, n):
        some = jax.tree.map(lambda x: x[:n], held_out)
        return jax.jit(lambda p: evaluation.adaptation_curve(algo, p, jax.random.key(1), some, 2, batch))(params)

    full = curve(4, 4)
    assert full.shape == (4, 3, 3)
    np.testing.assert_allclose(curve(1, 4), full, rtol=1e-5)
    np.testing.assert_allclose(curve(1, 2), full[:2], rtol=1e-5)


def test_uniform_policy_fills_the_action_space():
    for name in ("PointNavigation-v0", "TabularMDP-v0"):
        env, _ = mrl.make(name)
        act = evaluation.uniform_policy(env)
        space = env.action_space(env.default_params)
        actions = act({}, jnp.zeros((4000, 2))).sample(seed=jax.random.key(0))
        if hasattr(space, "n"):
            assert set(np.unique(actions)) == set(range(space.n))
        else:
            assert bool(jnp.all((actions >= space.low) & (actions <= space.high)))
            middle = (space.high + space.low) / 2
            width = space.high - space.low
            np.testing.assert_allclose(actions.mean(0), np.broadcast_to(middle, 2), atol=0.02 * np.max(width))
            np.testing.assert_allclose(actions.std(0), np.broadcast_to(width / 12**0.5, 2), rtol=0.05)
