"""A validated configuration -> the functions that it names."""

from typing import Any

from metarl_jax import envs
from metarl_jax.algorithms import registry
from metarl_jax.algorithms.interface import Job, check_surrogates_read
from metarl_jax.options import ConfigError
from metarl_jax.user_code import place, said

__all__ = ["Job", "build"]


def build(config: Any, evaluation: bool = False) -> Job:
    """Make the environment, the tasks, the networks and the algorithm of `config`; compiles nothing.

    With `evaluation`, keys that are about evaluation only (`eval_episodes`, `eval_later_lr_scale`) are at work.

    Raises: ConfigError, one line, for what only the environment or the constructors can tell to be wrong.
    """
    entry = registry.entry(config.algorithm)
    try:
        env, tasks = envs.make(config.env, **config.env_options)
    except ConfigError:
        raise
    except Exception as error:  # of our own factories, and whatever a user's raises
        options = f" with env_options = {config.env_options}" if config.env_options else ""
        raise ConfigError(f"env = {config.env!r}{options}: {said(error)}{place(error)}") from error
    needs_examples = entry.needs == "examples"
    if needs_examples != (not hasattr(env, "step_env")):
        kind = "a reinforcement-learning environment" if needs_examples else "labelled examples"
        raise ConfigError(f"env = {config.env!r}: is {kind}, which algorithm {config.algorithm} cannot train on")
    try:
        check_surrogates_read(config)
        return entry.build(config, env, tasks, evaluation)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None
