"""Published results, run again: each compares with the published number and the exact optimum, and passes or fails.

A reproduction is a module with `run(directory, report) -> list of Claim`. What it trains it keeps in `directory`,
so that a run that was cut off goes on. `reproduce` adds the circumstances and makes JSON of it.
"""

import dataclasses
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Claim:
    """One number of ours beside the published one."""

    what: str
    ours: float
    interval: tuple[float, float] | None  # 95%
    rule: str  # what has to hold, in words: ">= -8"
    passed: bool
    published: float | None = None
    optimum: float | None = None  # exact, where it is known


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What `metarl reproduce --list` says before one starts."""

    title: str
    paper: str
    module: str
    seeds: int
    cpu: str  # measured cost on a CPU
    gpu: str  # measured cost on a GPU, or that it was not measured


_HERE = "metarl_jax.reproductions"
NOT_MEASURED = "not measured"

REPRODUCTIONS: dict[str, Reproduction] = {}


def reproduce(name: str, directory: Path, report: Callable[[Any], None] = print) -> dict[str, Any]:
    """Run one reproduction; returns its result as JSON-ready data: claims, verdict, seconds, seeds."""
    entry = REPRODUCTIONS[name]
    began, cpu_began = time.perf_counter(), time.process_time()
    claims = importlib.import_module(entry.module).run(directory, report)
    return {
        "name": name,
        "title": entry.title,
        "paper": entry.paper,
        "seeds": entry.seeds,
        "passed": all(claim.passed for claim in claims),
        "claims": [dataclasses.asdict(claim) for claim in claims],
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu_began, 1),
    }
