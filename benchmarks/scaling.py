"""Cost against size: tasks, inner steps, population, stored data. Time and compiled temporary memory.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --tasks 40 640 10240 --population 1 64 4096       on an accelerator

tasks        MAML-PPO on point navigation, 20 episodes x 100 steps, 1 inner step, 1 outer epoch
inner steps  the same with 10 tasks x 20 episodes x 50 steps, for each way to differentiate
population   inner learning rates of a small MAML-PPO (4 tasks x 5 episodes x 20 steps), vmapped: one program
rollout      memory of rollouts alone against the horizon, with 8 and with 8,192 bytes of environment state
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

import metarl_jax as mrl
from benchmarks import common
from metarl_jax.gradient import MODES
from metarl_jax.rl.rollout import rollout

COLUMNS = {
    "study": "", "size": "", "mode": "", "trace_s": ".1f", "compile_s": ".1f", "cpu_s": ".3f", "wall_s": ".3f",
    "cpu_s_per_unit": ".4f", "temp_mb": ".2f",
}  # fmt: skip


def point_maml(
    inner_lr: Any = 0.1, *, mode: str = "mixed", inner_steps: int = 1, tasks: int, episodes: int, horizon: int
):
    """MAML-PPO on point navigation."""
    env, family = mrl.make("PointNavigation-v2")
    policy = mrl.networks.mlp_policy(env, (64, 64))
    inner = mrl.inner.ppo(policy, inner_lr, num_epochs=1, num_minibatches=1, gae_lambda=1.0, baseline="linear")
    return mrl.maml(
        env, family, policy, inner, num_inner_steps=inner_steps, meta_batch_size=tasks, episodes_per_task=episodes,
        horizon=horizon, differentiation=mode, num_outer_epochs=1,
    )  # fmt: skip


def row(study: str, size: int, mode: str, result: dict[str, Any]) -> dict[str, Any]:
    return {"study": study, "size": size, "mode": mode, **result, "cpu_s_per_unit": result["cpu_s"] / size}


def tasks_study(sizes: list[int], repeats: int) -> list[dict[str, Any]]:
    rows = []
    for n in sizes:
        algo = point_maml(tasks=n, episodes=20, horizon=100)
        state = algo.init(jax.random.key(0))
        rows.append(row("tasks", n, "mixed", common.measure(algo.step, state, jax.random.key(1), repeats=repeats)))
    return rows


def inner_steps_study(sizes: list[int], repeats: int) -> list[dict[str, Any]]:
    """The meta-gradient alone, on stored trials."""
    rows = []
    for n in sizes:
        for mode in MODES:
            algo = point_maml(mode=mode, inner_steps=n, tasks=10, episodes=20, horizon=50)
            params = algo.init(jax.random.key(0)).params
            _, family = mrl.make("PointNavigation-v2")

            def collect(key: jax.Array, algo: Any = algo, params: Any = params, family: Any = family) -> Any:
                return algo.collect(params, key, family.sample(key))[0]

            trials = jax.jit(lambda k, f=collect: jax.lax.map(f, k))(jax.random.split(jax.random.key(1), 10))

            def gradient(params: Any, trials: Any, algo: Any = algo) -> Any:
                return mrl.tree.chunked_map(lambda t: jax.grad(algo.meta_loss)(params, t), trials)

            rows.append(row("inner steps", n, mode, common.measure(gradient, params, trials, repeats=repeats)))
    return rows


def population_study(sizes: list[int], repeats: int) -> list[dict[str, Any]]:
    rows = []
    for n in sizes:

        def make(lr: jax.Array) -> Any:
            return point_maml(lr, tasks=4, episodes=5, horizon=20)

        state = make(0.1).init(jax.random.key(0))

        def step(lrs: jax.Array, keys: jax.Array, make: Any = make, state: Any = state) -> Any:
            return jax.vmap(lambda lr, k: make(lr).step(state, k))(lrs, keys)

        arguments = jnp.logspace(-3, 0, n), jax.random.split(jax.random.key(1), n)
        rows.append(row("population", n, "mixed", common.measure(step, *arguments, repeats=repeats)))
    return rows


@struct.dataclass
class _Heavy:
    inner: Any
    ballast: jax.Array  # [2048] float32


class _HeavyEnv:
    """Point navigation that drags 8 KiB of internal state along."""

    def __init__(self, env: Any):
        self.env = env

    def reset_env(self, key: jax.Array, params: Any) -> Any:
        observation, state = self.env.reset_env(key, params)
        return observation, _Heavy(state, jnp.zeros(2048))

    def step_env(self, key: jax.Array, state: _Heavy, action: jax.Array, params: Any) -> Any:
        observation, inner, *rest = self.env.step_env(key, state.inner, action, params)
        return observation, _Heavy(inner, state.ballast + observation[0]), *rest

    def is_truncated(self, state: _Heavy, params: Any) -> Any:
        return self.env.is_truncated(state.inner, params)


def rollout_study(horizons: list[int], repeats: int) -> list[dict[str, Any]]:
    env, family = mrl.make("PointNavigation-v2", horizon=max(horizons))
    policy = mrl.networks.mlp_policy(env, (64, 64))
    params, task = policy.init(jax.random.key(0)), family.sample(jax.random.key(1))
    rows = []
    for horizon in horizons:
        for name, environment in (("light", env), ("heavy", _HeavyEnv(env))):

            def collect(params: Any, key: jax.Array, environment: Any = environment, horizon: int = horizon) -> Any:
                return rollout(environment, policy.apply, params, key, task, num_steps=horizon, num_envs=20)[0]

            result = common.measure(collect, params, jax.random.key(2), repeats=repeats)
            stored = jax.eval_shape(collect, params, jax.random.key(2))
            result["stored_mb"] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(stored)) / 1e6
            rows.append(row("rollout", horizon, name, result))
    return rows


def main() -> None:
    parser = common.parser(__doc__, "scaling")
    sizes = {
        "tasks": [10, 40, 160, 640], "inner-steps": [1, 2, 4, 8, 16], "population": [1, 4, 16, 64, 256],
        "rollout": [100, 200, 400, 800],
    }  # fmt: skip
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, nargs="*", default=default)
    arguments = parser.parse_args()
    rows = tasks_study(arguments.tasks, arguments.repeats)
    rows += inner_steps_study(arguments.inner_steps, arguments.repeats)
    rows += population_study(arguments.population, arguments.repeats)
    rows += rollout_study(arguments.rollout, arguments.repeats)
    print(common.table(rows, COLUMNS))
    common.save(arguments.output, rows)


if __name__ == "__main__":
    main()
