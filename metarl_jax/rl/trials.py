"""Trials of a policy with a memory: acted, scored, and PPO between them, whose step size and entropy bonus may fall."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metarl_jax.envs.trial import episode_ends, episode_returns
from metarl_jax.options import Float
from metarl_jax.rl import learners
from metarl_jax.rl.rollout import rollout
from metarl_jax.types import Learner, Metrics, Params, Policy, Rollout, Task


def trial_rollout(
    env: Any,
    act: Callable[[Params, Any, jax.Array], tuple[Any, Any]],
    remember: Callable[[int], Any],
    params: Params,
    key: jax.Array,
    task: Task,
    num_trials: int,
    *,
    one_task_each: bool = False,
) -> tuple[Rollout, jax.Array]:
    """`num_trials` trials side by side: Rollout [T, num_trials] and the return of each episode [episode, num_trials].

    Args:
        env: `envs.trial.trials(...)`.
        act, remember: `step` and `remember` of a `Policy`.
        task: one for all trials, or with `one_task_each` stacked, leaves [num_trials, ...].
    """
    data, _ = rollout(
        env,
        act,
        params,
        key,
        task,
        num_steps=env.num_steps,
        num_envs=num_trials,
        memory=remember(num_trials),
        one_task_each=one_task_each,
    )
    scores = episode_returns(data.reward, episode_ends(data.next_observation), env.num_episodes)
    return dataclasses.replace(data, distribution=None), scores


def sample_tasks(sample: Callable[[jax.Array], Task], key: jax.Array, num_tasks: int, trials_per_task: int) -> Task:
    """`num_tasks` tasks, each `trials_per_task` times: leaves [num_tasks * trials_per_task, ...]."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_tasks))
    return jax.tree.map(lambda x: jnp.repeat(x, trials_per_task, axis=0), jax.vmap(sample)(keys))


def score_metrics(scores: jax.Array) -> Metrics:
    """Mean return of a trial, of its first and of its last episode; scores [episode, trial]."""
    mean = scores.mean(axis=1)
    return {"trial_return": mean.sum(), "first_episode_return": mean[0], "last_episode_return": mean[-1]}


def check_num_updates(env: Any, num_updates: int | None) -> None:
    """What `MetaLearner.collect` is asked for; a trial's length is the environment's.

    Raises: ValueError for another number than that of the episodes after the first.
    """
    if num_updates not in (None, env.num_episodes - 1):
        raise ValueError(
            f"num_updates = {num_updates}: a trial of {env.num_episodes} episodes has {env.num_episodes - 1} after the "
            "first; for another number make another trial"
        )


def annealed_ppo(
    policy: Policy,
    *,
    lr: Float,
    num_iterations: int | None,
    anneal_lr: bool,
    entropy_coef: Float,
    anneal_entropy: bool,
    num_epochs: int,
    num_minibatches: int,
    **options: Any,
) -> tuple[Learner, Callable[[Any], Learner]]:
    """`learners.ppo` with Adam, as a learner and as (optimiser state -> the learner of that iteration).

    Args:
        anneal_lr, anneal_entropy: bring the step size, the `entropy_coef` linearly to 0 over `num_iterations` (None:
            constant). The iteration is told by Adam's count of its steps.
        options: of `learners.ppo`.
    Raises: ValueError for an entropy bonus to anneal over no number of iterations.
    """
    if anneal_entropy and num_iterations is None:
        raise ValueError("anneal_entropy = True: needs num_iterations, over which the weight falls")
    updates = num_epochs * num_minibatches
    total = None if num_iterations is None or not anneal_lr else num_iterations * updates
    optimizer = learners.annealed_adam(lr, total)
    fixed = {"num_epochs": num_epochs, "num_minibatches": num_minibatches, "optimizer": optimizer, **options}
    learner = learners.ppo(policy, entropy_coef=entropy_coef, **fixed)

    def at(opt_state: Any) -> Learner:
        if not anneal_entropy:
            return learner
        assert num_iterations is not None
        iteration = optax.tree_utils.tree_get_all_with_path(opt_state, "count")[0][1] // updates
        left = jnp.maximum(0.0, 1 - iteration / num_iterations)
        return learners.ppo(policy, entropy_coef=entropy_coef * left, **fixed)

    return learner, at
