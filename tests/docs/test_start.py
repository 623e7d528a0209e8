"""The pages under docs/start are run: their programs in order, their commands small, their links and names checked."""

import re
import shlex
import tomllib
from pathlib import Path

import jax
import pytest

from metarl_jax.cli.main import main
from metarl_jax.cli.parser import COMMANDS

ROOT = Path(__file__).parents[2]
START = ROOT / "docs" / "start"
PAGES = ("install", "first-run", "meta-rl", "choosing", "glossary")
TINY = ["num_iterations=2", "meta_batch_size=2", "episodes_per_task=2", "horizon=5", "hidden=[4]", "eval_tasks=3"]


def text(page: str) -> str:
    return (START / f"{page}.md").read_text()


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text(page), flags=re.S)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_first_run_runs_in_the_order_of_the_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    ran = []
    for language, code in re.findall(r"```(console|python)\n(.*?)```", text("first-run"), flags=re.S):
        if language == "python":
            exec(compile(code, "first-run.md", "exec"), names)  # noqa: S102
            ran.append("python")
            continue
        for words in map(shlex.split, code.splitlines()):
            assert words[0] == "metarl"
            ran.append(words[1])
            tiny = TINY if words[1] == "train" else []
            at = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
            assert main([*words[1:at], *tiny, *words[at:]]) == 0, capsys.readouterr().err
    assert ran == ["show", "python", "train", "evaluate", "train", "compare", "runs", "python"]
    said = capsys.readouterr().out
    returns = [float(number) for number in re.findall(r"^[013] (-\d+\.\d+)$", said, flags=re.M)]
    assert len(returns) == 3 and max(returns) < 0 and returns[0] < min(returns[1:]) - 10, "the page says that it adapts"
    assert all(leaf.shape[0] == 8 for leaf in jax.tree.leaves(names["agents"].params))


def test_the_program_of_the_page_on_meta_rl_runs(capsys):
    (code,) = blocks("python", "meta-rl")
    exec(compile(code, "meta-rl.md", "exec"), {})  # noqa: S102
    assert re.search(r"\[.*\]", capsys.readouterr().out)


def test_the_commands_of_the_installation_are_there(capsys):
    makefile = (ROOT / "Makefile").read_text()
    commands = [line for block in blocks("console", "install") for line in block.replace("\\\n", "").splitlines()]
    said = "\n".join([*commands, text("install")])
    targets = set(re.findall(r"(?:^|=\S* |`)make (?:\S+=\S+ )?([a-z-]+)", said, flags=re.M))
    assert {"demo", "test", "install", "help", "distclean"} <= targets
    for target in targets:
        assert re.search(rf"^(\.PHONY: .*)?\b{target}\b.*:", makefile, flags=re.M), target
    for words in map(shlex.split, commands):
        if words[0] == "metarl" and words[1] != "--version":
            assert main(words[1:]) == 0
    assert "PointNavigation-v0" in capsys.readouterr().out


def test_every_extra_is_explained_and_no_other():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = set(re.findall(r"^\| `(\w+)` \|", text("install"), flags=re.M))
    assert rows == set(project["optional-dependencies"])
    assert project["requires-python"] == ">=3.11" and "jax>=0.10,<0.12" in project["dependencies"]


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_links_lead_somewhere(page):
    assert set(re.findall(r"`metarl (\w[\w-]*)", text(page))) <= set(COMMANDS)
    for target in re.findall(r"\]\(([^)]+)\)", text(page)):
        path, _, anchor = target.partition("#")
        there = (START / path).resolve() if path else START / f"{page}.md"
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.M)
            assert anchor in {slug(heading) for heading in headings}, target


def slug(heading: str) -> str:
    """The anchor that code-hosting sites and MyST give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_glossary_is_in_the_order_of_the_alphabet():
    words = [word.lower() for word in re.findall(r"^\| \*\*(.*?)\*\* \|", text("glossary"), flags=re.M)]
    assert len(words) > 30 and words == sorted(words)
