"""Optional packages, imported by the first use of what needs them."""

import contextlib
import importlib
import io
from typing import Any


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
