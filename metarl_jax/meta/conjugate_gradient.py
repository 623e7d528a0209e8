"""Conjugate gradients for products that are dear to compile: one product in the program, one a step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from metarl_jax.options import Float
from metarl_jax.types import Params


def conjugate_gradient(
    product: Callable[[Params], Params], b: Params, *, num_steps: int, tol: Float = 1e-10
) -> tuple[Params, Params]:
    """x with A x = b, from x = 0, and the residual r = b - A x; `product(v)` is A v, A symmetric and positive definite.

    Hestenes and Stiefel 1952. At most `num_steps` steps, fewer where |r| <= tol |b| or where a number is not finite.
    `jax.scipy.sparse.linalg.cg` gives the same x, but traces `product` several times and holds it twice in the program.
    With the residual, x^T A x = x^T (b - r) needs no further product.
    Not differentiated: reverse mode does not pass through the loop.
    """
    vdot = optax.tree.vdot
    enough = tol**2 * vdot(b, b)

    def going(carry: tuple) -> jax.Array:
        k, _, _, _, square = carry
        return (k < num_steps) & (square > enough)  # False for NaN

    def step(carry: tuple) -> tuple:
        k, x, r, p, square = carry
        moved = product(p)
        size = square / vdot(p, moved)
        x, r = optax.tree.add_scale(x, size, p), optax.tree.add_scale(r, -size, moved)
        new_square = vdot(r, r)
        return k + 1, x, r, optax.tree.add_scale(r, new_square / square, p), new_square

    start = (jnp.zeros((), int), optax.tree.zeros_like(b), b, b, vdot(b, b))
    _, x, r, _, _ = jax.lax.while_loop(going, step, start)
    return x, r
