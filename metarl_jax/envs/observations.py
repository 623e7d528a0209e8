"""What a network or a linear baseline reads of an observation, or of an action: the one place that asks its space.

| space                                       | features                                  |
|---------------------------------------------|-------------------------------------------|
| `.n` (Discrete)                             | one-hot [n]                               |
| `.nvec` (several discrete numbers at once)  | their one-hots after one another          |
| `.shape` (Box, of floats or of integers)    | the numbers themselves, flattened         |
| `Joint` (several spaces as one vector)      | those of its parts, one after another     |
| `.spaces` (Dict, Tuple)                     | refused: `envs.spaces.one_array` first    |
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.envs.spaces import Joint

Features = Callable[[jax.Array], jax.Array]


def flattener(env: Any) -> tuple[int, Features]:
    """(size, f) with f: observations [..., *shape] -> features [..., size], in JAX's float type.

    Raises: ValueError for an observation that is not one array.
    """
    space = env.observation_space(env.default_params)
    check_one_array("observation", space, env.name)
    return features_of(space)


def features_of(space: Any) -> tuple[int, Features]:
    """(size, f) with f: values of a space [..., *shape] -> features [..., size], in JAX's float type."""
    if isinstance(space, Joint):
        sizes, parts = zip(*map(features_of, space.parts), strict=True)
        return sum(sizes), lambda x: jnp.concatenate([f(y) for f, y in zip(parts, space.split(x), strict=True)], -1)
    if hasattr(space, "nvec"):
        return _several(np.asarray(space.nvec))
    if hasattr(space, "n"):
        options = int(space.n)
        return options, lambda value: _one_hot(value, options)
    shape = tuple(space.shape)
    size = int(np.prod(shape))

    def flat(value: jax.Array) -> jax.Array:
        value = jnp.asarray(value, jnp.result_type(float))
        return value.reshape(*value.shape[: value.ndim - len(shape)], size)

    return size, flat


def check_one_array(what: str, space: Any, name: str) -> None:
    """Raises: ValueError for the space of an observation or an action that is not one array."""
    if not hasattr(space, "shape") or hasattr(space, "spaces"):
        raise ValueError(
            f"{what} space {type(space).__name__} of {name}: is not one array; metarl_jax.envs.spaces.one_array makes "
            "an environment with one of it"
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
