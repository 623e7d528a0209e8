"""`metarl report`: one page that holds everything, with the very numbers of the files beside a run."""

import base64
import csv
import functools
import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from metarl_jax.cli.main import main
from metarl_jax.meta import evaluation
from metarl_jax.runs import compare, evaluate, style
from metarl_jax.runs.build import build
from metarl_jax.runs.checkpoint import Checkpoints
from metarl_jax.runs.config import dump, validate
from metarl_jax.runs.html_report import run_page
from metarl_jax.sweeps import pbt, pbt_run, plan, search_space
from metarl_jax.sweeps import run as sweep_run
from metarl_jax.sweeps.html_report import sweep_page
from metarl_jax.sweeps.pictures import lineage_of

pytest.importorskip("plotly")

MAML = {
    "algorithm": "maml", "env": "PointNavigation-v0", "env_options": {"horizon": 5}, "num_iterations": 4,
    "meta_batch_size": 2, "episodes_per_task": 2, "hidden": [4], "eval_tasks": 6, "eval_episodes": 2, "eval_updates": 2,
    "num_inner_steps": 2,
}  # fmt: skip
RL2 = {"algorithm": "rl2", "env": "BernoulliBandit-v0", "num_iterations": 120, "num_episodes": 4, "meta_batch_size": 8}
PPO = {"algorithm": "ppo", "env": "gymnax:CartPole-v1", "num_iterations": 4, "anneal_lr": False}
NAME = '<b>&"x"'


class Page(html.parser.HTMLParser):
    """What is in a page: addresses, tables, figures, text."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.tables, self.figures, self.saved, self.words, self.tags = [], [], {}, {}, [], []
        self._script = self._json = None
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.addresses += [
            value for name, value in found.items() if name in ("src", "href", "action", "data", "srcset")
        ]
        if tag == "script":
            self._script = found.get("type", "text/javascript")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if found.get("class") == "plot":
            self._name = found["aria-label"]
        if found.get("class") == "csv":
            rows = list(csv.reader(io.StringIO(unquote(found["href"].partition(",")[2]))))
            self.saved[found["download"].removesuffix(".csv")] = rows

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script == "application/json":
            self.figures[self._name] = json.loads(data)
        elif self._script is None and self.lasttag != "style":
            self.words.append(data)
            if self.lasttag in ("td", "th"):
                self.tables[-1][-1][-1] += data.strip()


def lines_of(figure):
    """name -> the traces that a person sees as lines."""
    shown = [t for t in figure["data"] if t.get("showlegend", True)]
    return {t["name"]: t for t in shown if "lines" in t.get("mode", "")}


def values_of(saved):
    """The columns of a CSV as numbers, NaN where there is nothing."""
    head, *rows = saved
    return {name: np.array([float(row[i] or "nan") for row in rows]) for i, name in enumerate(head)}


def make_run(place, data, rows, info=True):
    config = validate(data)
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(dump(config))
    (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if info:
        about = {"command": "metarl train </script><i>", "backend": "cpu", "device": "cpu", "python": "3.11"}
        (place / "info.json").write_text(json.dumps({**about, "versions": {"jax": "1.2.3", "metarl_jax": "0.1.0"}}))
    return build(config)


def add_evaluation(job, place, seeds, shift=0.0):
    """What `metarl evaluate` writes, of scores that are drawn here."""
    rng = np.random.default_rng(0)
    scores = {"run": rng.normal(size=(seeds, 6, 3, 2)) + np.arange(3)[:, None] + shift}
    scores["random policy"] = rng.normal(size=(1, 6, 1, 2))
    table = evaluate._table(job, place, 4, scores)
    evaluate.save(place, table, scores)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three seeds, one entry of which is missing, with all that may stand beside it."""
    place = tmp_path_factory.mktemp("runs") / NAME
    rng = np.random.default_rng(1)
    rows = [
        {"iteration": i + 1, "loss": rng.normal(size=3).tolist(),
         **{f"return_{u}": (rng.normal(size=3) - 5 + u + i).tolist() for u in range(3)}}
        for i in range(4)
    ]  # fmt: skip
    rows[1]["return_0"][2] = None
    rows[2]["return_1"] = [None, None, None]
    job = make_run(place, {**MAML, "num_seeds": 3}, rows)
    add_evaluation(job, place, 3)
    (place / "timing.jsonl").write_text('{"iteration": 2, "seconds": 1.5}\n{"iteration": 4, "seconds": 2.5}\n')
    (place / "held_out.jsonl").write_text('{"iteration": 2, "score_0": [1.0, 2.0, 4.0], "score_2": [5.0, 6.0, 8.5]}\n')
    frames = [Image.new("P", (8, 8), i) for i in (0, 200)]
    frames[0].save(place / "adaptation.gif", save_all=True, append_images=frames[1:])
    checkpoints = Checkpoints(place / "checkpoints")
    checkpoints.save(4, {"x": np.zeros(1)})
    checkpoints.close()
    return place


@pytest.fixture(scope="module")
def page(run):
    assert main(["report", str(run)]) == 0
    return Page((run / "report.html").read_text())


def test_curves_are_the_rows_with_their_intervals(run, page):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = lines_of(page.figures["Learning curve"])
    assert list(lines)[:3] == ["before adaptation", "after 1 update", "after 2 updates"]
    saved = values_of(page.saved["learning-curve"])
    for u, line in enumerate(list(lines.values())[:3]):
        values = np.array([row[f"return_{u}"] for row in rows], float)
        mean, low, high = style.mean_and_interval(values)
        np.testing.assert_array_equal(np.array(line["y"], float), mean)
        np.testing.assert_array_equal(np.array(line["customdata"], float), np.stack([low, high], axis=1))
        assert line["line"]["color"] == style.STAGES[u]
        np.testing.assert_array_equal([saved[f"return_{u} seed {i}"] for i in range(3)], values.T)
        for name, expected in (("mean", mean), ("low", low), ("high", high)):
            np.testing.assert_array_equal(saved[f"return_{u} {name}"], expected)
    work = build(validate({**MAML, "num_seeds": 3})).work_per_iteration
    assert lines["before adaptation"]["x"] == [work * i for i in (1, 2, 3, 4)] == saved["steps"].tolist()
    assert "bands: 95% interval of it over seeds" in page.text
    assert page.figures["Learning curve"]["layout"]["xaxis"]["title"]["text"] == "environment steps of one seed"
    band = next(t for t in page.figures["Learning curve"]["data"] if t.get("fill") and t["name"] == "after 1 update")
    assert band["x"].count(None) == 1, "where no seed has a number the band has a gap"
    held = next(t for t in page.figures["Learning curve"]["data"] if t["name"] == "held-out tasks, adapted")
    centre, _, high = style.mean_and_interval(np.array([[5.0, 6.0, 8.5]]))
    assert held["y"] == centre.tolist() and held["error_y"]["array"] == (high - centre).tolist()
    np.testing.assert_array_equal(values_of(page.saved["loss"])["loss seed 1"], [row["loss"][1] for row in rows])


def test_tables_are_those_of_the_evaluation(run, page):
    table = json.loads((run / "evaluation.json").read_text())
    saved = page.saved["score-on-held-out-tasks-return"][1:]
    assert [row[0] for row in saved] == ["before adaptation", "after 1 update", "after 2 updates", "random policy"]
    for row, found in zip(saved, [*table["adaptation"], table["baselines"]["random policy"][0]], strict=True):
        assert list(map(float, row[1:])) == [
            found["mean"], *found["mean_interval"], found["iqm"], *found["iqm_interval"],
        ]  # fmt: skip
    shown = next(t for t in page.tables if t[0][1:3] == ["mean", "95% interval"])
    low, high = table["adaptation"][1]["mean_interval"]
    assert shown[2][:3] == ["after 1 update", f"{table['adaptation'][1]['mean']:.3f}", f"[{low:.3f}, {high:.3f}]"]
    lines = lines_of(page.figures["Adaptation to held-out tasks"])
    assert lines["maml"]["y"] == [row["mean"] for row in table["adaptation"]] and lines["maml"]["x"] == [0, 1, 2]
    assert lines["maml"]["customdata"] == [row["mean_interval"] for row in table["adaptation"]]
    scores = np.load(run / "scores.npz")["run"]
    boxes = page.figures["Tasks one by one"]["data"]
    np.testing.assert_allclose([b["y"] for b in boxes], scores.mean(axis=(0, 3)).T, rtol=1e-12)
    assert "95% percentile bootstrap over tasks" in page.text and "Gain of the first update" in page.text


def test_it_says_what_was_run_and_with_what(page):
    for text in ("3 (seeds 0 to 2)", "4 of 4", "jax 1.2.3", "metarl train </script><i>", "4.0 s without compilation"):
        assert text in page.text
    changed = next(t for t in page.tables if t[0] == ["key", "value", "default", "meaning"])
    keys = [row[0] for row in changed[1:]]
    assert "hidden" in keys and "gamma" not in keys and ["num_seeds", "3", "1"] in [row[:3] for row in changed[1:]]
    every = {row[0]: row[1] for row in page.saved["configuration"]}
    assert every["hidden"] == "[4]" and every["gamma"] == "0.99" and every["eval_every"] == "null"


def test_nothing_is_fetched_and_names_are_text(run, page):
    text = (run / "report.html").read_text()
    assert page.addresses and all(a.startswith(("#", "data:")) for a in page.addresses)
    (policy,) = (a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert any(a.get("name") == "viewport" for _, a in page.tags)
    assert text.count("plotly.js v") == 1 and text.index("plotly.js v") < text.index("</head>")
    assert NAME in page.text and NAME not in text and "&lt;b&gt;&amp;&quot;x&quot;" in text
    assert not [tag for tag, _ in page.tags if tag == "i"]
    inlined = [a["src"] for tag, a in page.tags if tag == "img"]
    assert [base64.b64decode(a.partition(",")[2]) for a in inlined] == [(run / "adaptation.gif").read_bytes()]


def test_stages_are_whole_numbers_and_tasks_are_called_held_out_where_they_are(run, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(run, place)
    table = json.loads((run / "evaluation.json").read_text())
    (place / "evaluation.json").write_text(json.dumps({**table, "tasks_held_out": False, "stage": "episode"}))
    figures = Page(run_page(place)).figures
    assert figures["Adaptation"]["layout"]["xaxis"]["dtick"] == 1 and "Adaptation to held-out tasks" not in figures
    assert lines_of(figures["Adaptation"])["maml"]["x"] == [1, 2, 3]


def test_one_seed_has_no_band_and_its_ends_stay(tmp_path):
    values = np.random.default_rng(0).normal(size=120)
    names = ("first_episode_return", "second_episode_return", "last_episode_return", "loss")
    rows = [{"iteration": i + 1, **{name: float(x) + k for k, name in enumerate(names)}} for i, x in enumerate(values)]
    make_run(tmp_path / "rl2", RL2, rows[:80], info=False)
    page = Page(run_page(tmp_path / "rl2"))
    figure = page.figures["Learning curve"]
    lines = lines_of(figure)
    assert list(lines) == [f"{which} episode of a trial" for which in ("first", "second", "last")]
    thick, window = lines["first episode of a trial"]["y"], style.window(80)
    assert window == 5 and thick == style.smoothed(values[:80], 5).tolist()
    assert (thick[0], thick[-1]) == (values[0], values[79]) and not [t for t in figure["data"] if t.get("fill")]
    assert figure["data"][0]["y"] == values[:80].tolist(), "thin, behind: every iteration"
    assert "every logged iteration; thick: mean of 5 of them" in page.text and "no interval over seeds" in page.text
    assert values_of(page.saved["learning-curve"])["last_episode_return"].tolist() == (values[:80] + 2).tolist()
    assert "80 of 120; metarl train --run-dir" in page.text and "--resume goes on" in page.text
    assert f"metarl evaluate {tmp_path / 'rl2'}" in page.text and "There is no info.json" in page.text
    (tmp_path / "rl2" / "metrics.jsonl").write_text("")
    page = Page(run_page(tmp_path / "rl2"))
    assert "Nothing is logged yet" in page.text and not page.figures and "0 of 120" in page.text


def test_an_error_has_a_log_axis_and_bands_that_end_at_its_foot(tmp_path):
    data = {"algorithm": "supervised_maml", "env": "Sinusoid-v0", "num_iterations": 2, "num_seeds": 3}
    of_seeds = [0.5, 1.0, 6.0]
    rows = [{"iteration": i, "loss": of_seeds, "mse_0": of_seeds, "mse_1": [0.5, 0.5, 0.5 * i]} for i in (1, 2)]
    make_run(tmp_path / "sinusoid", data, rows)
    page = Page(run_page(tmp_path / "sinusoid"))
    figure, (_, low, _) = page.figures["Learning curve"], style.mean_and_interval(np.array([of_seeds]))
    assert figure["layout"]["yaxis"]["type"] == "log" and low[0] < 0 and "cut there" in page.text
    foot = 0.5 / 3  # of the lowest point that is drawn
    assert figure["layout"]["yaxis"]["range"][0] == pytest.approx(np.log10(foot))
    band = next(t for t in figure["data"] if t.get("fill"))
    assert min(y for y in band["y"] if y is not None) == pytest.approx(foot)
    assert lines_of(figure)["before adaptation"]["customdata"][0][0] == low[0], "what a person reads is not cut"


def test_of_two_seeds_each_is_drawn_and_no_band(tmp_path):
    rows = [{"iteration": i, **{f"return_{u}": [1.0 * i, 2.0 + u] for u in range(4)}} for i in (1, 2, 3)]
    make_run(tmp_path / "two", {**MAML, "num_seeds": 2}, rows)
    page = Page(run_page(tmp_path / "two"))
    figure = page.figures["Learning curve"]
    assert not any(t.get("fill") for t in figure["data"]) and "thin: each of them" in page.text
    first = [t["y"] for t in figure["data"] if t["name"] == "before adaptation"]
    assert first == [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [1.5, 2.0, 2.5]], "each seed, then the mean"
    _, low, _ = style.mean_and_interval(np.array([[1.0, 2.0]]))
    assert lines_of(figure)["before adaptation"]["customdata"][0][0] == low[0]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("metrics.jsonl", "[]\n", "line 1: is damaged"),
        ("timing.jsonl", '{"iteration": "x"}\n', "line 1: is damaged"),
        ("held_out.jsonl", "{\n", "line 1: is damaged"),
        ("info.json", "[1]", "is damaged (holds a list"),
        ("evaluation.json", "{}", "is damaged (its num_tasks is missing)"),
        ("evaluation.json", '{"num_tasks": 1, "num_episodes": 1, "adaptation": [{}], "baselines": {}}', "is damaged ("),
        ("evaluation-9x9-2.json", '{"num_tasks": 1}', "is damaged (KeyError"),
        ("scores.npz", "no", "is damaged ("),
        ("adaptation.gif", "no", "is damaged (not a GIF)"),
        ("config.yaml", "a: [", "not valid YAML"),
    ],
)
def test_a_damaged_file_is_one_line(run, tmp_path, capsys, name, content, expected):
    place = tmp_path / "run"
    shutil.copytree(run, place, ignore=shutil.ignore_patterns("checkpoints", "report.html"))
    (place / name).write_text(content)
    assert main(["report", str(place)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and expected in said and name in said
    assert not (place / "report.html").exists()


def test_what_cannot_be_written_or_is_no_run_is_one_line(run, tmp_path, capsys, monkeypatch):
    missing = tmp_path / "no" / "x.html"
    for words, expected in (
        ([str(tmp_path)], "is not a run directory"),
        ([str(run), str(tmp_path / "none")], "is not a run directory"),
        ([str(run), "--output", str(tmp_path)], "is a directory"),
        ([str(run), "--output", str(missing)], "there is no such file or directory"),
    ):
        assert main(["report", *words]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and expected in said
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    assert main(["report", str(run)]) == 2
    expected = "error: metarl report needs the package plotly: pip install 'metarl_jax[report]'\n"
    assert capsys.readouterr().err == expected


# --- several runs ---------------------------------------------------------------------------------------


def test_several_runs_are_compared(run, tmp_path, capsys, monkeypatch):
    other = tmp_path / "other"
    rows = [{"iteration": i + 1, "loss": 0.0, "return_0": -5.0, "return_2": float(i)} for i in range(4)]
    job = make_run(other, {**MAML, "inner_lr": 0.25}, rows)
    add_evaluation(job, other, 1, shift=-1.0)
    checkpoints = Checkpoints(other / "checkpoints")
    checkpoints.save(4, {"x": np.zeros(1)})
    checkpoints.close()
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run), "other"]) == 0
    assert capsys.readouterr().out == "report.html\n"
    page, found = Page((tmp_path / "report.html").read_text()), compare.compare([run, other], report=pytest.fail)
    assert [r[0] for r in page.saved["scores-after-adaptation"][1:]] == [NAME, "other"]
    for row, expected in zip(page.saved["scores-after-adaptation"][1:], found["runs"], strict=True):
        assert row[3] == expected["after"] and list(map(float, row[4:7])) == [
            expected["mean"],
            *expected["mean_interval"],
        ]
    (pair,), better = found["first_against"], "probability_of_improvement"
    (row,) = page.saved["the-first-against-the-others"][1:]
    assert list(map(float, row[1:])) == [
        pair["difference"], *pair["difference_interval"], pair[better], *pair[f"{better}_interval"],
    ]  # fmt: skip
    (point,) = page.figures["Differences"]["data"]
    assert point["x"] == [pair["difference"]] and point["customdata"] == [pair["difference_interval"]]
    lines = lines_of(page.figures["Learning curves"])
    assert list(lines) == ['&lt;b&gt;&amp;"x"', "other"] and lines["other"]["y"] == [0.0, 1.0, 2.0, 3.0]
    differ = next(t for t in page.tables if t[0] == ["key", NAME, "other"])
    assert sorted(differ[1:]) == [["inner_lr", "0.1", "0.25"], ["num_seeds", "3", "1"]]
    assert all(a.startswith(("#", "data:")) for a in page.addresses)


# --- sweeps ---------------------------------------------------------------------------------------------


@functools.cache
def space():
    config = validate({**PPO, "num_seeds": 2})
    texts = ("lr=log(1e-4,1e-1)", "gae_lambda=uniform(.8,1)", "hidden=[[4],[8,8]]")
    return config, tuple(search_space.parse(text, config.model_dump()) for text in texts)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Six trials of two seeds, stopped early or diverged some of them."""
    place = tmp_path_factory.mktemp("sweeps") / "random"
    config, dimensions = space()
    settings = search_space.points(dimensions, "random", 6, 5, 0)
    made = plan.Sweep(config, dimensions, "random", settings, ("lr", "gae_lambda"))
    plan.open_directory(made, place, resume=False)
    curves = np.random.default_rng(0).normal(size=(6, 2, 4)) + 10
    bad, done = np.full((6, 2), -1), np.array([4, 4, 4, 2, 4, 4])
    bad[2, 1] = 3
    curves[3, :, 2:] = np.nan
    rows = sweep_run._rows(made, curves, bad, done)
    sweep_run._write(made, place, rows, curves)
    return place


def test_a_sweep_shows_its_trials(sweep):
    page = Page(sweep_page(sweep))
    there = list(csv.DictReader(io.StringIO((sweep / "table.csv").read_text())))
    head, *saved = page.saved["the-trials-the-best-first"]
    assert head == list(there[0]) and len(saved) == 6
    for row, expected in zip(saved, there, strict=True):
        for name, value in zip(head, row, strict=True):
            text = expected[name]
            assert value == text or float(value) == float(text)
    settings = json.loads((sweep / "sweep.json").read_text())["settings"]
    fine = [row for row in there if row["diverged_seeds"] == "0"]
    points, crosses = page.figures["lr"]["data"]
    assert points["x"] == [settings[int(row["trial"])]["lr"] for row in fine]
    assert points["y"] == [float(row["score"]) for row in fine] and crosses["x"] == [settings[2]["lr"]]
    seeds = np.array([[float(row["score_seed_0"]), float(row["score_seed_1"])] for row in fine])
    np.testing.assert_allclose(points["error_y"]["array"], seeds.max(axis=1) - points["y"])
    assert points["marker"]["symbol"].count("circle-open") == 1 and "stopped early" in page.text
    assert page.figures["lr"]["layout"]["xaxis"]["type"] == "log"
    assert page.figures["hidden"]["layout"]["xaxis"]["ticktext"] == ["[4]", "[8, 8]"]
    surface = page.figures["lr and gae_lambda"]["data"][0]
    assert surface["marker"]["color"] == sorted(points["y"]), "the best on top"
    curves, best = np.load(sweep / "curves.npz")["score"], there[0]
    mean, low, high = style.mean_and_interval(curves[int(best["trial"])].T.astype(float))
    line = lines_of(page.figures["Curves of the best trials"])[f"trial {best['trial']}"]
    assert line["y"] == mean.tolist() and line["customdata"] == np.stack([low, high], axis=1).tolist()
    assert "Lowest to highest seed".lower() in page.text and "No best member is kept yet" in page.text
    assert all(a.startswith(("#", "data:")) for a in page.addresses)


def test_an_unfinished_or_damaged_sweep(sweep, tmp_path, capsys):
    place = tmp_path / "sweep"
    shutil.copytree(sweep, place)
    (place / "curves.npz").write_bytes(b"no")
    assert main(["report", str(place)]) == 2 and "curves.npz: is damaged" in capsys.readouterr().err
    (place / "table.csv").write_text("trial,score\n99,1.0\n")
    assert main(["report", str(place)]) == 2 and "table.csv: is damaged" in capsys.readouterr().err
    (place / "table.csv").unlink()
    page = Page(sweep_page(place))
    assert "There is no table yet" in page.text and len(page.saved["what-will-be-tried"]) == 7
    asked = json.loads((place / "sweep.json").read_text())
    asked["settings"][1]["lr"] = -1.0
    (place / "sweep.json").write_text(json.dumps(asked))
    assert main(["report", str(place)]) == 2 and "sweep.json: is damaged (ValueError" in capsys.readouterr().err


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    """Two populations of four members over three intervals."""
    place = tmp_path_factory.mktemp("sweeps") / "pbt"
    config, dimensions = space()
    dimensions, rng = dimensions[:2], np.random.default_rng(0)
    settings = search_space.points(dimensions, "pbt", 4, 5, 0)
    made = plan.Sweep(config, dimensions, "pbt", settings, ("lr", "gae_lambda"), interval=2)
    plan.open_directory(made, place, resume=False)
    shape, source = (2, 2, 4), np.tile(np.arange(4), (2, 2, 1))
    source[0, 0, 1] = 3
    fitness = rng.normal(size=shape)
    fitness[1, 0], fitness[0, 1, 2] = [0.0, 9.0, 1.0, 2.0], -np.inf
    values = {d.name: rng.uniform(0.1, 0.9, size=shape) for d in dimensions}
    diverged = ~np.isfinite(fitness)
    record = pbt.Record(values, fitness, diverged, np.broadcast_to(fitness[..., None], (*shape, 2)), source)
    rows = pbt_run._rows(made, record)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    (place / "table.csv").write_text(text.getvalue())
    np.savez(place / "schedule.npz", fitness=fitness, source=source, **values)
    return place


def test_population_based_training_shows_its_lineage(population):
    page, kept = Page(sweep_page(population)), np.load(population / "schedule.npz")
    ancestors = lineage_of(kept["fitness"][:, 0], kept["source"][:, 0])
    assert ancestors.tolist() == [3, 1], "the best at the end went on from another"
    lines = lines_of(page.figures["Population 0"])
    assert lines["ancestors of the best"]["y"] == [3, 1] and lines["ancestors of the best"]["x"] == [2, 4]
    assert (lines["copies another"]["x"], lines["copies another"]["y"]) == ([2, 4, None], [3, 1, None])
    assert lines_of(page.figures["lr"])["population 0"]["y"] == kept["lr"][[0, 1], 0, [3, 1]].tolist()
    saved = values_of(page.saved["population-0"])
    np.testing.assert_array_equal(saved["lr"].reshape(2, 2, 4), kept["lr"])
    np.testing.assert_array_equal(saved["goes on from"].reshape(2, 2, 4), kept["source"])
    score = np.where(np.isfinite(kept["fitness"]), kept["fitness"], np.nan)
    np.testing.assert_array_equal(saved["episode return"].reshape(2, 2, 4), score)
    assert (
        "Population-based training of ppo" in page.text
        and len(page.saved["the-members-at-the-end-the-best-first"]) == 9
    )


def test_a_damaged_schedule_is_one_line(population, tmp_path, capsys):
    place = tmp_path / "pbt"
    shutil.copytree(population, place)
    kept = dict(np.load(place / "schedule.npz"))
    for change in ({"source": kept["source"] + 9}, {"lr": kept["lr"][0]}, {"fitness": kept["fitness"].astype(str)}):
        np.savez(place / "schedule.npz", **{**kept, **change})
        assert main(["report", str(place)]) == 2
        said = capsys.readouterr().err
        assert "schedule.npz: is damaged" in said and said.count("\n") == 1


# --- in a browser ---------------------------------------------------------------------------------------

PROBE = """<script>
var said = [];
addEventListener("error", e => said.push("error: " + e.message));
addEventListener("securitypolicyviolation", e => said.push("refused: " + e.blockedURI));
addEventListener("load", () => setTimeout(async () => {
  var text = "", make = URL.createObjectURL;
  URL.createObjectURL = blob => { text = blob.text(); return make(blob); };
  var link = document.querySelector("a.csv"), kept = decodeURIComponent(link.href.split(",").slice(1).join(","));
  link.href += "%20".repeat(4e5);
  link.addEventListener("click", e => e.preventDefault());
  link.click();
  var found = document.createElement("pre");
  found.id = "probe";
  found.textContent = JSON.stringify({
    said, fetched: performance.getEntriesByType("resource").map(e => e.name),
    drawn: [...document.querySelectorAll(".plot")].map(p => p.querySelectorAll(".main-svg").length),
    buttons: [...document.querySelectorAll(".modebar-btn")].map(b => b.dataset.title),
    wide: document.documentElement.scrollWidth - innerWidth, blob: (await text).trim() === kept.trim(),
    legend: [...document.querySelectorAll(".legendtext")].map(t => t.textContent),
  });
  document.body.appendChild(found);
}, 200));
</script>"""


@pytest.mark.parametrize("kind", ["run", "population"])
def test_a_browser_draws_it_and_fetches_nothing(kind, run, population, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no chromium or google-chrome")
    text = run_page(run) if kind == "run" else sweep_page(population)
    (tmp_path / "page.html").write_text(text.replace("<head>", f"<head>{PROBE}", 1))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
             "--enable-logging=stderr", "--v=0", "--virtual-time-budget=4000", "--window-size=500,900"]  # fmt: skip
    words = [browser, *flags, "--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    probe = json.loads(html.unescape(found[1]))
    assert probe["said"] == [] and "CONSOLE" not in done.stderr
    assert probe["fetched"] == [] and probe["drawn"] and min(probe["drawn"]) >= 1
    assert {b.split()[0] for b in probe["buttons"]} == {"Download", "Zoom", "Pan", "Reset"}, "none sends data away"
    assert probe["wide"] <= 0, "the page is no wider than the screen"
    assert probe["blob"], "a long CSV is saved as a blob of the same text"
    assert ("maml" if kind == "run" else "ancestors of the best") in probe["legend"]


def test_evaluation_of_this_page_is_that_of_the_library(run, page):
    """The interval in the page is the bootstrap of the scores beside it."""
    scores = np.load(run / "scores.npz")["run"]
    expected = evaluation.bootstrap_interval(scores[:, :, 2].mean(axis=-1), evaluation.mean)
    row = page.saved["score-on-held-out-tasks-return"][3]
    assert list(map(float, row[1:4])) == pytest.approx(expected, abs=0)
