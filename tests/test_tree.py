"""Pytree helpers: safe norms, chunked maps, minibatches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import tree

TREE = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0], [12.0]])}


def zeros(like):
    return jax.tree.map(jnp.zeros_like, like)


def test_global_norm():
    assert float(tree.global_norm(TREE)) == pytest.approx(13.0)
    gradient = jax.grad(tree.global_norm)(TREE)
    np.testing.assert_allclose(gradient["b"][:, 0], [4 / 13, 12 / 13], rtol=1e-6)


def test_global_norm_is_differentiable_at_zero():
    first = jax.grad(tree.global_norm)(zeros(TREE))
    second = jax.hessian(tree.global_norm)(zeros(TREE))
    assert all(bool(jnp.all(x == 0)) for x in jax.tree.leaves((first, second)))


@pytest.mark.parametrize("max_norm, scale", [(26.0, 1.0), (6.5, 0.5)])
def test_clip_by_global_norm(max_norm, scale):
    clip = tree.clip_by_global_norm(max_norm)
    clipped, _ = clip.update(TREE, clip.init(TREE))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, scale * y, rtol=1e-6), clipped, TREE)


def test_clip_by_global_norm_at_zero_is_the_identity_with_its_derivative():
    clip = tree.clip_by_global_norm(1.0)
    jacobian = jax.jacrev(lambda g: clip.update({"g": g}, clip.init(None))[0]["g"])(jnp.zeros(3))
    np.testing.assert_array_equal(jacobian, np.eye(3))


def test_clip_by_global_norm_is_differentiable_in_the_bound():
    clipped_norm = jax.grad(lambda m: tree.global_norm(tree.clip_by_global_norm(m).update(TREE, None)[0]))
    assert float(clipped_norm(6.5)) == pytest.approx(1.0, abs=1e-6)
    assert float(clipped_norm(26.0)) == 0.0


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 5, 9])
def test_chunked_map_is_vmap(n, batch_size):
    xs = {"x": jnp.arange(3.0 * n).reshape(n, 3), "i": jnp.arange(n)}
    function = lambda x: {"y": jnp.sin(x["x"]) * x["i"], "z": x["i"]}  # noqa: E731
    expected, got = jax.vmap(function)(xs), tree.chunked_map(function, xs, batch_size)
    np.testing.assert_array_equal(expected["z"], got["z"])
    np.testing.assert_allclose(expected["y"], got["y"], rtol=1e-6)


def test_tree_mean_is_over_the_leading_axis():
    np.testing.assert_allclose(tree.tree_mean({"x": jnp.array([[1.0, 2.0], [3.0, 6.0]])})["x"], [2.0, 4.0])


@pytest.mark.parametrize("n", [12, 64, 4096, 4100])
def test_minibatches_partition_every_epoch_anew(n):
    draw = lambda seed: tree.minibatch_indices(jax.random.key(seed), n, num_epochs=3, num_minibatches=4)  # noqa: E731
    rows = draw(0)
    assert rows.shape == (12, n // 4)
    epochs = np.asarray(rows).reshape(3, n)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(n), (3, n)))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    np.testing.assert_array_equal(rows, draw(0))
    assert np.any(rows != draw(1))


def test_shuffles_are_uniform():
    """Of 20,000 shuffles of 5, each of the 120 orders comes 167 times, give or take five standard deviations."""
    orders = np.asarray(tree.minibatch_indices(jax.random.key(0), 5, num_epochs=20_000, num_minibatches=1))
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 120
    assert np.all(np.abs(counts - 20_000 / 120) < 5 * np.sqrt(20_000 / 120))


def test_finite_names_the_leaf():
    found = tree.finite({"good": jnp.ones(2), "bad": jnp.array([1.0, jnp.nan]), "worse": jnp.array(jnp.inf)})
    assert {k: bool(v) for k, v in found.items()} == {"good": True, "bad": False, "worse": False}


def test_leaf_names_follow_the_leaves():
    names = tree.leaf_names({"actor": {"w": 1, "b": 2}, "layers": (3, 4)})
    assert names == ["actor.b", "actor.w", "layers.0", "layers.1"]
