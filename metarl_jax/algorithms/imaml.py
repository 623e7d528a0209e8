"""iMAML: MAML with implicit gradients (Rajeswaran et al. 2019)."""

from typing import Any

import jax

from metarl_jax.meta.differentiation import implicit
from metarl_jax.meta.meta_learner import policy_meta_learner
from metarl_jax.rl import learners
from metarl_jax.types import MetaLearner, Policy

Float = float | jax.Array


def imaml(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner_lr: Float = 0.1,
    *,
    proximal_strength: Float = 2.0,
    num_proximal_steps: int = 16,
    cg_steps: int = 5,
    inner_surrogate: Any = "lvc",
    inner_options: dict[str, Any] | None = None,
    **options: Any,
) -> MetaLearner:
    """theta'_i = argmin_p L(p; tau_i) + strength / 2 |p - theta|^2; meta-gradient (I + Hess L / strength)^-1 grad L'.

    The inner problem is descended by `num_proximal_steps` gradient steps on the same data; the gradient needs only
    where they end (lemma 1 there), by `cg_steps` of conjugate gradients, so its memory does not grow with them.
    CG needs strength + curvature of L to be positive: a small strength with a strongly concave L makes it diverge.

    Args:
        inner_options: further options of `learners.proximal`, such as gamma. Other options are those of
            `meta_learner.policy_meta_learner`; `differentiation="mixed"` unrolls the steps instead.
    """
    learner = learners.proximal(
        policy,
        inner_lr,
        strength=proximal_strength,
        num_steps=num_proximal_steps,
        surrogate=inner_surrogate,
        **(inner_options or {}),
    )
    options = {"differentiation": implicit(cg_steps), **options}
    return policy_meta_learner(env, tasks, policy, learner, **options)
