"""Figures of plotly for `metarl report`, in the colours of `style`: curves with bands, points with intervals.

Names that come from a run are escaped, as plotly reads a few tags of HTML in its texts.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from metarl_jax.runs import page, style

MAX_POINTS = 3000  # of a drawn line; the CSV has all


def colour(i: int) -> str:
    """Of the i-th of several: what is looked at first, then what stands beside it."""
    return (style.OURS, *style.OTHERS)[i % (1 + len(style.OTHERS))]


def stage_colour(i: int) -> str:
    """Of the i-th stage of adaptation."""
    return style.STAGES[min(i, len(style.STAGES) - 1)]


def empty(x_title: str, y_title: str, *, log_y: bool = False, log_x: bool = False, left: int = 64) -> Any:
    """A figure without traces."""
    axis: dict[str, Any] = {"gridcolor": style.GRID, "zeroline": False, "automargin": True, "title_standoff": 8}
    return page.graph_objects().Figure(
        layout={
            "template": None,
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": style.INK},
            "margin": {"l": left, "r": 12, "t": 32, "b": 48},
            "xaxis": {**axis, "title": {"text": plain(x_title)}, "type": "log" if log_x else "linear"},
            "yaxis": {**axis, "title": {"text": plain(y_title)}, "type": "log" if log_y else "linear"},
            "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "font": {"size": 11}},
            "hovermode": "closest",
        }
    )


def plain(text: str) -> str:
    """Text for plotly, which would read tags of HTML in it."""
    return html.escape(text, quote=False)


def numbers(values: Any) -> list[Any]:
    """Floats as JSON has them: None in the place of what is not finite."""
    return [float(x) if math.isfinite(x) else None for x in np.asarray(values, float).ravel()]


def thinned(count: int) -> np.ndarray:
    """Which of `count` points are drawn: every k-th and the last, at most MAX_POINTS or so."""
    every = max(1, -(-count // MAX_POINTS))
    return np.unique(np.append(np.arange(0, count, every), count - 1)) if count else np.arange(0)


def add_line(
    made: Any,
    x: np.ndarray,
    centre: np.ndarray,
    low: np.ndarray | None,
    high: np.ndarray | None,
    name: str,
    tint: str,
    *,
    width: float = 2,
    dash: str = "solid",
    markers: bool = False,
    band: bool = True,
) -> None:
    """A line through `centre`; its interval, where there is one, is read off the points, and drawn if `band`."""
    at = thinned(len(x))
    x, centre = x[at], centre[at]
    style_of: dict[str, Any] = {"name": plain(name), "legendgroup": name, "line": {"color": tint, "width": width}}
    style_of["line"]["dash"] = dash
    said = "%{x:.6~g}: %{y:.5~g}"
    if low is not None and high is not None:
        low, high = low[at], high[at]
        outline_x, outline_y = _outline(x, low, high) if band else ([], [])
        if outline_x:
            fill = {"fill": "toself", "fillcolor": faint(tint, 0.2), "line": {"color": faint(tint, 0.2), "width": 1}}
            more = {"hoverinfo": "skip", "showlegend": False, "legendgroup": name, "name": plain(name)}
            made.add_scatter(x=outline_x, y=outline_y, mode="lines", **fill, **more)
        style_of["customdata"] = [list(pair) for pair in zip(numbers(low), numbers(high), strict=True)]
        said += " [%{customdata[0]:.5~g}, %{customdata[1]:.5~g}]"
    mode = "lines+markers" if markers or len(x) <= 30 else "lines"
    made.add_scatter(
        x=numbers(x), y=numbers(centre), mode=mode, marker={"color": tint, "size": 5}, hovertemplate=said, **style_of
    )


def _outline(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[list[Any], list[Any]]:
    """The band as closed outlines, one for each stretch without gaps."""
    fine = np.isfinite(low) & np.isfinite(high)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], fine.astype(int), [0]])))
    outline_x: list[Any] = []
    outline_y: list[Any] = []
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        here = slice(begin, end)
        gap = [None] if outline_x else []
        outline_x += [*gap, *numbers(x[here]), *numbers(x[here][::-1])]
        outline_y += [*gap, *numbers(high[here]), *numbers(low[here][::-1])]
    return outline_x, outline_y


def on_log_axis(made: Any) -> str:
    """Show what is above zero, where bands end that go on below it; a sentence that says so, if there are any."""
    shown = [y for trace in made.data if trace.fill is None for y in trace.y if y is not None and y > 0]
    if not shown:
        return ""
    floor, top, cut = min(shown) / 3, max(shown), False
    for trace in made.data:
        if trace.fill is not None:
            cut = cut or any(y is not None and y < floor for y in trace.y)
            trace.y = [y if y is None else max(y, floor) for y in trace.y]
            top = max([top, *(y for y in trace.y if y is not None)])
    made.update_yaxes(range=[math.log10(floor), math.log10(1.2 * top)])
    return " Bands that go on below the axis are cut there." if cut else ""


def faint(tint: str, alpha: float) -> str:
    """#rrggbb -> rgba(...)."""
    red, green, blue = (int(tint[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def add_curve(made: Any, x: np.ndarray, values: np.ndarray, name: str, tint: str, dash: str = "solid") -> None:
    """Values [iteration, seed]: the mean over seeds with its interval, of two seeds with each of them; of one all.

    One seed's values are thin, their smoothed line in front.
    """
    num_seeds = values.shape[1]
    window = style.window(len(values)) if num_seeds == 1 else 1
    at = thinned(len(x))
    for seed in values.T if 1 < num_seeds < style.SEEDS_OF_A_BAND or window > 1 else ():
        thin = {"line": {"color": faint(tint, 0.4), "width": 0.8}, "mode": "lines", "hoverinfo": "skip"}
        more = {"legendgroup": name, "showlegend": False, "name": plain(name)}
        made.add_scatter(x=numbers(x[at]), y=numbers(seed[at]), **thin, **more)
    if num_seeds == 1:
        add_line(made, x, style.smoothed(values[:, 0], window), None, None, name, tint, dash=dash)
        return
    wide = num_seeds < style.SEEDS_OF_A_BAND
    add_line(made, x, *style.mean_and_interval(values), name, tint, dash=dash, band=not wide)


def about_curves(num_seeds: int, count: int) -> str:
    """What lines and bands of `add_curve` are."""
    window = style.window(count)
    parts = [f"Lines: mean of {num_seeds} seeds; bands: 95% interval of it over seeds (Student's t)."]
    if num_seeds < style.SEEDS_OF_A_BAND:
        parts = [f"Thick: mean of {num_seeds} seeds; thin: each of them; the interval of two is in the CSV."]
    if num_seeds == 1:
        parts = ["One seed, so there is no interval over seeds."]
        if window > 1:
            parts.append(f"Thin: every logged iteration; thick: mean of {window} of them, fewer at the ends.")
    every = max(1, -(-count // MAX_POINTS))
    if every > 1:
        parts.append(f"One logged iteration in {every} is drawn; the CSV has all.")
    return " ".join(parts)


def curve_columns(names: dict[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Columns of a CSV and [iteration, column]: each seed, and where there are several their mean and interval."""
    columns: list[str] = []
    found = []
    for name, values in names.items():
        if values.shape[1] == 1:
            columns.append(name)
            found.append(values)
            continue
        columns += [f"{name} {what}" for what in ("mean", "low", "high")]
        columns += [f"{name} seed {i}" for i in range(values.shape[1])]
        found.append(np.concatenate([np.stack(style.mean_and_interval(values), axis=1), values], axis=1))
    return columns, np.concatenate(found, axis=1)


def forest(
    labels: Sequence[str],
    rows: Sequence[tuple[float, float, float]],
    title: str,
    line_at: float | None = None,
    first: int = 0,
) -> Any:
    """(value, low, high) one under the other: points with their intervals; a dashed line where nothing differs.

    Args: first: the number and colour of the first of them, counted from 0.
    """
    made = empty(title, "", left=16)
    for i, (label, (value, low, high)) in enumerate(zip(labels, rows, strict=True)):
        tint = colour(i + first)
        bars = {"type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low]}
        made.add_scatter(
            x=[value],
            y=[i],
            error_x={**bars, "color": tint, "thickness": 2},
            mode="markers",
            marker={"color": tint, "size": 10},
            name=plain(label),
            customdata=[[low, high]],
            hovertemplate="%{x:.5~g} [%{customdata[0]:.5~g}, %{customdata[1]:.5~g}]",
            showlegend=False,
        )
        where = {"x": 0, "xref": "paper", "xanchor": "left", "y": i, "yshift": 18}  # above it, for narrow screens
        made.add_annotation(text=plain(label), showarrow=False, **where)
    if line_at is not None:
        made.add_vline(x=line_at, line={"color": style.BEFORE, "dash": "dash", "width": 1})
    made.update_yaxes(range=[len(labels) - 0.6, -0.8], showticklabels=False, showgrid=False)
    return made
