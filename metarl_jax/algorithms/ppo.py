"""PPO on one task (Schulman et al. 2017): the same update that MAML differentiates, run alone."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import struct
from pydantic import Field

from metarl_jax import tree
from metarl_jax.algorithms.interface import Entry, Job, RunOptions
from metarl_jax.algorithms.single_task_family import on_one_task, the_task
from metarl_jax.networks import build_policy, network_part
from metarl_jax.options import NonNegative, Part, Positive, Rate, configuration, takes_options
from metarl_jax.rl import learners, losses, normalize
from metarl_jax.rl.rollout import EnvCarry, completed, environment_metrics, faulty_steps, reset, rollout
from metarl_jax.types import Algorithm, LearnerState, Metrics, Policy, Task


@struct.dataclass
class PPOState:
    """The agent, and where its environments stand.

    Where rewards are normalised that is (EnvCarry, discounted return [B] of the episodes under way).
    """

    learner: LearnerState
    envs: EnvCarry | tuple[EnvCarry, jax.Array]


NOT_FOR_STREAMS = (
    "optimizer", "baseline", "adapts", "proximal_coef", "target_return", "dice_lambda", "normalize_task_rewards",
)  # fmt: skip


@takes_options(learners.ppo, without=NOT_FOR_STREAMS)
def ppo(
    env: Any,
    task: Task,
    policy: Policy,
    *,
    lr: Annotated[Rate, "Adam step size"] = 2.5e-4,
    num_envs: Annotated[Positive, "parallel environments"] = 4,
    num_steps: Annotated[Positive, "steps of each environment an iteration"] = 128,
    num_iterations: int | None = None,
    anneal_lr: Annotated[bool, "anneal the step size linearly to 0"] = True,
    num_epochs: Annotated[Positive, "passes over the data an iteration"] = 4,
    num_minibatches: Annotated[Positive, "parts of each pass; must divide num_envs x num_steps"] = 4,
    surrogate: Annotated[
        learners.SurrogateName, "surrogate of the updates; smooth_ppo: a smooth clip, dpo: a discovered one, lvc: none"
    ] = "ppo",
    value_clip_eps: Annotated[Rate | None, "clip of the critic's loss; null: none"] = 0.2,
    entropy_coef: Annotated[NonNegative, "weight of the entropy bonus"] = 0.01,
    max_grad_norm: Annotated[Rate | None, "bound on the norm of a gradient; null: none"] = 0.5,
    **options: Any,
) -> Algorithm:
    r"""PPO on one environment.

    .. math::

        \min_\theta \; -\hat{\mathbb{E}} \left[ \min \left( \rho A, \, \text{clip}(\rho, 1 - \epsilon, 1
          + \epsilon) A \right) \right] + c_V L_V(\theta) - c_H H(\theta)

    Actor-critic PPO with Adam on `num_envs` auto-resetting copies of `task`. A step collects `num_steps` from each
    environment, then updates. The step size is annealed over `num_iterations` of them, where that is given.
    Step metrics: the loss terms, and mean return and length of the episodes that ended (infinite if none did).

    Raises: ValueError for a surrogate over whole episodes, which do not fit streams that reset themselves, and for
        minibatches that do not divide the data.
    """
    if losses.spec_of(surrogate).needs_time:
        fitting = ", ".join(losses.surrogate_names(needs_time=False))
        raise ValueError(
            f"surrogate = {surrogate}: needs whole episodes, which streams that reset themselves cut; use {fitting}"
        )
    total = None if num_iterations is None or not anneal_lr else num_iterations * num_epochs * num_minibatches
    learner = learners.ppo(
        policy,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        surrogate=surrogate,
        value_clip_eps=value_clip_eps,
        entropy_coef=entropy_coef,
        max_grad_norm=max_grad_norm,
        optimizer=learners.annealed_adam(lr, total),
        **options,
    )
    if learner.check is not None:
        learner.check(num_steps, num_envs, "num_steps", "num_envs")

    def init(key: jax.Array) -> PPOState:
        params_key, env_key = jax.random.split(key)
        agent = learner.init(policy.init(params_key))
        envs = reset(env, env_key, task, num_envs)
        return PPOState(
            agent, envs if normalize.scale_of_rewards(agent.params) is None else (envs, jnp.zeros(num_envs))
        )

    def step(state: PPOState, key: jax.Array) -> tuple[PPOState, Metrics]:
        rollout_key, update_key = jax.random.split(key)
        envs, earlier = state.envs if isinstance(state.envs, tuple) else (state.envs, None)
        data, envs = rollout(
            env,
            policy.apply,
            state.learner.params,
            rollout_key,
            task,
            envs,
            num_steps=num_steps,
            num_envs=num_envs,
            auto_reset=True,
        )
        batch = learner.prepare(state.learner, dataclasses.replace(data, earlier_return=earlier))
        learned, metrics = learner.update(state.learner, update_key, batch)
        params = normalize.fold(state.learner.params, learned.params, batch)
        running = batch.running_return
        place = envs if running is None else (envs, jnp.where(data.done[-1], 0.0, running[-1]))
        finite, faulty = environment_metrics(faulty_steps(data))
        finite |= {"loss": jnp.isfinite(metrics["loss"]), "params": tree.finite(params)}
        learned = dataclasses.replace(learned, params=params)
        return PPOState(learned, place), {**metrics, **completed(data), "finite": finite, "faulty_step": faulty}

    return Algorithm(init, step)


OPTIONS = Part(ppo)


def build(c: Any, env: Any, tasks: Any, evaluation: bool) -> Job:
    """PPO of a configuration, on the task that `task_seed` names."""
    policy = normalize.NORMALIZED(c, build_policy(c, env, critic=True), env)
    algorithm = OPTIONS(c, env, the_task(c, tasks), policy, num_iterations=c.num_iterations)
    return on_one_task(c, algorithm, env, tasks, policy, work_per_iteration=c.num_envs * c.num_steps)


class PPORunOptions(RunOptions):
    """Keys of a run of PPO alone."""

    eval_tasks: Annotated[Positive, Field(le=1)] = Field(1, description="1: the task it was trained on")
    eval_episodes: Positive = Field(100, description="evaluation episodes")


ENTRY = Entry(
    configuration(
        "ppo_options", "PPO on one environment.", PPORunOptions, *network_part(), normalize.NORMALIZED, OPTIONS
    ),
    build,
)
