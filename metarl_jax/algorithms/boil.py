"""BOIL: body only update in inner loop (Oh et al. 2021)."""

from collections.abc import Sequence
from typing import Annotated, Any

import jax

from metarl_jax import tree
from metarl_jax.algorithms.gradient_family import entry
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.options import Rate, takes_options
from metarl_jax.rl.learners import policy_gradient
from metarl_jax.types import Learner, MetaLearner, Policy


@takes_options(policy_gradient)
def body(
    policy: Policy,
    lr: Annotated[Rate, "inner step size"] = 0.1,
    *,
    frozen: Annotated[Sequence[str], "parameters or modules that do not adapt"] = ("output",),
    **options: Any,
) -> Learner:
    """body' = body - lr grad_body L(body, head; tau): all parameters move but those of `frozen`.

    Raises: ValueError for a name that no parameter has, and where nothing would be left to adapt.
    """
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    tree.select(shapes, frozen)  # a misspelt name is refused here
    paths = [name.split(".") for name in tree.leaf_names(shapes)]
    fixed = {part for path in paths if set(path) & set(frozen) for part in path}
    adapts = sorted({part for path in paths for part in path} - fixed)
    if not adapts:
        raise ValueError(f"frozen = {list(frozen)}: leaves nothing to adapt; name fewer")
    return policy_gradient(policy, lr, adapts=tuple(adapts), **options)


@takes_options(policy_meta_learner)
def boil(env: Any, tasks: Any, policy: Policy, inner: Learner, **options: Any) -> MetaLearner:
    r"""MAML in which all but the last layer adapts.

    .. math::

        \theta'_{i, \text{body}} = \theta_{\text{body}} - \alpha
          \nabla_{\theta_{\text{body}}} L(\theta; \tau_i), \quad \theta'_{i, \text{head}} = \theta_{\text{head}}

    theta = (body, head); body'_i = body - inner_lr grad_body L(body, head; tau_i), which is `body(policy, lr)`; all
    parameters are meta-learned. ANIL's complement: features change to fit a head that stays.
    """
    return policy_meta_learner(env, tasks, policy, inner, **options)


ENTRY = entry(boil, body)
