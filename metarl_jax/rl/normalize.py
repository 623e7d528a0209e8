"""Running statistics of observations and rewards, kept with the parameters of the policy that reads them.

They stand in `params["normalizer"]`, beside what is learned: so they are saved and restored, exist once for every seed
and lane, come along when an agent adapts, and stand still at evaluation. A stored trial replays exactly, as every
replay starts from the same parameters. No gradient reaches them, and no optimiser has a say: after the optimiser's
steps an algorithm calls `fold(before, after, batches)`, which takes the statistics that the data were gathered with and
adds those data. Nothing is folded in inside an inner loop; all tasks share one set of statistics. The agents of
learned rules, and one that tunes its hyperparameters, have their own, which take in what each of their updates saw.

*Not differentiated:* the statistics, and the scale that rewards are divided by.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax import tree
from metarl_jax.envs.spaces import is_quantity, parts_of
from metarl_jax.options import Part, takes_options
from metarl_jax.types import Params, Policy

NAME = "normalizer"
EPS = 1e-8  # a variance that counts as none
LIMIT = 10.0  # of what has been normalised
OF_TASK = "learn from rewards divided by the deviation of their own task's discounted returns in the data of an update"
READ = {"observation": "observation", "reward": "running_return"}  # statistics -> the field of a batch that they are of


@struct.dataclass
class Moments:
    """Of all numbers seen, for each dimension; before there are any they change nothing."""

    count: jax.Array  # [] a float, exact up to 2^24 and good to its last place after that
    mean: jax.Array  # [*shape]
    var: jax.Array  # [*shape] mean squared distance from the mean

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "Moments":
        """Before anything was seen: mean 0, variance 1, count 0."""
        dtype = jnp.result_type(float)
        return cls(jnp.zeros((), dtype), jnp.zeros(shape, dtype), jnp.ones(shape, dtype))


def update(moments: Moments, x: jax.Array, mask: jax.Array) -> Moments:
    """The moments of what was seen and of x [*n, *shape] where `mask` [*n] is 1.

    d = mean_x - mean, n = n_seen + n_x; mean += d n_x / n; var = (n_seen var + n_x var_x + d^2 n_seen n_x / n) / n
    (Chan, Golub & LeVeque 1979). x is centred at the old mean first, and then at its own, so that float32
    holds the deviation of numbers far from 0. What stands behind the mask, NaN included, has no part.
    """
    axes = tuple(range(mask.ndim))
    new = jnp.sum(mask).astype(moments.count.dtype)
    total = jnp.maximum(moments.count + new, 1.0)
    some = jnp.maximum(new, 1.0)

    def mean_of(x: jax.Array) -> jax.Array:
        return jnp.sum(tree.masked(x, mask), axis=axes) / some

    lead = (1,) * mask.ndim
    away = x.astype(moments.mean.dtype) - moments.mean.reshape(*lead, *moments.mean.shape)
    d = mean_of(away)
    var = mean_of(jnp.square(away - d.reshape(*lead, *d.shape)))
    between = jnp.square(d) * (moments.count / total) * new
    summed = (moments.count * moments.var + new * var + between) / total
    return Moments(
        moments.count + new, moments.mean + d * (new / total), jnp.where(moments.count + new > 0, summed, moments.var)
    )


def normalize(moments: Moments, x: jax.Array) -> jax.Array:
    """clip((x - mean) / sqrt(var + 1e-8), +-10) of x [..., *shape]."""
    moments = jax.lax.stop_gradient(moments)
    lead = (1,) * (x.ndim - moments.mean.ndim)
    mean, var = (m.reshape(*lead, *m.shape) for m in (moments.mean, moments.var))
    return jnp.clip((x.astype(mean.dtype) - mean) / jnp.sqrt(var + EPS), -LIMIT, LIMIT)


def statistics_of(params: Params) -> dict[str, Moments] | None:
    """The statistics among `params` (or their shapes): "observation" and "reward", those that there are."""
    return params.get(NAME) if isinstance(params, Mapping) else None


def statistics_in(policy: Policy) -> tuple[str, ...]:
    """The names of the statistics that a policy keeps: "observation", "reward", both or none."""
    return tuple(statistics_of(jax.eval_shape(policy.init, jax.random.key(0))) or ())


@takes_options()
def normalized(
    policy: Policy,
    env: Any,
    *,
    normalize_observations: Annotated[bool, "the policy reads observations normalised by running statistics"] = False,
    normalize_rewards: Annotated[
        bool, "learn from rewards divided by the running deviation of discounted returns"
    ] = False,
    space: Any = None,
) -> Policy:
    """`policy` with running statistics among its parameters, which all of its functions read.

    Observations: clip((o - mean) / sqrt(var + 1e-8), +-10), each number by itself. Numbers of options, cells of grids
    and pixels stay as they are. A policy with a memory reads the previous action and reward as parts of its
    observation, and has them normalised with it.
    Rewards: those that advantages are made of (`rl.ppo.prepare_batch`), clip(r / sigma, +-10) with sigma the running
    deviation of R_t = r_t + gamma R_{t-1}, from the start of each episode: the reward scaling of VecNormalize in OpenAI
    Baselines (Engstrom et al. 2020, algorithm 1), gymnasium's NormalizeReward. Reported returns stay as they are.
    The data of an iteration count from the next one on. At first nothing is known, and numbers are clipped only.

    Args:
        space: of what the policy reads, where that is not what `env` shows (VariBAD).
    Raises: ValueError for observations without a quantity, and for a policy whose parameters are not a dictionary.
    """
    if not (normalize_observations or normalize_rewards):
        return policy
    which = "normalize_observations" if normalize_observations else "normalize_rewards"
    if not isinstance(jax.eval_shape(policy.init, jax.random.key(0)), Mapping):
        raise ValueError(f"{which} = True: needs a policy whose parameters are a dictionary, to put the statistics in")
    quantities = None  # [D] which numbers are, where not all are
    shapes: dict[str, tuple[int, ...]] = {"reward": ()} if normalize_rewards else {}
    if normalize_observations:
        space = env.observation_space(env.default_params) if space is None else space
        parts = parts_of(space)
        if not any(map(is_quantity, parts)):
            raise ValueError(f"{which} = True: observations of {env.name} have no quantity in them; leave it out")
        shapes["observation"] = tuple(space.shape)
        if not all(map(is_quantity, parts)):
            quantities = np.concatenate([np.full(n, is_quantity(p)) for p, n in zip(parts, space.sizes, strict=True)])

    def init(key: jax.Array) -> Params:
        return {**policy.init(key), NAME: {name: Moments.of(shape) for name, shape in shapes.items()}}

    def own(params: Params) -> Params:
        return {name: x for name, x in params.items() if name != NAME}

    def seen(params: Params, observation: jax.Array) -> jax.Array:
        if not normalize_observations:
            return observation
        normal = normalize(params[NAME]["observation"], observation)
        return normal if quantities is None else jnp.where(quantities, normal, observation)

    def reading(function: Callable | None) -> Any:
        if function is None:
            return None
        return lambda params, observation: function(own(params), seen(params, observation))

    def step(params: Params, memory: Any, observation: jax.Array) -> tuple[Any, Any]:
        assert policy.step is not None
        return policy.step(own(params), memory, seen(params, observation))

    return policy._replace(
        init=init,
        apply=reading(policy.apply),
        value=reading(policy.value),
        joint=reading(policy.joint),
        step=None if policy.step is None else step,
        features=seen if policy.features is None else reading(policy.features),
    )


def scale_of_rewards(params: Params) -> jax.Array | None:
    """sigma [], which rewards are divided by, 1 where nothing is known of their returns; None: they are not."""
    moments = (statistics_of(params) or {}).get("reward")
    if moments is None:
        return None
    return _deviation(moments.var)


def scale_of_task(running_return: jax.Array, mask: jax.Array, each_stream: bool) -> jax.Array:
    """sigma of one task from its own data: the deviation of the R_t [T, B] of `returns.running_returns`.

    [] over all streams, or with `each_stream`, where each is a task's whole trial, [B]; 1 where the R_t are all equal.
    Nothing is kept from one update to the next, so a trial stored is a scale stored.
    """

    def of(x: jax.Array, mask: jax.Array) -> jax.Array:
        return _deviation(update(Moments.of(()), x, mask).var)

    return jax.vmap(of, in_axes=1)(running_return, mask) if each_stream else of(running_return, mask)


def _deviation(var: jax.Array) -> jax.Array:
    var = jax.lax.stop_gradient(var)
    return jnp.sqrt(jnp.where(var > EPS, var, 1.0))


def fold(before: Params, after: Params, *data: Any) -> Params:
    """`after` with the statistics of `before` and of `data`, whatever an optimiser made of them.

    Parameters without statistics are returned as they are.

    Args: data: leaves [*n, ...], each a `Batch`, or a `Rollout` where there are no statistics of rewards.
    """
    statistics = statistics_of(before)
    if statistics is None:
        return after
    new = dict(statistics)
    for one in data:
        new = {name: update(moments, getattr(one, READ[name]), one.mask) for name, moments in new.items()}
    return {**after, NAME: jax.lax.stop_gradient(new)}


# Keys of configurations: of agents that learn from the rewards of the environment, and of those with another rule.
NORMALIZED, SEEN_NORMALIZED = Part(normalized), Part(normalized, ("normalize_observations",))
