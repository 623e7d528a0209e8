"""Options: each stands once, in the signature of the function that uses it, and everything else is made from there.

    def ppo(..., *, lr: Annotated[Rate, "Adam step size"] = 2.5e-4, ...)

says type, range, sentence and default. `takes_options` checks calls against it and writes it into the docstring;
`Part` turns such options into keys of a configuration; `configuration` puts parts together. A mistake is worded
in one place, `mistake`. Nothing here imports jax.
"""

import difflib
import functools
import inspect
import math
import numbers
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    create_model,
)

if TYPE_CHECKING:
    import jax

    Float = float | jax.Array  # a number, or a traced one: ranges are checked where the value is known
else:
    Float = float

MAX_INT = 2**31 - 1  # counts and sizes are 32-bit in compiled programs
Positive = Annotated[int, Strict(), Ge(1), Le(MAX_INT)]
Count = Annotated[int, Strict(), Ge(0), Le(MAX_INT)]
Width = Annotated[int, Strict(), Ge(1), Le(MAX_INT)]
Layers = Annotated[int, Strict(), Ge(1), Le(100)]  # each is traced by itself
Seed = Annotated[int, Strict(), Ge(0), Le(2**31 - 2**20)]
Rate = Annotated[Float, Gt(0), AllowInfNan(False)]
NonNegative = Annotated[Float, Ge(0), AllowInfNan(False)]
Finite = Annotated[Float, AllowInfNan(False)]
Unit = Annotated[Float, Ge(0), Le(1)]
Share = Annotated[Float, Gt(0), Lt(1)]
Widths = Annotated[Sequence[Width], MaxLen(100)]

DATA = str | int | float | list | dict | None  # what a configuration is made of
MAX_WORD = 100  # characters of what could be a misspelt name
F = TypeVar("F", bound=Callable[..., Any])


class ConfigError(ValueError):
    """A mistake of the user's, worded for them: the command line prints it and exits with status 2."""


def one_of(names: Callable[[], Iterable[str]], what: str = "") -> Any:
    """Metadata of an annotation: one of `names()`, or the user's own (in a configuration by its address)."""

    def check(value: Any) -> Any:
        if isinstance(value, DATA) and not is_address(value) and value not in (known := list(names())):
            near = suggest(str(value), known)
            raise ValueError(f"not known{near}" if near else f"must be one of {', '.join(known)}{what}")
        return value

    check.names = names  # type: ignore[attr-defined]
    return AfterValidator(check)


def is_address(value: Any) -> bool:
    """Whether a value reads "package.module:name"."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value) is not None


def suggest(word: str, known: Iterable[str]) -> str:
    """The tail of a message: the shortest name that begins with the word, or the nearest spelling, or nothing."""
    names, word = list(known), word[:MAX_WORD]
    begins = sorted((name for name in names if len(word) > 2 and name.startswith(word)), key=len)
    near = begins or difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


# --- one option -----------------------------------------------------------------------------------------


class Option(typing.NamedTuple):
    """An option of a function."""

    name: str
    annotation: Any  # what pydantic reads: type and range
    default: Any  # `inspect.Parameter.empty` where it must be given
    about: str  # one sentence


def options_of(function: Callable) -> dict[str, Option]:
    """The annotated options of a function, in order, with those that its `**options` go to."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        about = _sentence(parameter.annotation)
        if about is not None:
            found[name] = Option(name, parameter.annotation, parameter.default, about)
    return found


def _sentence(annotation: Any) -> str | None:
    texts = [x for x in getattr(annotation, "__metadata__", ()) if isinstance(x, str)]
    return texts[-1] if texts else None


@functools.cache
def _adapter(function: Callable, name: str) -> TypeAdapter:
    annotation = inspect.signature(function).parameters[name].annotation
    return TypeAdapter(annotation, config=ConfigDict(strict=True, arbitrary_types_allowed=True))


def _plain(value: Any) -> Any:
    """numpy scalars as Python numbers: they are the same numbers."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


def _is_the_users(value: Any) -> bool:
    """Arrays, tracers, functions and trees: what no range is written for."""
    arrays = hasattr(value, "aval") or (hasattr(value, "dtype") and getattr(value, "shape", ()) != ())
    return arrays or callable(value) or isinstance(value, Mapping)


def takes_options(
    *onto: Callable, without: Sequence[str] = (), defaults: Mapping[str, Any] | None = None
) -> Callable[[F], F]:
    """A decorator: options are checked when the function is called, and documented.

    Args:
        onto: where the function's `**options` go. Their annotated options become part of its signature.
        without: those of them that the function sets itself.
        defaults: those of them that begin at another value here.
    Raises (the decorated function): ValueError for a value out of its range, TypeError for an unknown name, in one line
        with the nearest spelling. Arrays of jax, functions and trees are not looked at.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        rest = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        names, others = {p.name for p in rest}, dict(defaults or {})
        for target in onto:
            for name, parameter in inspect.signature(target).parameters.items():
                if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in names and name not in without:
                    rest.append(parameter.replace(default=others.get(name, parameter.default)))
                    names.add(name)
        assert others.keys() <= names, f"{function.__name__}: {others.keys() - names}"
        keywords = {p.name for p in rest if p.kind is not inspect.Parameter.POSITIONAL_ONLY}
        positional = [p.name for p in rest if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        checked = {p.name for p in rest if _sentence(p.annotation) is not None}

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            unknown = next((name for name in kwargs if name not in keywords), None)
            if unknown is not None:
                raise TypeError(f"{function.__name__}() has no option {unknown!r}{suggest(unknown, keywords)}")
            for name, value in (*zip(positional, args, strict=False), *kwargs.items()):
                if name in checked:
                    _check(call, name, value)
            return function(*args, **{**others, **kwargs})

        call.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
        call.__doc__ = _documented(function.__doc__ or "", options_of(call))
        return typing.cast(F, call)

    return decorate


def _check(function: Callable, name: str, value: Any) -> None:
    if _is_the_users(value):
        return
    parameter = inspect.signature(function).parameters[name]
    if value is parameter.default:
        return
    try:
        _adapter(function, name).validate_python(_plain(value))
    except ValidationError as error:
        raise ValueError(mistake(error, name, value, _sentence(parameter.annotation) or "")) from None


def _documented(text: str, options: Mapping[str, Option]) -> str:
    if not options:
        return text
    lines = [
        f"    {o.name}: {o.about}" + ("" if o.default is inspect.Parameter.empty else f" (default {o.default!r})")
        for o in options.values()
    ]
    return inspect.cleandoc(text) + "\n\nOptions:\n" + "\n".join(lines)


# --- configurations -------------------------------------------------------------------------------------


class Options(BaseModel):
    """What every configuration is: frozen, strict, without keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class Part:
    """Keys of a configuration that are options of one function.

    Args:
        function: whose options they are; their types, ranges, sentences and defaults are read from its signature.
        names: of the options, or {option: key} where the key has another name; None: all annotated options.
        defaults: {option: default} where the configuration begins at another value than the function, with a reason
            beside it in the code.
    """

    def __init__(
        self,
        function: Callable,
        names: Iterable[str] | Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ):
        self.function = function
        known = options_of(function)
        if names is None:
            names = list(known)
        self.keys = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
        self.defaults = dict(defaults or {})
        for name in (*self.keys, *self.defaults):
            if name not in known:
                raise ValueError(f"{function.__name__}() has no annotated option {name!r}{suggest(name, known)}")
        self.options = {name: known[name] for name in self.keys}

    def fields(self) -> dict[str, tuple[Any, Any]]:
        """{key: (annotation, field)} for `pydantic.create_model`."""
        made = {}
        for name, key in self.keys.items():
            option = self.options[name]
            default = self.defaults.get(name, option.default)
            if isinstance(default, tuple):
                default = list(default)
            more = {} if default is inspect.Parameter.empty else {"default": default}
            made[key] = (option.annotation, Field(description=option.about, **more))
        return made

    def values(self, config: Any) -> dict[str, Any]:
        """{option: its value in `config`}."""
        return {name: getattr(config, key) for name, key in self.keys.items()}

    def __call__(self, config: Any, *args: Any, **more: Any) -> Any:
        """Call the function with its options taken from `config`; `more` wins.

        Raises: ConfigError for what the function refuses, with the configuration's keys in the place of its names.
        """
        with worded(self):
            return self.function(*args, **{**self.values(config), **more})


def worded(*parts: Part) -> Any:
    """A context in which a ValueError that names options of these parts becomes a ConfigError that names their keys."""
    return _Worded({name: key for part in reversed(parts) for name, key in part.keys.items() if name != key})


class _Worded:
    def __init__(self, keys: Mapping[str, str]):
        self.keys = keys

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        if isinstance(error, ValueError) and not isinstance(error, ConfigError) and self.keys:
            pattern = r"(?<![\w.'])(" + "|".join(map(re.escape, self.keys)) + r")(?![\w'])"
            raise ConfigError(re.sub(pattern, lambda m: self.keys[m.group(1)], str(error))) from None


def configuration(name: str, about: str, base: type[Options], *parts: Part, **fields: Any) -> type[Any]:
    """A configuration made of parts; `fields` are keys of its own, (annotation, Field), and win.

    Raises: TypeError where two parts give one key another default: they would not mean the same.
    """
    made: dict[str, Any] = {}
    for part in parts:
        for key, field in part.fields().items():
            if key in fields:
                continue
            if key in made and made[key][1].default != field[1].default:
                raise TypeError(f"{name}.{key}: default {made[key][1].default!r} and {field[1].default!r}")
            made.setdefault(key, field)
    return create_model(name, __base__=base, __doc__=about, **{**made, **fields})


# --- mistakes -------------------------------------------------------------------------------------------

_WORDS = {
    kind: words
    for words, kinds in {
        "must be a whole number": ("int_type", "int_parsing", "int_from_float"),
        "must be a number": ("float_type", "float_parsing"),
        "must be true or false": ("bool_type", "bool_parsing"),
        "must be text": ("string_type",),
        "must be a list such as [64, 64]": ("list_type", "sequence_type", "sequence_str", "is_instance_of"),
        "must be a mapping such as {num_arms: 10}": ("dict_type", "mapping_type"),
    }.items()
    for kind in kinds
}  # fmt: skip


def mistake(error: ValidationError, name: str, value: Any, about: str) -> str:
    """One line: name, value, what is allowed, the nearest spelling, what the option is."""
    first = error.errors()[0]
    own = first.get("ctx", {}).get("error")
    allowed = _WORDS.get(first["type"]) or (str(own) if own else first["msg"].replace("Input should be", "must be"))
    expected = first.get("ctx", {}).get("expected")
    known = str(expected).replace(" or ", ", ").replace("'", "").split(", ") if expected else []
    return f"{name} = {shortened(repr(value))}: {allowed}{suggest(str(value), known)}{f' ({about})' if about else ''}"


def shortened(text: str) -> str:
    """A user's text as part of one line."""
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def one_line(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first mistake in a configuration, as one line."""
    first = error.errors()[0]
    own = first.get("ctx", {}).get("error")
    if isinstance(own, ConfigError):
        return str(own)
    words = [str(part) for part in first["loc"]]
    key = ".".join(word for word in words if not re.match(r"(constrained|function|union|list|nullable)\W?", word))
    about = getattr(schema.model_fields.get(words[0] if words else ""), "description", None) or ""
    if first["type"] == "missing":
        return f"{key} is missing{f' ({about})' if about else ''}"
    return mistake(error, key, first["input"], about)


def check_divides(name: str, parts: int, size: int, of: str) -> None:
    """Raises: ValueError where `parts` do not divide `size` evenly, with the nearest number that does."""
    if size % parts:
        nearest = min(_divisors(size), key=lambda d: (abs(d - parts), d))
        raise ValueError(f"{name} = {parts}: must divide {of} = {size}; try {nearest}")


def _divisors(size: int) -> Iterator[int]:
    for d in range(1, math.isqrt(size) + 1):
        if size % d == 0:
            yield d
            yield size // d


def known_value(value: Any) -> float | None:
    """A number of Python's or NumPy's as a float; None for what is traced or an array, known only when it runs."""
    value = _plain(value)
    return float(value) if isinstance(value, numbers.Real) else None


def is_given(value: Any, default: float) -> bool:
    """Whether an option is something else than its default, as what is traced is."""
    return known_value(value) != default


def is_other_than(value: Any, number: float) -> bool:
    """Whether a value is known before tracing, and is not `number`."""
    return known_value(value) not in (None, number)


def is_zero(coefficient: Any) -> bool:
    """Whether a coefficient is known to be 0 before tracing, so that its term can be left out of the program."""
    return known_value(coefficient) == 0
