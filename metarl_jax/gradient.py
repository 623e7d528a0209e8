"""How the outer gradient passes through a single inner gradient: `reverse`, `mixed` or `first_order`.

An inner step uses g(theta) = grad L(theta). An outer reverse pass needs, for a cotangent v, the product
v^T dg/dtheta, which is H v because the Hessian is symmetric. The modes give that product differently:

* `reverse`: differentiate the inner reverse pass in reverse (what `jax.grad` of `jax.grad` does);
* `mixed`: H v by forward-over-reverse, with the inner pass recomputed rather than stored (MixFlow-MG, Kemaev et al.
  2025): the same gradient, less memory; a custom VJP, so an outer forward-mode derivative (`jax.jvp`) needs `reverse`;
* `first_order`: H v := 0 (FOMAML, Finn et al. 2017, section 5.2).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

Differentiation = Literal["reverse", "mixed", "first_order"]
MODES = ("reverse", "mixed", "first_order")


class Differentiable(optax.GradientTransformation):
    """An optimiser that is known to have a derivative at gradients that are exactly 0."""


def check_differentiable(optimizer: optax.GradientTransformation) -> None:
    """What second order through `optimizer` needs: a derivative at zero gradients, as a task of equal rewards has.

    It is tried on two numbers, and left untried where the optimiser is made of traced values or fits its own tree only.
    Raises: ValueError where that derivative is NaN, as it is for optax's `adam` and `clip_by_global_norm`.
    """
    if isinstance(optimizer, Differentiable):
        return
    with jax.ensure_compile_time_eval():
        zeros, params = jnp.zeros(2), jnp.ones(2)
        try:
            slope = jax.grad(lambda g: jnp.sum(optimizer.update(g, optimizer.init(params), params)[0]))(zeros)
        except Exception:  # whatever it is that this optimiser needs, only training can tell
            return
        if not isinstance(slope, jax.core.Tracer) and bool(jnp.any(jnp.isnan(slope))):
            raise ValueError(
                "optimizer: its derivative is NaN at zero gradients, and so would the meta-gradient be; use "
                "mrl.inner.adam for optax.adam, mrl.tree.clip_by_global_norm (or max_grad_norm) for "
                "optax.clip_by_global_norm, or differentiation='first_order'"
            )


def value_and_grad(loss: Callable, mode: str = "reverse") -> Callable:
    """Like `jax.value_and_grad(loss, has_aux=True)` for `loss(params, data) -> (scalar, aux)`.

    Under an outer derivative only the returned gradient carries one, in the given mode: with respect to
    `params`, to floating-point leaves of `data` and to any traced value that `loss` closes over. The
    value and aux are stop-gradiented: they are for logging.
    """
    if mode not in MODES:
        raise ValueError(f"differentiation = {mode!r}: must be one of {', '.join(MODES)}")

    def plain(params: Any, data: Any) -> Any:
        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params, data)
        if mode == "first_order":
            grads = jax.lax.stop_gradient(grads)
        return jax.lax.stop_gradient((value, aux)), grads

    return _mixed(loss) if mode == "mixed" else plain


def _mixed(loss: Callable) -> Callable:
    def value_and_gradient(params: Any, data: Any) -> Any:
        leaves, treedef = jax.tree.flatten(data)
        is_float = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]
        floats = [x for x, f in zip(leaves, is_float, strict=True) if f]
        others = [x for x, f in zip(leaves, is_float, strict=True) if not f]

        def on_floats(params: Any, floats: list, others: list) -> Any:
            f, o = iter(floats), iter(others)
            merged = [next(f) if flag else next(o) for flag in is_float]
            return loss(params, jax.tree.unflatten(treedef, merged))

        # Hyperparameters that `loss` closes over may be traced by an outer derivative: make them arguments.
        closed, consts = jax.closure_convert(on_floats, params, floats, others)

        @jax.custom_vjp
        def run(params: Any, floats: list, consts: list, others: list) -> Any:
            return jax.value_and_grad(closed, has_aux=True)(params, floats, others, *consts)

        def forward(*args: Any) -> Any:
            return run(*args), args

        def backward(args: Any, cotangents: Any) -> Any:
            params, floats, consts, others = args
            _, v = cotangents

            def gradients(p: Any) -> Any:
                return jax.grad(lambda p, f, c: closed(p, f, others, *c)[0], argnums=(0, 1, 2))(p, floats, consts)

            _, products = jax.jvp(gradients, (params,), (v,))
            return (*products, None)

        run.defvjp(forward, backward)
        value, grads = run(params, floats, consts, others)
        return jax.lax.stop_gradient(value), grads

    return value_and_gradient
