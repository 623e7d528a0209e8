"""The cells of a reproduction on a Ray cluster: a worker runs a cell as one process would, and sends back its files.

Then they lie in the directory of the reproduction as if they had been made there, and the claims are made of them. A
cell that was cut off goes on where it was, if it comes to the same machine again: it is kept in a temporary folder.
"""

import getpass
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from metarl_jax.options import ConfigError
from metarl_jax.reproductions import REPRODUCTIONS, function_of, records
from metarl_jax.runs import files
from metarl_jax.sweeps.engines import Cluster, versions

ENDED = "units"  # the folder with a file for each unit that has ended


class Cells(NamedTuple):
    """Cells that are run together, in their order: a later one uses what an earlier one has trained."""

    name: str  # of the reproduction
    cells: tuple[str, ...]


def check(name: str) -> None:
    """Raises: ConfigError for a reproduction that is not a table of cells that can be run apart."""
    if not REPRODUCTIONS[name].apart:
        able = ", ".join(other for other, entry in REPRODUCTIONS.items() if entry.apart)
        raise ConfigError(
            f"reproduction {name}: is not made of cells that run apart, as {able} are; use --engine local"
        )


def train(unit: Cells) -> dict[str, bytes]:
    """Run cells in this process: {path: content} of all files that they leave."""
    folder = _folder(unit)
    folder.mkdir(parents=True, exist_ok=True)
    function_of(REPRODUCTIONS[unit.name])(folder, lambda line: None, cells=unit.cells)
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    shutil.rmtree(folder, ignore_errors=True)
    return {path: content for path, content in found.items() if Path(path).name != ".lock"}


def run(
    cluster: Cluster, name: str, directory: Path, cells: tuple[str, ...], report: Callable[[Any], None]
) -> tuple[str, ...]:
    """Run those of `cells` on the workers that `directory` does not hold; what each leaves is written there.

    Returns the cells that have left no record: `reproduce` makes their claims of their files.
    Raises: ConfigError for a cell that was begun in `directory` otherwise: a worker would begin it anew.
    """
    todo = [unit for unit in _units(name, cells) if not _marker(directory, unit).exists()]
    for unit in todo:
        begun = [cell for cell in _group(name, unit.cells[0]) if (directory / cell).exists()]
        if begun and not _written_in_part(directory, unit).exists():
            raise ConfigError(
                f"cell {begun[0]}: was begun in {directory}, and a worker would begin it anew; go on with "
                "--engine local, or name another --run-dir"
            )
    report(f"{len(todo)} units of cells, {cluster.describe()}")
    found = cluster.run(train, todo, split=lambda unit: [], report=report, name=lambda unit: " and ".join(unit.cells))
    for number, (unit, made) in enumerate(found):
        files.make_directory(directory / ENDED, "directory")
        _written_in_part(directory, unit).touch()
        for path, content in made.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        files.write_whole(_marker(directory, unit), json.dumps(sorted(made)) + "\n")
        _written_in_part(directory, unit).unlink()
        report(f"{' and '.join(unit.cells)}: ended, {number + 1} of {len(todo)}")
    there = records.read(directory, cells)
    return tuple(cell for cell in cells if cell not in there)


def _units(name: str, cells: tuple[str, ...]) -> list[Cells]:
    found: list[Cells] = []
    for cell in cells:
        unit = Cells(name, tuple(c for c in cells if c in _group(name, cell)))
        if unit not in found:
            found.append(unit)
    return found


def _group(name: str, cell: str) -> tuple[str, ...]:
    """The cells that go with one, itself included."""
    return next((g for g in REPRODUCTIONS[name].together if cell in g), (cell,))


def _marker(directory: Path, unit: Cells) -> Path:
    return directory / ENDED / f"{'+'.join(unit.cells)}.json"


def _written_in_part(directory: Path, unit: Cells) -> Path:
    """There while the files of a unit are written."""
    return _marker(directory, unit).with_suffix(".writing")


def _folder(unit: Cells) -> Path:
    """The same for the same user, versions and cells."""
    what = json.dumps([getpass.getuser(), versions(), unit])
    digest = hashlib.sha256(what.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"metarl-{unit.name}-{'+'.join(unit.cells)[:60]}-{digest}"
