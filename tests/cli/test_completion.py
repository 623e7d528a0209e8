"""What `metarl completion` writes is read by a shell and completes commands."""

import shutil
import subprocess
import sys

import pytest

from metarl_jax.cli.main import main
from metarl_jax.cli.parser import COMMANDS

pytest.importorskip("shtab")


def test_bash_completes_commands_and_options(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "metarl.bash"
    script.write_text(capsys.readouterr().out)
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")

    def completed(*words):
        ask = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_metarl; "
        done = subprocess.run(
            ["bash", "-c", ask + 'printf "%s\\n" "${COMPREPLY[@]}"'], capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert set(completed("metarl", "''")) >= set(COMMANDS)
    assert completed("metarl", "eval") == ["evaluate"]
    assert completed("metarl", "reproduce", "two") == ["two-colours"] and "fish" in completed(
        "metarl", "completion", "''"
    )
    assert "--run-dir" in completed("metarl", "train", "--r") and "--resume" in completed("metarl", "train", "--r")


def test_fish_completes_commands_options_and_names(tmp_path, capsys):
    assert main(["completion", "fish"]) == 0
    script = tmp_path / "metarl.fish"
    script.write_text(capsys.readouterr().out)
    if shutil.which("fish") is None:
        pytest.skip("there is no fish")

    def completed(line):
        ask = ["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"]
        done = subprocess.run(ask, capture_output=True, text=True, check=True)
        return [found.split("\t")[0] for found in done.stdout.splitlines()]

    assert set(completed("metarl ")) >= set(COMMANDS)
    assert set(completed("metarl train --r")) == {"--run-dir", "--resume"}
    assert completed("metarl reproduce two") == ["two-colours"]


def test_a_shell_that_is_none_is_one_line(capsys):
    assert main(["completion", "bsh"]) == 2
    assert (
        capsys.readouterr().err == "error: completion bsh: must be one of bash, zsh, fish, tcsh; did you mean bash?\n"
    )


def test_without_the_package_there_is_a_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == "error: completion: needs shtab; pip install 'metarl_jax[completion]'\n"
