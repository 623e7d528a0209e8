"""Trials: several episodes on one task as one long episode, with all that a learner with a memory must see.

RL2 (Duan et al. 2016, section 2.2): the policy is fed the observation, the previous action, the previous reward and
whether an episode just ended; its memory survives the episodes of a trial and starts afresh with the next one.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.observations import check_one_array, features_of
from metarl_jax.envs.spaces import Joint, is_discrete, one_array, parts_of
from metarl_jax.envs.tasks import TaskDistribution, check_count


@struct.dataclass
class TrialState(environment.EnvState):
    """The state of the environment inside, and where in the trial it is."""

    env_state: Any  # of the environment inside
    episode: Array  # [] episodes that have ended
    episode_time: Array  # [] steps into this one
    time: Array  # [] steps into the trial


class Trials(environment.Environment[TrialState, Any]):
    """`num_episodes` episodes of `env` on one task; the parameters are those of `env`.

    Observation, a vector of D + A + 2 numbers (`envs.spaces.Joint`): what `env` shows, the previous action, the
    previous reward, and 1 where the previous step ended an episode. All three are 0 at the start of a trial; only the
    numbers of options in an action are -1, which is no option. `networks.encoder` says how such numbers are read.
    An episode ends where `env` ends it, or after `horizon` steps; the trial *terminates* with the last of them: its
    length is part of the problem, so nothing is bootstrapped there, and within it the return runs across episodes.

    Attributes:
        observation_size, action_size: D and A.
        observation_features, action_features: (size, f), what `envs.observations` makes of the D and of the A numbers.
    """

    def __init__(self, env: Any, num_episodes: int, horizon: int):
        super().__init__()
        self.env = env
        self.num_episodes = check_count("num_episodes", num_episodes)
        self.horizon = check_count("horizon", horizon)
        with jax.ensure_compile_time_eval():  # bounds are numbers, also where this is made while a program is traced
            shows, acts = env.observation_space(env.default_params), env.action_space(env.default_params)
        check_one_array("observation", shows, env.name)
        check_one_array("action", acts, env.name)
        self.num_options = int(acts.n) if hasattr(acts, "n") else None  # discrete actions
        self.shown, self._acted = Joint(parts_of(shows)), Joint(parts_of(acts))
        self.observation_size, self.action_size = self.shown.shape[0], self._acted.shape[0]
        self.observation_features, self.action_features = features_of(self.shown), features_of(self._acted)
        self._space = Joint([*self.shown.parts, *self._acted.parts, spaces.Box(-np.inf, np.inf, (2,))])
        nothing = [-1.0 if is_discrete(part) else 0.0 for part in self._acted.parts]
        self._no_action = np.repeat(nothing, self._acted.sizes)

    @property
    def default_params(self) -> Any:
        return self.env.default_params

    def reset_env(self, key: Array, params: Any) -> tuple[Array, TrialState]:
        observation, env_state = self.env.reset_env(key, params)
        zero = jnp.zeros((), int)
        env_state = jax.tree.map(jnp.asarray, env_state)  # some gymnax states begin as Python numbers
        state = TrialState(env_state=env_state, episode=zero, episode_time=zero, time=zero)
        return self._flat(observation, self._no_action, 0.0, 0.0), state

    def step_env(
        self, key: Array, state: TrialState, action: int | float | Array, params: Any
    ) -> tuple[Array, TrialState, Array, Array, dict[Any, Any]]:
        observation, state, reward, terminated, info = self.advance(key, state, action, params)
        over = info["episode_over"]
        fresh = self.restart(key, observation, state, params)

        def choose(x: Any, y: Any) -> Any:
            return jnp.where(over, x, y).astype(jnp.result_type(y))

        observation, state = jax.tree.map(choose, fresh, (observation, state))
        return observation, state, reward, terminated, info

    def advance(
        self, key: Array, state: TrialState, action: int | float | Array, params: Any
    ) -> tuple[Array, TrialState, Array, Array, dict[Any, Any]]:
        """A step that leaves an episode at its end; `info["episode_over"]` says where `restart` must follow."""
        step_key, _ = jax.random.split(key)
        observation, env_state, reward, terminated, info = self.env.step_env(step_key, state.env_state, action, params)
        time = state.episode_time + 1
        over = terminated | self.env.is_truncated(env_state, params) | (time >= self.horizon)
        state = TrialState(
            env_state=env_state,
            episode=state.episode + over.astype(state.episode.dtype),
            episode_time=jnp.where(over, 0, time),
            time=state.time + 1,
        )
        flat = self._flat(observation, action, reward, over)
        return flat, state, reward, self.is_terminated(state, params), {**info, "episode_over": over}

    def restart(self, key: Array, observation: Array, state: TrialState, params: Any) -> tuple[Array, TrialState]:
        """The next episode of the trial, seen with what the last step of the one before it did; `key`: of that step."""
        _, reset_key = jax.random.split(key)
        first, env_state = self.env.reset_env(reset_key, params)
        return observation.at[: self.observation_size].set(_numbers(first)), state.replace(env_state=env_state)

    def is_terminated(self, state: TrialState, params: Any) -> Array:
        return state.episode >= self.num_episodes

    def is_truncated(self, state: TrialState, params: Any) -> Array:
        return jnp.zeros((), bool)

    def _flat(self, observation: Any, action: Any, reward: Any, over: Any) -> Array:
        return jnp.concatenate([_numbers(x) for x in (observation, action, reward, over)])

    @property
    def name(self) -> str:
        return f"Trials({self.env.name}, {self.num_episodes} x {self.horizon})"

    @property
    def num_steps(self) -> int:
        """The longest trial: num_episodes * horizon steps."""
        return self.num_episodes * self.horizon

    @property
    def num_actions(self) -> int:
        return self.env.num_actions

    def action_space(self, params: Any = None) -> Any:
        return self.env.action_space(self.default_params if params is None else params)

    def observation_space(self, params: Any = None) -> Joint:
        return self._space


def trials(env: Any, tasks: TaskDistribution, num_episodes: int, horizon: int | None = None) -> Trials:
    """The trials of `num_episodes` episodes of `horizon` steps (None: the tasks' own) on one task of `env`.

    Equal arguments give the same instance, so that jit caches keyed on it are reused.

    Dictionaries and tuples are made one array. Raises: ValueError for counts below 1.
    """
    return _trials(env, num_episodes, tasks.horizon if horizon is None else horizon)


@functools.lru_cache(maxsize=None, typed=True)
def _trials(env: Any, num_episodes: int, horizon: int) -> Trials:
    return Trials(one_array(env), num_episodes, horizon)


def _numbers(x: Any) -> Array:
    return jnp.asarray(x, jnp.result_type(float)).reshape(-1)


def episode_ends(next_observation: Array) -> Array:
    """[..., D] what a step of a trial led to -> [...] bool: the step ended an episode."""
    return next_observation[..., -1] > 0


def episode_returns(reward: Array, ends: Array, num_episodes: int) -> Array:
    """Undiscounted return of each episode of a trial, [num_episodes, ...].

    Args:
        reward: [T, ...], 0 after the end of the trial.
        ends: [T, ...] bool, the last step of each episode.
    """
    count = ends.astype(int)
    index = jnp.cumsum(count, axis=0) - count  # episodes that had ended before this step
    which = index[None] == jnp.arange(num_episodes).reshape(-1, *[1] * reward.ndim)
    return jnp.sum(jnp.where(which, reward[None], 0), axis=1)
