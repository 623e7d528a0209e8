"""A robot before and after adaptation, as a film: the first seed of a run on one held-out task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.envs.trial import Trials
from metarl_jax.options import ConfigError
from metarl_jax.runs import evaluate, files
from metarl_jax.runs.build import Job


def film(run_dir: Path, task_index: int, path: Path, every: int = 2, report: Callable[[Any], None] = print) -> Path:
    """Write a GIF: left the episode before adaptation, right the one after the first update.

    Of RL2, which learns by acting, it shows the first and the last episode of a trial.

    Args:
        task_index: which of the held-out tasks. every: steps from one picture to the next.
    Raises: ConfigError for a run that is not on a robot, or that does not adapt, for a task that is not among those of
        its evaluation, and for a file that cannot be written.
    """
    from metarl_jax.envs.physics.film import NoRenderer, frames, side_by_side, write_gif

    job = evaluate.open_run(run_dir)
    files.make_directory(path.parent, "output")
    inside = job.env.env if isinstance(job.env, Trials) else job.env
    if not hasattr(inside, "scene"):
        raise ConfigError(f"run {run_dir}: env = {job.config.env} has no robot to film")
    if task_index >= job.config.eval_tasks:
        raise ConfigError(f"task = {task_index}: must be below eval_tasks = {job.config.eval_tasks}")
    iteration, params = evaluate.restore(job, run_dir)
    task = jax.tree.map(lambda x: x[task_index], job.evaluation_tasks(task_index + 1))
    first = jax.tree.map(lambda x: x[0], params)
    report(f"filming iteration {iteration} on held-out task {task_index}")
    episodes, rewards = record(job, first, jax.random.key(evaluate.EVALUATION), task)
    films = []
    try:
        for states in episodes:
            model, patch = inside.scene(task)
            films.append(frames(model, np.asarray(states)[::every], patch, camera=getattr(inside, "view", None)))
    except (NoRenderer, ValueError) as error:
        raise ConfigError(str(error)) from None
    in_trials = isinstance(job.env, Trials)
    names = ("first episode", "last episode") if in_trials else ("before adaptation", "after adaptation")
    labels = [f"{name}: return {value:.1f}" for name, value in zip(names, rewards, strict=True)]
    model, _ = inside.scene(task)
    with files.worded(f"output {path}: cannot be written"):
        return write_gif(path, side_by_side(films, labels), every * model.dt)


def record(job: Job, params: Any, key: jax.Array, task: Any) -> tuple[list[Any], list[float]]:
    """Physics states [T, S] and returns of the episode before and of the one after adaptation."""
    collect_key, act_key = jax.random.split(key)
    if isinstance(job.env, Trials):
        return _record_trial(job, params, act_key, task)
    if job.evaluation.stage != "update" or not job.evaluation.num_updates:
        raise ConfigError(f"algorithm = {job.config.algorithm}: has no policy before and after adaptation to film")

    def both(params: Any) -> Any:
        trial, _ = job.algorithm.collect(params, collect_key, task, num_updates=1)
        after = job.algorithm.adapt(params, trial).params
        return [_episode(job, p, act_key, task) for p in (_before(job, params, trial), after)]

    found = jax.jit(both)(params)
    return [states for states, _ in found], [float(total) for _, total in found]


def _before(job: Job, params: Any, trial: Any) -> Any:
    """What acts before adaptation: adapting on nothing."""
    nothing = jax.tree.map(lambda x: x[:0], trial.inner)
    return job.algorithm.adapt(params, trial.replace(inner=nothing, keys=trial.keys[:0])).params


def _episode(job: Job, params: Any, key: jax.Array, task: Any) -> tuple[jax.Array, jax.Array]:
    reset_key, key = jax.random.split(key)
    observation, state = job.env.reset_env(reset_key, task)

    def step(carry: Any, key: jax.Array) -> Any:
        observation, state, over = carry
        action = job.policy.apply(params, observation[None]).sample(seed=key)[0]
        observation, state, reward, terminated, _ = job.env.step_env(key, state, action, task)
        return (observation, state, over | terminated), (state.physics, jnp.where(over, 0.0, reward))

    start = (observation, state, jnp.zeros((), bool))
    _, (states, rewards) = jax.lax.scan(step, start, jax.random.split(key, job.horizon))
    return states, rewards.sum()


def _record_trial(job: Job, params: Any, key: jax.Array, task: Any) -> tuple[list[Any], list[float]]:
    env, policy = job.env, job.policy
    if policy.step is None or policy.remember is None:
        raise ConfigError(f"algorithm = {job.config.algorithm}: films of it are not supported")

    def run(params: Any) -> Any:
        observation, state = env.reset_env(key, task)

        def step(carry: Any, key: jax.Array) -> Any:
            observation, state, memory = carry
            memory, distribution = policy.step(params, memory, observation[None])
            action = distribution.sample(seed=key)[0]
            observation, state, reward, _, info = env.step_env(key, state, action, task)
            return (observation, state, memory), (state.env_state.physics, reward, info["episode_over"])

        keys = jax.random.split(key, env.num_steps)
        return jax.lax.scan(step, (observation, state, policy.remember(1)), keys)[1]

    states, rewards, over = (np.asarray(x) for x in jax.jit(run)(params))
    ends = np.flatnonzero(over)[: env.num_episodes] + 1
    spans = [(0, ends[0]), (ends[-2], ends[-1])]
    length = min(j - i for i, j in spans)
    return [states[i : i + length] for i, _ in spans], [float(rewards[i:j].sum()) for i, j in spans]
