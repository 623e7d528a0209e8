"""MAML for reinforcement learning (Finn et al. 2017): MAML-VPG, MAML-PPO and FOMAML, by choice of names."""

from typing import Any

from metarl_jax.algorithms.gradient_family import entry
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.options import takes_options
from metarl_jax.rl.learners import policy_gradient
from metarl_jax.types import Learner, MetaLearner, Policy


@takes_options(policy_meta_learner)
def maml(env: Any, tasks: Any, policy: Policy, inner: Learner, **options: Any) -> MetaLearner:
    r"""MAML with policy-gradient or PPO updates inside, Adam outside.

    .. math::

        &\min_\theta \; \frac{1}{N} \sum_i L_{\text{outer}}(\theta'_i; \tau'_i), \quad \theta'_i =
          \theta - \alpha \nabla_\theta L(\theta; \tau_i) \\
        &\nabla_\theta L_{\text{outer}}(\theta'_i; \tau'_i) = \left( I - \alpha
          \nabla^2_\theta L(\theta; \tau_i) \right) \nabla_{\theta'_i} L_{\text{outer}}(\theta'_i; \tau'_i)

    The equations are those of one inner step. In general
    min_theta mean_i L_outer(theta'_i; tau'_i), theta'_i = `num_inner_steps` updates of theta by `inner` on tau_i. The
    gradient is second order through every inner step, or whatever `differentiation` says: "first_order" is FOMAML.
    `num_inner_steps=0` is ordinary multi-task PPO. `inner.policy_gradient(policy, surrogate="vpg")` is MAML-VPG,
    `inner.ppo(policy, ...)` MAML-PPO.

    A clipped inner update stops pulling on a sample once its ratio has left 1 +- `clip_eps`, however many steps
    follow: as the policy's std shrinks, so does what one update can adapt. For several inner epochs or minibatches
    use `surrogate="lvc"` (the ratio unclipped) or a wide clip; in a first step the clip is inactive.
    """
    return policy_meta_learner(env, tasks, policy, inner, **options)


# As a configuration it is MAML-PPO unless it says otherwise; with one step a clip and "lvc" are the same.
ENTRY = entry(maml, policy_gradient, inner_defaults={"surrogate": "ppo"})
