"""What a Gaussian policy returns: a diagonal Gaussian, or one squashed by tanh into the box of the actions."""

import math
from typing import Annotated, Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.options import Float, NonNegative, is_zero

MinStd = Annotated[NonNegative, "least standard deviation of a Gaussian policy"]
Squash = Annotated[bool, "squash the actions of a Gaussian policy by tanh into the bounds of the action space"]

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(32)  # of the expectation over N(0, 1) in the entropy


class Box(NamedTuple):
    """The bounds of an action space, a number for each dimension."""

    low: tuple[float, ...]
    high: tuple[float, ...]


def num_actions(space: Any) -> int:
    """The number of dimensions of a box action space.

    Raises: ValueError for a space of another number of axes than one.
    """
    if len(space.shape) != 1:
        raise ValueError(f"action space of shape {space.shape}: a Gaussian policy needs one dimension")
    return int(space.shape[0])


def box_of(space: Any, name: str) -> Box:
    """The box that the actions of an environment of that name are squashed into.

    Raises: ValueError for a box without finite bounds.
    """
    with jax.ensure_compile_time_eval():
        low, high = (np.broadcast_to(np.asarray(x, float), space.shape).reshape(-1) for x in (space.low, space.high))
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise ValueError(f"squash = True: needs finite bounds, and the actions of {name} have none; leave it out")
    return Box(tuple(low.tolist()), tuple(high.tolist()))


def gaussian(mean: jax.Array, log_std: jax.Array, min_std: Float, box: Box | None) -> Any:
    """N(mean, diag(std^2)) [..., A] with std = max(exp(log_std), min_std), squashed into `box` where there is one."""
    std = jnp.exp(log_std if is_zero(min_std) else jnp.maximum(log_std, np.log(min_std)))
    normal = distrax.Independent(distrax.Normal(mean, jnp.broadcast_to(std, mean.shape)), reinterpreted_batch_ndims=1)
    return normal if box is None else Squashed(normal, box)


@struct.dataclass
class Squashed:
    """a = centre + half tanh(u), u ~ N(mean, diag(std^2)); centre and half are those of the box [low, high].

    log p(a) = log N(u; mean, std) - sum_i log(1 - tanh(u_i)^2) - sum_i log half_i, u = artanh((a - centre) / half),
    with log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)) (Haarnoja et al. 2018, appendix C).

    An action is kept and judged as the number that it is rounded to, so `sample_and_log_prob` gives the log-probability
    of the rounded action, not of the u that it was drawn by: a likelihood ratio is then 1 on replay, where that of u
    would differ from 1 by what is lost near the bounds. There artanh is cut off at the last number below 1
    (|u| <= 8.7 in float32): the probability of all that rounds to the bound is read as the density at the cut.
    Values and derivatives are finite for every action in the box, its bounds included.
    """

    normal: distrax.Independent
    box: Box = struct.field(pytree_node=False)

    def squash(self, u: jax.Array) -> jax.Array:
        """u [..., A] -> action [..., A]."""
        low, high = self._bounds()
        return jnp.clip((low + high) / 2 + (high - low) / 2 * jnp.tanh(u), low, high)

    def unsquash(self, action: jax.Array) -> jax.Array:
        """action [..., A] -> u [..., A], finite; what lies beyond the box counts as its bound."""
        low, high = self._bounds()
        most = 1 - jnp.finfo(low.dtype).epsneg
        return jnp.arctanh(jnp.clip((action - (low + high) / 2) / ((high - low) / 2), -most, most))

    def sample(self, *, seed: jax.Array) -> jax.Array:
        """An action [..., A]."""
        return self.squash(self.normal.sample(seed=seed))

    def sample_and_log_prob(self, *, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
        """An action [..., A] and its log-probability [...]."""
        action = self.sample(seed=seed)
        return action, self.log_prob(action)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log p(a) [...] in nats."""
        u = self.unsquash(action)
        return self.normal.log_prob(u) - jnp.sum(self._log_slope(u), axis=-1)

    def entropy(self) -> jax.Array:
        """[...] in nats: the Gaussian's plus E[log da/du], by Gauss-Hermite quadrature.

        Each dimension is an expectation over one number, so 32 nodes give it without samples, to 1e-4 for std up to 2
        and to 4e-3 at 3: the error grows with std, as the slope has a kink of width 1 at u = 0. Differentiable.
        """
        normal = self.normal.distribution
        nodes = jnp.asarray(NODES, normal.loc.dtype).reshape(-1, *[1] * normal.loc.ndim)
        weights = jnp.asarray(WEIGHTS / math.sqrt(2 * math.pi), normal.loc.dtype)
        slope = jnp.sum(self._log_slope(normal.loc + normal.scale * nodes), axis=-1)
        return self.normal.entropy() + jnp.tensordot(weights, slope, 1)

    def kl_divergence(self, other: "Squashed") -> jax.Array:
        """KL(self || other) [...] in nats: that of the Gaussians, as both go through the same invertible map."""
        if self.box != other.box:
            raise ValueError(f"KL divergence: the boxes differ, {self.box} and {other.box}")
        return self.normal.kl_divergence(other.normal)

    def _log_slope(self, u: jax.Array) -> jax.Array:
        """log da/du for every dimension."""
        low, high = self._bounds()
        return 2 * (math.log(2) - u - jax.nn.softplus(-2 * u)) + jnp.log((high - low) / 2)

    def _bounds(self) -> tuple[jax.Array, jax.Array]:
        dtype = self.normal.distribution.loc.dtype
        return jnp.asarray(self.box.low, dtype), jnp.asarray(self.box.high, dtype)
