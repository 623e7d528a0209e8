"""Trials of a policy with a memory: acting in them, scoring them, and PPO on whole trials."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax import sharing
from metarl_jax.envs.trial import episode_ends, episode_returns
from metarl_jax.options import Float, NonNegative, Positive, Rate, Unit, takes_options
from metarl_jax.rl import learners, losses, normalize
from metarl_jax.rl.optimizers import share_left
from metarl_jax.rl.rollout import rollout
from metarl_jax.types import Batch, Learner, Metrics, Params, Policy, Rollout, Task


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
        task: one for all trials, or with `one_task_each` stacked, leaves [num_trials, ...], which devices may share.
    """
    options = {"num_steps": env.num_steps, "one_task_each": one_task_each}
    shares = sharing.shares_of(num_trials)
    if not one_task_each or shares.sharing is None:
        data, _ = rollout(env, act, params, key, task, num_envs=num_trials, memory=remember(num_trials), **options)
    else:
        size, own, among = shares.size, shares.part(task), (shares.start(), num_trials)
        data, _ = rollout(env, act, params, key, own, num_envs=size, memory=remember(size), among=among, **options)
        data = shares.whole(data, 1)
    scores = episode_returns(data.reward, episode_ends(data.next_observation), env.num_episodes)
    return dataclasses.replace(data, distribution=None), scores


def sample_tasks(sample: Callable[[jax.Array], Task], key: jax.Array, num_tasks: int, trials_per_task: int) -> Task:
    """`num_tasks` tasks, each `trials_per_task` times: leaves [num_tasks * trials_per_task, ...]."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_tasks))
    return jax.tree.map(lambda x: jnp.repeat(x, trials_per_task, axis=0), jax.vmap(sample)(keys))


def report_rates(data: Rollout, num_episodes: int) -> dict[str, jax.Array]:
    """Share of the trials in each of whose episodes each report came true, [episode]."""
    ends = episode_ends(data.next_observation)
    flags = {name: (x & ends & (data.mask > 0)).astype(float) for name, x in (data.reports or {}).items()}
    return {name: episode_returns(x, ends, num_episodes).mean(axis=1) for name, x in flags.items()}


def score_metrics(scores: jax.Array, data: Rollout) -> Metrics:
    """Mean return of a trial, of its first, second and last episode, and rates of reports; scores [episode, trial]."""
    mean, rates = scores.mean(axis=1), report_rates(data, scores.shape[0])
    of_an_episode = {"return": mean, **rates}
    places = {"first": 0, **({"second": 1} if scores.shape[0] > 2 else {}), "last": -1}
    found = {f"{which}_episode_{name}": x[i] for which, i in places.items() for name, x in of_an_episode.items()}
    return {"trial_return": mean.sum(), **found}


def check_num_updates(env: Any, num_updates: int | None) -> None:
    """What `MetaLearner.collect` is asked for; a trial's length is the environment's.

    Raises: ValueError for another number than that of the episodes after the first.
    """
    if num_updates not in (None, env.num_episodes - 1):
        raise ValueError(
            f"num_updates = {num_updates}: a trial of {env.num_episodes} episodes has {env.num_episodes - 1} after the "
            "first; for another number make another trial"
        )


class AnnealedPPO(NamedTuple):
    """What `annealed_ppo` makes."""

    learner: Learner  # of the first iteration
    at: Callable[[Any], Learner]  # optimiser state -> the learner of that iteration
    loss: Callable[[Params, Batch], jax.Array]  # (params, batch of whole trials) -> PPO's loss


@takes_options()
def annealed_ppo(
    policy: Policy,
    *,
    lr: Annotated[Rate, "Adam step size of the policy"] = 1e-3,
    num_iterations: int | None = None,
    anneal_lr: Annotated[bool, "anneal that step size linearly to 0"] = True,
    num_epochs: Annotated[Positive, "passes over the data an iteration"] = 4,
    num_minibatches: Annotated[Positive, "parts of the trials in each pass"] = 8,
    clip_eps: Annotated[Rate, "PPO clip"] = 0.2,
    value_clip_eps: Annotated[Rate | None, "clip of the critic's loss; null: none"] = None,
    gamma: Annotated[Unit, "discount, which runs across the episodes of a trial"] = 0.99,
    gae_lambda: Annotated[Unit, "lambda of generalised advantage estimation"] = 0.3,
    entropy_coef: Annotated[NonNegative, "weight of the entropy bonus"] = 0.01,
    anneal_entropy: Annotated[bool, "anneal that weight linearly to 0"] = False,
    value_coef: Annotated[NonNegative, "weight of the critic's loss"] = 0.5,
    max_grad_norm: Annotated[Rate, "bound on the norm of a gradient"] = 0.5,
    normalize_advantage: Annotated[bool, "standardise advantages over the iteration"] = True,
    normalize_task_rewards: Annotated[bool, normalize.OF_TASK] = False,
    reward_scale: Annotated[Rate, "factor on the rewards that PPO learns from; scores are unscaled"] = 1.0,
) -> AnnealedPPO:
    """`learners.ppo` with Adam, whose step size and entropy bonus may fall from one iteration to the next.

    Args:
        num_iterations: over so many iterations `anneal_lr` and `anneal_entropy` bring the step size and `entropy_coef`
            linearly to 0; None: constant. The iteration is told by Adam's count of its steps.
        Other options: see `learners.ppo`.
    Raises: ValueError for an entropy bonus to anneal over no number of iterations.
    """
    if anneal_entropy and num_iterations is None:
        raise ValueError("anneal_entropy = True: needs num_iterations, over which the weight falls")
    updates = num_epochs * num_minibatches
    total = None if num_iterations is None or not anneal_lr else num_iterations * updates
    optimizer = learners.annealed_adam(lr, total)

    def with_entropy(coef: Float) -> Learner:
        return learners.ppo(
            policy,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            clip_eps=clip_eps,
            value_clip_eps=value_clip_eps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            entropy_coef=coef,
            value_coef=value_coef,
            max_grad_norm=max_grad_norm,
            normalize_advantage=normalize_advantage,
            normalize_task_rewards=normalize_task_rewards,
            reward_scale=reward_scale,
            optimizer=optimizer,
            share_columns=True,
        )

    learner = with_entropy(entropy_coef)
    terms = learners.actor_critic_loss(
        policy,
        losses.surrogate("ppo", clip_eps=clip_eps),
        value_coef=value_coef,
        entropy_coef=entropy_coef,
        value_clip_eps=value_clip_eps,
    )

    def at(opt_state: Any) -> Learner:
        if not anneal_entropy:
            return learner
        assert num_iterations is not None
        iteration = optax.tree_utils.tree_get_all_with_path(opt_state, "count")[0][1] // updates
        return with_entropy(entropy_coef * share_left(iteration, num_iterations))

    return AnnealedPPO(learner, at, lambda params, batch: terms(params, batch)[0])
