"""What `benchmarks.algorithm_curves` measured, as rows of tables and sentences for the pages of the algorithms."""

import textwrap
from typing import Any

import numpy as np

from metarl_jax.runs.style import mean_and_interval

Table = tuple[list[str], list[list[str]]]  # head, rows


def costs(results: list[dict[str, Any]]) -> Table:
    """A row an algorithm: what was trained, environment steps of a seed, CPU-seconds of all seeds."""
    head = ["algorithm", "configuration", "environment", "steps or examples a seed", "CPU-s", "to compile"]
    rows = []
    for r in results:
        said = " ".join([f"`{r['configuration']}`", *(f"`{override}`" for override in r["overrides"])])
        times = [f"{r['train_cpu_s']:.0f}", f"{r['set_up_cpu_s']:.0f}"]
        rows.append([f"[`{r['algorithm']}`]({r['algorithm']}.md)", said, r["env"], f"{r['work']:,}", *times])
    return head, rows


def command(result: dict[str, Any]) -> str:
    """The command that trains the same, as a block."""
    words = ["metarl train", result["configuration"], *result["overrides"], f"num_seeds={result['num_seeds']}"]
    lines = textwrap.wrap(" ".join(words), 84, break_long_words=False, break_on_hyphens=False)
    return "```console\n" + " \\\n  ".join(lines) + "\n```"


def scores(result: dict[str, Any]) -> Table:
    """A row a line of the picture: its first point, and its mean over the last tenth, with 95% intervals over seeds."""
    rows = []
    for panel in result["panels"]:
        for metric, label in panel["lines"].items():
            values = np.asarray(result["curves"][metric], float)  # [seed, block]
            last = values[:, -max(1, values.shape[1] // 10) :]
            rows.append([f"{panel['axis']}, {label}", *(_said(x) for x in (values[:, 0], np.nanmean(last, axis=1)))])
    return [f"{result['env']}, {result['num_seeds']} seeds", "first point", "last tenth"], rows


def _said(values: np.ndarray) -> str:
    mean, low, high = (float(x) for x in mean_and_interval(values))
    digits = 1 if abs(mean) >= 10 else 3
    return "-" if np.isnan(mean) else f"{mean:.{digits}f} [{low:.{digits}f},&nbsp;{high:.{digits}f}]"


def cost(result: dict[str, Any]) -> str:
    """Two sentences: how much experience, how many CPU-seconds."""
    what = "environment steps" if result["unit"] == "steps" else f"labelled {result['unit']}"
    return (
        f"{result['work']:,} {what} a seed. Training took {result['train_cpu_s']:.0f} CPU-seconds for all "
        f"{result['num_seeds']} seeds, tracing and compiling {result['set_up_cpu_s']:.0f} more."
    )
