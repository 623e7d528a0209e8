"""How Sphinx builds the documentation site: `make docs`. Everything that it needs is local; it fetches nothing."""

import re
import sys
from pathlib import Path

from pygments import token
from pygments.lexer import RegexLexer
from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_extensions"), str(ROOT)]

project = "metarl_jax"
author = copyright = "metarl_jax contributors"
release = version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), flags=re.M)[1]

extensions = ["myst_parser", "sphinx.ext.autodoc", "mathml", "repository_links", "option_tables", "api_reference"]
exclude_patterns = ["_extensions"]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4  # the anchors that a code-hosting site gives headings
myst_dmath_double_inline = True
default_role = "code"  # single backticks in docstrings
smartquotes = False
nitpicky = True

add_module_names = False
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"metarl_jax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


class Commands(RegexLexer):
    """Blocks of commands without prompts and without what they print: strings, options and comments are coloured."""

    tokens = {
        "root": [
            (r"#.*", token.Comment),
            (r"'[^'\n]*'|\"[^\"\n]*\"", token.String),
            (r"--?[a-zA-Z][\w-]*", token.Name.Attribute),
            (r"[^\s'\"]+|\s+|.", token.Text),
        ]
    }


def setup(app: Sphinx) -> None:
    """How blocks that are marked `console` are coloured."""
    app.add_lexer("console", Commands)
