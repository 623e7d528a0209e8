"""Online meta-gradients of hyperparameters: one agent that tunes gamma, lambda, step sizes and weights as it learns.

Hyperparameters h(x) are squashed from unconstrained meta-parameters x (`hyperparameters`): numbers, or with `recent`
what a network makes of the rewards of the last rollouts. One iteration makes K actor-critic or PPO updates,
theta' = U_K(... U_1(theta; tau_1, h) ...; tau_K, h), judges theta' on fresh data, and takes an Adam step of x on the
gradient through those updates. The agent goes on from theta': it never restarts.

* `gradient`, meta-gradients (Xu et al. 2018, eq. 5; several coefficients at once: STACX, Zahavy et al. 2020):
  L_outer(theta'; tau') = -mean log pi(a|s) A' + value and entropy terms, with fixed gamma' and lambda' in A'.
* `bootstrapped` (BMG, Flennerhag et al. 2022, eq. 4): from theta' L more updates, the last on L_outer and those before
  it with h, give a target theta~; then KL(pi_theta~ || pi_theta') + c mean (V_theta~ - V_theta')^2 / 2 on the states
  of the last update. The agent goes on from the last update with h.

With an *outer critic* A' comes from a value function of gamma' itself, learned beside the agent's own, whose values
are of the tuned gamma and bias A' towards short horizons (Bonnet et al. 2022).
Shapes: K inner updates, T steps, B environments.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from flax import struct
from pydantic import Field

from metarl_jax import tree
from metarl_jax.algorithms.interface import Entry, Job, RunOptions
from metarl_jax.algorithms.single_task_family import on_one_task, the_task
from metarl_jax.gradient import check_differentiable
from metarl_jax.meta.hyperparameters import Tuned, constant, reactive, squash, unconstrained
from metarl_jax.networks import build_policy, network_part
from metarl_jax.options import (
    ConfigError,
    Count,
    Float,
    NonNegative,
    Part,
    Positive,
    Rate,
    Unit,
    Widths,
    configuration,
    is_zero,
    options_of,
    suggest,
    takes_options,
)
from metarl_jax.rl import learners, losses
from metarl_jax.rl.normalize import SEEN_NORMALIZED
from metarl_jax.rl.rollout import EnvCarry, completed, environment_metrics, faulty_steps, first_fault
from metarl_jax.types import Learner, LearnerState, Metrics, Policy, Rollout, Task
from metarl_jax.update_rules.lifetimes import (
    Agent,
    OuterCritic,
    Segment,
    acting,
    init_agent,
    live,
    replay,
    with_outer_critic,
)

OUTER_SURROGATES = ("vpg", "lvc")  # it judges on data of the adapted agent, where the others are one of these
UP_TO_1 = ("gamma", "gae_lambda", "clip_eps")  # others have no upper end unless a range says so
TunedName = Literal["gamma", "gae_lambda", "lr", "entropy_coef", "value_coef", "policy_coef", "clip_eps"]
TUNABLE: tuple[str, ...] = get_args(TunedName)
SET_HERE = (
    "optimizer", "baseline", "adapts", "proximal_coef", "dice_lambda", "target_return", "reward_scale",
    "normalize_task_rewards",
)  # fmt: skip
FOR_LIBRARY_USE = (  # no keys of the configuration
    "outer_value_coef", "outer_normalize_advantage", "outer_surrogate", "value_matching_coef",
)  # fmt: skip


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


@takes_options(learners.ppo, without=SET_HERE)
def meta_gradient_rl(
    env: Any,
    task: Task,
    policy: Policy | Callable[[dict[str, Any]], Policy],
    tuned: Mapping[str, Tuned],
    *,
    objective: Annotated[Literal["gradient", "bootstrapped"], "MG, or BMG: match a later self"] = "gradient",
    num_inner_steps: Annotated[Positive, "updates K that the meta-gradient goes through"] = 1,
    num_target_steps: Annotated[Positive, "bootstrapped: further updates L to the target"] = 1,
    outer_critic: OuterCritic | None = None,
    recent: Annotated[Count, "a network of the mean rewards of so many rollouts tunes; 0: numbers do"] = 0,
    meta_hidden: Annotated[Widths, "recent > 0: hidden layer widths of that network"] = (32,),
    meta_lr: Annotated[Rate, "Adam step size of the unconstrained hyperparameters"] = 3e-3,
    meta_max_grad_norm: Annotated[Rate | None, "bound on the norm of the meta-gradient; null: none"] = 0.1,
    num_envs: Annotated[Positive, "parallel environments"] = 16,
    num_steps: Annotated[Positive, "steps of each environment an update"] = 32,
    surrogate: Annotated[learners.SurrogateName, "surrogate of the updates; vpg: A2C"] = "vpg",
    num_epochs: Annotated[Positive, "passes over the data an update"] = 1,
    num_minibatches: Annotated[Positive, "parts of each pass; must divide num_envs x num_steps"] = 1,
    gamma: Annotated[Unit, "discount"] = 0.99,
    gae_lambda: Annotated[Unit, "lambda of generalised advantage estimation"] = 0.95,
    lr: Annotated[Rate, "Adam step size of the agent"] = 1e-3,
    entropy_coef: Annotated[NonNegative, "weight of the entropy bonus"] = 0.01,
    value_coef: Annotated[NonNegative, "weight of the critic's loss"] = 0.5,
    policy_coef: Annotated[Rate, "weight of the surrogate"] = 1.0,
    clip_eps: Annotated[Rate, "clip of the likelihood ratio (ppo, smooth_ppo)"] = 0.2,
    max_grad_norm: Annotated[Rate | None, "bound on the norm of a gradient; null: none"] = 0.5,
    optimizer: Callable[[Float], optax.GradientTransformation] = learners.adam,
    outer_gamma: Annotated[Unit, "discount of the outer loss, fixed"] = 0.99,
    outer_gae_lambda: Annotated[Unit, "lambda of the outer loss, fixed"] = 0.95,
    outer_value_coef: Annotated[NonNegative, "weight of the outer critic loss"] = 0.0,
    outer_entropy_coef: Annotated[NonNegative, "weight of the outer entropy bonus"] = 0.0,
    outer_normalize_advantage: Annotated[bool, "standardise the outer advantages"] = False,
    outer_surrogate: Annotated[learners.SurrogateName, "surrogate of the outer loss: vpg or lvc"] = "vpg",
    value_matching_coef: Annotated[NonNegative, "bootstrapped: weight of matching the target's values"] = 0.0,
    matched: Callable[[Rollout], jax.Array] | None = None,
    differentiation: str = "mixed",
    **options: Any,
) -> MetaGradientRL:
    r"""One agent that tunes its own hyperparameters online, by gradients through K = `num_inner_steps` of its updates.

    .. math:: g = \nabla_x L_{\text{outer}}(U_K(\cdots U_1(\theta; \tau_1, h(x)) \cdots; \tau_K, h(x)))

    Args:
        task: the one task; its environments reset themselves and go on from iteration to iteration.
        policy: with a critic; or a function of the hyperparameters (those of `TUNABLE`, constants to it) that makes
            one, where values are conditioned on gamma. Its parameters must not depend on them.
        tuned: names to start and range. The others are fixed at their defaults, or by `options`.
        objective: "gradient" or "bootstrapped"; `num_target_steps` is the L of the latter, `value_matching_coef` its c,
            and `matched` (rollout -> [T, B] of 0 and 1) says on which states it matches (None: all).
        recent: R > 0: the hyperparameters of an update are an MLP, of `meta_hidden` units, of the mean rewards of the
            agent's last R rollouts, its own included. 0: they are numbers.
        surrogate: "vpg" (actor-critic), "lvc", "ppo", "smooth_ppo", "dpo", or a function (log_prob, batch) -> loss;
            `outer_surrogate` is "vpg", "lvc" or a function.
        optimizer: step size -> optimiser of the agent, differentiable (`learners.adam`, `learners.sgd`).
    Raises: ValueError for names that cannot be tuned or are given twice; `clip_eps` without "smooth_ppo" (its
        derivative is 0 almost everywhere); "vpg" updates of more than one step; an unknown objective; no critic.
    Not differentiated: samples, values and bootstraps of all advantages, A' altogether, the target of BMG.
        The derivative with respect to value_coef is 0 where actor and critic share no weights, unless the outer
        loss has a value term (without outer critic) or values are matched; that to clip_eps where an update is
        one step.
    Step metrics: the loss terms of the updates, `meta_loss`, `meta_grad_norm`, the mean `tuned_<name>` before the
        meta-step, the mean `reward` a step, and mean return and length of the episodes that ended in its updates.
    """
    numbers: dict[str, Any] = {
        "gamma": gamma, "gae_lambda": gae_lambda, "lr": lr, "entropy_coef": entropy_coef, "value_coef": value_coef,
        "policy_coef": policy_coef, "clip_eps": clip_eps,
    }  # fmt: skip
    _check_tuned(tuned, numbers, surrogate)
    _check_surrogates(surrogate, outer_surrogate, num_epochs * num_minibatches)
    outer_needs_time = losses.spec_of(outer_surrogate).needs_time
    fixed: dict[str, Any] = {name: value for name, value in numbers.items() if name not in tuned}
    fixed |= {"max_grad_norm": max_grad_norm, **options}
    if differentiation != "first_order":
        check_differentiable(optimizer(1e-3))
    bootstrapped = objective == "bootstrapped"
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
        x = schedule.init(jax.random.fold_in(key, 2))  # `init_agent` splits the key in two, which are 0 and 1
        policy = policy_of({**fixed, **squash(unconstrained(tuned), tuned)})
        learner, critic = learner_at(x, policy), critic_learner_of(policy)
        agent = init_agent(env, task, policy, learner, critic, key, num_envs, recent)
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
        return replay(learner_at(x, policy), segment, differentiation)[0]

    def meta_loss(x: Any, segment: Segment) -> jax.Array:
        params = adapted(x, segment).params
        policy = policy_of({**fixed, **segment.rule})
        judge = segment.outer if outer_needs_time else tree.one_row(segment.outer)
        if bootstrapped:
            loss = losses.kl_divergence(judge.distribution, policy.apply(params, judge.observation), judge.mask)
            if policy.value is not None and not is_zero(value_matching_coef):
                error = losses.value_loss(policy.value(params, judge.observation), judge.value, judge.mask)
                loss = loss + value_matching_coef * error
            return loss
        return learners.actor_critic_loss(
            outer_policy_of(policy),
            losses.surrogate(outer_surrogate),
            value_coef=outer_value_coef,
            entropy_coef=outer_entropy_coef,
            use_entropy=not is_zero(outer_entropy_coef),
            needs_time=outer_needs_time,
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


def _check_tuned(tuned: Mapping[str, Tuned], numbers: dict[str, Any], surrogate: Any) -> None:
    """Raises: ValueError for what cannot be tuned, or is given a value beside its start."""
    for name in tuned:
        if name not in TUNABLE:
            raise ValueError(f"tuned = {name!r}: must be one of {', '.join(TUNABLE)}{suggest(name, TUNABLE)}")
        if numbers[name] is not inspect.signature(meta_gradient_rl).parameters[name].default:
            raise ValueError(f"{name} = {numbers[name]}: is tuned, so its start says what it is; leave it out")
    if "clip_eps" in tuned and surrogate != "smooth_ppo":
        raise ValueError(
            f"tuned = clip_eps with surrogate = {surrogate}: its derivative is 0 almost everywhere; use smooth_ppo"
        )


def _check_surrogates(surrogate: Any, outer: Any, num_steps: int) -> None:
    """Raises: ValueError for surrogates that do not fit streams, updates of several steps, or the outer loss."""
    spec = losses.spec_of(surrogate)
    if spec.needs_time:
        fitting = ", ".join(losses.surrogate_names(needs_time=False))
        raise ValueError(f"surrogate = {surrogate}: must be one of {fitting}, as streams cut episodes")
    if spec.on_policy and num_steps > 1:
        raise ValueError(
            f"surrogate = {surrogate}: has no ratio, so an update must be one step, not {num_steps}; use ppo"
        )
    if isinstance(outer, str) and outer not in OUTER_SURROGATES:
        raise ValueError(f"outer_surrogate = {outer!r}: must be one of {', '.join(OUTER_SURROGATES)}, or a function")


# --- as a configuration ---------------------------------------------------------------------------------

OPTIONS = Part(meta_gradient_rl, [name for name in options_of(meta_gradient_rl) if name not in FOR_LIBRARY_USE])


def build(c: Any, env: Any, tasks: Any, evaluation: bool) -> Job:
    """An agent that tunes its hyperparameters, on the task that `task_seed` names."""
    network = SEEN_NORMALIZED(c, build_policy(c, env, critic=True), env)
    policy, critic = with_outer_critic(network, network, lr=c.lr) if c.outer_critic else (network, None)
    unused = next((name for name in c.ranges if name not in c.tune), None)
    if unused is not None:
        raise ConfigError(f"ranges = {unused}: is not in tune = {list(c.tune)}")
    tuned = {name: Tuned(getattr(c, name), *_range(c, name)) for name in c.tune}
    fixed = {name: value for name, value in OPTIONS.values(c).items() if name not in tuned}
    algorithm = meta_gradient_rl(env, the_task(c, tasks), policy, tuned, outer_critic=critic, **fixed)
    rollouts = c.num_inner_steps + (c.num_target_steps if c.objective == "bootstrapped" else 1)
    return on_one_task(c, algorithm, env, tasks, policy, work_per_iteration=rollouts * c.num_envs * c.num_steps)


def _range(c: Any, name: str) -> tuple[float, float | None]:
    limits = c.ranges.get(name, [0.0, 1.0 if name in UP_TO_1 else None])
    if len(limits) != 2 or limits[0] is None:
        raise ConfigError(f"ranges.{name} = {limits}: must be [low, high], high null for none")
    return limits[0], limits[1]


def _tuning(
    tune: Annotated[Sequence[TunedName], "what is tuned, from its value here"] = (
        "gamma",
        "gae_lambda",
        "entropy_coef",
        "lr",
    ),  # fmt: skip
    ranges: Annotated[
        dict[TunedName, Sequence[float | None]],
        "[low, high] of what is tuned, high null: none; default [0, 1] for gamma, gae_lambda, clip_eps",
    ] = {},  # noqa: B006 (never changed)
    outer_critic: Annotated[bool, "learn the values of outer_gamma beside the agent's own"] = True,
) -> None:
    """Keys of the configuration alone: in Python they are `tuned` and an `OuterCritic`."""


class MetaGradientRunOptions(RunOptions):
    """Keys of a run on one task."""

    eval_tasks: Annotated[Positive, Field(le=1)] = Field(1, description="1: the task it was trained on")
    eval_episodes: Positive = Field(100, description="evaluation episodes")
    anneal_lr: Literal[False] = Field(False, description="false: the step size is tuned or constant")


ABOUT = "One agent that tunes its own hyperparameters online by meta-gradients (MG, STACX, BMG), on one environment."
PARTS = (*network_part(), SEEN_NORMALIZED, Part(_tuning), OPTIONS)
ENTRY = Entry(configuration("meta_gradient_rl_options", ABOUT, MetaGradientRunOptions, *PARTS), build)
