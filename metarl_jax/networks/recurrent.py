"""Policies that remember by recurrence: GRU and LSTM over the steps of a trial (RL2, Duan et al. 2016)."""

from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl_jax.networks.encoder import Encoder, encoder_of
from metarl_jax.networks.gaussian import MinStd, Squash
from metarl_jax.networks.memory import Heads, memory_encoder, memory_policy
from metarl_jax.options import Positive, Rate, Width, takes_options
from metarl_jax.types import Policy

CELLS: dict[str, Callable[..., nn.RNNCellBase]] = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}


class Recurrent(nn.Module):
    """observation [T, B, in] -> features [T, B, H] and the carry; `carry` None starts a trial.

    The scan over time is cut into chunks of `chunk` steps (None: one). With `truncate` no gradient crosses a border
    (truncated back-propagation through time); otherwise each chunk is rematerialised in the backward pass, so that
    memory grows with chunk + T / chunk instead of T, at one forward pass more. T need not be a multiple.
    """

    hidden_size: int
    cell: str = "gru"
    chunk: int | None = None
    truncate: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, carry: Any = None) -> tuple[Any, jax.Array]:
        cell = CELLS[self.cell](self.hidden_size, param_dtype=x.dtype, dtype=x.dtype, name="cell")
        if carry is None:
            carry = cell.initialize_carry(jax.random.key(0), x.shape[1:])

        def steps(cell: Any, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            scan = nn.scan(lambda c, h, y: c(h, y), variable_broadcast="params", split_rngs={"params": False})
            return scan(cell, carry, x)

        length, chunk = x.shape[0], self.chunk
        if chunk is None or chunk >= length:
            return steps(cell, carry, x)
        if not self.truncate:
            steps = nn.remat(steps, prevent_cse=False)

        def part(cell: Any, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            if self.truncate:
                carry = jax.lax.stop_gradient(carry)
            return steps(cell, carry, x)

        whole = length // chunk * chunk
        over = nn.scan(part, variable_broadcast="params", split_rngs={"params": False})
        carry, out = over(cell, carry, x[:whole].reshape(-1, chunk, *x.shape[1:]))
        out = out.reshape(whole, *out.shape[2:])
        if whole < length:
            carry, rest = part(cell, carry, x[whole:])
            out = jnp.concatenate([out, rest])
        return carry, out


class RecurrentActorCritic(nn.Module):
    """Recurrent features and the two heads."""

    encoder: Encoder
    torso: Recurrent
    heads: Heads

    def __call__(self, x: jax.Array) -> tuple[Any, jax.Array]:
        """Whole trials [T, B, in] -> distribution and value [T, B]."""
        return self.heads(self.torso(self.encoder(x))[1])

    def act(self, carry: Any, x: jax.Array) -> tuple[Any, tuple[Any, jax.Array]]:
        """One step [B, in]."""
        carry, features = self.torso(self.encoder(x)[None], carry)
        return carry, self.heads(features[0])


@takes_options(encoder_of, without=("space",))
def recurrent_policy(
    env: Any,
    hidden_size: Annotated[Width, "hidden units"] = 64,
    *,
    cell: str = "gru",
    chunk: Annotated[
        Positive | None, "gru, lstm: steps between rematerialisations in the backward pass; null: none"
    ] = None,
    truncate: Annotated[bool, "gru, lstm: stop gradients at the chunks (truncated back-propagation)"] = False,
    init_std: Annotated[Rate, "initial standard deviation of a Gaussian policy"] = 1.0,
    min_std: MinStd = 1e-6,
    squash: Squash = False,
    max_memory: int | None = None,
    **encoding: Any,
) -> Policy:
    """Actor and critic on one GRU or LSTM, for the flat observations of `envs.trial`, read by an `networks.encoder`.

    Args:
        chunk: the scan over time is cut into chunks of so many steps, each computed again in the backward pass:
            memory grows with chunk + T / chunk instead of T, at one forward pass more. T need not be a multiple.
        truncate: no gradient crosses a border between chunks, and nothing is computed again.
        max_memory: each unit starts by remembering for t steps, t log-uniform in [1, max_memory], by the bias log t of
            the gate that keeps it (cf. Tallec & Ollivier 2018); None: biases of 0, which forget half at every step.
    Raises: ValueError for an unknown cell, a chunk below 1, `truncate` without a chunk.
    """
    if cell not in CELLS:
        raise ValueError(f"cell = {cell!r}: must be one of {', '.join(CELLS)}")
    if truncate and chunk is None:
        raise ValueError("truncate = True: needs chunk, the number of steps that a gradient goes back")
    reads = memory_encoder(env, **encoding)
    torso = Recurrent(hidden_size, cell, chunk, truncate)
    network = RecurrentActorCritic(reads, torso, Heads.of(env, init_std, min_std, squash))

    def remember(num_streams: int) -> Any:
        module = CELLS[cell](hidden_size, param_dtype=jnp.result_type(float), dtype=jnp.result_type(float))
        return module.initialize_carry(jax.random.key(0), (num_streams, 1))

    policy = memory_policy(reads, network, remember)
    if max_memory is None:
        return policy

    @jax.jit
    def init(key: jax.Array) -> Any:
        params = policy.init(key)
        gates, name = params["torso"]["cell"], {"gru": "iz", "lstm": "hf"}[cell]
        share = jax.random.uniform(jax.random.fold_in(key, 0), gates[name]["bias"].shape, gates[name]["bias"].dtype)
        bias = {name: {**gates[name], "bias": share * jnp.log(max_memory)}}
        return {**params, "torso": {**params["torso"], "cell": {**gates, **bias}}}

    return policy._replace(init=init)
