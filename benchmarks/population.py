"""Populations: PPO trainings as lanes of one program against one after the other; what exploiting and exploring cost.

    python -m benchmarks.population                     64 learning rates x 4 seeds, 1e5 steps of CartPole each
    python -m benchmarks.population --members 1 16 256  the curve over the number of members

"One after the other" is the same training compiled once, and called for 16 of the members in turn: what a loop over
settings would take without the compilations. Populations use every CPU core as a device of its own.
"""

import os
import statistics
import time
from typing import Any

os.environ["JAX_NUM_CPU_DEVICES"] = os.environ.get("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))  # read by jax

import jax
import jax.numpy as jnp

from benchmarks import common
from metarl_jax.runs import config, training_loop
from metarl_jax.runs.config import shipped_config
from metarl_jax.sweeps import pbt, search_space

ITERATIONS = 195  # of 512 steps: 1e5
ALONE = 16  # members that are trained one after the other
INTERVAL = 13  # of population-based training
COLUMNS = {
    "work": "", "members": "d", "compile_s": ".1f", "cpu_s": ".2f", "wall_s": ".2f", "env_steps_per_s": ",.0f",
    "speedup": ".2f",
}  # fmt: skip


def _timed(function: Any, make_arguments: Any, repeats: int) -> dict[str, Any]:
    """As `common.measure`, for a compiled function that uses its first argument up."""
    arguments = make_arguments()
    began = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    compile_s = time.perf_counter() - began
    jax.block_until_ready(compiled(*arguments))
    cpu, wall = [], []
    for _ in range(repeats):
        arguments = jax.block_until_ready(make_arguments())
        cpu_began, wall_began = time.process_time(), time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        cpu.append(time.process_time() - cpu_began)
        wall.append(time.perf_counter() - wall_began)
    return {"compile_s": compile_s, "cpu_s": statistics.median(cpu), "wall_s": statistics.median(wall)}


def _setting() -> tuple[Any, search_space.Dimension]:
    chosen = config.load(shipped_config("ppo_cartpole"), [f"num_iterations={ITERATIONS}", "anneal_lr=false"])
    return chosen, search_space.parse("lr=log(1e-5,1e-1)", chosen.model_dump())


def _lanes(members: int) -> tuple[dict[str, jax.Array], jax.Array]:
    """Learning rates even in their logarithm, each with 4 seeds (fewer where there are fewer members)."""
    seeds = min(4, members)
    rates = jnp.geomspace(1e-5, 1e-1, members // seeds)
    return {"lr": jnp.repeat(rates, seeds)}, jnp.tile(jnp.arange(seeds), members // seeds)


def alone(repeats: int) -> dict[str, Any]:
    """One member a call, on one device."""
    chosen, _ = _setting()
    values, seeds = _lanes(ALONE)
    init = training_loop.make_init(chosen)
    one_device = training_loop.make_call(chosen, ITERATIONS, 1)

    def arguments(i: int) -> tuple:
        lane = {"lr": values["lr"][i : i + 1]}, seeds[i : i + 1]
        return init(*lane), *lane, jnp.asarray(0)

    began = time.perf_counter()
    compiled = one_device.lower(*arguments(0)).compile()
    compile_s = time.perf_counter() - began
    jax.block_until_ready(compiled(*arguments(0)))
    cpu, wall = [], []
    for _ in range(repeats):
        prepared = jax.block_until_ready([arguments(i) for i in range(ALONE)])
        cpu_began, wall_began = time.process_time(), time.perf_counter()
        for each in prepared:
            jax.block_until_ready(compiled(*each))
        cpu.append(time.process_time() - cpu_began)
        wall.append(time.perf_counter() - wall_began)
    result = {"compile_s": compile_s, "cpu_s": statistics.median(cpu), "wall_s": statistics.median(wall)}
    return {"work": "one after the other", "members": ALONE, **common.rates(result, ALONE * ITERATIONS * 512)}


def together(members: int, repeats: int) -> dict[str, Any]:
    """All members in one program."""
    chosen, _ = _setting()
    values, seeds = _lanes(members)
    init = training_loop.make_init(chosen)
    call = training_loop.make_call(chosen, ITERATIONS)
    result = _timed(call, lambda: (init(values, seeds), values, seeds, jnp.asarray(0)), repeats)
    return {"work": "one program", "members": members, **common.rates(result, members * ITERATIONS * 512)}


def evolving(members: int, repeats: int) -> dict[str, Any]:
    """The same members, exploiting and exploring every `INTERVAL` iterations."""
    chosen, lr = _setting()
    values, seeds = _lanes(members)
    init = training_loop.make_init(chosen)
    call = pbt.make_call(chosen, [lr], members, INTERVAL, ITERATIONS // INTERVAL)
    result = _timed(call, lambda: (init(values, seeds), values, seeds, jnp.asarray(0)), repeats)
    return {"work": "population-based training", "members": members, **common.rates(result, members * ITERATIONS * 512)}


def main() -> None:
    parser = common.parser(__doc__, "population")
    parser.add_argument("--members", type=int, nargs="*", default=[256], help="sizes of the population (default 256)")
    arguments = parser.parse_args()
    rows = [alone(arguments.repeats)]
    for members in arguments.members:
        rows += [together(members, arguments.repeats), evolving(members, arguments.repeats)]
    for row in rows:
        row["speedup"] = row["env_steps_per_s"] / rows[0]["env_steps_per_s"]
    print(common.table(rows, COLUMNS))
    common.save(arguments.output, rows)


if __name__ == "__main__":
    main()
