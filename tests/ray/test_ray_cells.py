"""Cells of a reproduction as units: what a worker sends back, where it is written, what is not run again."""

import json

import pytest

from metarl_jax.cli.main import main
from metarl_jax.options import ConfigError
from metarl_jax.reproductions import Claim, on_cluster, records
from metarl_jax.reproductions.on_cluster import Cells
from metarl_jax.tuning import landscapes


class Here:
    """A cluster in this process."""

    def __init__(self):
        self.ran = []

    def describe(self):
        return "1 CPU of 1 node"

    def run(self, function, units, **_):
        for unit in units:
            self.ran.append(unit.cells)
            yield unit, function(unit)


def test_the_files_of_cells_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(on_cluster.tempfile, "gettempdir", lambda: str(tmp_path / "of_the_worker"))
    calls = []

    def run(directory, report, cells):
        calls.append(cells)
        for cell in cells:
            (directory / cell).mkdir(exist_ok=True)
            (directory / cell / "array.npy").write_bytes(b"\0\1")
            (directory / cell / ".lock").touch()
            if cell == "rl2" and len(calls) == 1:
                raise InterruptedError
            records.write(directory, cell, [Claim(cell, 1.0, None, "none", True)])

    monkeypatch.setattr(on_cluster, "function_of", lambda entry: run)
    cluster, said = Here(), []
    cells = ("promp", "rl2", "rivals")
    with pytest.raises(InterruptedError):
        on_cluster.train(Cells("halfcheetah-dir", ("rl2",)))
    assert (on_cluster._folder(Cells("halfcheetah-dir", ("rl2",))) / "rl2/array.npy").exists()  # where it goes on
    assert on_cluster.run(cluster, "halfcheetah-dir", tmp_path / "here", cells, said.append) == ()
    assert cluster.ran == [("promp", "rivals"), ("rl2",)]  # rivals use what promp has trained
    assert set(records.read(tmp_path / "here", cells)) == set(cells)
    assert (tmp_path / "here/rl2/array.npy").read_bytes() == b"\0\1" and not list(tmp_path.glob("here/*/.lock"))
    assert not list((tmp_path / "of_the_worker").iterdir()) and said[-1] == "rl2: ended, 2 of 2"
    assert on_cluster.run(cluster, "halfcheetah-dir", tmp_path / "here", cells, said.append) == ()
    assert len(cluster.ran) == 2


def test_a_cell_that_was_begun_here_is_not_written_over(tmp_path, monkeypatch):
    """Nor is another one begun before that is said; what was cut off while it was written is written again."""
    monkeypatch.setattr(on_cluster, "train", lambda unit: {f"{unit.cells[0]}/rl2.npy": b"new"})
    (tmp_path / "promp").mkdir()
    (tmp_path / "promp" / "rl2.npy").write_bytes(b"mine")
    cluster = Here()
    for cells in (("rl2", "promp"), ("rivals",)):  # which train promp
        with pytest.raises(
            ConfigError, match="cell promp: was begun in .*; go on with --engine local, or name another"
        ):
            on_cluster.run(cluster, "halfcheetah-dir", tmp_path, cells, lambda _: None)
    assert cluster.ran == [] and (tmp_path / "promp" / "rl2.npy").read_bytes() == b"mine"
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "promp.writing").touch()
    on_cluster.run(cluster, "halfcheetah-dir", tmp_path, ("promp",), lambda _: None)
    assert (tmp_path / "promp" / "rl2.npy").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "units").iterdir()] == ["promp.json"]


def test_a_table_without_records_is_gone_over_again(tmp_path, monkeypatch):
    monkeypatch.setattr(on_cluster, "train", lambda unit: {f"{unit.cells[0]}/rl2.npy": json.dumps(unit.cells).encode()})
    cells = ("n10-k5", "n10-k10")
    assert on_cluster.run(Here(), "rl2-bandits", tmp_path, cells, lambda _: None) == cells
    assert json.loads((tmp_path / "n10-k10/rl2.npy").read_text()) == ["n10-k10"]


def test_what_is_not_made_of_such_cells_is_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(
        ConfigError, match="reproduction sinusoid: is not made of cells that run apart, as learned-rules"
    ):
        on_cluster.check("sinusoid")
    pytest.importorskip("ray", reason="needs Ray: make test-ray")
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "sinusoid", "--engine", "ray"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_landscapes_are_sweeps_on_the_cluster(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(landscapes, "plan", lambda name, trials: (name, trials))
    monkeypatch.setattr(landscapes.run, "run", lambda made, place, **options: seen.append((made, options["cluster"])))
    monkeypatch.setattr(landscapes, "read", lambda directory, names: names)
    assert landscapes.make(tmp_path, ["catch", "maze"], lambda _: None, 8, "cluster") == ["catch", "maze"]
    assert seen == [(("catch", 8), "cluster"), (("maze", 8), "cluster")]
