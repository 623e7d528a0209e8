"""Meta-SGD (Li et al. 2017): the initial parameters and a step size for each of them."""

from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.rl import learners
from metarl_jax.types import MetaLearner, Params, Policy


def meta_sgd(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner_lr: float | jax.Array = 0.1,
    *,
    inner_surrogate: Any = "lvc",
    inner_options: dict[str, Any] | None = None,
    **options: Any,
) -> MetaLearner:
    """theta' = theta - lr (.) grad L(theta; tau), min over (theta, lr) of the loss after adapting (eq. 2, 3 there).

    What is learned is {"params": theta, "lr": step sizes like theta, all `inner_lr` at the start}. They are not
    bounded: a step size may become negative, as in the paper.

    Args:
        inner_options: further options of `learners.policy_gradient`, such as gamma. Other options are those of
            `meta_learner.policy_meta_learner`.
    """
    learner = learners.meta_sgd(policy, surrogate=inner_surrogate, **(inner_options or {}))

    def init(key: jax.Array) -> Params:
        params = policy.init(key)
        return {"params": params, "lr": jax.tree.map(lambda x: jnp.full_like(x, inner_lr), params)}

    return policy_meta_learner(env, tasks, policy, learner, init_params=init, **options)
