"""ANIL: almost no inner loop (Raghu et al. 2020): only the head adapts."""

from collections.abc import Sequence
from typing import Any

import jax

from metarl_jax import tree
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.rl import learners
from metarl_jax.types import MetaLearner, Policy


def anil(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner_lr: Any = 0.1,
    *,
    head: Sequence[str] = ("output",),
    inner_surrogate: Any = "lvc",
    inner_options: dict[str, Any] | None = None,
    **options: Any,
) -> MetaLearner:
    """MAML whose inner updates move the parameters named in `head` only; all parameters are meta-learned.

    theta = (body, head); head'_i = head - inner_lr grad_head L(body, head; tau_i). The second-order term is that of
    the head, so memory and time fall with it.

    Args:
        head: names of parameters, or of the modules that hold them: "output" is the last layer of the networks here.
        inner_options: further options of `learners.policy_gradient`, such as gamma. Other options are those of
            `meta_learner.policy_meta_learner`.
    Raises: ValueError for a name that no parameter has.
    """
    tree.select(
        jax.eval_shape(policy.init, jax.random.key(0)), head
    )  # a misspelt name is refused here, not at training
    options_ = {"surrogate": inner_surrogate, "adapts": tuple(head), **(inner_options or {})}
    learner = learners.policy_gradient(policy, inner_lr, **options_)
    return policy_meta_learner(env, tasks, policy, learner, **options)
