"""The pictures of the tables on trials: regret or return as a trial goes on, and beliefs over a grid."""

from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.runs import style
from metarl_jax.runs.style import GRID, INK, OTHERS, OURS

LIMIT = INK


def regret_curves(path: Path, panels: dict[str, dict[str, np.ndarray]]) -> Path:
    """PNG: one panel a cell, regret of each row against pulls; RL2 stands out, the best known is black.

    Args:
        panels: title -> row -> regret [trial, pull], summed over the pulls so far.
    """
    figure, axes = style.figure(1, len(panels), width=3.4, height=3.2)
    colours = dict(zip([row for row in next(iter(panels.values())) if row not in _SPECIAL], OTHERS, strict=False))
    for axis, (title, rows) in zip(axes[0], panels.items(), strict=True):
        for row, regret in rows.items():
            label = "random (leaves the picture)" if row == "random" else row
            _over_trials(axis, regret, label, _style(row, colours))
        top = max(regret[:, -1].mean(dtype=np.float64) for row, regret in rows.items() if row != "random")
        axis.set_ylim(0, 1.15 * top)
        axis.set_title(title, fontsize=10, color=INK)
        axis.set_xlabel("pulls")
    axes[0][0].set_ylabel("regret: best arm minus reward, summed")
    style.legend(figure, axes[0][0], OVER_TRIALS)
    return style.save(figure, path)


def return_curves(path: Path, rows: dict[str, np.ndarray], optimum: float) -> Path:
    """PNG: return of each episode of a trial, rows [trial, episode], beside that of who knows the task."""
    figure, axes = style.figure(1, 1, width=5.4, height=3.6)
    axis = axes[0][0]
    colours = dict(zip([row for row in rows if not row.startswith("RL2")], OTHERS, strict=False))
    for row, values in rows.items():
        _over_trials(axis, values, row, _style(row, colours))
    axis.axhline(optimum, color=LIMIT, linewidth=1.2, linestyle="--", label="task known")
    axis.set_xlabel("episode of the trial")
    axis.set_ylabel("return")
    style.legend(figure, axis, OVER_TRIALS)
    return style.save(figure, path)


OVER_TRIALS = "mean over trials,\nband: 95% interval (t)"


def _over_trials(axis: Any, values: np.ndarray, label: str, how: dict[str, Any]) -> None:
    """A line of [trial, step] with its band."""
    mean, low, high = style.mean_and_interval(np.asarray(values, np.float64).T)
    steps = np.arange(1, len(mean) + 1)
    axis.fill_between(steps, low, high, color=how["color"], alpha=0.25, linewidth=0, zorder=how.get("zorder"))
    axis.plot(steps, mean, label=label, **how)


def belief_map(
    path: Path, beliefs: dict[str, np.ndarray], positions: np.ndarray, goal: np.ndarray, titles: list[str]
) -> Path:
    """PNG: what is believed of each cell, one row a believer, one column a moment; one scale, that of the square root.

    Args:
        beliefs: name -> [moment, size, size], the chance that the cell (x, y) pays.
        positions: [moment, 2], the cell (x, y) that the agent stands on. goal: [2]. titles: of the moments.
    """
    from matplotlib.colors import PowerNorm

    figure, axes = style.figure(len(beliefs), len(titles), width=1.5, height=1.6)
    for i, (name, maps) in enumerate(beliefs.items()):
        for j, title in enumerate(titles):
            axis = axes[i][j]
            shown = axis.imshow(maps[j].T, origin="lower", cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
            axis.plot(*positions[j], marker="o", color=OURS, markersize=6)
            axis.plot(*goal, marker="*", color="#e08214", markersize=11, markeredgecolor="white")
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            if i == 0:
                axis.set_title(title, fontsize=9, color=INK)
            if j == 0:
                axis.set_ylabel(name, fontsize=9, color=INK)
    figure.colorbar(shown, ax=axes, label="chance of a reward there", ticks=[0, 0.05, 0.25, 0.5, 1])
    style.key(
        figure,
        {
            "agent": {"marker": "o", "color": OURS, "linestyle": "", "markersize": 6},
            "goal, hidden": {"marker": "*", "color": "#e08214", "linestyle": "", "markersize": 10},
        },
    )
    return style.save(figure, path)


_SPECIAL = ("RL2", "finite-horizon Gittins")


def _style(row: str, colours: dict[str, str]) -> dict[str, Any]:
    if row.startswith("RL2"):
        return {"color": OURS, "linewidth": 2.6, "zorder": 3}
    if row == "finite-horizon Gittins":
        return {"color": LIMIT, "linewidth": 1.4, "linestyle": "--", "zorder": 4}
    return {"color": colours[row], "linewidth": 1.3}


def search_curves(path: Path, scores: dict[tuple[str, int], tuple[float, tuple[float, float]]]) -> Path:
    """PNG: score against trials of every method, with its interval; methods with one number are points.

    Args:
        scores: (method, trials) -> mean, (low, high).
    """
    figure, axes = style.figure(1, 1, width=5.4, height=3.6)
    axis = axes[0][0]
    methods = list(dict.fromkeys(method for method, _ in scores))
    colours = dict(zip([m for m in methods if m != "learned"], OTHERS, strict=False)) | {"learned": OURS}
    for i, method in enumerate(sorted(methods, key=lambda m: m == "learned")):
        trials = sorted(t for m, t in scores if m == method)
        aside = 2.0 ** (0.04 * (i - len(methods) / 2))  # a little apart, so that no point hides another
        found = [(mean, *between) for mean, between in (scores[method, t] for t in trials)]
        mean, low, high = (np.asarray(v) for v in zip(*found, strict=True))
        error = np.maximum(np.stack([mean - low, high - mean]), 0)
        axis.errorbar(
            aside * np.asarray(trials), mean, error, label=method, color=colours[method], marker="o", capsize=2
        )
    ticks = sorted({t for _, t in scores})
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.set_xlabel("trials, each one training")
    axis.set_ylabel("score on fresh seeds")
    style.legend(figure, axis, "mean over tasks and searches,\nbar: 95% interval (bootstrap)")
    return style.save(figure, path)


UPDATES, EPISODES = ("before adaptation", "after adaptation"), ("first episode", "last episode of a trial")


def success_curves(
    path: Path, curves: dict[str, tuple[np.ndarray, np.ndarray]], labels: tuple[str, str] = UPDATES
) -> Path:
    """`training_curves` of the share of episodes that are solved, in training."""
    return training_curves(path, curves, "share of episodes solved", bounds=(-0.03, 1.03), labels=labels)


def training_curves(
    path: Path,
    curves: dict[str, tuple[np.ndarray, np.ndarray]],
    what: str = "return of an episode",
    bounds: tuple[float, float] | None = None,
    labels: tuple[str, str] = UPDATES,
) -> Path:
    """PNG: returns against environment steps, one panel a method, before (grey) and after adaptation, all seeds.

    Args:
        curves: method -> (steps [iteration], returns [iteration, seed, 2]).
        labels: of the two.
    """
    columns = min(len(curves), 4)
    seeds = next(iter(curves.values()))[1].shape[1]
    figure, axes = style.figure(-(-len(curves) // columns), columns, width=2.9 if columns > 1 else 4.5, height=2.9)
    for axis in axes.flat[len(curves) :]:
        axis.set_visible(False)
    for axis, (title, (steps, returns)) in zip(axes.flat, curves.items(), strict=False):
        for column, (colour, label) in enumerate(zip((style.BEFORE, OURS), labels, strict=True)):
            mean, low, high = style.mean_and_interval(returns[..., column])
            axis.fill_between(steps / 1e6, low, high, color=colour, alpha=0.25, linewidth=0)
            axis.plot(steps / 1e6, mean, color=colour, label=label, linewidth=1.8)
        axis.set_title(title, fontsize=10, color=INK)
    shown = list(axes.flat[: len(curves)])
    all_of_it = (min(a.get_ylim()[0] for a in shown), max(a.get_ylim()[1] for a in shown))
    for axis in shown:
        axis.set_ylim(*(bounds or all_of_it))
    for row in axes:
        row[0].set_ylabel(what)
    figure.supxlabel("environment steps of a seed, millions", fontsize=10)
    over = "one seed" if seeds == 1 else f"mean of {seeds} seeds,\nband: 95% interval (t)"
    style.legend(figure, axes[0][0], over)
    return style.save(figure, path)


def reward_curves(
    path: Path, curves: dict[str, tuple[np.ndarray, np.ndarray]], beside: dict[str, tuple[np.ndarray, np.ndarray]]
) -> Path:
    """PNG: reward a step after adaptation against environment steps, on a logarithmic axis; published points as dots.

    Args:
        curves: method -> (steps [iteration], rewards [iteration, seed]). beside: name -> (steps [n], rewards [n]).
    """
    figure, axes = style.figure(width=5.6, height=3.4)
    axis = axes[0][0]
    for colour, (name, (steps, rewards)) in zip((OURS, *OTHERS), curves.items(), strict=False):
        mean, low, high = style.mean_and_interval(rewards)
        axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.plot(steps, mean, color=colour, label=name, linewidth=1.8)
    for name, (steps, rewards) in beside.items():
        axis.plot(steps, rewards, "o--", color=INK, markersize=4, linewidth=0.8, label=name)
    axis.set_xscale("log")
    axis.set_xlabel("environment steps of a seed")
    axis.set_ylabel("reward a step, adapted")
    seeds = next(iter(curves.values()))[1].shape[1]
    style.legend(figure, axis, "one seed" if seeds == 1 else f"mean of {seeds} seeds,\nband: 95% interval (t)")
    return style.save(figure, path)


def lives_curves(path: Path, curves: dict[str, np.ndarray], steps: int, swap_every: int, optimum: float) -> Path:
    """PNG: rewards a step and entropy coefficients over lives, means of a hundredth of life with bands over seeds.

    Args:
        curves: method -> [seed, iteration, 2], the better the later. steps: of an iteration.
    """
    figure, axes = style.figure(2, 1, width=7.5, height=2.4)
    colours = dict(zip(curves, [*OTHERS[: len(curves) - 1], OURS], strict=True))
    for name, values in curves.items():
        parts = np.array_split(values, 100, axis=1)
        middle = (np.cumsum([p.shape[1] for p in parts]) - 0.5 * parts[0].shape[1]) * steps / 1e6
        by_seed = np.stack([p.mean(axis=1) for p in parts])  # [part, seed, 2]
        for row in (0, 1):
            mean, low, high = style.mean_and_interval(by_seed[..., row])
            axes[row][0].fill_between(middle, low, high, color=colours[name], alpha=0.25, linewidth=0)
            axes[row][0].plot(middle, mean, label=name, color=colours[name], linewidth=1.5)
    axes[0][0].axhline(optimum, color=LIMIT, linestyle="--", linewidth=1.2, label="optimum")
    last = next(iter(curves.values())).shape[1] * steps
    for axis in axes[:, 0]:
        for swap in range(swap_every, last, swap_every):
            axis.axvline(swap / 1e6, color=GRID, linewidth=0.8, zorder=0)
    axes[0][0].set_ylabel("reward a step")
    axes[1][0].set_ylabel("entropy coefficient")
    axes[1][0].set_xlabel("environment steps, millions; lines: colours swap")
    seeds = len(next(iter(curves.values())))
    style.legend(figure, axes[0][0], f"mean of {seeds} seeds over 1% of a life,\nband: 95% interval (t)")
    return style.save(figure, path)
