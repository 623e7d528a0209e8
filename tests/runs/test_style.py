"""Pictures tell the truth: intervals are of seeds, smoothing moves no end, every trial's episodes are shown."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from metarl_jax.runs import report, style
from metarl_jax.runs.build import build
from metarl_jax.runs.config import load, shipped_config, validate


def test_the_interval_is_student_s_over_seeds():
    values = np.array([[1.0, 2.0, 4.0], [1.0, np.nan, 3.0], [5.0, np.nan, np.nan], [np.nan] * 3])
    mean, low, high = style.mean_and_interval(values)
    found = stats.t.interval(0.95, 2, loc=values[0].mean(), scale=stats.sem(values[0]))
    np.testing.assert_allclose([low[0], high[0]], found)
    np.testing.assert_allclose(mean[:3], [7 / 3, 2.0, 5.0])
    assert np.isnan(low[2]) and np.isnan(mean[3]), "one seed has no interval"


def test_smoothing_moves_neither_end_and_keeps_a_line_a_line():
    line = np.linspace(-45.0, -10.0, 101)
    np.testing.assert_allclose(style.smoothed(line, 11), line)
    noisy = line + np.random.default_rng(0).normal(size=101)
    smooth = style.smoothed(noisy, 11)
    assert smooth[0] == noisy[0] and smooth[-1] == noisy[-1]
    np.testing.assert_allclose(smooth[50], noisy[45:56].mean())
    gaps = noisy.copy()
    gaps[[0, 40]] = np.nan
    assert np.isnan(style.smoothed(gaps, 11)[0]) and np.isfinite(style.smoothed(gaps, 11)[40])


def contrast(a, b):
    """Of two colours, by relative luminance (WCAG)."""

    def luminance(colour):
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_lines_stand_out_on_white():
    assert all(contrast(colour, "#ffffff") > 2 for colour in (style.OURS, *style.OTHERS, *style.STAGES))
    assert len({style.OURS, *style.OTHERS}) == 1 + len(style.OTHERS)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("maml_ppo_point", ["before adaptation", "after 1 update", "after 2 updates"]),
        ("rl2_bandit", ["first episode of a trial", "second episode of a trial", "last episode of a trial"]),
        ("ppo_cartpole", ["episode return"]),
    ],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_learning_curve_draws_what_was_measured(tmp_path, monkeypatch, name, lines, seeds):
    config = validate({**load(shipped_config(name)).model_dump(), "num_seeds": seeds})
    job, rng = build(config), np.random.default_rng(0)
    names = {3: ["return_0", "return_1", "return_2"], 1: [job.score]}[len(lines)] if name != "rl2_bandit" else [
        "first_episode_return", "second_episode_return", "last_episode_return", "trial_return"
    ]  # fmt: skip
    rows = [{"iteration": i + 1, **{n: rng.normal(size=seeds).tolist() for n in names}} for i in range(200)]
    rows = rows if seeds > 1 else [{k: v[0] if isinstance(v, list) else v for k, v in row.items()} for row in rows]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = {}

    def look(made, path):
        axis = made.axes[0]
        seen["lines"] = {x.get_label(): x.get_ydata() for x in axis.get_lines() if not x.get_label().startswith("_")}
        seen["raw"] = [x.get_ydata() for x in axis.get_lines() if x.get_label().startswith("_")]
        seen["bands"], seen["said"] = len(axis.collections), axis.get_legend().get_title().get_text()
        seen["axes"] = axis.get_xlabel(), axis.get_ylabel()
        return save(made, path)

    save = style.save
    monkeypatch.setattr(style, "save", look)
    path = report.learning_curve(job, tmp_path)
    with Image.open(path) as picture:
        picture.verify()
    assert list(seen["lines"]) == lines and "environment steps" in seen["axes"][0] and "return" in seen["axes"][1]
    (tmp_path / "metrics.jsonl").write_text("")
    assert report.learning_curve(job, tmp_path) is None
    first = np.array([row[names[0]] for row in rows])
    if seeds > 1:
        assert seen["bands"] == len(lines) and "mean of 3 seeds" in seen["said"] and "95%" in seen["said"]
        np.testing.assert_allclose(seen["lines"][lines[0]], first.mean(axis=1))
    else:
        assert seen["bands"] == 0 and "mean of 11 iterations" in seen["said"]
        np.testing.assert_array_equal(seen["raw"][0], first)
        assert seen["lines"][lines[0]][0] == first[0] and seen["lines"][lines[0]][-1] == first[-1]
