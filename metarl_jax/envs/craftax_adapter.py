"""Craftax-Classic (Matthews et al. 2024): `make("CraftaxClassic-v0")`, a world is a task.

The package `craftax` is imported by the first use, which draws its textures and keeps them beside its code. A task is
the key from which a map of 64 x 64 cells is generated: every episode of the task begins in the same place of the same
map, so that what one episode of a trial finds out, such as where diamonds are, serves the next. Creatures and the
weather of the night follow the key of each step. Reward, as there: 1 for each of 22 achievements the first time that an
episode has it, and a tenth of the change of health. The episode terminates with the agent's death. No oracle.
"""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.packages import package
from metarl_jax.envs.tasks import TaskDistribution, as_arrays, check_count

_NEVER = 2**31 - 1  # steps after which the package itself would end an episode


@struct.dataclass(kw_only=True)
class CraftaxParams(environment.EnvParams):
    """One task."""

    world: Array  # [2] uint32, data of the key that the map is generated from
    max_steps_in_episode: Array


class CraftaxClassic(environment.Environment[Any, CraftaxParams]):
    """The package's symbolic environment without its auto-reset. The state is the package's own.

    It is computed in 32 bits, also where JAX computes in 64, for which the package is not written.

    Observation: float32 [1345], the view of 9 x 7 cells and its creatures as one-hots, the inventory, the agent's needs
    and direction, and the light. 17 actions.
    """

    has_dear_reset = True
    has_large_step = True

    def __init__(self, horizon: int):
        super().__init__()
        package("craftax", "craftax", "Craftax-Classic")
        module = importlib.import_module("craftax.craftax_classic.envs.craftax_symbolic_env")
        self._env = module.CraftaxClassicSymbolicEnvNoAutoReset()
        self._rates = self._env.default_params.replace(max_timesteps=_NEVER)
        self.horizon = check_count("horizon", horizon)

    def params(self, key: Array) -> CraftaxParams:
        """The task of this world."""
        steps = jnp.asarray(self.horizon, int)
        return CraftaxParams(world=jax.random.key_data(key), max_steps_in_episode=steps)

    @property
    def default_params(self) -> CraftaxParams:
        return self.params(jax.random.key(0))

    def reset_env(self, key: Array, params: CraftaxParams) -> tuple[Array, Any]:
        del key  # a task has one beginning
        with jax.enable_x64(False):
            return as_arrays(self._env.reset_env(params.world, self._rates))

    def step_env(
        self, key: Array, state: Any, action: int | float | Array, params: CraftaxParams
    ) -> tuple[Array, Any, Array, Array, dict[Any, Any]]:
        data, action = jax.random.key_data(key), jnp.asarray(action, jnp.int32)
        with jax.enable_x64(False):
            obs, after, reward, terminated, _ = self._env.step_env(data, state, action, self._rates)
            after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state)
        return obs, after, jnp.asarray(reward, float), terminated, {}

    def is_terminated(self, state: Any, params: CraftaxParams) -> Array:
        return self._env.is_terminal(state, self._rates)

    def is_truncated(self, state: Any, params: CraftaxParams) -> Array:
        return state.timestep >= params.max_steps_in_episode

    def get_obs(self, state: Any, params: CraftaxParams | None = None, key: Array | None = None) -> Array:
        return self._env.get_obs(state)

    @property
    def name(self) -> str:
        return "CraftaxClassic-v0"

    @property
    def num_actions(self) -> int:
        return int(self._env.num_actions)

    def action_space(self, params: CraftaxParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: CraftaxParams | None = None) -> spaces.Box:
        return spaces.Box(0.0, 1.0, self._env.observation_space(self._rates).shape, jnp.float32)


def craftax_classic(horizon: int = 10_000, num_worlds: int | None = None) -> tuple[CraftaxClassic, TaskDistribution]:
    """`(env, tasks)`: worlds of Craftax-Classic.

    Args:
      horizon: steps an episode; default the package's.
      num_worlds: draw from the worlds of seeds 0, ..., num_worlds - 1 only; default any.

    Raises:
      MissingPackage: an ImportError that names the extra to install.
      ValueError: for a horizon or a number of worlds that is not an integer of at least 1.
    """
    env = _environment(check_count("horizon", horizon))
    if num_worlds is None:
        return env, TaskDistribution(env.params, env.horizon, description="Craftax-Classic, any world")
    keys = jax.vmap(jax.random.key)(jnp.arange(check_count("num_worlds", num_worlds)))
    members = jax.vmap(env.params)(keys)
    return env, TaskDistribution.from_members(
        members, env.horizon, description=f"Craftax-Classic, one of {num_worlds} worlds"
    )


_environment = functools.lru_cache(maxsize=None, typed=True)(CraftaxClassic)
