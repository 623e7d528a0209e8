"""What a wheel installs: the package, typed, with its configurations, whatever lies beside it."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The wheel, unpacked into a folder as pip unpacks it."""
    place = tmp_path_factory.mktemp("wheel")
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(place)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, str(ROOT)], check=True)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(place / "site")
    return place / "site"


def metarl(*words, site, cwd):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, "-m", "metarl_jax.cli", *words], cwd=cwd, env=environment,
                          capture_output=True, text=True)  # fmt: skip


def test_it_is_typed_and_holds_its_configurations(site):
    package = site / "metarl_jax"
    assert (package / "py.typed").is_file() and (package / "__init__.pyi").is_file()
    shipped = {p.relative_to(package / "configs") for p in package.glob("configs/**/*.yaml")}
    assert shipped == {p.relative_to(ROOT / "configs") for p in ROOT.glob("configs/**/*.yaml")}
    assert not (site / "tests").exists() and not (site / "configs").exists()


def test_configurations_beside_it_are_somebody_else_s(site, tmp_path):
    """A project of the user's with configs/ of its own, in which the package lies, or in which one is."""
    said = metarl("show", "maml_ppo_point", site=site, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    for project in (site, tmp_path):
        (project / "configs").mkdir()
        (project / "configs" / "maml_ppo_point.yaml").write_text("algorithm: ppo\nenv: Maze-v0\nnum_iterations: 1\n")
        (project / "configs" / "own.yaml").write_text("algorithm: ppo\nenv: Maze-v0\nnum_iterations: 1\n")
        (project / "pyproject.toml").write_text("[project]\nname = 'mine'\n")
    assert metarl("show", "maml_ppo_point", site=site, cwd=tmp_path).stdout == said.stdout
    other = metarl("show", "own", site=site, cwd=tmp_path)
    assert other.returncode == 2 and other.stderr.startswith("error: ")
    assert metarl("show", "configs/own.yaml", site=site, cwd=tmp_path).returncode == 0


def test_its_page_on_an_index_leads_nowhere_but_to_the_web(site):
    (metadata,) = site.glob("*.dist-info/METADATA")
    readme = (ROOT / "README.md").read_text()
    assert "](docs/" in readme and "<!--" in readme, "which the page must not have"
    page = metadata.read_text()
    assert "Description-Content-Type: text/markdown" in page
    assert not re.findall(r"\]\((?!https?:)", page)
    assert "<!--" not in page and "Left: the meta-learned policy" not in page
    assert "make demo" in page and "| before adaptation |" in page and "Six short programs" in page


# --- what stands beside the package ----------------------------------------------------------------------


def test_the_citation_is_of_this_version():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert found["version"] == PROJECT["version"] and found["license"] == PROJECT["license"]
    assert found["title"] == PROJECT["name"] and found["cff-version"] == "1.2.0"


def test_the_workflow_runs_what_ci_runs():
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["all"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"] and os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_workflow_runs_the_whole_matrix():
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["versions"]
    pairs = {f"{row['python']}-{row['jax']}" for row in job["strategy"]["matrix"]["include"]}
    assert pairs == set(re.search(r"^MATRIX := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())
    known = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c}
    assert known == {pair.partition("-")[0] for pair in pairs}


def test_the_container_copies_what_is_there():
    lines = (ROOT / "Containerfile").read_text()
    copied = [word for line in re.findall(r"^COPY --chown=1000 (.*)$", lines, re.M) for word in line.split()[:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert "requirements.lock" in copied and "--require-hashes" in lines
    assert "--uid 1000 " in lines and "\nUSER 1000\n" in lines
