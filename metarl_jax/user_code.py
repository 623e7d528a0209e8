"""A user's own code: found by its address, and what it raises in one line with the place that it comes from."""

import importlib
import sysconfig
import traceback
from pathlib import Path
from typing import Any

from metarl_jax.options import ConfigError, suggest


def load_address(address: str, key: str) -> Any:
    """What "package.module:name" names.

    Raises: ConfigError where it cannot be imported, with the reason.
    """
    module, _, name = address.partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises while it is imported
        where = ""
        if isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]:
            where = f"; looked for it in {Path.cwd()} and among the installed packages"
        raise ConfigError(
            f"{key} = {address}: {module} cannot be imported ({said(error)}){place(error)}{where}"
        ) from error
    if not hasattr(found, name):
        raise ConfigError(f"{key} = {address}: {module} has no {name}{suggest(name, dir(found))}")
    return getattr(found, name)


def same_factory(known: Any, new: Any) -> bool:
    """Whether two factories are the same one: a notebook cell that runs twice defines it anew."""

    def where(factory: Any) -> Any:
        if isinstance(factory, str):
            return tuple(factory.split(":"))
        return getattr(factory, "__module__", None), getattr(factory, "__qualname__", factory)

    return known is new or where(known) == where(new)


def said(error: BaseException) -> str:
    """The first line of what an exception says; with its type, where the message alone would be a riddle."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if text and isinstance(error, TypeError | ValueError | ImportError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place(error: BaseException) -> str:
    """The line of the user's code that raised it, or that called what did: " (slide.py:12)"; "" if there is none.

    The user's are all files but the library's, Python's own and installed packages.
    """
    not_theirs = (Path(__file__).resolve().parent, Path(sysconfig.get_path("stdlib")).resolve())
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        installed = {"site-packages", "dist-packages"} & set(path.parts)
        if not installed and path.exists() and not any(map(path.resolve().is_relative_to, not_theirs)):
            return f" ({path.name}:{frame.lineno})"
    return ""
