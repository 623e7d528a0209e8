"""Whatever a user's own code raises is one line that says where; METARL_TRACEBACK shows how it came there."""

import pytest

from metarl_jax.cli.main import main

OWN = """
import metarl_jax as mrl


def environment(**options):
    return {}["no such key"]


def network(env, critic=True, fails="apply"):
    if fails == "factory":
        raise ZeroDivisionError("nothing to divide by")
    policy = mrl.networks.mlp_policy(env, critic=critic)
    if fails == "value":
        return policy._replace(value=lambda params, x: policy.value(params, x @ params["no such key"]), joint=None)
    return policy._replace(apply=lambda params, x: policy.apply(params, x @ mrl.no_such_name))


def surrogate(log_prob, batch):
    raise NotImplementedError


def optimizer(lr):
    raise RuntimeError("no optimiser")
"""


def line_of(text):
    return next(i for i, line in enumerate(OWN.splitlines(), start=1) if text in line)


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)


CASES = [
    ("ppo_cartpole", ["env=own_parts:environment"], 2, "env = 'own_parts:environment': KeyError: 'no such key'", "{}["),
    ("ppo_cartpole", ["network=own_parts:network", "network_options={fails: factory}"], 2, "ZeroDivisionError", "Zero"),
    ("ppo_cartpole", ["network=own_parts:network", "network_options={fails: value}"], 1, "KeyError: ", 'x @ params["'),
    ("ppo_cartpole", ["network=own_parts:network"], 1, "AttributeError: ", "mrl.no_such_name"),
    ("maml_ppo_point", ["inner_surrogate=own_parts:surrogate"], 1, "error: NotImplementedError (", "NotImpl"),
    ("lirpg_cartpole", ["optimizer=own_parts:optimizer"], 1, "RuntimeError: no optimiser", "RuntimeError"),
]


@pytest.mark.parametrize(("config", "change", "status", "expected", "line"), CASES)
def test_what_it_raises_is_one_line_with_its_place(own, capsys, tmp_path, config, change, status, expected, line):
    assert main(["train", config, *change, "--run-dir", "run"]) == status
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and expected in said, said
    assert f"(own_parts.py:{line_of(line)})" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", [CASES[1], CASES[4]])
def test_its_traceback_is_shown_where_it_is_asked_for(own, monkeypatch, case):
    monkeypatch.setenv("METARL_TRACEBACK", "1")
    with pytest.raises(Exception) as raised:  # noqa: PT011 (of two types)
        main(["check", case[0], *case[1]])
    assert isinstance(raised.value.__cause__ or raised.value, ZeroDivisionError | NotImplementedError)


def test_a_fault_of_the_library_keeps_its_traceback(monkeypatch):
    from metarl_jax.runs import memory

    def broken(*_):
        return {}["a fault of ours"]

    broken.__code__ = broken.__code__.replace(co_filename=memory.__file__)
    monkeypatch.setattr(memory, "check", broken)
    with pytest.raises(KeyError, match="a fault of ours"):
        main(["check", "ppo_cartpole"])
