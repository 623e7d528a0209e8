"""Robots: environment steps a CPU-second in the rollout, beside their packages; an iteration of ProMP, by parts.

    taskset -c 0 python -m benchmarks.robots         what is installed: robots, and Meta-World where it is; on one core
    python -m benchmarks.robots --only HalfCheetah   rows whose name has this in it
    python -m benchmarks.robots --small              tiny sizes, a test of the command itself

C MuJoCo, tanh 64-64 policies that act in the loop, float32. gymnasium's rows are its SyncVectorEnv with 64 environments
under random actions, without a policy; Meta-World's is the package's environment in a loop, with random actions. A row
and its peer run one after the other, as often as `--repeats` says, in turn; medians. CPU-seconds add up all threads.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import metarl_jax as mrl
from benchmarks import common
from metarl_jax.envs.physics import c_mujoco
from metarl_jax.rl.rollout import rollout

COLUMNS = {
    "work": "", "lanes": "d", "compile_s": ".1f", "cpu_s": ".2f", "wall_s": ".2f", "env_steps_per_cpu_s": ",.0f",
    "env_steps_per_s": ",.0f", "times_peer": ".2f",
}  # fmt: skip
# ours, lanes, steps, the peer's name, its steps
ROBOTS = (
    ("HalfCheetahDir-v0", 800, 100, "HalfCheetah-v5", 150),
    ("AntDir-v0", 800, 20, "Ant-v5", 40),
)
META_WORLD = (("MetaWorld:ML1-button-press", "button-press-v3", 200, 100), ("MetaWorld:ML10", None, 200, 100))
PEER_ENVS = 64


class Timer:
    """CPU and wall seconds of every call, and what they come to."""

    def __init__(self, call: Callable[[], Any]):
        self.call, self.cpu, self.wall = call, [], []  # type: ignore[var-annotated]
        call()  # not counted

    def once(self) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        self.call()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)

    def row(self, work: str, lanes: int, steps: int, **more: Any) -> dict[str, Any]:
        facts = {"cpu_s": statistics.median(self.cpu), "wall_s": statistics.median(self.wall), "cpu_s_all": self.cpu}
        return {"work": work, "lanes": lanes, **more, **common.rates(facts, steps)}


def acting(name: str, lanes: int, steps: int) -> tuple[Callable[[], Any], float]:
    """(a call that rolls out `lanes` episodes of `steps` steps, seconds that it took to compile)."""
    env, tasks = mrl.make(name, backend="c") if not name.startswith("MetaWorld") else mrl.make(name)
    policy = mrl.networks.mlp_policy(env, (64, 64))
    params = policy.init(jax.random.key(0))
    own = jax.vmap(tasks.sample)(jax.random.split(jax.random.key(1), lanes))

    def run(params: Any, key: jax.Array) -> Any:
        sizes = {"num_steps": steps, "num_envs": lanes, "one_task_each": True}
        data = rollout(env, policy.apply, params, key, own, **sizes)[0]
        return data.episode_return[-1], data.mask.sum()

    began = time.perf_counter()
    compiled = jax.jit(run).lower(params, jax.random.key(2)).compile()
    compile_s = time.perf_counter() - began
    return lambda: jax.block_until_ready(compiled(params, jax.random.key(2))), compile_s


def gymnasium_loop(name: str, steps: int) -> Callable[[], Any]:
    """PEER_ENVS of gymnasium's environments, `steps` steps of random actions."""
    import gymnasium

    envs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(name)] * PEER_ENVS)
    envs.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, *envs.action_space.shape)).astype(np.float32)

    def loop() -> None:
        for action in actions:
            envs.step(action)

    return loop


def meta_world_loop(name: str, steps: int) -> Callable[[], Any]:
    """The package's environment, `steps` steps of random actions."""
    import metaworld

    ml1 = metaworld.ML1(name, seed=0)
    env = ml1.train_classes[name]()
    env.set_task(ml1.train_tasks[0])
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 4)).astype(np.float32)

    def loop() -> None:
        for i, action in enumerate(actions):
            if i % 500 == 0:
                env.reset()
            env.step(action)

    return loop


def beside(name: str, lanes: int, steps: int, peer: str | None, peer_steps: int, repeats: int) -> list[dict[str, Any]]:
    """Our row, and the peer's, measured in turn."""
    call, compile_s = acting(name, lanes, steps)
    alive = float(call()[1])  # steps before the end of episodes
    ours, theirs = Timer(call), None
    if peer is not None:
        meta_world = name.startswith("MetaWorld")
        theirs = Timer(meta_world_loop(peer, peer_steps) if meta_world else gymnasium_loop(peer, peer_steps))
    for _ in range(repeats):
        ours.once()
        if theirs is not None:
            theirs.once()
    rows = [ours.row(f"{name}, rollout with policy", lanes, int(alive), compile_s=compile_s)]
    if theirs is not None:
        number = 1 if name.startswith("MetaWorld") else PEER_ENVS
        rows.append(theirs.row(f"{peer}, package", number, number * peer_steps))
        rows[0]["times_peer"] = rows[0]["env_steps_per_cpu_s"] / rows[1]["env_steps_per_cpu_s"]
    return rows


def promp(small: bool, repeats: int) -> list[dict[str, Any]]:
    """An iteration at ProMP's size: whole, and its collection alone."""
    sizes = {"meta_batch_size": 2, "episodes_per_task": 2, "horizon": 5} if small else {
        "meta_batch_size": 40, "episodes_per_task": 20, "horizon": 100,
    }  # fmt: skip
    env, tasks = mrl.make("HalfCheetahDir-v0", action_scale=0.1, backend="c")
    policy = mrl.networks.mlp_policy(env, (64, 64))
    inner = mrl.inner.policy_gradient(policy, 0.1)
    algorithm = mrl.promp(env, tasks, policy, inner, num_outer_epochs=5, **sizes)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    number = sizes["meta_batch_size"]

    def collection(params: Any, key: jax.Array) -> Any:
        return jax.vmap(lambda k: algorithm.collect(params, k, tasks.sample(k)))(jax.random.split(key, number))

    steps = 2 * number * sizes["episodes_per_task"] * sizes["horizon"]
    lanes = number * sizes["episodes_per_task"]
    rows = []
    for work, function, argument in (
        ("ProMP HalfCheetahDir, iteration", algorithm.step, state),
        ("ProMP HalfCheetahDir, collection", collection, state.params),
    ):
        measured = common.measure(function, argument, jax.random.key(1), repeats=repeats)
        rows.append({"work": work, "lanes": lanes, **common.rates(measured, steps)})
    return rows


def main() -> None:
    parser = common.parser(__doc__, "robots")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--small", action="store_true", help="tiny sizes, whose times mean nothing")
    arguments = parser.parse_args()
    studies: dict[str, Callable[[], list[dict[str, Any]]]] = {}
    for name, lanes, steps, peer, peer_steps in ROBOTS:
        size = (4, 3, peer, 3) if arguments.small else (lanes, steps, peer, peer_steps)
        studies[name] = lambda n=name, s=size: beside(n, *s, arguments.repeats)
    studies["ProMP HalfCheetahDir"] = lambda: promp(arguments.small, arguments.repeats)
    if importlib.util.find_spec("metaworld") is not None:
        for name, peer, lanes, steps in META_WORLD:
            size = (4, 3, peer, 3) if arguments.small else (lanes, steps, peer, 2000)
            studies[name] = lambda n=name, s=size: beside(n, *s, arguments.repeats)
    rows: list[dict[str, Any]] = []
    for name, study in studies.items():
        if arguments.only in name:
            rows += study()
            common.save(arguments.output, rows, cores=c_mujoco.cores())
    print(common.table(rows, COLUMNS))


if __name__ == "__main__":
    main()
