"""Random tabular MDPs (Duan et al. 2016, section 3.2): s' ~ P(s, a), r ~ N(R(s, a), sigma^2).

An episode of H steps from state 0 *terminates*: the horizon is part of the problem, not a time limit.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax import tree
from metarl_jax.envs.tasks import TaskDistribution, check_count, check_positive


@struct.dataclass(kw_only=True)
class TabularParams(environment.EnvParams):
    """One MDP."""

    transitions: Array  # [S, A, S] probabilities of the next state
    reward_mean: Array  # [S, A]
    reward_std: Array  # []
    max_steps_in_episode: Array


@struct.dataclass
class TabularState(environment.EnvState):
    """The state that the MDP is in."""

    position: Array  # [] index of the state
    time: Array  # [] steps taken


class TabularMDP(environment.Environment[TabularState, TabularParams]):
    """S states, A actions, start in state 0, observation one-hot [S]."""

    def __init__(self, num_states: int = 10, num_actions: int = 5, horizon: int = 10, reward_std: float = 1.0):
        super().__init__()
        self.num_states = check_count("num_states", num_states)
        self._num_actions = check_count("num_actions", num_actions)
        self._horizon = check_count("horizon", horizon)
        self._reward_std = check_positive("reward_std", reward_std, or_zero=True)

    def params(self, transitions: Array, reward_mean: Array) -> TabularParams:
        """The task with these transitions [S, A, S] and mean rewards [S, A]."""
        return TabularParams(
            transitions=jnp.asarray(transitions, float),
            reward_mean=jnp.asarray(reward_mean, float),
            reward_std=jnp.asarray(self._reward_std, float),
            max_steps_in_episode=jnp.asarray(self._horizon, int),
        )

    @property
    def default_params(self) -> TabularParams:
        num_states, num_actions = self.num_states, self._num_actions
        uniform = jnp.full((num_states, num_actions, num_states), 1 / num_states)
        return self.params(uniform, jnp.ones((num_states, num_actions)))

    def reset_env(self, key: Array, params: TabularParams) -> tuple[Array, TabularState]:
        del key
        state = TabularState(position=jnp.zeros((), int), time=jnp.zeros((), int))
        return self.get_obs(state, params), state

    def step_env(
        self, key: Array, state: TabularState, action: int | float | Array, params: TabularParams
    ) -> tuple[Array, TabularState, Array, Array, dict[Any, Any]]:
        key_next, key_reward = jax.random.split(key)
        action = jnp.asarray(action, int)
        mean = params.reward_mean[state.position, action]
        reward = mean + params.reward_std * jax.random.normal(key_reward, (), mean.dtype)
        position = _sample_index(key_next, params.transitions[state.position, action])
        state = TabularState(position=position, time=state.time + 1)
        return self.get_obs(state, params), state, reward, self.is_terminated(state, params), {}

    def is_terminated(self, state: TabularState, params: TabularParams) -> Array:
        return state.time >= params.max_steps_in_episode

    def is_truncated(self, state: TabularState, params: TabularParams) -> Array:
        return jnp.zeros((), bool)

    def get_obs(self, state: TabularState, params: TabularParams | None = None, key: Array | None = None) -> Array:
        return jax.nn.one_hot(state.position, self.num_states, dtype=float)

    @property
    def num_actions(self) -> int:
        return self._num_actions

    def action_space(self, params: TabularParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self._num_actions)

    def observation_space(self, params: TabularParams | None = None) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (self.num_states,), jnp.float32)


def optimal_return(horizon: int, params: TabularParams) -> Array:
    """Finite-horizon value iteration: V_{h+1}(s) = max_a R(s, a) + P(s, a) . V_h from V_0 = 0; V_H(start)."""

    def backup(value: Array, _: None) -> tuple[Array, None]:
        return (params.reward_mean + params.transitions @ value).max(axis=1), None  # [S]

    value, _ = jax.lax.scan(backup, jnp.zeros_like(params.reward_mean[:, 0]), length=horizon)
    return value[0]


def tabular_mdp(
    *, num_states: int = 10, num_actions: int = 5, horizon: int = 10, reward_std: float = 1.0
) -> tuple[TabularMDP, TaskDistribution]:
    """P(s, a) ~ Dirichlet(1), R(s, a) ~ N(1, 1). Mean oracle return of the defaults: 21.83."""
    env = _environment(num_states, num_actions, horizon, reward_std)

    def sample(key: Array) -> TabularParams:
        key_transitions, key_reward = jax.random.split(key)
        weights = tree.draw(jax.random.exponential, key_transitions, (num_states, num_actions, num_states), float)
        transitions = weights / weights.sum(axis=-1, keepdims=True)  # Dirichlet(1)
        return env.params(transitions, 1 + tree.draw(jax.random.normal, key_reward, (num_states, num_actions), float))

    oracle = functools.partial(optimal_return, horizon)
    description = f"random MDP, {num_states} states, {num_actions} actions, {horizon} steps"
    return env, TaskDistribution(sample, horizon, oracle=oracle, description=description)


_environment = functools.lru_cache(maxsize=None, typed=True)(TabularMDP)


def _sample_index(key: Array, probs: Array) -> Array:
    """Inverse CDF: one uniform number, however many states."""
    cumulative = jnp.cumsum(probs)
    threshold = jax.random.uniform(key, (), probs.dtype) * cumulative[-1]
    return jnp.minimum((threshold >= cumulative).sum(dtype=int), probs.size - 1)
