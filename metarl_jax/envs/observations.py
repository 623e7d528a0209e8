"""What a network or a linear baseline reads of an observation: the one place that asks the observation space.

| space                                       | features                                  |
|---------------------------------------------|-------------------------------------------|
| `.n` (Discrete)                             | one-hot [n]                               |
| `.nvec` (several discrete numbers at once)  | their one-hots after one another          |
| `.shape` (Box, of floats or of integers)    | the numbers themselves, flattened         |
| `.spaces` (Dict, Tuple)                     | refused: wrap it so that it is one array  |
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Features = Callable[[jax.Array], jax.Array]


def flattener(env: Any) -> tuple[int, Features]:
    """(size, f) with f: observations [..., *shape] -> features [..., size], in JAX's float type.

    Raises: ValueError for an observation that is not one array.
    """
    space = env.observation_space(env.default_params)
    check_one_array("observation", space, env.name)
    if hasattr(space, "nvec"):
        return _several(np.asarray(space.nvec))
    if hasattr(space, "n"):
        options = int(space.n)
        return options, lambda observation: _one_hot(observation, options)
    shape = tuple(space.shape)
    size = int(np.prod(shape))

    def flat(observation: jax.Array) -> jax.Array:
        lead = observation.shape[: observation.ndim - len(shape)]
        return jnp.asarray(observation, jnp.result_type(float)).reshape(*lead, size)

    return size, flat


def check_one_array(what: str, space: Any, name: str) -> None:
    """Raises: ValueError for the space of an observation or an action that is not one array."""
    if not hasattr(space, "shape") or hasattr(space, "spaces"):
        raise ValueError(
            f"{what} space {type(space).__name__} of {name}: cannot be concatenated into one vector; "
            "wrap the environment so that it is one array"
        )


def state_index(observation: jax.Array) -> jax.Array:
    """The state that an observation of a finite task names: a number itself, or a one-hot vector [S]."""
    observation = jnp.asarray(observation)
    return jnp.argmax(observation) if observation.ndim else observation.astype(int)


def _several(options: np.ndarray) -> tuple[int, Features]:
    ends = [int(n) for n in options.reshape(-1)]

    def one_hots(observation: jax.Array) -> jax.Array:
        numbers = observation.reshape(*observation.shape[: observation.ndim - options.ndim], len(ends))
        return jnp.concatenate([_one_hot(numbers[..., i], n) for i, n in enumerate(ends)], axis=-1)

    return sum(ends), one_hots


def _one_hot(observation: jax.Array, options: int) -> jax.Array:
    return jax.nn.one_hot(observation, options, dtype=jnp.result_type(float))
