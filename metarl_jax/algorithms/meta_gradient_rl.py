"""Online meta-gradients of hyperparameters: one agent that tunes gamma, lambda, step sizes and weights as it learns.

Hyperparameters h(x) are squashed from unconstrained meta-parameters x (`hyperparameters`). One iteration makes K
actor-critic or PPO updates, theta' = U_K(... U_1(theta; tau_1, h) ...; tau_K, h), judges theta' on fresh data, and
takes an Adam step of x on the gradient through those updates. The agent goes on from theta': it never restarts.

* `gradient`, meta-gradients (Xu et al. 2018, eq. 5; several coefficients at once: STACX, Zahavy et al. 2020):
  L_outer(theta'; tau') = -mean log pi(a|s) A' + value and entropy terms, with fixed gamma' and lambda' in A'.
* `bootstrapped` (BMG, Flennerhag et al. 2022, eq. 4): from theta' L more updates, the last on L_outer and those before
  it with h, give a target theta~; then KL(pi_theta~ || pi_theta') + c mean (V_theta~ - V_theta')^2 / 2 on the states
  of the last update. The agent goes on from the last update with h.

h(x) are numbers, or with `recent` what a network makes of the rewards of the last rollouts.

With an *outer critic* A' comes from a value function of gamma' itself, learned beside the agent's own, whose values
are of the tuned gamma and bias A' towards short horizons (Bonnet et al. 2022).

Shapes: K inner updates, T steps, B environments.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from metarl_jax import tree
from metarl_jax.gradient import check_differentiable
from metarl_jax.meta.hyperparameters import Tuned, constant, reactive, squash, unconstrained
from metarl_jax.rl import learners, losses
from metarl_jax.rl.rollout import EnvCarry, completed, environment_metrics, faulty_steps, first_fault
from metarl_jax.types import Learner, LearnerState, Metrics, Policy, Rollout, Task
from metarl_jax.update_rules.lifetimes import Agent, OuterCritic, Segment, acting, born, live, relive

Float = float | jax.Array
OBJECTIVES = ("gradient", "bootstrapped")
SURROGATES = ("vpg", "lvc", "ppo", "smooth_ppo", "dpo")
DEFAULTS: dict[str, Float] = {  # what can be tuned, and what each is where it is not
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "lr": 1e-3,
    "entropy_coef": 0.01,
    "value_coef": 0.5,
    "policy_coef": 1.0,
    "clip_eps": 0.2,
}


@struct.dataclass
class Target:
    """Where L more updates took the agent."""

    observation: jax.Array  # [T, B, ...]
    mask: jax.Array  # [T, B] which states count
    distribution: Any  # leaves [T, B, ...] of pi_theta~
    value: jax.Array | None  # [T, B] V_theta~


@struct.dataclass
class MetaGradientState:
    """The agent and its environments, the outer critic's optimiser, and what is meta-learned."""

    learner: LearnerState
    envs: EnvCarry
    critic_state: Any
    meta: Any  # unconstrained numbers by name, or a network's parameters
    meta_state: Any
    recent: jax.Array | None = None  # [R] mean rewards of the last R rollouts


class MetaGradientRL(NamedTuple):
    """An `Algorithm` with the parts of its step open to use and to test."""

    init: Callable[[jax.Array], MetaGradientState]
    step: Callable[[MetaGradientState, jax.Array], tuple[MetaGradientState, Metrics]]
    collect: Callable[..., tuple[Segment, MetaGradientState, Metrics]]  # (state, key): the K updates, and the judge
    adapt: Callable[[Any, Segment], LearnerState]  # theta'(x); deterministic and differentiable in x
    meta_loss: Callable[[Any, Segment], jax.Array]


def meta_gradient_rl(
    env: Any,
    task: Task,
    policy: Policy | Callable[[dict[str, Any]], Policy],
    tuned: Mapping[str, Tuned],
    *,
    objective: str = "gradient",
    num_inner_steps: int = 1,
    num_target_steps: int = 1,
    outer_critic: OuterCritic | None = None,
    recent: int = 0,
    meta_hidden: Sequence[int] = (32,),
    meta_lr: Float = 1e-3,
    meta_max_grad_norm: Float | None = None,
    num_envs: int = 16,
    num_steps: int = 32,
    surrogate: str | losses.Surrogate = "vpg",
    num_epochs: int = 1,
    num_minibatches: int = 1,
    optimizer: Callable[[Float], optax.GradientTransformation] = learners.adam,
    outer_gamma: Float = 0.99,
    outer_gae_lambda: Float = 0.95,
    outer_value_coef: Float = 0.0,
    outer_entropy_coef: Float = 0.0,
    outer_normalize_advantage: bool = False,
    outer_surrogate: str | losses.Surrogate = "vpg",
    value_matching_coef: Float = 0.0,
    matched: Callable[[Rollout], jax.Array] | None = None,
    differentiation: str = "mixed",
    **options: Any,
) -> MetaGradientRL:
    """Tune `tuned` (of `DEFAULTS`' names) online, by gradients through K = `num_inner_steps` updates of one agent.

    Args:
        task: the one task; its environments reset themselves and go on from iteration to iteration.
        policy: with a critic; or a function of the hyperparameters (those of `DEFAULTS`, constants to it) that makes
            one, where values are conditioned on gamma. Its parameters must not depend on them.
        tuned: names to start and range. The others are fixed at their defaults, or by `options`.
        objective: "gradient" or "bootstrapped"; `num_target_steps` is the L of the latter, `value_matching_coef` its c,
            and `matched` (rollout -> [T, B] of 0 and 1) says on which states it matches (None: all).
        recent: R > 0: the hyperparameters of an update are an MLP, of `meta_hidden` units, of the mean rewards of the
            agent's last R rollouts, its own included. 0: they are numbers.
        surrogate: "vpg" (actor-critic), "lvc", "ppo", "smooth_ppo", "dpo", or a function (log_prob, batch) -> loss;
            `outer_surrogate` is "vpg", "lvc" or a function.
        optimizer: step size -> optimiser of the agent, differentiable (`learners.adam`, `learners.sgd`).
        options: fixed values of `DEFAULTS`' names, and `learners.ppo`'s normalize_advantage, max_grad_norm,
            value_clip_eps.
    Raises: ValueError for names that cannot be tuned or are given twice; `clip_eps` without "smooth_ppo" (its
        derivative is 0 almost everywhere); "vpg" updates of more than one step; an unknown objective; no critic.
    Not differentiated: samples, values and bootstraps of all advantages, A' altogether, the target of BMG.
        The derivative with respect to value_coef is 0 where actor and critic share no weights, unless the outer
        loss has a value term (without outer critic) or values are matched; that to clip_eps where an update is
        one step.
    Step metrics: the loss terms of the updates, `meta_loss`, `meta_grad_norm`, the mean `tuned_<name>` before the
        meta-step, the mean `reward` a step, and mean return and length of the episodes that ended in its updates.
    """
    fixed = _fixed(tuned, options)
    if differentiation != "first_order":
        check_differentiable(optimizer(1e-3))
    bootstrapped = objective == "bootstrapped"
    _check(objective, tuned, surrogate, outer_surrogate, num_epochs * num_minibatches)
    policy_of = (lambda h: policy) if isinstance(policy, Policy) else policy
    if recent and not isinstance(policy, Policy):
        raise ValueError(f"recent = {recent}: needs a policy that is not a function of the hyperparameters")
    schedule = reactive(tuned, recent, meta_hidden) if recent else constant(tuned)
    made = policy_of({**fixed, **squash(unconstrained(tuned), tuned)})
    if made.value is None or made.step is not None:
        what = (
            "has no critic, which the updates need" if made.value is None else "has a memory, which streams would cut"
        )
        raise ValueError(f"policy: {what}; use mlp_policy(env, critic=True)")
    repeats: dict[str, Any] = {"num_epochs": num_epochs, "num_minibatches": num_minibatches}
    outer_options: dict[str, Any] = {
        "gamma": outer_gamma,
        "gae_lambda": outer_gae_lambda,
        "value_coef": outer_value_coef,
        "entropy_coef": outer_entropy_coef,
        "normalize_advantage": outer_normalize_advantage,
        "num_epochs": 1,
        "num_minibatches": 1,
    }

    def learner_of(h: dict[str, Any], policy: Policy) -> Learner:
        named = {**fixed, **h}
        base = losses.surrogate(surrogate, clip_eps=named.pop("clip_eps"))
        weight, step_size = named.pop("policy_coef"), named.pop("lr")
        return learners.ppo(
            policy,
            surrogate=lambda log_prob, batch: weight * base(log_prob, batch),
            optimizer=optimizer(step_size),
            **repeats,
            **named,
        )

    def learner_at(x: Any, policy: Policy) -> Callable[[Any], Learner]:
        return lambda seen: learner_of(schedule.at(x, seen), policy)

    def outer_policy_of(policy: Policy) -> Policy:
        return policy if outer_critic is None else outer_critic.of(policy)

    def outer_learner_of(h: dict[str, Any], policy: Policy) -> Learner:
        step, bound = optimizer({**fixed, **h}["lr"]), fixed.get("max_grad_norm")
        own = outer_policy_of(policy)
        return learners.ppo(own, surrogate=outer_surrogate, optimizer=step, max_grad_norm=bound, **outer_options)

    def critic_learner_of(policy: Policy) -> Learner | None:
        return None if outer_critic is None else outer_critic.learner(policy, **{**outer_options, **repeats})

    def init(key: jax.Array) -> MetaGradientState:
        x = schedule.init(jax.random.fold_in(key, 2))  # `born` splits the key in two, which are 0 and 1
        policy = policy_of({**fixed, **squash(unconstrained(tuned), tuned)})
        learner, critic = learner_at(x, policy), critic_learner_of(policy)
        agent = born(env, task, policy, learner, critic, key, num_envs, recent)
        return MetaGradientState(agent.learner, agent.envs, agent.critic_state, x, meta_optimizer.init(x), agent.recent)

    def collect(state: MetaGradientState, key: jax.Array) -> tuple[Segment, MetaGradientState, Metrics]:
        x = jax.lax.stop_gradient(state.meta)
        h = schedule.at(x, state.recent)
        policy = policy_of({**fixed, **h})
        act = acting(env, policy, task, num_steps, num_envs)
        act_key, update_key, outer_key = jax.random.split(key, 3)
        count = num_inner_steps + (num_target_steps - 1 if bootstrapped else 0)
        keys = (jax.random.split(act_key, count), jax.random.split(update_key, count))
        agent = Agent(state.learner, state.critic_state, state.envs, state.recent)
        lived, agent, metrics = live(act, learner_at(x, policy), critic_learner_of(policy), agent, keys)
        by_update = (lived.rollouts, lived.params, lived.keys, lived.recent)
        first = jax.tree.map(lambda leaf: leaf[:num_inner_steps], by_update)  # further ones only lead to the target

        act_key, update_key = jax.random.split(outer_key) if bootstrapped else (outer_key, outer_key)
        outer = outer_learner_of(schedule.at(x, agent.recent), policy)
        seen, envs = act(agent.learner.params, act_key, agent.envs)
        judge: Any = outer.prepare(agent.learner, seen)
        if bootstrapped:
            target = outer.update(agent.learner, update_key, judge)[0].params
            value = policy.value(target, seen.observation) if policy.value is not None else None
            leaves = tuple(jax.tree.leaves(policy.apply(target, seen.observation)))
            mask = seen.mask if matched is None else seen.mask * matched(seen)
            judge = Target(seen.observation, mask, leaves, value)
        rollouts, params, keys, recents = first
        segment = Segment(lived.start, rollouts, params, keys, recents, judge, h)
        after = dataclasses.replace(
            state, learner=agent.learner, envs=envs, critic_state=agent.critic_state, recent=agent.recent
        )
        used = h if lived.recent is None else jax.vmap(lambda seen: schedule.at(x, seen))(lived.recent)
        metrics = {**tree.tree_mean(metrics), **completed(lived.rollouts)}
        metrics |= {f"tuned_{name}": jnp.mean(value) for name, value in used.items()}
        metrics["reward"] = jnp.mean(lived.rollouts.reward)
        metrics["faulty_step"] = first_fault(jax.vmap(faulty_steps)(lived.rollouts), faulty_steps(seen))
        return jax.lax.stop_gradient((segment, after, metrics))

    def adapted(x: Any, segment: Segment) -> LearnerState:
        policy = policy_of({**fixed, **segment.rule})
        return relive(learner_at(x, policy), segment, differentiation)[0]

    def meta_loss(x: Any, segment: Segment) -> jax.Array:
        params = adapted(x, segment).params
        policy = policy_of({**fixed, **segment.rule})
        judge = segment.outer
        if bootstrapped:
            loss = losses.kl_divergence(judge.distribution, policy.apply(params, judge.observation), judge.mask)
            if policy.value is not None and not _is_zero(value_matching_coef):
                error = losses.value_loss(policy.value(params, judge.observation), judge.value, judge.mask)
                loss = loss + value_matching_coef * error
            return loss
        return learners.actor_critic_loss(
            outer_policy_of(policy),
            losses.surrogate(outer_surrogate),
            value_coef=outer_value_coef,
            entropy_coef=outer_entropy_coef,
            use_entropy=not _is_zero(outer_entropy_coef),
        )(params, judge)[0]

    meta_optimizer = optax.adam(meta_lr)
    if meta_max_grad_norm is not None:
        meta_optimizer = optax.chain(tree.clip_by_global_norm(meta_max_grad_norm), meta_optimizer)

    def step(state: MetaGradientState, key: jax.Array) -> tuple[MetaGradientState, Metrics]:
        segment, after, metrics = collect(state, key)
        loss, grads = jax.value_and_grad(meta_loss)(state.meta, segment)
        x, meta_state = tree.optimizer_step(meta_optimizer, grads, state.meta_state, state.meta)
        finite: dict[str, Any] = {
            **environment_metrics(metrics["faulty_step"])[0],
            "loss": {"agent": jnp.isfinite(metrics["loss"]), "meta": jnp.isfinite(loss)},
            "gradient": tree.finite(grads),
            "params": {"agent": tree.finite(after.learner.params), "meta": tree.finite(x)},
        }
        metrics |= {"meta_loss": loss, "meta_grad_norm": jnp.asarray(tree.global_norm(grads)), "finite": finite}
        return dataclasses.replace(after, meta=x, meta_state=meta_state), metrics

    return MetaGradientRL(init, step, collect, adapted, meta_loss)


def _fixed(tuned: Mapping[str, Tuned], options: dict[str, Any]) -> dict[str, Any]:
    """The values of what is not tuned, and the other options of `learners.ppo`."""
    for name in tuned:
        if name not in DEFAULTS:
            raise ValueError(f"tuned = {name!r}: must be one of {', '.join(DEFAULTS)}")
        if name in options:
            raise ValueError(f"{name} = {options[name]}: is tuned, so its start says what it is; leave it out")
    taken = ("baseline", "adapts", "proximal_coef", "num_microbatches", "dice_lambda")
    for name in taken:
        if name in options:
            raise ValueError(f"{name}: not an option of meta_gradient_rl")
    return {**{name: value for name, value in DEFAULTS.items() if name not in tuned}, **options}


def _check(objective: str, tuned: Mapping[str, Tuned], surrogate: Any, outer: Any, num_steps: int) -> None:
    if objective not in OBJECTIVES:
        raise ValueError(f"objective = {objective!r}: must be one of {', '.join(OBJECTIVES)}")
    if isinstance(surrogate, str) and surrogate not in SURROGATES:
        raise ValueError(f"surrogate = {surrogate!r}: must be one of {', '.join(SURROGATES)}, or a function")
    if isinstance(outer, str) and outer not in SURROGATES[:2]:
        raise ValueError(f"outer_surrogate = {outer!r}: must be one of {', '.join(SURROGATES[:2])}, or a function")
    if "clip_eps" in tuned and surrogate != "smooth_ppo":
        raise ValueError(
            f"tuned = 'clip_eps' with surrogate {surrogate!r}: its derivative is 0 almost everywhere; use 'smooth_ppo'"
        )
    if surrogate == "vpg" and num_steps > 1:
        raise ValueError(f"surrogate = 'vpg': has no ratio, so an update must be one step, not {num_steps}; use 'ppo'")


def _is_zero(x: Float) -> bool:
    return tree.known_value(x) == 0
