"""MAML-TRPO (Finn et al. 2017): vanilla policy gradient inside, a trust region outside."""

from typing import Any

import jax

from metarl_jax.meta import outer
from metarl_jax.meta.differentiation import MetaGradient, resolve
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.rl import learners
from metarl_jax.types import MetaLearner, Policy

Float = float | jax.Array


def maml_trpo(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner_lr: Any = 0.1,
    *,
    max_kl: Float = 0.01,
    cg_steps: int = 10,
    cg_damping: Float = 1e-5,
    fisher_tasks: int | None = None,
    line_search_steps: int = 15,
    backtrack: Float = 0.8,
    inner_surrogate: Any = "lvc",
    inner_options: dict[str, Any] | None = None,
    differentiation: str | MetaGradient = "mixed",
    **options: Any,
) -> MetaLearner:
    """min_theta -mean_i mean rho(theta'_i) A(tau'_i) with mean_i KL(pi_theta'_i,old || pi_theta'_i) <= max_kl.

    The natural gradient is that of the adapted policies, pulled back through the inner updates; conjugate
    gradients, line search and constraint are `outer.trust_region`'s. `inner_surrogate="vpg"` is the form of most
    public codes, whose second-order term vanishes in expectation; "lvc" keeps it.

    Args:
        inner_options: further options of `learners.policy_gradient`, such as gamma. Other options are those of
            `meta_learner.policy_meta_learner`.
    Raises: ValueError for a policy with a critic, whose loss a trust region on the policy does not bound, and for
        differentiation by evolution, which has no Fisher matrix.
    """
    if policy.value is not None:
        raise ValueError("policy: has a critic, which a trust region on the policy leaves unbounded; make it without")
    way = resolve(differentiation)
    if way.tangents is None:
        raise ValueError(f"differentiation = {way.name!r}: gives no Fisher matrix; use 'mixed', or maml's Adam outside")
    learner = learners.policy_gradient(policy, inner_lr, surrogate=inner_surrogate, **(inner_options or {}))
    region = outer.trust_region(
        max_kl,
        cg_steps=cg_steps,
        cg_damping=cg_damping,
        fisher_tasks=fisher_tasks,
        line_search_steps=line_search_steps,
        backtrack=backtrack,
    )
    return policy_meta_learner(
        env,
        tasks,
        policy,
        learner,
        outer=region,
        outer_surrogate="lvc",
        outer_kl=True,
        differentiation=way,
        **options,
    )
