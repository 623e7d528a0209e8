"""MAML-TRPO (Finn et al. 2017): vanilla policy gradient inside, a trust region outside."""

from typing import Annotated, Any

from metarl_jax.algorithms.gradient_family import entry
from metarl_jax.meta import outer_update
from metarl_jax.meta.meta_gradient import Way, resolve
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.options import takes_options
from metarl_jax.rl.learners import policy_gradient
from metarl_jax.types import Learner, MetaLearner, Policy

TRUST_REGION = ("max_kl", "cg_steps", "cg_damping", "fisher_tasks", "line_search_steps", "backtrack")
SET_HERE = ("outer", "outer_lr", "num_outer_epochs", "max_grad_norm", "outer_surrogate", "outer_clip_eps", "outer_kl")


@takes_options(policy_meta_learner, outer_update.trust_region, without=SET_HERE)
def maml_trpo(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner: Learner,
    *,
    differentiation: Annotated[Way, "how the meta-gradient gets through the inner updates"] = "mixed",
    **options: Any,
) -> MetaLearner:
    r"""MAML with a policy-gradient step inside, a trust region outside.

    .. math::

        \min_\theta \; -\frac{1}{N} \sum_i \hat{\mathbb{E}}_{\tau'_i} \left[ \rho(\theta'_i) A \right]
          \quad \text{with} \quad \frac{1}{N} \sum_i \text{KL} \left( \pi_{\theta'_i, \text{old}} \,
          \Vert\, \pi_{\theta'_i} \right) \le \delta

    min_theta -mean_i mean rho(theta'_i) A(tau'_i) with mean_i KL(pi_theta'_i,old || pi_theta'_i) <= max_kl.
    The natural gradient is that of the adapted policies, pulled back through the inner updates; conjugate
    gradients, line search and constraint are `outer_update.trust_region`'s. An inner surrogate "vpg" is the form of
    most public codes, whose second-order term vanishes in expectation; "lvc" keeps it.

    Raises: ValueError for a policy with a critic, whose loss a trust region on the policy does not bound, and for
        differentiation by evolution, which has no Fisher matrix.
    """
    if policy.value is not None:
        raise ValueError("policy: has a critic, which a trust region on the policy leaves unbounded; make it without")
    way = resolve(differentiation)
    if way.tangents is None:
        raise ValueError(
            f"differentiation = {way.name}: gives no Fisher matrix; use mixed, or algorithm maml with Adam outside"
        )
    region = {name: options.pop(name) for name in TRUST_REGION if name in options}
    return policy_meta_learner(
        env,
        tasks,
        policy,
        inner,
        outer=outer_update.trust_region(**region),
        outer_surrogate="lvc",
        outer_kl=True,
        differentiation=way,
        **options,
    )


ENTRY = entry(maml_trpo, policy_gradient, baselines=("linear", "zero"))
