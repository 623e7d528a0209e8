"""Rewards that come late: "Delayed:NAME" is NAME with its rewards saved up and paid every n steps.

After Zheng et al. 2018, section 4.2, and Oh et al. 2018. An episode's return is what it was; which action earned it
no longer shows. Observations are those of NAME, so that how much is saved up, and when it is paid, is hidden.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment
from jax import Array

from metarl_jax.envs.registry import UnknownOption, make
from metarl_jax.envs.tasks import TaskDistribution, check_count


@struct.dataclass
class DelayedState(environment.EnvState):
    """The state of the environment inside, and what it has earned since it was last paid."""

    env_state: Any  # of the environment inside
    saved: Array  # [] reward that is not paid yet
    time: Array  # [] steps into the episode


class Delayed(environment.Environment[DelayedState, Any]):
    """`env` with rewards paid every `every` steps and at the end of an episode; parameters are those of `env`."""

    def __init__(self, env: Any, every: int):
        super().__init__()
        self.env = env
        self.every = check_count("every", every)

    @property
    def default_params(self) -> Any:
        return self.env.default_params

    @property
    def name(self) -> str:
        return f"Delayed:{self.env.name}"

    @property
    def num_actions(self) -> int:
        return int(self.env.num_actions)

    def reset_env(self, key: Array, params: Any) -> tuple[Array, DelayedState]:
        observation, env_state = self.env.reset_env(key, params)
        env_state = jax.tree.map(jnp.asarray, env_state)  # some gymnax states begin as Python numbers
        return observation, DelayedState(env_state=env_state, saved=jnp.zeros((), float), time=jnp.zeros((), int))

    def step_env(
        self, key: Array, state: DelayedState, action: int | float | Array, params: Any
    ) -> tuple[Array, DelayedState, Array, Array, dict[Any, Any]]:
        observation, env_state, reward, terminated, info = self.env.step_env(key, state.env_state, action, params)
        time, saved = state.time + 1, state.saved + reward
        over = terminated | self.env.is_truncated(env_state, params)
        pays = over | (time % self.every == 0)
        state = DelayedState(env_state=env_state, saved=jnp.where(pays, 0.0, saved), time=time)
        return observation, state, jnp.where(pays, saved, 0.0), terminated, info

    def is_terminated(self, state: DelayedState, params: Any) -> Array:
        return self.env.is_terminated(state.env_state, params)

    def is_truncated(self, state: DelayedState, params: Any) -> Array:
        return self.env.is_truncated(state.env_state, params)

    def get_obs(self, state: DelayedState, params: Any = None, key: Array | None = None) -> Array:
        return self.env.get_obs(state.env_state, params, key)

    def action_space(self, params: Any = None) -> Any:
        return self.env.action_space(params)

    def observation_space(self, params: Any = None) -> Any:
        return self.env.observation_space(params)


def delayed(name: str, *, every: int = 20, **options: Any) -> tuple[Delayed, TaskDistribution]:
    """The registered environment `name` with its `options`, its rewards paid every `every` steps.

    A rollout of fewer steps than an episode has cuts off what is saved up then. The oracle is that of `name`.
    Raises: ValueError for what `make` refuses, and for labelled examples.
    """
    try:
        env, tasks = make(name, **options)
    except UnknownOption as error:
        raise UnknownOption(f"{error}; of Delayed: every") from None
    if not hasattr(env, "step_env"):
        raise ValueError(f"{name}: has no rewards that could be late")
    return _wrap(env, every), dataclasses.replace(tasks, description=f"{tasks.description}, paid every {every} steps")


@functools.cache
def _wrap(env: Any, every: int) -> Delayed:
    return Delayed(env, every)
