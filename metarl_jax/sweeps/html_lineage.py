"""Population-based training for `metarl report`: how scores and hyperparameters went, and who copied whom."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.options import ConfigError
from metarl_jax.runs import charts, files, page, style
from metarl_jax.runs.build import Job
from metarl_jax.runs.html_report import Sections
from metarl_jax.sweeps.pictures import lineage_of
from metarl_jax.sweeps.search_space import Dimension

MAX_POPULATIONS = 4  # that are drawn member by member


def sections(directory: Path, job: Job, dimensions: Sequence[Dimension], interval: int) -> Sections:
    """The sections of what schedule.npz holds; none where it is not there.

    Raises: ConfigError for a file that is damaged.
    """
    path = directory / "schedule.npz"
    if not path.is_file():
        return []
    names = [d.name for d in dimensions]
    found = files.read_arrays(path, "schedule", "fitness", "source", *names)
    shape = found["fitness"].shape
    numeric = all(np.issubdtype(x.dtype, np.number) for x in found.values())
    if len(shape) != 3 or 0 in shape or not numeric or any(x.shape != shape for x in found.values()):
        raise ConfigError(f"schedule {path}: is damaged (not [interval, population, member])")
    source = found["source"]
    if not np.issubdtype(source.dtype, np.integer) or source.min() < 0 or source.max() >= shape[2]:
        raise ConfigError(f"schedule {path}: is damaged (a member goes on from one that is none)")
    score = (1 if job.higher_is_better else -1) * found["fitness"]
    score = np.where(np.isfinite(score), score, np.nan)  # diverged, or nothing was scored
    ancestors = np.stack([lineage_of(found["fitness"][:, p], source[:, p]) for p in range(shape[1])], axis=1)
    at = interval * np.arange(1, shape[0] + 1)
    columns, rows = _table(job, at, score, found, names)
    return [
        ("Schedules", _schedules(job, dimensions, at, score, found, ancestors, columns, rows)),
        ("Lineage", _lineage(job, at, score, source, ancestors, columns, rows)),
    ]


def _table(
    job: Job, at: np.ndarray, score: np.ndarray, found: dict[str, np.ndarray], names: list[str]
) -> tuple[list[str], list[list[Any]]]:
    """Every number, for CSV: a row an interval, population and member."""
    label = job.score.replace("_", " ")
    columns = ["iteration", "population", "member", label, *names, "goes on from"]
    rows = []
    for t, p, m in np.ndindex(*score.shape):
        values = [float(found[name][t, p, m]) for name in names]
        place = [int(at[t]), job.config.seed + p, m]
        rows.append([*place, float(score[t, p, m]), *values, int(found["source"][t, p, m])])
    return columns, rows


def _schedules(
    job: Job,
    dimensions: Sequence[Dimension],
    at: np.ndarray,
    score: np.ndarray,
    found: dict[str, np.ndarray],
    ancestors: np.ndarray,
    columns: list[str],
    rows: list[list[Any]],
) -> list[str]:
    """Score and hyperparameters of all members over training, the ancestors of each population's best in front."""
    label = job.score.replace("_", " ")
    blocks = []
    for name, values, is_log in [
        (label, score, False),
        *((d.name, found[d.name], d.kind == "log") for d in dimensions),
    ]:
        made = charts.empty("iterations", name, log_y=is_log)
        made.update_yaxes(exponentformat="e")
        lines = values.reshape(len(at), -1).T  # [population * member, interval]
        x = [*at.tolist(), None] * len(lines)
        y = [v for line in lines for v in (*charts.numbers(line), None)]
        faint = {"color": charts.faint(style.BEFORE, 0.5), "width": 0.8}
        made.add_scatter(x=x, y=y, mode="lines", line=faint, name="all members", hoverinfo="skip")
        for p in range(values.shape[1]):
            line = values[np.arange(len(at)), p, ancestors[:, p]]
            title = f"population {job.config.seed + p}"
            charts.add_line(made, at, line, None, None, title, charts.colour(p), width=2.5)
        blocks.append(page.figure(name, made, columns, rows))
    said = (
        "Grey: all members, a place each. Coloured: the ancestors of the member that ended best in its population, "
        "which is the schedule that it was trained with. Populations are seeds, and know nothing of each other."
    )
    return [page.paragraph(said), page.small(blocks)]


def _lineage(
    job: Job,
    at: np.ndarray,
    score: np.ndarray,
    source: np.ndarray,
    ancestors: np.ndarray,
    columns: list[str],
    rows: list[list[Any]],
) -> list[str]:
    """Who went on from whom: a figure a population."""
    blocks, members = [], score.shape[2]
    label = job.score.replace("_", " ")
    scale = style.MAP.capitalize() + ("" if job.higher_is_better else "_r")
    for p in range(min(score.shape[1], MAX_POPULATIONS)):
        made = charts.empty("iterations", "member")
        for copied, tint, title in ((False, style.GRID, "goes on"), (True, style.OTHERS[0], "copies another")):
            x: list[Any] = []
            y: list[Any] = []
            for t, m in np.ndindex(len(at) - 1, members):
                if (source[t, p, m] != m) == copied:
                    x += [int(at[t]), int(at[t + 1]), None]
                    y += [int(source[t, p, m]), m, None]
            line = {"color": tint, "width": 1.2}
            made.add_scatter(x=x, y=y, mode="lines", line=line, name=title, hoverinfo="skip")
        best = {"color": style.OURS, "width": 3}
        path = ancestors[:, p].tolist()
        made.add_scatter(x=at.tolist(), y=path, mode="lines", line=best, name="ancestors of the best", hoverinfo="skip")
        here = score[:, p]
        fine = np.isfinite(here)
        steps, places = np.nonzero(fine)
        marker = {"color": charts.numbers(here[fine]), "colorscale": scale, "size": 7, "showscale": True}
        bar = {"thickness": 10, "title": {"text": label, "side": "right"}}
        said = "iteration %{x}, member %{y}: %{marker.color:.5~g}<extra></extra>"
        options = {"marker": {**marker, "colorbar": bar}, "showlegend": False, "hovertemplate": said}
        made.add_scatter(x=at[steps].tolist(), y=places.tolist(), mode="markers", **options)
        if not fine.all():
            steps, places = np.nonzero(~fine)
            cross = {"color": style.INK, "symbol": "x-thin-open", "size": 7}
            title = "diverged or nothing scored"
            made.add_scatter(x=at[steps].tolist(), y=places.tolist(), mode="markers", marker=cross, name=title)
        made.update_yaxes(dtick=max(1, members // 8))
        note = "Points: members after each interval, coloured by score; lines: whose weights went on in which place."
        blocks.append(page.figure(f"Population {job.config.seed + p}", made, columns, rows, note))
    left = score.shape[1] - len(blocks)
    return blocks + ([page.paragraph(f"{left} more populations are in the CSV.")] if left > 0 else [])
