"""The distribution over the actions of an environment that the outputs of a network stand for, whatever the space.

| action space                       | outputs of the network       | distribution                                     |
|------------------------------------|------------------------------|--------------------------------------------------|
| `.n` (Discrete)                    | logits [n]                   | Categorical                                      |
| `.shape` (Box) of one dimension    | means [A]                    | Gaussian, a learned std; squashed if asked for   |
| `.nvec` (MultiDiscrete)            | logits of each, one by one   | Product of Categoricals                          |
| `Joint` (dictionaries, tuples)     | those of its parts           | Product of the above                             |
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.envs.spaces import Joint, parts_of
from metarl_jax.networks.gaussian import Box, box_of, gaussian, num_actions
from metarl_jax.options import Float


@struct.dataclass
class Product:
    """Independent parts of one action [..., A], `sizes[i]` numbers of which are of `parts[i]`.

    log p(a) = sum_i log p_i(a_i); entropies and KL divergences are sums too, so all are exact where those of the parts
    are. A part of one number whose distribution has no event axis (Categorical) is read as that number.
    """

    parts: tuple[Any, ...]
    sizes: tuple[int, ...] = struct.field(pytree_node=False)

    def sample(self, *, seed: jax.Array) -> jax.Array:
        """An action [..., A]: integers where all parts are discrete, else floats."""
        keys = jax.random.split(seed, len(self.parts))
        return self._join([part.sample(seed=key) for part, key in zip(self.parts, keys, strict=True)])

    def sample_and_log_prob(self, *, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
        """An action [..., A] and its log-probability [...]."""
        action = self.sample(seed=seed)
        return action, self.log_prob(action)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log p(a) [...] in nats."""
        found, start = [], 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            own = action[..., start : start + size]
            found.append(part.log_prob(own[..., 0].astype(jnp.int32) if _is_categorical(part) else own))
            start += size
        return sum(found[1:], found[0])

    def entropy(self) -> jax.Array:
        """[...] in nats."""
        found = [part.entropy() for part in self.parts]
        return sum(found[1:], found[0])

    def kl_divergence(self, other: "Product") -> jax.Array:
        """KL(self || other) [...] in nats."""
        found = [p.kl_divergence(q) for p, q in zip(self.parts, other.parts, strict=True)]
        return sum(found[1:], found[0])

    def _join(self, values: list[jax.Array]) -> jax.Array:
        columns = [x[..., None] if _is_categorical(p) else x for p, x in zip(self.parts, values, strict=True)]
        return jnp.concatenate(columns, axis=-1)


def _is_categorical(part: Any) -> bool:
    return isinstance(part, distrax.Categorical)


class Actions(NamedTuple):
    """What a network has to give for the actions of an environment, and what that stands for."""

    num_outputs: int
    num_stds: int  # entries of `log_std`, 0 without a Gaussian
    distribution: Callable[[jax.Array, Any], Any]  # outputs [..., num_outputs], log_std [num_stds] or None


def actions_of(env: Any, min_std: Float = 1e-6, squash: bool = False) -> Actions:
    """How the actions of `env` are drawn; with `squash` the Gaussians go through tanh into the bounds of their boxes.

    Raises: ValueError for a box of another number of axes than one, and for `squash` without a box or finite bounds.
    """
    space = _space(env)
    if not (hasattr(space, "n") or hasattr(space, "nvec")):
        num_actions(space)  # raises unless it has one axis
    kinds = _kinds(space)
    if squash and all(kind.box is None for kind in kinds):
        raise ValueError(f"squash = True: needs box actions, and those of {env.name} are discrete; leave it out")
    boxes = [None if kind.box is None or not squash else box_of(kind.box, env.name) for kind in kinds]
    ends = np.cumsum([kind.size for kind in kinds])[:-1].tolist()
    stds = np.cumsum([0 if kind.box is None else kind.size for kind in kinds]).tolist()

    def one(kind: _Kind, box: Box | None, out: jax.Array, log_std: Any) -> Any:
        return distrax.Categorical(logits=out) if kind.box is None else gaussian(out, log_std, min_std, box)

    def distribution(out: jax.Array, log_std: Any) -> Any:
        own = [None] * len(kinds) if log_std is None else jnp.split(log_std, stds[:-1])
        return _together(space, kinds, [*map(one, kinds, boxes, jnp.split(out, ends, axis=-1), own)])

    return Actions(sum(kind.size for kind in kinds), stds[-1], distribution)


def uniform(env: Any) -> Callable[[tuple[int, ...]], Any]:
    """batch shape -> the uniform distribution over the actions of `env`."""
    space = _space(env)
    kinds = _kinds(space)

    def one(kind: _Kind, batch: tuple[int, ...]) -> Any:
        if kind.box is None:
            return distrax.Categorical(logits=jnp.zeros((*batch, kind.size)))
        bounds = (jnp.broadcast_to(jnp.asarray(b, float), kind.box.shape) for b in (kind.box.low, kind.box.high))
        shape = kind.box.shape if space is kind.box else (kind.size,)
        low, high = (jnp.broadcast_to(b.reshape(shape), (*batch, *shape)) for b in bounds)
        return distrax.Independent(distrax.Uniform(low, high), reinterpreted_batch_ndims=len(shape))

    return lambda batch: _together(space, kinds, [one(kind, batch) for kind in kinds])


def _space(env: Any) -> Any:
    with jax.ensure_compile_time_eval():  # its bounds are numbers, also where a constructor is traced
        return env.action_space(env.default_params)


class _Kind(NamedTuple):
    """One distribution of an action: a Categorical of `size` options, or a Gaussian of `size` numbers in `box`."""

    size: int
    box: Any = None


def _kinds(space: Any) -> list[_Kind]:
    def of(part: Any) -> list[_Kind]:
        if hasattr(part, "nvec"):
            if part is space and np.ndim(part.nvec) != 1:
                raise ValueError(f"action space of shape {np.shape(part.nvec)}: several discrete numbers need one axis")
            return [_Kind(int(n)) for n in np.asarray(part.nvec).reshape(-1)]
        if hasattr(part, "n"):
            return [_Kind(int(part.n))]
        return [_Kind(int(np.prod(part.shape)), part)]

    return [kind for part in parts_of(space) for kind in of(part)]


def _together(space: Any, kinds: list[_Kind], found: list[Any]) -> Any:
    """The distribution of an action that is made of these."""
    if hasattr(space, "nvec") or isinstance(space, Joint):
        return Product(tuple(found), tuple(1 if kind.box is None else kind.size for kind in kinds))
    return found[0]
