"""What VariBAD is made of (Zintgraf et al. 2020): a belief over tasks, its decoder, a policy that reads it."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from pydantic import Field

from metarl_jax.envs.spaces import Joint
from metarl_jax.networks.encoder import Activation, Encoder, activation, encoder_of
from metarl_jax.networks.gaussian import MinStd, Squash
from metarl_jax.networks.memory import Heads, memory_encoder
from metarl_jax.networks.recurrent import Recurrent
from metarl_jax.options import Positive, Rate, Width, Widths, takes_options
from metarl_jax.types import Params, Policy

MIN_LOG_VAR, MAX_LOG_VAR = -10.0, 4.0


class Belief(NamedTuple):
    """q(z | trial so far) = N(mean, exp(log_var)), and the reward that a task z promises, as pure functions."""

    init: Callable[[jax.Array], Params]
    encode: Callable[..., tuple[jax.Array, jax.Array]]  # params, observation [T, B, D] -> mean, log_var [T, B, Z]
    remember: Callable[[int], Any]  # number of streams -> memory at the start of a trial
    step: Callable[..., tuple[Any, tuple[jax.Array, jax.Array]]]  # params, memory, [B, D] -> memory, (mean, log_var)
    reward: Callable[..., jax.Array]  # params, z [..., Z], what it was paid for [..., C] -> prediction [...]
    latent_size: int


class BeliefEncoder(nn.Module):
    """observation -> its encoder -> ReLU layer -> GRU -> mean and log-variance."""

    encoder: Encoder
    latent_size: int
    hidden_size: int
    step_size: int

    def setup(self) -> None:
        """The layers."""
        dtype = jnp.result_type(float)  # float64 where JAX is told so
        self.embedding = nn.Dense(self.step_size, param_dtype=dtype)
        self.torso = Recurrent(self.hidden_size)
        self.mean = nn.Dense(self.latent_size, param_dtype=dtype)
        self.log_var = nn.Dense(self.latent_size, param_dtype=dtype)

    def __call__(self, x: jax.Array, carry: Any = None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        """[T, B, D] -> carry, (mean, log_var) [T, B, Z]."""
        carry, h = self.torso(nn.relu(self.embedding(self.encoder(x))), carry)
        return carry, (self.mean(h), jnp.clip(self.log_var(h), MIN_LOG_VAR, MAX_LOG_VAR))


class RewardDecoder(nn.Module):
    """(z, condition) -> one number. The first layer is a sum of two; the others are evaluated for every pair."""

    hidden: Sequence[int]

    @nn.compact
    def __call__(self, z: jax.Array, condition: jax.Array) -> jax.Array:
        """[..., Z], [..., C] -> [...], leading axes broadcast."""
        first, *rest = self.hidden
        dtype = jnp.result_type(float)
        of_condition = nn.Dense(first, use_bias=False, param_dtype=dtype)(condition)
        x = nn.relu(nn.Dense(first, param_dtype=dtype)(z) + of_condition)
        for width in rest:
            x = nn.relu(nn.Dense(width, param_dtype=dtype)(x))
        return nn.Dense(1, param_dtype=dtype)(x)[..., 0]


class TableDecoder(nn.Module):
    """z -> a table of one number for every state, or every state and action, from which a one-hot condition picks.

    The network is evaluated for the beliefs alone (the "multi-head" decoder of the code of Zintgraf et al. 2020).
    """

    hidden: Sequence[int]
    num_states: int

    @nn.compact
    def __call__(self, z: jax.Array, condition: jax.Array) -> jax.Array:
        """[..., Z], [..., S] or [..., S + A] -> [...], leading axes broadcast."""
        if condition.shape[-1] > self.num_states:
            state, action = jnp.split(condition, [self.num_states], axis=-1)
            condition = (state[..., None] * action[..., None, :]).reshape(*state.shape[:-1], -1)
        dtype = jnp.result_type(float)
        for width in self.hidden:
            z = nn.relu(nn.Dense(width, param_dtype=dtype)(z))
        table = nn.Dense(condition.shape[-1], param_dtype=dtype)(z)
        return jnp.einsum("...c,...c->...", table, condition)


class FeatureActorCritic(nn.Module):
    """observation and belief [..., F] -> encoder -> MLP -> distribution and value [...]."""

    encoder: Encoder
    hidden: Sequence[int]
    activation: str
    heads: Heads

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[Any, jax.Array]:
        x = self.encoder(x)
        for width in self.hidden:
            x = activation(self.activation)(nn.Dense(width, param_dtype=jnp.result_type(float))(x))
        return self.heads(x)


@takes_options(encoder_of, without=("space",))
def belief_network(
    env: Any,
    condition_size: int,
    *,
    latent_size: Annotated[Positive, "dimensions of the belief"] = 5,
    hidden_size: Annotated[Width, "hidden units of the encoder's GRU"] = 64,
    step_size: Annotated[Width, "units that the encoder of the belief makes of a step"] = 32,
    decoder: Annotated[
        Literal["mlp", "table"], "what predicts rewards; table: one for each state, which must be one-hot"
    ] = "mlp",
    decoder_hidden: Annotated[Widths, Field(min_length=1), "hidden layer widths of the decoder"] = (32, 32),
    **encoding: Any,
) -> Belief:
    """A GRU encoder of the trials of `env` (`envs.trial`) and a decoder of rewards given z and a condition [C].

    A step of a trial is read by a `networks.encoder`; conditions are features without anything learned.

    Args:
        decoder: "mlp" reads z and any condition; "table", for one-hot states (and actions, where they are conditions),
            reads z and gives a reward for each state: easier to learn, and T times cheaper for trials of T steps.
    Raises: ValueError for another decoder, and for a table where states or actions are not one-hot.
    """
    reads = memory_encoder(env, **encoding)
    encoder = BeliefEncoder(reads, latent_size, hidden_size, step_size)
    hidden = tuple(decoder_hidden)
    if decoder == "table":
        _check_table(env, condition_size)
    decode = TableDecoder(hidden, env.observation_features[0]) if decoder == "table" else RewardDecoder(hidden)

    @jax.jit
    def init(key: jax.Array) -> Params:
        encoder_key, decoder_key = jax.random.split(key)
        return {
            "encoder": encoder.init(encoder_key, reads.nothing()[None, None])["params"],
            "decoder": decode.init(decoder_key, jnp.zeros(latent_size), jnp.zeros(condition_size))["params"],
        }

    def encode(params: Params, observation: jax.Array) -> Any:
        return encoder.apply({"params": params["encoder"]}, observation)[1]  # type: ignore[index]

    def remember(num_streams: int) -> jax.Array:
        return jnp.zeros((num_streams, hidden_size))

    def step(params: Params, memory: Any, observation: jax.Array) -> Any:
        memory, belief = encoder.apply({"params": params["encoder"]}, observation[None], memory)  # type: ignore[misc]
        return memory, jax.tree.map(lambda x: x[0], belief)

    def reward(params: Params, z: jax.Array, condition: jax.Array) -> Any:
        return decode.apply({"params": params["decoder"]}, z, condition)

    return Belief(init, encode, remember, step, reward, latent_size)


def _check_table(env: Any, condition_size: int) -> None:
    """Raises: ValueError where a state, known by the first one of a trial, or an action is not one-hot."""
    with jax.ensure_compile_time_eval():
        first = env.reset_env(jax.random.key(0), env.default_params)[0][: env.observation_size]
        first = env.observation_features[1](first)
        one_hot = bool(jnp.all((first == 0) | (first == 1)) & (first.sum() == 1))
    actions = env.num_options is not None or condition_size == env.observation_features[0]
    if not (one_hot and actions):
        what = "actions are" if one_hot else "observations are"
        raise ValueError(f"decoder = 'table': must be 'mlp', as the {what} not one-hot in {env.name}")


def with_belief(env: Any, num_beliefs: int) -> Joint:
    """The space of what `env`, of trials, shows of the environment in it, and of so many numbers after that."""
    return Joint([*env.shown.parts, spaces.Box(-np.inf, np.inf, (num_beliefs,))])


@takes_options(encoder_of, without=("space",))
def feature_policy(
    env: Any,
    num_beliefs: int,
    hidden: Annotated[Widths, "hidden layer widths of the policy"] = (32, 32),
    activation: Annotated[Activation, "activation function of the policy"] = "tanh",
    *,
    init_std: Annotated[Rate, "initial standard deviation of a Gaussian policy"] = 1.0,
    min_std: MinStd = 1e-6,
    squash: Squash = False,
    **encoding: Any,
) -> Policy:
    """Actor and critic on one MLP that reads what `env`, of trials, shows, and a belief: `with_belief` [..., D + n]."""
    reads = encoder_of(env, activation, **encoding, space=with_belief(env, num_beliefs))
    network = FeatureActorCritic(reads, tuple(hidden), activation, Heads.of(env, init_std, min_std, squash))

    @jax.jit
    def init(key: jax.Array) -> Params:
        return network.init(key, reads.nothing())["params"]

    def joint(params: Params, features: jax.Array) -> Any:
        return network.apply({"params": params}, features)

    return Policy(init, lambda p, x: joint(p, x)[0], lambda p, x: joint(p, x)[1], joint)
