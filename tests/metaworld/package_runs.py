"""What the package itself does, to hold ours against: its environments, run with its experts and with noise."""

import warnings
from typing import Any, NamedTuple

import numpy as np

from metarl_jax.envs.metaworld.sawyer import too_near
from metarl_jax.envs.metaworld.task import Task


class Run(NamedTuple):
    """[T, ...] of one episode of the package, and where it started."""

    vector: np.ndarray
    state: np.ndarray  # [S] of the physics after the reset
    first: np.ndarray  # [39]
    actions: np.ndarray
    observations: np.ndarray
    v2: np.ndarray
    v2_success: np.ndarray
    v1: np.ndarray
    v1_success: np.ndarray
    v2_float64: np.ndarray  # the same reward of the same state, with the action in float64
    v1_float64: np.ndarray


def vectors(task: Task, number: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    while len(found) < number:
        vector = rng.uniform(task.low, task.high)
        if not (task.min_distance and too_near(task, vector)):  # the package would draw for ever
            found.append(vector)
    return np.stack(found)


def start(name: str, vector: np.ndarray) -> tuple[Any, np.ndarray]:
    """The package's environment after the reset of this task, and its first observation."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = ALL_V3_ENVIRONMENTS[f"{name}-v3"]()
    env._set_task_called, env._partially_observable = True, True
    env._freeze_rand_vec, env._last_rand_vec = True, vector.copy()
    return env, env.reset()[0]


def physics_state(env: Any, bits: int) -> np.ndarray:
    import mujoco

    state = np.empty(mujoco.mj_stateSize(env.model, bits))
    mujoco.mj_getState(env.model, env.data, state, bits)
    return state


def run(name: str, task: Task, vector: np.ndarray, bits: int, *, expert: bool, steps: int = 500, seed: int = 0) -> Run:
    import metaworld.policies

    env, first = start(name, vector)
    state, policy, rng = (
        physics_state(env, bits),
        getattr(metaworld.policies, task.policy)(),
        np.random.default_rng(seed),
    )
    observation, rows = first, []
    for _ in range(steps):
        if expert:
            action = policy.get_action(np.concatenate([observation[:36], env._target_pos]))
        else:
            action = rng.uniform(-1, 1, 4)
        action = np.clip(action, -1, 1).astype(np.float32)
        observation, reward, *_, info = env.step(action)
        env.reward_function_version = "v1"
        v1, v1_info = env.evaluate_state(observation, action)
        exact_v1, _ = env.evaluate_state(observation, action.astype(np.float64))
        env.reward_function_version = "v2"
        exact_v2, _ = env.evaluate_state(observation, action.astype(np.float64))
        rows.append((action, observation, reward, info["success"], v1, v1_info["success"], exact_v2, exact_v1))
    return Run(vector, state, first, *(np.array([np.asarray(row[i]) for row in rows]) for i in range(8)))
