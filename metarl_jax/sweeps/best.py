"""The best member of a sweep, kept as a run: `metarl evaluate`, `film`, `train --resume` and `mrl.load_run` open it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.runs import files
from metarl_jax.runs.build import build
from metarl_jax.runs.checkpoint import Checkpoints
from metarl_jax.runs.config import dump, validate, with_key
from metarl_jax.runs.directory import open_directory
from metarl_jax.runs.listing import BEST


def keep(
    config: Any, setting: dict[str, Any], num_iterations: int, states: Any, curves: np.ndarray, directory: Path
) -> None:
    """Write best.yaml, and best/: the configuration, a checkpoint of all seeds, their scores [seed, iteration]."""
    data = {**config.model_dump(), "num_iterations": num_iterations}
    for name, value in setting.items():
        data = with_key(data, name, list(value) if isinstance(value, tuple) else value)
    chosen = validate(data)
    files.write_whole(directory / "best.yaml", dump(chosen))
    if (directory / BEST).exists():
        return
    open_directory(chosen, directory / BEST, resume=True)
    score = build(chosen).score
    rows: list[dict[str, Any]] = [
        {"iteration": i + 1, score: [float(x) if np.isfinite(x) else None for x in curves[:, i]]}
        for i in range(num_iterations)
    ]
    if len(curves) == 1:
        rows = [{**row, score: row[score][0]} for row in rows]
    files.write_whole(directory / BEST / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    checkpoints = Checkpoints(directory / BEST / "checkpoints", chosen.model_dump())
    checkpoints.save(num_iterations, states)
    checkpoints.close()
