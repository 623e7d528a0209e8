"""Spaces that gymnax lacks, and environments of any spaces as environments of one array.

Everything else in the library reads an observation and gives an action as one array. `one_array` makes that so:

| space                                          | array                                                        |
|------------------------------------------------|--------------------------------------------------------------|
| `.n` (Discrete), `.shape` (Box)                | as it is                                                     |
| `.nvec` (MultiDiscrete)                        | as it is, integers                                           |
| `.spaces` (Dict, Tuple, and such within such)  | a vector of the numbers of all its parts, see `Joint`        |
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class MultiDiscrete:
    """Several discrete numbers at once, number i one of 0, ..., nvec[i] - 1; int32 [len(nvec)]."""

    def __init__(self, nvec: Any):
        self.nvec = np.asarray(nvec, int)
        self.shape = self.nvec.shape
        self.dtype = jnp.int32

    def __repr__(self) -> str:
        if self.nvec.ndim == 1:
            return f"MultiDiscrete({self.nvec.tolist()})"
        return f"MultiDiscrete({list(self.shape)}, numbers below {self.nvec.min()} to {self.nvec.max()})"

    def sample(self, key: jax.Array) -> jax.Array:
        return jax.random.randint(key, self.shape, 0, jnp.asarray(self.nvec), jnp.int32)

    def contains(self, x: jax.Array) -> jax.Array:
        return jnp.all((x >= 0) & (x < jnp.asarray(self.nvec)))


class Joint:
    """Several spaces as one vector: `parts` one after another, each with as many numbers as a value of it has.

    Integers where all parts are discrete, else floats, which hold a discrete number as itself.
    """

    def __init__(self, parts: Sequence[Any]):
        self.parts = tuple(parts)
        self.sizes = tuple(int(np.prod(shape_of(part))) for part in self.parts)
        self.shape = (sum(self.sizes),)

    @property
    def dtype(self) -> Any:
        """int32, or the float type that JAX has now."""
        return jnp.int32 if all(map(is_discrete, self.parts)) else jnp.result_type(float)

    def __repr__(self) -> str:
        return f"Joint({', '.join(map(repr, self.parts))})"

    def sample(self, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(self.parts))
        return self.join([part.sample(k) for part, k in zip(self.parts, keys, strict=True)])

    def contains(self, x: jax.Array) -> jax.Array:
        return jnp.all(jnp.stack([p.contains(y) for p, y in zip(self.parts, self.split(x), strict=True)]))

    def join(self, values: Sequence[Any]) -> jax.Array:
        """Values of the parts, none of them batched, as one vector."""
        return jnp.concatenate([jnp.asarray(x, self.dtype).reshape(-1) for x in values])

    def split(self, x: jax.Array) -> list[jax.Array]:
        """[..., numbers] -> the values of the parts [..., *their shape], discrete ones as integers."""
        found, start = [], 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            value = x[..., start : start + size].reshape(*x.shape[:-1], *shape_of(part))
            found.append(value.astype(jnp.int32) if is_discrete(part) else value)
            start += size
        return found


def shape_of(space: Any) -> tuple[int, ...]:
    """The shape of a value of a space that has no parts."""
    return np.shape(space.nvec) if hasattr(space, "nvec") else tuple(space.shape)


def is_discrete(space: Any) -> bool:
    """Whether the values of a space are numbers of options: Discrete and MultiDiscrete."""
    return hasattr(space, "n") or hasattr(space, "nvec")


def has_integers(space: Any) -> bool:
    """Whether the values of a Box are integers."""
    return jnp.issubdtype(getattr(space, "dtype", float), jnp.integer)


def is_quantity(space: Any) -> bool:
    """Whether values are amounts, not numbers of options, cells of a grid [height, width, numbers] or pixels."""
    return not is_discrete(space) and not (has_integers(space) and len(shape_of(space)) == 3)


def parts_of(space: Any) -> list[Any]:
    """The spaces that a space is made of, in the order of its keys; itself, where it has no parts."""
    if not hasattr(space, "spaces"):
        return list(space.parts) if isinstance(space, Joint) else [space]
    inside = space.spaces.values() if isinstance(space.spaces, Mapping) else space.spaces
    return [part for each in inside for part in parts_of(each)]


def one_array(env: Any) -> Any:
    """`env` with an observation and an action that are one array each; itself, where they are."""
    spaces = env.observation_space(env.default_params), env.action_space(env.default_params)
    return OneArray(env) if any(hasattr(space, "spaces") for space in spaces) else env


class OneArray:
    """An environment whose dictionaries and tuples of observations and actions are vectors (`Joint`)."""

    def __init__(self, env: Any):
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.env, name)

    def observation_space(self, params: Any = None) -> Any:
        return _joined(self.env.observation_space(params))

    def action_space(self, params: Any = None) -> Any:
        return _joined(self.env.action_space(params))

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        observation, state = self.env.reset_env(key, params)
        return self._seen(observation, params), state

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        space = self.env.action_space(params)
        if hasattr(space, "spaces"):
            action = _nested(space, iter(_joined(space).split(jnp.asarray(action))))
        observation, *rest = self.env.step_env(key, state, action, params)
        return self._seen(observation, params), *rest

    def _seen(self, observation: Any, params: Any) -> Any:
        space = self.env.observation_space(params)
        return _joined(space).join(_values(space, observation)) if hasattr(space, "spaces") else observation


def _joined(space: Any) -> Any:
    return Joint(parts_of(space)) if hasattr(space, "spaces") else space


def _values(space: Any, value: Any) -> list[Any]:
    """The values of the parts of a space, in their order."""
    if not hasattr(space, "spaces"):
        return [value]
    if isinstance(space.spaces, Mapping):
        pairs = [(part, _named(value, key)) for key, part in space.spaces.items()]
    else:
        pairs = list(zip(space.spaces, value, strict=True))
    return [x for part, inside in pairs for x in _values(part, inside)]


def _named(value: Any, key: str) -> Any:
    return value[key] if isinstance(value, Mapping) else getattr(value, key)


def _nested(space: Any, values: Any) -> Any:
    """A value of the space, made of those of its parts."""
    if not hasattr(space, "spaces"):
        return next(values)
    if isinstance(space.spaces, Mapping):
        return {key: _nested(part, values) for key, part in space.spaces.items()}
    return tuple(_nested(part, values) for part in space.spaces)
