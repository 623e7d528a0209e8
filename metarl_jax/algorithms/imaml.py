"""iMAML: MAML with implicit gradients (Rajeswaran et al. 2019)."""

from typing import Annotated, Any

from metarl_jax.algorithms.gradient_family import entry
from metarl_jax.meta.meta_gradient import Way
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.options import takes_options
from metarl_jax.rl import learners
from metarl_jax.types import Learner, MetaLearner, Policy


@takes_options(policy_meta_learner)
def imaml(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner: Learner,
    *,
    differentiation: Annotated[Way, "how the meta-gradient gets through the inner updates"] = "implicit",
    **options: Any,
) -> MetaLearner:
    r"""MAML with implicit gradients of a regularised inner problem.

    .. math::

        \theta'_i &= \arg\min_p \; L(p; \tau_i) + \frac{\lambda}{2} \lVert p - \theta \rVert^2 \\
        \nabla_\theta L_{\text{outer}}(\theta'_i; \tau'_i) &= \left( I + \frac{1}{\lambda}
          \nabla^2 L(\theta'_i; \tau_i) \right)^{-1} \nabla_{\theta'_i} L_{\text{outer}}(\theta'_i; \tau'_i)

    theta'_i = argmin_p L(p; tau_i) + strength / 2 |p - theta|^2; meta-gradient (I + Hess L / strength)^-1 grad L'.
    `inner.proximal(policy, lr, strength=2.0, num_steps=16)` descends the inner problem on the same data; the gradient
    needs only where the steps end (lemma 1 there), by conjugate gradients, so its memory does not grow with them.
    CG needs strength + curvature of L to be positive: a small strength with a strongly concave L makes it diverge.
    `differentiation=meta_gradient.implicit(cg_steps)` sets their number; "mixed" unrolls the inner problem instead.
    """
    return policy_meta_learner(env, tasks, policy, inner, differentiation=differentiation, **options)


ENTRY = entry(imaml, learners.proximal, ways_through=("truncated", "evolution", "implicit"))
