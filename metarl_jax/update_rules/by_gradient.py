"""Learning rules by meta-gradients: a population of agents, each in the midst of a life of its own.

One iteration, for each agent: K updates by the rule eta, theta' = U_K(... U_1(theta; eta) ...; eta), then a rollout of
theta' that judges it: L(theta') = -mean log pi_theta'(a|s) A + what the rule adds. The gradient of L in eta passes
through the K updates (and stops there: what came before them is data); its mean over agents moves eta by Adam. Agents
go on from theta'. One whose life is over is replaced by a new one in a new task (Oh et al. 2020, algorithm 1), so that
a rule is judged at every age. A comes from the outer critic, a value function that each agent learns beside the rule.

Shapes: N agents, K updates, T steps, B environments.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from metarl_jax import sharing, tree
from metarl_jax.options import NonNegative, Positive, Rate, Unit, is_zero, takes_options
from metarl_jax.rl import learners, losses
from metarl_jax.rl.rollout import environment_metrics, faulty_steps, first_fault
from metarl_jax.types import LearnerState, Metrics, Params, Policy, Task
from metarl_jax.update_rules.lifetimes import Agent, Rule, Segment, acting, init_agent, live, replay, with_outer_critic


@struct.dataclass
class Population:
    """N agents, leaves [N, ...]."""

    agent: Agent
    task: Task
    age: jax.Array  # [N] updates made


@struct.dataclass
class RuleState:
    """The rule, its optimiser, and the agents that live by it."""

    params: Params  # eta
    opt_state: Any
    population: Population


class RuleLearner(NamedTuple):
    """An `Algorithm` that learns a rule, with the parts of its step open to use and to test."""

    init: Callable[[jax.Array], RuleState]
    step: Callable[[RuleState, jax.Array], tuple[RuleState, Metrics]]
    segment: Callable[..., tuple[Segment, Agent, Metrics]]  # (eta, agent, key, task): K updates, and the judge
    adapt: Callable[[Params, Segment], LearnerState]  # theta'(eta); deterministic and differentiable in eta
    meta_loss: Callable[[Params, Segment], jax.Array]


@takes_options()
def learn_rule(
    env: Any,
    tasks: Any,
    rule: Rule,
    critic: Policy,
    *,
    num_agents: Annotated[Positive, "agents that live at a time; evolution: tasks of a generation"] = 16,
    lifetime: Annotated[Positive | None, "updates until an agent is replaced; null: never"] = 100,
    num_inner_steps: Annotated[Positive, "gradient: updates K that the meta-gradient goes through"] = 5,
    num_envs: Annotated[Positive, "parallel environments of an agent"] = 16,
    num_steps: Annotated[Positive, "steps of each environment an update"] = 32,
    outer_lr: Annotated[Rate, "Adam step size of the rule"] = 1e-3,
    max_grad_norm: Annotated[Rate | None, "gradient: bound on the norm of the meta-gradient; null: none"] = 0.5,
    outer_gamma: Annotated[Unit, "gradient: discount of the meta-loss"] = 0.99,
    outer_gae_lambda: Annotated[Unit, "gradient: lambda of the meta-loss"] = 0.95,
    outer_entropy_coef: Annotated[NonNegative, "gradient: weight of the entropy bonus of the meta-loss"] = 0.0,
    outer_surrogate: str | losses.Surrogate = "vpg",
    critic_lr: Annotated[Rate, "gradient: step size of the critic that judges an agent"] = 1e-3,
    differentiation: str = "mixed",
    agents_per_batch: Annotated[
        Positive | None, "agents processed at a time; null: one on a CPU, all on an accelerator"
    ] = None,
) -> RuleLearner:
    r"""Learn `rule` on `tasks` by gradients through K = `num_inner_steps` updates of N = `num_agents` agents.

    .. math::

        g = \nabla_\eta \frac{1}{N} \sum_{i=1}^{N} L_{\text{outer}}
          \left( U_{\eta,K}(\cdots U_{\eta,1}(\theta_i) \cdots); \tau'_i \right)

    Adam moves eta along g; theta_i are the agents where they are in their lives.

    Args:
        tasks: `TaskDistribution`, or anything with `sample(key)` and `horizon`.
        critic: a policy with a critic, such as `mlp_policy(env, critic=True)`: each agent learns one like it, of the
            extrinsic reward, for the advantages of the meta-loss; step size `critic_lr`.
        lifetime: updates an agent makes before another takes its place; None: all live for ever. It has to be a
            multiple of K. At the start the agents' ages are spread evenly, so that they do not all end at once.
        outer_surrogate: "vpg", "lvc" or a function; its advantages are standardised for each agent.
        max_grad_norm: bound on the norm of the mean meta-gradient.
        agents_per_batch: agents processed at a time (None: one on a CPU, all on an accelerator).
    Raises: ValueError for a lifetime that is no multiple of K.
    Not differentiated: samples, what was stored of values, the outer advantages, what came before the segment.
    An agent whose meta-gradient is not finite is left out of the mean, counted (`num_diverged`) and replaced.
    Step metrics: loss, grad_norm, num_diverged; episode_return of all agents and late_return of those in the last
        quarter of their lives, means over the episodes that ended (infinite where none did); the updates' own,
        `agent_...`.
    """
    if lifetime is not None and lifetime % num_inner_steps:
        raise ValueError(f"lifetime = {lifetime}: must be a multiple of num_inner_steps = {num_inner_steps}")
    policy, outer_critic = with_outer_critic(rule.policy, critic, critic_lr)
    values: dict[str, Any] = {"gamma": outer_gamma, "gae_lambda": outer_gae_lambda}
    once: dict[str, Any] = {"num_epochs": 1, "num_minibatches": 1}
    judge = learners.ppo(outer_critic.of(policy), surrogate=outer_surrogate, **values, **once)
    values_learner = outer_critic.learner(policy, **values, **once)
    outer_loss = learners.actor_critic_loss(
        policy,
        losses.surrogate(outer_surrogate),
        entropy_coef=outer_entropy_coef,
        use_critic=False,
        use_entropy=not is_zero(outer_entropy_coef),
        needs_time=losses.spec_of(outer_surrogate).needs_time,
    )
    ends = jnp.iinfo(jnp.int32).max if lifetime is None else lifetime
    optimizer = optax.adam(outer_lr)
    if max_grad_norm is not None:
        optimizer = optax.chain(tree.clip_by_global_norm(max_grad_norm), optimizer)

    def newborn(eta: Params, key: jax.Array) -> tuple[Agent, Task]:
        task_key, init_key = jax.random.split(key)
        task = tasks.sample(task_key)
        return init_agent(env, task, policy, rule.learner(eta), values_learner, init_key, num_envs), task

    def segment(eta: Params, agent: Agent, key: jax.Array, task: Task) -> tuple[Segment, Agent, Metrics]:
        act_key, update_key, outer_key = jax.random.split(key, 3)
        keys = (jax.random.split(act_key, num_inner_steps), jax.random.split(update_key, num_inner_steps))
        act = acting(env, policy, task, num_steps, num_envs)
        lived, after, metrics = live(act, rule.learner(eta), values_learner, agent, keys)
        seen, envs = act(after.learner.params, outer_key, after.envs)
        lived = dataclasses.replace(lived, outer=judge.prepare(after.learner, seen))
        metrics["faulty_step"] = first_fault(jax.vmap(faulty_steps)(lived.rollouts), faulty_steps(seen))
        return jax.lax.stop_gradient((lived, dataclasses.replace(after, envs=envs), metrics))

    def replayed(eta: Params, segment: Segment) -> tuple[LearnerState, Any]:
        return replay(rule.learner(eta), segment, differentiation, rule.penalty)

    def meta_loss(eta: Params, segment: Segment) -> jax.Array:
        state, penalties = replayed(eta, segment)
        loss, _ = outer_loss(state.params, segment.outer)
        return loss if penalties is None else loss + jnp.mean(penalties)

    def init(key: jax.Array) -> RuleState:
        eta_key, agent_key = jax.random.split(key)
        eta = rule.init(eta_key)
        keys = jax.random.split(agent_key, num_agents)
        agents, task = tree.chunked_map(lambda k: newborn(eta, k), keys, agents_per_batch)
        segments = 1 if lifetime is None else lifetime // num_inner_steps
        age = jnp.arange(num_agents) * segments // num_agents * num_inner_steps
        return RuleState(eta, optimizer.init(eta), Population(agents, task, age))

    def step(state: RuleState, key: jax.Array) -> tuple[RuleState, Metrics]:
        eta = state.params

        def one(x: tuple[Population, jax.Array]) -> Any:
            now, key = x
            init_key, live_key = jax.random.split(key)
            agent, task, age = jax.lax.cond(
                now.age >= ends,
                lambda: (*newborn(eta, init_key), jnp.zeros_like(now.age)),
                lambda: (now.agent, now.task, now.age),
            )
            lived, after, metrics = segment(eta, agent, live_key, task)
            faults = metrics.pop("faulty_step")
            loss, grads = jax.value_and_grad(meta_loss)(eta, lived)
            ok = jnp.all(jnp.asarray(jax.tree.leaves(tree.finite((grads, after.learner.params)))))
            grads = jax.tree.map(lambda g: jnp.where(ok, g, jnp.zeros_like(g)), grads)
            late = lifetime is None or age + num_inner_steps > ends - ends // 4
            done = lived.rollouts.done
            total, count = jnp.sum(tree.masked(lived.rollouts.episode_return, done)), jnp.sum(done)
            total, count = tree.masked((total, count), jnp.isfinite(total))
            aged = jnp.where(ok, age + num_inner_steps, ends)
            of_late = tree.masked((total, count), jnp.asarray(late))
            sums = {"ok": ok, "total": total, "count": count, "late_total": of_late[0], "late_count": of_late[1]}
            return grads, Population(after, task, aged), jnp.where(ok, loss, 0.0), sums, tree.tree_mean(metrics), faults

        keys = jax.random.split(key, num_agents)
        grads, population, loss, sums, metrics, faults = sharing.map_tasks(
            one, (state.population, keys), agents_per_batch
        )
        total = jax.tree.map(jnp.sum, sums)
        share = num_agents / jnp.maximum(total["ok"], 1)  # a mean over the agents that count
        grads = jax.tree.map(lambda g: jnp.mean(g, axis=0) * share, grads)
        moved, opt_state = tree.optimizer_step(optimizer, grads, state.opt_state, eta)
        finite, faulty = environment_metrics(first_fault(faults))
        metrics = {f"agent_{name}": tree.finite_mean(value) for name, value in metrics.items()}
        metrics |= {
            "loss": jnp.mean(loss) * share,
            "grad_norm": tree.global_norm(grads),
            "num_diverged": num_agents - total["ok"],
            "episode_return": tree.mean_or_nothing(total["total"], total["count"]),
            "late_return": tree.mean_or_nothing(total["late_total"], total["late_count"]),
            "finite": {**finite, "params": tree.finite(moved)},
            "faulty_step": faulty,
        }
        return RuleState(moved, opt_state, population), metrics

    return RuleLearner(init, step, segment, lambda eta, s: replayed(eta, s)[0], meta_loss)
