"""Environment steps per CPU-second on games, driving, recommendation and XLand-MiniGrid.

    python -m benchmarks.worlds                                            all that is installed
    python -m benchmarks.worlds --works minatar --peer-python PYTHON       beside rejax, in the same run

Rollouts are of uniform actions, without a network and without resets. PPO is a whole iteration at the settings of
configs/ppo_minatar.yaml and configs/ppo_xland.yaml; beside it on XLand the tiles as one-hots, the default. rejax has
the same network, sizes and epochs (`benchmarks/peers.py`): once with flax's `nn.Conv`, once with the convolution as a
matrix product over patches, which ours is. On MinAtar all take turns, each time in a process of its own.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import metarl_jax as mrl
from benchmarks import common, peers
from metarl_jax.networks import mlp_policy
from metarl_jax.runs.config import load

COLUMNS = {
    "row": "",
    "compile_s": ".1f",
    "cpu_s": ".3f",
    "env_steps_per_cpu_s": ",.0f",
    "env_steps_per_s": ",.0f",
    "times": ".2f",
}
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
LANES, STEPS, ITERATIONS = 1024, 200, 6


def rollout(name: str) -> tuple[Callable, int]:
    """(a function of a key, environment steps in it): LANES tasks, as many actions as an episode has at most."""
    env, tasks = mrl.make(name)
    length = min(STEPS, tasks.horizon)
    actions = env.action_space(env.default_params)

    def run(key: jax.Array) -> Any:
        task_key, reset_key, walk_key = jax.random.split(key, 3)
        task = jax.vmap(tasks.sample)(jax.random.split(task_key, LANES))
        state = jax.vmap(env.reset_env)(jax.random.split(reset_key, LANES), task)[1]

        def one(state: Any, key: jax.Array) -> tuple[Any, Any]:
            act_key, step_key = jax.random.split(key)
            action = jax.vmap(actions.sample)(jax.random.split(act_key, LANES))
            seen, state, reward, *_ = jax.vmap(env.step_env)(jax.random.split(step_key, LANES), state, action, task)
            return state, (seen.mean(), reward.mean())

        return jax.lax.scan(one, state, jax.random.split(walk_key, length))[1]

    return run, LANES * length


def ppo(config: str, **changed: Any) -> tuple[Callable, int]:
    """(a function of a key, environment steps in it): ITERATIONS of PPO from the start, as a configuration says."""
    c = load(CONFIGS / f"{config}.yaml", []).model_copy(update=changed)
    env, tasks = mrl.make(c.env)
    options = {"channels": c.channels, "embedding_size": c.embedding_size}
    policy = mlp_policy(env, tuple(c.hidden), c.activation, critic=True, **options)
    names = ("num_envs", "num_steps", "num_minibatches", "num_epochs", "gamma", "value_clip_eps")
    sizes = {name: getattr(c, name) for name in names}
    algo = mrl.ppo(env, tasks.sample(jax.random.key(0)), policy, lr=c.lr, num_iterations=ITERATIONS, **sizes)

    def run(key: jax.Array) -> Any:
        return jax.lax.scan(algo.step, algo.init(key), jax.random.split(key, ITERATIONS))[1]["episode_return"]

    return run, ITERATIONS * c.num_envs * c.num_steps


def rows_of(work: str, repeats: int, peer_python: str | None) -> list[dict[str, Any]]:
    """Measured rows of one world; `times` is the ratio to the first of them."""
    if work in ("driving", "recommender"):
        return [row(f"{work}: rollout", *rollout(WORKS[work]), repeats)]
    if work == "xland":
        if importlib.util.find_spec("xminigrid") is None:
            print("xland: not installed; pip install 'metarl_jax[xland]'", file=sys.stderr)
            return []
        found = [
            row("xland: PPO, one-hots", *ppo("ppo_xland", embedding_size=None), repeats),
            row("xland: PPO, embeddings", *ppo("ppo_xland"), repeats),
        ]
    else:
        found = in_turns(
            {
                "minatar: rejax's PPO, nn.Conv": lambda: rejax(peer_python),
                "minatar: rejax's PPO, patches": lambda: rejax(peer_python, "--patches"),
                "minatar: PPO": alone,
            },
            repeats,
        )
    first = found[0]["env_steps_per_cpu_s"]
    return [{**each, "times": each["env_steps_per_cpu_s"] / first} for each in found]


def in_turns(runs: dict[str, Callable[[], dict[str, Any]]], repeats: int) -> list[dict[str, Any]]:
    """A row of medians for each of `runs`, which take turns; what cannot run is left out, with a line that says why."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for turn in range(repeats):
        for name, run in runs.items():
            if turn and not found[name]:
                continue
            result = run()
            if result.get("available", True):
                found[name].append(result)
            else:
                print(f"{name}: {result['reason']}", file=sys.stderr)
    rows = []
    for name, results in found.items():
        if results:
            cpu, compiled = ([each[key] for each in results] for key in ("cpu_s", "compile_s"))
            seconds, steps = statistics.median(cpu), results[0]["env_steps"]
            medians = {"compile_s": statistics.median(compiled), "cpu_s": seconds, "cpu_s_all": cpu}
            versions = {"versions": results[0]["versions"]} if "versions" in results[0] else {}
            per_second = {"env_steps": steps, "env_steps_per_cpu_s": steps / seconds}
            rows.append({"row": name, **medians, **per_second, **versions})
    return rows


def rejax(python: str | None, *options: str) -> dict[str, Any]:
    result = peers.run_peer("rejax-minatar", ["--iterations", str(ITERATIONS), *options], python=python)
    return {**result, "cpu_s": result.get("run_cpu_s")}


def alone() -> dict[str, Any]:
    """Our row of MinAtar once, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.worlds", "--alone"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, function: Callable, env_steps: int, repeats: int) -> dict[str, Any]:
    measured = common.measure(function, jax.random.key(0), repeats=repeats)
    return {"row": name, **common.rates(measured, env_steps)}


WORKS = {"driving": "Driving-v0", "recommender": "Recommender-v0", "xland": "", "minatar": ""}


def main() -> None:
    p = common.parser(__doc__, "worlds")
    p.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    p.add_argument("--peer-python", help="interpreter that has rejax installed, see benchmarks/peers.py")
    p.add_argument("--alone", action="store_true", help="one line of JSON: ours on MinAtar, measured once")
    arguments = p.parse_args()
    if arguments.alone:
        clipped = ppo("ppo_minatar", value_clip_eps=0.2)  # as rejax always clips
        print(json.dumps(row("minatar: PPO", *clipped, repeats=1)))
        return
    rows = [found for work in arguments.works for found in rows_of(work, arguments.repeats, arguments.peer_python)]
    print(common.table(rows, COLUMNS))
    common.save(arguments.output, rows)


if __name__ == "__main__":
    main()
