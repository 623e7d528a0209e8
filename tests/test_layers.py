"""The house rules that a machine can check: who imports whom, what an import costs, how long a file is."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "metarl_jax"
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")  # that one imports nothing itself

# Within one level nobody imports anybody, except in these folders, and at the top, whose row is in order.
FREE = ("networks", "envs", "baselines", "reproductions", "tuning")
TOP = "L8"


def levels():
    """{module: (level, place in the top row or 0)}, read from the table in docs/architecture.md."""
    table = re.findall(r"^\| (L\d) \| (.*?) \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    found = {}
    for level, row in table:
        for place, name in enumerate(re.findall(r"`(\w+)/?`", row)):
            found[name] = (level, place if level == TOP else 0)
    return found


LEVELS = levels()


def module_name(path):
    """metarl_jax/algorithms/maml.py -> algorithms.maml"""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(p) for p in FILES}


def imports(path):
    """Names of the package's modules that a file imports, at any depth of it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert "metarl_jax" not in found, f"{path.name} imports the whole package: name the module it needs"
    ours = {name.removeprefix("metarl_jax.") for name in found if name.startswith("metarl_jax.")}
    # `from metarl_jax.types import Batch` names a thing in a module: keep the longest prefix that is one.
    for name in sorted(ours - {"__version__"}):
        while name not in MODULES and "." in name:
            name = name.rpartition(".")[0]
        yield name


def level(name):
    top = name.partition(".")[0]
    assert top in LEVELS, f"{top} has no level: give it one in the table of docs/architecture.md"
    return LEVELS[top]


def test_the_table_has_every_module_and_no_other():
    assert set(LEVELS) == {name.partition(".")[0] for name in MODULES}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path):
    name = module_name(path)
    for imported in imports(path):
        top = name.partition(".")[0]
        if top in FREE and imported.partition(".")[0] == top:
            continue
        assert level(imported) < level(name), f"{name} imports {imported}: not from a lower level"


@pytest.mark.parametrize("path", [*FILES, PACKAGE / "__init__.py"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 400


def test_import_is_light():
    code = "import sys, metarl_jax; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "metarl_jax" in loaded
    assert not loaded & {"jax", "flax", "optax", "gymnax", "distrax", "matplotlib", "numpy"}
