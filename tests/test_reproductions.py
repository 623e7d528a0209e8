"""`metarl reproduce`: the list, the verdict, the exit status, the JSON; and that every entry has what it needs."""

import importlib
import json
import types

import pytest

from metarl_jax import cli, reproductions
from metarl_jax.reproductions import NO_RULE, REPRODUCTIONS, Claim, Reproduction


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_every_entry_can_be_run_and_says_what_it_costs(name):
    entry = REPRODUCTIONS[name]
    assert callable(importlib.import_module(entry.module).run)
    assert any(unit in entry.cpu for unit in ("second", "minute")) and entry.gpu and entry.seeds >= 1


def test_the_list_shows_costs_without_starting_anything(capsys):
    assert cli.main(["reproduce", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and entry.cpu in shown for name, entry in REPRODUCTIONS.items())


def test_a_misspelt_name_is_one_line(capsys):
    assert cli.main(["reproduce", "sinusod"]) == 2
    assert "did you mean sinusoid?" in capsys.readouterr().err


@pytest.mark.parametrize("ours, status", [(1.0, 0), (0.0, 1)])
def test_the_verdict_is_that_of_all_claims(monkeypatch, tmp_path, capsys, ours, status):
    def run(directory, report):
        return [
            Claim("a number", ours, (0.5, 1.5), ">= 0.9", ours >= 0.9, published=1.1, optimum=2.0),
            Claim("another", 3.0, None, NO_RULE, True),
        ]

    monkeypatch.setitem(REPRODUCTIONS, "probe", Reproduction("title", "paper", "probe", 1, "1 second", "none"))
    monkeypatch.setattr(reproductions.importlib, "import_module", lambda name: types.SimpleNamespace(run=run))
    assert cli.main(["reproduce", "probe", "--run-dir", str(tmp_path / "run"), "--output", str(tmp_path)]) == status
    shown = capsys.readouterr().out
    assert ("passed" in shown) == (status == 0) and ("FAIL" in shown) == (status == 1)
    saved = json.loads((tmp_path / "probe.json").read_text())
    assert saved["passed"] == (status == 0) and saved["claims"][0]["optimum"] == 2.0
    assert saved["command"] == "metarl reproduce probe" and saved["versions"]["jax"]
