"""Files beside a checkpoint: written whole or not at all, read as data within bounds; the system's errors in words.

Whatever a reader finds is text, JSON or arrays: nothing in a run directory is unpickled. What is too large, cut short,
binary or of another kind is a ConfigError, one line that names the file.
"""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.options import ConfigError

MAX_JSON = 2**28  # bytes of a file that is read whole
MAX_LINE = 2**20  # bytes of a line of a file that is read line by line, which may be of any length
MAX_ARRAYS = 2**33  # bytes of the arrays of one file


# --- errors of the operating system ---------------------------------------------------------------------

_REASONS = {
    errno.ENOENT: "there is no such file or directory",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOTDIR: "something on the way to it is a file, not a directory",
    errno.EISDIR: "is a directory",
    errno.EEXIST: "something of that name is there",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links go round in circles",
    errno.EMFILE: "too many files are open",
}


def reason(error: OSError) -> str:
    """What the operating system refused, in words."""
    text = _REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    return text.splitlines()[0]


@contextmanager
def worded(what: str) -> Iterator[None]:
    """An OSError inside becomes a ConfigError: `what`, and the reason."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{what}: {reason(error)}") from None


def is_free(path: Path, what: str) -> bool:
    """Whether `path` can become a directory: nothing is there, or an empty one."""
    with worded(f"{what} {path}"):
        return not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir()))


def make_directory(path: Path, what: str) -> None:
    """Make a directory that can be written to, or see that it is one.

    Raises: ConfigError.
    """
    with worded(f"{what} {path}: cannot be made"):
        path.mkdir(parents=True, exist_ok=True)
    check_writable(path, what)


def check_writable(path: Path, what: str) -> None:
    """See that files can be made in a directory, before anything is computed for them.

    Raises: ConfigError.
    """
    with worded(f"{what} {path}: cannot be written to"), tempfile.TemporaryFile(dir=path):
        pass


# --- writing --------------------------------------------------------------------------------------------


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a kill, or a full disk, leaves the old one or the new one."""
    with _replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """The same for bytes."""
    with _replacing(path) as part:
        part.write_bytes(content)


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """The same for a compressed .npz of arrays."""
    with _replacing(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def write_array(path: Path, array: np.ndarray) -> None:
    """The same for one array, as .npy."""
    with _replacing(path) as part, open(part, "wb") as file:
        np.save(file, array, allow_pickle=False)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    part = path.with_name(path.name + ".tmp")
    try:
        yield part
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    os.replace(part, path)


# --- reading --------------------------------------------------------------------------------------------


def read_text(path: Path, what: str) -> str:
    """A text file of at most MAX_JSON bytes.

    Raises: ConfigError where it is too large, cannot be read or is not text.
    """
    try:
        return read_bytes(path, what).decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {path}: is damaged (not a text file)") from None


def read_bytes(path: Path, what: str) -> bytes:
    """A file of at most MAX_JSON bytes.

    Raises: ConfigError where it is too large or cannot be read.
    """
    with worded(f"{what} {path}"), open(path, "rb") as file:
        found = file.read(MAX_JSON + 1)
    if len(found) > MAX_JSON:
        raise ConfigError(f"{what} {path}: is larger than {MAX_JSON >> 20} MiB")
    return found


def read_json(path: Path, what: str, kind: type = dict) -> Any:
    """What a JSON file holds, which is a `kind`.

    Raises: ConfigError for anything else.
    """
    return _parse(read_text(path, what), f"{what} {path}: is damaged", kind)


def rows_of(path: Path, what: str = "metrics") -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl file of numbers, one at a time: `iteration` among them, as many seeds in all.

    A last line without its end, as a kill may leave it, is no row.
    Raises: ConfigError with the first line that is not one.
    """
    first: dict[str, Any] = {}
    with worded(f"{what} {path}"), open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
            where = f"{what} {path}, line {number}: is damaged"
            if not line.endswith(b"\n"):
                if len(line) == MAX_LINE:
                    raise ConfigError(f"{where} (longer than {MAX_LINE} bytes)")
                return
            row = _row(line, where)
            first = row | first
            if any(_size(first[name]) != _size(value) for name, value in row.items()):
                raise ConfigError(f"{where} (of another number of seeds than the lines before)")
            yield row


def read_rows(path: Path, what: str = "metrics") -> list[dict[str, Any]]:
    """All of `rows_of`."""
    return list(rows_of(path, what))


def column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    """What rows hold under a name: [row, seed], NaN where a row has nothing there; of no rows, [0, 1]."""
    found = [np.atleast_1d(np.array(row.get(name), float)) for row in rows]
    seeds = max((len(values) for values in found), default=1)
    return np.array([np.broadcast_to(values, seeds) for values in found]).reshape(len(rows), seeds)


def last_row(path: Path, what: str = "metrics") -> dict[str, Any] | None:
    """The last of `rows_of`; of a long file only the end is read."""
    with worded(f"{what} {path}"), open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * MAX_LINE))
        lines = file.read().split(b"\n")[:-1]
    return _row(lines[-1], f"{what} {path}, last line: is damaged") if lines else None


def keep_rows(path: Path, iteration: int) -> None:
    """Drop the rows of a .jsonl file that were written after `iteration`, if there is one.

    Raises: ConfigError for a file that is damaged, which is left as it is.
    """
    if not path.exists():
        return
    try:
        with _replacing(path) as part, open(part, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows_of(path) if row["iteration"] <= iteration)
    except ConfigError as error:
        raise ConfigError(f"{error}; move it away to go on without it") from None


def read_arrays(path: Path, what: str, *names: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file (those called `names`, if any are given), or {"": array} of an .npy file.

    Raises: ConfigError for anything else, and for arrays of Python objects, which are never unpickled.
    """
    import zipfile

    with worded(f"{what} {path}"):
        try:
            with open(path, "rb") as file:
                if path.suffix == ".npy":
                    return {"": np.lib.format.read_array(file, allow_pickle=False)}
                with zipfile.ZipFile(file) as whole:
                    if sum(part.file_size for part in whole.infolist()) > MAX_ARRAYS:
                        raise ConfigError(f"{what} {path}: its arrays are larger than {MAX_ARRAYS >> 30} GiB")
                file.seek(0)
                with np.load(file, allow_pickle=False) as kept:
                    return {name: kept[name] for name in names or kept.files}
        except (ConfigError, OSError):
            raise
        except Exception as error:  # whatever zipfile, zlib and numpy say of a damaged file
            text = str(error).strip() or type(error).__name__
            raise ConfigError(f"{what} {path}: is damaged ({text.splitlines()[0][:80]})") from None


def _parse(text: str | bytes, damaged: str, kind: type) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise ConfigError(f"{damaged} (not JSON: {said})") from None
    if not isinstance(found, kind):
        raise ConfigError(f"{damaged} (holds a {type(found).__name__}, not a {kind.__name__})")
    return found


def _row(line: bytes, damaged: str) -> dict[str, Any]:
    row = _parse(line, damaged, dict)
    if not all(_is_entry(value) for value in row.values()) or not isinstance(row.get("iteration"), int):
        raise ConfigError(f"{damaged} (not a row of numbers)")
    return row


def _is_entry(value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return bool(numbers) and all(x is None or (isinstance(x, int | float) and _is_number(x)) for x in numbers)


def _is_number(x: float) -> bool:
    return not isinstance(x, bool) and (isinstance(x, float) or abs(x) < 2**63)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0
