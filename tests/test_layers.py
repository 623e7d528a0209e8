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

# Folder order = import order = data order: a room imports rooms before it only. Those not built yet have their place.
ROOMS = (
    "types", "tree", "gradient", "options", "user_code", "sharing", "devices", "envs", "networks", "models", "rl",
    "meta", "update_rules", "reference", "algorithms", "runs", "sweeps", "tuning", "reproductions", "cli",
)  # fmt: skip
NOT_BUILT = {"models"}


def module_name(path):
    """metarl_jax/algorithms/maml.py -> algorithms.maml"""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(p) for p in FILES}


def room(name):
    return name.partition(".")[0]


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


def test_the_package_holds_the_rooms_and_nothing_else():
    there = {p.stem if p.is_file() else p.name for p in PACKAGE.iterdir()} - {"__init__", "__pycache__", "py"}
    assert there == set(ROOMS) - NOT_BUILT


def test_the_page_of_the_architecture_lists_the_rooms_in_order():
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree = page.partition("metarl_jax/\n")[2].partition("```")[0]
    listed = [name for name in re.findall(r"^  (\w+)(?:\.py|/)", tree, re.MULTILINE)]
    assert listed == [name for name in ROOMS if name not in NOT_BUILT]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path):
    name = module_name(path)
    for imported in imports(path):
        here, there = ROOMS.index(room(name)), ROOMS.index(room(imported))
        assert there <= here, f"{name} imports {imported}: not from an earlier room"


def test_no_circles_inside_a_room():
    edges = {module_name(p): set(imports(p)) for p in FILES}
    # A package's __init__ re-exports its files: only files count here.
    files = {name for name in edges if not any(other.startswith(f"{name}.") for other in edges)}
    done = set()

    def visit(name, path):
        assert name not in path, " imports ".join([*path[path.index(name) :], name])
        if name not in done:
            for imported in edges[name] & files:
                visit(imported, [*path, name])
            done.add(name)

    for name in sorted(files):
        visit(name, [])


@pytest.mark.parametrize("path", [*FILES, PACKAGE / "__init__.py"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 400


def test_a_command_does_not_import_what_draws_a_game():
    """And who imports it after us has all of it."""
    code = """
import sys, metarl_jax.envs, metarl_jax.runs.evaluate, metarl_jax.runs.train
assert not {"pandas", "scipy.stats"} & sys.modules.keys()
import inspect
inspect.getmodule(inspect.currentframe())
assert "pandas" not in sys.modules
import gymnax.environments.misc.pong as pong, seaborn, seaborn.objects
from seaborn import *
assert seaborn.__version__ and heatmap is seaborn.heatmap is pong.sns.heatmap is sys.modules["seaborn"].heatmap
assert len(color_palette("cubehelix", 3)) == 3 and seaborn.objects.Plot
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_is_light():
    code = "import sys, metarl_jax; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "metarl_jax" in loaded
    heavy = {
        "jax",
        "flax",
        "optax",
        "gymnax",
        "distrax",
        "matplotlib",
        "numpy",
        "evosax",
        "tensorboardX",
        "PIL",
        "rich",
    }
    assert not loaded & {*heavy, "orbax", "plotly", "shtab"}


def test_type_checkers_see_the_public_names():
    """`__init__.pyi` lists what `__init__.py` resolves on first use, and from the same modules."""
    import metarl_jax as mrl

    stub = ast.parse((ROOT / "metarl_jax" / "__init__.pyi").read_text())
    names: dict[str, str] = {}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Assign):
            names[node.targets[0].id] = names[node.value.id]
        elif isinstance(node, ast.AnnAssign):
            names[node.target.id] = ""
    assert {name for name in names if not name.startswith("_")} | {"__version__"} == set(mrl.__all__)
    for name, where in names.items():
        if name in mrl._MODULES:
            assert where == f"metarl_jax.{mrl._MODULES[name]}", name
        elif name in mrl._NAMES:
            assert where == f"{mrl._NAMES[name]}.{name}", name


def test_every_benchmark_can_be_imported():
    """In a process of its own: some of them set up jax."""
    names = [f"benchmarks.{path.stem}" for path in sorted((ROOT / "benchmarks").glob("*.py"))]
    assert len(names) > 10
    subprocess.run([sys.executable, "-c", f"import {', '.join(names)}"], check=True, cwd=ROOT)
