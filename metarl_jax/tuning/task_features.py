"""What is known of a task before PPO is trained on it: a few numbers, without units, that a random policy sees."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.envs.observations import features_of, flattener
from metarl_jax.envs.spaces import is_discrete, parts_of
from metarl_jax.rl.rollout import rollout
from metarl_jax.runs.build import build
from metarl_jax.runs.training_loop import with_values

NAMES = (
    "log10 horizon",
    "log10 size of the observation",
    "continuous actions",
    "log10 actions, or their dimensions",
    "steps with a reward other than 0",
    "mean reward / mean |reward|",
    "std of rewards / mean |reward|",
    "share of steps that end an episode, log10",
)
NUM_ENVS, NUM_STEPS = 64, 256


def describe(config: Any, task_seeds: Sequence[int]) -> np.ndarray:
    """[task, 8] `NAMES` of the tasks `task_seeds` of a configuration of PPO: 16,384 steps of its untrained policy."""
    job = build(config)

    def played(seed: jax.Array) -> Any:
        its = with_values(config, {"task_seed": seed})
        task = jax.tree.map(lambda x: x[0], its.evaluation_tasks(1))
        first, second = jax.random.split(jax.random.key(seed))
        options: dict[str, Any] = {"num_steps": NUM_STEPS, "num_envs": NUM_ENVS, "auto_reset": True}
        data = rollout(job.env, its.policy.apply, its.policy.init(first), second, task, **options)[0]
        return data.reward, data.done

    reward, done = (np.asarray(x, float) for x in jax.jit(lambda s: jax.lax.map(played, s))(jnp.asarray(task_seeds)))
    reward = reward.reshape(len(task_seeds), -1)
    size = np.abs(reward).mean(axis=1) + 1e-8
    task = jax.tree.map(lambda x: x[0], job.evaluation_tasks(1))
    actions = job.env.action_space(task)
    fixed = [
        np.log10(job.horizon),
        np.log10(flattener(job.env)[0]),
        0.0 if all(map(is_discrete, parts_of(actions))) else 1.0,
        np.log10(features_of(actions)[0]),
    ]
    seen = [
        (reward != 0).mean(axis=1),
        reward.mean(axis=1) / size,
        np.minimum(reward.std(axis=1) / size, 10.0),
        np.log10(done.reshape(len(task_seeds), -1).mean(axis=1) + 1e-4),
    ]
    return np.concatenate([np.tile(fixed, (len(task_seeds), 1)), np.stack(seen, axis=1)], axis=1)
