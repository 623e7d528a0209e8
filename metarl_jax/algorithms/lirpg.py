"""Learned intrinsic rewards: an agent maximises r + r_in(o, a; eta), and eta is moved so that r alone comes out higher.

LIRPG (Zheng et al. 2018): agents make PPO updates on the mixed reward c_ex r + c_in r_in; GAE is linear in it, so that
advantages, normalised or not, stay differentiable in eta, and so do the critic's targets. The meta-loss is of the
extrinsic reward alone, on data of the updated agent (the paper re-uses the data of the update). One agent that lives
for ever learns its own reward online, as in the paper; many with lifetimes learn one to hand on (Zheng et al. 2020).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl_jax import tree
from metarl_jax.envs.observations import flattener
from metarl_jax.networks import MLP
from metarl_jax.rl import learners
from metarl_jax.types import Learner, LearnerState, Params, Policy, Rollout
from metarl_jax.update_rules.lifetimes import Rule

Float = float | jax.Array


def lirpg(
    env: Any,
    policy: Policy,
    lr: Float = 1e-3,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    intrinsic_coef: Float = 0.01,
    extrinsic_coef: Float = 1.0,
    optimizer: Any = None,
    **options: Any,
) -> Rule:
    """The rule whose numbers are a reward network, r_in = tanh(MLP(o, a)) in (-1, 1), for `learn_rule`.

    Args:
        policy: of the agents; its critic learns values of the mixed reward.
        intrinsic_coef, extrinsic_coef: c_in and c_ex. With c_ex = 0 the learned reward is all that an agent sees.
        lr: step size of their `optimizer` (step size -> optimiser; None: `learners.adam`).
        options: those of `learners.ppo`.
    Discrete actions are one-hot to the network. It starts near 0.
    Not differentiated: values and bootstraps; they are those of the acting agent.
    """
    space, (size, flat) = env.action_space(env.default_params), flattener(env)
    actions = int(space.n) if hasattr(space, "n") else int(np.prod(space.shape))
    network = MLP(tuple(hidden), 1, activation)

    def init(key: jax.Array) -> Params:
        eta = network.init(key, jnp.zeros(size + actions))["params"]
        return {**eta, "output": jax.tree.map(lambda x: 0.01 * x, eta["output"])}

    def reward(eta: Params, observation: jax.Array, action: jax.Array) -> jax.Array:
        seen = flat(observation)
        done = jax.nn.one_hot(action, actions) if hasattr(space, "n") else action.reshape(*seen.shape[:-1], actions)
        out: Any = network.apply({"params": eta}, jnp.concatenate([seen, done], axis=-1))
        return jnp.tanh(out[..., 0])

    def learner(eta: Params) -> Learner:
        step: optax.GradientTransformation = (optimizer or learners.adam)(lr)
        base = learners.ppo(policy, optimizer=step, **options)

        def prepare(state: LearnerState, rollout: Rollout) -> Any:
            own = reward(eta, *tree.finite_behind((rollout.observation, rollout.action), rollout.mask))
            mixed = extrinsic_coef * rollout.reward + intrinsic_coef * own
            return base.prepare(state, dataclasses.replace(rollout, reward=mixed))

        return base._replace(prepare=prepare)

    return Rule(init, learner, policy)
