"""An agent's life under a learned rule: updates made while it acts, and the same updates replayed under another rule.

A *rule* is what an agent learns by, as numbers eta: hyperparameters, a reward, a network that is the update. `live`
acts, learns, acts, learns ... and stores what it saw, a `Segment` of K updates; `replay` makes those updates again on
what was stored, a deterministic function of eta that meta-gradients pass through. The agent goes on from where it is,
so that a life is many segments long; `lives` are whole ones, for those who only want to see how they went.

What an agent learns by may depend on what it lately earned: then it is not a `Learner` but a function
`recent` [R] -> Learner of the mean rewards of its last R rollouts, the newest last, that of this update included.

Shapes: K updates, T steps, B environments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax import tree
from metarl_jax.meta import adaptation
from metarl_jax.rl import learners, normalize
from metarl_jax.rl.rollout import EnvCarry, episode_returns, faulty_steps, first_fault, reset, rollout
from metarl_jax.types import Learner, LearnerState, Metrics, Params, Policy, Rollout, Task

Float = float | jax.Array


class Rule(NamedTuple):
    """What agents learn by, as numbers eta.

    Attributes:
      init: key -> eta.
      learner: eta -> how agents learn, differentiable in eta in `prepare` and `update`.
      policy: that of its agents.
      penalty: (params, batch) -> [], added to the meta-loss for every update; None: nothing is.
    """

    init: Callable[[jax.Array], Params]
    learner: Callable[[Params], Learner]
    policy: Policy
    penalty: Callable[[Params, Any], jax.Array] | None = None


class OuterCritic(NamedTuple):
    """A value function of the outer discount, on the agent's parameters.

    It is learned in the epochs and minibatches of the updates, unless it is exact or learned elsewhere.
    """

    value: Callable[[Params, jax.Array], jax.Array]  # params, observation [..., obs] -> [...]
    learns: tuple[str, ...] = ()  # names of the parameters that are its own; none: it is exact, or learned elsewhere
    lr: Float = 1e-3  # Adam's step size

    def of(self, policy: Policy) -> Policy:
        """`policy` with this critic in the place of its own."""
        return policy._replace(value=self.value, joint=None)

    def learner(self, policy: Policy, **options: Any) -> Learner | None:
        """What fits it to the same data, or None if nothing of it learns; options of `learners.ppo`."""
        if not self.learns:
            return None
        values = {"value_coef": 1.0, "entropy_coef": 0.0, "normalize_advantage": False}
        return learners.ppo(
            self.of(policy),
            surrogate=lambda log_prob, batch: jnp.zeros((), log_prob.dtype),
            optimizer=learners.adam(self.lr),
            adapts=self.learns,
            **{**options, **values},
        )


def with_outer_critic(policy: Policy, network: Policy, lr: Float = 1e-3) -> tuple[Policy, OuterCritic]:
    """`policy` with an outer critic beside its own: the critic of `network`, as `mlp_policy(critic=True)` makes it."""

    def init(key: jax.Array) -> Params:
        own, outer = jax.random.split(key)
        return {**policy.init(own), "outer_critic": network.init(outer)["critic"]}

    def value(params: Params, observation: jax.Array) -> jax.Array:
        assert network.value is not None
        return network.value({**params, "critic": params["outer_critic"]}, observation)

    return policy._replace(init=init), OuterCritic(value, ("outer_critic",), lr)


@struct.dataclass
class Agent:
    """An agent in the midst of its life."""

    learner: LearnerState  # its parameters and optimiser
    critic_state: Any  # of the outer critic's optimiser
    envs: EnvCarry  # where its environments stand
    recent: jax.Array | None = None  # [R] mean rewards of the last R rollouts, 0 for those that have not been


@struct.dataclass
class Segment:
    """K updates of an agent, as data: they can be made again under another rule, and judged."""

    start: LearnerState  # the agent before them
    rollouts: Rollout  # [K, T, B, ...] what each update saw
    params: Params  # [K, ...] the agent that acted, whose values stay the baseline and bootstrap
    keys: jax.Array  # [K] minibatch shuffles
    recent: jax.Array | None = None  # [K, R] mean rewards that each update knew of
    outer: Any = None  # what judges the agent after them
    rule: Any = None  # what they were lived under, where the policy depends on it


Act = Callable[[Params, jax.Array, EnvCarry], tuple[Rollout, EnvCarry]]
LearnerOf = Learner | Callable[[Any], Learner]


def knowing(learner: LearnerOf, recent: jax.Array | None) -> Learner:
    """The learner of an agent that lately earned `recent` [R], or None: it is not asked."""
    return learner if isinstance(learner, Learner) else learner(recent)


def acting(env: Any, policy: Policy, task: Task, num_steps: int, num_envs: int) -> Act:
    """(params, key, envs) -> (rollout [T, B], envs), in environments that reset themselves and go on."""

    def act(params: Params, key: jax.Array, envs: EnvCarry) -> tuple[Rollout, EnvCarry]:
        sizes: dict[str, Any] = {"num_steps": num_steps, "num_envs": num_envs, "auto_reset": True}
        return rollout(env, policy.apply, params, key, task, envs, **sizes)

    return act


def init_agent(
    env: Any,
    task: Task,
    policy: Policy,
    learner: LearnerOf,
    critic: Learner | None,
    key: jax.Array,
    num_envs: int,
    num_recent: int = 0,
) -> Agent:
    """A new agent at the start of its life in `task`; `critic` is `OuterCritic.learner`, `num_recent` is R.

    Raises: ValueError for a policy with statistics of rewards: what an agent makes of them is the rule's affair.
    """
    params_key, env_key = jax.random.split(key)
    recent = jnp.zeros(num_recent) if num_recent else None
    params = policy.init(params_key)
    if normalize.scale_of_rewards(params) is not None:
        raise ValueError(
            "normalize_rewards = True: is not for agents with a learned rule, which reads rewards; leave it out"
        )
    agent = knowing(learner, recent).init(params)
    critic_state = () if critic is None else critic.init(agent.params).opt_state
    return Agent(agent, critic_state, reset(env, env_key, task, num_envs), recent)


def live(
    act: Act, learner: LearnerOf, critic: Learner | None, agent: Agent, keys: tuple[jax.Array, jax.Array]
) -> tuple[Segment, Agent, Metrics]:
    """Act, update, act, update ...: K updates, with `keys` ([K] of acting, [K] of updating).

    Running statistics among an agent's parameters (`rl.normalize`) take in what it saw, after each update.

    Returns: the Segment, the agent after it, and the metrics of the updates, leaves [K].
    """

    def update(now: Agent, keys: tuple) -> tuple[Agent, Any]:
        agent = now.learner
        data, envs = act(agent.params, keys[0], now.envs)
        recent = None if now.recent is None else jnp.append(now.recent, jnp.mean(data.reward))[1:]
        own = knowing(learner, recent)
        learned, metrics = own.update(agent, keys[1], own.prepare(agent, data))
        critic_state = now.critic_state
        if critic is not None:
            values, _ = critic.update(LearnerState(learned.params, critic_state), keys[1], critic.prepare(agent, data))
            learned, critic_state = LearnerState(values.params, learned.opt_state), values.opt_state
        learned = _having_seen(agent, learned, data)
        return Agent(learned, critic_state, envs, recent), (data, agent.params, recent, metrics)

    after, (data, params, recent, metrics) = jax.lax.scan(update, agent, keys)
    return Segment(agent.learner, data, params, keys[1], recent), after, metrics


def _having_seen(before: LearnerState, after: LearnerState, data: Rollout) -> LearnerState:
    """The agent after an update, with what the update saw in its statistics."""
    return LearnerState(normalize.fold(before.params, after.params, data), after.opt_state, after.memory)


def replay(
    learner: LearnerOf, segment: Segment, differentiation: str = "mixed", observe: adaptation.Observe | None = None
) -> tuple[LearnerState, Any]:
    """The K updates made again by `learner`, and what `observe` saw before each of them, leaves [K, ...].

    Differentiable in whatever `learner` is made of. Data, values, bootstraps and recent rewards are those that were
    stored; the outer critic stays where it was.
    """

    def experience(state: LearnerState, data: tuple) -> tuple[Any, Any]:
        seen, params, recent = data
        batch = knowing(learner, recent).prepare(LearnerState(params, None), seen)
        return (recent, batch, seen), None if observe is None else observe(state.params, batch)

    def update(state: LearnerState, key: jax.Array, data: tuple) -> LearnerState:
        recent, batch, seen = data
        own = knowing(learner, recent)
        if differentiation != "first_order" and own.check_second_order is not None:
            own.check_second_order()
        return _having_seen(state, own.update(state, key, batch, differentiation)[0], seen)

    stored = (segment.rollouts, segment.params, segment.recent)
    return adaptation.unroll(update, segment.start, segment.keys, stored, experience)


class Lives(NamedTuple):
    """Whole lives under a rule, as `evaluation.adaptation_curve` takes them."""

    # (eta, key, task, num_updates=S) -> first faulty steps of the environment, scores [S + 1, E]
    collect: Callable[..., tuple[dict[str, jax.Array], jax.Array]]


def lives(
    env: Any,
    rule: Rule,
    *,
    lifetime: int,
    num_steps: int,
    num_envs: int,
    num_episodes: int,
    horizon: int,
) -> Lives:
    """Undiscounted returns of new agents: at birth, and after each of S stages of `lifetime` / S updates.

    The E = `num_episodes` episodes that score a stage, of `horizon` steps at most, are not learned from; those of an
    agent whose parameters are not finite count as NaN.
    Raises: ValueError where S does not divide the lifetime.
    """

    def collect(eta: Params, key: jax.Array, task: Task, num_updates: int) -> tuple[dict[str, jax.Array], jax.Array]:
        if num_updates and lifetime % num_updates:
            raise ValueError(f"num_updates = {num_updates}: must divide the lifetime of {lifetime} updates evenly")
        init_key, live_key, test_key = jax.random.split(key, 3)
        learner = rule.learner(eta)
        act = acting(env, rule.policy, task, num_steps, num_envs)

        def test(agent: Agent, i: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            k = jax.random.fold_in(test_key, i)
            sizes: dict[str, Any] = {"num_steps": horizon, "num_envs": num_episodes}
            params = agent.learner.params
            seen, _ = rollout(env, rule.policy.apply, params, k, task, **sizes)
            is_alive = jnp.all(jnp.asarray(jax.tree.leaves(tree.finite(params))))  # NaN logits too choose some action
            return jnp.where(is_alive, episode_returns(seen), jnp.nan), faulty_steps(seen)

        def stage(agent: Agent, i: jax.Array) -> tuple[Agent, tuple[jax.Array, dict[str, jax.Array]]]:
            keys = jax.random.split(jax.random.fold_in(live_key, i), (2, lifetime // max(num_updates, 1)))
            lived, agent, _ = live(act, learner, None, agent, (keys[0], keys[1]))
            scores, faults = test(agent, i + 1)
            return agent, (scores, first_fault(jax.vmap(faulty_steps)(lived.rollouts), faults))

        agent = init_agent(env, task, rule.policy, learner, None, init_key, num_envs)
        first, faults = test(agent, 0)
        _, (later, more) = jax.lax.scan(stage, agent, jnp.arange(num_updates))
        if num_updates:
            faults = first_fault(faults, more)
        return faults, jnp.concatenate([first[None], later])

    return Lives(collect)
