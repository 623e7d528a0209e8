"""The directory of a run: made or opened, held by one process, its files written whole or not at all."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
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
from metarl_jax.runs import files, user_parts
from metarl_jax.runs.config import dump, load

WHAT = "run directory"


def open_directory(config: Any, run_dir: Path, resume: bool) -> None:
    """Make the directory of a new run, or see that it holds the same one, or one of fewer iterations.

    Raises: ConfigError for a directory that holds anything else, with the first key that differs.
    """
    config_file = run_dir / "config.yaml"
    check_free(run_dir, resume)
    if not files.is_free(run_dir, WHAT):
        if config_file.exists():
            there = load(config_file)
            if _is_longer(config, there):
                there = there.model_copy(update={"num_iterations": config.num_iterations})
            difference = first_difference(there, config)
            if difference:
                raise ConfigError(
                    f"{WHAT} {run_dir}: holds a run of another configuration ({difference}); name another directory"
                )
            files.check_writable(run_dir, WHAT)
            return
        begun = ("config.yaml.tmp", "info.json", "info.json.tmp", "parts.json", "parts.json.tmp", ".lock")
        if any(p.name not in begun for p in run_dir.iterdir()):
            raise ConfigError(f"{WHAT} {run_dir}: is not a run of metarl (it has no config.yaml)")
    files.make_directory(run_dir, WHAT)
    files.write_whole(run_dir / "info.json", json.dumps(environment_info(), indent=2) + "\n")
    user_parts.remember(run_dir, config)
    files.write_whole(config_file, dump(config))


def prolong(config: Any, run_dir: Path, report: Callable[[Any], None]) -> None:
    """Where the run of a locked directory has fewer iterations than `config`, make it as long, and report that."""
    there = load(run_dir / "config.yaml")
    if not _is_longer(config, there):
        return
    files.write_whole(run_dir / "config.yaml", dump(config))
    annealed = [key for key, value in config.model_dump().items() if key.startswith("anneal") and value is True]
    what = f"; {' and '.join(annealed)}: falls to 0 at the new end, so it is larger again from here on"
    report(f"prolonged from {there.num_iterations} to {config.num_iterations} iterations" + (what if annealed else ""))


def _is_longer(config: Any, there: Any) -> bool:
    return type(there) is type(config) and there.num_iterations < config.num_iterations


def check_free(directory: Path, resume: bool, what: str = WHAT) -> None:
    """Raises: ConfigError for a directory with something in it that is not to be resumed, and for a file."""
    if not files.is_free(directory, what):
        if not directory.is_dir():
            raise ConfigError(f"{what} {directory}: is a file; name another")
        if not resume:
            raise ConfigError(f"{what} {directory}: is not empty; add --resume to go on with it, or name another")


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run for one process; the operating system lets go when that process ends, however it ends."""
    with files.worded(f"{WHAT} {run_dir}: cannot be locked"):
        file = open(run_dir / ".lock", "a")  # noqa: SIM115
    with file:
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


def _program() -> str:
    """The name that started this process, as a person would type it."""
    name = Path(sys.argv[0]).name
    return "metarl" if name == "__main__.py" and "metarl_jax" in Path(sys.argv[0]).parts else name


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
        "command": " ".join([_program(), *sys.argv[1:]]),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "num_devices": devices.count(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }
