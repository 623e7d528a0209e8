"""What algorithms on one task share as jobs: which task it is, and how a policy that does not adapt is scored."""

from typing import Any

import jax

from metarl_jax.algorithms.interface import Evaluation, Job, common_references, no_more_than_one_task
from metarl_jax.meta import evaluation as scoring
from metarl_jax.types import Policy, Task


def the_task(c: Any, tasks: Any) -> Task:
    """The one task of a run: of a family, the one that `task_seed` names."""
    return tasks.sample(jax.random.fold_in(jax.random.key(c.task_seed), 2))


def on_one_task(c: Any, algorithm: Any, env: Any, tasks: Any, policy: Policy, *, work_per_iteration: int) -> Job:
    """The job of an agent that is scored on the task that it trained on."""

    def scores(params: Any, key: jax.Array, some: Task, num_updates: int) -> jax.Array:
        sizes = {"num_steps": tasks.horizon, "num_episodes": c.eval_episodes}
        return scoring.policy_returns(env, policy.apply, params, key, some, **sizes)[:, None]

    evaluation = Evaluation(
        tasks=lambda num_tasks: jax.tree.map(lambda x: x[None], the_task(c, tasks)),
        scores=scores,
        held_out=False,
        check=no_more_than_one_task,
        references=common_references(env, tasks, tasks.horizon, c.eval_episodes),
    )
    return Job(
        c,
        algorithm,
        env,
        tasks,
        tasks.horizon,
        work_per_iteration=work_per_iteration,
        score="episode_return",
        evaluation=evaluation,
        policy=policy,
        learned=lambda state: state.learner.params,
    )
