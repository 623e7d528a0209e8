"""Any gymnax environment as a task distribution: `from_gymnax("Pendulum-v1", {"m": (0.5, 1.5)})`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metarl_jax.envs.registry import did_you_mean
from metarl_jax.envs.tasks import EnvParams, TaskDistribution, as_arrays, check_count

Range = tuple[Any, Any]  # (low, high): scalars, or arrays that broadcast to the field


def derive_cartpole(params: EnvParams) -> EnvParams:
    """total_mass = masscart + masspole, polemass_length = masspole * length; gymnax derives neither."""
    return params.replace(total_mass=params.masscart + params.masspole, polemass_length=params.masspole * params.length)


# environment name -> (recompute its dependent fields, those fields)
_DERIVED: dict[str, tuple[Callable[[EnvParams], EnvParams], tuple[str, ...]]] = {
    "CartPole-v1": (derive_cartpole, ("total_mass", "polemass_length")),
}


def from_gymnax(
    env_or_name: Any,
    ranges: Mapping[str, Range] | None = None,
    derive: Callable[[EnvParams], EnvParams] | None = None,
    horizon: int | None = None,
) -> tuple[Any, TaskDistribution]:
    """Build `(env, tasks)` of gymnax: the named `EnvParams` fields vary, uniform and independent; the rest do not.

    Some gymnax environments redraw their task in `reset` (PointRobot, MetaMaze, the bandits): it lives in the
    state, not in the parameters, and changes at every episode whatever the ranges say. Prefer ours there.

    Args:
      env_or_name: a gymnax environment, or its id.
      ranges: field -> (low, high); array fields get one draw per entry. None or {}: a single task.
      derive: recomputes the fields that depend on drawn ones. By default CartPole's two are recomputed.
      horizon: episode length; default the environment's `max_steps_in_episode`.

    Raises:
      ValueError: for an unknown id or field, a field that is not a float, an empty or reversed range.
    """
    env = _environment(env_or_name) if isinstance(env_or_name, str) else env_or_name
    if horizon is not None:
        check_count("horizon", horizon)
    if derive is not None and not callable(derive):
        raise ValueError(f"derive must be a function, task -> task, which is given from Python; got {derive!r}")
    default = env.default_params
    fields = {field.name: field for field in dataclasses.fields(default)}
    known_derive, dependent = _DERIVED.get(env.name, (_identity, ())) if derive is None else (derive, ())
    bounds = {}
    ranges = {} if ranges is None else ranges
    if not isinstance(ranges, Mapping):
        raise ValueError(f"ranges must be a mapping such as {{gravity: [9, 10]}}, got {ranges!r}")
    for name in sorted(ranges, key=str):  # sorted: the order of the dict does not change the draws
        if name not in fields:
            raise ValueError(f"{env.name} has no parameter {name!r}{did_you_mean(name, fields)}")
        if name == "max_steps_in_episode":
            raise ValueError(f"episode length is static: give horizon=... instead of a range of {name!r}")
        if name in dependent:
            raise ValueError(f"{name!r} of {env.name} is computed from other fields; vary those")
        bounds[name] = _check_range(env.name, name, fields[name].type, getattr(default, name), ranges[name])
    length = int(default.max_steps_in_episode) if horizon is None else horizon

    def base() -> EnvParams:
        steps = type(default.max_steps_in_episode)(length)  # one environment counts in floats
        return as_arrays(env.default_params.replace(max_steps_in_episode=steps))

    def sample(key: Array) -> EnvParams:
        drawn = {}
        for i, (name, (low, high, shape)) in enumerate(bounds.items()):
            u = jax.random.uniform(jax.random.fold_in(key, i), shape, float)
            drawn[name] = jnp.asarray(low, float) + u * jnp.asarray(high - low, float)
        return as_arrays(known_derive(base().replace(**drawn)))

    description = f"{env.name}, " + (f"random {', '.join(bounds)}" if bounds else "a single task")
    if bounds:
        return env, TaskDistribution(sample, length, description=description)
    members = jax.tree.map(lambda leaf: leaf[None], as_arrays(known_derive(base())))
    return env, TaskDistribution.from_members(members, length, description=description)


@functools.cache
def _environment(name: str) -> Any:
    if name not in gymnax.registered_envs:
        raise ValueError(f"gymnax has no environment {name!r}{did_you_mean(name, gymnax.registered_envs)}")
    return gymnax.make(name)[0]


def _check_range(env: str, name: str, annotation: Any, default: Any, limits: Range) -> tuple[Any, Any, tuple[int, ...]]:
    """Bounds as float64 numpy arrays, and the shape to draw."""
    is_float = jnp.issubdtype(jnp.result_type(default), jnp.floating) or annotation in (float, "float")
    if not is_float:
        raise ValueError(f"{name!r} of {env} is {default!r} by default; only float fields can vary")
    shape = np.shape(default)
    try:
        low, high = (np.broadcast_to(np.asarray(limit, np.float64), shape) for limit in limits)
    except (TypeError, ValueError) as error:
        raise ValueError(f"range of {name!r} must be (low, high) of shape {shape}, got {limits!r}") from error
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high)) and np.all(low < high)):
        raise ValueError(f"range of {name!r} must be finite with low < high, got {limits!r}")
    return low, high, shape


def _identity(params: EnvParams) -> EnvParams:
    return params
