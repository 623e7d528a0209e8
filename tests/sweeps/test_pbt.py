"""Population-based training: who copies whom, what changes, and that copies are whole."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_run import base, quiet

from metarl_jax.options import ConfigError
from metarl_jax.runs import training_loop
from metarl_jax.sweeps import pbt, run, search_space

KEY = jax.random.key(0)
LR, GAMMA = "lr=log(1e-4,1e-1)", "gamma=uniform(.5,.9)"


def dimension(text):
    return search_space.parse(text, base().model_dump())


def test_the_worst_copy_the_best_and_the_others_stay():
    fitness = jnp.asarray([3.0, -jnp.inf, 7.0, 1.0, 5.0, 2.0, 6.0, 4.0])
    drawn = np.array([np.asarray(pbt.exploit(k, fitness, 2)) for k in jax.random.split(KEY, 200)])
    assert (drawn[:, [0, 2, 4, 5, 6, 7]] == [0, 2, 4, 5, 6, 7]).all()
    for place in (1, 3):  # diverged, and the worst but that
        assert set(drawn[:, place]) == {2, 6} and 60 < (drawn[:, place] == 2).sum() < 140


@pytest.mark.parametrize("text, inside", [(LR, 0.01), (GAMMA, 0.7)])
def test_changes_are_factors_or_fresh_draws_within_the_range(text, inside):
    d = dimension(text)
    changed = np.asarray(pbt.explore(KEY, jnp.full(20_000, inside), d))
    ratio = changed / inside
    clipped = min(1.25, d.high / inside)
    multiplied = np.isclose(ratio, 0.8) | np.isclose(ratio, clipped)
    assert abs(multiplied.mean() - 0.75) < 0.02
    assert abs(np.isclose(ratio, 0.8).mean() - 0.375) < 0.02
    assert changed.min() >= d.low * 0.9999 and changed.max() <= d.high * 1.0001
    fresh = changed[~multiplied]
    middle = (d.low * d.high) ** 0.5 if d.kind == "log" else (d.low + d.high) / 2
    assert abs((fresh < middle).mean() - 0.5) < 0.03


def test_lists_change_to_neighbours():
    d = dimension("gamma=[.9,.5,.7]")
    changed = np.asarray(pbt.explore(KEY, jnp.full(4000, 0.5), d))
    assert set(np.round(changed.astype(float), 5)) == {0.5, 0.7, 0.9}
    assert (changed > 0.8).mean() == pytest.approx(0.25 / 3, abs=0.02)  # two steps away: only drawn anew


@pytest.mark.parametrize("higher", [True, False])
def test_a_round_is_training_apart_then_whole_copies(higher):
    config = base(num_iterations=4)
    dims = [dimension(LR), dimension(GAMMA)]
    values = {"lr": jnp.tile(jnp.geomspace(1e-3, 5e-2, 4), 2), "gamma": jnp.tile(jnp.linspace(0.6, 0.7, 4), 2)}
    seeds = jnp.arange(8)  # two populations of four
    init = training_loop.make_init(config)
    call = pbt.make_call(config, dims, 4, 2, 1, higher_is_better=higher)
    states, after, record = call(init(values, seeds), values, seeds, jnp.asarray(0))
    alone, score, _ = training_loop.make_call(config, 2)(init(values, seeds), values, seeds, jnp.asarray(0))
    np.testing.assert_allclose(record.score[0].reshape(8, 2), score, rtol=1e-6)
    fitness = np.asarray(score).mean(axis=1).reshape(2, 4) * (1 if higher else -1)
    np.testing.assert_allclose(record.fitness[0], fitness, rtol=1e-6)
    source = np.asarray(record.source[0])
    for p in range(2):
        worst, best = fitness[p].argmin(), fitness[p].argmax()
        expected = np.arange(4)
        expected[worst] = best
        np.testing.assert_array_equal(source[p], expected)
    lane = (source + [[0], [4]]).reshape(-1)
    for ours, theirs in zip(jax.tree.leaves(states), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs)[lane], rtol=1e-6)
    stayed = source.reshape(-1) == np.tile(np.arange(4), 2)
    for name, v in after.items():
        np.testing.assert_array_equal(np.asarray(v)[stayed], np.asarray(values[name])[stayed])
        assert (np.asarray(v)[~stayed] != np.asarray(values[name])[lane][~stayed]).all()


def test_runs_are_kept_and_go_on_to_the_same_table(tmp_path):
    made = run.make(base(num_iterations=8), [LR, GAMMA], method="pbt", num_trials=4, interval=2)
    rows = run.run(made, tmp_path / "whole", report=quiet)
    assert len(rows) == 8 and {r["population"] for r in rows} == {0, 1}
    schedule = np.load(tmp_path / "whole/schedule.npz")
    assert schedule["lr"].shape == (4, 2, 4) and len(np.unique(schedule["lr"])) > 4
    assert (tmp_path / "whole/sweep.png").stat().st_size > 10_000

    class Stop(Exception):
        pass

    def stop(line):
        if line.startswith("4/8") or line.startswith("2/8"):
            raise Stop

    with pytest.raises(Stop):
        run.run(made, tmp_path / "part", report=stop)
    run.run(made, tmp_path / "part", resume=True, report=quiet)
    for name in ("table.csv",):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_member_that_diverges_is_replaced(tmp_path):
    changes = {"num_iterations": 8, "max_grad_norm": 1e30, "num_seeds": 1}
    made = run.make(base(**changes), ["lr=log(1e-3,1e38)"], method="pbt", num_trials=8, interval=2)
    run.run(made, tmp_path, report=quiet)
    schedule = np.load(tmp_path / "schedule.npz")
    diverged = ~np.isfinite(schedule["fitness"][:, 0])  # [interval, member]
    assert diverged[0].any() and not diverged[0].all()
    replaced = schedule["source"][:, 0] != np.arange(8)
    worst = np.flatnonzero(diverged[0])[:2]
    assert replaced[0, worst].all() and not diverged[0, schedule["source"][0, 0, worst]].any()


@pytest.mark.parametrize(
    "ranges, options, said",
    [
        ([LR], {"interval": 4}, "interval = 4: must divide num_iterations = 6"),
        ([LR], {"num_trials": 1}, "pbt needs at least 2 members"),
        ([LR, "num_epochs=[1,2]"], {}, "num_epochs = .1,2.: changes what is compiled, so it cannot evolve"),
        ([LR], {"method": "random", "interval": 2}, "is of --method pbt only"),
    ],
)
def test_mistakes_are_one_line(ranges, options, said):
    with pytest.raises(ConfigError, match=said):
        run.make(base(), ranges, **{"method": "pbt", "num_trials": 4, **options})


def test_the_record_says_what_was_asked(tmp_path):
    made = run.make(base(), [LR], method="pbt", num_trials=2, interval=3)
    run.run(made, tmp_path, report=quiet)
    assert json.loads((pathlib.Path(tmp_path) / "sweep.json").read_text())["interval"] == 3
