"""What the library asks of an environment, and the one door at which a user's own is checked and repaired.

An environment is a gymnax 1.0 environment, or anything else that has what `Environment` says: pure functions of a key,
a state and a task. The task is an argument (`params`), given from outside and constant across resets.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from metarl_jax.envs.spaces import one_array, parts_of, shape_of
from metarl_jax.envs.tasks import TaskDistribution
from metarl_jax.options import ConfigError
from metarl_jax.user_code import load_address, place, said


@runtime_checkable
class Environment(Protocol):
    """The functions that rollouts call. Shapes are of one environment; rollouts vmap."""

    @property
    def default_params(self) -> Any:
        """A task."""

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        """The first observation of an episode, and the state."""

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, Any, Any, Any, Any]:
        """(observation, state, reward [], terminated [] bool, info): one step, without a reset after the last one.

        `terminated` says that the task ended here, so that nothing follows; the clock is for `is_truncated`.
        """

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """[] bool: a time limit ends the episode in this state."""

    def observation_space(self, params: Any) -> Any:
        """A space with `shape`, `n` (observations are the numbers of states), `nvec`, or `spaces` (dictionaries)."""

    def action_space(self, params: Any) -> Any:
        """A space with `sample(key)`, and `n` or `nvec` (discrete), `shape`, `low` and `high` (box), or `spaces`."""


def calls_host(env: Any) -> bool:
    """Each of its steps is a call of the host (C MuJoCo), which serves all lanes that are vmapped together at once."""
    return bool(_trait(env, "calls_host", False))


def reports(env: Any) -> tuple[str, ...]:
    """Names in the `info` of a step that say whether something has happened in this episode so far, [] bool each.

    `success`: the task has been solved; `unstable`: the physics have failed. Algorithms report their rates.
    """
    return tuple(_trait(env, "reports", ()))


def has_large_step(env: Any) -> bool:
    """Its step is a large program, of which a loop over time should hold one copy only."""
    return bool(_trait(env, "has_large_step", False))


def has_dear_reset(env: Any) -> bool:
    """A reset costs more than a step, so that it is computed only for lanes that need one."""
    return bool(_trait(env, "has_dear_reset", False))


def references(env: Any) -> dict[str, Callable[[jax.Array, Any, int], jax.Array]]:
    """What agents can be held against: {name: (key, task, number of episodes) -> their undiscounted returns [episode]}.

    An environment declares `references`, a function of itself that makes these, or its address. Each plays the episodes
    of one task one after another, with one memory, for as many steps as the environment's own; it may know the task.
    """
    made = _trait(env, "references", None)
    while hasattr(env, "env"):
        env = env.env
    if made is None:
        return {}
    try:
        return dict((load_address(made, "references") if isinstance(made, str) else made)(env))
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise ConfigError(f"references of {env.name}: {said(error)}{place(error)}") from error


def _trait(env: Any, name: str, default: Any) -> Any:
    """An attribute of an environment, or of the one that it wraps as its `env`."""
    while not hasattr(env, name) and hasattr(env, "env"):
        env = env.env
    return getattr(env, name, default)


def tasks_at_a_time(env: Any, num_tasks: int, given: int | None = None) -> int | None:
    """How many of `num_tasks` tasks are acted in at a time: `given`, or all where the environment calls the host.

    What a call costs beside its physics does not grow with its lanes. None: what `tree.default_batch_size` says.
    """
    return num_tasks if given is None and calls_host(env) else given


NEEDED = ("default_params", "reset_env", "step_env", "is_truncated", "observation_space", "action_space")
STEP = ("observation", "state", "reward", "terminated", "info")


def check_environment(name: str, made: Any) -> tuple[Any, Any]:
    """The pair (environment, tasks) that a user's factory returned, ready for rollouts.

    A reset and a step are traced, with a sampled task and action; nothing is compiled. Where numbers of an observation,
    a state or a reward are Python's, weakly typed, or of other types after a step than after a reset, the
    environment that is returned casts them to one type.

    Raises: ConfigError, one line that names the environment and what is missing or wrong.
    """

    def wrong(what: str) -> ConfigError:
        return ConfigError(f"env = {name}: {what}")

    if not isinstance(made, tuple) or len(made) != 2:
        found = f"a tuple of {len(made)}" if isinstance(made, tuple) else type(made).__name__
        raise wrong(f"its factory must return (environment, tasks), not {found}")
    env, tasks = made
    if callable(env) and not hasattr(env, "step_env"):
        return made  # labelled examples
    missing = next((part for part in NEEDED if not hasattr(env, part)), None)
    if missing is not None:
        raise wrong(f"{type(env).__name__} has no {missing}; an environment needs {', '.join(NEEDED)}")
    for part in ("sample", "horizon"):
        if not hasattr(tasks, part):
            raise wrong(f"its tasks have no {part}; return a TaskDistribution(sample=key -> task, horizon=steps)")
    if not isinstance(tasks, TaskDistribution):
        tasks = TaskDistribution(sample=tasks.sample, horizon=tasks.horizon)
    try:
        spaces = env.observation_space(env.default_params), env.action_space(env.default_params)
        for what, found in zip(("observation_space", "action_space"), spaces, strict=True):
            if not any(hasattr(found, part) for part in ("shape", "n", "nvec", "spaces")):
                kind = type(found).__name__
                raise _Wrong(f"its {what} is a {kind}, not a space such as gymnax's spaces.Box(low, high, shape)")
            for part in parts_of(found):
                if not any(hasattr(part, name) for name in ("shape", "nvec")):
                    raise _Wrong(
                        f"a part of its {what} is a {type(part).__name__}, not a Box, Discrete or MultiDiscrete"
                    )
        env = one_array(env)
        space = env.observation_space(env.default_params)
        first, after = jax.eval_shape(lambda key: _reset_and_step(env, tasks, key), jax.random.key(0))
    except _Wrong as error:
        raise wrong(str(error)) from None
    except Exception as error:  # whatever a user's functions raise
        branches = isinstance(error, jax.errors.TracerBoolConversionError)
        advice = "; in compiled code `if` is jnp.where or jax.lax.cond" if branches else ""
        raise wrong(f"a reset and a step fail: {said(error)}{place(error)}{advice}") from error
    seen = jax.tree.leaves(first[0])
    if len(seen) == 1 and hasattr(space, "shape") and seen[0].shape != tuple(space.shape):
        shapes = list(seen[0].shape), list(space.shape)
        raise wrong(f"its observation has shape {shapes[0]}, its observation_space {shapes[1]}")
    for what, a, b in (("observation", first[0], after[0]), ("state", first[1], after[1])):
        if str(jax.tree.structure(a)) != str(jax.tree.structure(b)):
            raise wrong(f"its {what} has another structure after a step than after a reset")
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            if x.shape != y.shape:
                raise wrong(f"its {what} has shape {list(x.shape)} after a reset and {list(y.shape)} after a step")
    for what, value in (("reward", after[2]), ("terminated", after[3]), ("is_truncated(...)", after[4])):
        if value.shape != ():
            raise wrong(f"{what} must be one number a step, not of shape {list(value.shape)}")
    if not _is_strong(first, after):
        env = _Typed(env, _common(first, after[:2]))
    return env, tasks


class _Wrong(Exception):
    """Something that only a trace finds."""


def _reset_and_step(env: Any, tasks: Any, key: jax.Array) -> tuple[Any, Any]:
    task = tasks.sample(key)
    first = env.reset_env(key, task)
    if not isinstance(first, tuple) or len(first) != 2:
        raise _Wrong("reset_env must return (observation, state)")
    _check_one_size(env, task)
    action = env.action_space(task).sample(key)
    after = env.step_env(key, first[1], action, task)
    if not isinstance(after, tuple) or len(after) != len(STEP):
        found = f"{len(after)} values" if isinstance(after, tuple) else type(after).__name__
        raise _Wrong(f"step_env must return ({', '.join(STEP)}), not {found}")
    ends = env.is_truncated(after[1], task)
    as_arrays = jax.tree.map(jnp.asarray, (first, (*after[:4], ends)))
    return as_arrays


def _check_one_size(env: Any, task: Any) -> None:
    """That tasks do not differ in what is seen or done; `task` is traced, so that whatever depends on it shows."""
    for what, of_what in (("observation_space", "of what is seen"), ("action_space", "of actions")):
        try:
            sizes = [part.n if hasattr(part, "n") else shape_of(part) for part in parts_of(getattr(env, what)(task))]
            differs = any(isinstance(size, jax.core.Tracer) for size in jax.tree.leaves(sizes))
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, TypeError):
            differs = True
        if differs:
            raise _Wrong(
                f"its {what} depends on the task, and a program has one shape for all; give every task the largest "
                f"number {of_what}, and let those beyond its own do nothing"
            )


def _is_strong(first: Any, after: Any) -> bool:
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(after[:2]), strict=True)
    weak = any(x.weak_type for x in (*jax.tree.leaves(first), *jax.tree.leaves(after[:3])))
    return not weak and all(x.dtype == y.dtype for x, y in pairs)


def _common(first: Any, after: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.promote_types(x.dtype, y.dtype), first, after)


class _Typed:
    """An environment whose observations and states always have the same types."""

    def __init__(self, env: Any, types: Any):
        self._env, self._types = env, types

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def _cast(self, observation: Any, state: Any) -> tuple[Any, Any]:
        return jax.tree.map(lambda x, dtype: jnp.asarray(x, dtype), (observation, state), self._types)

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        return self._cast(*self._env.reset_env(key, params))

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        observation, state, reward, terminated, info = self._env.step_env(key, state, action, params)
        return *self._cast(observation, state), jnp.asarray(reward, float), jnp.asarray(terminated, bool), info
