"""CAVIA: context adaptation (Zintgraf et al. 2019)."""

from typing import Any

from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.rl import learners
from metarl_jax.types import MetaLearner, Policy


def cavia(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner_lr: Any = 1.0,
    *,
    context_size: int = 2,
    inner_surrogate: Any = "lvc",
    inner_options: dict[str, Any] | None = None,
    **options: Any,
) -> MetaLearner:
    """phi'_i = phi - inner_lr grad_phi L(theta, phi; tau_i), phi = 0; min over theta of the loss at (theta, phi'_i).

    The context phi [context_size] is an input of the policy beside the observation; theta is shared by all tasks and
    never adapted. `policy` must read `params["context"]`: `networks.mlp_policy(env, ..., context_size=context_size)`.

    Args:
        inner_options: further options of `learners.policy_gradient`, such as gamma. Other options are those of
            `meta_learner.policy_meta_learner`.
    """
    learner = learners.context(policy, inner_lr, size=context_size, surrogate=inner_surrogate, **(inner_options or {}))
    return policy_meta_learner(env, tasks, policy, learner, **options)
