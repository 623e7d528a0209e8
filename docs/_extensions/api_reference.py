"""The API reference: every public name, under the name that users write, from the code at every build.

    .. module-entries:: losses      all public names of `metarl_jax.losses`
    .. name-entries:: make ppo      functions of `metarl_jax` itself
    .. public-names:: functions     a table of the functions and classes of `metarl_jax`; or of its `modules`

A public name without a docstring fails the build, and so does one that no page documents.
"""

import ast
import enum
import functools
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from docstrings import attributes, escaped, first_sentence, to_rst
from docutils import nodes
from option_tables import code, table
from pydantic.fields import FieldInfo
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import metarl_jax
from metarl_jax.options import options_of
from metarl_jax.runs.config import allowed

logger = logging.getLogger(__name__)
PACKAGE = "metarl_jax"
ALIASES = {"learners": "inner", "baselines": "reference"}  # second names of one module


def modules() -> dict[str, types.ModuleType]:
    """{public name: module}, without second names."""
    return {name: m for name in metarl_jax.__all__ if inspect.ismodule(m := getattr(metarl_jax, name))}


def public_names(module: types.ModuleType) -> list[str]:
    """`__all__` of a module, or else what is defined in it: functions, classes, constants that have a comment."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [*constants(module)] + [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isroutine(value))
        and value.__module__ == module.__name__
    ]


def undocumented(value: Any) -> list[str]:
    """What has no docstring of its own: "" for the object itself, else names of its public methods."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return []
    own = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
    missing = [] if own and not own.startswith(f"{value.__name__}(") else [""]
    if inspect.isclass(value):
        for name, member in vars(value).items():
            member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if not name.startswith("_") and inspect.isfunction(member) and not member.__doc__:
                if member.__module__ == value.__module__:
                    missing.append(f".{name}")
    return missing


# --- directives -------------------------------------------------------------------------------------------


class Module(SphinxDirective):
    """`module-entries`: the docstring of a public module, and an entry for each of its public names."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The entries, as autodoc makes them."""
        name = self.arguments[0]
        module = modules()[name]
        also = [other for other, first in ALIASES.items() if first == name]
        lines = [line for n in [name, *also] for line in (f".. py:module:: {PACKAGE}.{n}", "")]
        lines += to_rst(inspect.cleandoc(module.__doc__ or ""))
        lines += [f".. py:currentmodule:: {PACKAGE}.{name}", ""]
        return self.parse_text_to_nodes(
            "\n".join([*lines, *entries(module, public_names(module), f"{PACKAGE}.{name}")])
        )


class Names(SphinxDirective):
    """`name-entries`: entries for names of the package itself."""

    required_arguments = 1
    optional_arguments = 100

    def run(self) -> list[nodes.Node]:
        """The entries, as autodoc makes them."""
        return self.parse_text_to_nodes(
            "\n".join([f".. py:currentmodule:: {PACKAGE}", "", *entries(metarl_jax, self.arguments, PACKAGE)])
        )


class PublicNames(SphinxDirective):
    """`public-names`: a table of the names of the package that are modules or are not, each with its first sentence."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """One table; its first column links to the entries."""
        rows = []
        for name in metarl_jax.__all__:
            value = getattr(metarl_jax, name)
            if name.startswith("__") or inspect.ismodule(value) != (self.arguments[0] == "modules"):
                continue
            kind = "mod" if inspect.ismodule(value) else "obj"
            link = addnodes.pending_xref(
                "", code(name), refdomain="py", reftype=kind, reftarget=f"{PACKAGE}.{name}", refexplicit=True
            )
            again = ALIASES.get(name)
            rows.append((link, f"`{again}` by another name." if again else first_sentence(inspect.getdoc(value) or "")))
        return [table(("name", "what it is"), rows)]


def entries(module: Any, names: list[str], prefix: str) -> Iterator[str]:
    """Autodoc directives for names of a module."""
    for name in names:
        value = getattr(module, name)
        if module is not metarl_jax and value is getattr(metarl_jax, name, None):
            continue  # its entry is that of the package
        for missing in undocumented(value):
            logger.warning("public name %s.%s%s has no docstring", prefix, name, missing)
        about = constants(module).get(name) or comment_of(name, value)
        if about:
            yield from (f".. py:data:: {name}", "", *(f"   {line}" for line in to_rst(about)), "")
        elif inspect.isclass(value):
            yield from (f".. autoclass:: {prefix}.{name}", "   :members:", "")
        elif inspect.isroutine(value):
            yield from (f".. autofunction:: {prefix}.{name}", "")
        else:
            logger.warning("public name %s.%s has no comment that says what it is", prefix, name)


@functools.cache
def constants(module: types.ModuleType) -> dict[str, str]:
    """{constant or type alias of a module: the comment beside or above it}, of those that have one."""
    source, found = inspect.getsource(module), {}
    lines = source.splitlines()
    for node in ast.parse(source).body:
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        if not isinstance(target, ast.Name) or target.id.startswith("_"):
            continue
        above, first = [], node.lineno - 2
        while lines[first].startswith("# ") and not lines[first].startswith("# --"):
            above.insert(0, lines[first][2:])
            first -= 1
        about = lines[node.lineno - 1].partition("  # ")[2] or " ".join(above)
        if about:
            found[target.id] = about
    return found


def comment_of(name: str, value: Any) -> str:
    """The comment of a constant, in whichever module defines it."""
    homes = [m for place, m in sys.modules.items() if place.startswith(f"{PACKAGE}.") and name in vars(m)]
    found = (constants(m).get(name) for m in homes if vars(m)[name] is value and getattr(m, "__file__", None))
    return next((about for about in found if about), "")


# --- signatures -------------------------------------------------------------------------------------------


def signature(app: Sphinx, kind: str, name: str, value: Any, *_: Any) -> tuple[str, str] | None:
    """A signature as it is written, with shapes; options that a decorator brought in are parameters like the others."""
    if inspect.isclass(value) and (hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__")):
        return "", ""  # its fields are listed
    if getattr(value, "_is_protocol", False):
        return "", ""  # nobody makes one
    function = value.__init__ if inspect.isclass(value) else value
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return None
    written = _written(inspect.unwrap(function))
    parameters, star = [], False
    for p in found.parameters.values():
        if p.name in ("self", "cls"):
            continue
        prefix = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        if p.kind is p.KEYWORD_ONLY and not star:
            parameters.append("*")
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        text = prefix + p.name
        if p.annotation is not p.empty:
            text += f": {shown(p.annotation, written.get(p.name))}"
        if p.default is not p.empty:
            text += f" = {_default(p.default)}"
        parameters.append(text)
    returns = found.return_annotation
    after = "" if returns is found.empty or inspect.isclass(value) else shown(returns, written.get("return"))
    return f"({', '.join(parameters)})", after


@functools.cache
def _written(function: Callable) -> dict[str, str]:
    """{parameter: its annotation as the source has it}, and "return"."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return {}
    made = tree.body[0]
    if not isinstance(made, ast.FunctionDef):
        return {}
    arguments = [*made.args.posonlyargs, *made.args.args, *made.args.kwonlyargs, made.args.vararg, made.args.kwarg]
    found = {a.arg: ast.unparse(a.annotation) for a in arguments if a is not None and a.annotation is not None}
    return found | ({"return": ast.unparse(made.returns)} if made.returns is not None else {})


def shown(annotation: Any, written: str | None = None) -> str:
    """An annotation in words: shapes in full, options without their sentences, the rest as the source has it."""
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, str):
        return annotation.strip("'\"")
    if hasattr(annotation, "dim_str"):  # of jaxtyping
        return f'{annotation.dtype.__name__}[Array, "{annotation.dim_str}"]'
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return shown(annotation.__origin__)
    if any(hasattr(a, "dim_str") or hasattr(a, "__metadata__") for a in arguments) and origin in (
        typing.Union,
        types.UnionType,
    ):
        return " | ".join(map(shown, arguments))
    if written is not None:
        return written
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(shown, arguments))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is not None:
        inside = [f"[{', '.join(map(shown, a))}]" if isinstance(a, list) else shown(a) for a in arguments]
        return f"{getattr(origin, '__name__', origin)}[{', '.join(inside)}]"
    if annotation is Ellipsis:
        return "..."
    return str(getattr(annotation, "__name__", annotation)).rpartition(".")[2]


def _default(value: Any) -> str:
    if isinstance(value, enum.Enum) or inspect.isclass(value) or inspect.isroutine(value):
        return getattr(value, "__name__", str(value))
    text = repr(value)
    return text if "<" not in text and " at 0x" not in text else "..."


# --- docstrings -------------------------------------------------------------------------------------------


def docstring(app: Sphinx, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """A docstring as reStructuredText, with a table of options or of fields."""
    text = "\n".join(lines)
    made, about = to_rst(text), attributes(text)
    if inspect.isclass(value):
        rows = _fields(value, about)
        columns = [i for i in range(3) if any(row[i] for row in rows)]  # one in which nothing stands is left out
        head = ("field", "type", "what it is")
        made += _list_table(tuple(head[i] for i in columns), [[row[i] for i in columns] for row in rows])
    elif inspect.isroutine(value) and (found := options_of(value)):
        made += _list_table(("option", "allowed", "default", "meaning"), [_option(o) for o in found.values()])
    made += _list_table(("attribute", "what it is"), [(_names(n), escaped(a)) for n, a in about.items()])
    lines[:] = made


def _option(option: Any) -> tuple[str, str, str, str]:
    default = "required" if option.default is inspect.Parameter.empty else f"``{option.default!r}``"
    limits = allowed(FieldInfo.from_annotation(option.annotation)) or shown(option.annotation)
    limits, about = (re.sub(r"\bnull\b", "None", text) for text in (limits, option.about))
    return f"``{option.name}``", escaped(limits), default, escaped(about)


def _names(names: str) -> str:
    return ", ".join(f"``{name}``" for name in names.split(", "))


def _fields(value: Any, about: dict[str, str]) -> list[tuple[str, str, str]]:
    """(name, type, what it is) of the fields of a class of data or of functions.

    What a field is stands in the comment beside or above it, or under `Attributes` in the docstring, and is then taken
    out of `about`.
    """
    if not (hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__")):
        return []
    source = textwrap.dedent(inspect.getsource(value))
    rows, lines = [], source.splitlines()
    made = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    for node in made.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            above = lines[node.lineno - 2].strip()
            beside = lines[node.end_lineno - 1].partition("  # ")[2] or (above[2:] if above.startswith("# ") else "")
            said = about.pop(node.target.id, "") or beside
            kind = ast.unparse(node.annotation).replace("'", '"')
            kind = "" if kind == "Any" else f"``{kind}``"
            rows.append((f"``{node.target.id}``", kind, escaped(said)))
    return rows


def _list_table(head: tuple[str, ...], rows: list[Any]) -> list[str]:
    if not rows:
        return []
    classes = "options fields" if head[0] == "field" else "options"
    made = ["", ".. list-table::", "   :header-rows: 1", f"   :class: {classes}", ""]
    for row in [head, *rows]:
        for i, cell in enumerate(row):
            made.append(f"   {'*' if i == 0 else ' '} - {cell}")
    return [*made, ""]


# --- cross-references and the check ----------------------------------------------------------------------


@functools.cache
def _classes() -> dict[str, dict[str, str]]:
    """{class: {public module: the name of its entry}}."""
    found: dict[str, dict[str, str]] = {}
    places = [*((f"{PACKAGE}.{name}", m) for name, m in modules().items()), (PACKAGE, metarl_jax)]
    for place, module in places:
        for name in public_names(module):
            if inspect.isclass(getattr(module, name)):
                found.setdefault(name, {})[place] = f"{place}.{name}"
    return found


def link_signatures(app: Sphinx, doctree: nodes.document) -> None:
    """Classes in signatures: a link to the one of that name, here or alone in the library; else the text."""
    for text in doctree.findall(addnodes.desc_sig_literal_string):
        text.children[:] = [nodes.Text(text.astext().replace("'", '"'))]
    for text in list(doctree.findall(lambda node: isinstance(node, nodes.Text) and "jaxlib._jax." in node)):
        text.parent.replace(text, nodes.Text(text.astext().replace("jaxlib._jax.", "")))  # types of properties
    for text in list(doctree.findall(lambda node: isinstance(node, nodes.Text) and node == " -- ")):
        text.parent.replace(text, nodes.Text(": "))  # between a parameter and what it is
    for signature in doctree.findall(addnodes.desc_signature):
        for node in list(signature.findall(addnodes.pending_xref)):
            places = _classes().get(node["reftarget"].rpartition(".")[2], {})
            here = places.get(node.get("py:module", ""))
            target = here or (next(iter(places.values())) if len(places) == 1 else None)
            if target is None:
                node.replace_self(nodes.inline("", node.astext()))
            else:
                node["reftarget"] = target


def skip_fields(app: Sphinx, kind: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Fields are in a table, and what flax adds to a class of data is flax's."""
    is_function = inspect.isroutine(value) or isinstance(value, property)
    is_ours = getattr(getattr(value, "fget", value), "__module__", "").startswith(PACKAGE)
    return None if is_function and is_ours else True


def check_complete(app: Sphinx, env: Any) -> None:
    """Warn of public names that no page of the reference has."""
    domain = env.domains.python_domain
    there = {*domain.objects, *domain.modules}
    for name in metarl_jax.__all__:
        if not name.startswith("__") and f"{PACKAGE}.{name}" not in there:
            logger.warning("public name %s.%s is on no page of docs/api", PACKAGE, name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register directives and listeners, as Sphinx asks of an extension."""
    app.add_directive("module-entries", Module)
    app.add_directive("name-entries", Names)
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-read", link_signatures)
    app.connect("env-check-consistency", check_complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
