"""What a meta-gradient costs against the number of inner steps, for each way through them: time and compiled memory.

    python -m benchmarks.meta_gradient
    python -m benchmarks.meta_gradient --timed-tasks 40                  on an accelerator, or with patience

The meta-gradient alone, on stored trials: 40 tasks x 20 episodes x 100 steps of point navigation, tanh policies of
2 x 256 and 2 x 64, `lvc` inside, PPO outside. "mixed, 5 parts" adds each inner gradient up over 5 parts of the
episodes (`num_microbatches`): the same gradient, with the activations of one part alive at a time. Tasks go one at a
time on a CPU, so that time is linear in them: it is measured on `--timed-tasks` and given for one; memory is that of
the program for all 40. The last table is one whole iteration of MAML-TRPO at 20 tasks x 20 episodes x 100 steps,
100 x 100 ReLU, with every product on all tasks.
"""

from typing import Any

import jax

import metarl_jax as mrl
from benchmarks import common

COLUMNS = {
    "hidden": "", "inner_steps": "", "mode": "", "compile_s": ".1f", "cpu_s_per_task": ".3f", "wall_s_per_task": ".3f",
    "temp_mb": ".1f", "speedup": ".2f", "memory_ratio": ".1f", "over_first_order": ".2f",
}  # fmt: skip
TASKS, EPISODES, HORIZON = 40, 20, 100
WAYS = {"reverse": 1, "mixed": 1, "mixed, 5 parts": 5, "first_order": 1}


def algorithm(mode: str, inner_steps: int, hidden: int) -> Any:
    env, family = mrl.make("PointNavigation-v0", horizon=HORIZON)
    policy = mrl.networks.mlp_policy(env, (hidden, hidden))
    inner = mrl.inner.policy_gradient(policy, 0.01, num_microbatches=WAYS[mode])
    return mrl.maml(
        env,
        family,
        policy,
        inner,
        num_inner_steps=inner_steps,
        episodes_per_task=EPISODES,
        differentiation=mode.partition(",")[0],
    ), family


def stored(inner_steps: int, num_tasks: int, hidden: int) -> tuple[Any, Any]:
    """(parameters, trials of `num_tasks` tasks)."""
    algo, family = algorithm("reverse", inner_steps, hidden)
    params = algo.init(jax.random.key(0)).params

    def collect(key: jax.Array) -> Any:
        return algo.collect(params, key, family.sample(key))[0]

    return params, jax.jit(lambda keys: jax.lax.map(collect, keys))(jax.random.split(jax.random.key(1), num_tasks))


def gradient(mode: str, inner_steps: int, hidden: int) -> Any:
    algo, _ = algorithm(mode, inner_steps, hidden)

    def mean_gradient(params: Any, trials: Any) -> Any:
        return mrl.tree.chunked_mean(lambda trial: algo.meta_gradient(params, trial), trials)

    return mean_gradient


def rows_for(inner_steps: int, hidden: int, timed_tasks: int, repeats: int) -> list[dict[str, Any]]:
    params, trials = stored(inner_steps, timed_tasks, hidden)
    shape = jax.eval_shape(lambda: stored(inner_steps, TASKS, hidden)[1])
    rows = []
    for mode in WAYS:
        f = gradient(mode, inner_steps, hidden)
        result = common.measure(f, params, trials, repeats=repeats)
        memory = jax.jit(f).lower(params, shape).compile().memory_analysis()
        per_task = {f"{name}_per_task": result[name] / timed_tasks for name in ("cpu_s", "wall_s")}
        temp = None if memory is None else memory.temp_size_in_bytes / 1e6
        rows.append({"hidden": hidden, "inner_steps": inner_steps, "mode": mode, **result, **per_task, "temp_mb": temp})
    reverse, first = rows[0], rows[-1]
    clock = "cpu_s" if jax.default_backend() == "cpu" else "wall_s"
    for row in rows:
        row["speedup"] = reverse[clock] / row[clock]
        row["memory_ratio"] = reverse["temp_mb"] / row["temp_mb"] if row["temp_mb"] else None
        row["over_first_order"] = row[clock] / first[clock]
    return rows


def trpo(repeats: int) -> dict[str, Any]:
    env, family = mrl.make("PointNavigation-v0", horizon=HORIZON)
    policy = mrl.networks.mlp_policy(env, (100, 100), "relu")
    algo = mrl.maml_trpo(
        env, family, policy, mrl.inner.policy_gradient(policy, 0.1), meta_batch_size=20, episodes_per_task=EPISODES
    )
    state = algo.init(jax.random.key(0))
    return {"work": "MAML-TRPO iteration", **common.measure(algo.step, state, jax.random.key(1), repeats=repeats)}


def main() -> None:
    parser = common.parser(__doc__, "meta_gradient")
    parser.add_argument("--inner-steps", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--hidden", type=int, nargs="*", default=[256, 64])
    parser.add_argument("--timed-tasks", type=int, default=2)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for hidden in arguments.hidden:
        for n in arguments.inner_steps:
            rows += rows_for(n, hidden, arguments.timed_tasks, arguments.repeats)
            print(common.table(rows[-len(WAYS) :], COLUMNS), flush=True)
    whole = trpo(arguments.repeats)
    print(common.table([whole], {"work": "", "compile_s": ".1f", "cpu_s": ".2f", "wall_s": ".2f", "temp_mb": ".1f"}))
    common.save(arguments.output, [*rows, whole], timed_tasks=arguments.timed_tasks)


if __name__ == "__main__":
    main()
