"""The directory of a run: made or opened, held by one process, its files written whole or not at all."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

try:
    import fcntl
except ImportError:  # Windows: runs are not locked there
    fcntl = None  # type: ignore[assignment]

from metarl_jax import __version__, devices
from metarl_jax.options import ConfigError
from metarl_jax.runs import user_parts
from metarl_jax.runs.config import dump, load


def open_directory(config: Any, run_dir: Path, resume: bool) -> None:
    """Make the directory of a new run, or see that it holds the same one.

    Raises: ConfigError for a directory that holds anything else, with the first key that differs.
    """
    config_file = run_dir / "config.yaml"
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        if not resume:
            raise ConfigError(f"run directory {run_dir}: is not empty; add --resume to go on with it, or name another")
        if config_file.exists():
            difference = first_difference(load(config_file), config)
            if difference:
                raise ConfigError(f"run directory {run_dir}: holds a run of another configuration ({difference})")
            return
        if any(p.name not in ("config.yaml.tmp", "info.json", "info.json.tmp", ".lock") for p in run_dir.iterdir()):
            raise ConfigError(f"run directory {run_dir}: is not a run of metarl (it has no config.yaml)")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_whole(run_dir / "info.json", json.dumps(environment_info(), indent=2) + "\n")
    user_parts.remember(run_dir, config)
    write_whole(config_file, dump(config))


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run for one process; the operating system lets go when that process ends, however it ends."""
    with open(run_dir / ".lock", "a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(f"run directory {run_dir}: another process is training in it") from None
        yield


def first_difference(there: Any, now: Any) -> str:
    """The first key in which two configurations differ, with both values; "" where they mean the same.

    A key that an older version did not write has its default.
    """
    if type(there) is not type(now):
        return f"algorithm: {there.algorithm} there, {now.algorithm} now"
    ours, theirs = now.model_dump(), there.model_dump()
    key = next((key for key in ours if ours[key] != theirs[key]), None)
    return "" if key is None else f"{key}: {theirs[key]} there, {ours[key]} now"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def environment_info() -> dict[str, Any]:
    """Versions, device and command: what a figure needs beside it."""
    packages = ("jax", "jaxlib", "flax", "optax", "gymnax", "distrax", "chex", "numpy")
    versions = {"metarl_jax": __version__}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    device = jax.devices()[0]
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "num_devices": devices.count(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }
