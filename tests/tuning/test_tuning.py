"""The learned hyperparameter optimiser: its data, its networks, what it proposes, and the searches beside it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.cli.main import main
from metarl_jax.runs import config, training_loop
from metarl_jax.sweeps import run
from metarl_jax.tuning import landscapes, posterior, search_methods, tune
from metarl_jax.tuning import learned_optimizer as optimizer
from metarl_jax.tuning.landscape_families import FAMILIES
from metarl_jax.tuning.performance_predictor import STEP, History, Predictor, Proposer, in_own_units
from metarl_jax.tuning.task_features import NAMES, describe

TINY = ["num_iterations=4", "num_envs=4", "num_steps=16", "num_minibatches=2", "num_epochs=1", "hidden=[8]"]


def tiny(**changes):
    keys = {"num_iterations": 4, "num_envs": 4, "num_steps": 16, "num_minibatches": 2, "num_epochs": 1, "hidden": [8]}
    family = FAMILIES["tabular"]
    return landscapes.tuned_config(family, **{**keys, **changes})


@pytest.fixture(scope="module")
def synthetic():
    """Four families in units of their own; .2 or .8 is best of the first hyperparameter, and the curve tells."""
    rng = np.random.default_rng(0)
    family, task, points, curves = [], [], [], []
    for f in range(4):
        for t in landscapes.TASKS:
            best, unit, offset = (0.2 if (f + t) % 2 else 0.8), 10.0**f, 5.0 * f
            x = rng.random((40, 7))
            score = offset + unit * np.exp(-20 * (x[:, 0] - best) ** 2)
            family += [f] * 40
            task += [t] * 40
            points.append(x)
            curves.append(offset + (score - offset)[:, None] * np.linspace(0, 1, landscapes.CURVE_POINTS))
    curves = np.concatenate(curves)
    whole = landscapes.Landscapes(
        names=tuple("abcd"), family=np.asarray(family), task=np.asarray(task), points=np.concatenate(points),
        settings=np.concatenate(points), curves=curves, scores=curves[:, -1], diverged=np.zeros(len(curves), bool),
        traits=np.zeros((4, 4, len(NAMES))),
    )  # fmt: skip
    return whole


@pytest.fixture(scope="module")
def learned(synthetic):
    return optimizer.fit(synthetic, steps=250, batch_size=16, queries=8)[0]


def history(n, key=0, scale=1.0, shift=0.0):
    rng = np.random.default_rng(key)
    mask = (np.arange(optimizer.MAX_HISTORY) < n).astype(np.float32)
    curve = rng.normal(size=(optimizer.MAX_HISTORY, landscapes.CURVE_POINTS))
    return History(rng.random((len(mask), 7)), scale * curve + shift, mask, np.zeros(len(NAMES)))


def test_points_of_the_space_are_settings_and_back():
    points = np.random.default_rng(0).random((5, 7))
    for point, setting in zip(points, landscapes.to_settings(points), strict=True):
        np.testing.assert_allclose([d.unit(setting[d.name]) for d in landscapes.space()], point, rtol=1e-9)
        landscapes.tuned_config(**setting)  # is allowed


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_built(name):
    from metarl_jax.runs.build import build

    build(landscapes.tuned_config(FAMILIES[name]))


def test_curves_are_means_of_sixteenths_and_gaps_take_the_value_before():
    curves = np.arange(64.0)[None].repeat(2, axis=0)
    curves[1, :8] = np.nan
    curves[1, 20:24] = np.nan
    short = landscapes.shorten(curves)
    np.testing.assert_allclose(short[0], np.arange(16) * 4 + 1.5)
    assert short[1, 0] == short[1, 1] == short[1, 2] == 9.5  # nothing before: the first that is there
    assert short[1, 5] == short[1, 4] == 17.5


def test_landscapes_are_kept_in_one_file(synthetic, tmp_path):
    landscapes.save(synthetic, tmp_path / "a.npz")
    back = landscapes.load(tmp_path / "a.npz")
    assert back.names == synthetic.names
    np.testing.assert_allclose(back.scores, synthetic.scores, rtol=1e-6)
    two = back.of(["d", "b"])
    assert two.names == ("b", "d") and set(two.family) == {0, 1}
    np.testing.assert_array_equal(two.scores[two.family == 1], back.scores[back.family == 3])


def test_scores_are_0_untrained_and_1_at_the_best_of_each_task(synthetic):
    scores = optimizer.normalised_scores(synthetic)
    for f, t in optimizer.tasks_of(synthetic):
        here = scores[(synthetic.family == f) & (synthetic.task == t)]
        assert here.min() >= -1e-9 and 0.95 < here.max() <= 1.2


def test_a_diverged_run_has_the_lowest_score(synthetic):
    scores, diverged = synthetic.scores.copy(), synthetic.diverged.copy()
    scores[3], diverged[3] = np.nan, True
    found = optimizer.normalised_scores(dataclasses.replace(synthetic, scores=scores, diverged=diverged))
    assert found[3] == posterior.LOWEST and np.isfinite(found).all()


def test_a_history_is_a_set_in_units_of_its_own():
    """The prediction depends neither on order, nor on padding, nor on the task's units."""
    h, x = history(5), np.random.default_rng(9).random((4, 7))
    net = Predictor()
    params = jax.jit(net.init)(jax.random.key(1), h, x)
    predict = jax.jit(lambda h: net.apply(params, h, x)[0])
    expected = predict(h)
    order = np.asarray([4, 2, 0, 1, 3, *range(5, optimizer.MAX_HISTORY)])
    shuffled = h._replace(x=h.x[order], curve=h.curve[order])
    padding = h._replace(x=np.where(h.mask[:, None] > 0, h.x, 7.0), curve=np.where(h.mask[:, None] > 0, h.curve, 99.0))
    other_units = history(5, scale=1000.0, shift=-40.0)
    for same in (shuffled, padding, other_units):
        np.testing.assert_allclose(predict(same), expected, rtol=1e-3, atol=1e-4)
    assert not np.allclose(predict(history(5, key=3)), expected, atol=1e-3)
    assert np.isfinite(jax.jit(in_own_units)(history(0))).all()


def test_it_learns_what_the_history_tells(synthetic, learned):
    """Runs say whether .2 or .8 is best; without any there is no telling, and shuffled landscapes never tell."""
    blind = optimizer.fit(synthetic, steps=250, batch_size=16, queries=8, shuffled=True)[0]

    def correlation(model, shown):
        found = []
        for f, t in optimizer.tasks_of(synthetic):
            here = np.flatnonzero((synthetic.family == f) & (synthetic.task == t))
            seen, rest = here[:shown], here[shown:]
            h = optimizer.history_of(model, synthetic.points[seen], synthetic.curves[seen], np.zeros(len(NAMES)))
            mean = np.asarray(optimizer.predicted(model.members, h, jnp.asarray(synthetic.points[rest]))).mean(axis=0)
            found.append(np.corrcoef(mean, synthetic.scores[rest])[0, 1])
        return np.mean(found)

    assert correlation(learned, 8) > 0.6
    assert correlation(learned, 0) < 0.4
    assert correlation(blind, 8) < 0.4


def test_proposals_are_better_than_chance(synthetic, learned):
    """Six at once: each goes where the others are not, unless it is worth trying twice."""
    here = np.flatnonzero((synthetic.family == 1) & (synthetic.task == 0))[:8]
    h = optimizer.history_of(learned, synthetic.points[here], synthetic.curves[here], np.zeros(len(NAMES)))
    points = optimizer.propose(learned, h, 8, 6, np.random.default_rng(0))
    assert points.shape == (6, 7) and (points >= 0).all() and (points <= 1).all()
    assert len(np.unique(points.round(6), axis=0)) > 1
    score = np.exp(-20 * (points[:, 0] - 0.2) ** 2)
    assert score.mean() > 0.5  # 0.39 by chance


def test_the_first_trial_is_the_best_fixed_setting(learned):
    empty = optimizer.history_of(learned, np.zeros((0, 7)), np.zeros((0, 16)), np.zeros(len(NAMES)))
    first = optimizer.propose(learned, empty, 0, 2, np.random.default_rng(0))
    np.testing.assert_array_equal(first[0], learned.start)
    assert np.abs(first[0] - first[1]).max() > 0.01


def test_a_proposal_moves_a_bounded_step():
    h, x = history(4), np.random.default_rng(2).random((50, 7))
    params = jax.jit(Proposer().init)(jax.random.key(1), h, x, np.zeros(50))
    loud = jax.tree.map(lambda p: 100 * np.asarray(p), params)
    moved = np.asarray(jax.jit(Proposer().apply)(loud, h, x, np.ones(50)))
    assert (moved >= 0).all() and (moved <= 1).all()
    assert 0.1 < np.abs(moved - x).max() <= STEP + 1e-6


def test_a_lucky_run_is_not_kept_for_its_luck(learned):
    """One setting had the best run, and a bad one; another was good twice."""
    a, b, c = np.full(7, 0.2), np.full(7, 0.5), np.full(7, 0.8)
    ends = np.asarray([1.0, 0.0, 0.8, 0.8, 0.1])
    curves = ends[:, None] * np.linspace(0, 1, landscapes.CURVE_POINTS)
    indifferent = dataclasses.replace(learned, members=jax.tree.map(np.zeros_like, learned.members))
    h = optimizer.history_of(indifferent, np.stack([a, a, b, b, c]), curves, np.zeros(len(NAMES)))
    assert optimizer.best_tried(indifferent, h) in (2, 3)


def by_hand(x, gains, unit, query):
    """Posterior of a process with a flat prior of .4 (two members that agree), by the textbook formula."""

    def covariance(a, b):
        near = np.exp(-0.5 * ((a[:, None] - b[None]) ** 2).mean(axis=-1) / posterior.LENGTH**2)
        return posterior.COMMON**2 + posterior.REST**2 * near

    inverse = np.linalg.inv(covariance(x, x) + posterior.NOISE**2 * np.eye(len(x)))
    across = covariance(query, x)
    mean = 0.4 + across @ inverse @ (gains / unit - 0.4)
    return mean, np.sqrt(posterior.COMMON**2 + posterior.REST**2 - np.diag(across @ inverse @ across.T))


def test_the_posterior_is_that_of_a_gaussian_process():
    rng = np.random.default_rng(0)
    x, query, gains = rng.random((5, 7)), rng.random((4, 7)), rng.uniform(0, 30, 5)
    known = posterior.condition(x, np.full((2, 5), 0.4), gains, np.ones(7))
    mean, deviation = posterior.expected(known, query, np.full((2, 4), 0.4), np.ones(7))
    wanted = by_hand(x, gains, known.unit, query)
    np.testing.assert_allclose(mean, wanted[0], rtol=1e-6)
    np.testing.assert_allclose(deviation, wanted[1], rtol=1e-6)
    again = posterior.condition(x, np.full((2, 5), 0.4), 1000 * gains, np.ones(7))
    assert again.unit == pytest.approx(1000 * known.unit), "the unit is the task's"


def test_a_trial_speaks_for_the_members_that_expected_it():
    """In one family setting 0 is good and 1 bad, in another the reverse: a trial of one setting tells of the other."""
    x, means = np.stack([np.zeros(7), np.ones(7)]), np.asarray([[1.0, 0.0], [0.0, 1.0]])
    for gain, sign in ((100.0, -1), (-100.0, 1)):
        known = posterior.condition(x[:1], means[:, :1], np.asarray([gain]), np.ones(7))
        mean, _ = posterior.expected(known, x, means, np.ones(7))
        assert sign * (mean[1] - mean[0]) > 0.3
    nothing = posterior.condition(x[:0], means[:, :0], np.zeros(0), np.ones(7))
    mean, deviation = posterior.expected(nothing, x, means, np.ones(7))
    np.testing.assert_allclose(mean, 0.5)
    assert (deviation > 0.5).all()


def test_an_optimizer_is_kept_in_a_file(learned, tmp_path):
    optimizer.save(learned, tmp_path / "o.npz")
    back = optimizer.load(tmp_path / "o.npz")
    assert back.families == learned.families
    h, x = history(3), np.full((2, 7), 0.4)
    ours, theirs = (optimizer.predicted(m.members, h, x) for m in (learned, back))
    np.testing.assert_allclose(ours, theirs, atol=0.02)  # half precision


def test_what_comes_with_the_package_has_seen_all_families():
    from metarl_jax.tuning.commands import load_optimizer

    assert load_optimizer(None).families == tuple(sorted(FAMILIES))


def test_traits_are_of_the_task():
    found = describe(tiny(), [0, 1])
    assert found.shape == (2, len(NAMES)) and np.isfinite(found).all()
    np.testing.assert_allclose(found[:, 0], 1.0)  # episodes of ten steps
    assert found[0, 5] != found[1, 5]  # other rewards
    np.testing.assert_allclose(found[:, 7], -1.0, atol=0.02)  # one step in ten ends an episode


def test_a_training_repeats_the_lane_of_a_sweep():
    chosen = tiny()
    points = np.random.default_rng(0).random((3, 7))
    curves, scores = tune.Trainer(chosen, 2)(points, [5, 6, 7], [0, 1, 1])
    settings = landscapes.to_settings(points)
    for i, (seed, task) in enumerate(((5, 0), (6, 1), (7, 1))):
        names = list(settings[i])
        values, seeds = training_loop.lanes([settings[i]], names, [seed])
        of_task = chosen.model_copy(update={"task_seed": task})
        call = training_loop.make_call(of_task, 4)
        raw = np.asarray(call(training_loop.make_init(of_task)(values, seeds), values, seeds, jnp.asarray(0))[1])
        np.testing.assert_allclose(scores[i], run.final_scores(raw[:, None], np.asarray([4]))[0, 0], rtol=1e-5)
        np.testing.assert_allclose(curves[i], landscapes.shorten(raw)[0], rtol=1e-5)


def test_searches_know_only_themselves_and_share_no_training_seed():
    used = []

    def trainer(points, seeds, tasks):
        used.extend(seeds)
        return np.repeat(points[:, :1], landscapes.CURVE_POINTS, axis=1), points[:, 0]

    seen = []

    def ask(s, tried):
        assert tried.points.shape[0] == 1
        seen.append((s, tried.scores.shape[1]))
        return np.full(7, (s + 1) / 10 + tried.scores.shape[1] / 100)

    tried = search_methods.run(trainer, ask, 3, 4, task=0, tag=2)
    assert tried.points.shape == (3, 4, 7) and len(set(used)) == 12
    np.testing.assert_allclose(tried.scores[1], [0.2, 0.21, 0.22, 0.23])
    np.testing.assert_array_equal(tried.best(2), [1, 1, 1])
    assert set(seen) == {(s, t) for s in range(3) for t in range(4)}


def test_a_search_may_diverge():
    tried = search_methods.Tried(np.zeros((1, 3, 7)), np.zeros((1, 3, 16)), np.asarray([[np.nan, -5.0, np.nan]]))
    assert tried.best(3)[0] == 1


def test_grid_search_crosses_two_values_of_four_keys():
    ask = search_methods.grid_search()
    points = [ask(0, search_methods.Tried(np.zeros((1, t, 7)), None, None)) for t in range(16)]
    assert len({tuple(p) for p in points}) == 16
    varied = [len({p[i] for p in points}) for i in range(7)]
    assert sorted(varied) == [1, 1, 1, 2, 2, 2, 2]


def test_tpe_is_told_what_it_asked_for():
    pytest.importorskip("optuna")

    def trainer(points, seeds, tasks):
        score = -((points[:, 0] - 0.3) ** 2)
        score[0] = np.nan  # a search that always diverges does not stop the others
        return np.zeros((len(points), landscapes.CURVE_POINTS)), score

    tried = search_methods.run(trainer, search_methods.tpe(3), 3, 30, task=0, tag=1)
    early, late = (abs(tried.points[1:, part, 0] - 0.3).mean() for part in (slice(0, 10), slice(20, 30)))
    assert late < early


def test_tune_goes_on_where_it_was_left(learned, tmp_path, capsys):
    optimizer.save(learned, tmp_path / "o.npz")
    call = ["tune", "TabularMDP-v0", *TINY, "--optimizer", str(tmp_path / "o.npz"), "--run-dir", str(tmp_path / "run")]
    assert main([*call, "--trials", "2"]) == 0
    first = json.loads((tmp_path / "run" / "history.json").read_text())
    capsys.readouterr()
    assert main([*call, "--trials", "3"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*call, "--trials", "3", "--resume"]) == 0
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert history[:2] == first and len(history) == 3
    best = config.load(tmp_path / "run" / "best.yaml")
    assert any(np.isclose(best.lr, t["setting"]["lr"]) for t in history)
    assert f"{3 * 4 * 64:,} environment steps" in capsys.readouterr().out


def test_learn_optimizer_makes_landscapes_and_learns_from_them(tmp_path, monkeypatch, capsys):
    """Two families, the PPO of `tiny`, a few steps of learning; what comes out is an optimiser that can be asked."""
    plain = landscapes.tuned_config
    keys = {
        key: getattr(tiny(), key) for key in ("num_iterations", "num_envs", "num_steps", "num_minibatches", "hidden")
    }
    monkeypatch.setattr(landscapes, "tuned_config", lambda family=None, **c: plain(family, **{**keys, **c}))
    monkeypatch.setattr(optimizer.fit, "__kwdefaults__", {**optimizer.fit.__kwdefaults__, "steps": 5})
    call = ["learn-optimizer", "--families", "tabular,half_circle", "--trials", "128", "--run-dir", str(tmp_path)]
    assert main(call) == 0
    data = landscapes.load(tmp_path / "landscapes.npz")
    assert data.names == ("half_circle", "tabular") and len(data.scores) == 256
    first = dict(zip(("lr", *(d.name for d in landscapes.space()[1:])), data.settings[0], strict=True))
    asked = json.loads((tmp_path / "half_circle" / "sweep.json").read_text())["settings"][0]
    assert first == pytest.approx({k: asked[k] for k in first}, rel=1e-5) and data.task[0] == asked["task_seed"]
    np.testing.assert_allclose(data.points[0, 0], (np.log(first["lr"]) - np.log(1e-6)) / np.log(1e5), atol=1e-3)
    assert optimizer.load(tmp_path / "optimizer.npz").families == data.names
    capsys.readouterr()
    assert main(call) == 0  # nothing is trained twice
    assert "lanes, compiled" not in capsys.readouterr().err
    assert main([*call[:2], "tabular,maze", *call[3:]]) == 2  # what was learned is not overwritten
    assert "was learned from half_circle, tabular" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["gymnax:CartPole-v2"], "did you mean CartPole-v"),
        (["GridNavi-v0", "lr=.1"], "what is tuned is lr"),
        (["GridNavi-v0", "--optimizer", "nowhere.npz"], "no such file"),
        (["GridNavi-v0", "--trials", "0"], "at least 1"),
        (["Sinusoid-v0"], "labelled examples"),
    ],
)
def test_tune_refuses_in_one_line(arguments, said, tmp_path, capsys):
    assert main(["tune", *arguments, "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [(["--families", "cartpole,acrobat"], "did you mean acrobot"), (["--families", "maze"], "at least 2"),
     (["--trials", "8"], "at least")],
)  # fmt: skip
def test_learn_optimizer_refuses_in_one_line(arguments, said, tmp_path, capsys):
    assert main(["learn-optimizer", *arguments, "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
