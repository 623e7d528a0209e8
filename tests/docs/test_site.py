"""The documentation site: it builds strictly and offline, and nothing public is missing from it."""

import html
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="needs metarl_jax[docs]")
pytest.importorskip("furo", reason="needs metarl_jax[docs]")
pytest.importorskip("latex2mathml", reason="needs metarl_jax[docs]")

import metarl_jax  # noqa: E402
from metarl_jax.algorithms import registry  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def module(path):
    """The module of that file of docs/."""
    for folder in (DOCS / "_extensions", DOCS):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


check_site = module(DOCS / "check_site.py")
docstrings = module(DOCS / "_extensions" / "docstrings.py")
api_reference = module(DOCS / "_extensions" / "api_reference.py")
option_tables = module(DOCS / "_extensions" / "option_tables.py")
mathml = module(DOCS / "_extensions" / "mathml.py")

# One page with the tables of every algorithm, whatever the pages of docs/algorithms show.
TABLES = "# Tables\n" + "\n".join(
    f"## {name}\n```{{options}} {name}\n```\n```{{configurations}} {name}\n```" for name in registry.ALGORITHMS
)


def build(source, out, *more):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html", "-d", f"{out}.doctrees"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *more, str(source), str(out)], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "html"
    done = build(DOCS, out)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return out


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The page of tables, as a site of its own."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "index.md").write_text(TABLES)
    conf = "extensions, smartquotes = ['myst_parser', 'option_tables'], False\nimport sys\n"
    conf += f"sys.path.insert(0, {str(DOCS / '_extensions')!r})\n"
    (folder / "conf.py").write_text(conf)
    done = build(folder, folder / "html")
    assert done.returncode == 0 and not done.stderr, done.stderr
    return check_site.Page((folder / "html" / "index.html").read_text()), (folder / "html" / "index.html").read_text()


def test_links_lead_somewhere_and_nothing_is_loaded_from_a_network(site):
    assert check_site.mistakes(site) == []


def test_a_dead_link_and_a_network_resource_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"></p><a href="#there"></a><a href="b.html"></a><a href="#here"></a><a href="https://x.org"></a>'
        '<script src="https://cdn.org/x.js"></script><link rel="stylesheet" href="//fonts.org/f.css">'
    )
    (tmp_path / "s.css").write_text("@font-face { src: url('https://fonts.org/f.woff') }")
    found = "\n".join(check_site.mistakes(tmp_path))
    assert found.count("\n") == 4, found
    for words in (
        "#there names an anchor",
        "b.html leads nowhere",
        "x.js from a network",
        "f.css from",
        "s.css: loads",
    ):
        assert words in found


def test_every_public_name_has_an_entry(site):
    anchors = set()
    for path in (site / "api").glob("*.html"):
        anchors |= check_site.Page(path.read_text()).anchors
    for name in metarl_jax.__all__:
        if name.startswith("__"):
            continue
        value = getattr(metarl_jax, name)
        assert ("module-" if inspect.ismodule(value) else "") + f"metarl_jax.{name}" in anchors, name
    for place, found in api_reference.modules().items():
        place = api_reference.ALIASES.get(place, place)
        for name in api_reference.public_names(found):
            of_package = getattr(found, name) is getattr(metarl_jax, name, None)
            assert f"metarl_jax.{name}" if of_package else f"metarl_jax.{place}.{name}" in anchors, (place, name)


def test_every_public_name_has_a_docstring():
    missing = [
        f"{place}.{name}{what}"
        for place, found in [("metarl_jax", metarl_jax), *api_reference.modules().items()]
        for name in (api_reference.public_names(found) if found is not metarl_jax else metarl_jax.__all__)
        for what in api_reference.undocumented(getattr(found, name))
    ]
    assert missing == []


def test_a_missing_docstring_is_seen():
    class Data:
        """Some."""

        def method(self):
            pass

    def function():
        pass

    assert api_reference.undocumented(Data) == [".method"]
    assert api_reference.undocumented(function) == [""]


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_an_options_table_has_every_option(name, tables):
    page, text_of_page = tables
    for key, field in registry.entry(name).options.model_fields.items():
        assert f"{name}-{key}" in page.anchors, key
        row = re.search(rf'<tr[^>]*id="{name}-{key}".*?</tr>', text_of_page, flags=re.S)[0]
        text = html.unescape(re.sub(r"<.*?>", "", row))
        assert (field.description or "").replace("`", "") in text
        assert all(re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<td>(.*?)</td>", row, flags=re.S)), text


def test_every_configuration_is_in_a_table(tables):
    _, text_of_page = tables
    commands = set(re.findall(r"metarl train ([\w/]+)", re.sub(r"</?span.*?>", "", text_of_page)))
    shipped = {str(p.relative_to(ROOT / "configs").with_suffix("")) for p in (ROOT / "configs").rglob("*.yaml")}
    assert commands == shipped


def test_docstrings_become_restructuredtext():
    text = """Mean of `x`s where m_n is 1, *not* |x|.

    .. math:: x_n * 2

    Args: mask: 1 for `real` steps,
        0 for others.
    Raises: ValueError for less.
    It goes on.
    Not differentiated: `mask`. The derivative of a thing
    is said in two lines.
    """
    assert docstrings.to_rst(inspect.cleandoc(text)) == [
        "Mean of ``x``\\ s where m\\_n is 1, *not* \\|x\\|.",
        "",
        ".. math:: x_n * 2",
        "",
        "It goes on.",
        "",
        ":param mask: 1 for ``real`` steps, 0 for others.",
        ":Raises: ValueError for less.",
        ":Not differentiated: ``mask``. The derivative of a thing is said in two lines.",
        "",
    ]


def test_attributes_are_a_table_with_a_row_each():
    text = """A thing.

    Attributes:
      size: numbers of a `state`,
        and no more.
      low, high: limits.

    It goes on.
    """
    text = inspect.cleandoc(text)
    assert docstrings.attributes(text) == {"size": "numbers of a `state`, and no more.", "low, high": "limits."}
    assert docstrings.to_rst(text) == ["A thing.", "", "It goes on.", "", ""]


def test_the_fields_of_tasks_are_in_a_table_with_what_each_is(site):
    page = (site / "api" / "environments.html").read_text()
    assert "Attributes" not in page
    row = next(row for row in re.findall(r"<tr.*?</tr>", page, flags=re.S) if ">horizon<" in row)
    assert "natural episode length" in row


def test_modules_say_what_they_are_before_their_names(site):
    for path in (DOCS / "api").glob("*.rst"):
        lines = [line for line in path.read_text().splitlines() if line.startswith(".. ")]
        assert not any("module-entries" in line for line in lines[1:]), path.name
    index = (site / "api" / "index.html").read_text()
    said = re.findall(r"<td><p>(.*?)</p></td>", index, flags=re.S)
    assert len(said) == len(set(said)) > 60


def test_a_misspelt_equation_is_refused():
    assert "<mfrac>" in mathml.to_mathml(r"\frac{a}{b}", "block")
    assert "<mo>&#x0223C;</mo>" in mathml.to_mathml(r"a \sim b", "block")
    assert mathml.to_mathml(r"\lVert a \rVert^2", "block").count('fence="true"') == 2
    with pytest.raises(ValueError, match="alhpa"):
        mathml.to_mathml(r"\alhpa", "inline")


def test_equations_are_drawn_by_the_browser(site):
    page = (site / "api" / "losses.html").read_text()
    written = (ROOT / "metarl_jax" / "rl" / "losses.py").read_text().count(".. math::")
    assert page.count("<math") == written > 10 and "MathJax" not in page


def test_shapes_are_shown_as_they_are_written(site):
    text = html.unescape(re.sub(r"<.*?>", "", (site / "api" / "returns.html").read_text()))
    assert 'Float[Array, "T *b"]' in text
    assert "jaxlib" not in text and "Annotated[" not in text


LOOK = """<!doctype html><body><script>
const pages = PAGES, found = [];
function cut(page, document) {
  for (const each of document.querySelectorAll("article pre, article div.equation")) {
    const over = each.scrollWidth - each.clientWidth;
    if (over > each.clientWidth / 10) found.push([page, over, each.textContent.trim().slice(0, 60)]);
  }
}
function next(i) {
  if (i === pages.length) { document.body.textContent = "LOOKED" + JSON.stringify(found) + "DEKOOL"; return; }
  const frame = document.createElement("iframe");
  frame.style.cssText = "width: 1400px; height: 900px; border: 0";
  frame.onload = () => { cut(pages[i], frame.contentDocument); frame.remove(); next(i + 1); };
  frame.src = pages[i];
  document.body.append(frame);
}
next(0);
</script></body>"""


def cut_off(pages, tmp_path):
    """[page, pixels, text] of code and equations of which a wide screen hides a tenth; fonts differ a little."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no chromium or google-chrome")
    (tmp_path / "look.html").write_text(LOOK.replace("PAGES", json.dumps([page.as_uri() for page in pages])))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
             "--allow-file-access-from-files", "--virtual-time-budget=600000", "--window-size=1500,1000"]  # fmt: skip
    words = [browser, *flags, "--dump-dom", (tmp_path / "look.html").as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    found = re.search(r"LOOKED(\[.*\])DEKOOL", done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


def test_code_and_equations_are_not_cut_off_at_the_edge(site, tmp_path):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    assert cut_off(pages, tmp_path) == []


def test_code_that_is_cut_off_is_seen(site, tmp_path):
    page = site / "api" / "tree.html"
    wide = site / "api" / "wide.html"
    wide.write_text(page.read_text().replace("</article>", f"<pre>{'x ' * 100}</pre></article>", 1))
    try:
        [[where, over, text]] = cut_off([page, wide], tmp_path)
    finally:
        wide.unlink()
    assert where == wide.as_uri() and over > 100 and text.startswith("x x")
