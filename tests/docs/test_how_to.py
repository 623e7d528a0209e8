"""What docs/how-to/ says is done: programs and commands of each page run in their order, and its tables hold."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from metarl_jax.cli.main import main
from metarl_jax.cli.parser import COMMANDS, parser

FOLDER = Path(__file__).parents[2] / "docs" / "how-to"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")
GRADIENT = ["num_iterations=2", "meta_batch_size=2", "episodes_per_task=2", "horizon=5", "hidden=[4]", "eval_tasks=2"]
SINGLE = ["num_envs=2", "num_steps=8", "hidden=[4]"]
RULE = ["num_iterations=2", "num_agents=2", "num_envs=2", "num_steps=4", "width=4", "num_inner_steps=2", "lifetime=4",
        "iterations_per_call=1", "hidden=[]", "eval_updates=2"]  # fmt: skip
# What makes a command of these configurations small; what the page itself says comes after it.
SMALL = {
    "own_network.yaml": [word for word in GRADIENT if not word.startswith("hidden")],
    "trolley.yaml": ["num_iterations=2", "meta_batch_size=4", "num_minibatches=2", "size=4"],
    "ppo_cartpole": ["num_iterations=4", "iterations_per_call=2", *SINGLE],
    "lpg_tabular": RULE,
    "papers/promp_sparse_corner": [*GRADIENT, "iterations_per_call=1"],
}


def text(page):
    return (FOLDER / f"{page}.md").read_text()


def blocks(page):
    """(language, content) of every block that is not a directive or an excerpt."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text(page), flags=re.S | re.M)


def small(words):
    """The same command, small."""
    if words[0] == "train" and len(words) > 1 and not words[1].startswith("--"):
        fewer = SMALL.get(words[1], GRADIENT)
        return [*words[:2], *fewer, *[word for word in words[2:] if not word.startswith("num_iterations=")]]
    if words[0] == "sweep" and "--resume" not in words:
        method = ["--interval", "1"] if "pbt" in words else []
        return [*words, *SMALL["ppo_cartpole"], "--trials", "4" if "pbt" in words else "2", *method]
    if words[0] == "tune":
        return [*words, "--trials", "2", "num_iterations=2", "num_steps=8", "hidden=[4]", "env_options.horizon=4"]
    return words


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with trained and evaluated runs, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def train(name, *words):
    assert main(["train", "maml_ppo_point", *GRADIENT, *words, "--run-dir", f"runs/{name}"]) == 0
    assert main(["evaluate", f"runs/{name}", "--no-baselines", "--num-updates", "1"]) == 0


def run(page):
    """Run the blocks of a page; returns what its programs have defined."""
    names: dict = {}
    for language, content in blocks(page):
        if language in ("console", "text"):
            content = content.replace("\\\n", "")
        file = re.match(r"# ([\w/]+\.(?:py|yaml))\n", content)
        if file:
            Path(file[1]).write_text(content)
        elif language == "python":
            exec(compile(content, f"{page}.md", "exec"), names)  # noqa: S102
        elif language == "console":
            for words in map(shlex.split, content.splitlines()):
                assert words[0] == "metarl" and words[1] in COMMANDS, words
                assert main(small(words[1:])) == 0, words
        elif language == "text":  # takes minutes, however small
            for words in map(shlex.split, content.splitlines()):
                assert parser().parse_args(words[1:]).command == words[1]
        elif page == "many-hosts":  # sh: run by tests/distributed/test_processes.py; the others need a cluster
            for command in re.findall(r"metarl (train .*?)(?: &|\"?$)", content.replace("\\\n", ""), flags=re.M):
                assert parser().parse_args(shlex.split(command.replace("$i", "0"))).distributed
        else:
            raise AssertionError(f"{page}: a block of {language} that no test runs")
    return names


RUNS = {"trained-policy": ["mine"], "run-directory": ["mine"], "compare-runs": ["a", "b"], "report": ["a", "b"]}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page, here, capsys):
    if page == "trained-policy":
        sizes = ["num_iterations=1", "meta_batch_size=2", "num_episodes=3", "size=4", "num_minibatches=1"]
        assert main(["train", "rl2_bandit", *sizes, "--run-dir", "runs/in_context"]) == 0
    for name in RUNS.get(page, []):
        train(name, f"seed={len(name + page) + ord(name[0])}")
    names = run(page)
    judge = JUDGED.get(page)
    if judge is not None:
        judge(names)
    assert blocks(page)


def own_surrogate(names):
    import numpy as np

    exact, found, mdp, logits = (names[name] for name in ("exact", "found", "mdp", "logits"))
    np.testing.assert_allclose(found.gradient, exact.policy_gradient(mdp, logits), atol=1e-10)
    assert np.abs(found.hessian - exact.hessian(mdp, logits)).max() > 0.01


def trained_policy(names):
    assert names["data"].reward.shape == (5, 20) and names["returns"].shape == (3, 20)
    assert names["action"].shape == names["likeliest"].shape == (3, 2) and names["arrays"]


def run_directory(names):
    """The first table names what a run leaves."""
    table = text("run-directory").partition("What a row of metrics")[0]
    assert len(names["after_one_update"]) == 2 and names["scores"].shape[2] == 2
    named = set(re.findall(r"`([\w.]+)/?`", "".join(re.findall(r"^\| (`.*?) \|", table, flags=re.M))))
    assert main(["train", "maml_ppo_point", *GRADIENT, "eval_every=1", "eval_updates=1", "--run-dir", "runs/all"]) == 0
    assert main(["evaluate", "runs/all"]) == 0
    there = {
        path.name
        for path in Path("runs/all").iterdir()
        if not path.name.startswith(".") and path.suffix not in (".png", ".gif")
    }
    pictures = {"learning_curve.png", "adaptation.png", "adaptation.gif"}
    assert there <= named and named - there == {"memory.json", "parts.json", *pictures}, (there - named, named - there)
    assert all((Path("runs/all") / name).is_file() for name in pictures)


def numerics(names):
    import jax

    assert {str(leaf.dtype) for leaf in jax.tree.leaves(names["gradient"])} == {"float64"}


def own_algorithm(names):
    import jax

    state, start = names["state"], names["algo"].init(jax.random.key(0))
    trial, _ = names["algo"].collect(start.params, jax.random.key(2), names["tasks"].sample(jax.random.key(3)))
    adapted = names["algo"].adapt(start.params, trial).params
    moved = jax.tree_util.tree_map_with_path(
        lambda path, a, b: (path[-1].key == "bias") == bool((a != b).any()) or a.size == 0, adapted, start.params
    )
    assert all(jax.tree.leaves(moved)), moved
    assert jax.tree.structure(state.params) == jax.tree.structure(start.params)


def sweep_and_tune(names):
    assert names["returns"].shape == (8, 3)


JUDGED = {
    "own-surrogate": own_surrogate,
    "own-algorithm": own_algorithm,
    "trained-policy": trained_policy,
    "run-directory": run_directory,
    "sweep-and-tune": sweep_and_tune,
    "numerics": numerics,
}


def test_the_table_of_pages_is_complete():
    index = text("index")
    assert set(re.findall(r"\]\(([\w-]+)\.md\)", index)) == set(PAGES)
    assert index.split(":hidden:\n\n")[1].split("\n```")[0].split("\n") == re.findall(r"\]\(([\w-]+)\.md\)", index)


def test_no_line_of_code_is_cut_off_at_the_edge_of_a_page():
    for page in sorted(FOLDER.parent.rglob("*.md")):
        for block in re.findall(r"^```(?:python|console)\n(.*?)^```$", page.read_text(), flags=re.S | re.M):
            for line in block.splitlines():
                assert len(line) <= 88, f"{page.name}: {line}"
