"""What Ray costs: one sweep by `--engine local` and by `--engine ray` on this machine, in turn.

    python -m benchmarks.engines                                 64 lanes of 3.7M steps: ten minutes each on two cores
    python -m benchmarks.engines --iterations 244                a look, two minutes

The sweep is of PPO on CartPole, in batches of 8 lanes: the local engine trains them on a device for each core, Ray on a
worker for each. Every call begins without compiled programs, so that what starting Ray, importing JAX and compiling in
each worker cost is in it. Needs the extra `ray`; nothing else should run. A figure is the median of `--repeats` calls.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

ENGINES = ("local", "ray")
COLUMNS = {"engine": "", "wall_s": ".1f", "overhead": ".3f", "env_steps_per_s": ",.0f"}


def seconds(engine: str, lanes: int, iterations: int) -> float:
    """Wall-clock seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["ppo_cartpole", "lr=log(1e-4,1e-2)", "--trials", str(lanes), f"num_iterations={iterations}"]
        more = ["--lanes", "8", "--engine", engine, "--run-dir", f"{folder}/sweep"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": f"{folder}/programs"}
        began = time.perf_counter()
        command = [sys.executable, "-m", "metarl_jax.cli", "sweep", *words, *more]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began


def measure(lanes: int, iterations: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each engine; overhead is that over the local one, in calls of the same turn."""
    found: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for _ in range(repeats):
        for engine in ENGINES:
            found[engine].append(seconds(engine, lanes, iterations))
            print(f"{engine}: {found[engine][-1]:.1f} s", file=sys.stderr, flush=True)
    steps = lanes * iterations * 512
    return [
        {
            "engine": engine,
            "wall_s": statistics.median(took),
            "overhead": statistics.median(a / b - 1 for a, b in zip(took, found["local"], strict=True)),
            "env_steps_per_s": steps / statistics.median(took),
            "all": took,
        }
        for engine, took in found.items()
    ]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lanes", type=int, default=64)
    p.add_argument("--iterations", type=int, default=7_320, help="of 512 environment steps a lane")
    p.add_argument("--repeats", type=int, default=1)
    p.add_argument("--output", type=Path, default=Path("benchmarks/results/engines_cpu.json"))
    given = p.parse_args()
    rows = measure(given.lanes, given.iterations, given.repeats)
    print(common.table(rows, COLUMNS))
    common.save(given.output, rows, lanes=given.lanes, iterations=given.iterations)


if __name__ == "__main__":
    main()
