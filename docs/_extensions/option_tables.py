"""Tables of an algorithm's options and of the configurations that use it, made from the code at every build.

```{options} maml
```
```{configurations} maml
```
"""

import functools
import json
from collections.abc import Sequence

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from metarl_jax.algorithms import registry
from metarl_jax.envs import registry as environments
from metarl_jax.options import ConfigError
from metarl_jax.runs.config import config_directory, describe

Row = Sequence[nodes.Node | str]


def code(text: str) -> nodes.Node:
    """Text in code letters."""
    return nodes.literal(text, text)


def table(head: Sequence[str], rows: Sequence[Row], identifiers: Sequence[str] = ()) -> nodes.table:
    """A table; `identifiers` are anchors of its rows."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += nodes.thead("", _row(head))
    body = nodes.tbody()
    for i, cells in enumerate(rows):
        row = _row(cells)
        if identifiers:
            row["ids"] = [identifiers[i]]
        body += row
    group += body
    return nodes.table("", group, classes=["options"])


def _row(cells: Row) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        content = _text(cell) if isinstance(cell, str) else [cell]
        row += nodes.entry("", nodes.paragraph("", "", *content))
    return row


def _text(text: str) -> list[nodes.Node]:
    """Text with code in single backticks."""
    return [code(part) if i % 2 else nodes.Text(part) for i, part in enumerate(text.split("`"))]


class OfAlgorithm(Directive):
    """A directive whose argument is an algorithm."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """What stands in the place of the directive."""
        name = self.arguments[0]
        try:
            registry.entry(name)
        except ConfigError as error:
            raise self.error(str(error)) from None
        return self.made(name)

    def made(self, name: str) -> list[nodes.Node]:
        """What is made for a known algorithm."""
        raise NotImplementedError


class OptionsTable(OfAlgorithm):
    """`{options} NAME`: every key of a configuration of that algorithm, as `metarl show NAME` prints it."""

    def made(self, name: str) -> list[nodes.Node]:
        """One table of all keys, each row with an anchor `NAME-KEY`."""
        described = describe(name)
        rows = [(code(key), allowed, code(default), meaning) for key, default, allowed, meaning in described]
        anchors = [f"{name}-{row[0]}" for row in described]
        return [table(("option", "allowed", "default", "meaning"), rows, anchors)]


@functools.cache
def configurations() -> tuple[tuple[str, str, str, str], ...]:
    """(name, algorithm, environment, its first line) of every configuration that comes with the package."""
    folder, found = config_directory(), []
    for path in [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("papers/*.yaml"))]:
        text = path.read_text()
        data = yaml.safe_load(text)
        about = text.splitlines()[0].removeprefix("#").strip() if text.startswith("#") else ""
        found.append((str(path.relative_to(folder).with_suffix("")), data["algorithm"], data["env"], about))
    return tuple(found)


class ConfigurationsTable(OfAlgorithm):
    """`{configurations} NAME`: what can be trained with that algorithm as it is, each with its command."""

    def made(self, name: str) -> list[nodes.Node]:
        """One table of commands."""
        rows = [
            (code(f"metarl train {config}"), code(env), about)
            for config, algorithm, env, about in configurations()
            if algorithm == name
        ]
        if not rows:
            raise self.error(f"no configuration in configs/ trains {name}")
        return [table(("command", "environment", "what it is"), rows)]


class Environments(Directive):
    """`{environments}`: every environment, with its options and their defaults, as `metarl show` has them."""

    def run(self) -> list[nodes.Node]:
        """One table; each row has the anchor `env-NAME`."""
        rows, anchors = [], []
        for name, line in environments.registered().items():
            options = {} if name.endswith("<id>") else environments.options_of(name)
            shown = [
                f"`{key}`" + ("" if default is ... else f" = {json.dumps(default)}") for key, default in options.items()
            ]
            rows.append(
                (code(name), line, ", ".join(shown) or ("those of what is named" if name.endswith("<id>") else "none"))
            )
            anchors.append("env-" + nodes.make_id(name))
        return [table(("environment", "what it is", "options"), rows, anchors)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives, as Sphinx asks of an extension."""
    app.add_directive("options", OptionsTable)
    app.add_directive("configurations", ConfigurationsTable)
    app.add_directive("environments", Environments)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
