"""MAML for reinforcement learning (Finn et al. 2017): MAML-VPG, MAML-PPO and FOMAML, by choice of names."""

from typing import Any

import jax

from metarl_jax.meta.differentiation import MetaGradient
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.types import Learner, MetaLearner, Policy


def maml(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner: Learner,
    *,
    outer_lr: float | jax.Array = 1e-3,
    num_outer_epochs: int = 1,
    max_grad_norm: float | jax.Array | None = None,
    differentiation: str | MetaGradient = "mixed",
    **options: Any,
) -> MetaLearner:
    """Learn initial parameters from which `inner` adapts in `num_inner_steps` updates; Adam outside.

    min_theta mean_i L_outer(theta'_i; tau'_i), theta'_i = inner updates of theta on tau_i. The gradient is
    second order through every inner step, or whatever `differentiation` says: "first_order" is FOMAML.
    `num_inner_steps=0` is ordinary multi-task PPO. `inner.policy_gradient(policy, surrogate="vpg")` is MAML-VPG,
    `inner.ppo(policy, ...)` MAML-PPO. Other options are those of `meta_learner.policy_meta_learner`.

    A clipped inner update stops pulling on a sample once its ratio has left 1 +- `clip_eps`, however many steps
    follow: as the policy's std shrinks, so does what one update can adapt. For several inner epochs or minibatches
    use `surrogate="lvc"` (the ratio unclipped) or a wide clip; in a first step the clip is inactive.
    """
    return policy_meta_learner(
        env,
        tasks,
        policy,
        inner,
        outer_lr=outer_lr,
        num_outer_epochs=num_outer_epochs,
        max_grad_norm=max_grad_norm,
        differentiation=differentiation,
        **options,
    )
