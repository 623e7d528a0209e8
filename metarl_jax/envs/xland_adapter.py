"""XLand-MiniGrid (Nikulin et al. 2024): `make("XLand-MiniGrid:R1-9x9", benchmark="drawn-small")`, rulesets as tasks.

The package `xminigrid` is imported by the first use. A task is one ruleset (goal, production rules, objects); where the
objects and the agent start is drawn anew in every episode. Reward, as there: 1 - .9 t / T when the goal is met at step
t of T, and the episode terminates; at T it is truncated. No oracle.

Differences from the package: `params` is the task, not the static sizes; observations carry the agent's direction as
the package's training scripts add it; its random state is kept as key data, so that every leaf of the state can be
selected and cast; the package's auto-reset wrapper is not used.
"""

import functools
import importlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.packages import package
from metarl_jax.envs.registry import did_you_mean
from metarl_jax.envs.spaces import Joint, MultiDiscrete
from metarl_jax.envs.tasks import TaskDistribution, as_arrays, check_count, num_members
from metarl_jax.envs.xland_rulesets import DISTRIBUTIONS, draw_rulesets, load_rulesets

_FAMILY = "XLand-MiniGrid-"
_NUM_DIRECTIONS = 4
_DRAWN = 10_000  # rulesets, unless it is said


@struct.dataclass(kw_only=True)
class XLandParams(environment.EnvParams):
    """One task."""

    ruleset: Any  # xminigrid's RuleSet (goal, rules, init_tiles); None for the environments that have none
    max_steps_in_episode: Array


@struct.dataclass
class XLandState(environment.EnvState):
    """The package's own state, and a clock."""

    timestep: Any  # xminigrid's TimeStep
    time: Array  # [] steps taken in this episode


class XLand(environment.Environment[XLandState, XLandParams]):
    """One of the package's environments.

    Observation: int32, the kind and the colour of each tile of the view [V, V, 2] and the agent's direction, one vector
    [2 V^2 + 1] (`envs.spaces.Joint`). Networks read it as one-hots, V^2 (kinds + colours) + 4 numbers, with
    `embedding_size` as learned vectors, and with `channels` by convolutions over the view (`networks.encoder`).
    """

    has_dear_reset = True

    def __init__(self, env_id: str, horizon: int | None):
        super().__init__()
        xminigrid = _package()
        constants = importlib.import_module("xminigrid.core.constants")
        self._id = env_id
        self._env, static = xminigrid.make(env_id)
        self._static = static if horizon is None else static.replace(max_steps=check_count("horizon", horizon))
        self.horizon = int(self._static.max_steps)
        self.has_rulesets = hasattr(self._static, "ruleset")
        # Cells inside the outer walls, less the agent's.
        self.most_objects = (self._static.height - 2) * (self._static.width - 2) - 1
        view = np.tile([int(constants.NUM_TILES), int(constants.NUM_COLORS)], (*2 * [self._static.view_size], 1))
        self._space = Joint([MultiDiscrete(view.tolist()), spaces.Discrete(_NUM_DIRECTIONS)])

    def params(self, ruleset: Any = None) -> XLandParams:
        """The task with this ruleset; None for the one that the package has by default."""
        if ruleset is None and self.has_rulesets:
            ruleset = self._static.ruleset
        return XLandParams(ruleset=as_arrays(ruleset), max_steps_in_episode=jnp.asarray(self.horizon, int))

    @property
    def default_params(self) -> XLandParams:
        return self.params()

    def reset_env(self, key: Array, params: XLandParams) -> tuple[Array, XLandState]:
        timestep = as_arrays(self._env.reset(self._own(params), jax.random.key_data(key)))
        state = XLandState(timestep=timestep, time=jnp.zeros((), int))
        return self.get_obs(state, params), state

    def step_env(
        self, key: Array, state: XLandState, action: int | float | Array, params: XLandParams
    ) -> tuple[Array, XLandState, Array, Array, dict[Any, Any]]:
        del key  # the package keeps its own in the state
        timestep = as_arrays(self._env.step(self._own(params), state.timestep, jnp.asarray(action, int)))
        state = XLandState(timestep=timestep, time=state.time + 1)
        reward = timestep.reward.astype(float)
        return self.get_obs(state, params), state, reward, self.is_terminated(state, params), {}

    def is_terminated(self, state: XLandState, params: XLandParams) -> Array:
        return state.timestep.discount == 0

    def is_truncated(self, state: XLandState, params: XLandParams) -> Array:
        return state.time >= params.max_steps_in_episode

    def get_obs(self, state: XLandState, params: XLandParams | None = None, key: Array | None = None) -> Array:
        return self._space.join([state.timestep.observation, state.timestep.state.agent.direction])

    def _own(self, params: XLandParams) -> Any:
        return self._static.replace(ruleset=params.ruleset) if self.has_rulesets else self._static

    @property
    def name(self) -> str:
        return self._id

    @property
    def num_actions(self) -> int:
        return int(self._env.num_actions(self._static))

    def action_space(self, params: XLandParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: XLandParams | None = None) -> Joint:
        return self._space


def xland(
    env_id: str,
    *,
    benchmark: Any = None,
    num_tasks: int | None = None,
    seed: int | None = None,
    trusted: bool = False,
    horizon: int | None = None,
) -> tuple[XLand, TaskDistribution]:
    """`(env, tasks)` of an XLand-MiniGrid environment, uniform over the rulesets of a benchmark.

    Args:
      env_id: the package's id, "XLand-MiniGrid-R1-9x9" or "R1-9x9" for short; "MiniGrid-..." has a single task.
      benchmark: its rulesets, one of
        "drawn-trivial", "drawn-small": drawn here, like the package's of these names (`envs.xland_rulesets`);
        "trivial-21k", "small-1m", "medium-1m", ...: files that the package downloads once and keeps;
        the path of a .npz file of `envs.xland_rulesets.save_rulesets`, from which nothing is unpickled;
        the path of a file of the package's own format, with `trusted`; or a `Benchmark` of the package.
      num_tasks: how many are drawn, default 10,000; of another benchmark use the first so many, default all.
      seed: of those that are drawn, default 0.
      trusted: a file of the package's format is a pickle, which can run any program. True says that you know who made
        it. The package's downloads are pickles too, fetched over HTTPS from its authors' repository, or the one that
        XLAND_MINIGRID_HF_REPO_ID names, into XLAND_MINIGRID_DATA: to name one of them is to trust those.
      horizon: steps an episode; default the package's, 3 x height x width.

    Raises:
      MissingPackage: an ImportError that names the extra to install.
      ValueError: for an unknown id or benchmark, a file that is not trusted or is no file of rulesets, a benchmark for
        an environment without rulesets, and one with more objects than fit into the rooms.
    """
    xminigrid = _package()
    known = xminigrid.registered_environments()
    full_id = env_id if env_id in known else _FAMILY + env_id
    if full_id not in known:
        short = [name.removeprefix(_FAMILY) for name in known]
        raise ValueError(f"XLand-MiniGrid has no environment {env_id!r}{did_you_mean(env_id, short)}")
    env = _environment(full_id, horizon)
    if not env.has_rulesets:
        for name, value in (("benchmark", benchmark), ("num_tasks", num_tasks), ("seed", seed)):
            if value is not None:
                raise ValueError(f"{name}: {full_id} has no rulesets, those of XLand-MiniGrid-... have; leave it out")
        members, description = jax.tree.map(lambda leaf: leaf[None], env.params()), f"{full_id}, a single task"
    else:
        rulesets = _rulesets(benchmark, num_tasks, seed, trusted)
        objects = rulesets.init_tiles.shape[1]
        if objects > env.most_objects:
            raise ValueError(f"benchmark: has {objects} objects a task, {full_id} has room for {env.most_objects}")
        members = jax.vmap(env.params)(rulesets)
        description = f"{full_id}, one of {num_members(members)} rulesets"
    return env, TaskDistribution.from_members(members, env.horizon, description=description)


_environment = functools.lru_cache(maxsize=None, typed=True)(XLand)


def _package() -> Any:
    return package("xminigrid", "xland", "XLand-MiniGrid")


def _rulesets(benchmark: Any, num_tasks: int | None, seed: int | None, trusted: bool) -> Any:
    """Stacked RuleSets, leaves [N, ...]."""
    benchmarks = importlib.import_module("xminigrid.benchmarks")
    names = (*DISTRIBUTIONS, *benchmarks.registered_benchmarks())
    if benchmark is None:
        raise ValueError(f"a task of XLand-MiniGrid is a ruleset: give benchmark, one of {', '.join(names)}, or a file")
    name = str(benchmark) if isinstance(benchmark, str | Path) else ""
    if seed is not None and name not in DISTRIBUTIONS:
        raise ValueError(f"seed = {seed}: is for rulesets that are drawn, {' and '.join(DISTRIBUTIONS)}; leave it out")
    if name in DISTRIBUTIONS:
        num_tasks = _DRAWN if num_tasks is None else num_tasks
        benchmark = _benchmark(draw_rulesets(name, num_tasks, 0 if seed is None else seed))
    elif name in names:
        benchmark = benchmarks.load_benchmark(name)
    elif name and not Path(name).is_file():
        raise ValueError(f"benchmark {name!r} is no file and no name{did_you_mean(name, names)}")
    elif name.endswith(".npz"):
        benchmark = _benchmark(load_rulesets(name))
    elif name and not trusted:
        raise ValueError(
            f"benchmark = {name}: would be unpickled, which can run any program; give trusted=True if you know who "
            "made it, or a .npz file of metarl_jax.envs.xland_rulesets.save_rulesets"
        )
    elif name:
        benchmark = benchmarks.load_benchmark_from_path(name)
    elif not hasattr(benchmark, "num_rulesets"):
        raise ValueError(f"benchmark must be one of {', '.join(names)}, or a file; got {benchmark!r}")
    size = benchmark.num_rulesets()
    if num_tasks is not None and check_count("num_tasks", num_tasks) > size:
        raise ValueError(f"num_tasks must be at most {size}, the rulesets of the benchmark, got {num_tasks!r}")
    return jax.vmap(benchmark.get_ruleset)(jnp.arange(num_tasks or size))


def _benchmark(arrays: dict[str, np.ndarray]) -> Any:
    return importlib.import_module("xminigrid.benchmarks").Benchmark(**jax.tree.map(jnp.asarray, arrays))
