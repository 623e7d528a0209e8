"""Learned intrinsic rewards: an agent maximises r + r_in(o, a; eta), and eta is moved so that r alone comes out higher.

LIRPG (Zheng et al. 2018): agents make PPO updates on the mixed reward c_ex r + c_in r_in; GAE is linear in it, so that
advantages, normalised or not, stay differentiable in eta, and so do the critic's targets. The meta-loss is of the
extrinsic reward alone, on data of the updated agent (the paper re-uses the data of the update). One agent that lives
for ever learns its own reward online, as in the paper; many with lifetimes learn one to hand on (Zheng et al. 2020).
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from metarl_jax import tree
from metarl_jax.algorithms.interface import Entry
from metarl_jax.algorithms.rule_family import beside, rival_step, rule_entry
from metarl_jax.envs.observations import features_of
from metarl_jax.networks import ENCODING, MLP, build_policy, encoder_of, network_part
from metarl_jax.networks.encoder import Activation
from metarl_jax.options import (
    NonNegative,
    Part,
    Positive,
    Rate,
    Widths,
    takes_options,
)
from metarl_jax.rl import learners
from metarl_jax.rl.normalize import SEEN_NORMALIZED
from metarl_jax.types import Learner, LearnerState, Params, Policy, Rollout
from metarl_jax.update_rules.lifetimes import Rule

NOT_IN_STREAMS = (  # options of whole episodes, and one that the outer critic's rewards would need too
    "baseline", "dice_lambda", "target_return", "num_microbatches", "reward_scale", "normalize_task_rewards",
)  # fmt: skip


@takes_options(learners.ppo, encoder_of, without=("adapts", "proximal_coef", "space", *NOT_IN_STREAMS))
def lirpg(
    env: Any,
    policy: Policy,
    lr: Annotated[Rate, "step size of the agents"] = 1e-3,
    *,
    reward_hidden: Annotated[Widths, "hidden layer widths of the learned reward"] = (64, 64),
    reward_activation: Annotated[Activation, "activation function of the learned reward"] = "tanh",
    intrinsic_coef: Annotated[NonNegative, "weight of the learned reward, which is between -1 and 1"] = 0.01,
    extrinsic_coef: Annotated[NonNegative, "weight of the environment's reward to the agents"] = 1.0,
    surrogate: Annotated[learners.SurrogateName, "surrogate of the updates; vpg: A2C"] = "ppo",
    num_epochs: Annotated[Positive, "passes over the data an update"] = 1,
    num_minibatches: Annotated[Positive, "parts of each pass; must divide num_envs x num_steps"] = 1,
    entropy_coef: Annotated[NonNegative, "weight of the entropy bonus of the agents"] = 0.01,
    max_grad_norm: Annotated[Rate | None, "bound on the norm of an agent's gradient; null: none"] = 0.5,
    optimizer: Annotated[learners.OptimizerName, "optimiser of the agents"] = "adam",
    **options: Any,
) -> Rule:
    r"""PPO on the environment's reward and a learned one.

    .. math::

        r_t = c_{\text{ex}} \, r^{\text{ex}}_t + c_{\text{in}} \tanh \left( \text{MLP}_\eta(o_t, a_t) \right)

    The rule whose numbers are a reward network, r_in = tanh(MLP(o, a)) in (-1, 1), for `learn_rule`.

    Args:
        policy: of the agents; its critic learns values of the mixed reward.
        channels, kernel_size, stride, embedding_size: how the learned reward reads observations (`networks.encoder`).
        intrinsic_coef, extrinsic_coef: c_in and c_ex. With c_ex = 0 the learned reward is all that an agent sees.
    Discrete actions are one-hot to the network. It starts near 0.
    Not differentiated: values and bootstraps; they are those of the acting agent.
    """
    reads = encoder_of(env, reward_activation, **{name: options.pop(name) for name in ENCODING if name in options})
    size, done = features_of(env.action_space(env.default_params))
    network = MLP(tuple(reward_hidden), 1, reward_activation, reads)
    base = learners.ppo(
        policy,
        optimizer=learners.optimizer_of(optimizer, lr),
        surrogate=surrogate,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        entropy_coef=entropy_coef,
        max_grad_norm=max_grad_norm,
        **options,
    )

    def init(key: jax.Array) -> Params:
        eta = network.init(key, reads.nothing(), jnp.zeros(size))["params"]
        return {**eta, "output": jax.tree.map(lambda x: 0.01 * x, eta["output"])}

    def reward(eta: Params, observation: jax.Array, action: jax.Array) -> jax.Array:
        out: Any = network.apply({"params": eta}, observation, done(action))
        return jnp.tanh(out[..., 0])

    def learner(eta: Params) -> Learner:
        def prepare(state: LearnerState, rollout: Rollout) -> Any:
            own = reward(eta, *tree.finite_behind((rollout.observation, rollout.action), rollout.mask))
            mixed = extrinsic_coef * rollout.reward + intrinsic_coef * own
            return base.prepare(state, dataclasses.replace(rollout, reward=mixed))

        return base._replace(prepare=prepare)

    return Rule(init, learner, policy)


# --- as a configuration ---------------------------------------------------------------------------------

OPTIONS = Part(lirpg)
OF_THE_REWARD = ("lr", "optimizer", "reward_hidden", "reward_activation", "intrinsic_coef", "extrinsic_coef")


def make_rule(c: Any, env: Any) -> tuple[Rule, Policy]:
    """The rule that a configuration names, and the policy of its agents."""
    policy = SEEN_NORMALIZED(c, build_policy(c, env, critic=True), env)
    return OPTIONS(c, env, policy), policy


def make_rival(c: Any, env: Any, policy: Policy) -> tuple[str, Rule]:
    """PPO, or A2C, on the environment's reward alone."""
    options = {name: getattr(c, name) for name in OPTIONS.keys if name not in (*OF_THE_REWARD, *ENCODING)}
    surrogate = "vpg" if options.pop("surrogate") == "vpg" else "ppo"
    return beside(policy, surrogate, rival_step(c), **options)


ENTRY: Entry = rule_entry(
    "lirpg",
    "PPO on the environment's reward and a learned one.",
    make_rule,
    make_rival,
    *network_part(),
    SEEN_NORMALIZED,
    OPTIONS,
)
