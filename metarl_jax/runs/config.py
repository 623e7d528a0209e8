"""Configurations: short, flat YAML with the field's names -> validated, frozen objects.

Every mistake becomes one line that names the key, the value, what is allowed and the nearest spelling.
"""

import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError

from metarl_jax.algorithms import registry
from metarl_jax.options import MAX_INT, ConfigError, one_line, shortened, suggest
from metarl_jax.runs import files

SYNONYMS = {"learning_rate": "lr", "discount": "gamma", "coefficient": "coef", "clip_epsilon": "clip_eps", "n_": "num_"}
MAX_TEXT, MAX_DEPTH, MAX_DIGITS = 2**20, 50, 40  # of a configuration, which people write


def load(path: str | Path, overrides: list[str] | None = None) -> Any:
    """Read a YAML file (safe loader: data only), apply `key=value` overrides, validate.

    Raises: ConfigError, one line.
    """
    try:
        text = files.read_text(Path(path), "config")
    except ConfigError as error:
        raise ConfigError(f"{error}{_nearby(Path(path))}") from None
    data = parse_value(text, f"config {path}")
    if not isinstance(data, dict):
        raise ConfigError(f"config {path}: must be a list of `key: value` lines, not {type(data).__name__}")
    for override in overrides or []:
        key, equals, value = (part.strip() for part in override.partition("="))
        said = f"override {shortened(override)!r}"
        if not equals or not key:
            raise ConfigError(f"{said}: must be key=value, without spaces")
        data = with_key(data, key, parse_value(value, said))
    return validate(data)


def with_key(data: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """`data` with another value of `key`; of an environment's options by dots, env_options.ranges.gravity.

    Raises: ConfigError where something that is no mapping stands on the way.
    """
    return _inside(data, key.split(".") if key.startswith("env_options.") else [key], value)


def _inside(data: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    first, *rest = path
    if not rest:
        return {**data, first: value}
    inside = data.get(first) or {}
    if not isinstance(inside, dict):
        raise ConfigError(f"{first} = {shortened(repr(inside))}: must be a mapping to hold {'.'.join(rest)}")
    return {**data, first: _inside(inside, rest, value)}


def at_key(data: dict[str, Any], key: str) -> Any:
    """The value of a key, or of an environment's option by dots; None where there is none."""
    first, dot, rest = key.partition(".")
    if key in data or not dot:
        return data.get(key)
    inside = data.get(first)
    return at_key(inside, rest) if isinstance(inside, dict) else None


def validate(data: dict[str, Any]) -> Any:
    """A dictionary -> the frozen configuration of its `algorithm`: every key known, every value in its range.

    What does not fit together is for `build` to say.
    """
    name = data.get("algorithm")
    if name is None:
        raise ConfigError(f"algorithm is missing: must be one of {', '.join(registry.names())}")
    schema = registry.entry(str(name)).options
    unknown = [key for key in data if key not in schema.model_fields]
    try:
        config = schema(**{key: value for key, value in data.items() if key not in unknown})
    except ValidationError as error:
        found = [str(e["loc"][0]) for e in error.errors() if e["loc"]]
        if not unknown:
            raise ConfigError(one_line(error, schema) + _others(found[1:], found[:1])) from None
        unknown += [str(e["loc"][0]) for e in error.errors() if e["loc"] and e["type"] != "missing"]
    if unknown:
        raise ConfigError(_unknown_key(unknown[0], data, schema) + _others(unknown[1:], unknown[:1]))
    _check_sizes("env_options", config.env_options)
    return config


def _unknown_key(key: Any, data: dict[str, Any], schema: type[Any]) -> str:
    name = data["algorithm"]
    known = schema.model_fields
    meant = next((k for a, b in SYNONYMS.items() if a in str(key) and (k := str(key).replace(a, b)) in known), None)
    hint = f"; did you mean {meant}?" if meant else _owners(str(key)) or suggest(str(key), known)
    hint = hint or f"; `metarl show {name}` lists them"
    return f"{shortened(str(key))} = {shortened(repr(data[key]))}: not a key of algorithm {name}{hint}"


def _others(wrong: list[Any], said: list[Any]) -> str:
    """The tail of a message about one of the keys that are wrong: which others are."""
    rest = [shortened(str(key)) for key in dict.fromkeys(wrong) if key not in said]
    more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
    return f" (also wrong: {', '.join(rest[:3])}{more})" if rest else ""


def _owners(key: str) -> str:
    """The tail of a message: which other algorithms have that key, or nothing."""
    owners = [name for name in registry.ALGORITHMS if key in registry.entry(name).options.model_fields]
    more = f" and {len(owners) - 3} more" if len(owners) > 3 else ""
    return f"; it is a key of {', '.join(owners[:3])}{more}" if owners else ""


def _check_sizes(name: str, value: Any) -> None:
    """Raises: ConfigError for a number among an environment's options that is larger than any size can be."""
    if isinstance(value, dict):
        for key, inside in value.items():
            _check_sizes(f"{name}.{shortened(str(key))}", inside)
    elif isinstance(value, list):
        for inside in value:
            _check_sizes(name, inside)
    elif isinstance(value, int) and abs(value) > MAX_INT:
        raise ConfigError(f"{name} = {shortened(str(value))}: must be at most {MAX_INT}")


def _nearby(path: Path) -> str:
    try:
        siblings = [str(p) for p in path.parent.glob("*.yaml")]
    except OSError:
        return ""
    return suggest(str(path), siblings)


class _Loader(yaml.SafeLoader):
    """The safe loader: 1e-3 is a number (YAML 1.1 wants 1.0e-3), dates are text, and what surprises is refused.

    That is keys given twice, 010 (8 to YAML 1.1) and 1:30 (90 to it).
    """

    def number(self, node: Any) -> int | float:
        text = str(self.construct_scalar(node))
        plain = text.replace("_", "").lower()
        if ":" in plain or re.match(r"[-+]?0[0-9]", plain.split(".")[0].split("e")[0]):
            read = self.construct_yaml_float(node) if "." in plain else self.construct_yaml_int(node)
            raise yaml.MarkedYAMLError(
                problem=f"{shortened(text)} would be read as {read:g}; write it as a plain number, or in quotes",
                problem_mark=node.start_mark,
            )
        if len(plain) > MAX_DIGITS:
            raise yaml.MarkedYAMLError(
                problem=f"{shortened(text)} has more than {MAX_DIGITS} digits", problem_mark=node.start_mark
            )
        is_whole = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        twice = next((k for k in keys if keys.count(k) > 1), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(problem=f"{twice} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    k: [(tag, pattern) for tag, pattern in v if not tag.endswith(":timestamp")]
    for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.number)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_value(text: str, where: str) -> Any:
    """YAML as data: no tags, no aliases, no deeper than MAX_DEPTH, no longer than MAX_TEXT.

    Raises: ConfigError, one line.
    """
    if len(text) > MAX_TEXT:
        raise ConfigError(f"{where}: is longer than {MAX_TEXT} characters")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            refused = "an alias" if isinstance(event, yaml.AliasEvent) else None
            tag = getattr(event, "tag", None)
            if tag is not None:
                refused = f"the tag {shortened(tag)}"
            if depth > MAX_DEPTH:
                refused = f"nested deeper than {MAX_DEPTH}"
            if refused is not None:
                mark: Any = event.start_mark
                raise yaml.MarkedYAMLError(problem=f"{refused}: only plain values", problem_mark=mark)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        said = " ".join(str(getattr(error, "problem", None) or error).split())[:200]
        raise ConfigError(f"{where}{line}: not valid YAML ({said})") from None


def dump(config: Any) -> str:
    """The resolved configuration as YAML, every field written out."""
    return yaml.dump(config.model_dump(), Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """What `_Loader` reads: a list that stands in two places is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def describe(name: str) -> list[tuple[str, str, str, str]]:
    """(key, default, what is allowed, description) of every field of an algorithm's configuration."""
    rows = []
    for key, field in registry.entry(name).options.model_fields.items():
        default = "required" if field.is_required() else yaml.safe_dump(field.default, default_flow_style=True)
        text = default.removesuffix("\n").removesuffix("\n...").strip()
        rows.append((key, text, allowed(field), field.description or ""))
    return rows


_KINDS: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    dict: "mapping",
    list: "list",
    Sequence: "list",
}


def allowed(field: Any) -> str:
    """What a pydantic field takes, in a few words: "> 0", "0 to 1", "tanh | relu", "text", "... or null"."""
    kind, limits, null = field.annotation, list(field.metadata), False
    if type(None) in typing.get_args(kind):
        kind, null = next(a for a in typing.get_args(kind) if a is not type(None)), True
    if hasattr(kind, "__metadata__"):
        kind, limits = kind.__origin__, [*limits, *kind.__metadata__]
    bounds = {
        type(x).__name__: getattr(x, type(x).__name__.lower()) for x in limits if isinstance(x, Ge | Gt | Le | Lt)
    }
    if typing.get_origin(kind) is typing.Literal:
        text = " | ".join(str(x).lower() if isinstance(x, bool) else str(x) for x in typing.get_args(kind))
    elif kind is bool:
        text = "true | false"
    elif names := next((x.func.names for x in limits if hasattr(getattr(x, "func", None), "names")), None):
        text = " | ".join(names())
    elif "Ge" in bounds and bounds.get("Le", MAX_INT) != MAX_INT:
        text = f"{bounds['Ge']} to {bounds['Le']}"
    else:
        signs = {"Gt": ">", "Ge": ">=", "Lt": "<", "Le": "<="}
        text = ", ".join(f"{signs[name]} {value}" for name, value in bounds.items() if value != MAX_INT)
    text = text or _KINDS.get(typing.get_origin(kind) or kind, "")
    return f"{text} or null" if null and text else text


def config_directory() -> Path:
    """The configurations that come with the project, in a checkout or inside the installed package."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"  # only a wheel has it: what lies beside an installed package is somebody else's
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_config(name: str) -> Path:
    """configs/NAME.yaml."""
    return config_directory() / f"{name}.yaml"


def paper_config(name: str) -> Path:
    """configs/papers/NAME.yaml."""
    return shipped_config(f"papers/{name}")
