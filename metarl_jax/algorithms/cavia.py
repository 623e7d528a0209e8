"""CAVIA: context adaptation (Zintgraf et al. 2019)."""

from typing import Any

from metarl_jax.algorithms.gradient_family import entry
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.options import takes_options
from metarl_jax.rl import learners
from metarl_jax.types import Learner, MetaLearner, Policy


@takes_options(policy_meta_learner)
def cavia(env: Any, tasks: Any, policy: Policy, inner: Learner, **options: Any) -> MetaLearner:
    r"""MAML in which only a context input adapts, and the network is shared by all tasks.

    .. math::

        \min_\theta \; \frac{1}{N} \sum_i L_{\text{outer}}(\theta, \phi'_i; \tau'_i), \quad \phi'_i
          = \phi - \alpha \nabla_\phi L(\theta, \phi; \tau_i), \quad \phi = 0

    phi'_i = phi - inner_lr grad_phi L(theta, phi; tau_i), phi = 0; min over theta of the loss at (theta, phi'_i). The
    context phi [size] is an input of the policy beside the observation: `inner.context(policy, lr, size=2)` moves it,
    and `networks.mlp_policy(env, ..., context_size=2)` reads it.
    """
    return policy_meta_learner(env, tasks, policy, inner, **options)


ENTRY = entry(cavia, learners.context, baselines=("linear", "zero"))
