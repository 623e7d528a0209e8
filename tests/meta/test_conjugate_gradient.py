"""Conjugate gradients against a dense solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from metarl_jax.meta.conjugate_gradient import conjugate_gradient


def right_side():
    """b, in the precision of the test."""
    return {"w": jnp.arange(6.0).reshape(2, 3) - 2.0, "b": jnp.array([1.5, -0.5])}


def system(damping: float = 0.1):
    """A symmetric positive definite [8, 8], and its product with trees like b."""
    flat, unravel = ravel_pytree(right_side())
    root = jax.random.normal(jax.random.key(0), (flat.size, flat.size))
    matrix = root @ root.T + damping * jnp.eye(flat.size)
    return matrix, lambda v: unravel(matrix @ ravel_pytree(v)[0])


def test_it_solves(x64):
    matrix, product = system()
    x, residual = jax.jit(lambda b: conjugate_gradient(product, b, num_steps=20))(right_side())
    b = ravel_pytree(right_side())[0]
    np.testing.assert_allclose(ravel_pytree(x)[0], np.linalg.solve(matrix, b), rtol=1e-8)
    assert np.linalg.norm(ravel_pytree(residual)[0]) < 1e-8 * np.linalg.norm(b)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_steps_and_residual_are_those_of_jax(x64, num_steps):
    _, product = system()
    x, residual = conjugate_gradient(product, right_side(), num_steps=num_steps)
    theirs, _ = jax.scipy.sparse.linalg.cg(product, right_side(), maxiter=num_steps, tol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), x, theirs)
    jax.tree.map(lambda r, b, ax: np.testing.assert_allclose(r, b - ax, atol=1e-12), residual, right_side(), product(x))


def test_it_ends_at_the_tolerance():
    _, product = system()
    x, residual = conjugate_gradient(product, right_side(), num_steps=20, tol=1.0)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(x))
    jax.tree.map(np.testing.assert_array_equal, residual, right_side())


def test_what_is_not_finite_ends_it_and_shows():
    calls = []

    def product(v):
        calls.append(v)
        return jax.tree.map(lambda x: x * jnp.nan, v)

    with jax.disable_jit():
        x, _ = conjugate_gradient(product, right_side(), num_steps=20)
    assert len(calls) == 1
    assert np.isnan(x["b"]).all()


def test_the_product_is_traced_once():
    _, dense = system()
    calls = []

    def product(v):
        calls.append(v)
        return dense(v)

    jax.jit(lambda b: conjugate_gradient(product, b, num_steps=5)).lower(right_side())
    assert len(calls) == 1
