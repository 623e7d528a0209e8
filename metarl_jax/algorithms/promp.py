"""ProMP: proximal meta-policy search (Rothfuss et al. 2019)."""

from typing import Annotated, Any

from metarl_jax.algorithms.gradient_family import entry
from metarl_jax.meta import outer_update
from metarl_jax.meta.meta_learner import check_epochs, meta_optimizer, policy_meta_learner
from metarl_jax.options import Count, NonNegative, Positive, Rate, takes_options
from metarl_jax.rl.learners import policy_gradient
from metarl_jax.types import Learner, MetaLearner, Policy


@takes_options(policy_meta_learner, without=("outer",))
def promp(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner: Learner,
    *,
    num_inner_steps: Annotated[Count, "inner updates K; 0 is multi-task training without adaptation"] = 1,
    outer_lr: Annotated[Rate, "Adam step size of the outer update"] = 1e-3,
    num_outer_epochs: Annotated[Positive, "outer steps on each set of stored trials"] = 5,
    max_grad_norm: Annotated[Rate | None, "bound on the norm of the meta-gradient; null: none"] = None,
    kl_coef: Annotated[NonNegative, "weight of the inner KL penalty"] = 5e-4,
    kl_target: Annotated[Rate | None, "inner KL that the weight adapts towards; null: it is fixed"] = None,
    **options: Any,
) -> MetaLearner:
    r"""Proximal meta-policy search: likelihood ratios inside, clipped outside, a KL penalty on sampling.

    .. math::

        \min_\theta \; \frac{1}{N} \sum_i \left[ -\hat{\mathbb{E}}_{\tau'_i} \left[ \min \left( \rho A, \,
          \text{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A \right) \right] + \sum_k \eta_k \, \text{KL}
          \left( \pi_{\text{old},k} \,\Vert\, \pi_{\theta,k} \right) \right]

    mean_i [-mean min(rho A, clip(rho) A)(theta'_i; tau'_i) + sum_k eta_k KL(pi_old,k || pi_theta,k)] (eq. 12 there).
    Inside, `inner.policy_gradient(policy, lr)`: the likelihood-ratio surrogate `lvc`, whose Hessian has low variance.
    Outside: clipped steps of Adam on the stored trials; theta'_i is derived anew at each. The KL term holds every
    pre-update policy near the one that *sampled* its data, not theta' near theta. eta_k = `kl_coef`, fixed, or adapted
    towards `kl_target` after every iteration (`outer_update.gradient_steps`), each of several inner steps its own.

    Step metrics also hold inner_kl, its mean over k, and with `kl_target` kl_coef.
    """
    check_epochs(num_outer_epochs, inner if num_inner_steps else None, options.get("outer_surrogate", "ppo"))
    steps = outer_update.gradient_steps(
        meta_optimizer(outer_lr, max_grad_norm),
        num_outer_epochs,
        kl_coef=kl_coef,
        kl_target=kl_target,
        num_inner_steps=num_inner_steps,
    )
    return policy_meta_learner(
        env, tasks, policy, inner, num_inner_steps=num_inner_steps, outer=steps, inner_kl=True, **options
    )


ENTRY = entry(promp, policy_gradient)
