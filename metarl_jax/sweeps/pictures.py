"""What a sweep looks like: score against each key, all keys side by side as parallel coordinates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.runs import style
from metarl_jax.runs.style import GRID, INK
from metarl_jax.sweeps.search_space import Dimension


def sweep_picture(
    rows: list[dict[str, Any]],
    dimensions: Sequence[Dimension],
    score: str,
    higher_is_better: bool,
    path: Path,
    title: str = "",
) -> Path:
    """PNG: a panel a key, the response surface where there are two ranges, and parallel coordinates.

    Points are trials, means over seeds, coloured by score; bars reach from the lowest seed to the highest, crosses at
    the bottom are trials that diverged.
    """
    scores = np.array([row["score"] if not row["diverged_seeds"] else np.nan for row in rows], float)
    positions = {d.name: np.array([_position(d, row[d.name]) for row in rows]) for d in dimensions}
    ranges = [d for d in dimensions if d.kind != "list"]
    surface = len(ranges) == 2
    panels = len(dimensions) + surface + (len(dimensions) > 1)
    columns = 2 if panels == 4 else min(panels, 3)
    lines = -(-panels // columns)
    figure, axes = style.figure(lines, columns, 4.2, 3.2)
    seeds = [name for name in rows[0] if name.startswith("score_seed_")]
    of_seeds = np.array([[row[name] for name in seeds] for row in rows], float)
    flat = list(axes.flat)
    for axis in flat[panels:]:
        axis.axis("off")
    fine = np.isfinite(scores)
    colours = {"cmap": style.MAP if higher_is_better else f"{style.MAP}_r", "c": scores[fine]}
    shown = None
    for axis, d in zip(flat, dimensions, strict=False):
        if len(seeds) > 1:
            low, high = (reach(of_seeds[fine], axis=1) for reach in (np.nanmin, np.nanmax))
            axis.vlines(positions[d.name][fine], low, high, color=GRID, linewidth=1.2, zorder=1)
        shown = axis.scatter(positions[d.name][fine], scores[fine], s=14, zorder=2, **colours)
        if (~fine).any() and fine.any():
            bottom = np.full((~fine).sum(), scores[fine].min())
            axis.scatter(positions[d.name][~fine], bottom, marker="x", color=style.OURS, s=20, label="diverged")
            axis.legend(fontsize=8, frameon=False)
        _ticks(axis.xaxis, d)
        axis.set_xlabel(d.name)
        axis.set_ylabel(score.replace("_", " "))
    rest = iter(flat[len(dimensions) : panels])
    if surface:
        axis = next(rest)
        shown = axis.scatter(positions[ranges[0].name][fine], positions[ranges[1].name][fine], s=36, **colours)
        for side, d in ((axis.xaxis, ranges[0]), (axis.yaxis, ranges[1])):
            _ticks(side, d)
        axis.set_xlabel(ranges[0].name)
        axis.set_ylabel(ranges[1].name)
    if len(dimensions) > 1:
        _parallel(next(rest), dimensions, positions, scores, higher_is_better)
    if shown is not None and fine.any():
        figure.colorbar(shown, ax=axes, label=score.replace("_", " "))
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    return style.save(figure, path)


def schedule_picture(
    values: dict[str, np.ndarray],
    records: Any,
    dimensions: Sequence[Dimension],
    interval: int,
    score: tuple[str, int],
    path: Path,
) -> Path:
    """PNG: score and hyperparameters of the first population over training; the best member's lineage in front.

    Args:
        values: name -> [interval, population, member]; records: `pbt.Record`, with fitness and source of that shape.
        score: the name of what was measured, and 1, or -1 where less is better.
    """
    fitness = np.asarray(records.fitness)[:, 0]
    lineage = lineage_of(fitness, np.asarray(records.source)[:, 0])
    panels = [
        (score[0].replace("_", " "), score[1] * fitness, None),
        *((d.name, values[d.name][:, 0], d) for d in dimensions),
    ]
    figure, axes = style.figure(1, len(panels), 3.8, 3.2)
    at = interval * np.arange(1, len(fitness) + 1)
    for axis, (label, lines, d) in zip(axes[0], panels, strict=True):
        axis.plot(at, np.where(np.isfinite(lines), lines, np.nan), color=style.BEFORE, linewidth=0.7, alpha=0.6)
        axis.plot(at, lines[np.arange(len(at)), lineage], color=style.OURS, linewidth=2)
        if d is not None and d.kind == "log":
            axis.set_yscale("log")
        axis.set_xlabel("iterations")
        axis.set_ylabel(label)
    return style.save(figure, path)


def lineage_of(fitness: np.ndarray, source: np.ndarray) -> np.ndarray:
    """[interval] where the ancestors of the member that ended best stood; fitness, source [interval, member]."""
    place = int(np.argmax(fitness[-1]))
    path = [place]
    for before in source[-2::-1]:
        path.append(int(before[path[-1]]))
    return np.array(path[::-1])


def _position(d: Dimension, value: Any) -> float:
    """Where a value lies on an axis from 0 to 1."""
    if d.kind == "list":
        return d.values.index(value) / max(1, len(d.values) - 1)
    if d.kind == "log":
        return float(np.log(value / d.low) / np.log(d.high / d.low))
    return (value - d.low) / (d.high - d.low)


def _ticks(axis: Any, d: Dimension) -> None:
    if d.kind == "list":
        axis.set_ticks([_position(d, v) for v in d.values], [str(v) for v in d.values])
    else:
        at = (0, 0.5, 1)
        axis.set_ticks(at, [f"{d.at(u):.2g}" for u in at])


def _parallel(
    axis: Any, dimensions: Sequence[Dimension], positions: dict[str, np.ndarray], scores: np.ndarray, higher: bool
) -> None:
    import matplotlib

    order = np.argsort(np.where(np.isfinite(scores), scores if higher else -scores, -np.inf))  # the best on top
    place = np.empty(len(scores))
    place[order] = np.linspace(0, 1, len(scores))
    for i in order:
        colour = matplotlib.colormaps["viridis"](place[i]) if np.isfinite(scores[i]) else style.OURS
        heights = [positions[d.name][i] for d in dimensions]
        axis.plot(range(len(dimensions)), heights, color=colour, alpha=0.25 + 0.65 * place[i], linewidth=1.1)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_xticks(range(len(dimensions)), [d.name for d in dimensions], fontsize=8, rotation=20)
    axis.set_yticks([])
    axis.tick_params(length=0, pad=8)
    axis.grid(False)
    for x, d in enumerate(dimensions):
        axis.plot([x, x], [0, 1], color=GRID, linewidth=0.8, zorder=0)
        low, high = (d.values[0], d.values[-1]) if d.kind == "list" else (f"{d.low:.2g}", f"{d.high:.2g}")
        for y, text in ((-0.06, low), (1.06, high)):
            axis.text(x, y, str(text), ha="center", va="center", fontsize=7, color=INK)
