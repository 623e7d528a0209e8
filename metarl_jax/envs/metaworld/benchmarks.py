"""ML1 and ML10 of Meta-World: `make("MetaWorld:ML1-button-press")`, `make("MetaWorld:ML10")`.

**ML1** is one task whose goals and places vary: 50 to train on, 50 others to test on. **ML10** trains on ten tasks and
tests on five others, 50 goals each. By default the tasks are those: the vectors that `metaworld.ML1(name, seed)` and
`metaworld.ML10(seed)` of package 3.1.1 draw with that seed, in their order. `num_goals=None` is the continuous
distribution over the same range instead, and the test tasks are another stream of it.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metarl_jax.envs.metaworld import free_objects, mechanisms
from metarl_jax.envs.metaworld.sawyer import Sawyer, too_near
from metarl_jax.envs.metaworld.task import Task
from metarl_jax.envs.registry import did_you_mean
from metarl_jax.envs.tasks import TaskDistribution, check_count

TASKS: dict[str, Task] = {
    "reach": free_objects.REACH,
    "push": free_objects.PUSH,
    "pick-place": free_objects.PICK_PLACE,
    "button-press": mechanisms.BUTTON_PRESS,
    "button-press-topdown": mechanisms.BUTTON_PRESS_TOPDOWN,
    "door-open": mechanisms.DOOR_OPEN,
    "door-close": mechanisms.DOOR_CLOSE,
    "drawer-open": mechanisms.DRAWER_OPEN,
    "drawer-close": mechanisms.DRAWER_CLOSE,
    "window-open": mechanisms.WINDOW_OPEN,
    "window-close": mechanisms.WINDOW_CLOSE,
    "peg-insert-side": free_objects.PEG_INSERT_SIDE,
    "sweep": free_objects.SWEEP,
    "sweep-into": free_objects.SWEEP_INTO,
    "basketball": free_objects.BASKETBALL,
    "shelf-place": free_objects.SHELF_PLACE,
    "lever-pull": mechanisms.LEVER_PULL,
}
ML10_TRAIN = (
    "reach", "push", "pick-place", "door-open", "drawer-close", "button-press-topdown", "peg-insert-side",
    "window-open", "sweep", "basketball",
)  # fmt: skip
ML10_TEST = ("drawer-open", "door-close", "shelf-place", "sweep-into", "lever-pull")
REWARDS = ("v2", "v1")
ML1_PREFIX = "ML1-"


@dataclasses.dataclass(frozen=True, eq=False)
class Benchmark(TaskDistribution):
    """Tasks whose training and test halves are given. The whole is the tasks of both."""

    train: Any = None  # (sample, members or None)
    test: Any = None

    def split(self, seed: int) -> tuple[TaskDistribution, TaskDistribution]:
        """The benchmark's own halves. Where they are continuous, the seed names the stream of test tasks."""
        if self.part != "all":
            return super().split(seed)
        (draw, members), stream = self.test, functools.partial(_stream, self.test[0], seed)
        return self._halves(self.train, (draw if members is not None else stream, members), held_out=True)

    def evaluation_tasks(self, num_tasks: int, seed: int = 0) -> Any:
        """The first goal of every test task, then the second of each, and so on; they come round again."""
        halves = self if self.part == "test" else self._test or self.split(seed)[1]
        if halves.members is None:
            return super().evaluation_tasks(num_tasks, seed)
        check_count("num_tasks", num_tasks)
        kinds = len(np.unique(halves.members.kind))
        order = np.arange(len(halves.members.kind)).reshape(kinds, -1).T.reshape(-1)
        chosen = order[np.arange(num_tasks) % len(order)]
        return jax.tree.map(lambda x: x[chosen], halves.members)


def meta_world(
    name: str, *, reward: str = "v2", horizon: int = 500, num_goals: int | None = 50, seed: int = 0
) -> tuple[Sawyer, TaskDistribution]:
    """`(env, tasks)` of "ML1-<task>" or "ML10"; options as of `ml1`.

    Raises: ValueError, one line, for an unknown name or value; MissingPackage.
    """
    if name == "ML10":
        return ml10(reward=reward, horizon=horizon, num_goals=num_goals, seed=seed)
    if name.startswith(ML1_PREFIX):
        task = name.removeprefix(ML1_PREFIX)
        return ml1(task, reward=reward, horizon=horizon, num_goals=num_goals, seed=seed)
    known = ["ML10", *(ML1_PREFIX + task for task in TASKS)]
    raise ValueError(f"Meta-World has no benchmark {name!r} here{did_you_mean(name, known)}")


def ml1(
    task: str, *, reward: str = "v2", horizon: int = 500, num_goals: int | None = 50, seed: int = 0
) -> tuple[Sawyer, TaskDistribution]:
    """One task of Meta-World: hidden goals vary.

    Args:
      task: one of `TASKS`. "-v3" at its end is optional.
      reward: "v2", in [0, 10]; "v1", the older and unbounded one. Success follows the package in both: some V1 rewards
        measure another distance.
      horizon: steps an episode; default the package's.
      num_goals: goals to train on and as many to test on; None: uniform over the whole range.
      seed: the package's, of which goals; test goals are those of seed + 1.

    Raises: ValueError, one line, for an unknown task or reward; MissingPackage.
    """
    short = task.removesuffix("-v3")
    if short not in TASKS:
        raise ValueError(f"Meta-World has no task {task!r} here{did_you_mean(task, TASKS)}")
    env = _environment((short,), _reward(reward), horizon)
    where = f"Meta-World ML1 {short}"
    if num_goals is None:
        tasks = Benchmark(
            env.sample,
            env.horizon,
            description=f"{where}, goals uniform over the package's range",
            train=(functools.partial(_stream, env.sample, -1), None),
            test=(env.sample, None),
        )
        return env, tasks
    halves = [_goals(env, (0,), check_count("num_goals", num_goals), s) for s in (seed, seed + 1)]
    return env, _finite(env, halves, f"{where}, {num_goals} goals to train on and {num_goals} to test on")


def ml10(
    *, reward: str = "v2", horizon: int = 500, num_goals: int | None = 50, seed: int = 0
) -> tuple[Sawyer, TaskDistribution]:
    """Ten tasks to train on, five to test on; the goals of each vary and are hidden. Arguments as of `ml1`.

    Observations do not say which task it is. All fifteen models are in memory, some 20 MB each and thread; a step is
    one call of the host for all of them.
    """
    env = _environment(ML10_TRAIN + ML10_TEST, _reward(reward), horizon)
    kinds = tuple(range(len(ML10_TRAIN))), tuple(range(len(ML10_TRAIN), len(env.tasks)))
    if num_goals is None:
        train, test = (functools.partial(_any_kind, env, half) for half in kinds)
        return env, Benchmark(
            functools.partial(_any_kind, env, kinds[0] + kinds[1]),
            env.horizon,
            description="Meta-World ML10, goals uniform over the package's ranges",
            train=(train, None),
            test=(test, None),
        )
    halves = [_goals(env, half, check_count("num_goals", num_goals), seed) for half in kinds]
    return env, _finite(env, halves, f"Meta-World ML10, {num_goals} goals a task")


def _finite(env: Sawyer, halves: Sequence[Any], description: str) -> Benchmark:
    whole = jax.tree.map(lambda *x: jnp.concatenate(x), *halves)
    draws = [(TaskDistribution.from_members(half, env.horizon).sample, half) for half in halves]
    sample = TaskDistribution.from_members(whole, env.horizon).sample
    return Benchmark(
        sample, env.horizon, members=whole, description=description, train=draws[0], test=draws[1]
    )  # fmt: skip


def _goals(env: Sawyer, kinds: Sequence[int], number: int, seed: int) -> Any:
    """Stacked tasks, leaves [kinds * number, ...]: as the package draws them from numpy's global generator."""
    rng = np.random.RandomState(seed)  # noqa: NPY002  (the package's own generator: the same goals)
    stacked = []
    for kind in kinds:
        vectors = [_package_vector(env.tasks[kind], rng) for _ in range(number)]
        stacked.append(jax.vmap(functools.partial(env.params, kind=kind))(jnp.asarray(np.stack(vectors), float)))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *stacked)


def _package_vector(task: Task, rng: Any) -> np.ndarray:
    vector = np.zeros(0)
    for _ in range(2):  # its reset draws twice and uses the second
        vector = rng.uniform(task.low, task.high)
        while task.min_distance and too_near(task, vector):
            vector = rng.uniform(task.low, task.high)
    return vector


def _any_kind(env: Sawyer, kinds: Sequence[int], key: Array) -> Any:
    which, draw = jax.random.split(key)
    branches = [functools.partial(env.sample, kind=kind) for kind in kinds]
    return jax.lax.switch(jax.random.randint(which, (), 0, len(kinds)), branches, draw)


def _stream(sample: Any, seed: int, key: Array) -> Any:
    return sample(jax.random.fold_in(jax.random.fold_in(key, 0x7E57), seed + 1))


def _reward(reward: str) -> str:
    if reward not in REWARDS:
        raise ValueError(f"reward = {reward}: must be one of {', '.join(REWARDS)}")
    return reward


@functools.lru_cache(maxsize=None, typed=True)
def _environment(names: tuple[str, ...], reward: str, horizon: int) -> Sawyer:
    """Equal arguments, one instance: no second compilation, and nothing is settled twice."""
    return Sawyer([(name, TASKS[name]) for name in names], reward, horizon)
