"""A user's own parts of a run: which they are, and where they came from, so that later commands find them again.

A run (or sweep) directory that uses any has a `parts.json`: the folders that its modules were imported from, and what
the names registered with `mrl.register` stand for.
"""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metarl_jax.envs import registry as environments
from metarl_jax.networks import registry as networks
from metarl_jax.options import ConfigError, is_address
from metarl_jax.runs import files

FILE = "parts.json"
KINDS = {"env": (environments.factory_of, environments.register), "network": (networks.factory_of, networks.register)}


def addresses(values: Any) -> Iterator[str]:
    """Every "package.module:name" among the values of a configuration, `gymnax:<id>` and its like aside."""
    if isinstance(values, dict):
        for value in values.values():
            yield from addresses(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from addresses(value)
    elif isinstance(values, str):
        text = values.removeprefix(environments.DELAYED_PREFIX)
        if is_address(text) and not text.startswith((environments.GYMNAX_PREFIX, environments.XLAND_PREFIX)):
            yield text


def remember(directory: Path, config: Any) -> None:
    """Write what `recall` needs to `directory`, if the configuration, whose parts are imported, has any of a user's."""
    parts = found(config)
    if any(parts.values()):
        files.write_whole(directory / FILE, json.dumps(parts, indent=1) + "\n")


def found(config: Any) -> dict[str, Any]:
    """The user's parts of a configuration: the folders of their modules, and what registered names stand for."""
    used = set(addresses(config.model_dump()))
    names: dict[str, dict[str, str]] = {}
    for kind, (factory_of, _) in KINDS.items():
        name = str(getattr(config, kind, ""))
        factory = factory_of(name)
        address = factory if isinstance(factory, str) else _address(factory)
        if address is not None:
            names[kind] = {name: address}
            used.add(address)
    folders = {}
    for address in used:
        top = address.partition(":")[0].partition(".")[0]
        folder = _folder(top)
        if folder is not None:
            folders[top] = str(folder)
    return {"folders": folders, "names": names}


def recall(directory: Path) -> None:
    """Make the parts of a run importable, and its names known, if they are not.

    Raises: ConfigError for a file that is damaged.
    """
    if not (directory / FILE).is_file():
        return
    there = files.read_json(directory / FILE, "file")
    try:
        folders = {str(top): str(folder) for top, folder in there["folders"].items()}
        names = {str(kind): {str(k): str(v) for k, v in known.items()} for kind, known in there["names"].items()}
    except (KeyError, AttributeError):
        raise ConfigError(f"file {directory / FILE}: is damaged (has no folders and names)") from None
    make_known({"folders": folders, "names": names})


def make_known(parts: dict[str, Any]) -> None:
    """Make parts that were `found` importable, and their names known, if they are not."""
    folders, names = parts.get("folders", {}), parts.get("names", {})
    for top, folder in folders.items():
        if importlib.util.find_spec(top) is None and Path(folder).is_dir():
            sys.path.append(folder)
    for kind, known in names.items():
        factory_of, register = KINDS.get(kind, (None, None))
        for name, address in known.items():
            if factory_of is not None and register is not None and factory_of(name) is None:
                register(name, address)


def _address(factory: Any) -> str | None:
    """The address of a registered function, if it can be imported by one."""
    module, name = getattr(factory, "__module__", None), getattr(factory, "__qualname__", "")
    return None if module in (None, "__main__") or "<" in name or not name else f"{module}:{name}"


def _folder(top: str) -> Path | None:
    """The folder on the path that a top-level module was imported from."""
    file = getattr(sys.modules.get(top), "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    return path.parent.parent if path.name == "__init__.py" else path.parent
