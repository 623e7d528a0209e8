"""ProMP: proximal meta-policy search (Rothfuss et al. 2019)."""

from typing import Any

import jax

from metarl_jax.meta import outer
from metarl_jax.meta.meta_learner import meta_optimizer, policy_meta_learner
from metarl_jax.rl import learners
from metarl_jax.types import MetaLearner, Policy

Float = float | jax.Array


def promp(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner_lr: Any = 0.1,
    *,
    outer_lr: Float = 1e-3,
    num_outer_epochs: int = 5,
    outer_clip_eps: Float = 0.3,
    kl_coef: Float = 5e-4,
    kl_target: Float | None = None,
    max_grad_norm: Float | None = None,
    num_inner_steps: int = 1,
    inner_options: dict[str, Any] | None = None,
    **options: Any,
) -> MetaLearner:
    """mean_i [-mean min(rho A, clip(rho) A)(theta'_i; tau'_i) + sum_k eta_k KL(pi_old,k || pi_theta,k)] (eq. 12 there).

    Inside: the likelihood-ratio surrogate `lvc`, whose Hessian has low variance. Outside: clipped steps of Adam on the
    stored trials; theta'_i is derived anew at each. The KL term holds every pre-update policy near the one that
    *sampled* its data, not theta' near theta. eta_k = `kl_coef`, fixed, or adapted towards `kl_target` after every
    iteration (`outer.gradient_steps`); with several inner steps each has its own.

    Args:
        inner_options: further options of `learners.policy_gradient`, such as gamma. Other options are those of
            `meta_learner.policy_meta_learner`.
    Step metrics also hold inner_kl, its mean over k, and with `kl_target` kl_coef.
    """
    learner = learners.policy_gradient(policy, inner_lr, surrogate="lvc", **(inner_options or {}))
    steps = outer.gradient_steps(
        meta_optimizer(outer_lr, max_grad_norm),
        num_outer_epochs,
        kl_coef=kl_coef,
        kl_target=kl_target,
        num_inner_steps=num_inner_steps,
    )
    return policy_meta_learner(
        env,
        tasks,
        policy,
        learner,
        num_inner_steps=num_inner_steps,
        outer=steps,
        outer_clip_eps=outer_clip_eps,
        inner_kl=True,
        **options,
    )
