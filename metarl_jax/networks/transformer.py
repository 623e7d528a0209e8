"""A policy that remembers by attention: a causal transformer over the steps of a trial, which learns in context."""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl_jax.networks.gaussian import MinStd, Squash
from metarl_jax.networks.memory import Heads, memory_policy
from metarl_jax.options import Layers, Positive, Rate, Width, check_divides, takes_options
from metarl_jax.types import Policy


class Block(nn.Module):
    """x + Attention(LN x), then x + MLP(LN x): pre-norm (Xiong et al. 2020)."""

    num_heads: int
    decode: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        types: dict[str, Any] = {"param_dtype": x.dtype, "dtype": x.dtype}
        size = x.shape[-1]
        attention = nn.MultiHeadDotProductAttention(self.num_heads, decode=self.decode, **types)
        x = x + attention(nn.LayerNorm(**types)(x), mask=mask)
        y = nn.gelu(nn.Dense(4 * size, **types)(nn.LayerNorm(**types)(x)))
        return x + nn.Dense(size, **types)(y)


class TransformerActorCritic(nn.Module):
    """Decoder-only transformer with learned positions and the two heads.

    `__call__` reads whole trials in parallel under a causal mask; with `decode`, one step against the cached keys and
    values of the steps before it. The two share parameters and agree.
    """

    context: int
    heads: Heads
    size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    decode: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array | None = None) -> tuple[Any, jax.Array]:
        """[T, B, in] -> distribution and value [T, B]; with `decode`, T is 1 and `time` [] says which step it is."""
        types: dict[str, Any] = {"param_dtype": x.dtype, "dtype": x.dtype}
        length = x.shape[0]
        positions = self.param("positions", nn.initializers.normal(0.02), (self.context, self.size), x.dtype)
        where = positions[:length] if time is None else jax.lax.dynamic_slice_in_dim(positions, time, length)
        x = nn.Dense(self.size, name="embedding", **types)(x) + where[:, None]
        x = jnp.swapaxes(x, 0, 1)  # attention is along the axis before the last: [B, T, size]
        mask = None if self.decode else nn.make_causal_mask(x[..., 0], dtype=bool)
        for _ in range(self.num_layers):
            x = Block(self.num_heads, self.decode)(x, mask)
        return self.heads(jnp.swapaxes(nn.LayerNorm(**types)(x), 0, 1))

    def act(self, memory: Any, x: jax.Array) -> tuple[Any, tuple[Any, jax.Array]]:
        """One step [B, in]; `memory` holds the step's number and, layer by layer, the keys and values before it."""
        one = self.clone(decode=True, parent=None)
        variables = {"params": self.variables["params"], "cache": memory["cache"]}
        (distribution, value), new = one.apply(variables, x[None], memory["time"], mutable=["cache"])
        memory = {"time": memory["time"] + 1, "cache": new["cache"]}
        return memory, jax.tree.map(lambda y: y[0], (distribution, value))


@takes_options()
def transformer_policy(
    env: Any,
    context: Annotated[Positive, "the longest trial in steps"],
    size: Annotated[Width, "width of the residual stream, a multiple of num_heads"] = 64,
    *,
    num_layers: Annotated[Layers, "transformer: layers"] = 2,
    num_heads: Annotated[Positive, "transformer: attention heads"] = 4,
    init_std: Annotated[Rate, "initial standard deviation of a Gaussian policy"] = 1.0,
    min_std: MinStd = 1e-6,
    squash: Squash = False,
) -> Policy:
    """Actor and critic on one causal transformer, for the flat observations of `envs.trial`.

    Acting costs O(context) a step (the cache has a fixed length), training one parallel pass over the trial.

    Args:
        context: the longest trial in steps.
        size: width of the residual stream, a multiple of `num_heads`.
    Raises: ValueError for a size that the heads do not divide, and, on tracing, for a trial longer than the context.
    """
    check_divides("num_heads", num_heads, size, "size")
    network = TransformerActorCritic(context, Heads.of(env, init_std, min_std, squash), size, num_layers, num_heads)
    width = int(env.observation_space(env.default_params).shape[0])
    dtype = jnp.result_type(float)

    def remember(num_streams: int) -> Any:
        longest = jnp.zeros((context, num_streams, width), dtype)
        shapes = jax.eval_shape(network.clone(decode=True).init, jax.random.key(0), longest)["cache"]
        return {"time": jnp.zeros((), int), "cache": jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)}

    policy = memory_policy(env, network, remember)

    def joint(params: Any, observation: jax.Array) -> tuple[Any, jax.Array]:
        length = observation.shape[0]
        if length > context:
            raise ValueError(
                f"context = {context}: is shorter than the trial of {length} steps; use a context of {length}"
            )
        assert policy.joint is not None
        return policy.joint(params, observation)

    return policy._replace(joint=joint, apply=lambda p, o: joint(p, o)[0], value=lambda p, o: joint(p, o)[1])
