"""RL2: a policy with a memory learns to learn within a trial (Duan et al. 2016; Wang et al. 2016)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import tree
from metarl_jax.rl import learners, losses
from metarl_jax.rl.rollout import environment_metrics, faulty_steps
from metarl_jax.rl.trial_ppo import annealed_ppo
from metarl_jax.rl.trials import check_num_updates, sample_tasks, score_metrics, trial_rollout
from metarl_jax.types import Batch, LearnerState, MetaLearner, MetaState, Metrics, Params, Policy, Rollout, Task, Trial

Float = float | jax.Array


def rl2(
    env: Any,
    tasks: Any,
    policy: Policy,
    *,
    meta_batch_size: int = 256,
    trials_per_task: int = 1,
    lr: Float = 5e-4,
    num_iterations: int | None = None,
    num_epochs: int = 4,
    num_minibatches: int = 8,
    gamma: Float = 0.99,
    gae_lambda: Float = 0.3,
    clip_eps: Float = 0.2,
    value_coef: Float = 0.5,
    value_clip_eps: Float | None = None,
    entropy_coef: Float = 0.01,
    max_grad_norm: Float = 0.5,
    normalize_advantage: bool = True,
    reward_scale: Float = 1.0,
    center_rewards: bool = False,
    anneal_entropy: int | None = None,
) -> MetaLearner:
    """PPO on whole trials: max E[sum over the trial of gamma^t r_t] for a policy that sees all of the trial so far.

    Learning within a task is what the memory does; PPO's updates happen between trials only. Advantages run across
    the episodes of a trial (`envs.trial` terminates it at its end), so that the next episode pays for exploring in
    this one.

    Args:
        env: `envs.trial.trials(...)`; tasks: the distribution over the parameters of the environment in it.
        policy: with a memory, as `networks.recurrent_policy` or `networks.transformer_policy` make them.
        meta_batch_size: tasks an iteration, `trials_per_task` trials of each: together what PPO sees.
        num_iterations: anneals the learning rate linearly to 0 over that many; None: constant.
        num_minibatches: parts of the trials, each with all its steps.
        reward_scale: factor on the rewards that PPO learns from, so that the critic's targets are of order 1; scores
            are unscaled. Advantages are standardised, so what it changes is the critic's share of the gradient.
        center_rewards: PPO learns from rewards less their mean over the iteration's B trials at the same step. Where
            all trials are of one length that is a baseline: it scales the expected policy gradient by 1 - 1 / B, as a
            trial's own reward is in the mean. It takes the clock out of the critic's targets: what is left to predict
            is how this trial differs from others.
        anneal_entropy: brings `entropy_coef` linearly to 0 over that many iterations; None: constant.
        Other options: see `learners.ppo`.
    Returns: a MetaLearner. `collect` scores each episode of a trial, [num_episodes, trials_per_task]; `adapt` returns
        the memory at the end of the trial as `opt_state`; `meta_loss` is PPO's loss on it.
    Step metrics: loss terms, `trial_return`, and the mean return of the first and the last episode.
    Raises: ValueError for a policy without a memory or one that cannot hold a trial, and for minibatches that do not
        divide the trials.
    """
    if policy.step is None or policy.remember is None:
        raise ValueError("policy: has no memory; make one with networks.recurrent_policy or transformer_policy")
    num_trials = meta_batch_size * trials_per_task
    if num_trials % num_minibatches:
        raise ValueError(
            f"num_minibatches = {num_minibatches}: must divide the {num_trials} trials of an iteration evenly"
        )
    remember, act = policy.remember, policy.step
    size = env.observation_space(env.default_params).shape
    jax.eval_shape(  # a trial longer than the policy's context is refused here
        lambda key: policy.apply(policy.init(key), jnp.zeros((env.num_steps, 1, *size))), jax.random.key(0)
    )
    loss = learners.actor_critic_loss(
        policy,
        losses.surrogate("ppo", clip_eps=clip_eps),
        value_coef=value_coef,
        entropy_coef=entropy_coef,
        value_clip_eps=value_clip_eps,
    )
    learner, learner_at = annealed_ppo(
        policy,
        lr=lr,
        num_iterations=num_iterations,
        entropy_coef=entropy_coef,
        anneal_entropy=anneal_entropy,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        gamma=gamma,
        gae_lambda=gae_lambda,
        clip_eps=clip_eps,
        value_coef=value_coef,
        value_clip_eps=value_clip_eps,
        max_grad_norm=max_grad_norm,
        normalize_advantage=normalize_advantage,
    )

    def prepare(params: Params, data: Rollout) -> Batch:
        data = dataclasses.replace(data, reward=reward_scale * data.reward)
        return learner.prepare(LearnerState(params, ()), data)

    def init(key: jax.Array) -> MetaState:
        state = learner.init(policy.init(key))
        return MetaState(state.params, state.opt_state)

    def step(state: MetaState, key: jax.Array) -> tuple[MetaState, Metrics]:
        task_key, trial_key, update_key = jax.random.split(key, 3)
        task = sample_tasks(tasks.sample, task_key, meta_batch_size, trials_per_task)
        data, scores = trial_rollout(env, act, remember, state.params, trial_key, task, num_trials, one_task_each=True)
        faults = faulty_steps(data)
        if center_rewards:
            centred = data.reward - data.reward.mean(axis=1, keepdims=True)
            data = dataclasses.replace(data, reward=tree.masked(centred, data.mask))
        learned, metrics = learner_at(state.opt_state).update(
            LearnerState(state.params, state.opt_state), update_key, prepare(state.params, data)
        )
        finite, faulty = environment_metrics(faults)
        finite |= {"loss": jnp.isfinite(metrics["loss"]), "params": tree.finite(learned.params)}
        metrics = {**metrics, **score_metrics(scores), "finite": finite, "faulty_step": faulty}
        return MetaState(learned.params, learned.opt_state), metrics

    def collect(params: Params, key: jax.Array, task: Task, num_updates: int | None = None) -> tuple[Trial, jax.Array]:
        check_num_updates(env, num_updates)
        data, scores = trial_rollout(env, act, remember, params, key, task, trials_per_task)
        return Trial(None, prepare(params, data), jnp.zeros(0)), scores

    def adapt(params: Params, trial: Trial) -> LearnerState:
        observation = trial.outer.observation

        def remember_one(memory: Any, seen: jax.Array) -> tuple[Any, None]:
            return act(params, memory, seen)[0], None

        memory, _ = jax.lax.scan(remember_one, remember(observation.shape[1]), observation)
        return LearnerState(params, memory)

    def meta_loss(params: Params, trial: Trial) -> jax.Array:
        return loss(params, trial.outer)[0]

    def meta_gradient(params: Params, trial: Trial) -> tuple[jax.Array, Params]:
        return jax.value_and_grad(meta_loss)(params, trial)

    return MetaLearner(init, step, collect, adapt, meta_loss, meta_gradient)
