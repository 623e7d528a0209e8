"""`metarl sweep`: ranges, programs that hold many settings, halving, divergence, resumption."""

import csv
import json
import math

import numpy as np
import pytest

from metarl_jax.cli.main import main
from metarl_jax.options import ConfigError
from metarl_jax.runs import config, train
from metarl_jax.runs.build import build
from metarl_jax.sweeps import run, search_space

BASE = {
    "algorithm": "ppo", "env": "BernoulliBandit-v0", "env_options": {"num_arms": 3}, "num_iterations": 6,
    "checkpoint_every": 2, "iterations_per_call": 2, "num_envs": 4, "num_steps": 8, "num_minibatches": 1,
    "num_epochs": 1, "hidden": [4], "anneal_lr": False, "num_seeds": 2,
}  # fmt: skip


def base(**changes):
    return config.validate({**BASE, **changes})


def quiet(_):
    pass


def table(directory):
    with open(directory / "table.csv") as file:
        return {int(row["trial"]): row for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    "override, said",
    [
        ("lr=log(0,1)", "lr = log(0,1): a log range must lie above zero"),
        ("lr=log(1e-1,1e-5)", "lr = log(1e-1,1e-5): is empty or reversed"),
        ("lr=log(1,1)", "is empty or reversed"),
        ("lr=log(1e-5)", "must have two numbers, log(low,high)"),
        ("lr=normal(0,1)", "must be log(low,high), uniform(low,high) or a list"),
        ("gamma=uniform(.9,1.5)", "gamma = 1.5"),
        ("gamma=[]", "gamma = []: an empty list"),
        ("gamma=[.9,2]", "gamma = 2"),
        ("gama=[.9]", "did you mean gamma?"),
        ("num_seeds=[1,2]", "num_seeds: is one for the whole sweep"),
        ("num_epochs=uniform(1,4)", "num_epochs"),
        ("env=log(1,2)", "env = 1.0: must be text"),
    ],
)
def test_ranges_that_make_no_sense_are_one_line(override, said):
    with pytest.raises(ConfigError) as error:
        run.make(base(), [override], num_trials=4)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["clip_eps=uniform(.1,.4)", "clip_eps=[.2,.4]"])
def test_a_key_that_the_surrogate_does_not_read_is_refused(override):
    other = config.validate({**base().model_dump(), "surrogate": "lvc"})
    with pytest.raises(ConfigError, match="clip_eps = .*: is for surrogate = ppo or smooth_ppo, not surrogate = lvc"):
        run.make(other, [override], num_trials=4)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"method": "radnom", "num_trials": 2}, "method = 'radnom': must be one of random"),
        ({"method": "grid", "num_trials": 2}, "a grid has as many as its values make"),
        ({}, "trials = None: random needs a number"),
        ({"num_trials": 0}, "trials = 0"),
    ],
)
def test_ways_to_choose_that_make_no_sense_are_one_line(options, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        run.make(base(), ["gamma=[.9,.99]"], **options)


def test_points_lie_where_they_should():
    plain = base().model_dump()
    lr, gamma = (search_space.parse(o, plain) for o in ("lr=log(1e-4,1e-1)", "gamma=[.9,.95,.99]"))
    grid = search_space.points([lr, gamma], "grid", None, 4, 0)
    assert len(grid) == 12
    np.testing.assert_allclose(sorted({p["lr"] for p in grid}), [1e-4, 1e-3, 1e-2, 1e-1], rtol=1e-9)
    for method in ("random", "sobol", "halving"):
        points = search_space.points([lr, gamma], method, 256, 0, 0)
        exponents = np.log10([p["lr"] for p in points])
        assert exponents.min() >= -4 and exponents.max() < -1
        assert abs(exponents.mean() + 2.5) < (0.01 if method == "sobol" else 0.2)  # even in the logarithm
        assert {p["gamma"] for p in points} == {0.9, 0.95, 0.99}
        assert points == search_space.points([lr, gamma], method, 256, 0, 0)


def test_a_list_is_told_from_a_value_that_is_a_list():
    plain = base().model_dump()
    told = {o: search_space.is_dimension(o, plain) for o in (
        "hidden=[8,8]", "hidden=[[8],[8,8]]", "lr=[1e-3]", "lr=1e-3", "lr=log(1e-3,1)",
    )}  # fmt: skip
    assert list(told.values()) == [False, True, True, False, True]


def test_a_lane_repeats_the_run_that_it_stands_for(tmp_path):
    made = run.make(base(), ["lr=[.001,.03]", "gamma=uniform(.5,.9)"], num_trials=3)
    assert made.traced == ("lr", "gamma")
    run.run(made, tmp_path / "sweep", report=quiet)
    curves = np.load(tmp_path / "sweep/curves.npz")["score"]  # [trial, seed, iteration]
    for trial in (0, 2):
        job = build(config.validate({**BASE, **made.settings[trial]}))
        train.train(job, tmp_path / str(trial), report=quiet)
        rows = [json.loads(line) for line in (tmp_path / str(trial) / "metrics.jsonl").read_text().splitlines()]
        np.testing.assert_allclose(curves[trial].T, [row["episode_return"] for row in rows], rtol=1e-5)


def test_the_task_can_differ_between_lanes(tmp_path):
    """The arms pay what `task_seed` says: a landscape over settings and tasks is one program."""
    made = run.make(base(), ["task_seed=[3,5,7]", "lr=[.03]"], method="grid")
    assert made.traced == ("task_seed", "lr")
    run.run(made, tmp_path / "sweep", report=quiet)
    curves = np.load(tmp_path / "sweep/curves.npz")["score"]
    job = build(base(task_seed=5, lr=0.03))
    train.train(job, tmp_path / "alone", report=quiet)
    rows = [json.loads(line) for line in (tmp_path / "alone/metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(curves[1].T, [row["episode_return"] for row in rows], rtol=1e-5)
    assert not np.allclose(curves[0], curves[2])


def test_static_keys_make_programs_of_their_own(tmp_path):
    said = []
    made = run.make(base(), ["lr=log(1e-3,1e-1)", "hidden=[[4],[4,4]]", "num_epochs=[1,2]"], num_trials=4)
    assert made.traced == ("lr",)
    rows = run.run(made, tmp_path, report=said.append)
    compiled = [line for line in said if "compiled" in line]
    assert len(compiled) == len({(s["hidden"], s["num_epochs"]) for s in made.settings}) > 2
    assert len(rows) == 4 and all(math.isfinite(row["score"]) for row in rows)
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_what_does_not_fit_together_is_refused_before_compiling():
    with pytest.raises(ConfigError, match="num_minibatches = 5"):
        run.make(base(), ["num_minibatches=[1,5]"], method="grid")


def test_divergence_stays_where_it_is(tmp_path):
    said = []
    alone = run.run(run.make(base(), ["lr=[.01]"], method="grid"), tmp_path / "alone", report=quiet)
    made = run.make(base(max_grad_norm=1e30), ["lr=[1e38,.01]", "max_grad_norm=[.5]"], method="grid")
    rows = run.run(made, tmp_path / "both", report=said.append)
    assert [row["lr"] for row in rows] == [0.01, 1e38]  # ranked last
    assert rows[1]["diverged_seeds"] == 2 and rows[1]["diverged_at"] <= 6
    assert rows[0]["score"] == pytest.approx(alone[0]["score"], rel=1e-6) and not rows[0]["diverged_seeds"]
    assert any("1 of 2 trials became NaN or infinite" in line for line in said)
    with pytest.raises(train.RunFailed, match="every trial"):
        run.run(run.make(base(), ["lr=[1e38]"], method="grid"), tmp_path / "none", report=quiet)


@pytest.mark.parametrize("method", ["random", "halving"])
def test_a_sweep_that_was_cut_off_goes_on_to_the_same_table(tmp_path, method):
    chosen = base(num_iterations=18, checkpoint_every=6)
    made = run.make(chosen, ["lr=log(1e-3,1e-1)", "num_epochs=[1,2]"], method=method, num_trials=6)
    run.run(made, tmp_path / "whole", report=quiet)

    class Stop(Exception):
        pass

    def stop_at(line_part, times):
        seen = []

        def report(line):
            seen.extend([line] if line_part in line else [])
            if len(seen) == times:
                raise Stop

        return report

    resume = False
    for times in (1, 2, 1):  # compiled, then the next program, ...
        try:
            run.run(made, tmp_path / "part", resume=resume, report=stop_at("compiled", times))
        except Stop:
            resume = True
    run.run(made, tmp_path / "part", resume=True, report=quiet)
    assert (tmp_path / "part/table.csv").read_bytes() == (tmp_path / "whole/table.csv").read_bytes()
    with pytest.raises(ConfigError, match="is not empty; add --resume"):
        run.run(made, tmp_path / "part", report=quiet)
    with pytest.raises(ConfigError, match="holds another sweep"):
        other = run.make(chosen, ["lr=log(1e-3,1e-1)"], method=method, num_trials=6)
        run.run(other, tmp_path / "part", resume=True, report=quiet)


def test_halving_goes_on_with_the_best_third(tmp_path):
    changes = {"num_iterations": 18, "checkpoint_every": 6}
    made = run.make(base(**changes), ["lr=log(1e-3,1e-1)"], method="halving", num_trials=9)
    assert made.rungs == [2, 6, 18]
    rows = run.run(made, tmp_path / "halving", report=quiet)
    assert [row["iterations"] for row in rows] == [18] + [6] * 2 + [2] * 6
    whole = run.make(base(**changes), ["lr=log(1e-3,1e-1)"], num_trials=9)
    assert whole.settings == made.settings
    run.run(whole, tmp_path / "whole", report=quiet)
    ours, theirs = (np.load(tmp_path / d / "curves.npz")["score"] for d in ("halving", "whole"))
    trained = np.isfinite(ours)
    assert trained.sum() == 2 * (18 + 2 * 6 + 6 * 2)
    np.testing.assert_allclose(ours[trained], theirs[trained], rtol=1e-5)
    early = {t: np.mean(theirs[t, :, :2]) for t in range(9)}
    kept = {row["trial"] for row in rows if row["iterations"] > 2}
    assert min(early[t] for t in kept) >= max(early[t] for t in early if t not in kept)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in BASE.items()))
    words = ["sweep", "c.yaml", "lr=log(1e-3,1e-1)", "gamma=[.5,.9]", "hidden=[5]", "--trials", "4", "--seeds", "1"]
    assert main([*words, "--run-dir", "s"]) == 0, capsys.readouterr().err
    shown = capsys.readouterr()
    assert "4 trials x 1 seed(s); one program varies lr, gamma" in shown.err
    assert shown.out.splitlines()[0].split()[:3] == ["trial", "lr", "gamma"] and shown.out.splitlines()[-1] == "s"
    assert len(table(tmp_path / "s")) == 4
    assert main([*words, "--run-dir", "s"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*words, "--run-dir", "s", "--resume"]) == 0
    assert main(["sweep", "c.yaml", "lr=.1", "--trials", "2"]) == 2
    assert "nothing to sweep" in capsys.readouterr().err


ANY = {
    "maml": [
        "env=PointNavigation-v0",
        "meta_batch_size=2",
        "episodes_per_task=2",
        "horizon=4",
        "hidden=[4]",
        "init_std=0.02",
    ],
    "supervised_maml": ["env=XOR-v0", "meta_batch_size=2", "hidden=[4]"],
    "rl2": ["env=BernoulliBandit-v0", "num_episodes=3", "meta_batch_size=4", "num_minibatches=2", "size=4"],
}
RATES = {"maml": "inner_lr", "supervised_maml": "inner_lr", "rl2": "lr"}


@pytest.mark.parametrize("name", [n if n == "rl2" else pytest.param(n, marks=pytest.mark.slow) for n in ANY])
def test_any_algorithm_can_be_swept(name, tmp_path):
    (tmp_path / "c.yaml").write_text(f"algorithm: {name}\nenv: none\nnum_iterations: 2\n")
    made = run.make(config.load(tmp_path / "c.yaml", ANY[name]), [f"{RATES[name]}=log(1e-3,1e-1)"], num_trials=3)
    rows = run.run(made, tmp_path / "s", report=quiet)
    assert len({row["score"] for row in rows}) == 3
    best = max if name != "supervised_maml" else min
    assert rows[0]["score"] == best(row["score"] for row in rows)


def test_a_sweep_has_no_rows_to_log():
    with pytest.raises(ConfigError, match=r"^log_to = a.b:c, wandb: a sweep keeps scores only; leave it out$"):
        run.make(config.validate({**BASE, "log_to": ["a.b:c", "wandb"]}), ["gamma=[.9,.99]"], num_trials=4)
