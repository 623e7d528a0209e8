"""`metarl report SWEEP`: one page of HTML about a sweep, which needs nothing beside it.

It shows what was asked, the table of trials, score against each key and each pair of keys, all keys side by side, the
curves of the best trials, and what is known of the best member. Population-based training has the figures of
`html_lineage` in their place.
"""

import csv
import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.options import ConfigError
from metarl_jax.runs import charts, files, html_report, page, style, user_parts
from metarl_jax.runs.build import Job, build
from metarl_jax.runs.config import validate
from metarl_jax.runs.listing import BEST
from metarl_jax.sweeps import html_lineage, search_space
from metarl_jax.sweeps.plan import read
from metarl_jax.sweeps.search_space import Dimension

SHOWN_CURVES, THIN_CURVES, PAIRS = 5, 50, 10


def sweep_page(directory: Path) -> str:
    """The page of a sweep directory.

    Raises: ConfigError for a damaged file in it, or without plotly.
    """
    page.graph_objects()
    file = directory / "sweep.json"
    user_parts.recall(directory)
    made = read(file)
    with html_report.sound(f"sweep {file}"):
        config, settings, method = validate(made["config"]), list(map(dict, made["settings"])), str(made["method"])
        dimensions = [search_space.parse(text, config.model_dump()) for text in made["dimensions"]]
        info, interval = dict(made.get("info") or {}), int(made.get("interval") or 1)
        _check(settings, dimensions)
    job, is_pbt = build(config), method == "pbt"
    members = "members" if is_pbt else "trials"
    about: list[tuple[str, Any]] = [
        ("algorithm", config.algorithm),
        ("environment", config.env),
        ("method", method),
        (members, len(settings)),
        ("populations" if is_pbt else "seeds of each", html_report.seeds_of(config)),
        ("iterations", f"{config.num_iterations:,}, of {job.work_per_iteration:,} {job.unit} each"),
        *((f"{d.name} varies", d.text) for d in dimensions),
    ]
    if is_pbt:
        about.append(("interval", f"{interval} iterations between exploits"))
    sections: html_report.Sections = [("What was run", html_report.about(about, info))]
    rows = read_table(directory / "table.csv", len(settings))
    if not rows:
        sections.append(("Settings", _not_yet(directory, settings, dimensions)))
    elif is_pbt:
        sections.append(("Members", [_table(rows, "The members at the end, the best first")]))
        sections += html_lineage.sections(directory, job, dimensions, interval)
    else:
        trials = _Trials(job, dimensions, settings, rows)
        sections += [
            ("Trials", [_table(rows, "The trials, the best first")]),
            ("Score against each key", _against_keys(trials)),
            ("Response surfaces", _surfaces(trials)),
            ("All keys side by side", _parallel(trials)),
            ("Learning curves", _curves(directory / "curves.npz", trials)),
        ]
    sections += [("The best member", _best(directory)), ("Configuration", html_report.configuration(config))]
    title = f"{'Population-based training' if is_pbt else 'Sweep'} of {config.algorithm} on {config.env}"
    return page.page(title, f"sweep {directory}", sections)


def _check(settings: list[dict[str, Any]], dimensions: list[Dimension]) -> None:
    """Raises: KeyError, TypeError or ValueError for a setting whose values are not of the keys that vary."""
    for d, setting in itertools.product(dimensions, settings):
        value = setting[d.name]
        if d.kind == "list":
            d.values.index(_plain(value))
        elif not math.isfinite(value) or d.kind == "log" and value <= 0:
            raise ValueError(f"{d.name} = {value} lies in no range")


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def read_table(path: Path, count: int) -> list[dict[str, Any]]:
    """The rows of a table.csv, numbers as numbers; none where there is no table yet.

    Raises: ConfigError for a file that holds something else.
    """
    if not path.is_file():
        return []
    with html_report.sound(f"table {path}"):
        found = list(csv.DictReader(io.StringIO(files.read_text(path, "table")), restkey="", restval="", strict=True))
        rows = [{name: _value(name, text) for name, text in row.items()} for row in found]
        for row in rows:
            if not 0 <= row["trial"] < count or "" in row:
                raise ValueError("a row that is none")
            if not all(isinstance(row[name], int) for name in ("iterations", "diverged_seeds")):
                raise ValueError("a count that is none")
            row["score"]
    return rows


def _value(name: str, text: str) -> Any:
    if name == "score" or name.startswith("score_seed_"):
        return float(text)
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return text


def _table(rows: list[dict[str, Any]], name: str) -> str:
    columns = list(rows[0])
    return page.table(name, columns, [[row[c] for c in columns] for row in rows])


def _not_yet(directory: Path, settings: list[dict[str, Any]], dimensions: list[Dimension]) -> list[str]:
    said = f"There is no table yet: the same command with `--run-dir {directory} --resume` goes on, and makes it."
    names = [d.name for d in dimensions]
    rows = [[i, *(html_report.shown(s.get(n)) for n in names)] for i, s in enumerate(settings)]
    return [page.paragraph(said), page.table("What will be tried", ["trial", *names], rows)]


# --- trials in figures ----------------------------------------------------------------------------------


class _Trials:
    """The rows of a table as arrays, the best trial first."""

    def __init__(self, job: Job, dimensions: list[Dimension], settings: list[dict[str, Any]], rows: list[dict]):
        self.job, self.dimensions, self.rows = job, dimensions, rows
        self.settings = [settings[row["trial"]] for row in rows]
        whole = np.array([not row["diverged_seeds"] for row in rows])
        self.scores = np.where(whole, np.array([row["score"] for row in rows], float), np.nan)
        self.fine = np.isfinite(self.scores)
        seeds = [name for name in rows[0] if name.startswith("score_seed_")]
        self.of_seeds = np.array([[row[name] for name in seeds] for row in rows], float)
        done = np.array([row["iterations"] for row in rows])
        self.full = done == done.max()
        self.score = job.score.replace("_", " ")
        self.hover = [self._about(i) for i in range(len(rows))]
        self.scale = style.MAP.capitalize() + ("" if job.higher_is_better else "_r")

    def _about(self, i: int) -> str:
        values = [f"{name} = {html_report.shown(value)}" for name, value in self.settings[i].items()]
        lines = [f"trial {self.rows[i]['trial']}: {page.number(float(self.rows[i]['score']))}", *values]
        return "<br>".join(charts.plain(line) for line in lines)

    def at(self, d: Dimension) -> list[Any]:
        """Where the trials lie on the axis of a key: its values, or their places in a list."""
        found = [setting[d.name] for setting in self.settings]
        if d.kind != "list":
            return [float(x) for x in found]
        return [d.values.index(_plain(x)) for x in found]

    def symbols(self) -> list[str]:
        return ["circle" if full else "circle-open" for full in self.full[self.fine]]

    def note(self) -> str:
        """What the points are."""
        parts = [f"Points: trials, {self.score} over the last tenth of their iterations, mean over seeds."]
        if not self.full.all():
            parts.append("Open: trials that were stopped early.")
        if not self.fine.all():
            parts.append("Crosses: trials that diverged or have no score.")
        return " ".join(parts)

    def columns(self) -> tuple[list[str], list[list[Any]]]:
        """The table, for CSV."""
        names = list(self.rows[0])
        return names, [[row[n] for n in names] for row in self.rows]


def _axis(d: Dimension) -> dict[str, Any]:
    """How the axis of a key is drawn."""
    if d.kind == "list":
        ticks = [charts.plain(html_report.shown(v)) for v in d.values]
        return {"tickvals": list(range(len(ticks))), "ticktext": ticks, "range": [-0.5, len(ticks) - 0.5]}
    return {"type": "log" if d.kind == "log" else "linear", "exponentformat": "e"}


def _against_keys(trials: _Trials) -> list[str]:
    """A figure a key: the score of each trial; bars from the lowest seed to the highest."""
    blocks = []
    fine, scores = trials.fine, trials.scores
    many = trials.of_seeds.shape[1] > 1
    for d in trials.dimensions:
        made, x = charts.empty(d.name, trials.score), np.array(trials.at(d), float)
        options: dict[str, Any] = {}
        if many and fine.any():
            low, high = (reach(trials.of_seeds[fine], axis=1) for reach in (np.nanmin, np.nanmax))
            bars = {"symmetric": False, "array": charts.numbers(high - scores[fine])}
            bars["arrayminus"] = charts.numbers(scores[fine] - low)
            options["error_y"] = {
                "type": "data",
                "color": charts.faint(style.BEFORE, 0.5),
                "thickness": 1.2,
                "width": 0,
                **bars,
            }
        marker = {"color": charts.numbers(scores[fine]), "colorscale": trials.scale, "size": 8}
        _points(made, trials, fine, x, scores, {**marker, "symbol": trials.symbols()}, **options)
        if fine.any() and not fine.all():
            bottom = np.full(len(x), scores[fine].min())
            _points(made, trials, ~fine, x, bottom, {"color": style.OURS, "symbol": "x", "size": 8})
        made.update_xaxes(**_axis(d))
        blocks.append(page.figure(d.name, made, *trials.columns()))
    bars_are = " Bars: lowest to highest seed." if many else ""
    return [page.paragraph(trials.note() + bars_are), page.small(blocks)]


def _points(
    made: Any, trials: _Trials, which: np.ndarray, x: np.ndarray, y: np.ndarray, marker: dict, **more: Any
) -> None:
    text = [hover for hover, there in zip(trials.hover, which, strict=True) if there]
    options = {"mode": "markers", "showlegend": False, "hovertemplate": "%{text}<extra></extra>"}
    made.add_scatter(
        x=charts.numbers(x[which]), y=charts.numbers(y[which]), text=text, marker=marker, **options, **more
    )


def _surfaces(trials: _Trials) -> list[str]:
    """A figure a pair of keys: where the trials lie, coloured by their scores."""
    pairs = list(itertools.combinations(trials.dimensions, 2))
    if not pairs or not trials.fine.any():
        return []
    order = np.argsort(trials.scores[trials.fine] * (1 if trials.job.higher_is_better else -1))  # the best on top
    which = np.flatnonzero(trials.fine)[order]
    symbols = np.array(trials.symbols())[order].tolist()
    blocks = []
    for first, second in pairs[:PAIRS]:
        made = charts.empty(first.name, second.name)
        x, y = (np.array(trials.at(d), float) for d in (first, second))
        bar = {"thickness": 10, "title": {"text": trials.score, "side": "right"}}
        marker = {"color": charts.numbers(trials.scores[which]), "colorscale": trials.scale, "size": 11}
        made.add_scatter(
            x=charts.numbers(x[which]),
            y=charts.numbers(y[which]),
            mode="markers",
            marker={**marker, "showscale": True, "colorbar": bar, "symbol": symbols},
            text=[trials.hover[i] for i in which],
            hovertemplate="%{text}<extra></extra>",
        )
        if not trials.fine.all():
            _points(made, trials, ~trials.fine, x, y, {"color": style.OURS, "symbol": "x", "size": 8})
        made.update_xaxes(**_axis(first))
        made.update_yaxes(**_axis(second))
        blocks.append(page.figure(f"{first.name} and {second.name}", made, *trials.columns()))
    more = f" The first {PAIRS} of {len(pairs)} pairs of keys." if len(pairs) > PAIRS else ""
    said = f"{trials.note()} Nothing is interpolated; where trials share a place the best is on top.{more}"
    return [page.paragraph(said), page.small(blocks)]


def _parallel(trials: _Trials) -> list[str]:
    """Each trial as a line through its values of all keys, coloured by its rank."""
    if len(trials.dimensions) < 2 or not trials.fine.any():
        return []
    made, levels = charts.empty("", ""), 10
    which = np.flatnonzero(trials.fine)
    rank = np.argsort(np.argsort(trials.scores[which] * (1 if trials.job.higher_is_better else -1)))
    level = rank * levels // len(which)  # 0: the worst
    places = np.stack([_heights(d, trials.at(d)) for d in trials.dimensions])  # [key, trial]
    palette = _palette(levels)
    for k in range(levels):
        heights = [charts.numbers(places[:, i]) + [None] for i in which[level == k]]
        x = [*range(len(trials.dimensions)), None] * len(heights)
        line = {"color": palette[k], "width": 1 + 1.5 * k / levels}
        flat = list(itertools.chain.from_iterable(heights))
        made.add_scatter(x=x, y=flat, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for i, d in enumerate(trials.dimensions):
        ends = (d.values[0], d.values[-1]) if d.kind == "list" else (f"{d.low:.3g}", f"{d.high:.3g}")
        for y, value in zip((-0.08, 1.08), ends, strict=True):
            made.add_annotation(x=i, y=y, text=charts.plain(html_report.shown(value)), showarrow=False)
    names = [charts.plain(d.name) for d in trials.dimensions]
    made.update_xaxes(tickvals=list(range(len(names))), ticktext=names, range=[-0.3, len(names) - 0.7])
    made.update_yaxes(visible=False)
    note = (
        "Lines: trials, by rank from the worst (dark, thin) to the best (bright, thick), without those that diverged."
    )
    return [page.figure("All keys", made, *trials.columns(), note)]


def _heights(d: Dimension, at: list[Any]) -> np.ndarray:
    """Positions of a key between 0 and 1."""
    if d.kind == "list":
        return np.array(at, float) / max(1, len(d.values) - 1)
    return np.array([d.unit(x) for x in at])


def _palette(levels: int) -> list[str]:
    import matplotlib
    from matplotlib.colors import to_hex

    return [to_hex(matplotlib.colormaps[style.MAP](u)) for u in np.linspace(0, 1, levels)]


def _curves(path: Path, trials: _Trials) -> list[str]:
    """The curves of the best trials with intervals over seeds, in front of the means of others."""
    if not path.is_file():
        return []
    curves = files.read_arrays(path, "curves", "score")["score"]
    highest = max(row["trial"] for row in trials.rows)
    if curves.ndim != 3 or len(curves) <= highest or not np.issubdtype(curves.dtype, np.floating):
        raise ConfigError(f"curves {path}: is damaged (not [trial, seed, iteration])")
    made, table = charts.empty("iterations", trials.score), []
    best = [row for row, fine in zip(trials.rows, trials.fine, strict=True) if fine]
    shown, thin = best[:SHOWN_CURVES], best[SHOWN_CURVES : SHOWN_CURVES + THIN_CURVES]
    x_of_others: list[Any] = []
    y_of_others: list[Any] = []
    centres: list[np.ndarray] = []
    for i, row in [*((-1, row) for row in thin), *enumerate(shown)]:
        values = curves[row["trial"], :, : int(row["iterations"])].T.astype(float)  # [iteration, seed]
        x = np.arange(1, len(values) + 1)
        centre, low, high = style.mean_and_interval(values)
        centres.append(centre)
        if i < 0:
            at = charts.thinned(len(x))
            x_of_others += [*x[at].tolist(), None]
            y_of_others += [*charts.numbers(centre[at]), None]
        for n, *numbers in zip(x.tolist(), centre.tolist(), low.tolist(), high.tolist(), values.tolist(), strict=True):
            table.append([row["trial"], n, *numbers[:3], *numbers[3]])
    if thin:
        line = {"color": charts.faint(style.BEFORE, 0.5), "width": 0.8}
        made.add_scatter(x=x_of_others, y=y_of_others, mode="lines", line=line, name="others", hoverinfo="skip")
    for i, row in enumerate(shown):
        values = curves[row["trial"], :, : int(row["iterations"])].T.astype(float)
        charts.add_curve(made, np.arange(1, len(values) + 1), values, f"trial {row['trial']}", charts.colour(i))
    made.update_yaxes(range=_reach(centres))
    seeds = curves.shape[1]
    about = charts.about_curves(seeds, max(int(row["iterations"]) for row in trials.rows))
    others = f" Grey: the means of {len(thin)} others." if thin else ""
    left = len(trials.rows) - len(shown) - len(thin)
    kept = f" {left} more are in curves.npz." if left > 0 else ""
    cut = " Bands are cut where they reach far beyond the lines." if seeds >= style.SEEDS_OF_A_BAND else ""
    note = f"The {len(shown)} best trials. {about}{cut}{others}{kept}"
    columns = [
        "trial",
        "iteration",
        "mean",
        "low",
        "high",
        *(f"seed {trials.job.config.seed + s}" for s in range(seeds)),
    ]
    return [page.figure("Curves of the best trials", made, columns, table, note)] if best else []


def _reach(centres: list[np.ndarray]) -> list[float] | None:
    """The range of an axis that shows all lines with some room; intervals of two seeds may be many times as wide."""
    whole = np.concatenate(centres) if centres else np.zeros(0)
    whole = whole[np.isfinite(whole)]
    if not whole.size:
        return None
    low, high = float(whole.min()), float(whole.max())
    room = 0.3 * (high - low) or 1.0
    return [low - room, high + room]


def _best(directory: Path) -> list[str]:
    """What is known of the best member, which is kept as a run."""
    place = directory / BEST
    if not (place / "config.yaml").is_file():
        return [page.paragraph("No best member is kept yet; a sweep keeps it at its end.")]
    said = f"It is kept as a run: `metarl report {place}` writes its page, and best.yaml is its configuration."
    return [page.paragraph(said), *html_report.adaptation(place), *html_report.films(place)]
