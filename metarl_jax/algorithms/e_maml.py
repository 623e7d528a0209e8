"""E-MAML (Stadie et al. 2018): MAML that credits what was sampled before adapting for what came after."""

from typing import Any

import jax

from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.rl import learners
from metarl_jax.types import MetaLearner, Policy


def e_maml(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner_lr: Any = 0.1,
    *,
    exploration_coef: float | jax.Array = 1.0,
    inner_surrogate: Any = "vpg",
    inner_options: dict[str, Any] | None = None,
    **options: Any,
) -> MetaLearner:
    """MAML's meta-loss - exploration_coef * r~ * mean log pi_theta(a|s) over the pre-update data.

    d/dtheta E_{tau ~ pi_theta} E_{tau' ~ pi_theta'}[R(tau')] has, beside MAML's, the term
    E[R(tau') d log p(tau | theta)]: how theta changes which data the adaptation sees (eq. 4 there). r~ is the return
    after adaptation, standardised over the meta-batch (the authors' code standardises rewards of single steps), and
    the log-likelihood enters as a ratio to the policy that sampled, clipped like the outer surrogate, so that several
    outer epochs are sound. A product of means, as the authors' code has it: the unbiased weight would be the number
    of steps in tau times the return, at far more variance. The same term goes with every other algorithm: their
    option `exploration_coef`.

    The inner surrogate is "vpg", whose Hessian is that of the update on fixed data: the term above is then all that is
    missing. "lvc" and "dice" estimate the Hessian of the *expected* return, in which the sampling is already counted,
    so that the two together count it twice (`exact.sampled_meta_gradient` shows it).

    Args:
        inner_options: further options of `learners.policy_gradient`, such as gamma. Other options are those of
            `meta_learner.policy_meta_learner`.
    """
    learner = learners.policy_gradient(policy, inner_lr, surrogate=inner_surrogate, **(inner_options or {}))
    return policy_meta_learner(env, tasks, policy, learner, exploration_coef=exploration_coef, **options)
