"""Environment steps a second: PPO on CartPole, MAML-PPO on point navigation, rollouts alone; beside peers.

    python -m benchmarks.throughput                                   our rows
    python -m benchmarks.throughput --peers --peer-python PYTHON      and, in the same run, rejax and learn2learn
    python -m benchmarks.throughput --memory                          RL2 instead: GRU and transformer, see memory.py

PPO is PureJaxRL's setting: 5e5 steps of CartPole-v1, 4 environments x 128 steps, 4 epochs, 4 minibatches.
MAML-PPO is ProMP's: 40 tasks x 20 episodes x 100 steps before and after one inner step, 64x64 tanh, 5 outer
epochs on the stored trials. learn2learn is measured at 5 tasks (its cost is linear in tasks) per step.
Pin the process to one core (`taskset -c 0 ...`) to compare single-core figures.
"""

from typing import Any

import jax
import jax.numpy as jnp

import metarl_jax as mrl
from benchmarks import common, memory, peers
from metarl_jax.rl.rollout import rollout

PPO_ITERATIONS = 500_000 // 512
TASKS, EPISODES, HORIZON = 40, 20, 100
COLUMNS = {
    "work": "", "compile_s": ".1f", "cpu_s": ".3f", "wall_s": ".3f", "env_steps_per_cpu_s": ",.0f",
    "env_steps_per_s": ",.0f", "temp_mb": ".1f", "score": ".1f",
}  # fmt: skip


def ppo_cartpole(num_seeds: int, repeats: int) -> dict[str, Any]:
    """Whole trainings of `num_seeds` vmapped seeds."""
    env, tasks = mrl.make("gymnax:CartPole-v1")
    task = tasks.sample(jax.random.key(0))
    policy = mrl.networks.mlp_policy(env, (64, 64), critic=True)
    algo = mrl.ppo(env, task, policy, num_iterations=PPO_ITERATIONS, value_clip_eps=0.2)

    def train(key: jax.Array) -> jax.Array:
        def iteration(state: Any, i: jax.Array) -> tuple[Any, jax.Array]:
            state, metrics = algo.step(state, jax.random.fold_in(key, i))
            return state, metrics["episode_return"]

        _, returns = jax.lax.scan(iteration, algo.init(key), jnp.arange(PPO_ITERATIONS))
        return mrl.tree.finite_mean(returns[-20:])

    keys = jax.random.split(jax.random.key(1), num_seeds)
    together = jax.vmap(train) if num_seeds > 1 else lambda keys: train(keys[0])
    result = common.rates(common.measure(together, keys, repeats=repeats), num_seeds * PPO_ITERATIONS * 512)
    score = float(jnp.mean(jax.jit(together)(keys)))
    return {"work": f"PPO CartPole, {num_seeds} seed(s)", **result, "score": score}


def point_maml(tasks_per_batch: int | None = None) -> tuple[Any, Any]:
    """(algorithm, state) of ProMP's setting, with a PPO update inside and outside."""
    env, tasks = mrl.make("PointNavigation-v2")
    policy = mrl.networks.mlp_policy(env, (64, 64))
    inner = mrl.inner.ppo(policy, 0.1, num_epochs=1, num_minibatches=1, gae_lambda=1.0, baseline="linear")
    algo = mrl.maml(
        env, tasks, policy, inner, meta_batch_size=TASKS, episodes_per_task=EPISODES, horizon=HORIZON,
        num_outer_epochs=5, tasks_per_batch=tasks_per_batch,
    )  # fmt: skip
    return algo, algo.init(jax.random.key(0))


def maml_point(tasks_per_batch: int | None, repeats: int) -> dict[str, Any]:
    """One meta-iteration."""
    algo, state = point_maml(tasks_per_batch)
    result = common.measure(algo.step, state, jax.random.key(1), repeats=repeats)
    label = "default" if tasks_per_batch is None else tasks_per_batch
    steps = 2 * TASKS * EPISODES * HORIZON
    result["meta_iterations_per_cpu_s"] = 1 / result["cpu_s"]
    return {"work": f"MAML-PPO point, tasks at a time: {label}", **common.rates(result, steps)}


def rollouts(repeats: int) -> dict[str, Any]:
    """The environment steps of one meta-iteration, nothing else."""
    env, tasks = mrl.make("PointNavigation-v2")
    policy = mrl.networks.mlp_policy(env, (64, 64))
    params = policy.init(jax.random.key(0))

    def collect(params: Any, key: jax.Array) -> Any:
        def one(key: jax.Array) -> Any:
            task = tasks.sample(key)
            return rollout(env, policy.apply, params, key, task, num_steps=HORIZON, num_envs=EPISODES)[0]

        return mrl.tree.chunked_map(one, jax.random.split(key, 2 * TASKS))

    result = common.measure(collect, params, jax.random.key(1), repeats=repeats)
    return {"work": "rollouts alone", **common.rates(result, 2 * TASKS * EPISODES * HORIZON)}


def peer_rows(python: str | None, repeats: int) -> list[dict[str, Any]]:
    """The peers' rows, measured by `benchmarks.peers` in the given interpreter."""
    rows = []
    for seeds in (1, 8):
        result = peers.run_peer("rejax", ["--seeds", str(seeds), "--repeats", str(repeats)], python=python)
        rows.append(_peer_row(f"rejax PPO CartPole, {seeds} seed(s)", result))
    result = peers.run_peer("learn2learn", ["--tasks", "5", "--repeats", "1"], python=python)
    rows.append(_peer_row("learn2learn ProMP point, 5 tasks", result))
    return rows


def _peer_row(work: str, result: dict[str, Any]) -> dict[str, Any]:
    if not result.get("available", True):
        print(f"{work}: {result['reason']}")
        return {"work": work, "reason": result["reason"]}
    steps = result["env_steps_per_cpu_s"] * result["run_cpu_s"] / result["run_wall_s"]
    return {
        **result, "work": work, "cpu_s": result["run_cpu_s"], "wall_s": result["run_wall_s"], "env_steps_per_s": steps,
        "score": result.get("final_return", result.get("mean_return")),
    }  # fmt: skip


def main() -> None:
    parser = common.parser(__doc__, "throughput")
    parser.add_argument("--peers", action="store_true", help="measure the peers too, in the same run")
    parser.add_argument("--peer-python", help="interpreter that has the peers installed, see benchmarks/peers.py")
    parser.add_argument("--memory", action="store_true", help="the rows of RL2 instead, into throughput_memory_*.json")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 8], help="PPO seeds, vmapped (default 1 8)")
    parser.add_argument("--tasks-per-batch", type=int, nargs="*", default=[5, TASKS], help="besides the default")
    arguments = parser.parse_args()
    if arguments.memory:
        measured = memory.rows(arguments.repeats)
        print(common.table(measured, memory.COLUMNS))
        output = arguments.output
        if output == parser.get_default("output"):
            output = output.with_name(output.name.replace("throughput", "throughput_memory"))
        common.save(output, measured)
        return
    rows = [ppo_cartpole(n, arguments.repeats) for n in arguments.seeds]
    rows.append(rollouts(arguments.repeats))
    rows += [maml_point(n, arguments.repeats) for n in [None, *arguments.tasks_per_batch]]
    if arguments.peers:
        rows += peer_rows(arguments.peer_python, arguments.repeats)
    print(common.table(rows, COLUMNS))
    common.save(arguments.output, rows)


if __name__ == "__main__":
    main()
