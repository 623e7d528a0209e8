"""A policy network of one's own: a linear policy beside an MLP, their outputs added up."""

from typing import Any

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl_jax.types import Policy


class Actor(nn.Module):
    """Observation [..., D] -> mean [..., A], log standard deviation [A]."""

    actions: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        small = nn.initializers.normal(0.01)
        mean = nn.Dense(self.actions, kernel_init=small)(x)
        mean = mean + nn.Dense(self.actions, kernel_init=small)(nn.tanh(nn.Dense(self.width)(x)))
        return mean, self.param("log_std", nn.initializers.zeros, (self.actions,))


def linear_plus_mlp(env: Any, *, critic: bool = False, width: int = 32) -> Policy:
    """The factory that `network: slide_tasks.networks:linear_plus_mlp` names."""
    size = env.observation_space(env.default_params).shape[0]
    actor = Actor(env.action_space(env.default_params).shape[0], width)
    value = nn.Sequential([nn.Dense(width), nn.tanh, nn.Dense(1)])

    def init(key: jax.Array) -> Any:
        params = {"actor": actor.init(key, jnp.zeros(size))["params"]}
        return {**params, "critic": value.init(key, jnp.zeros(size))["params"]} if critic else params

    def act(params: Any, observation: jax.Array) -> distrax.Distribution:
        mean, log_std = actor.apply({"params": params["actor"]}, observation)
        scale = jnp.broadcast_to(jnp.exp(log_std), mean.shape)
        return distrax.Independent(distrax.Normal(mean, scale), reinterpreted_batch_ndims=1)

    def evaluate(params: Any, observation: jax.Array) -> jax.Array:
        return value.apply({"params": params["critic"]}, observation)[..., 0]

    return Policy(init, act, evaluate if critic else None)
