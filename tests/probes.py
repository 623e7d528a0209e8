"""Probe environments, each isolating one thing that can break; after rejax's and Andy Jones's.

They are tasks of a single environment, so PPO learns all of them in one compiled program.
"""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metarl_jax.envs import TaskDistribution

STREAM = {"by_match": 1.0, "random_signal": True, "show_time": True, "length": 5}


@struct.dataclass(kw_only=True)
class ProbeParams(environment.EnvParams):
    """Reward c + o * by_observation + s * by_action + o * s * by_match, with s = 2 * action - 1."""

    constant: float = 0.0
    by_observation: float = 0.0
    by_action: float = 0.0
    by_match: float = 0.0
    random_signal: bool = False  # whether o is drawn from {-1, 1} at each reset; otherwise 0
    show_time: bool = False
    only_at_end: bool = False  # no reward before the last step
    length: int = 1
    terminates: bool = True  # how the episode ends after `length` steps: terminated, or truncated
    max_steps_in_episode: int = 10**6


@struct.dataclass
class ProbeState(environment.EnvState):
    signal: jax.Array  # []
    time: jax.Array  # []


class Probe(environment.Environment):
    """Observation (o, t): the signal, and the time where it is shown. Actions 0, 1."""

    @property
    def default_params(self):
        return probe()

    def reset_env(self, key, params):
        # Of a strong type, as after a step: what is jitted on a first state and on later ones is compiled once.
        sign = jnp.where(jax.random.bernoulli(key), jnp.ones(()), -1.0)
        state = ProbeState(signal=jnp.where(params.random_signal, sign, 0.0), time=jnp.zeros((), int))
        return self.get_obs(state, params), state

    def step_env(self, key, state, action, params):
        side = 2.0 * action - 1.0
        reward = params.constant + params.by_observation * state.signal
        reward = reward + params.by_action * side + params.by_match * state.signal * side
        state = state.replace(time=state.time + 1)
        reward = jnp.where(params.only_at_end & (state.time < params.length), 0.0, reward)
        return self.get_obs(state, params), state, reward, self.is_terminated(state, params), {}

    def is_terminated(self, state, params):
        return (state.time >= params.length) & params.terminates

    def is_truncated(self, state, params):
        return (state.time >= params.length) & ~params.terminates

    def get_obs(self, state, params, key=None):
        return jnp.stack([state.signal, state.time * params.show_time])

    @property
    def num_actions(self):
        return 2

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return spaces.Box(-1.0, 1e6, (2,), jnp.float32)


def probe(**fields):
    """A probe task, as arrays of strong types so that tasks can be stacked."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.result_type(type(x))), ProbeParams(**fields))


def stream_tasks(**fields):
    """One task as a distribution: episodes of 5 steps, each paid for matching a signal that the agent sees."""
    return TaskDistribution(lambda key: probe(**{**STREAM, **fields}), 5)
