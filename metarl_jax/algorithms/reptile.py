"""Reptile (Nichol et al. 2018): move towards where adaptation ends."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from metarl_jax.algorithms.gradient_family import entry
from metarl_jax.meta import adaptation
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.meta.outer_update import gradient_steps
from metarl_jax.options import Positive, Rate, is_given, takes_options
from metarl_jax.rl.learners import policy_gradient
from metarl_jax.types import Learner, MetaLearner, Params, Policy, Trial

UNUSED = (  # there is no meta-loss, and one outer step
    "outer", "estimate", "num_outer_epochs", "max_grad_norm", "outer_surrogate", "outer_clip_eps", "outer_dice_lambda",
    "outer_entropy_coef", "exploration_coef", "differentiation",
)  # fmt: skip


@takes_options(policy_meta_learner, without=UNUSED)
def reptile(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner: Learner,
    *,
    num_inner_steps: Annotated[Positive, "inner updates K"] = 3,
    outer_lr: Annotated[Rate, "step size of the outer update; 1 moves all the way"] = 1.0,
    optimizer: optax.GradientTransformation | None = None,
    **options: Any,
) -> MetaLearner:
    r"""Steps towards the mean of the adapted parameters.

    .. math::

        \theta \leftarrow \theta + \beta \, \frac{1}{N} \sum_i (\theta'_i - \theta)

    theta += outer_lr * mean_i (theta'_i - theta), theta'_i after K inner updates (eq. 3 there). No derivative of the
    inner loop, and no use of the post-update data but to score it. With K = 1 this is multi-task training on the inner
    loss; what is learned beyond that comes from K > 1.

    Args:
        optimizer: in the place of SGD with `outer_lr`; its gradient is theta - mean_i theta'_i.
    The metric `loss` is half the squared distance |theta'_i - theta|^2, averaged over tasks; it need not fall.
    """

    def estimate(params: Params, trial: Trial) -> tuple[jax.Array, Params]:
        away = optax.tree.sub(params, adaptation.adapt(inner, params, trial).params)
        return 0.5 * jnp.asarray(optax.tree.norm(away, squared=True)), away

    if optimizer is not None and is_given(outer_lr, 1.0):
        raise ValueError(f"outer_lr = {outer_lr}: has no part beside optimizer, which has its own; leave one out")
    return policy_meta_learner(
        env,
        tasks,
        policy,
        inner,
        num_inner_steps=num_inner_steps,
        outer=gradient_steps(optax.sgd(outer_lr) if optimizer is None else optimizer),
        estimate=estimate,
        **options,
    )


ENTRY = entry(reptile, policy_gradient, ways_through=())
