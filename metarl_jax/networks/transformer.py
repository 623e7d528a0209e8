"""A policy that remembers by attention: a causal transformer over the steps of a trial, which learns in context."""

import operator
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl_jax.networks import attention
from metarl_jax.networks.encoder import Encoder, encoder_of
from metarl_jax.networks.gaussian import MinStd, Squash
from metarl_jax.networks.memory import Heads, memory_encoder, memory_policy
from metarl_jax.options import Layers, Positive, Rate, Width, check_divides, takes_options
from metarl_jax.types import Params, Policy

Memory = Any  # {"time": [], "layers": a ring of keys and values each}


class Block(nn.Module):
    """x + Attention(LN x), then x + MLP(LN x): pre-norm (Xiong et al. 2020), with rotary positions (Su et al. 2021).

    The residual stream x, the norms and the softmax have the type of x, matrix products `dtype`.
    """

    num_heads: int
    context: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, rotation: Any, ring: Any = None, time: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """x [B, T, size] -> the same and the ring; with a ring, T is 1 and `time` [] says which step it is."""
        wide, size = x.dtype, x.shape[-1]

        def dense(width: int, x: jax.Array, name: str) -> jax.Array:
            return nn.Dense(width, dtype=self.dtype, param_dtype=wide, name=name)(x)

        def norm(x: jax.Array, name: str) -> jax.Array:
            return nn.LayerNorm(dtype=wide, param_dtype=wide, name=name)(x)

        q, k, v = (
            y.reshape(*x.shape[:2], self.num_heads, -1)
            for y in jnp.split(dense(3 * size, norm(x, "norm_attention"), "query_key_value"), 3, axis=-1)
        )
        q, k = attention.rotate(q, rotation), attention.rotate(k, rotation)
        if ring is None:
            seen = attention.causal_attention(q, k, v, self.context)
        else:
            assert time is not None
            ring, seen = attention.attend_on_ring(ring, time, q, k, v)
        x = x + dense(size, seen.reshape(x.shape), "attended").astype(wide)
        y = nn.gelu(dense(4 * size, norm(x, "norm_mlp"), "mlp_in"))
        return x + dense(size, y, "mlp_out").astype(wide), ring


class TransformerActorCritic(nn.Module):
    """Decoder-only transformer with rotary positions and the two heads.

    `__call__` reads whole trials in parallel; `act` one step against the cached keys and values of the steps before it.
    The two share parameters and agree: in both, a layer attends to the outputs that the layer below it had for the last
    `context` steps.
    """

    encoder: Encoder
    context: int
    heads: Heads
    size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    compute_dtype: str = "float32"
    remat: bool = False

    def setup(self) -> None:
        self.wide = jnp.result_type(float)
        self.block = Block(self.num_heads, self.context, self.narrow(), parent=None)
        self.embedding = nn.Dense(self.size, dtype=self.wide, param_dtype=self.wide)
        self.layers = self.param("layers", self.init_layers)
        self.norm = nn.LayerNorm(dtype=self.wide, param_dtype=self.wide)

    def narrow(self) -> Any:
        """The type of matrix products: bfloat16, or JAX's default, which is float64 in double precision."""
        return jnp.bfloat16 if self.compute_dtype == "bfloat16" else jnp.result_type(float)

    def rotation(self, time: jax.Array) -> Any:
        return attention.rotation(time, self.size // self.num_heads, self.wide)

    def init_layers(self, key: jax.Array) -> Params:
        """Parameters of all layers, leaves [layer, ...]."""
        x = jnp.zeros((1, 1, self.size), self.wide)
        init = lambda key: self.block.init(key, x, self.rotation(jnp.zeros(1, int)))["params"]  # noqa: E731
        return jax.vmap(init)(jax.random.split(key, self.num_layers))

    def __call__(self, x: jax.Array) -> tuple[Any, jax.Array]:
        """Whole trials [T, B, in] -> distribution and value [T, B].

        Layers stand one after another in the program, which runs faster than a scan over them and compiles as fast at 2
        of them. With `remat` they are scanned: outside a loop XLA merges on a CPU what is computed again with what was.
        """
        rotation = self.rotation(jnp.arange(x.shape[0]))

        def layer(x: jax.Array, params: Params) -> tuple[jax.Array, None]:
            return self.block.apply({"params": params}, x, rotation)[0], None  # type: ignore[index]

        x = jnp.swapaxes(self.embedding(self.encoder(x)), 0, 1)
        if self.remat:
            x, _ = jax.lax.scan(jax.checkpoint(layer, prevent_cse=False), x, self.layers)
        else:
            for params in self.each_layer():
                x, _ = layer(x, params)
        return self.heads(jnp.swapaxes(self.norm(x), 0, 1))

    def each_layer(self) -> list[Params]:
        return [jax.tree.map(operator.itemgetter(i), self.layers) for i in range(self.num_layers)]

    def act(self, memory: Memory, x: jax.Array) -> tuple[Memory, tuple[Any, jax.Array]]:
        """One step [B, in]."""
        time, rings = memory["time"], []
        rotation = self.rotation(time[None])
        x = self.embedding(self.encoder(x))[:, None]
        for params, ring in zip(self.each_layer(), memory["layers"], strict=True):
            x, ring = self.block.apply({"params": params}, x, rotation, ring, time)  # type: ignore[misc]
            rings.append(ring)
        return {"time": time + 1, "layers": tuple(rings)}, self.heads(self.norm(x)[:, 0])

    def remember(self, num_streams: int) -> Memory:
        """Nothing, of B streams: what `act` begins with."""
        sizes = (num_streams, self.num_heads, self.context, self.size // self.num_heads)
        rings = tuple(attention.ring(*sizes, self.narrow()) for _ in range(self.num_layers))
        return {"time": jnp.zeros((), int), "layers": rings}


@takes_options(encoder_of, without=("space",))
def transformer_policy(
    env: Any,
    context: Annotated[Positive, "steps that a layer attends to, a step itself included"],
    size: Annotated[Width, "width of the residual stream, a multiple of num_heads"] = 64,
    *,
    num_layers: Annotated[Layers, "transformer: layers"] = 2,
    num_heads: Annotated[Positive, "transformer: attention heads, of an even width each"] = 4,
    compute_dtype: Annotated[
        Literal["float32", "bfloat16"], "transformer: type of its matrix products; all that is kept is float32"
    ] = "float32",
    remat: Annotated[
        bool, "transformer: compute each layer again in the backward pass, for the memory of one of them"
    ] = False,
    init_std: Annotated[Rate, "initial standard deviation of a Gaussian policy"] = 1.0,
    min_std: MinStd = 1e-6,
    squash: Squash = False,
    **encoding: Any,
) -> Policy:
    r"""Actor and critic on one causal transformer, for the flat observations of `envs.trial`, read by a
    `networks.encoder`.

    .. math::

        x \leftarrow x + \text{Attention}(\text{LN}\, x), \quad x \leftarrow x + \text{MLP}(\text{LN}\, x)

    Trials may be longer than the context: a layer attends to the last `context` steps, so that the last of L layers
    knows of the last L (context - 1) + 1. No parameter depends on the context. Acting costs O(context) a step in time
    and in memory, training one parallel pass over the trial.

    Args:
        context: C, steps that a layer attends to, a step itself included. Acting keeps so many keys and values.
        size: width of the residual stream, a multiple of `num_heads`.
        compute_dtype: of matrix products, keys and values. Parameters, the residual stream, norms, softmax, logits and
            values are float32 in any case, or float64 in double precision, where "float32" computes in float64.
            On a CUDA device bfloat16 is what flash attention needs, see `networks.attention.causal_attention`.
        remat: the backward pass computes each layer again instead of keeping what is inside it.
    Raises: ValueError for a size that the heads do not divide, and for heads of odd width, whose numbers make no pairs.
    """
    check_divides("num_heads", num_heads, size, "size")
    if size // num_heads % 2:
        most = next((n for n in range(num_heads, 0, -1) if size % (2 * n) == 0), None)
        way_out = f"try num_heads = {most}" if most else "use an even size"
        raise ValueError(
            f"num_heads = {num_heads}: makes heads of odd width {size // num_heads} of size = {size}, and rotary "
            f"positions turn pairs of numbers; {way_out}"
        )
    reads, heads = memory_encoder(env, **encoding), Heads.of(env, init_std, min_std, squash)
    network = TransformerActorCritic(reads, context, heads, size, num_layers, num_heads, compute_dtype, remat)
    return memory_policy(reads, network, network.remember)
