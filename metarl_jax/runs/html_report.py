"""`metarl report RUN`: one page of HTML about a run, which needs nothing beside it.

It shows what was run and with what, the curves of training with intervals over seeds, what evaluation found on held-out
tasks with intervals over these, films, and every key of the configuration. Beside each table and curve a link saves its
numbers as CSV. What a run has not made yet is left out, and the page says which command makes it.
"""

import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.options import ConfigError
from metarl_jax.runs import charts, evaluate, files, page, report, style
from metarl_jax.runs.build import Job
from metarl_jax.runs.config import describe

Sections = list[tuple[str, list[str]]]
MAX_PICTURE = 2**25  # bytes of a picture that is put into the page


def run_page(place: Path) -> str:
    """The page of a run directory.

    Raises: ConfigError for what is no run, a damaged file beside it, or without plotly.
    """
    page.graph_objects()
    job = evaluate.open_run(place)
    rows = read_metrics(place)
    title = f"{job.config.algorithm} on {job.config.env}"
    sections: Sections = [
        ("What was run", about(about_run(place, job, rows), read_info(place))),
        ("Learning curve", learning_curve(job, place, rows)),
        ("Adaptation", adaptation(place)),
        ("Films and pictures", films(place)),
        ("Other metrics", other_metrics(job, rows)),
        ("Configuration", configuration(job.config)),
    ]
    return page.page(title, f"run {place}", sections)


def write(text: str, output: Path) -> Path:
    """Write a page, whole or not at all."""
    with files.worded(f"report {output}"):
        files.write_whole(output, text)
    return output


# --- what was run ---------------------------------------------------------------------------------------


def read_metrics(place: Path) -> list[dict[str, Any]]:
    """The rows of a run; none where it has logged nothing."""
    return files.read_rows(place / "metrics.jsonl") if (place / "metrics.jsonl").is_file() else []


def read_info(place: Path) -> dict[str, Any]:
    """Versions, device and command; {} where there is no such file."""
    return files.read_json(place / "info.json", "info") if (place / "info.json").is_file() else {}


def about_run(place: Path, job: Job, rows: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """What was run, how far it has come and how long it took."""
    c, done = job.config, rows[-1]["iteration"] if rows else 0
    unit = "environment steps" if job.unit == "steps" else job.unit
    work = done * job.work_per_iteration
    so_far = f"{done:,} of {c.num_iterations:,}"
    if done < c.num_iterations:
        so_far += f"; metarl train --run-dir {place} --resume goes on"
    found: list[tuple[str, Any]] = [
        ("algorithm", c.algorithm),
        ("environment", c.env),
        ("seeds", seeds_of(c)),
        ("iterations", so_far),
        (unit, f"{work:,} of each seed, {work * c.num_seeds:,} in all"),
    ]
    seconds = _seconds(place / "timing.jsonl")
    if seconds:
        rate = work * c.num_seeds / seconds
        found.append(("training time", f"{seconds:,.1f} s without compilation, {rate:,.0f} {unit} a second"))
    written = [p.stat().st_mtime for p in (place / "metrics.jsonl", place / "config.yaml") if p.is_file()]
    found.append(("last written", time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(written[0]))))
    return found


def seeds_of(config: Any) -> str:
    """How many seeds, and which."""
    first, last = config.seed, config.seed + config.num_seeds - 1
    return f"{config.num_seeds} (seeds {first} to {last})" if config.num_seeds > 1 else f"1 (seed {first})"


def _seconds(path: Path) -> float:
    rows = files.read_rows(path, "timing") if path.is_file() else []
    return float(np.nansum(files.column(rows, "seconds"))) if rows else 0.0


def about(what: Sequence[tuple[str, Any]], info: dict[str, Any]) -> list[str]:
    """`what`, and the command, the device and the versions that `info.json` names."""
    if not info:
        said = "There is no info.json beside it, so command, device and versions are not known."
        return [page.facts(what), page.paragraph(said)]
    pairs = [
        *what,
        ("command", info.get("command")),
        ("device", f"{info.get('num_devices', 1)} x {info.get('device')} ({info.get('backend')})"),
        ("CPU cores", info.get("cpu_count")),
        ("system", info.get("platform")),
        ("Python", info.get("python")),
    ]
    versions = info.get("versions")
    if isinstance(versions, dict):
        pairs.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return [page.facts((name, value) for name, value in pairs if value is not None)]


def configuration(config: Any) -> list[str]:
    """Keys that differ from their defaults, and all of them."""
    fields, rows, changed = type(config).model_fields, [], []
    for key, default, _, about in describe(config.algorithm):
        value = config.model_dump()[key]
        row = [key, shown(value), default, about.replace("`", "")]
        rows.append(row)
        if fields[key].is_required() or shown(value) != shown(fields[key].default):
            changed.append(row)
    columns = ["key", "value", "default", "meaning"]
    return [
        page.table("Keys that differ from their defaults", columns, changed),
        page.folded(f"All {len(rows)} keys", page.table("Configuration", columns, rows, most=len(rows))),
    ]


def shown(value: Any) -> str:
    """A value of a configuration as text."""
    return value if isinstance(value, str) else json.dumps(value)


# --- curves ---------------------------------------------------------------------------------------------


def learning_curve(job: Job, place: Path, rows: list[dict[str, Any]]) -> list[str]:
    """Scores against work: before and after updates, or in the first, second and last episode of trials."""
    if not rows:
        return [page.paragraph("Nothing is logged yet: metrics.jsonl has no rows.")]
    lines = report.curves(job, rows)
    scale, work = report.work_axis(job, rows)
    made = charts.empty(work, report.score_axis(job), log_y=not job.higher_is_better)
    iterations = np.array([row["iteration"] for row in rows])
    x = iterations * job.work_per_iteration / scale
    values = {name: files.column(rows, name) for name in lines}
    for i, (name, label) in enumerate(lines.items()):
        charts.add_curve(made, x, values[name], label, charts.stage_colour(i) if len(lines) > 1 else style.OURS)
    held_out = _held_out(made, job, place, scale)
    columns, found = charts.curve_columns(values)
    note, head = charts.about_curves(job.config.num_seeds, len(rows)), ["iteration", job.unit, *columns]
    note += "" if job.higher_is_better else charts.on_log_axis(made)
    return [page.figure("Learning curve", made, head, _with_work(job, iterations, found), note), *held_out]


def _held_out(made: Any, job: Job, place: Path, scale: float) -> list[str]:
    """Points for the scores on held-out tasks that were taken during training, and a line that has their numbers."""
    at, scores, label = report.held_out_scores(place)
    if not at:
        return []
    centre, _, high = style.mean_and_interval(scores)
    shown = scores.shape[1] >= style.SEEDS_OF_A_BAND
    bars = {"type": "data", "array": charts.numbers(high - centre), "color": style.INK, "thickness": 1}
    bars["visible"] = shown
    marker, said = {"color": style.INK, "size": 7}, "%{x:.6~g}: %{y:.5~g}"
    x, y = charts.numbers(np.array(at) * job.work_per_iteration / scale), charts.numbers(centre)
    made.add_scatter(x=x, y=y, mode="markers", name=label, error_y=bars, marker=marker, hovertemplate=said)
    columns, found = charts.curve_columns({"held-out score": scores})
    table = _with_work(job, np.array(at), found)
    link = page.csv_link("held-out scores", ["iteration", job.unit, *columns], table)
    bars_are = "; bars: 95% interval over seeds" if shown else ""
    return [f"<p>Points: {page.escape(label)}{bars_are}. {link}</p>"]


def _with_work(job: Job, iterations: np.ndarray, found: np.ndarray) -> list[list[Any]]:
    rows = zip(iterations.tolist(), found.tolist(), strict=True)
    return [[i, i * job.work_per_iteration, *values] for i, values in rows]


def other_metrics(job: Job, rows: list[dict[str, Any]]) -> list[str]:
    """Whatever else was logged: a figure a metric, those that are numbered by update together."""
    if not rows:
        return []
    known, groups = {*report.curves(job, rows), "iteration"}, dict[str, list[str]]()
    for name in sorted({name for row in rows for name in row} - known):
        prefix, _, last = name.rpartition("_")
        groups.setdefault(prefix if prefix and last.isdigit() else name, []).append(name)
    scale, work = report.work_axis(job, rows)
    iterations = np.array([row["iteration"] for row in rows])
    x, blocks = iterations * job.work_per_iteration / scale, []
    for group, names in groups.items():
        made = charts.empty(work, group.replace("_", " "))
        values = {name: files.column(rows, name) for name in sorted(names, key=lambda n: (len(n), n))}
        for i, (name, found) in enumerate(values.items()):
            label = name.replace("_", " ")
            charts.add_curve(made, x, found, label, charts.stage_colour(i) if len(names) > 1 else style.OTHERS[0])
        made.update_layout(showlegend=len(names) > 1)
        columns, numbers = charts.curve_columns(values)
        table = _with_work(job, iterations, numbers)
        blocks.append(page.figure(group.replace("_", " "), made, ["iteration", job.unit, *columns], table))
    note = charts.about_curves(job.config.num_seeds, len(rows))
    return [page.paragraph(note), page.small(blocks)] if blocks else []


# --- evaluation -----------------------------------------------------------------------------------------


@contextmanager
def sound(what: str) -> Iterator[None]:
    """What a file of another shape raises inside becomes a ConfigError.

    Raises: ConfigError.
    """
    try:
        yield
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, csv.Error) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:80]
        raise ConfigError(f"{what}: is damaged ({said}); move it away") from None


def adaptation(place: Path) -> list[str]:
    """What `metarl evaluate` has found: the table, the curve over updates or episodes, and how tasks differ."""
    path = place / "evaluation.json"
    found = evaluate.saved_table(place)
    if found is None:
        return [page.paragraph(f"Not evaluated yet: `metarl evaluate {place}` adds the table of held-out tasks.")]
    with sound(f"evaluation {path}"):
        blocks = [*_table(found), *_curve(found)]
    blocks += _by_task(place, found)
    others = []
    for other in sorted(place.glob("evaluation-*.json")):
        with sound(f"evaluation {other}"):
            others += [page.heading(other.name), *_table(files.read_json(other, "evaluation"))]
    return blocks + ([page.folded("Evaluations of other sizes", *others)] if others else [])


def _table(found: dict[str, Any]) -> list[str]:
    columns = ["", "mean", "95% interval", "IQM", "95% interval of the IQM"]
    some, whole = report.table_rows(found), report.table_rows(found, whole=True)

    def spans(row: dict[str, Any]) -> list[Any]:
        return [x for k in ("mean", "iqm") for x in (row[k], page.interval(*row[f"{k}_interval"]))]

    saved = ["", "mean", "mean low", "mean high", "iqm", "iqm low", "iqm high"]
    numbers = [[label, *(x for k in ("mean", "iqm") for x in (row[k], *row[f"{k}_interval"]))] for label, row in whole]
    name = f"Score on held-out tasks ({found['score']})" if found["tasks_held_out"] else f"Score ({found['score']})"
    shown_rows = [[label, *spans(row)] for label, row in some]
    remarks = [page.paragraph(f"{line[0].upper()}{line[1:]}.") for line in report.remarks(found)]
    return [
        page.paragraph(f"{report.headline(found)}."),
        page.table(name, columns, shown_rows, saved=(saved, numbers)),
        page.paragraph(f"Intervals: {found['interval']}. IQM: interquartile mean."),
        *remarks,
    ]


def _curve(found: dict[str, Any]) -> list[str]:
    """Score against updates or episodes, the run in front of its baselines; bands are intervals over tasks."""
    stages = len(found["adaptation"])
    if stages < 2:
        return []
    by_episode = found.get("stage") == "episode"
    steps = np.arange(stages) + by_episode
    score = "mean squared error" if "error" in found["score"] else "return of an episode"
    title = "episode of a trial" if by_episode else f"{found.get('stage', 'update')}s of adaptation"
    made = charts.empty(title, score, log_y="error" in score)
    rows, names = [], {found["algorithm"]: found["adaptation"], **found["baselines"]}
    for i, (name, summaries) in enumerate(names.items()):
        where = steps if len(summaries) == stages else steps[[0, -1]]
        if len(summaries) not in (1, stages):
            where, summaries = np.arange(len(summaries)) + by_episode, summaries
        elif len(summaries) == 1 < stages:
            summaries = summaries * 2  # a level, from end to end
        table = np.array([[row["mean"], *row["mean_interval"]] for row in summaries], float)
        dash = "solid" if i == 0 else "dash"
        centre, low, high = table.T
        width = 3 if i == 0 else 1.5
        charts.add_line(made, where, centre, low, high, name, charts.colour(i), dash=dash, width=width)
        rows += [[name, x, *values] for x, values in zip(where.tolist(), table.tolist(), strict=True)]
    made.update_xaxes(dtick=max(1, stages // 10))  # whole numbers: there is nothing between two stages
    note = f"Means over tasks and seeds; bands: {found['interval']}."
    note += " Dashed: baselines." if found["baselines"] else ""
    note += charts.on_log_axis(made) if "error" in score else ""
    columns = ["of", title, "mean", "low", "high"]
    name = "Adaptation to held-out tasks" if found["tasks_held_out"] else "Adaptation"
    return [page.figure(name, made, columns, rows, note)]


def _by_task(place: Path, found: dict[str, Any]) -> list[str]:
    """How the score differs between tasks at each stage, from the scores that stand beside the table."""
    path = place / "scores.npz"
    if not path.is_file():
        return []
    scores = files.read_arrays(path, "scores", "run")["run"]
    if scores.ndim != 4 or not np.issubdtype(scores.dtype, np.number):
        raise ConfigError(f"scores {path}: is damaged (not [seed, task, update, episode])")
    seeds, tasks, stages, _ = scores.shape
    if tasks < 5:
        return []
    per_task = scores.mean(axis=-1)  # [seed, task, stage]
    by_episode = found.get("stage") == "episode"
    kept = sorted({0, 1, stages - 1}) if by_episode else range(stages)
    made = charts.empty("", f"{found['score']}, mean of a task")
    made.update_xaxes(type="category")
    for u in [u for u in kept if u < stages]:
        label = f"episode {u + 1}" if by_episode else "before" if u == 0 else f"after {u}"
        options = {"boxpoints": "all" if tasks <= 100 else "outliers", "jitter": 0.4, "pointpos": 0, "boxmean": True}
        tint = charts.stage_colour(u if not by_episode else list(kept).index(u))
        marks = {"marker": {"color": tint, "size": 4, "opacity": 0.6}, "line": {"color": tint, "width": 1.5}}
        made.add_box(y=charts.numbers(per_task[:, :, u].mean(axis=0)), name=label, showlegend=False, **options, **marks)
    columns = ["seed", "task", *(f"stage {u}" for u in range(stages))]
    rows = [[s, t, *per_task[s, t].tolist()] for s in range(seeds) for t in range(tasks)]
    over = "seeds and episodes" if seeds > 1 else "episodes"
    note = f"A point a task, mean over {over}; boxes: quartiles of the {tasks} tasks, dashed their mean."
    return [page.figure("Tasks one by one", made, columns, rows, note)]


# --- films ----------------------------------------------------------------------------------------------


def films(place: Path) -> list[str]:
    """The pictures beside a run, films first; the learning curve is drawn above."""
    with files.worded(f"run {place}"):
        there = [p for p in sorted(place.iterdir()) if p.suffix in page.PICTURES and p.name != "learning_curve.png"]
        sizes = {p: p.stat().st_size for p in there}
    blocks = []
    for path in sorted(there, key=lambda p: p.suffix):
        if sizes[path] > MAX_PICTURE:
            too_large = f"`{path}` is larger than {MAX_PICTURE >> 20} MiB, and is left where it is."
            blocks.append(page.paragraph(too_large))
        else:
            blocks.append(page.picture(path))
    return blocks


def differing(configs: Sequence[Any], names: Sequence[str]) -> list[str]:
    """A table of the keys in which configurations differ, a column each."""
    dumps: list[dict[str, Any]] = [c.model_dump() for c in configs]
    keys = list(dict.fromkeys(key for d in dumps for key in d))
    text: Callable[[dict[str, Any], str], str] = lambda d, key: shown(d[key]) if key in d else "–"  # noqa: E731
    rows = [[key, *(text(d, key) for d in dumps)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return [page.paragraph("The configurations are the same.")]
    return [page.table("Keys that differ", ["key", *names], rows)]
