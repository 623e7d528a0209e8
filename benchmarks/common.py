"""Timing and reporting that the benchmarks share: compile apart from run, medians, JSON with its circumstances."""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command metarl sets it; before JAX loads LAPACK

import jax  # noqa: E402

from metarl_jax.runs.directory import environment_info  # noqa: E402


def measure(function: Callable, *arguments: Any, repeats: int = 3) -> dict[str, Any]:
    """Trace, compile and run `function`; medians over `repeats` runs after one that is not counted.

    cpu_s is process time, all threads added up; on an accelerator only wall_s means anything.
    """
    jax.clear_caches()
    began = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    ended = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    cpu, wall = [], []
    for _ in range(repeats):
        cpu_began, wall_began = time.process_time(), time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        cpu.append(time.process_time() - cpu_began)
        wall.append(time.perf_counter() - wall_began)
    memory = compiled.memory_analysis()
    return {
        "trace_s": traced - began,
        "compile_s": ended - began,  # tracing included
        "cpu_s": statistics.median(cpu),
        "wall_s": statistics.median(wall),
        "cpu_s_all": cpu,
        "temp_mb": None if memory is None else memory.temp_size_in_bytes / 1e6,
    }


def rates(result: dict[str, Any], env_steps: int) -> dict[str, Any]:
    """The same, with environment steps a second of CPU and of wall-clock time."""
    per_cpu, per_wall = env_steps / result["cpu_s"], env_steps / result["wall_s"]
    return {**result, "env_steps": env_steps, "env_steps_per_cpu_s": per_cpu, "env_steps_per_s": per_wall}


def table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    """Rows as aligned text; `columns` maps a key to its format, such as {"cpu_s": ".2f"}."""
    cells = [list(columns)]
    for row in rows:
        cells.append([_cell(row.get(key), spec) for key, spec in columns.items()])
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(value: Any, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    backend = jax.default_backend()
    p.add_argument("--output", type=Path, default=Path("benchmarks/results") / f"{name}_{backend}.json")
    p.add_argument("--repeats", type=int, default=3, help="counted runs of each row (default 3)")
    return p


def save(path: Path, rows: Sequence[dict[str, Any]], **more: Any) -> None:
    """Write rows with device, versions and command (without the folders of the machine it ran on)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    command = " ".join([f"python -m benchmarks.{Path(sys.argv[0]).stem}", *words])
    path.write_text(json.dumps({**environment_info(), "command": command, **more, "rows": list(rows)}, indent=1) + "\n")
    print(f"\nwritten to {path}")
