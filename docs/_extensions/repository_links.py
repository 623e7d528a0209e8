"""Links of pages to files of the repository that are no pages.

The pages are also read in the repository, where `[boil.py](../metarl_jax/algorithms/boil.py)` leads to the file. On
the site such a link is its text: the repository has no address that the site could name. A link to a file that does not
exist is left alone, so that the strict build refuses it.
"""

import os
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

DATA = {".json", ".npz", ".gif", ".png", ".xml", ".yaml"}  # of docs/: copied beside the site, to be downloaded


def to_text(app: Sphinx, doctree: nodes.document) -> None:
    """Replace links to files and folders of the repository by their text."""
    docs = Path(app.srcdir)
    here = Path(app.env.doc2path(app.env.docname)).parent
    links = [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]
    for link in links:
        target = link.get("reftarget", "").partition("#")[0]
        if not target or link.get("refdomain") == "py":
            continue
        # MyST writes targets from the folder of the page, or from the root of the site as "/...", pages by their name.
        path = Path(os.path.normpath(docs / target[1:] if target.startswith("/") else here / target))
        is_page = path.suffix == ".md" or any(path.with_suffix(suffix).exists() for suffix in (".md", ".rst"))
        if is_page or not path.exists() or not path.is_relative_to(docs.parent):
            continue
        if path.is_relative_to(docs) and path.suffix in DATA:
            continue
        text = link.astext()
        is_name = text.strip("/") in str(path) and " " not in text
        link.replace_self(nodes.literal(text, text) if is_name else nodes.inline("", "", *link.children))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the reading of pages, as Sphinx asks of an extension."""
    app.connect("doctree-read", to_text)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
