"""Outer optimisers: how the stored trials of one iteration move what is meta-learned, without new data."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax import tree
from metarl_jax.meta.conjugate_gradient import conjugate_gradient
from metarl_jax.options import Float, NonNegative, Positive, Rate, Share, takes_options
from metarl_jax.types import MetaState, Metrics, Params


class Problem(NamedTuple):
    """The meta-objective on this iteration's trials, averaged over tasks; every call replays the adaptation.

    `weights` are the coefficients [K] of the KL penalties on the inner batches, or None. The metrics of `value`
    hold "kl" (old adapted policy || new adapted policy) and "inner_kl" [K] where the objective has them.
    """

    value: Callable[[Params, Any], tuple[jax.Array, Metrics]]  # (params, weights) -> (value, metrics)
    value_and_grad: Callable[[Params, Any], tuple[tuple[jax.Array, Metrics], Params]]  # -> (what value gives, gradient)
    fisher: Callable[..., Params] | None  # (params, v, num_tasks=None) -> F v, of the adapted policies


class Outer(NamedTuple):
    """An outer optimiser."""

    init: Callable[[Params], Any]  # params -> opt_state
    update: Callable[[MetaState, Problem], tuple[MetaState, Metrics]]  # (state, problem) -> (state, metrics)


def gradient_steps(
    optimizer: optax.GradientTransformation,
    num_epochs: int = 1,
    *,
    kl_coef: Any = None,
    kl_target: Float | None = None,
    num_inner_steps: int = 1,
) -> Outer:
    r"""`num_epochs` full-batch steps of `optimizer`.

    .. math::

        \min_\theta \; \frac{1}{N} \sum_{i=1}^{N} \left[ L(\theta'_i; \tau'_i) + \sum_{k=1}^{K} \eta_k \,
          \text{KL} \left( \pi_{\text{old},k} \,\Vert\, \pi_{\theta,k} \right) \right]

    With `kl_coef` the objective carries sum_k eta_k KL(pi_old,k || pi_theta,k) over the inner batches, eta_k starting
    at kl_coef. With `kl_target` as well, each eta_k adapts after the last step: halved where its KL is below
    kl_target / 1.5, doubled where it is above 1.5 kl_target (ProMP, Rothfuss et al. 2019, appendix; at one
    evaluation more).
    """

    if kl_target is not None and kl_coef is None:
        raise ValueError(
            f"kl_target = {kl_target}: has no part without kl_coef, which it adapts; give kl_coef its start"
        )

    def init(params: Params) -> Any:
        weights = None if kl_coef is None else jnp.broadcast_to(jnp.asarray(kl_coef, float), (num_inner_steps,))
        return (optimizer.init(params), weights)

    def update(state: MetaState, problem: Problem) -> tuple[MetaState, Metrics]:
        weights = state.opt_state[1]

        def epoch(carry: tuple, _: None) -> tuple[tuple, Metrics]:
            params, opt_state = carry
            (loss, metrics), grads = problem.value_and_grad(params, weights)
            params, opt_state = tree.optimizer_step(optimizer, grads, opt_state, params)
            finite = {"loss": tree.finite(loss), "gradient": tree.finite(grads), "params": tree.finite(params)}
            return (params, opt_state), {
                **metrics, "loss": loss, "grad_norm": tree.global_norm(grads), "finite": finite
            }  # fmt: skip

        (params, opt_state), epochs = jax.lax.scan(epoch, (state.params, state.opt_state[0]), None, length=num_epochs)
        finite = jax.tree.map(jnp.all, epochs.pop("finite"))
        metrics = {**tree.tree_mean(epochs), "finite": finite}
        if kl_target is not None:
            inner_kl = problem.value(params, weights)[1]["inner_kl"]
            factor = jnp.where(inner_kl < kl_target / 1.5, 0.5, jnp.where(inner_kl > 1.5 * kl_target, 2.0, 1.0))
            metrics |= {"inner_kl": inner_kl, "kl_coef": jnp.mean(weights)}
            weights = weights * factor
        if "inner_kl" in metrics:
            metrics["inner_kl"] = jnp.mean(metrics["inner_kl"])
        return MetaState(params, (opt_state, weights)), metrics

    return Outer(init, update)


@takes_options()
def trust_region(
    *,
    max_kl: Annotated[Rate, "bound on the mean KL of an outer update, in nats"] = 0.01,
    cg_steps: Annotated[Positive, "conjugate-gradient steps"] = 10,
    cg_damping: Annotated[NonNegative, "added to the Fisher matrix"] = 1e-5,
    fisher_tasks: Annotated[Positive | None, "tasks that the Fisher matrix is estimated on; null: all"] = None,
    line_search_steps: Annotated[Positive, "step sizes tried at most"] = 15,
    backtrack: Annotated[Share, "factor between the step sizes tried"] = 0.8,
) -> Outer:
    r"""TRPO (Schulman et al. 2015, appendix C) on the meta-objective, as in MAML (Finn et al. 2017, section 5.3).

    .. math::

        \theta \leftarrow \theta - \beta^j \sqrt{\frac{2 \, \delta}{x^\top F x}} \; x, \quad F x = g, \quad F
          = \frac{1}{N} \sum_{i=1}^{N} J_i^\top F_i J_i + \kappa I

    x = F^-1 g by conjugate gradients, F = mean over tasks of J^T F_task J + damping, the Fisher matrix of the *adapted*
    policies pulled back through the adaptation J (at the sampling parameters this is the Hessian of the mean KL,
    since the KL's own gradient is 0 there). Then theta - backtrack^j sqrt(2 max_kl / x^T F x) x for the first
    j < line_search_steps at which the loss falls and the mean KL is at most max_kl.

    `fisher_tasks` estimates F on that many of the tasks (None: all), as TRPO itself does on part of its samples: the
    products are most of the cost, and direction and step size are what they decide, while the line search
    still holds loss and constraint on all tasks.

    The update is skipped, and `update_skipped` is 1 in the metrics, where CG returns no finite direction of descent
    or no step of the line search is accepted.
    """

    def update(state: MetaState, problem: Problem) -> tuple[MetaState, Metrics]:
        params = state.params
        assert problem.fisher is not None
        (loss, metrics), grads = problem.value_and_grad(params, None)

        def product(v: Params) -> Params:
            return jax.tree.map(lambda h, x: h + cg_damping * x, problem.fisher(params, v, fisher_tasks), v)  # type: ignore[misc]

        direction, residual = conjugate_gradient(product, grads, num_steps=cg_steps)
        curvature = optax.tree.vdot(direction, optax.tree.sub(grads, residual))  # x^T F x
        slope = optax.tree.vdot(direction, grads)
        usable = jnp.isfinite(curvature) & jnp.isfinite(slope) & (curvature > 0) & (slope > 0)
        scale = jnp.sqrt(2 * max_kl / jnp.where(usable, curvature, 1.0))

        def candidate(j: jax.Array) -> Params:
            size = scale * jax.lax.pow(jnp.asarray(backtrack, scale.dtype), j)
            return jax.tree.map(lambda p, d: (p - size * d).astype(p.dtype), params, direction)

        def searching(carry: tuple) -> jax.Array:
            j, accepted, *_ = carry
            return usable & ~accepted & (j < line_search_steps)

        def search(carry: tuple) -> tuple:
            j = carry[0]
            new_loss, new = problem.value(candidate(j), None)
            accepted = (new_loss < loss) & (new["kl"] <= max_kl)  # False for NaN
            return j + 1, accepted, jnp.where(accepted, new["kl"], 0.0), jnp.where(accepted, new_loss, loss)

        start = (jnp.zeros((), int), jnp.zeros((), bool), jnp.zeros_like(loss), loss)
        tried, accepted, kl, new_loss = jax.lax.while_loop(searching, search, start)
        moved = candidate(tried - 1)
        new_params = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), moved, params)
        return MetaState(new_params, state.opt_state), {
            **metrics,
            "loss": loss,
            "loss_improvement": loss - new_loss,
            "grad_norm": tree.global_norm(grads),
            "kl": kl,
            "line_search_steps": tried,
            "update_skipped": (~accepted).astype(loss.dtype),
            "finite": {"loss": tree.finite(loss), "params": tree.finite(new_params)},
        }

    return Outer(lambda params: (), update)
