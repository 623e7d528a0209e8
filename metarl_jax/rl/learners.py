"""Inner learners: how experience changes an agent. One PPO, used alone, inside MAML and in populations.

`ppo` with one epoch and one minibatch is a plain policy-gradient step, so `policy_gradient` is that.
Every update is differentiable: in the agent's parameters, in the step size and in all float options.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metarl_jax import tree
from metarl_jax.gradient import Differentiable, check_differentiable, value_and_grad
from metarl_jax.rl import losses, returns
from metarl_jax.types import Batch, Learner, LearnerState, Metrics, Params, Policy, Rollout

Float = float | jax.Array
BASELINES = ("critic", "linear", "zero")


def sgd(lr: Any) -> optax.GradientTransformation:
    """theta - lr * g, where `lr` is a scalar or a tree of per-parameter step sizes, fixed or learned."""
    if jax.tree_util.all_leaves([lr]):
        return Differentiable(*optax.sgd(lr))
    return optax.stateless(lambda grads, _: jax.tree.map(lambda a, g: -a * g, lr, grads))


def adam(lr: Float | optax.Schedule, eps: Float = 1e-5) -> optax.GradientTransformation:
    """Adam whose derivative exists at zero gradients (eps_root > 0), fit for a differentiated inner loop."""
    return Differentiable(*optax.adam(lr, eps=eps, eps_root=1e-12))


def annealed_adam(lr: Any, num_updates: int | None) -> optax.GradientTransformation:
    """Adam as PPO uses it, with the step size falling linearly to 0 over `num_updates` steps (None: constant)."""
    return optax.adam(lr if num_updates is None else optax.linear_schedule(lr, 0.0, num_updates), eps=1e-5)


def learned_sgd() -> optax.GradientTransformation:
    """theta - lr (.) g with the step sizes as the optimiser's state, where `meta_sgd` puts what was meta-learned."""

    def update(grads: Any, lr: Any, _: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda a, g: -a * g, lr, grads), lr

    return Differentiable(lambda params: params, update)


def prepare_batch(
    policy: Policy,
    params: Params,
    rollout: Rollout,
    *,
    gamma: Float,
    gae_lambda: Float,
    baseline: str,
    normalize_advantage: bool,
) -> Batch:
    """Rewards to advantages: GAE on the chosen baseline, [T, B].

    `critic`: V of the policy's own critic, bootstrapped at truncations. `linear`: a linear feature
    baseline fitted to these very episodes; the horizon is then part of the task, so nothing follows it.
    `zero`: no baseline.
    """
    mask, reward = rollout.mask, tree.masked(rollout.reward, rollout.mask)
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
            read = seen if policy.features is None else policy.features(seen)
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
) -> Callable[[Params, Batch], tuple[jax.Array, Metrics]]:
    """loss(params, batch) = surrogate + value_coef * value loss - entropy_coef * entropy, and its terms."""

    def loss(params: Params, batch: Batch) -> tuple[jax.Array, Metrics]:
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


def ppo(
    policy: Policy,
    lr: Any = 3e-4,
    *,
    num_epochs: int = 4,
    num_minibatches: int = 4,
    clip_eps: Float = 0.2,
    gamma: Float = 0.99,
    gae_lambda: Float = 0.95,
    surrogate: str | losses.Surrogate = "ppo",
    dice_lambda: Float = 1.0,
    value_coef: Float = 0.5,
    value_clip_eps: Float | None = None,
    entropy_coef: Float = 0.0,
    max_grad_norm: Float | None = None,
    baseline: str = "critic",
    normalize_advantage: bool = True,
    optimizer: optax.GradientTransformation | None = None,
    adapts: Sequence[str] | None = None,
    proximal_coef: Float | None = None,
    num_microbatches: int = 1,
    target_return: Float | None = None,
) -> Learner:
    """Proximal policy optimisation (Schulman et al. 2017), differentiable through every one of its steps.

    An update is `num_epochs` passes over the batch in `num_minibatches` shuffled parts, each one a step of
    `optimizer` (default: SGD with `lr`, a scalar or a tree of per-parameter step sizes) on
    surrogate + value_coef * value loss - entropy_coef * entropy. The shuffle comes from `key` alone, so
    that a stored trial replays exactly. How an outer gradient passes through is for the caller of `update` to say.
    The parts are single steps, or whole trials [T, B] where the policy has a memory.

    Args:
        surrogate: "ppo", "lvc", "vpg", "dice", "loaded_dice", "tmaml", or a function (log_prob, batch) -> loss.
        baseline: "critic" (the policy's), "linear" (fitted to each batch) or "zero".
        optimizer: in the place of SGD with `lr`, which then has no part. A meta-gradient of second order needs its
            derivative at zero gradients: optax's `adam` and `clip_by_global_norm` have none there, and are refused by
            meta-learners that pass through them; use `learners.adam`, `tree.clip_by_global_norm` or max_grad_norm.
        adapts: names of the parameters (or of modules that hold them) that an update moves; None: all.
        num_microbatches: parts in which one step's gradient is added up, the same number at less memory: a second-order
            gradient then holds the activations of one part. Parts are episodes; losses must be means over steps.
        target_return: R*, a discounted return of an episode: descends (R* - R)^2 / 2 by a step size that is multiplied
            by (R* - R) / T, see `losses.towards_target`. None: ascends the return R.
        proximal_coef: adds proximal_coef / 2 |theta' - theta|^2, theta being where this update began.
        All floats may be tracers; `entropy_coef=0.0`, a Python zero, leaves the entropy out of the program.
    Raises: ValueError for unknown names, a critic that is not there, minibatches of a surrogate over time, DiCE on
        rewards ("dice", "tmaml") with a gae_lambda other than 1.
    Not differentiated: samples, baselines, the probabilities stored at sampling. The derivative with respect to
    `clip_eps` is 0 almost everywhere (a clipped sample's gradient is 0), so it cannot be meta-learned by gradient.
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline = {baseline!r}: must be one of {', '.join(BASELINES)}")
    if num_minibatches > 1 and surrogate in losses.NEEDS_TIME and policy.step is None:
        raise ValueError(
            f"num_minibatches = {num_minibatches}: surrogate {surrogate!r} needs whole episodes, so it must be 1"
        )
    if num_epochs > 1 and surrogate in losses.ON_POLICY:
        raise ValueError(f"num_epochs = {num_epochs}: must be 1 with surrogate {surrogate!r}; use 'lvc' or 'ppo'")
    if surrogate in losses.NEEDS_REWARDS and tree.known_value(gae_lambda) not in (None, 1.0):
        raise ValueError(
            f"gae_lambda = {gae_lambda}: surrogate {surrogate!r} weighs whole returns, on top of which GAE would count "
            "the future twice; use gae_lambda 1, or 'loaded_dice', which takes any advantages"
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
        use_entropy=tree.known_value(entropy_coef) != 0,
    )

    def init(params: Params) -> LearnerState:
        return LearnerState(params, optimizer.init(tree.select(params, adapts)))

    def prepare(state: LearnerState, rollout: Rollout) -> Batch:
        estimated: dict[str, Any] = {"gamma": gamma, "gae_lambda": gae_lambda, "baseline": baseline}
        params = jax.lax.stop_gradient(state.params)
        return prepare_batch(policy, params, rollout, normalize_advantage=normalize_advantage, **estimated)

    def objective(adapted: Any, data: tuple) -> tuple[jax.Array, Metrics]:
        batch, params, anchor = data
        value, metrics = loss(tree.replace_selected(params, adapts, adapted), batch)
        if anchor is not None and proximal_coef is not None:
            value = value + proximal_coef / 2 * optax.tree.norm(optax.tree.sub(adapted, anchor), squared=True)
        return value, metrics

    def regularised(params: Params, anchor: Params, batch: Batch) -> jax.Array:
        batch = batch if target_return is None else losses.towards_target(batch, target_return)
        return objective(params, (batch, params, anchor))[0]

    def update(
        state: LearnerState, key: jax.Array, batch: Batch, differentiation: str = "reverse"
    ) -> tuple[LearnerState, Metrics]:
        num_samples = batch.mask.shape[1] if remembers else batch.mask.size
        if num_samples % num_minibatches:
            unit = "trials" if remembers else "steps"
            raise ValueError(
                f"num_minibatches = {num_minibatches}: must divide the batch of {num_samples} {unit} evenly"
            )
        batch = batch if target_return is None else losses.towards_target(batch, target_return)
        if num_minibatches > 1:
            if not remembers:
                batch = jax.tree.map(lambda x: x.reshape(num_samples, *x.shape[batch.mask.ndim :]), batch)
            rows = tree.minibatch_indices(key, num_samples, num_epochs, num_minibatches)
        else:
            rows = None
        gradient = _accumulated(value_and_grad(objective, differentiation), num_microbatches)
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
        return LearnerState(tree.replace_selected(state.params, adapts, adapted), opt_state), metrics

    minimises = proximal_coef is not None and num_minibatches == 1 and adapts is None
    return Learner(init, prepare, update, regularised if minimises else None, lambda: check_differentiable(given))


def _accumulated(gradient: Callable, num_parts: int) -> Callable:
    """gradient(params, (batch, ...)), added up over `num_parts` parts of the batch's episodes (or samples)."""

    def whole(params: Any, batch: Batch, *rest: Any) -> Any:
        return gradient(params, (batch, *rest))

    def in_parts(params: Any, batch: Batch, *rest: Any) -> Any:
        axis = min(1, batch.mask.ndim - 1)
        if batch.mask.shape[axis] % num_parts:
            raise ValueError(
                f"num_microbatches = {num_parts}: must divide the {batch.mask.shape[axis]} episodes (or samples) evenly"
            )

        def split(x: jax.Array) -> jax.Array:
            shape = (*x.shape[:axis], num_parts, x.shape[axis] // num_parts, *x.shape[axis + 1 :])
            return jnp.moveaxis(x.reshape(shape), axis, 0)

        parts = jax.tree.map(split, batch)
        real = jnp.maximum(jnp.sum(batch.mask), 1.0)

        def add(total: Any, part: Batch) -> tuple[Any, None]:
            share = jnp.sum(part.mask) / real
            found = gradient(params, (part, *rest))
            return jax.tree.map(lambda t, x: t + share * x, total, found), None

        shapes = jax.eval_shape(whole, params, jax.tree.map(lambda x: x[0], parts), *rest)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, parts)[0]

    return whole if num_parts == 1 else in_parts


def policy_gradient(
    policy: Policy, lr: Any = 0.1, *, surrogate: str | losses.Surrogate = "lvc", **options: Any
) -> Learner:
    """One gradient step on a named surrogate: theta' = theta - lr * grad L(theta; tau).

    The inner update of MAML (Finn et al. 2017) with "vpg", of ProMP (Rothfuss et al. 2018) with "lvc".
    Options are those of `ppo`; defaults here: linear baseline and gae_lambda 1.
    """
    options = {"baseline": "linear", "gae_lambda": 1.0, **options}
    return ppo(policy, lr, surrogate=surrogate, num_epochs=1, num_minibatches=1, **options)


def proximal(
    policy: Policy,
    lr: Float = 0.1,
    *,
    strength: Float = 2.0,
    num_steps: int = 16,
    surrogate: str | losses.Surrogate = "lvc",
    **options: Any,
) -> Learner:
    """`num_steps` gradient steps towards argmin_p L(p; tau) + strength / 2 |p - theta|^2.

    The inner problem of iMAML (Rajeswaran et al. 2019, eq. 3), which `meta_gradient.implicit` differentiates. Steps
    converge where lr * (strength + curvature of L) < 2. Options are those of `ppo`; defaults here: linear baseline
    and gae_lambda 1.
    """
    options = {"baseline": "linear", "gae_lambda": 1.0, **options}
    options |= {"num_epochs": num_steps, "num_minibatches": 1, "proximal_coef": strength}
    return ppo(policy, lr, surrogate=surrogate, **options)


def meta_sgd(policy: Policy, **options: Any) -> Learner:
    """theta' = theta - lr (.) grad L with a learned step size for every parameter (Meta-SGD, Li et al. 2017, eq. 2).

    What is meta-learned is {"params": theta, "lr": tree like theta}. Options are those of `policy_gradient`.
    """
    learner = policy_gradient(policy, optimizer=learned_sgd(), **options)
    return learner._replace(init=lambda meta: LearnerState(meta["params"], meta["lr"]))


def context(policy: Policy, lr: Float = 1.0, *, size: int, **options: Any) -> Learner:
    """phi' = phi - lr grad_phi L, phi = 0 at the start of every task (CAVIA, Zintgraf et al. 2019, eq. 4).

    Only the context parameters `params["context"]` [size] move; the policy must read them, as
    `networks.mlp_policy(..., context_size=size)` does. Options are those of `policy_gradient`.
    """
    learner = policy_gradient(policy, lr, adapts=("context",), **options)

    def init(params: Params) -> LearnerState:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return learner.init({**params, "context": jnp.zeros(size, dtype)})

    return learner._replace(init=init)


def regression(apply: Callable[[Params, jax.Array], jax.Array], lr: Any = 0.01) -> Learner:
    """One gradient step on the mean squared error of labelled data {"x": [N, ...], "y": [N, ...]}."""
    optimizer = sgd(lr)

    def objective(params: Params, data: dict[str, jax.Array]) -> tuple[jax.Array, Metrics]:
        return squared_error(apply, params, data), {}

    def update(
        state: LearnerState, key: jax.Array, data: dict[str, jax.Array], differentiation: str = "reverse"
    ) -> tuple[LearnerState, Metrics]:
        del key
        (value, _), grads = value_and_grad(objective, differentiation)(state.params, data)
        return LearnerState(*tree.optimizer_step(optimizer, grads, state.opt_state, state.params)), {"loss": value}

    return Learner(lambda params: LearnerState(params, optimizer.init(params)), lambda state, data: data, update)


def squared_error(apply: Callable, params: Params, data: dict[str, jax.Array]) -> jax.Array:
    """mean (f(x) - y)^2."""
    return jnp.mean(jnp.square(apply(params, data["x"]) - data["y"]))
