"""The table of worlds, at a size that means nothing: cells train, go on, and are judged by NumPy's arithmetic."""

import numpy as np
import pytest

from metarl_jax.reproductions import REPRODUCTIONS, choose_cells, reproduce, worlds
from metarl_jax.runs.build import build

TINY = {"num_seeds": 2, "num_iterations": 1, "iterations_per_call": 1, "meta_batch_size": 2, "eval_tasks": 3}
BY_GRADIENT = {"episodes_per_task": 2, "hidden": [4]}
ON_TRIALS = {"num_minibatches": 1, "num_epochs": 1, "size": 4, "eval_episodes": 2}


@pytest.fixture
def small(monkeypatch):
    real = worlds.configuration

    def configuration(world, method):
        sizes = ON_TRIALS if method == "rl2" else BY_GRADIENT
        return real(world, method).model_copy(update={**TINY, **sizes, "env_options": {"horizon": 4}})

    monkeypatch.setattr(worlds, "configuration", configuration)


def test_cells_train_their_rival_and_are_judged(tmp_path, small):
    result = reproduce("worlds", tmp_path, lambda _: None, ("recommender-rl2",))
    assert not (tmp_path / "cells" / "recommender-ppo.json").exists(), (
        "the rival is trained; its cell was not asked for"
    )
    result = reproduce("worlds", tmp_path, lambda _: None, ("recommender-ppo", "recommender-promp"))
    claims = {claim["what"]: claim for claim in result["claims"]}
    for method in ("promp", "rl2"):
        with np.load(tmp_path / f"recommender-{method}" / "scores.npz") as ours:
            run = ours["run"].astype(float)
        with np.load(tmp_path / "recommender-ppo" / "scores.npz") as theirs:
            plain = theirs["run"].astype(float).mean()
        before, after = run[:, :, 0].mean(), run[:, :, -1].mean()
        found = [claims[f"recommender, {method}: {what}"] for what in ("gain by adapting", "more than multi-task PPO")]
        np.testing.assert_allclose([claim["ours"] for claim in found], [after - before, after - plain], atol=1e-6)
        assert all(claim["passed"] == (claim["interval"][0] > 0) for claim in found)
    assert claims["recommender, oracle: return"]["rule"] == "none"
    assert {
        f"recommender, Thompson sampling, in trials: return of the {which} episode" for which in ("first", "last")
    } <= set(claims)
    assert (tmp_path / "worlds-recommender.png").stat().st_size > 5000


@pytest.mark.parametrize("world", worlds.WORLDS)
def test_the_rival_is_the_same_network_on_as_many_steps(world):
    rival, beside = (worlds.configuration(world, method) for method in (worlds.PPO, worlds.BESIDE))
    assert build(rival).work_per_iteration == build(beside).work_per_iteration
    same = ("num_seeds", "num_iterations", "hidden", "outer_lr", "outer_epochs", "env_options", "task_seed")
    assert rival.num_inner_steps == 0 and all(getattr(rival, k) == getattr(beside, k) for k in same)
    assert choose_cells("worlds", world) == next(g for g in REPRODUCTIONS["worlds"].together if g[0].startswith(world))
