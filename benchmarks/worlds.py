"""Environment steps per CPU-second on games, driving, recommendation and XLand-MiniGrid.

    python -m benchmarks.worlds                                            all that is installed
    python -m benchmarks.worlds --works minatar --peer-python PYTHON       beside rejax, in the same run

Rollouts are of uniform actions, without a network and without resets. PPO is a whole iteration at the settings of
configs/ppo_minatar.yaml and configs/ppo_xland.yaml; beside it on XLand the tiles as one-hots, the default. rejax has
the same network, sizes and epochs, in a process of its own (`benchmarks/peers.py`).
"""

import importlib.util
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
    sizes = {name: getattr(c, name) for name in ("num_envs", "num_steps", "num_minibatches", "num_epochs", "gamma")}
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
        result = peers.run_peer(
            "rejax-minatar", ["--iterations", str(ITERATIONS), "--repeats", str(repeats)], python=peer_python
        )
        if not result["available"]:
            print(f"rejax: {result['reason']}", file=sys.stderr)
        theirs = {**result, "row": "minatar: rejax's PPO", "cpu_s": result.get("run_cpu_s")}
        found = [theirs] * result["available"] + [row("minatar: PPO", *ppo("ppo_minatar"), repeats)]
    first = found[0]["env_steps_per_cpu_s"]
    return [{**each, "times": each["env_steps_per_cpu_s"] / first} for each in found]


def row(name: str, function: Callable, env_steps: int, repeats: int) -> dict[str, Any]:
    measured = common.measure(function, jax.random.key(0), repeats=repeats)
    return {"row": name, **common.rates(measured, env_steps)}


WORKS = {"driving": "Driving-v0", "recommender": "Recommender-v0", "xland": "", "minatar": ""}


def main() -> None:
    p = common.parser(__doc__, "worlds")
    p.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    p.add_argument("--peer-python", help="interpreter that has rejax installed, see benchmarks/peers.py")
    arguments = p.parse_args()
    rows = [found for work in arguments.works for found in rows_of(work, arguments.repeats, arguments.peer_python)]
    print(common.table(rows, COLUMNS))
    common.save(arguments.output, rows)


if __name__ == "__main__":
    main()
