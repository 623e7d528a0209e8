"""ANIL: almost no inner loop (Raghu et al. 2020): only the head adapts."""

from typing import Any

from metarl_jax.algorithms.gradient_family import entry
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.options import takes_options
from metarl_jax.rl import learners
from metarl_jax.types import Learner, MetaLearner, Policy


@takes_options(policy_meta_learner)
def anil(env: Any, tasks: Any, policy: Policy, inner: Learner, **options: Any) -> MetaLearner:
    r"""MAML in which only the last layer adapts.

    .. math::

        \theta'_{i, \text{head}} = \theta_{\text{head}} - \alpha
          \nabla_{\theta_{\text{head}}} L(\theta; \tau_i), \quad \theta'_{i, \text{body}} = \theta_{\text{body}}

    theta = (body, head); head'_i = head - inner_lr grad_head L(body, head; tau_i), which is `inner.head(policy, lr)`;
    all parameters are meta-learned. The second-order term is that of the head, so memory and time fall with it.
    """
    return policy_meta_learner(env, tasks, policy, inner, **options)


ENTRY = entry(anil, learners.head)
