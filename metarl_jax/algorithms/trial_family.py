"""What learners with a memory share as configurations: trials of several episodes, scored episode by episode."""

from collections.abc import Callable
from typing import Any

import jax
from pydantic import Field

from metarl_jax.algorithms.interface import RANDOM_POLICY, Evaluation, Job, RunOptions, common_references, held_out
from metarl_jax.envs.protocol import tasks_at_a_time
from metarl_jax.envs.tasks import num_members
from metarl_jax.envs.trial import episode_ends, episode_returns, trials
from metarl_jax.meta import evaluation as scoring
from metarl_jax.options import ConfigError, Positive
from metarl_jax.rl.rollout import rollout


class TrialOptions(RunOptions):
    """Keys of every run on trials."""

    num_episodes: Positive = Field(description="episodes of a trial")
    horizon: Positive | None = Field(None, description="steps an episode; null: the environment's own")
    eval_episodes: Positive = Field(20, description="evaluation trials a task")

    @property
    def eval_updates(self) -> int:
        """What a trial is scored after: each of its episodes but the first counts as one more update."""
        return self.num_episodes - 1


def trial_builder(make: Callable[..., tuple[Any, Any]]) -> Callable[[Any, Any, Any, bool], Job]:
    """`build` of an entry; `make(config, env, tasks, trials_per_task, num_minibatches)` -> (algorithm, policy)."""

    def build(c: Any, env: Any, tasks: Any, evaluation: bool) -> Job:
        on_trials = trials(env, tasks, c.num_episodes, c.horizon)
        # At evaluation nothing is trained, so that the parts need not divide the trials.
        sizes = (c.eval_episodes, 1) if evaluation else (c.trials_per_task, c.num_minibatches)
        algorithm, policy = make(c, on_trials, tasks.split(c.task_seed)[0], *sizes)
        return Job(
            c,
            algorithm,
            on_trials,
            tasks,
            on_trials.num_steps,
            work_per_iteration=c.meta_batch_size * c.trials_per_task * on_trials.num_steps,
            score="trial_return",
            evaluation=_evaluation(c, algorithm, on_trials, tasks),
            policy=policy,
        )

    return build


def _evaluation(c: Any, algorithm: Any, env: Any, tasks: Any) -> Evaluation:
    def scores(params: Any, key: jax.Array, some: Any, num_updates: int) -> Any:
        size = tasks_at_a_time(env, num_members(some))
        return scoring.adaptation_curve_and_reports(algorithm, params, key, some, num_updates, size)

    def random(key: jax.Array, some: Any, num_updates: int) -> jax.Array:
        """Mean return of an episode over the trials of a policy without a memory, [task, 1, trial]."""
        act = scoring.uniform_policy(env)

        def one(x: tuple[jax.Array, Any]) -> jax.Array:
            index, task = x
            sizes = {"num_steps": env.num_steps, "num_envs": c.eval_episodes}
            data, _ = rollout(env, act, {}, jax.random.fold_in(key, index), task, **sizes)
            ends = episode_ends(data.next_observation)
            return episode_returns(data.reward, ends, env.num_episodes).mean(axis=0)

        count = jax.tree.leaves(some)[0].shape[0]
        return jax.lax.map(one, (jax.numpy.arange(count), some))[:, None]

    def check(num_tasks: int, num_updates: int) -> None:
        if num_updates != c.eval_updates:
            raise ConfigError(
                f"num-updates = {num_updates}: a trial of {c.num_episodes} episodes is scored whole, so it must be "
                f"{c.eval_updates}"
            )

    references = common_references(env, tasks, env.num_steps, c.eval_episodes, episode=env.horizon)
    return Evaluation(
        held_out(c, tasks),
        scores,
        num_updates=c.eval_updates,
        stage="episode",
        check=check,
        references={**references, RANDOM_POLICY: random},
        untrained="random initialisation",
    )
