"""What is imported by its first use: optional packages, and the names of our own folders."""

import contextlib
import importlib
import io
from collections.abc import Callable, Mapping
from typing import Any


def on_first_use(folder: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a folder's `__init__`; `home`: name -> the module of the folder that has it."""

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {folder!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{folder}.{home[name]}"), name)

    return get, lambda: sorted(home)


class MissingPackage(ImportError, ValueError):
    """An optional package is not installed; a ValueError too, so that the command line prints it as one line."""


def package(module: str, extra: str, what: str) -> Any:
    """The module; what packages print while they are imported is dropped.

    Raises: MissingPackage, one line that says what needs it and the command that installs it.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
    name = module.partition(".")[0]
    raise MissingPackage(f"{what} needs the package {name}: pip install 'metarl_jax[{extra}]'")
