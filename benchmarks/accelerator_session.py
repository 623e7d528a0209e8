"""The budget and the record of `benchmarks.accelerator`: what still fits, what fits the memory, how long it took.

A session has a deadline. Each row says what it needs, from a smaller row of its group that has been measured or a
stated floor, and is left out where that is more than what is left, or than one row's share. The JSON is written whole
after every row, beside its place and then moved there, so that a kill loses no row.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import common

MEMORY_SHARE = 0.9  # of an accelerator's memory that a program may need
ROW_SHARE = 0.25  # of the minutes that one row may take, so that it leaves something to the others
FLOOR_S = 15.0  # of a row with a program of some size, before any of its group has been measured
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")

Facts = dict[str, Any]


class Program(NamedTuple):
    """A compiled program that has run once."""

    compiled: Any
    output: Any  # of that first run
    at_a_time: int  # tasks, members or trials
    facts: Facts  # compile_s, temp_mb, needed_mb, at_a_time


class Session:
    """Rows measured within `minutes`, and the file that they are in."""

    def __init__(self, output: Path, minutes: float, repeats: int, **circumstances: Any) -> None:
        self.output, self.repeats = output, repeats
        self.deadline = time.perf_counter() + 60 * minutes
        self.most = ROW_SHARE * 60 * minutes  # seconds of a row
        self.rows: list[Facts] = []
        self.known: dict[str, tuple[float, float, float]] = {}  # group: (set-up s, all runs s, size)
        self.info = common.environment_info()
        flags = {"xla_flags": os.environ.get("XLA_FLAGS", "")}
        cache = {"compilation_cache": jax.config.jax_compilation_cache_dir is not None}  # compile_s may be a hit's
        self.circumstances = {"minutes": minutes, **flags, **cache, **circumstances}

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.perf_counter()

    def needs(self, group: str, size: float, floor_s: float) -> float:
        """Seconds that a row is expected to take: set-up as before, runs in proportion to `size`."""
        if group not in self.known:
            return floor_s
        setup, running, measured = self.known[group]
        return setup + running * size / measured

    def row(
        self,
        part: str,
        work: str,
        measure: Callable[[], Facts],
        *,
        group: str = "",
        size: float = 1.0,
        floor_s: float = FLOOR_S,
        **facts: Any,
    ) -> Facts:
        """Run `measure` if it fits, and keep what it returns, or why there is nothing."""
        versions = {name: self.info["versions"].get(name) for name in ("metarl_jax", "jax", "jaxlib")}
        row = {"part": part, "work": work, "device": self.info["device"], "versions": versions, **facts}
        needs, left = self.needs(group or work, size, floor_s), max(self.left(), 0.0)
        if needs > left:
            row["skipped"] = f"needs about {needs:.0f} s, {left:.0f} s left"
        elif group in self.known and needs > self.most:
            row["skipped"] = f"needs about {needs:.0f} s, a row may take {self.most:.0f} s"
        else:
            jax.clear_caches()  # of what earlier rows traced: each pays for its own
            before, began = peak_mb(), time.perf_counter()
            try:
                row.update(measure())
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]
            row["took_s"] = time.perf_counter() - began
            if (after := peak_mb()) is not None:  # of the process: another row's where this one did not raise it
                row |= {"peak_mb": after, "raised_peak": before is None or after > before}
            if "run_s" in row:
                running = row["run_s"] * (row["runs"] + 1)  # and the one that is not counted
                self.known[group or work] = (max(row["took_s"] - running, 0.0), running, size)
        self.rows.append(row)
        self.save()
        print(f"({part}) {work}: {note(row) or format(row['took_s'], '.0f') + ' s'}", flush=True)
        return row

    def save(self) -> None:
        """Write everything, in the place of what was there."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        beside = self.output.with_name(self.output.name + ".new")
        beside.write_text(json.dumps({**self.info, **self.circumstances, "rows": self.rows}, indent=1) + "\n")
        os.replace(beside, self.output)

    def timed(self, compiled: Any, arguments: tuple, steps: int | None = None) -> Facts:
        """run_s, the median wall time of `repeats` runs, fewer where the deadline comes before; its rate of steps."""
        wall: list[float] = []
        while len(wall) < self.repeats and (not wall or self.left() > wall[-1]):
            began = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            wall.append(time.perf_counter() - began)
        facts: Facts = {"run_s": statistics.median(wall), "run_s_all": wall, "runs": len(wall)}
        if steps is not None:
            facts |= {"env_steps": steps, "env_steps_per_s": steps / facts["run_s"]}
        return facts


def note(row: Facts) -> str | None:
    """Why a row has no figures; None where it has."""
    return next((f"{why}: {row[why]}" for why in ("skipped", "failed", "missing") if why in row), None)


def compile_to_fit(make: Callable[[int], Callable], arguments: tuple, most: int, least: int = 1) -> Program:
    """`make(size)` compiled and run once, for the largest of `most`, `most` / 2, ... that the memory holds.

    What a compiled program needs is known before it runs: arguments, results and temporaries. That it does not fit
    after all is seen when it runs.
    Raises: MemoryError where `least` does not fit either.
    """
    size, memory = most, device_memory()
    while True:
        began = time.perf_counter()
        compiled = jax.jit(make(size)).lower(*arguments).compile()
        compile_s = time.perf_counter() - began  # tracing included
        fixed, temporary = needed(compiled)
        room = None if memory is None else MEMORY_SHARE * memory
        if room is None or fixed + temporary <= room:
            try:
                output = jax.block_until_ready(compiled(*arguments))
            except Exception as error:
                if size == least or not any(sign in str(error) for sign in OUT_OF_MEMORY):
                    raise
                fits = size // 2
            else:
                facts = {"temp_mb": temporary / 1e6, "needed_mb": (fixed + temporary) / 1e6, "at_a_time": size}
                return Program(compiled, output, size, {"compile_s": compile_s, **facts})
        elif size == least:
            raise MemoryError(f"{size} at a time need {(fixed + temporary) / 1e9:.1f} GB of {memory / 1e9:.1f} GB")
        else:
            fits = int(size * (room - fixed) / max(temporary, 1))
        size //= 2
        while size > max(fits, least):
            size //= 2
        size = max(size, least)


def needed(compiled: Any) -> tuple[int, int]:
    """Bytes of a compiled program's (arguments and results, temporaries); zeros where the backend does not say."""
    found = compiled.memory_analysis()
    if found is None:
        return 0, 0
    fixed = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return fixed, found.temp_size_in_bytes


def device_memory() -> int | None:
    """Bytes of the accelerator that programs may use; None on a CPU."""
    return _memory_stats().get("bytes_limit")


def peak_mb() -> float | None:
    """The most that this process has had on the device, in MB; None where the backend does not say."""
    peak = _memory_stats().get("peak_bytes_in_use")
    return None if peak is None else peak / 1e6


def _memory_stats() -> dict[str, int]:
    return jax.local_devices()[0].memory_stats() or {}
