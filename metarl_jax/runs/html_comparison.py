"""`metarl report RUN RUN ...`: one page of HTML about several runs on the same held-out tasks.

What `metarl compare` prints, as tables and figures with their intervals, above the learning curves, films and
configurations of the runs. A run that has no evaluation of its newest checkpoint is evaluated first.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.runs import charts, evaluate, files, html_report, page, report, style
from metarl_jax.runs.build import Job
from metarl_jax.runs.compare import compare
from metarl_jax.runs.listing import run_of


def comparison_page(directories: Sequence[Path], say: Callable[[Any], None] = print) -> str:
    """The page of several runs, or best members of sweeps; the first is held against each of the others.

    Raises: ConfigError for what `compare` refuses, a damaged file beside a run, or without plotly.
    """
    page.graph_objects()
    found = compare(directories, say)
    places = [run_of(directory) for directory in directories]
    jobs = [evaluate.open_run(place) for place in places]
    rows = [html_report.read_metrics(place) for place in places]
    names = short(directories)
    for row, name in zip([*found["runs"], *found["first_against"]], [*names, *names[1:]], strict=True):
        row["run"] = name
    configs = [job.config for job in jobs]
    sections: html_report.Sections = [
        ("Scores", _scores(found)),
        ("The first against the others", _pairs(found)),
        ("Learning curves", _curves(jobs, rows, names)),
        ("What was run", _about(places, jobs, rows, names)),
        ("Films and pictures", _films(places, names)),
        ("Configurations", html_report.differing(configs, names)),
    ]
    return page.page(f"{len(places)} runs on {found['env']}", ", ".join(map(str, directories)), sections)


def short(directories: Sequence[Path]) -> list[str]:
    """The names of directories, or the whole paths where two have the same name."""
    names = [directory.name for directory in directories]
    return names if len(set(names)) == len(names) and all(names) else [str(directory) for directory in directories]


def _scores(found: dict[str, Any]) -> list[str]:
    """Mean and IQM of each run after adaptation."""
    names = [f"{row['run']} ({row['algorithm']})" for row in found["runs"]]
    columns = ["run", "algorithm", "seeds", "learned from", "mean", "95% interval", "IQM", "95% interval of the IQM"]
    rows, saved = [], []
    for row in found["runs"]:
        about = [row["run"], row["algorithm"], row["num_seeds"], row["after"]]
        rows.append([*about, *_spans(row, "mean"), *_spans(row, "iqm")])
        saved.append([*about, *_numbers(row, "mean"), *_numbers(row, "iqm")])
    plain = ["run", "algorithm", "seeds", "learned from", "mean", "mean low", "mean high", "iqm", "iqm low", "iqm high"]
    many = f"{found['num_tasks']} held-out task{'s' if found['num_tasks'] > 1 else ''}"
    made = charts.forest(names, [_triple(row, "mean") for row in found["runs"]], f"{found['score']} after adaptation")
    note = f"Means over {many} and seeds; bars: {found['interval']}."
    return [
        page.paragraph(f"{found['score'].capitalize()} after adaptation, on {many}."),
        page.table("Scores after adaptation", columns, rows, saved=(plain, saved)),
        page.figure("Means after adaptation", made, plain, saved, note, 110 + 50 * len(rows)),
    ]


def _pairs(found: dict[str, Any]) -> list[str]:
    """Differences paired over tasks, and probabilities of improvement."""
    first, pairs = found["runs"][0]["run"], found["first_against"]
    columns = ["minus", "difference of the means", "95% interval", "probability of improvement", "95% interval of it"]
    better = "probability_of_improvement"
    rows = [[p["run"], *_spans(p, "difference"), *_spans(p, better)] for p in pairs]
    saved = [[p["run"], *_numbers(p, "difference"), *_numbers(p, better)] for p in pairs]
    plain = ["minus", "difference", "difference low", "difference high", "probability", "probability low",
             "probability high"]  # fmt: skip
    names = [p["run"] for p in pairs]
    values, title = [_triple(p, "difference") for p in pairs], f"{found['score']}, {first} minus the other"
    differences = charts.forest(names, values, title, line_at=0, first=1)
    values, height = [_triple(p, better) for p in pairs], 110 + 50 * len(pairs)
    chances = charts.forest(names, values, "probability of improvement", line_at=0.5, first=1)
    chances.update_xaxes(range=[-0.03, 1.03])
    sign = "" if found["score"] == "return" else " Less is better: a difference below 0 is in favour of the first."
    return [
        page.paragraph(
            f"{first} against each of the others, on the same tasks. The probability of improvement is that a seed of "
            f"the first is better on a task than a seed of the other, ties by half.{sign}"
        ),
        page.table("The first against the others", columns, rows, saved=(plain, saved)),
        page.small(
            [
                page.figure(
                    "Differences", differences, plain, saved, "Paired over tasks; bars: 95% intervals.", height
                ),
                page.figure(
                    "Probability of improvement", chances, plain, saved, "Bars: 95% intervals over tasks.", height
                ),
            ]
        ),
    ]


def _spans(row: dict[str, Any], name: str) -> list[Any]:
    return [row[name], page.interval(*row[f"{name}_interval"])]


def _numbers(row: dict[str, Any], name: str) -> list[float]:
    return [row[name], *row[f"{name}_interval"]]


def _triple(row: dict[str, Any], name: str) -> tuple[float, float, float]:
    low, high = row[f"{name}_interval"]
    return row[name], low, high


def _curves(jobs: list[Job], rows: list[list[dict[str, Any]]], names: list[str]) -> list[str]:
    """The score in training after the last update, or in the last episode, of every run against its work."""
    begun = [(i, job, r) for i, (job, r) in enumerate(zip(jobs, rows, strict=True)) if r]
    if not begun:
        return []
    scales, labels = zip(*(report.work_axis(job, r) for _, job, r in begun), strict=True)
    scale, work = max(zip(scales, labels, strict=True))
    made = charts.empty(work, report.score_axis(jobs[0]), log_y=not jobs[0].higher_is_better)
    table, stages, seeds = [], set(), set()
    for i, job, found in begun:
        metric, stage = list(report.curves(job, found).items())[-1]
        values = files.column(found, metric)
        iterations = np.array([row["iteration"] for row in found])
        charts.add_curve(made, iterations * job.work_per_iteration / scale, values, names[i], charts.colour(i))
        centre, low, high = style.mean_and_interval(values)
        for at, *numbers in zip(iterations.tolist(), centre.tolist(), low.tolist(), high.tolist(), strict=True):
            table.append([names[i], metric, at, at * job.work_per_iteration, *numbers])
        stages.add(stage)
        seeds.add(job.config.num_seeds)
    note = f"Training, {' or '.join(sorted(stages))}. " + _about_seeds(seeds)
    note += "" if jobs[0].higher_is_better else charts.on_log_axis(made)
    columns = ["run", "metric", "iteration", jobs[0].unit, "mean", "low", "high"]
    return [page.figure("Learning curves", made, columns, table, note)]


def _about_seeds(seeds: set[int]) -> str:
    parts = []
    if max(seeds) > 1:
        parts.append("Lines: means over seeds; bands: 95% intervals of them over seeds (Student's t).")
    if 2 in seeds:
        parts.append("A run of two seeds has no band; both are drawn thin.")
    if min(seeds) == 1:
        parts.append("A run of one seed has no band; where it is smoothed, every iteration is drawn thin behind it.")
    return " ".join(parts)


def _about(places: list[Path], jobs: list[Job], rows: list[list[dict[str, Any]]], names: list[str]) -> list[str]:
    blocks = []
    for place, job, found, name in zip(places, jobs, rows, names, strict=True):
        blocks.append(page.heading(name))
        blocks += html_report.about(html_report.about_run(place, job, found), html_report.read_info(place))
    return blocks


def _films(places: list[Path], names: list[str]) -> list[str]:
    blocks = []
    for place, name in zip(places, names, strict=True):
        there = html_report.films(place)
        blocks += [page.heading(name), *there] if there else []
    return blocks
