"""What policies with a memory share: their heads, and the bundle of functions that they come to."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.networks.actions import Actions, actions_of
from metarl_jax.networks.encoder import Encoder, encoder_of
from metarl_jax.options import Float
from metarl_jax.types import Params, Policy


class Heads(nn.Module):
    """features [..., H] -> distribution over actions (`networks.actions`), and value [...]: one layer each.

    The std of box actions is learned, and does not depend on the features.
    """

    actions: Actions
    init_std: Float = 1.0

    @classmethod
    def of(cls, env: Any, init_std: Float = 1.0, min_std: Float = 1e-6, squash: bool = False) -> "Heads":
        """The heads for the actions of `env`."""
        return cls(actions_of(env, min_std, squash), init_std)

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[Any, jax.Array]:
        dtype, actions = features.dtype, self.actions
        small, unit = nn.initializers.orthogonal(0.01), nn.initializers.orthogonal(1.0)
        out = nn.Dense(actions.num_outputs, kernel_init=small, param_dtype=dtype, dtype=dtype, name="actor")(features)
        value = nn.Dense(1, kernel_init=unit, param_dtype=dtype, dtype=dtype, name="critic")(features)[..., 0]
        log_std = None
        if actions.num_stds:
            start = nn.initializers.constant(np.log(self.init_std))
            log_std = self.param("log_std", start, (actions.num_stds,), dtype)
        return actions.distribution(out, log_std), value


def memory_encoder(env: Any, **options: Any) -> Encoder:
    """The encoder of the observations of trials, with the options of `networks.encoder`.

    Raises: ValueError for an environment whose observation is not flat: wrap it with `envs.trial.trials`.
    """
    space = env.observation_space(env.default_params)
    if len(space.shape) != 1:
        raise ValueError(
            f"observation of shape {space.shape}: a policy with a memory reads flat vectors; wrap {env.name} in "
            "metarl_jax.envs.trial.trials"
        )
    return encoder_of(env, **options)


def memory_policy(encoder: Encoder, network: nn.Module, remember: Callable[[int], Any]) -> Policy:
    """The policy of a module with `__call__(trials [T, B, in])` and `act(memory, observation [B, in])`."""
    dtype = jnp.result_type(float)

    @jax.jit
    def init(key: jax.Array) -> Params:
        return network.init(key, encoder.nothing()[None, None].astype(dtype))["params"]

    def joint(params: Params, observation: jax.Array) -> tuple[Any, jax.Array]:
        return network.apply({"params": params}, jnp.asarray(observation, dtype))  # type: ignore[return-value]

    def step(params: Params, memory: Any, observation: jax.Array) -> tuple[Any, Any]:
        memory, (distribution, _) = network.apply(  # type: ignore[misc]
            {"params": params}, memory, jnp.asarray(observation, dtype), method="act"
        )
        return memory, distribution

    return Policy(init, lambda p, o: joint(p, o)[0], lambda p, o: joint(p, o)[1], joint, remember, step)
