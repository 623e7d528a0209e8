"""Reptile (Nichol et al. 2018): move towards where adaptation ends."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metarl_jax import tree
from metarl_jax.meta import adaptation
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.meta.outer import gradient_steps
from metarl_jax.rl import learners
from metarl_jax.types import MetaLearner, Params, Policy, Trial


def reptile(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner_lr: Any = 0.1,
    *,
    outer_lr: float | jax.Array = 1.0,
    optimizer: optax.GradientTransformation | None = None,
    inner_surrogate: Any = "lvc",
    inner_options: dict[str, Any] | None = None,
    **options: Any,
) -> MetaLearner:
    """theta += outer_lr * mean_i (theta'_i - theta), theta'_i after K inner updates (eq. 3 there).

    No derivative of the inner loop, and no use of the post-update data but to score it. With K = 1 this is
    multi-task training on the inner loss; what is learned beyond that comes from K > 1.

    Args:
        optimizer: in the place of SGD with `outer_lr`; its gradient is theta - mean_i theta'_i.
        inner_options: further options of `learners.policy_gradient`, such as gamma. Other options are those of
            `meta_learner.policy_meta_learner`.
    The metric `loss` is half the squared distance |theta'_i - theta|^2, averaged over tasks; it need not fall.
    """
    learner = learners.policy_gradient(policy, inner_lr, surrogate=inner_surrogate, **(inner_options or {}))

    def estimate(params: Params, trial: Trial) -> tuple[jax.Array, Params]:
        away = optax.tree.sub(params, adaptation.adapt(learner, params, trial).params)
        return 0.5 * jnp.asarray(optax.tree.norm(away, squared=True)), away

    if optimizer is not None and tree.is_given(outer_lr, 1.0):
        raise ValueError(f"outer_lr = {outer_lr}: has no part beside optimizer, which has its own; leave one out")
    steps = gradient_steps(optax.sgd(outer_lr) if optimizer is None else optimizer)
    return policy_meta_learner(env, tasks, policy, learner, outer=steps, estimate=estimate, **options)
