"""Proximal policy optimisation: the one update, used alone, inside MAML, between trials and in populations.

It is differentiable through every one of its steps: in the agent's parameters, in the step size, in all float options.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from metarl_jax import sharing, tree
from metarl_jax.gradient import check_differentiable, value_and_grad
from metarl_jax.options import (
    Finite,
    Float,
    NonNegative,
    Positive,
    Rate,
    Unit,
    check_divides,
    is_given,
    is_other_than,
    is_zero,
    one_of,
    takes_options,
)
from metarl_jax.rl import losses, normalize, returns
from metarl_jax.rl.gradient_parts import added_up, over_devices
from metarl_jax.rl.optimizers import sgd
from metarl_jax.types import Batch, Learner, LearnerState, Metrics, Params, Policy, Rollout


def prepare_batch(
    policy: Policy,
    params: Params,
    rollout: Rollout,
    *,
    gamma: Float,
    gae_lambda: Float,
    baseline: str,
    normalize_advantage: bool,
    normalize_task_rewards: bool = False,
    reward_scale: Float = 1.0,
) -> Batch:
    """Rewards to advantages: GAE on the chosen baseline, [T, B].

    `critic`: V of the policy's own critic, bootstrapped at truncations. `linear`: a linear feature
    baseline fitted to these very episodes; the horizon is then part of the task, so nothing follows it.
    `zero`: no baseline. Where the parameters hold statistics of rewards (`rl.normalize`), rewards are divided by their
    deviation; with `normalize_task_rewards` by that of this very rollout, or of each trial of a policy with a memory.
    `reward_scale` is a factor on what comes out.
    """
    mask, reward = rollout.mask, tree.masked(rollout.reward, rollout.mask)
    sigma, running = normalize.scale_of_rewards(params), None
    if sigma is not None:
        running = returns.running_returns(reward, rollout.done, gamma, rollout.earlier_return)
    elif normalize_task_rewards:
        own = returns.running_returns(reward, rollout.done, gamma)
        sigma = normalize.scale_of_task(own, mask, each_stream=policy.step is not None)
    if sigma is not None:
        reward = jnp.clip(reward / sigma, -normalize.LIMIT, normalize.LIMIT)
    if is_given(reward_scale, 1.0):
        reward = reward_scale * reward
    seen, following = tree.finite_behind((rollout.observation, rollout.next_observation), mask)
    if baseline == "critic":
        if policy.value is None:
            raise ValueError(
                "baseline = 'critic': this policy has no critic; use 'linear', or make one with critic=True"
            )
        value = policy.value(params, seen)
        if policy.step is None:
            next_value = policy.value(params, following)
            terminated = rollout.terminated
        else:  # a whole trial: the next value is the next step's, and nothing follows the end of it
            next_value = jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
            terminated = rollout.done
    else:
        terminated = rollout.done
        if baseline == "linear":
            read = seen if policy.features is None else policy.features(params, seen)
            observation = read.reshape(*reward.shape, -1).astype(reward.dtype)
            time = rollout.episode_length - 1
            targets = returns.discounted_returns(reward, rollout.done, gamma)
            value = returns.linear_baseline(returns.baseline_features(observation, time), targets, mask)
        else:
            value = jnp.zeros_like(reward)
        next_value = jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
    value, next_value = jax.lax.stop_gradient((value, next_value))
    truncated = rollout.truncated & ~terminated
    advantage = returns.gae(reward, value, next_value, terminated, truncated, gamma, gae_lambda)
    target = advantage + value
    if normalize_advantage:
        advantage = returns.standardize(advantage, mask)
    discounts = returns.discounts(gamma, rollout.episode_length - 1, reward.dtype)
    return Batch(
        observation=rollout.observation,
        action=rollout.action,
        log_prob=rollout.log_prob,
        distribution=rollout.distribution,
        advantage=tree.masked(advantage, mask),
        value=value,
        target=target,
        discounted_reward=discounts * reward,
        discounted_value=tree.masked(discounts * value, mask),
        mask=mask,
        running_return=running,
    )


def actor_critic_loss(
    policy: Policy,
    surrogate: losses.Surrogate,
    *,
    value_coef: Float = 0.5,
    entropy_coef: Float = 0.0,
    value_clip_eps: Float | None = None,
    use_critic: bool = True,
    use_entropy: bool = True,
    needs_time: bool = True,
) -> Callable[[Params, Batch], tuple[jax.Array, Metrics]]:
    r"""loss(params, batch) = surrogate + value_coef * value loss - entropy_coef * entropy, and its terms.

    .. math::

        L(\theta) = L_{\text{surrogate}}(\theta) + c_V \, L_V(\theta) - c_H \, H(\theta)

    Args:
        needs_time: whether `surrogate` reads whole episodes [T, B]; others are given one row of steps [T * B].
    """
    in_one_row = not needs_time and policy.step is None

    def loss(params: Params, batch: Batch) -> tuple[jax.Array, Metrics]:
        batch = tree.one_row(batch, batch.mask.ndim) if in_one_row else batch
        critic = policy.value if use_critic else None
        observation, action = tree.finite_behind((batch.observation, batch.action), batch.mask)
        value: jax.Array | None
        if critic is not None and policy.joint is not None:
            distribution, value = policy.joint(params, observation)
        else:
            distribution = policy.apply(params, observation)
            value = None if critic is None else critic(params, observation)
        with tree.usual_promotion():
            log_prob = distribution.log_prob(action)
        metrics = {"surrogate": surrogate(log_prob, batch)}
        total = metrics["surrogate"]
        if value is not None:
            metrics["value_loss"] = losses.value_loss(value, batch.target, batch.mask, batch.value, value_clip_eps)
            total = total + value_coef * metrics["value_loss"]
        if use_entropy:
            metrics["entropy"] = losses.entropy(distribution, batch.mask)
            total = total - entropy_coef * metrics["entropy"]
        return total, metrics

    return loss


# An option: a name of `losses.SURROGATES`, a function (log_prob, batch) -> loss, or the address of one.
SurrogateName = Annotated[Any, one_of(lambda: losses.SURROGATES, ", a function, or my_package.my_module:name")]


@takes_options()
def ppo(
    policy: Policy,
    lr: Any = 3e-4,
    *,
    surrogate: Annotated[SurrogateName, "surrogate of the updates"] = "ppo",
    num_epochs: Annotated[Positive, "passes over the data an update"] = 4,
    num_minibatches: Annotated[Positive, "parts of each pass; must divide the data evenly"] = 4,
    clip_eps: Annotated[Rate, "clip of the likelihood ratio (ppo, smooth_ppo)"] = 0.2,
    dice_lambda: Annotated[Unit, "lambda of loaded_dice"] = 1.0,
    gamma: Annotated[Unit, "discount"] = 0.99,
    gae_lambda: Annotated[Unit, "lambda of generalised advantage estimation"] = 0.95,
    baseline: Annotated[Literal["linear", "critic", "zero"], "baseline of the advantages"] = "critic",
    normalize_advantage: Annotated[bool, "standardise the advantages of an update"] = True,
    normalize_task_rewards: Annotated[bool, normalize.OF_TASK] = False,
    reward_scale: Annotated[Rate, "factor on the rewards that are learned from; scores are unscaled"] = 1.0,
    target_return: Annotated[
        Finite | None, "discounted return that updates aim at, shorter the nearer it is; null: the more the better"
    ] = None,
    value_coef: Annotated[NonNegative, "weight of the critic's loss"] = 0.5,
    value_clip_eps: Annotated[Rate | None, "clip of the critic's loss; null: none"] = None,
    entropy_coef: Annotated[NonNegative, "weight of the entropy bonus"] = 0.0,
    max_grad_norm: Annotated[Rate | None, "bound on the norm of a gradient; null: none"] = None,
    num_microbatches: Annotated[
        Positive, "parts of the episodes that a gradient is added up over: the same number, less memory"
    ] = 1,
    optimizer: optax.GradientTransformation | None = None,
    adapts: Sequence[str] | None = None,
    proximal_coef: Float | None = None,
    share_columns: bool = False,
) -> Learner:
    r"""Proximal policy optimisation (Schulman et al. 2017), differentiable through every one of its steps.

    .. math::

        \theta &\leftarrow \theta - \alpha \nabla_\theta \left[ L_{\text{surrogate}} + c_V L_V - c_H H \right] \\
        L_{\text{surrogate}} &= -\hat{\mathbb{E}} \left[ \min \left( \rho A, \, \text{clip}(\rho, 1 - \epsilon,
          1 + \epsilon) A \right) \right]

    An update is `num_epochs` passes over the batch in `num_minibatches` shuffled parts, each one a step of
    `optimizer` (default: SGD with `lr`, a scalar or a tree of per-parameter step sizes) on
    surrogate + value_coef * value loss - entropy_coef * entropy. The shuffle comes from `key` alone, so
    that a stored trial replays exactly. How an outer gradient passes through is for the caller of `update` to say.
    The parts are single steps, or whole trials [T, B] where the policy has a memory. All floats may be tracers;
    `entropy_coef=0.0`, a Python zero, leaves the entropy out of the program.

    Args:
        surrogate: a name of `losses.SURROGATES`, or a function (log_prob, batch) -> loss.
        baseline: "critic" (the policy's), "linear" (fitted to each batch) or "zero".
        optimizer: in the place of SGD with `lr`, which then has no part. A meta-gradient of second order needs its
            derivative at zero gradients: optax's `adam` and `clip_by_global_norm` have none there, and are refused by
            meta-learners that pass through them; use `learners.adam`, `tree.clip_by_global_norm` or max_grad_norm.
        adapts: names of the parameters (or of modules that hold them) that an update moves; None: all.
        num_microbatches: parts in which one step's gradient is added up, the same number at less memory: a second-order
            gradient then holds the activations of one part. Parts are episodes; losses must be means over steps.
        target_return: R*, a discounted return of an episode: descends (R* - R)^2 / 2 by a step size that is multiplied
            by (R* - R) / T, see `losses.towards_target`. None: ascends the return R.
        normalize_task_rewards: divides by sigma and clips as `normalize_rewards` of `rl.normalize` does,
            with sigma the deviation of R_t in one task's data of one update: for tasks whose rewards differ in size.
        reward_scale: brings the critic's targets to order 1. Standardised advantages do not depend on it, so what it
            changes is the critic's share of the gradient.
        proximal_coef: adds proximal_coef / 2 |theta' - theta|^2, theta being where this update began.
        share_columns: devices that have one training to share take a part each of the columns of every gradient.
    Raises: ValueError for unknown names, a critic that is not there, minibatches of a surrogate over time, DiCE on
        rewards ("dice", "tmaml") with a gae_lambda other than 1.
    Not differentiated: samples, baselines, the probabilities stored at sampling. The derivative with respect to
    `clip_eps` is 0 almost everywhere (a clipped sample's gradient is 0), so it cannot be meta-learned by gradient.
    """
    spec, moves = losses.spec_of(surrogate), num_epochs * num_minibatches
    name = surrogate if isinstance(surrogate, str) else getattr(surrogate, "__name__", "a function")
    if num_minibatches > 1 and spec.needs_time and policy.step is None:
        raise ValueError(
            f"num_minibatches = {num_minibatches}: must be 1 with surrogate = {name}, which needs whole episodes"
        )
    if moves > 1 and spec.on_policy:
        many = f"num_epochs = {num_epochs}" if num_epochs > 1 else f"num_minibatches = {num_minibatches}"
        raise ValueError(f"{many}: must be 1 with surrogate = {name}, which has no likelihood ratio; use lvc or ppo")
    if spec.needs_rewards and is_other_than(gae_lambda, 1):
        raise ValueError(
            f"gae_lambda = {gae_lambda}: must be 1 with surrogate = {name}, which weighs whole returns (GAE on top "
            "counts the future twice); use loaded_dice, which takes any advantages"
        )
    shared = "reward" in normalize.statistics_in(policy)
    if normalize_task_rewards and shared:
        raise ValueError(
            "normalize_task_rewards = True: divides by each task's own deviation what normalize_rewards divides by "
            "that of all; leave one out"
        )
    if target_return is not None and (is_given(reward_scale, 1.0) or normalize_task_rewards or shared):
        raise ValueError(
            f"target_return = {target_return}: is a return of the environment's rewards, which reward_scale, "
            "normalize_rewards and normalize_task_rewards change; leave one out"
        )
    remembers = policy.step is not None
    given = optimizer = sgd(lr) if optimizer is None else optimizer
    if max_grad_norm is not None:
        optimizer = optax.chain(tree.clip_by_global_norm(max_grad_norm), optimizer)
    loss = actor_critic_loss(
        policy,
        losses.surrogate(surrogate, clip_eps=clip_eps, dice_lambda=dice_lambda),
        value_coef=value_coef,
        entropy_coef=entropy_coef,
        value_clip_eps=value_clip_eps,
        use_critic=baseline == "critic",
        use_entropy=not is_zero(entropy_coef),
        needs_time=spec.needs_time,
    )

    value, reader = policy.value, policy
    if share_columns and value is not None:
        reader = policy._replace(value=lambda params, x: sharing.map_columns(lambda x: value(params, x), x))

    def init(params: Params) -> LearnerState:
        return LearnerState(params, optimizer.init(tree.select(params, adapts)))

    def prepare(state: LearnerState, rollout: Rollout) -> Batch:
        estimated: dict[str, Any] = {"gamma": gamma, "gae_lambda": gae_lambda, "baseline": baseline}
        estimated |= {"normalize_advantage": normalize_advantage, "reward_scale": reward_scale}
        estimated["normalize_task_rewards"] = normalize_task_rewards
        params = jax.lax.stop_gradient(state.params)
        return prepare_batch(reader, params, rollout, **estimated)

    def objective(adapted: Any, data: tuple) -> tuple[jax.Array, Metrics]:
        batch, params, anchor = data
        value, metrics = loss(tree.replace_selected(params, adapts, adapted), batch)
        if anchor is not None and proximal_coef is not None:
            value = value + proximal_coef / 2 * optax.tree.norm(optax.tree.sub(adapted, anchor), squared=True)
        return value, metrics

    def regularised(params: Params, anchor: Params, batch: Batch) -> jax.Array:
        batch = batch if target_return is None else losses.towards_target(batch, target_return)
        return objective(params, (batch, params, anchor))[0]

    def check(
        num_steps: int, num_streams: int, steps: str = "num_steps", streams: str = "the number of episodes"
    ) -> None:
        whole, of = (num_streams, streams) if remembers else (num_steps * num_streams, f"{streams} * {steps}")
        check_divides("num_minibatches", num_minibatches, whole, of)
        parts, of = (num_streams, streams) if num_minibatches == 1 else (whole // num_minibatches, "a minibatch's size")
        check_divides("num_microbatches", num_microbatches, parts, of)

    def update(
        state: LearnerState, key: jax.Array, batch: Batch, differentiation: str = "reverse"
    ) -> tuple[LearnerState, Metrics]:
        check(batch.mask.shape[0] if batch.mask.ndim == 2 else 1, batch.mask.shape[-1])
        num_samples = batch.mask.shape[1] if remembers else batch.mask.size
        batch = batch if target_return is None else losses.towards_target(batch, target_return)
        if num_minibatches > 1:
            if not remembers:
                batch = tree.one_row(batch, batch.mask.ndim)
            rows = tree.minibatch_indices(key, num_samples, num_epochs, num_minibatches)
        else:
            rows = None
        gradient = added_up(value_and_grad(objective, differentiation), num_microbatches)
        gradient = over_devices(gradient) if share_columns else gradient
        start = tree.select(state.params, adapts)
        fixed = None if adapts is None else state.params
        anchor = None if proximal_coef is None else start

        def step(carry: tuple, rows: jax.Array | None) -> tuple[tuple, Metrics]:
            adapted, opt_state = carry
            part = batch
            if rows is not None:
                part = jax.tree.map(lambda x: jnp.take(x, rows, axis=int(remembers)), batch)
            (value, metrics), grads = gradient(adapted, part, fixed, anchor)
            return tree.optimizer_step(optimizer, grads, opt_state, adapted), {"loss": value, **metrics}

        carry = (start, state.opt_state)
        if num_epochs * num_minibatches == 1:
            (adapted, opt_state), metrics = step(carry, rows)
        else:
            (adapted, opt_state), metrics = jax.lax.scan(step, carry, rows, length=num_epochs * num_minibatches)
            metrics = tree.tree_mean(metrics)
        moved = tree.replace_selected(state.params, adapts, adapted)
        return LearnerState(normalize.fold(state.params, moved), opt_state), metrics

    minimises = proximal_coef is not None and num_minibatches == 1 and adapts is None
    return Learner(
        init,
        prepare,
        update,
        regularised if minimises else None,
        check,
        name if spec.on_policy else None,
        lambda: check_differentiable(given),
    )
