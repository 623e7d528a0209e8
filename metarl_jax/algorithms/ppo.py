"""PPO on one task (Schulman et al. 2017): the same update that MAML differentiates, run alone."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax import tree
from metarl_jax.rl import learners, losses
from metarl_jax.rl.rollout import EnvCarry, completed, environment_metrics, faulty_steps, reset, rollout
from metarl_jax.types import Algorithm, LearnerState, Metrics, Policy, Task

Float = float | jax.Array


@struct.dataclass
class PPOState:
    """The agent, and where its environments stand."""

    learner: LearnerState
    envs: EnvCarry


def ppo(
    env: Any,
    task: Task,
    policy: Policy,
    *,
    lr: Float = 2.5e-4,
    num_envs: int = 4,
    num_steps: int = 128,
    num_iterations: int | None = None,
    num_epochs: int = 4,
    num_minibatches: int = 4,
    max_grad_norm: Float = 0.5,
    entropy_coef: Float = 0.01,
    **options: Any,
) -> Algorithm:
    """Actor-critic PPO with Adam on `num_envs` auto-resetting copies of `task`.

    A step collects `num_steps` from each environment, then updates. `num_iterations`, if given, anneals
    the learning rate linearly to 0 over that many steps. Other options are those of `learners.ppo`, but `optimizer`,
    `baseline` and the surrogates over whole episodes, which do not fit streams that reset themselves.
    Step metrics: the loss terms, and mean return and length of the episodes that ended (infinite if none did).
    """
    if "optimizer" in options:
        raise ValueError("optimizer: ppo brings its own (Adam with lr); for another one build on learners.ppo")
    if options.get("baseline", "critic") != "critic" or options.get("surrogate", "ppo") in losses.NEEDS_TIME:
        raise ValueError(
            "baseline and surrogate: auto-reset streams need baseline='critic' and a surrogate of single steps"
        )
    total = None if num_iterations is None else num_iterations * num_epochs * num_minibatches
    learner = learners.ppo(
        policy,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        max_grad_norm=max_grad_norm,
        entropy_coef=entropy_coef,
        optimizer=learners.annealed_adam(lr, total),
        **options,
    )

    def init(key: jax.Array) -> PPOState:
        params_key, env_key = jax.random.split(key)
        return PPOState(learner.init(policy.init(params_key)), reset(env, env_key, task, num_envs))

    def step(state: PPOState, key: jax.Array) -> tuple[PPOState, Metrics]:
        rollout_key, update_key = jax.random.split(key)
        data, envs = rollout(
            env,
            policy.apply,
            state.learner.params,
            rollout_key,
            task,
            state.envs,
            num_steps=num_steps,
            num_envs=num_envs,
            auto_reset=True,
        )
        learned, metrics = learner.update(state.learner, update_key, learner.prepare(state.learner, data))
        finite, faulty = environment_metrics(faulty_steps(data))
        finite |= {"loss": jnp.isfinite(metrics["loss"]), "params": tree.finite(learned.params)}
        return PPOState(learned, envs), {**metrics, **completed(data), "finite": finite, "faulty_step": faulty}

    return Algorithm(init, step)
