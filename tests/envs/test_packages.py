"""Optional packages: one line that says what needs them and the command that installs them."""

import sys

import pytest

from metarl_jax.envs import make
from metarl_jax.envs.packages import MissingPackage, package

NEED = {
    "HalfCheetahDir-v0": ("gymnasium", "robots"),
    "AntGoal-v0": ("mujoco", "robots"),
    "MetaWorld:ML1-reach": ("mujoco", "metaworld"),
    "MetaWorld:ML10": ("mujoco", "metaworld"),
    "XLand-MiniGrid:R1-9x9": ("xminigrid", "xland"),
    "CraftaxClassic-v0": ("craftax", "craftax"),
}


@pytest.mark.parametrize("name", NEED)
def test_a_family_whose_package_is_missing(name, monkeypatch):
    missing, extra = NEED[name]
    if missing == "gymnasium":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    else:
        monkeypatch.setitem(sys.modules, missing, None)
    from metarl_jax.envs import locomotion

    for made in (locomotion._ant, locomotion._cheetah):  # by other tests
        made.cache_clear()
    with pytest.raises(MissingPackage, match=rf"needs the package {missing}: pip install 'metarl_jax\[{extra}\]'$"):
        make(name)


def test_a_package_that_is_there_but_broken_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_here.py").write_text("import something_else_that_is_missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="something_else_that_is_missing") as error:
        package("half_here", "robots", "a test")
    assert not isinstance(error.value, MissingPackage)


def test_what_a_package_prints_while_it_is_imported_is_dropped(tmp_path, monkeypatch, capsys):
    (tmp_path / "talkative.py").write_text("print('hello')\nvalue = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package("talkative", "robots", "a test").value == 1
    assert capsys.readouterr().out == ""
