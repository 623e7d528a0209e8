"""A puck on a surface of unknown friction, to be pushed to a target that it cannot see.

Nothing is inherited: an environment is any object with the functions of `metarl_jax.envs.protocol.Environment`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces

from metarl_jax.envs import TaskDistribution

DT = 0.2  # seconds a step


@struct.dataclass
class Task:
    """What differs between tasks; a pytree of arrays."""

    friction: jax.Array  # 1/s
    target: jax.Array  # m


@struct.dataclass
class State:
    """Where the puck is."""

    position: jax.Array  # m
    velocity: jax.Array  # m/s
    time: jax.Array  # steps


class Slide:
    """Observation [2]: position, velocity. Action [1] in [-1, 1]: a push, in m/s^2. Reward: -|position - target|."""

    name = "Slide"

    def __init__(self, horizon: int):
        self.horizon = horizon

    @property
    def default_params(self) -> Task:
        return Task(friction=jnp.asarray(0.3), target=jnp.asarray(0.5))

    def reset_env(self, key: jax.Array, params: Task) -> tuple[jax.Array, State]:
        state = State(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))
        return self.observe(state), state

    def step_env(self, key: jax.Array, state: State, action: jax.Array, params: Task) -> tuple[Any, ...]:
        push = jnp.clip(action[0], -1.0, 1.0)
        velocity = state.velocity + DT * (push - params.friction * state.velocity)
        state = State(state.position + DT * velocity, velocity, state.time + 1)
        reward = -jnp.abs(state.position - params.target)
        return self.observe(state), state, reward, jnp.zeros((), bool), {}

    def is_truncated(self, state: State, params: Task) -> jax.Array:
        return state.time >= self.horizon

    def observe(self, state: State) -> jax.Array:
        return jnp.stack([state.position, state.velocity])

    def observation_space(self, params: Task) -> spaces.Box:
        return spaces.Box(-jnp.inf, jnp.inf, (2,))

    def action_space(self, params: Task) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (1,))


@functools.cache  # equal options give the same environment, so that compiled programs are used again
def slide(horizon: int = 20, max_target: float = 1.0) -> tuple[Slide, TaskDistribution]:
    """The environment and its tasks: frictions U[.05, .5], targets U[-max_target, max_target]."""

    def sample(key: jax.Array) -> Task:
        friction_key, target_key = jax.random.split(key)
        friction = jax.random.uniform(friction_key, (), minval=0.05, maxval=0.5)
        return Task(friction, jax.random.uniform(target_key, (), minval=-max_target, maxval=max_target))

    return Slide(horizon), TaskDistribution(sample=sample, horizon=horizon, description="pucks that slide")
