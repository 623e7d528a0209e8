"""What each cell of a table has found, a file a cell, so that a table is filled over weeks and on several machines.

A record holds the claims of its cell, the training curve thinned to `POINTS`, and what it took and where. A table is
judged by all the records that there are, not only by those that one call has made.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.options import ConfigError
from metarl_jax.reproductions import Claim
from metarl_jax.runs import files
from metarl_jax.runs.directory import environment_info

FOLDER = "cells"  # of the records, in the directory of a reproduction
POINTS = 100
Curve = tuple[np.ndarray, np.ndarray]  # environment steps of a seed [point], values before and after [point, seed, 2]


@dataclasses.dataclass(frozen=True)
class Record:
    """What a cell has found."""

    claims: list[Claim]
    curve: Curve | None
    about: dict[str, Any]


def write(
    directory: Path, cell: str, claims: list[Claim], curve: Curve | None = None, run_dir: Path | None = None
) -> None:
    """Write the record of a cell; of `run_dir`, the seconds that its training took."""
    about: dict[str, Any] = environment_info()
    if run_dir is not None:
        about["training_seconds"] = round(
            float(np.sum(files.column(files.read_rows(run_dir / "timing.jsonl"), "seconds")))
        )
    data = {"claims": [dataclasses.asdict(claim) for claim in claims], "curve": _thinned(curve), "about": about}
    files.make_directory(directory / FOLDER, "directory")
    files.write_whole(directory / FOLDER / f"{cell}.json", json.dumps(data) + "\n")


def read(directory: Path, cells: Iterable[str]) -> dict[str, Record]:
    """The records of those cells that have one, in their order.

    Raises: ConfigError for one that is damaged.
    """
    found = {}
    for cell in cells:
        path = directory / FOLDER / f"{cell}.json"
        if not path.is_file():
            continue
        data = files.read_json(path, "record")
        try:
            claims = [Claim(**{**claim, "interval": _pair(claim["interval"])}) for claim in data["claims"]]
            curve = data["curve"] and (np.array(data["curve"]["steps"]), np.array(data["curve"]["values"], float))
            found[cell] = Record(claims, curve, dict(data["about"]))
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"record {path}: is damaged; move it away, and train that cell again") from None
    return found


def bring(source: Path, target: Path, anew: bool = False) -> None:
    """Copy the records of one folder to another; those that it has already too, if `anew`."""
    if not source.is_dir() or source.resolve() == target.resolve():
        return
    files.make_directory(target, "directory")
    for path in sorted(source.glob("*.json")):
        if anew or not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)


def claims_of(records: dict[str, Record]) -> list[Claim]:
    """All claims, in the order of the cells."""
    return [claim for record in records.values() for claim in record.claims]


def curves_of(records: dict[str, Record], cells: Iterable[str]) -> dict[str, Curve]:
    """The curves of those of `cells` that have a record; {} where one of these has kept no curve.

    So a picture is drawn anew only where it shows all that it should.
    """
    chosen = {cell: records[cell].curve for cell in cells if cell in records}
    return {} if None in chosen.values() else {cell: curve for cell, curve in chosen.items() if curve is not None}


def _thinned(curve: Curve | None) -> dict[str, Any] | None:
    if curve is None:
        return None
    steps, values = curve
    kept = np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).round().astype(int))
    plain = [[[_number(x) for x in pair] for pair in seeds] for seeds in values[kept]]
    return {"steps": steps[kept].tolist(), "values": plain}


def _number(x: float) -> float | None:
    return float(f"{x:.6g}") if np.isfinite(x) else None


def _pair(interval: Any) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])
