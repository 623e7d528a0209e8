"""Multi-armed bandits (Duan et al. 2016, section 3.2): one pull a step, the observation is a constant.

An episode of `horizon` pulls *terminates*: nothing remains to be bootstrapped after the last pull.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.tasks import TaskDistribution, check_count, check_positive


@struct.dataclass(kw_only=True)
class BernoulliParams(environment.EnvParams):
    """The task of a Bernoulli bandit."""

    probs: Array  # [k] probability of reward 1
    max_steps_in_episode: Array


@struct.dataclass(kw_only=True)
class GaussianParams(environment.EnvParams):
    """The task of a Gaussian bandit."""

    means: Array  # [k]
    sigma: Array  # [] standard deviation of every arm
    max_steps_in_episode: Array


@struct.dataclass
class BanditState(environment.EnvState):
    """The clock; a bandit has no other state."""

    time: Array  # [] pulls in this episode


def bernoulli_pull(key: Array, arm: Array, params: BernoulliParams) -> Array:
    """r ~ Bernoulli(p_arm), as 0. or 1."""
    return jax.random.bernoulli(key, params.probs[arm]).astype(params.probs.dtype)


def gaussian_pull(key: Array, arm: Array, params: GaussianParams) -> Array:
    """r ~ N(mean_arm, sigma^2)."""
    return params.means[arm] + params.sigma * jax.random.normal(key, (), params.means.dtype)


class Bandit(environment.Environment[BanditState, Any]):
    """k arms; `pull(key, arm, params) -> reward`; `params` turns one number per arm [k] into a task."""

    def __init__(self, num_arms: int, pull: Callable[[Array, Array, Any], Array], params: Callable[[Array], Any]):
        super().__init__()
        self.num_arms = check_count("num_arms", num_arms)
        self.pull = pull
        self.params = params

    @property
    def default_params(self) -> Any:
        return self.params(jnp.linspace(0.0, 1.0, self.num_arms))

    def reset_env(self, key: Array, params: Any) -> tuple[Array, BanditState]:
        del key
        state = BanditState(time=jnp.zeros((), int))
        return self.get_obs(state, params), state

    def step_env(
        self, key: Array, state: BanditState, action: int | float | Array, params: Any
    ) -> tuple[Array, BanditState, Array, Array, dict[Any, Any]]:
        reward = self.pull(key, jnp.asarray(action, int), params)
        state = BanditState(time=state.time + 1)
        return self.get_obs(state, params), state, reward, self.is_terminated(state, params), {}

    def is_terminated(self, state: BanditState, params: Any) -> Array:
        return state.time >= params.max_steps_in_episode

    def is_truncated(self, state: BanditState, params: Any) -> Array:
        return jnp.zeros((), bool)  # the number of pulls is part of the problem, not a time limit

    def get_obs(self, state: BanditState, params: Any = None, key: Array | None = None) -> Array:
        return jnp.zeros(1, float)

    @property
    def name(self) -> str:
        return f"Bandit({self.num_arms}, {self.pull.__name__})"

    @property
    def num_actions(self) -> int:
        return self.num_arms

    def action_space(self, params: Any = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_arms)

    def observation_space(self, params: Any = None) -> spaces.Box:
        return spaces.Box(0.0, 0.0, (1,), jnp.float32)


def bernoulli_bandit(*, num_arms: int = 5, horizon: int = 1) -> tuple[Bandit, TaskDistribution]:
    """p_i ~ U[0, 1]. The oracle knows p: horizon * max p; its mean is horizon * k / (k + 1)."""
    env = _bernoulli_environment(check_count("num_arms", num_arms), check_count("horizon", horizon))

    def sample(key: Array) -> BernoulliParams:
        return env.params(jax.random.uniform(key, (num_arms,), float))

    def oracle(params: BernoulliParams) -> Array:
        return horizon * params.probs.max()

    return env, TaskDistribution(sample, horizon, oracle=oracle, description=f"{num_arms} Bernoulli arms, p ~ U[0, 1]")


def gaussian_bandit(*, num_arms: int = 5, horizon: int = 1, sigma: float = 1.0) -> tuple[Bandit, TaskDistribution]:
    """mean_i ~ U[0, 1], reward N(mean_i, sigma^2). The oracle knows the means: horizon * max mean."""
    sigma = check_positive("sigma", sigma, or_zero=True)
    env = _gaussian_environment(check_count("num_arms", num_arms), check_count("horizon", horizon), sigma)

    def sample(key: Array) -> GaussianParams:
        return env.params(jax.random.uniform(key, (num_arms,), float))

    def oracle(params: GaussianParams) -> Array:
        return horizon * params.means.max()

    description = f"{num_arms} Gaussian arms, means ~ U[0, 1], sigma {sigma:g}"
    return env, TaskDistribution(sample, horizon, oracle=oracle, description=description)


@functools.cache
def _bernoulli_environment(num_arms: int, horizon: int) -> Bandit:
    def params(probs: Array) -> BernoulliParams:
        return BernoulliParams(probs=jnp.asarray(probs, float), max_steps_in_episode=jnp.asarray(horizon, int))

    return Bandit(num_arms, bernoulli_pull, params)


@functools.cache
def _gaussian_environment(num_arms: int, horizon: int, sigma: float) -> Bandit:
    def params(means: Array) -> GaussianParams:
        return GaussianParams(
            means=jnp.asarray(means, float),
            sigma=jnp.asarray(sigma, float),
            max_steps_in_episode=jnp.asarray(horizon, int),
        )

    return Bandit(num_arms, gaussian_pull, params)
