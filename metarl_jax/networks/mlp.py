"""Multi-layer perceptrons: a torso, an actor for any actions, and the policy they make."""

from collections.abc import Sequence
from typing import Annotated, Any

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.envs.observations import flattener
from metarl_jax.envs.spaces import shape_of
from metarl_jax.networks.actions import Actions, actions_of
from metarl_jax.networks.encoder import Activation, activation, encoder_of
from metarl_jax.networks.gaussian import MinStd, Squash
from metarl_jax.options import Float, NonNegative, Rate, Widths, takes_options
from metarl_jax.types import Params, Policy


class MLP(nn.Module):
    """x [..., in], and vectors beside it -> [..., out], the last layer named `output`; `encoder` reads x first."""

    hidden: Sequence[int]
    out: int
    activation: str = "tanh"
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *beside: jax.Array) -> jax.Array:
        act, dtype = activation(self.activation), jnp.result_type(float)  # float64 where JAX is told so
        if self.encoder is not None:
            x = self.encoder(x)
        if beside:
            x = jnp.concatenate([x, *beside], axis=-1)
        for width in self.hidden:
            x = act(nn.Dense(width, param_dtype=dtype)(x))
        return nn.Dense(self.out, param_dtype=dtype, name="output")(x)


def orthogonal(key: jax.Array, params: Params, output_gains: dict[str, Float]) -> Params:
    """`params` with every kernel drawn anew: orthogonal with gain sqrt 2, the last layer with its output gain.

    Saxe et al. 2014; the gains usual for PPO. One random draw serves all kernels, because every random call
    is compiled by itself: a policy's initialisation compiles in a fraction of the time of flax's initialisers.
    On a CPU a batch is decomposed one matrix after another: batched ones that run within a loop can hold all threads
    of XLA's pool and wait for ever (jaxlib 0.10.2: a vmap of this within `lax.map`, on two cores).
    """
    paths, kernels = zip(
        *((path, x) for path, x in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "kernel"), strict=True
    )
    ends = np.cumsum([x.size for x in kernels])
    draws = dict(zip(paths, jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1]), strict=True))

    def decompose(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        q, r = jnp.linalg.qr(x)
        return q, r

    if jax.default_backend() == "cpu":
        decompose = jax.custom_batching.sequential_vmap(decompose)

    def fill(path: Any, x: jax.Array) -> jax.Array:
        if path not in draws:
            return x
        q, r = decompose(draws[path].reshape(max(x.shape), min(x.shape)))
        q = q * jnp.sign(jnp.diagonal(r))[None]  # uniform over orthogonal matrices
        gain = output_gains[path[0].key] if path[-2].key == "output" else np.sqrt(2)
        return (gain * (q if x.shape[0] >= x.shape[1] else q.T)).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(fill, params)


class Categorical(nn.Module):
    """Policy over `num_actions` discrete actions; no hidden layers make it linear."""

    num_actions: int
    hidden: Sequence[int] = (64, 64)
    activation: str = "tanh"
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, observation: jax.Array) -> distrax.Categorical:
        logits = MLP(self.hidden, self.num_actions, self.activation, self.encoder)(observation)
        return distrax.Categorical(logits=logits)


class Actor(nn.Module):
    """Policy over any actions: an MLP whose outputs `networks.actions` reads, and a std that does not depend on them.

    std = max(exp(log_std), min_std), for the numbers of boxes. Log-probabilities sum over what an action is made of.
    """

    actions: Actions
    hidden: Sequence[int] = (64, 64)
    activation: str = "tanh"
    init_std: Float = 1.0
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, observation: jax.Array, *beside: jax.Array) -> Any:
        network = MLP(self.hidden, self.actions.num_outputs, self.activation, self.encoder)
        out, log_std = network(observation, *beside), None
        if self.actions.num_stds:
            log_std = self.param("log_std", nn.initializers.constant(np.log(self.init_std)), (self.actions.num_stds,))
        return self.actions.distribution(out, log_std)


@takes_options(encoder_of, without=("space",))
def mlp_policy(
    env: Any,
    hidden: Annotated[Widths, "hidden layer widths; [] is a linear policy"] = (64, 64),
    activation: Annotated[Activation, "activation function"] = "tanh",
    *,
    critic: bool = False,
    init_std: Annotated[Rate, "initial standard deviation of a Gaussian policy"] = 1.0,
    min_std: MinStd = 1e-6,
    squash: Squash = False,
    output_gain: Annotated[NonNegative, "scale of the last layer's initial weights"] = 0.01,
    context_size: int = 0,
    **encoding: Any,
) -> Policy:
    """The MLP policy that fits `env`: categorical for discrete actions, Gaussian for a box, a product for several.

    With `squash` the Gaussian goes through tanh into the bounds of the box (`networks.gaussian.Squashed`).
    With `critic`, a second MLP of the same shape estimates the value; the two share no weights.
    `hidden=()` gives a linear policy. Actor and critic each read observations with an encoder of their own
    (`networks.encoder`). With `context_size` the actor also reads `params["context"]` [context_size], zeros where there
    is none: what CAVIA adapts. The policy's `features` are those of `envs.observations`, without anything learned.
    """
    reads, (_, flat) = encoder_of(env, activation, **encoding), flattener(env)
    actor = Actor(actions_of(env, min_std, squash), tuple(hidden), activation, init_std, reads)
    value = MLP(tuple(hidden), 1, activation, reads)
    axes = len(shape_of(reads.space))

    def beside(params: Params, observation: jax.Array) -> tuple[jax.Array, ...]:
        """The context, of each observation."""
        if not context_size:
            return ()
        context = params.get("context", jnp.zeros(context_size))
        return (jnp.broadcast_to(context, (*observation.shape[: observation.ndim - axes], context_size)),)

    @jax.jit
    def init(key: jax.Array) -> Params:
        nothing = reads.nothing()
        params = {"actor": actor.init(key, nothing, *beside({}, nothing))["params"]}
        if critic:
            params["critic"] = value.init(key, nothing)["params"]
        return orthogonal(key, params, {"actor": output_gain, "critic": 1.0})

    def act(params: Params, observation: jax.Array) -> Any:
        return actor.apply({"params": params["actor"]}, observation, *beside(params, observation))

    def evaluate(params: Params, observation: jax.Array) -> jax.Array:
        out: Any = value.apply({"params": params["critic"]}, observation)
        return out[..., 0]

    return Policy(init, act, evaluate if critic else None, features=lambda params, observation: flat(observation))
