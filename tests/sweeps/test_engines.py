"""Engines without a cluster: how lanes are cut into units, and what is refused."""

import importlib

import numpy as np
import pytest

from metarl_jax.cli.main import main
from metarl_jax.envs.packages import MissingPackage
from metarl_jax.options import ConfigError
from metarl_jax.sweeps import engines, units


@pytest.mark.parametrize(
    "sizes, found",
    [
        ((6, 1, 8), [[0, 1, 2, 3, 4, 5]]),
        ((11, 1, 4), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]),
        ((9, 1, 4), [[0, 1, 2, 3], [4, 5, 6, 7, 8]]),  # a last lane alone would have no axis of lanes
        ((3, 1, 1), [[0], [1], [2]]),
        ((10, 4, 2), [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 9, 9]]),  # as `over_lanes` fills up the last device
        ((5, 4, 1), [[0], [1], [2], [3], [4], [4]]),
        ((4, 2, None), [[0, 1], [2, 3]]),
    ],
)
def test_lanes_are_cut_as_one_device_or_a_host_computes_them(sizes, found):
    pieces = units.cut(*sizes)
    if sizes == (5, 4, 1):
        found = found[:-1]  # what is nothing but filling is not trained
    assert [piece.lanes.tolist() for piece in pieces] == found


def test_a_population_keeps_the_batches_of_the_whole():
    pieces = units.cut(10, 1, 4)
    found = units.of_population(pieces, 5, 10)
    assert [piece.lanes.tolist() for piece in found] == [[0, 0, 1, 2], [3, 4]]
    assert [piece.size for piece in found] == [4, 4]


def test_halves_end_at_one_lane():
    piece = units.Piece(np.array([4, 5, 6, 6]), 4)
    arrays = {"values": {"lr": np.arange(4.0)}, "seeds": np.arange(4), "states": [np.arange(8).reshape(4, 2)]}
    unit = units.Unit(program=0, config={}, piece=piece, length=1, start=0, end=1, given=None, **arrays)
    two, one = units.halves(unit)
    assert two.piece.lanes.tolist() == [4, 5] and two.piece.size == 2 and two.states[0].shape == (2, 2)
    assert one.piece.lanes.tolist() == [6] and one.values["lr"].tolist() == [2.0]
    assert units.halves(one) == [] and [u.piece.size for u in units.halves(two)] == [1, 1]


WORDS = ["sweep", "ppo_cartpole", "lr=log(1e-3,1e-1)", "--trials", "2", "--run-dir", "s"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--engine", "rai"], "engine = 'rai': must be local or ray; did you mean ray?"),
        (["--address", "a:1"], "address = a:1: is of a Ray cluster; add --engine ray"),
        (["--engine", "ray", "--address", "ray://a:1"], "address = ray://a:1: must be HOST:PORT"),
        (["--engine", "ray", "--address", "a"], "address = a: must be HOST:PORT"),
    ],
)
def test_engines_that_make_no_sense_are_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"error: {said}") and not list(tmp_path.iterdir())


def test_without_ray_the_line_says_how_to_install_it(monkeypatch):
    def gone(name, *_):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", gone)
    with pytest.raises(MissingPackage, match=r"^--engine ray needs the package ray: pip install 'metarl_jax\[ray\]'$"):
        engines.check("ray", None)


def test_versions_that_differ_are_refused():
    with pytest.raises(ConfigError, match="jax is .* there and 0.1 here; install the same on every machine"):
        engines.on_worker(len, [], {**engines.versions(), "jax": "0.1"}, {})
    assert engines.on_worker(len, [1], engines.versions(), {}) == 1
