"""What a network or a linear baseline reads of an observation, or of an action: the one place that asks its space.

| space                                       | features                                  |
|---------------------------------------------|-------------------------------------------|
| `.n` (Discrete)                             | one-hot [n]                               |
| `.nvec` (several discrete numbers at once)  | their one-hots after one another          |
| `.shape` (Box, of floats or of integers)    | the numbers themselves, flattened         |
| `Joint` (several spaces as one vector)      | those of its parts, one after another     |
| `.spaces` (Dict, Tuple)                     | refused: `envs.spaces.one_array` first    |
"""

from collections.abc import Callable, Sequence
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


def one_hots(x: jax.Array, options: Sequence[int]) -> jax.Array:
    """Numbers [..., K] -> the one-hot vectors of all, one after another [..., sum of options]; 0 for what is none."""
    return jnp.concatenate([_one_hot(x[..., i], n) for i, n in enumerate(options)], axis=-1)


def _several(options: np.ndarray) -> tuple[int, Features]:
    """Of several numbers; those of a grid's cells together, so that the program does not grow with the grid."""
    axes, cell = options.ndim, options.reshape(-1, options.shape[-1])
    if not np.all(cell == cell[0]):
        cell = options.reshape(1, -1)
    each = tuple(int(n) for n in cell[0])

    def flat(x: jax.Array) -> jax.Array:
        lead = x.shape[: x.ndim - axes]
        return one_hots(x.reshape(*lead, -1, len(each)), each).reshape(*lead, -1)

    return int(options.sum()), flat


def _one_hot(observation: jax.Array, options: int) -> jax.Array:
    return jax.nn.one_hot(observation, options, dtype=jnp.result_type(float))
