"""Equations as MathML, which browsers draw themselves: no script, and nothing from a network."""

import re
from typing import Any

import latex2mathml.converter
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def to_mathml(latex: str, display: str) -> str:
    """LaTeX as one <math> element.

    Raises: ValueError for LaTeX that is not understood, such as a misspelt command.
    """
    latex = re.sub(r"\\(begin|end)\{(aligned|gathered)\}", r"\\\1{split}", latex)  # the one that the converter aligns
    latex = latex.replace(r"\lVert", r"\left\|").replace(r"\rVert", r"\right\|")  # else of the height of a fraction
    latex = re.sub(r"\\arg\s*\\(min|max)", r"\\arg\1", latex)
    latex = re.sub(r"\\(log|ln|exp|tanh)(?=\s+[^\s(])(?!\s+\\left)", r"\\\1\\,", latex)  # it sets them without a space
    latex = re.sub(r"(?<=[\w}])\s*(\\(?:log|ln|exp|tanh)\b)", r"\\,\1", latex)
    if re.search(r"\\\\|&", re.sub(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", "", latex, flags=re.S)):
        latex = rf"\begin{{split}}{latex}\end{{split}}"  # several lines, as Sphinx reads them
    try:
        made = latex2mathml.converter.convert(latex, display=display)
    except Exception as error:  # whatever a converter raises for a formula that is no formula
        raise ValueError(f"{type(error).__name__} {error}".strip()) from None
    made = made.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")  # \sim is a relation, with space around it
    left_over = re.search(r"\\[A-Za-z]+", made)
    if left_over:
        raise ValueError(f"{left_over[0]} is not known")
    return made


def _write(self: Any, node: nodes.Element, display: str) -> None:
    latex = node.astext()
    try:
        made = to_mathml(latex, display)
    except ValueError as error:
        logger.warning("equation %r: %s", latex, error, location=node)
        made = self.encode(latex)
    if display == "inline":
        self.body.append(made)
    else:
        names = "".join(f' id="{name}"' for name in node["ids"][:1])
        self.body.append(f'<div class="equation"{names}>{made}</div>')
    raise nodes.SkipNode


def inline(self: Any, node: nodes.Element) -> None:
    """Write an equation inside a line."""
    _write(self, node, "inline")


def block(self: Any, node: nodes.Element) -> None:
    """Write an equation that stands by itself."""
    _write(self, node, "block")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, as Sphinx asks of an extension."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
