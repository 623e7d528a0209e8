"""How every picture looks: colours that colour-blind readers tell apart, axes, legends, intervals, smoothing."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

INK, GRID = "#222222", "#dddddd"
# Okabe and Ito 2008. The first is for what is looked at, the rest for what stands beside it.
OURS = "#d55e00"
OTHERS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#332288", "#999933", "#882255")
BEFORE = "#7f7f7f"  # before adaptation
STAGES = (BEFORE, "#e69f00", "#009e73", "#0072b2", "#332288")  # before, after 1, 2, 3, 4 updates
MAP = "viridis"
SEEDS_OF_A_BAND = 3  # of fewer the interval of Student's t is so wide that it tells nothing: each is drawn instead


def figure(rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.0) -> tuple[Any, Any]:
    """(figure, axes [rows, columns]); sizes are those of a panel, in inches."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = (width * columns, height * rows)
    made, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        clean(axis)
    return made, axes


def clean(axis: Any) -> None:
    """No frame, a light grid behind what is drawn."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)


def legend(made: Any, axis: Any, title: str | None = None) -> None:
    """One legend of `axis`, beside the panels."""
    handles = axis.get_legend_handles_labels()
    made.legend(*handles, loc="outside right center", fontsize=8, frameon=False, title=title, title_fontsize=8)


def key(made: Any, entries: dict[str, dict[str, Any]]) -> None:
    """One legend of what is drawn in every panel, below them: label -> properties of a line."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=label, **properties) for label, properties in entries.items()]
    made.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)


def save(made: Any, path: Path) -> Path:
    """Write a PNG and forget the figure."""
    import matplotlib.pyplot as plt

    made.savefig(path, dpi=150)
    plt.close(made)
    return path


def mean_and_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of [..., seed] and its 95% interval, mean +- t sd / sqrt(n) (Student); NaN entries are left out.

    Where fewer than two seeds have a number there is no interval: NaN.
    """
    from scipy.special import stdtrit

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of places where no seed has a number
        count = np.isfinite(values).sum(axis=-1)
        mean = np.nanmean(values, axis=-1)
        spread = np.nanstd(values, axis=-1, ddof=1)
        half = stdtrit(np.maximum(count - 1, 1), 0.975) * spread / np.sqrt(count)
    half = np.where(count > 1, half, np.nan)
    return mean, mean - half, mean + half


def window(count: int) -> int:
    """Points that the curve of one seed is smoothed over, an odd number: about a 20th of all, at most 51."""
    return 2 * max(0, min(count // 40, 25)) + 1


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Means of [iteration] over `window` iterations, an odd number, centred; over fewer at the ends, which so stay.

    NaN entries are left out.
    """
    real = np.isfinite(values)
    sums, counts = (np.concatenate([[0.0], np.cumsum(x)]) for x in (np.where(real, values, 0.0), real))
    i = np.arange(len(values))
    reach = np.minimum(window // 2, np.minimum(i, len(values) - 1 - i))
    low, high = i - reach, i + reach + 1
    with np.errstate(invalid="ignore"):
        found = (sums[high] - sums[low]) / (counts[high] - counts[low])
    return np.where(reach == 0, values, found)  # the ends to the last bit
