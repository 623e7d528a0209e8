"""Optimisers of agents: SGD and Adam that can be differentiated at every gradient, zero included."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from metarl_jax.gradient import Differentiable
from metarl_jax.options import Float, one_of
from metarl_jax.user_code import load_address


def sgd(lr: Any) -> optax.GradientTransformation:
    """theta - lr * g, where `lr` is a scalar or a tree of per-parameter step sizes, fixed or learned."""
    if jax.tree_util.all_leaves([lr]):
        return Differentiable(*optax.sgd(lr))
    return optax.stateless(lambda grads, _: jax.tree.map(lambda a, g: -a * g, lr, grads))


def adam(lr: Float | optax.Schedule, eps: Float = 1e-5) -> optax.GradientTransformation:
    r"""Adam whose derivative exists at zero gradients (eps_root > 0), fit for a differentiated inner loop.

    .. math::

        \theta \leftarrow \theta - \alpha \frac{\hat m}{\sqrt{\hat v + 10^{-12}} + \epsilon}
    """
    return Differentiable(*optax.adam(lr, eps=eps, eps_root=1e-12))


def annealed_adam(lr: Any, num_updates: int | None) -> optax.GradientTransformation:
    """Adam as PPO uses it, with the step size falling linearly to 0 over `num_updates` steps (None: constant)."""
    return optax.adam(lr if num_updates is None else lambda count: lr * share_left(count, num_updates), eps=1e-5)


def share_left(count: jax.Array, total: int) -> jax.Array:
    """1 - count / total, not below 0: what is left of something that is annealed linearly.

    Counted in whole steps, it ends at 0 exactly: XLA may compute the 1 - count / total of `optax.linear_schedule` with
    the rounded reciprocal, which leaves 1e-8.
    """
    return jnp.maximum(total - count, 0) / total


# The optimisers of agents by name, functions of the step size.
OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {"adam": adam, "sgd": sgd}
# An option: a name of `OPTIMIZERS`, a function of the step size, or the address of one.
OptimizerName = Annotated[Any, one_of(lambda: OPTIMIZERS, ", or a function of the step size")]


def optimizer_of(optimizer: Any, lr: Any) -> optax.GradientTransformation:
    """The named optimiser, or the user's own (a function of the step size, or its address), with its step size.

    Raises: ConfigError for an address that leads nowhere.
    """
    if isinstance(optimizer, str):
        optimizer = OPTIMIZERS.get(optimizer) or load_address(optimizer, "optimizer")
    return optimizer(lr)


def learned_sgd() -> optax.GradientTransformation:
    """theta - lr (.) g with the step sizes as the optimiser's state, where `meta_sgd` puts what was meta-learned."""

    def update(grads: Any, lr: Any, _: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda a, g: -a * g, lr, grads), lr

    return Differentiable(lambda params: params, update)
