"""Which directories are runs and sweeps, and `metarl runs`, which lists them; read without JAX."""

import csv
import io
import time
from pathlib import Path
from typing import Any

from metarl_jax.options import ConfigError, suggest
from metarl_jax.runs import files
from metarl_jax.runs.config import parse_value

BEST = "best"  # the directory of a sweep that holds its best member, as a run


def run_of(directory: Path) -> Path:
    """The run that a directory is, or whose best member a sweep has kept.

    Raises: ConfigError for a sweep that has none yet, and for what is neither.
    """
    with files.worded(f"run {directory}"):
        if (directory / "config.yaml").is_file():
            return directory
        is_sweep = (directory / "sweep.json").is_file()
    if is_sweep:
        if (directory / BEST / "config.yaml").is_file():
            return directory / BEST
        raise ConfigError(f"sweep {directory}: has kept no best member yet; it does at its end")
    if directory.is_dir():
        inside = f"; `metarl runs {directory}` lists those in it" if next(directory.glob("*/config.yaml"), None) else ""
        raise ConfigError(f"run {directory}: is not a run directory (it has no config.yaml){inside}")
    if directory.is_file():
        raise ConfigError(f"run {directory}: is not a run directory but a file; `metarl train` makes one")
    with files.worded(f"run {directory}"):
        beside = [str(p) for p in directory.parent.iterdir() if p.is_dir()] if directory.parent.is_dir() else []
    near = suggest(str(directory), beside)
    raise ConfigError(f"run {directory}: is not a run directory (there is nothing){near}")


def runs(folder: Path) -> list[dict[str, Any]]:
    """What the runs and sweeps under `folder` are and how far they have come, the newest first.

    A directory that cannot be read has its reason in the place of its numbers.
    Raises: ConfigError for a folder that is not there.
    """
    if not folder.is_dir():
        raise ConfigError(f"folder {folder}: there is no such folder")
    found = []
    with files.worded(f"folder {folder}"):
        places = sorted({p.parent for name in ("config.yaml", "sweep.json") for p in folder.rglob(name)})
    for place in places:
        if any(parent in places for parent in place.parents):
            continue  # what a run or sweep keeps inside: the baseline without adaptation, a best member
        try:
            row = _sweep(place) if (place / "sweep.json").is_file() else _run(place)
        except ConfigError as error:
            row = {"about": str(error)}
        with files.worded(f"run {place}"):
            changed = max(p.stat().st_mtime for p in place.iterdir())
        found.append({"name": str(place), **row, "age_s": time.time() - changed})
    return sorted(found, key=lambda row: row["age_s"])


def _run(place: Path) -> dict[str, Any]:
    config = _configuration(files.read_text(place / "config.yaml", "config"), place / "config.yaml")
    last = files.last_row(place / "metrics.jsonl") if (place / "metrics.jsonl").is_file() else None
    score, value = _score(last) if last else ("", None)
    return {
        "algorithm": config["algorithm"],
        "env": config["env"],
        "iteration": last["iteration"] if last else 0,
        "of": config["num_iterations"],
        "score": value,
        "about": score.replace("_", " "),
    }


def _sweep(place: Path) -> dict[str, Any]:
    made = files.read_json(place / "sweep.json", "sweep")
    config, settings = made.get("config"), made.get("settings")
    if not isinstance(config, dict) or not isinstance(settings, list):
        raise ConfigError(f"sweep {place / 'sweep.json'}: is damaged (has no configuration and settings)")
    table = place / "table.csv"
    rows = list(csv.DictReader(io.StringIO(files.read_text(table, "table")))) if table.is_file() else []
    return {
        "algorithm": str(config.get("algorithm")),
        "env": str(config.get("env")),
        "iteration": int(rows[0].get("iterations") or 0) if rows else 0,
        "of": config.get("num_iterations"),
        "score": float(rows[0].get("score") or "nan") if rows else None,
        "about": f"sweep, {made.get('method')}, {len(settings)} trials",
    }


def _configuration(text: str, path: Path) -> dict[str, Any]:
    config = parse_value(text, f"config {path}")
    wanted = ("algorithm", "env", "num_iterations")
    if not isinstance(config, dict) or any(key not in config for key in wanted):
        raise ConfigError(f"config {path}: is damaged (has no {', '.join(wanted)})")
    return config


def _score(row: dict[str, Any]) -> tuple[str, float | None]:
    """The score of an iteration: the return (or error) after the last update, or what the algorithm watches."""
    numbered = [k for k in row if k.rpartition("_")[0] in ("return", "mse") and k.rpartition("_")[2].isdigit()]
    watched = [k for k in ("trial_return", "late_return", "episode_return") if k in row]
    name = max(numbered, key=lambda k: int(k.rpartition("_")[2])) if numbered else next(iter(watched), "loss")
    value = row.get(name)
    numbers = [x for x in (value if isinstance(value, list) else [value]) if x is not None]
    return name, sum(numbers) / len(numbers) if numbers else None


def format_runs(rows: list[dict[str, Any]]) -> str:
    """One line a run."""
    cells = [["run", "algorithm", "environment", "iteration", "score", "", "changed"]]
    for row in rows:
        if "algorithm" not in row:
            cells.append([row["name"], "-", "-", "-", "-", row["about"], age(row["age_s"])])
            continue
        score = "-" if row["score"] is None else f"{row['score']:.3f}"
        done = f"{row['iteration']}/{row['of']}"
        cells.append([row["name"], row["algorithm"], row["env"], done, score, row["about"], age(row["age_s"])])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def age(seconds: float) -> str:
    """2 min ago, 3 h ago, 5 days ago."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"
