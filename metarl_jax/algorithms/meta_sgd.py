"""Meta-SGD (Li et al. 2017): the initial parameters and a step size for each of them."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from metarl_jax.algorithms.gradient_family import entry
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.options import Rate, takes_options
from metarl_jax.rl import learners
from metarl_jax.types import Learner, MetaLearner, Params, Policy


@takes_options(policy_meta_learner)
def meta_sgd(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner: Learner,
    *,
    inner_lr: Annotated[Rate, "what the learned step sizes start from"] = 0.1,
    **options: Any,
) -> MetaLearner:
    r"""MAML with a learned step size for every parameter.

    .. math::

        \min_{\theta, \alpha} \; \frac{1}{N} \sum_i L_{\text{outer}}(\theta'_i; \tau'_i), \quad \theta'_i
          = \theta - \alpha \odot \nabla_\theta L(\theta; \tau_i)

    theta' = theta - lr (.) grad L(theta; tau), min over (theta, lr) of the loss after adapting (eq. 2, 3 there), with
    `inner.meta_sgd(policy)` inside. What is learned is {"params": theta, "lr": step sizes like theta, all `inner_lr` at
    the start}. They are not bounded: a step size may become negative, as in the paper.
    """

    def init(key: jax.Array) -> Params:
        params = policy.init(key)
        return {"params": params, "lr": jax.tree.map(lambda x: jnp.full_like(x, inner_lr), params)}

    return policy_meta_learner(env, tasks, policy, inner, init_params=init, policy_at="params", **options)


ENTRY = entry(meta_sgd, learners.meta_sgd)
