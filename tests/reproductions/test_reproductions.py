"""`metarl reproduce`: the list, the verdict, the exit status, the JSON; and that every entry has what it needs."""

import importlib
import json
import types

import numpy as np
import pytest

from metarl_jax import reference, reproductions
from metarl_jax.cli.main import main
from metarl_jax.reproductions import (
    NO_RULE,
    REPRODUCTIONS,
    Claim,
    Reproduction,
    cells,
    choose_cells,
    locomotion,
    meta_world,
    rl2_bandits,
)


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_every_entry_can_be_run_and_says_what_it_costs(name):
    entry = REPRODUCTIONS[name]
    assert callable(reproductions.function_of(entry))
    assert any(unit in entry.cpu for unit in ("second", "minute")) and entry.gpu and entry.seeds >= 1


def test_the_list_shows_costs_without_starting_anything(capsys):
    assert main(["reproduce", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and entry.cpu in shown for name, entry in REPRODUCTIONS.items())


def test_a_misspelt_name_is_one_line(capsys):
    assert main(["reproduce", "sinusod"]) == 2
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
    assert main(["reproduce", "probe", "--run-dir", str(tmp_path / "run"), "--output", str(tmp_path)]) == status
    shown = capsys.readouterr().out
    assert ("passed" in shown) == (status == 0) and ("FAIL" in shown) == (status == 1)
    saved = json.loads((tmp_path / "probe.json").read_text())
    assert saved["passed"] == (status == 0) and saved["claims"][0]["optimum"] == 2.0
    assert saved["command"] == "metarl reproduce probe" and saved["versions"]["jax"]


@pytest.mark.parametrize("name", [name for name, entry in REPRODUCTIONS.items() if entry.cells])
def test_the_list_knows_the_cells_of_the_tables(name):
    entry = REPRODUCTIONS[name]
    assert set(entry.chosen) <= set(entry.cells)
    if ":" not in entry.module:
        assert tuple(importlib.import_module(entry.module).CELLS) == entry.cells


@pytest.mark.parametrize("name", locomotion.FAMILIES)
def test_every_cell_of_a_walking_robot_has_its_number_of_iterations(name):
    cells = [cell for cell in REPRODUCTIONS[name].cells if cell != locomotion.RIVALS]
    assert cells and all((name, cell) in locomotion.ITERATIONS for cell in cells)


def test_ml10_has_a_cell_a_method():
    assert REPRODUCTIONS["meta-world-ml10"].cells == tuple(meta_world.METHODS)


def test_cells_are_named_by_their_beginnings():
    assert choose_cells("rl2-bandits", "n10") == ("n10-k5", "n10-k10", "n10-k50")
    assert choose_cells("rl2-bandits", "n500-k5, n10-k50") == ("n10-k50", "n500-k5")
    assert choose_cells("rl2-bandits", None) == REPRODUCTIONS["rl2-bandits"].chosen
    assert choose_cells("rl2-tabular-mdps", "all") == ("n10", "n25", "n50", "n75", "n100")
    assert choose_cells("sinusoid", None) == ()


@pytest.mark.parametrize(
    "name, asked, said",
    [
        ("rl2-bandits", "n10-k6", "cells = 'n10-k6': must be all, or of n10-k5"),
        ("rl2-bandits", "n10-k6", "did you mean n10-k"),
        ("rl2-bandits", "n10,,", "cells = ''"),
        ("sinusoid", "n10", "cells = 'n10': sinusoid has none"),
    ],
)
def test_cells_that_there_are_not_are_one_line(capsys, name, asked, said):
    assert main(["reproduce", name, "--cells", asked]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1


def test_what_was_measured_is_kept_whole_or_not_at_all(tmp_path):
    path = tmp_path / "cell" / "row.npy"

    def broken():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cells.kept(path, broken)
    assert not path.exists()
    made = cells.kept(path, lambda: np.arange(3.0))
    np.testing.assert_array_equal(cells.kept(path, broken), made)


def test_agreement_is_judged_by_both_errors():
    totals = np.random.default_rng(0).normal(5.0, 1.0, 1000)
    totals += 5.0 - totals.mean()
    reach = 4 * (1 / 1000 + 1 / 1000 + 0.01 / 12) ** 0.5  # about .21
    assert cells.agreement("x", totals, 5.0 + 0.9 * reach).passed
    assert not cells.agreement("x", totals, 5.0 + 1.1 * reach).passed


def test_a_cell_of_the_table_of_bandits(monkeypatch, tmp_path):
    """What a cell reports, with few tasks and without training: RL2 plays greedily here."""
    rows = {
        "random": (lambda _: reference.random_arms(5), [None]),
        "UCB1": (lambda c: reference.ucb1(5, c), np.asarray([0.0, 0.1, 1.0])),
    }
    monkeypatch.setattr(rl2_bandits, "strategies", lambda cell: rows)
    monkeypatch.setattr(rl2_bandits, "NUM_TASKS", {10: 500})
    monkeypatch.setattr(rl2_bandits, "CHOICE_TASKS", 250)

    def trained(path, overrides, directory, num_tasks, report):
        assert path.is_file() and overrides == ["env_options.num_arms=5", "num_seeds=3"] and num_tasks == 100_000
        return np.stack([np.full((500, 10), 0.664), np.full((500, 10), 0.5)])

    monkeypatch.setattr(rl2_bandits, "trained", trained)
    claims = {c.what: c for c in rl2_bandits.run(tmp_path, lambda _: None, ("n10-k5",))}
    assert claims["n=10, k=5: random"].passed and claims["n=10, k=5: random"].published == 5.0
    learned = claims["n=10, k=5: RL2"]
    assert learned.ours == pytest.approx(5.82) and learned.rule == ">= 6.62" and not learned.passed
    assert learned.optimum == pytest.approx(6.659988, abs=1e-6)
    assert claims["n=10, k=5: RL2, worst of 2 seeds"].ours == pytest.approx(5.0)
    ucb1, limit = claims["n=10, k=5: UCB1"].ours, claims["n=10, k=5: finite-horizon Gittins index"].ours
    assert 6.2 < ucb1 < limit + 0.2 < 7.1
    assert (tmp_path / "rl2-bandits.png").stat().st_size > 10_000


@pytest.mark.parametrize("method", ["rl2", "varibad"])
def test_a_shipped_configuration_is_the_cell_that_was_measured(method):
    from metarl_jax.reproductions import locomotion
    from metarl_jax.runs import config

    cell = locomotion.configuration("halfcheetah-dir", method)
    shipped = config.load(config.shipped_config(f"{method}_halfcheetah_dir"))
    assert shipped.model_copy(update={"num_seeds": locomotion.SEEDS}) == cell
