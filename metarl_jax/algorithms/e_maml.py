"""E-MAML (Stadie et al. 2018): MAML that credits what was sampled before adapting for what came after."""

from typing import Annotated, Any

from metarl_jax.algorithms.gradient_family import entry
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.options import NonNegative, Positive, takes_options
from metarl_jax.rl.learners import policy_gradient
from metarl_jax.types import Learner, MetaLearner, Policy


@takes_options(policy_meta_learner)
def e_maml(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner: Learner,
    *,
    exploration_coef: Annotated[NonNegative, "weight of E-MAML's sampling-dependence term"] = 1.0,
    num_outer_epochs: Annotated[Positive, "outer steps on each set of stored trials"] = 1,
    **options: Any,
) -> MetaLearner:
    r"""MAML with the term for how the policy chooses what it adapts to.

    .. math::

        \min_\theta \; \frac{1}{N} \sum_i \left[ L_{\text{outer}}(\theta'_i; \tau'_i) + c \sum_k
          L_{\text{surrogate}}(\theta_{i,k}; \tau_{i,k}) \Big|_{A = \tilde r_i} \right]

    The meta-loss is MAML's - exploration_coef * r~ * mean log pi_theta(a|s) over the pre-update data.
    d/dtheta E_{tau ~ pi_theta} E_{tau' ~ pi_theta'}[R(tau')] has, beside MAML's, the term
    E[R(tau') d log p(tau | theta)]: how theta changes which data the adaptation sees (eq. 4 there). r~ is the return
    after adaptation, standardised over the meta-batch (the authors' code standardises rewards of single steps), and
    the log-likelihood enters as a ratio to the policy that sampled, clipped like the outer surrogate, so that several
    outer epochs are sound. A product of means, as the authors' code has it: the unbiased weight would be the number
    of steps in tau times the return, at far more variance. The same term goes with every other algorithm: their
    option `exploration_coef`.

    The inner surrogate should be "vpg", `inner.policy_gradient(policy, surrogate="vpg")`, whose Hessian is that of the
    update on fixed data: the term above is then all that is missing. "lvc" and "dice" estimate the Hessian of the
    *expected* return, in which the sampling is already counted, so that the two together count it twice
    (`exact.sampled_meta_gradient` shows it).
    """
    if options.get("outer") is None:
        options["num_outer_epochs"] = num_outer_epochs
    return policy_meta_learner(env, tasks, policy, inner, exploration_coef=exploration_coef, **options)


# With any other inner surrogate the sampling would be counted twice.
ENTRY = entry(e_maml, policy_gradient, inner_defaults={"surrogate": "vpg"})
