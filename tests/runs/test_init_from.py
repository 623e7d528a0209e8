"""`init_from`: a run starts from what another has learned, and from nothing else."""

import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.cli.main import main
from metarl_jax.options import ConfigError
from metarl_jax.runs import states, train
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate
from metarl_jax.sweeps import lanes, pbt_run
from metarl_jax.sweeps import run as sweep

MAML = {
    "algorithm": "maml", "env": "PointNavigation-v0", "env_options": {"horizon": 4}, "hidden": [4], "num_seeds": 2,
    "meta_batch_size": 2, "episodes_per_task": 2, "num_iterations": 2, "checkpoint_every": 1, "outer_epochs": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    place = tmp_path_factory.mktemp("first") / "run"
    return place, train.train(build(validate(MAML)), place, report=lambda _: None)


def test_seeds_start_from_theirs_and_nothing_else_changes(first):
    place, ended = first
    job = build(validate({**MAML, "init_from": str(place), "seed": 7}))
    new = states.initial_states(job)
    started = states.with_params(job, new, states.learned_elsewhere(job))
    chex.assert_trees_all_equal(started.params, jax.tree.map(np.asarray, ended.params))
    chex.assert_trees_all_equal(started.opt_state, new.opt_state)


def test_what_a_run_does_first_is_an_iteration_from_there(first, tmp_path):
    place, ended = first
    config = validate({**MAML, "init_from": str(place), "num_iterations": 1})
    said = []
    found = train.train(build(config), tmp_path / "run", report=said.append)
    assert f"starting from what {place} has learned" in said
    job = build(config)
    begun = states.with_params(job, states.initial_states(job), jax.tree.map(jnp.array, ended.params))
    expected, _ = train.compiled_call(job, 1, begun)[0](begun, 0)
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, expected))


def test_one_seed_is_shared_and_a_resumed_run_does_not_need_the_other(first, tmp_path):
    one = tmp_path / "one"
    train.train(build(validate({**MAML, "num_seeds": 1, "num_iterations": 1})), one, report=lambda _: None)
    job = build(validate({**MAML, "init_from": str(one)}))
    given = states.learned_elsewhere(job)
    assert all(bool(jnp.all(x[0] == x[1])) for x in jax.tree.leaves(given))
    train.train(job, tmp_path / "two", report=lambda _: None)
    shutil.rmtree(one)
    longer = build(validate({**MAML, "init_from": str(one), "num_iterations": 3}))
    train.train(longer, tmp_path / "two", resume=True, report=lambda _: None)
    with pytest.raises(ConfigError, match="is not a run directory"):
        train.train(longer, tmp_path / "three", report=lambda _: None)
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize("change, said", [
    ({"hidden": [5]}, r"actor.MLP_0.Dense_0.bias is float32\[4\] there, and float32\[5\] here; the policies"),
    ({"hidden": [4, 4]}, r"has no actor.*; the algorithms and the policies must be the same"),
    ({"num_seeds": 3}, "has 2 seeds, and num_seeds = 3; make that 2 too"),
    ({"init_from": "no/where"}, "is not a run directory"),
    ({"init_from": "a" * 300}, "the name is too long"),
    ({"init_from": "a\x00b"}, "is not a run directory"),
])  # fmt: skip
def test_what_does_not_fit_is_one_line_before_anything_is_made(first, tmp_path, change, said):
    config = validate({**MAML, "init_from": str(first[0]), **change})
    with pytest.raises(ConfigError, match=said) as error:
        train.train(build(config), tmp_path / "run", report=lambda _: None)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_check_looks_at_it_and_tune_refuses_it(first, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("".join(f"{k}: {v}\n" for k, v in MAML.items()))
    assert main(["check", str(config), f"init_from={first[0]}"]) == 0
    assert main(["check", str(config), f"init_from={first[0]}", "hidden=[5]"]) == 2
    assert "the policies must be the same" in capsys.readouterr().err
    assert main(["tune", "gymnax:CartPole-v1", f"init_from={first[0]}", "--run-dir", str(tmp_path / "tune")]) == 2
    assert "cannot be set here" in capsys.readouterr().err and not (tmp_path / "tune").exists()


@pytest.mark.parametrize(("method", "of_lanes"), [("grid", [0, 1, 0, 1]), ("pbt", [0, 0, 1, 1])])
def test_every_lane_of_a_sweep_starts_from_what_its_seed_has_learned(first, tmp_path, monkeypatch, method, of_lanes):
    place, ended = first
    begun = []

    def with_params(job, new, given):
        found = states.with_params(job, new, given)
        begun.append(jax.tree.map(np.array, found.params))  # copies: the states are given away
        return found

    monkeypatch.setattr(lanes if method == "grid" else pbt_run, "with_params", with_params)
    config = validate({**MAML, "init_from": str(place)})
    asked = {"num_trials": 2, "interval": 1} if method == "pbt" else {"grid_points": 2}
    made = sweep.make(config, ["inner_lr=log(.1,.2)"], method=method, **asked)
    sweep.run(made, tmp_path / "sweep", report=lambda _: None)
    expected = jax.tree.map(lambda x: np.asarray(x)[of_lanes], ended.params)
    chex.assert_trees_all_equal(begun[0], expected)
    assert states.open_run(tmp_path / "sweep" / "best").config.init_from == str(place)


def test_a_sweep_from_a_run_that_does_not_fit_makes_nothing_and_a_resumed_one_does_not_need_it(first, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(first[0], place)
    config = validate({**MAML, "init_from": str(place)})
    wide = sweep.make(config, ["hidden=[[4],[5]]"], method="grid")
    with pytest.raises(ConfigError, match="the policies must be the same"):
        sweep.run(wide, tmp_path / "wide", report=lambda _: None)
    assert not (tmp_path / "wide").exists()
    made = sweep.make(config, ["inner_lr=[.1,.2]"], method="grid")
    rows = sweep.run(made, tmp_path / "sweep", report=lambda _: None)
    shutil.rmtree(place)
    assert sweep.run(made, tmp_path / "sweep", resume=True, report=lambda _: None) == rows
