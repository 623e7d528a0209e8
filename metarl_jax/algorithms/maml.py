"""MAML for reinforcement learning: MAML-VPG, MAML-PPO, ProMP-style LVC, FOMAML, by choice of names.

Finn et al. 2017, "Model-agnostic meta-learning for fast adaptation of deep networks";
Rothfuss et al. 2018, "ProMP: proximal meta-policy search" for `lvc` inside and `ppo` outside.
"""

from typing import Any

import jax
import optax

from metarl_jax import inner as learners
from metarl_jax import losses, outer
from metarl_jax.rollout import episode_returns, rollout
from metarl_jax.types import Batch, Learner, MetaLearner, Params, Policy, Rollout, Task

Float = float | jax.Array


def maml(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner: Learner,
    *,
    num_inner_steps: int = 1,
    meta_batch_size: int = 40,
    episodes_per_task: int = 20,
    horizon: int | None = None,
    outer_lr: Float = 1e-3,
    num_outer_epochs: int = 1,
    outer_surrogate: str | losses.Surrogate = "ppo",
    outer_clip_eps: Float = 0.3,
    outer_dice_lambda: Float = 1.0,
    outer_entropy_coef: Float = 0.0,
    value_coef: Float = 0.5,
    max_grad_norm: Float | None = None,
    tasks_per_batch: int | None = None,
) -> MetaLearner:
    """Learn initial parameters from which `inner` adapts in `num_inner_steps` updates.

    min_theta mean_i L_outer(theta'_i; tau'_i), theta'_i = inner updates of theta on tau_i. The gradient is
    second order through every inner step unless `inner` was made with `differentiation="first_order"`
    (FOMAML). `num_inner_steps=0` is ordinary multi-task PPO.

    Args:
        env: gymnax environment; tasks: `TaskDistribution`, or anything with `sample(key)` and `horizon`.
        inner: `mrl.inner.ppo(policy, ...)`, `mrl.inner.policy_gradient(policy, ...)` or one's own Learner.
        episodes_per_task: episodes before, and after, each inner update; each of `horizon` steps at most.
        outer_surrogate: on the data gathered after adaptation; with `num_outer_epochs > 1` use "ppo".
        tasks_per_batch: tasks processed at a time (None: one on a CPU, all on an accelerator).
    A clipped inner update stops pulling on a sample once its ratio has left 1 +- `clip_eps`, however many steps
    follow: as the policy's std shrinks, so does what one update can adapt. For several inner epochs or minibatches
    use `surrogate="lvc"` (the ratio unclipped) or a wide clip; in a first step the clip is inactive.
    Step metrics: loss, grad_norm, return_k after k inner updates (mean over tasks and episodes).
    Not differentiated: sampling, advantages. The dependence of tau on theta through sampling enters only
    by the surrogates' likelihood ratios.
    """
    if num_outer_epochs > 1 and outer_surrogate in losses.ON_POLICY:
        raise ValueError(
            f"num_outer_epochs = {num_outer_epochs}: must be 1 with outer_surrogate {outer_surrogate!r}; "
            "use 'lvc' or 'ppo'"
        )
    num_steps = tasks.horizon if horizon is None else horizon
    outer_loss = learners.actor_critic_loss(
        policy,
        losses.surrogate(outer_surrogate, clip_eps=outer_clip_eps, dice_lambda=outer_dice_lambda),
        value_coef=value_coef,
        entropy_coef=outer_entropy_coef,
        use_entropy=not (isinstance(outer_entropy_coef, (int, float)) and outer_entropy_coef == 0),
    )

    def sample(params: Params, key: jax.Array, task: Task) -> tuple[Rollout, jax.Array]:
        data, _ = rollout(env, policy.apply, params, key, task, num_steps=num_steps, num_envs=episodes_per_task)
        return data, episode_returns(data)

    def loss(params: Params, batch: Batch) -> jax.Array:
        return outer_loss(params, batch)[0]

    return outer.meta_learner(
        tasks.sample,
        sample,
        inner,
        loss,
        policy.init,
        num_inner_steps=num_inner_steps,
        meta_batch_size=meta_batch_size,
        optimizer=meta_optimizer(outer_lr, max_grad_norm),
        num_outer_epochs=num_outer_epochs,
        tasks_per_batch=tasks_per_batch,
    )


def meta_optimizer(lr: Float, max_grad_norm: Float | None) -> optax.GradientTransformation:
    """Adam, with the gradient's global norm clipped if a bound is given."""
    return (
        optax.adam(lr)
        if max_grad_norm is None
        else optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(lr))
    )
