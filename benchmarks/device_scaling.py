"""What it costs to share a training: 1 to 8 virtual devices, 1 to 4 processes; time, and bytes exchanged an iteration.

    python -m benchmarks.device_scaling                                     about half an hour on two cores
    python -m benchmarks.device_scaling --devices 1 2 --processes 2         what two cores can show, 6 minutes
    python -m benchmarks.device_scaling --works model --processes --output benchmarks/results/device_models_cpu.json
                                                                            a model in parts, 6 minutes

population  8 PPO trainings on CartPole, which share nothing
promp       one ProMP training, 40 tasks x 20 episodes x 100 steps: devices share the tasks
rl2         one RL2 training, 400 bandits, trials of 100 pulls, GRU: devices share the trials
model       one RL2 training, 64 bandits, trials of 32 pulls, a transformer of 4 layers of width 256, Adam: devices keep
            it in parts, as with `--devices-per-model`

Virtual devices are threads of one CPU, without more of XLA's own (`--xla_cpu_multi_thread_eigen=false`, NPROC=1): two
on two cores show what sharing gains, more than there are cores what it costs in CPU-seconds. Each number of devices
runs in processes of its own, in turn, `--repeats` times; a figure is the median. Several processes have one device
each, and talk by Gloo. Bytes are the results of collectives that one device takes part in, read from the compiled
program with the lengths of its loops; MB are what each device keeps between iterations and needs within one.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WORKS = ("population", "promp", "rl2", "model")
FLAGS = "--xla_cpu_multi_thread_eigen=false"
TURNS = 3  # calls that one process times
COLUMNS = {
    "work": "", "devices": "d", "processes": "d", "compile_s": ".1f", "wall_s": ".3f", "cpu_s": ".3f",
    "speedup": ".2f", "cpu_ratio": ".2f", "collectives": ",.0f", "kilobytes": ",.1f", "kept_mb": ",.1f",
    "temp_mb": ",.1f",
}  # fmt: skip


def configuration(work: str) -> Any:
    from metarl_jax.runs import config
    from metarl_jax.runs.config import shipped_config

    if work == "population":
        words = ["num_seeds=8", "num_iterations=40", "iterations_per_call=20", "anneal_lr=false"]
        return config.load(shipped_config("ppo_cartpole"), words)
    if work == "promp":
        words = ["meta_batch_size=40", "episodes_per_task=20", "num_iterations=4", "iterations_per_call=1"]
        return config.load(shipped_config("promp_point"), words)
    words = ["env=BernoulliBandit-v0", "env_options={num_arms: 10}", "num_iterations=4", "iterations_per_call=1"]
    if work == "rl2":
        return config.load(shipped_config("rl2_bandit"), [*words, "num_episodes=100", "meta_batch_size=400"])
    sizes = ["num_episodes=32", "meta_batch_size=64", "size=256", "num_layers=4", "num_heads=8"]
    return config.load(shipped_config("rl2_transformer_bandit"), [*words, *sizes, "trials_per_task=1"])


def one(work: str) -> dict[str, Any]:
    """One process: the work compiled, and called `TURNS` times after a call that is not counted."""
    import time

    import jax
    import numpy as np

    from benchmarks.accelerator_counts import exchanged
    from metarl_jax import devices
    from metarl_jax.runs import states, training_loop
    from metarl_jax.runs.build import build

    job = build(configuration(work))
    length = job.config.iterations_per_call
    began = time.perf_counter()
    with devices.of_each_model(devices.count() if work == "model" else 1):
        call = training_loop.trace_call(job.config, length)
        compiled = call.traced.lower().compile()
    compile_s = time.perf_counter() - began
    seeds = devices.for_all(states.seeds_of(job))
    now = devices.for_all(states.initial_states(job))
    wall, cpu = [], []
    for turn in range(1 + TURNS):
        wall_began, cpu_began = time.perf_counter(), time.process_time()
        now, metrics = compiled(now, {}, seeds, np.asarray(turn * length))
        jax.block_until_ready((now, metrics))
        wall.append(time.perf_counter() - wall_began)
        cpu.append(time.process_time() - cpu_began)
    counts, needed = exchanged(compiled.as_text()), compiled.memory_analysis()
    return {
        "kept_mb": needed.argument_size_in_bytes / 1e6,
        "temp_mb": needed.temp_size_in_bytes / 1e6,
        "compile_s": compile_s,
        "wall_s": statistics.median(wall[1:]) / length,
        "cpu_s": statistics.median(cpu[1:]) / length,
        "exchanged": {name: [x / length for x in counted] for name, counted in counts.items()},
    }


def child(work: str, coordinator: str, processes: int, place: int) -> None:
    if processes > 1:
        from metarl_jax import devices

        devices.join(coordinator, processes, place)
    found = one(work)
    if place == 0:
        print(json.dumps(found), flush=True)
    if processes > 1:
        import jax

        jax.distributed.shutdown()


def run(work: str, devices: int, processes: int, cache: str) -> dict[str, Any]:
    """The work by that many processes, each with its part of the devices; CPU-seconds are those of all.

    Args: cache: a folder for compiled programs, so that only the first turn compiles.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment["NPROC"] = "1"  # threads of XLA's pool; there is one for each device in any case
    environment["JAX_NUM_CPU_DEVICES"] = str(devices // processes)
    command = [sys.executable, "-m", "benchmarks.device_scaling", "--child", work, address, str(processes)]
    started = [
        subprocess.Popen([*command, str(i)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(processes)
    ]
    said = [p.communicate() for p in started]
    for p, (_, messages) in zip(started, said, strict=True):
        if p.returncode:
            raise RuntimeError(f"{work}, {devices} devices: a process ended with {p.returncode}: {messages[-500:]}")
    (line,) = [x for x in said[0][0].splitlines() if x.startswith("{")]
    found = json.loads(line)
    found["cpu_s"] *= processes  # the others do the same
    return found


def measure(works: list[str], sizes: list[tuple[int, int]], repeats: int) -> list[dict[str, Any]]:
    """Rows for each work and each (devices, processes); all sizes in turn, so that a slow minute strikes all."""
    rows = []
    for work in works:
        found: dict[tuple[int, int], list[dict[str, Any]]] = {size: [] for size in sizes}
        with tempfile.TemporaryDirectory() as cache:
            for _ in range(repeats):
                for size in sizes:
                    found[size].append(run(work, *size, cache))
                    last = found[size][-1]
                    print(f"{work}, devices {size[0]}, processes {size[1]}: {last['wall_s']:.3f} s", file=sys.stderr)
        alone = found.get((1, 1), [])
        for (devices, processes), turns in found.items():
            middle = {key: statistics.median(t[key] for t in turns) for key in ("wall_s", "cpu_s")}
            middle |= {key: turns[0][key] for key in ("compile_s", "kept_mb", "temp_mb")}
            talked = turns[0]["exchanged"]
            row = {
                "work": work, "devices": devices, "processes": processes, **middle, "all": turns,
                "collectives": sum(n for n, _ in talked.values()),
                "kilobytes": sum(size for _, size in talked.values()) / 1e3,
            }  # fmt: skip
            if alone:  # in pairs: of the same turn
                row["speedup"] = statistics.median(a["wall_s"] / t["wall_s"] for a, t in zip(alone, turns, strict=True))
                row["cpu_ratio"] = statistics.median(t["cpu_s"] / a["cpu_s"] for a, t in zip(alone, turns, strict=True))
            rows.append(row)
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        work, coordinator, processes, place = sys.argv[2:]
        child(work, coordinator, int(processes), int(place))
        return
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--works", nargs="+", default=list(WORKS[:3]), choices=WORKS, help="default: all but model")
    p.add_argument("--devices", nargs="*", type=int, default=[1, 2, 4, 8], help="virtual devices of one process")
    p.add_argument("--processes", nargs="*", type=int, default=[2, 4], help="processes of one device each")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--output", type=Path, default=Path("benchmarks/results/device_scaling_cpu.json"))
    given = p.parse_args()
    sizes = [(n, 1) for n in given.devices] + [(n, n) for n in given.processes]
    rows = measure(given.works, sizes, given.repeats)
    from benchmarks import common

    print(common.table(rows, COLUMNS))
    common.save(given.output, rows, xla_flags=FLAGS)


if __name__ == "__main__":
    main()
