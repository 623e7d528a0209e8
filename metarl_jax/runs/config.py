"""Configurations: short, flat YAML with the field's names -> validated, frozen objects.

Every mistake becomes one line that names the key, the value, what is allowed and the nearest spelling.
"""

import re
import typing
from pathlib import Path
from typing import Any

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError

from metarl_jax.algorithms import registry
from metarl_jax.options import ConfigError, one_line, suggest


def load(path: str | Path, overrides: list[str] | None = None) -> Any:
    """Read a YAML file (safe loader: data only), apply `key=value` overrides, validate.

    Raises: ConfigError, one line.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise ConfigError(f"config {path}: {error.strerror or error}{_nearby(Path(path))}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"config {path}: not a text file") from None
    data = parse_value(text, f"config {path}")
    if not isinstance(data, dict):
        raise ConfigError(f"config {path}: must be a list of `key: value` lines, not {type(data).__name__}")
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r}: must be key=value")
        target, last = data, key.strip()
        if last.startswith("env_options."):
            target, last = data.get("env_options") or {}, last.removeprefix("env_options.")
            if not isinstance(target, dict):
                raise ConfigError(f"env_options = {target!r}: must be a mapping")
            data["env_options"] = target
        target[last] = parse_value(value, f"override {override!r}")
    return validate(data)


def validate(data: dict[str, Any]) -> Any:
    """A dictionary -> the frozen configuration of its `algorithm`: every key known, every value in its range.

    What does not fit together is for `build` to say.
    """
    name = data.get("algorithm")
    if name is None:
        raise ConfigError(f"algorithm is missing: must be one of {', '.join(registry.names())}")
    schema = registry.entry(str(name)).options
    for key in data:
        if key not in schema.model_fields:
            hint = suggest(str(key), schema.model_fields) or f"; `metarl show {name}` lists them"
            raise ConfigError(f"{key} = {data[key]!r}: not a key of algorithm {name}{hint}")
    try:
        return schema(**data)
    except ValidationError as error:
        raise ConfigError(one_line(error, schema)) from None


def _nearby(path: Path) -> str:
    try:
        siblings = [str(p) for p in path.parent.glob("*.yaml")]
    except OSError:
        return ""
    return suggest(str(path), siblings)


class _Loader(yaml.SafeLoader):
    """The safe loader, reading 1e-3 as a number (YAML 1.1 wants 1.0e-3) and refusing duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        twice = next((k for k in keys if keys.count(k) > 1), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(problem=f"{twice} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_value(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None


def dump(config: Any) -> str:
    """The resolved configuration as YAML, every field written out."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


def describe(name: str) -> list[tuple[str, str, str, str]]:
    """(key, default, what is allowed, description) of every field of an algorithm's configuration."""
    rows = []
    for key, field in registry.entry(name).options.model_fields.items():
        default = "required" if field.is_required() else yaml.safe_dump(field.default, default_flow_style=True)
        text = default.removesuffix("\n").removesuffix("\n...").strip()
        rows.append((key, text, allowed(field), field.description or ""))
    return rows


def allowed(field: Any) -> str:
    """What a pydantic field takes, in a few words: "> 0", "0 to 1", "tanh | relu", "... or null"."""
    kind, limits, null = field.annotation, list(field.metadata), False
    if type(None) in typing.get_args(kind):
        kind, null = next(a for a in typing.get_args(kind) if a is not type(None)), True
    if hasattr(kind, "__metadata__"):
        kind, limits = kind.__origin__, [*limits, *kind.__metadata__]
    bounds = {
        type(x).__name__: getattr(x, type(x).__name__.lower()) for x in limits if isinstance(x, Ge | Gt | Le | Lt)
    }
    if typing.get_origin(kind) is typing.Literal:
        text = " | ".join(str(x) for x in typing.get_args(kind))
    elif kind is bool:
        text = "true | false"
    elif "Ge" in bounds and "Le" in bounds:
        text = f"{bounds['Ge']} to {bounds['Le']}"
    else:
        signs = {"Gt": ">", "Ge": ">=", "Lt": "<", "Le": "<="}
        text = ", ".join(f"{signs[name]} {value}" for name, value in bounds.items())
    return f"{text} or null" if null and text else text


def config_directory() -> Path:
    """The configurations that come with the project, in a checkout or inside the installed package."""
    package = Path(__file__).resolve().parent.parent
    found = (package.parent / "configs", package / "configs")
    return next((directory for directory in found if directory.is_dir()), found[-1])


def shipped_config(name: str) -> Path:
    """configs/NAME.yaml."""
    return config_directory() / f"{name}.yaml"


def paper_config(name: str) -> Path:
    """configs/papers/NAME.yaml."""
    return shipped_config(f"papers/{name}")
