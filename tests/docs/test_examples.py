"""The user's package in examples/ is installed, found by name and by address, trained, and found again later."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "examples" / "slide_tasks"
TINY = ["num_iterations=2", "meta_batch_size=4", "eval_tasks=2", "iterations_per_call=1"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package in it, as pip installs it."""
    folder = tmp_path_factory.mktemp("site")
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, str(PACKAGE)], check=True)
    return folder


def metarl(*words, cwd, path=()):
    """Run the command; (exit status, output, messages)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *map(str, path)])}
    command = [sys.executable, "-m", "metarl_jax.cli", *words]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_maml_with_parts_by_address(installed, tmp_path):
    """Every part is the user's; evaluation from another folder finds them by what the run remembers."""
    config = str(PACKAGE / "configs" / "maml_slide.yaml")
    status, _, said = metarl("train", config, *TINY, "--run-dir", "run", cwd=tmp_path, path=[installed])
    assert status == 0, said
    folders = json.loads((tmp_path / "run" / "parts.json").read_text())["folders"]
    assert folders == {"slide_tasks": str(installed.resolve())}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    status, out, said = metarl("evaluate", str(tmp_path / "run"), "--json", "--no-baselines", cwd=elsewhere)
    assert status == 0, said
    assert json.loads(out)["env"] == "slide_tasks.env:slide"
    status, _, said = metarl("train", "--resume", "--run-dir", str(tmp_path / "run"), cwd=elsewhere)
    assert status == 0 and "nothing left to do" in said, said


def test_rl2_by_its_published_name(installed, tmp_path):
    config = str(PACKAGE / "configs" / "rl2_slide.yaml")
    words = [*TINY, "num_minibatches=2", "num_episodes=2", "size=4"]
    status, _, said = metarl("train", config, *words, "--run-dir", "run", cwd=tmp_path, path=[installed])
    assert status == 0, said
    status, out, _ = metarl("list", cwd=tmp_path, path=[installed])
    assert status == 0 and "Slide-v0" in out and "slide_tasks.env" in out
    status, _, said = metarl("train", config, *words, "--run-dir", "other", cwd=tmp_path)
    assert status == 2 and "unknown environment 'Slide-v0'" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("env=no_such.module:f", "env = no_such.module:f: no_such.module cannot be imported"),
        ("env=slide_tasks.env:slid", "slide_tasks.env has no slid; did you mean slide?"),
        ("env=slide_tasks.env:Task", "env"),
        ("env_options.horizn=3", "has no option 'horizn'"),
        ("network=slide_tasks.networks:linear_plus_ml", "has no linear_plus_ml; did you mean linear_plus_mlp?"),
        ("network_options={widht: 3}", "network = slide_tasks.networks:linear_plus_mlp"),
        ("inner_surrogate=slide_tasks.surrogates:x", "slide_tasks.surrogates has no x"),
        ("inner_surrogate=cappd", "must be one of vpg, lvc"),
    ],
)
def test_a_part_that_does_not_fit_is_one_line(capsys, monkeypatch, tmp_path, change, words):
    from metarl_jax.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(PACKAGE))
    assert main(["train", str(PACKAGE / "configs" / "maml_slide.yaml"), change, "--run-dir", "run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and words in said, said
    assert not (tmp_path / "run").exists()
