"""What a network makes of an observation before its first layer, one encoding for each part of its space.

| part                                              | without options | `embedding_size`      | `channels`             |
|---------------------------------------------------|-----------------|-----------------------|------------------------|
| Discrete, MultiDiscrete                           | one-hot         | a learned vector each |                        |
| grid: MultiDiscrete [height, width, numbers]      | one-hot         | a learned vector each | convolutions of either |
| grid: Box of integers, the same, 0 to below 255   | its numbers     | a learned vector each | convolutions of either |
| image: Box [height, width, channels]              | its numbers     |                       | convolutions           |
| Box of other shapes                               | its numbers     |                       |                        |

All parts are flattened and joined. Without options there is nothing to learn in them, and they are what
`envs.observations.features_of` gives.
"""

from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.envs.observations import check_one_array, features_of, one_hots
from metarl_jax.envs.spaces import Joint, has_integers, is_discrete, is_quantity, parts_of, shape_of
from metarl_jax.options import Positive, Width, Widths, takes_options

Activation = Literal["tanh", "relu", "elu", "gelu", "silu"]

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "elu": nn.elu, "gelu": nn.gelu, "silu": nn.silu}
PIXEL = 255  # images of integers up to this are divided by it before they are convolved


def activation(name: str) -> Any:
    """The flax activation function of that name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation = {name!r}: must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class Convolution(nn.Module):
    """x [..., H, W, C] -> [..., H', W', channels] with H' = (H - size) // stride + 1: no padding.

    A matrix product over all patches of the image. Where agents have weights of their own, in an inner loop, over seeds
    or in a population, it becomes a batch of matrix products; of `nn.Conv` XLA makes a grouped convolution there.
    """

    channels: int
    size: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        tall, wide = (_after(n, self.size, self.stride) for n in x.shape[-3:-1])
        starts = [(i, j) for i in range(self.size) for j in range(self.size)]
        rows, columns = ((n - 1) * self.stride + 1 for n in (tall, wide))
        patches = [x[..., i : i + rows : self.stride, j : j + columns : self.stride, :] for i, j in starts]
        return nn.Dense(self.channels, param_dtype=jnp.result_type(float))(jnp.concatenate(patches, axis=-1))


class Embedding(nn.Module):
    """numbers [..., K] -> their vectors [..., K size], from a table for each of the K; zeros for what is no option."""

    options: tuple[int, ...]  # of each of the K
    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype, spread = jnp.result_type(float), nn.initializers.normal(1 / np.sqrt(self.size))
        tables = [self.param(f"table_{i}", spread, (n, self.size), dtype) for i, n in enumerate(self.options)]
        numbers = [x[..., i].astype(jnp.int32) for i in range(len(tables))]
        return jnp.concatenate([_rows(table, n) for table, n in zip(tables, numbers, strict=True)], axis=-1)


def _rows(table: jax.Array, number: jax.Array) -> jax.Array:
    """table [n, size], numbers [...] -> rows [..., size]; an index below 0 would count from the end."""
    return table.at[jnp.where(number < 0, len(table), number)].get(mode="fill", fill_value=0)


class Encoder(nn.Module):
    """Values of `space` [..., *shape] -> features [..., F], as the table at the top of this file says."""

    space: Any
    channels: tuple[int, ...] = ()
    kernel_size: int = 3
    stride: int = 1
    embedding_size: int | None = None
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not isinstance(self.space, Joint):
            return self._encoded(self.space, x)
        pairs = zip(self.space.parts, self.space.split(x), strict=True)
        return jnp.concatenate([self._encoded(part, value) for part, value in pairs], axis=-1)

    def nothing(self) -> jax.Array:
        """An observation of zeros, for initialisers."""
        return jnp.zeros(shape_of(self.space), getattr(self.space, "dtype", float))

    def _encoded(self, part: Any, x: jax.Array) -> jax.Array:
        vector = None if _options(part) is None else self.embedding_size
        convolves = bool(self.channels) and is_image(part)
        if vector is None and not convolves:
            return features_of(part)[1](x)
        lead = x.shape[: x.ndim - len(shape_of(part))]
        if vector is not None or is_discrete(part):
            options = np.asarray(_options(part))
            grid = options.shape[:-1] if is_image(part) else ()
            each = tuple(int(n) for n in options.reshape(*grid, -1)[(0,) * len(grid)])
            x = x.reshape(*lead, *grid, -1)
            x = one_hots(x, each) if vector is None else Embedding(each, vector)(x)
        elif has_integers(part) and np.max(part.high) == PIXEL:
            x = x / PIXEL
        x = jnp.asarray(x, jnp.result_type(float))
        if convolves:
            for width in self.channels:
                x = activation(self.activation)(Convolution(width, self.kernel_size, self.stride)(x))
        return x.reshape(*lead, -1)


ENCODING = ("channels", "kernel_size", "stride", "embedding_size")  # options of `encoder_of`


def is_image(part: Any) -> bool:
    """Whether a space is of three axes, [height, width, channels], with the same options in each of its cells."""
    if len(shape_of(part)) != 3:
        return False
    options = _options(part)
    return options is None or bool(np.all(options == options[:1, :1]))


def _options(part: Any) -> np.ndarray | None:
    """How many options there are for each number of a space [*shape]; None where it is of other numbers."""
    if is_discrete(part):
        return np.asarray(part.nvec if hasattr(part, "nvec") else part.n)
    if is_quantity(part) or not (hasattr(part, "low") and hasattr(part, "high")):
        return None
    low, high = (np.broadcast_to(np.asarray(bound, float), shape_of(part)) for bound in (part.low, part.high))
    small = np.all(low == 0) and np.all(high < PIXEL)
    return high.astype(int) + 1 if small else None


def _after(n: int, size: int, stride: int) -> int:
    return (n - size) // stride + 1


@takes_options()
def encoder_of(
    env: Any,
    activation: str = "relu",
    *,
    channels: Annotated[Widths, "filters of each convolution over images; []: none, their pixels are numbers"] = (),
    kernel_size: Annotated[Positive, "pixels that a filter is wide and high"] = 3,
    stride: Annotated[Positive, "pixels from one place of a filter to the next"] = 1,
    embedding_size: Annotated[
        Width | None, "numbers that an option of a discrete observation is looked up as; null: one-hot"
    ] = None,
    space: Any = None,
) -> Encoder:
    """The encoder of the observations of `env`, each convolution followed by `activation`.

    Args:
        space: of what is read, where that is not what `env` shows.
    Raises: ValueError for convolutions without an image or larger than one, and for an embedding of no discrete part.
    """
    if space is None:
        with jax.ensure_compile_time_eval():  # bounds are numbers, also where a constructor is traced
            space = env.observation_space(env.default_params)
        check_one_array("observation", space, env.name)
    images = [part for part in parts_of(space) if is_image(part)]
    if channels and not images:
        raise ValueError(
            f"channels = {list(channels)}: no part of the observations of {env.name} is an image "
            "[height, width, channels]; leave it out"
        )
    for name, value, default in (("kernel_size", kernel_size, 3), ("stride", stride, 1)):
        if value != default and not channels:
            raise ValueError(f"{name} = {value}: is for convolutions, and channels is empty")
    for image in images if channels else ():
        tall, wide = shape_of(image)[:2]
        sizes = [min(tall, wide)]
        for _ in channels:
            sizes.append(_after(sizes[-1], kernel_size, stride))
        if sizes[-1] < 1:
            fits = sum(size >= 1 for size in sizes) - 1
            raise ValueError(
                f"channels = {list(channels)}: an image of {tall} x {wide} in {env.name} is too small for "
                f"{len(channels)} convolutions of kernel_size = {kernel_size} and stride = {stride}; at most {fits} fit"
            )
    if embedding_size is not None and all(_options(part) is None for part in parts_of(space)):
        raise ValueError(
            f"embedding_size = {embedding_size}: no part of the observations of {env.name} is discrete; leave it out"
        )
    return Encoder(space, tuple(channels), kernel_size, stride, embedding_size, activation)
