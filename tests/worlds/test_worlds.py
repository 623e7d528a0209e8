"""The table of worlds, at a size that means nothing: cells train, go on, and are judged by NumPy's arithmetic."""

import numpy as np
import pytest

from metarl_jax.reproductions import REPRODUCTIONS, choose_cells, reproduce, worlds
from metarl_jax.runs.build import build

TINY = {"num_seeds": 2, "num_iterations": 1, "iterations_per_call": 1, "meta_batch_size": 2, "eval_tasks": 3}
BY_GRADIENT = {"episodes_per_task": 2, "hidden": [4]}
ON_TRIALS = {"num_minibatches": 1, "num_epochs": 1, "size": 4, "eval_episodes": 2}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def small(monkeypatch):
    real = worlds.configuration

    def configuration(world, method):
        sizes = ON_TRIALS if method == "rl2" else BY_GRADIENT
        return real(world, method).model_copy(update={**TINY, **sizes, "env_options": {"horizon": 4}})

    monkeypatch.setattr(worlds, "configuration", configuration)


def test_cells_train_their_rival_go_on_and_draw(tmp_path, small):
    result = reproduce("worlds", tmp_path, lambda _: None, ("recommender-rl2",))
    assert not (tmp_path / "cells" / "recommender-ppo.json").exists(), (
        "the rival is trained; its cell was not asked for"
    )
    claims = {claim["what"]: claim["ours"] for claim in result["claims"]}
    names = ("random policy", "oracle", "Thompson sampling", "greedy filter")
    assert {f"recommender, {name}, in trials: return of the last episode" for name in names[2:]} <= set(claims)
    with np.load(tmp_path / "recommender-rl2" / "scores.npz") as ours:
        np.testing.assert_allclose(claims["recommender, rl2: return after adaptation"], ours["run"][:, :, -1].mean())
    assert (tmp_path / "worlds-recommender.png").stat().st_size > 5000
    said = []
    claims = {claim["what"] for claim in reproduce("worlds", tmp_path, said.append, ("recommender-ppo",))["claims"]}
    assert "nothing left to do" in said and {f"recommender, {name}: return" for name in names} <= claims


def test_a_method_is_judged_by_each_task_of_each_seed(rng):
    run, rival = rng.normal(size=(3, 8, 2, 5)), rng.normal(size=(3, 8, 1, 5))
    run[:, :, 1] += 2.0 * np.arange(8)[:, None]  # the tasks differ, and gain by different amounts
    before, after, gain, more = worlds._judged("a, b", run, rival)
    np.testing.assert_allclose([before.ours, after.ours], run.mean(axis=(0, 1, 3)))
    np.testing.assert_allclose([gain.ours, more.ours], [after.ours - before.ours, after.ours - rival.mean()])
    assert gain.passed and more.passed and before.rule == after.rule == "none"
    assert [c.passed for c in worlds._judged("a, b", run[:, :, ::-1], rival)[2:]] == [False, False]


@pytest.mark.parametrize("world", worlds.WORLDS)
def test_the_rival_is_the_same_network_on_at_least_as_many_steps(world):
    rival, beside = (worlds.configuration(world, method) for method in (worlds.PPO, worlds.BESIDE))
    assert build(rival).work_per_iteration == build(beside).work_per_iteration
    assert rival.num_iterations == worlds.LONGER[world] * beside.num_iterations >= beside.num_iterations
    same = (
        "num_seeds",
        "hidden",
        "outer_lr",
        "outer_epochs",
        "env_options",
        "task_seed",
        "activation",
        "channels",
        "kernel_size",
        "stride",
    )
    assert rival.num_inner_steps == 0 and all(getattr(rival, k) == getattr(beside, k) for k in same)
    assert choose_cells("worlds", world) == next(g for g in REPRODUCTIONS["worlds"].together if g[0].startswith(world))


def test_who_is_told_what_actions_do_plays_the_same_tasks():
    told, beside = (build(worlds.configuration("games", method)) for method in (worlds.TOLD, worlds.BESIDE))
    assert told.config.num_iterations == beside.config.num_iterations
    known, hidden = told.evaluation_tasks(40), beside.evaluation_tasks(40)
    np.testing.assert_array_equal(known.sticky, hidden.sticky)
    assert (known.actions == np.arange(4)).all() and len(np.unique(hidden.actions, axis=0)) > 10
    assert np.ptp(hidden.sticky) > 0.2
