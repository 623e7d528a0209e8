"""Multi-layer perceptrons: a torso, a categorical and a diagonal Gaussian head, and the policy they make."""

from collections.abc import Sequence
from typing import Any

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.types import Params, Policy

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "elu": nn.elu, "gelu": nn.gelu, "silu": nn.silu}


def activation(name: str) -> Any:
    """The flax activation function of that name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation = {name!r}: must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """x [..., in] -> [..., out]; hidden layers orthogonal with gain sqrt 2, the last one with `output_gain`."""

    hidden: Sequence[int]
    out: int
    activation: str = "tanh"
    output_gain: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        act, dtype = activation(self.activation), jnp.result_type(float)  # float64 where JAX is told so
        for width in self.hidden:
            x = act(nn.Dense(width, kernel_init=nn.initializers.orthogonal(np.sqrt(2)), param_dtype=dtype)(x))
        last = nn.initializers.orthogonal(self.output_gain)
        return nn.Dense(self.out, kernel_init=last, param_dtype=dtype, name="output")(x)


class Categorical(nn.Module):
    """Policy over `num_actions` discrete actions; no hidden layers make it linear."""

    num_actions: int
    hidden: Sequence[int] = (64, 64)
    activation: str = "tanh"
    output_gain: float = 0.01

    @nn.compact
    def __call__(self, observation: jax.Array) -> distrax.Categorical:
        return distrax.Categorical(
            logits=MLP(self.hidden, self.num_actions, self.activation, self.output_gain)(observation)
        )


class Gaussian(nn.Module):
    """N(mean(o), diag(std^2)) with a learned std that does not depend on the observation.

    std = max(exp(log_std), min_std). Log-probabilities sum over the action dimensions.
    """

    action_dim: int
    hidden: Sequence[int] = (64, 64)
    activation: str = "tanh"
    output_gain: float = 0.01
    init_std: float = 1.0
    min_std: float = 1e-6

    @nn.compact
    def __call__(self, observation: jax.Array) -> distrax.Independent:
        mean = MLP(self.hidden, self.action_dim, self.activation, self.output_gain)(observation)
        log_std = self.param("log_std", nn.initializers.constant(np.log(self.init_std)), (self.action_dim,))
        log_std = jnp.maximum(log_std, np.log(self.min_std))
        scale = jnp.broadcast_to(jnp.exp(log_std), mean.shape)
        return distrax.Independent(distrax.Normal(mean, scale), reinterpreted_batch_ndims=1)


def mlp_policy(
    env: Any,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    *,
    critic: bool = False,
    init_std: float = 1.0,
    min_std: float = 1e-6,
    output_gain: float = 0.01,
) -> Policy:
    """The MLP policy that fits `env`: categorical for a discrete action space, Gaussian for a box.

    With `critic`, a second MLP of the same shape estimates the value; the two share no weights.
    `hidden=()` gives a linear policy. Observations are flattened.
    """
    params = env.default_params
    space = env.action_space(params)
    rank = len(env.observation_space(params).shape)
    size = int(np.prod(env.observation_space(params).shape))
    actor: nn.Module
    if hasattr(space, "n"):
        actor = Categorical(int(space.n), tuple(hidden), activation, output_gain)
    else:
        if len(space.shape) != 1:
            raise ValueError(f"action space of shape {space.shape}: a Gaussian policy needs one dimension")
        actor = Gaussian(int(space.shape[0]), tuple(hidden), activation, output_gain, init_std, min_std)
    value = MLP(tuple(hidden), 1, activation)

    def flat(observation: jax.Array) -> jax.Array:
        lead = observation.shape[: observation.ndim - rank]
        return jnp.asarray(observation, jnp.result_type(float)).reshape(*lead, size)

    def init(key: jax.Array) -> Params:
        actor_key, critic_key = jax.random.split(key)
        params = {"actor": actor.init(actor_key, jnp.zeros(size))["params"]}
        if critic:
            params["critic"] = value.init(critic_key, jnp.zeros(size))["params"]
        return params

    def act(params: Params, observation: jax.Array) -> Any:
        return actor.apply({"params": params["actor"]}, flat(observation))

    def evaluate(params: Params, observation: jax.Array) -> jax.Array:
        out: Any = value.apply({"params": params["critic"]}, flat(observation))
        return out[..., 0]

    return Policy(init, act, evaluate if critic else None)
