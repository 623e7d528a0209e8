"""Every algorithm has a page of its own: its sections, its blocks, a measured curve, configurations that build."""

import functools
import importlib
import json
import re
from pathlib import Path

import pytest

import metarl_jax
from benchmarks import algorithm_curves as curves
from benchmarks import tables
from metarl_jax.algorithms.registry import ALGORITHMS, entry
from metarl_jax.runs import config
from metarl_jax.runs.build import build

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "algorithms"
SECTIONS = ("Idea", "Equations", "In the library", "Measured", "When not to use it", "Paper", "Options")
RESULTS = {r["algorithm"]: r for r in json.loads((ROOT / tables.CURVES).read_text())["rows"]}
WORDS = range(200, 480)  # of a page, tables and blocks left out


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


def test_pages_are_those_of_the_registry():
    assert {path.stem for path in PAGES.glob("*.md")} == {"index", *ALGORITHMS}
    assert set(RESULTS) == set(curves.CURVES) == set(ALGORITHMS)
    for name in ALGORITHMS:
        assert f"[`{name}`]({name}.md)" in page("index"), name


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_page_has_its_sections_blocks_and_picture(name):
    text = page(name)
    headings = re.findall(r"^## (.*)$", text, flags=re.M)
    assert [heading for heading in headings if heading in SECTIONS] == list(SECTIONS)
    for block in ("options", "configurations"):
        assert re.findall(rf"^```{{{block}}} (\w+)\n```$", text, flags=re.M) == [name]
    assert f"<!-- table: curve_{name} -->" in text and f"](../images/curve-{name}.png)" in text
    prose = re.sub(r"```.*?```|\$\$.*?\$\$|<!-- table.*?<!-- end -->", "", text, flags=re.S)
    assert len(prose.split()) in WORDS, len(prose.split())
    assert "$$" in text, "no equation"


@pytest.mark.parametrize("name", [*ALGORITHMS, "index"])
def test_links_lead_somewhere_and_code_exists(name):
    text = page(name)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        there = (PAGES / path).resolve()
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.M)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target
    for address in re.findall(r"`(?:mrl|metarl_jax)\.([\w.]+)", text):
        assert exists(address), address


def exists(address: str) -> bool:
    """Whether an address in the package is a module, or a name that one leads to."""
    try:
        return importlib.import_module(f"metarl_jax.{address}") is not None
    except ModuleNotFoundError:
        try:
            return functools.reduce(getattr, address.split("."), metarl_jax) is not None
        except AttributeError:
            module, _, name = address.rpartition(".")
            return hasattr(importlib.import_module(f"metarl_jax.{module}"), name)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_keys_that_a_page_names_are_keys_of_the_algorithm(name):
    known = entry(name).options.model_fields
    for key in re.findall(r"`(\w+): [^`]+`", page(name)):
        assert key in known or key in entry("maml").options.model_fields, f"{name}: {key}"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_curve_is_that_of_the_configuration_that_the_page_shows(name):
    curve, result = curves.CURVES[name], RESULTS[name]
    assert (result["configuration"], result["overrides"]) == (curve.configuration, list(curve.overrides))
    chosen = config.load(config.shipped_config(curve.configuration), list(curve.overrides))
    job = build(chosen)
    assert chosen.algorithm == name and chosen.env == result["env"] and result["unit"] == job.unit
    assert result["work"] == chosen.num_iterations * job.work_per_iteration
    assert len(result["x"]) <= 100 and result["num_seeds"] >= 3 and result["train_cpu_s"] > 0
    for panel in result["panels"]:
        for metric in panel["lines"]:
            values = result["curves"][metric]
            assert len(values) == result["num_seeds"] and all(len(seed) == len(result["x"]) for seed in values)
            assert len({tuple(seed) for seed in values}) == result["num_seeds"], "seeds that are alike"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_picture_is_small_and_as_wide_as_a_page(name):
    from PIL import Image

    path = ROOT / "docs" / "images" / f"curve-{name}.png"
    assert path.stat().st_size < 60_000
    with Image.open(path) as picture:
        assert picture.size[0] == 720


def test_the_tables_are_those_of_the_results():
    assert not [stale for stale in tables.stale() if stale.startswith("docs/algorithms/")]


def test_a_row_is_trained_and_drawn(tmp_path, monkeypatch):
    """The script itself, tiny: blocks of iterations, and what no seed has measured left out."""
    tiny = curves.CURVES["supervised_maml"]._replace(overrides=("num_iterations=90", "meta_batch_size=2", "hidden=[4]"))
    monkeypatch.setitem(curves.CURVES, "supervised_maml", tiny)
    result = curves.row("supervised_maml")
    assert len(result["x"]) == 45 and result["x"][0] == 1.5 * 2 * 20, "blocks of two iterations, in their middle"
    assert curves.draw(result, tmp_path).stat().st_size > 1000
    path = tmp_path / "curves.json"
    curves.save(path, [result])
    assert json.loads(path.read_text())["rows"] == [json.loads(json.dumps(result))]
    assert path.read_text().count("\n") < 90, "a list of numbers is one line"
    assert curves._thinned(curves.np.array([[1.0, curves.np.inf, 3.0, curves.np.nan]]), [[0, 1], [2], [3]]) == [
        [1.0, 3.0, None]
    ]
