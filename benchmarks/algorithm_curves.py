"""A short training of every algorithm: its learning curve over 3 seeds, what it took, and a picture for its page.

    python -m benchmarks.algorithm_curves                all algorithms, about 21 CPU-minutes
    python -m benchmarks.algorithm_curves promp rl2      these only
    python -m benchmarks.algorithm_curves --draw         the pictures again, from the JSON

Each row is a shipped configuration with what `CURVES` changes to make it short: `metarl train CONFIGURATION OVERRIDES
num_seeds=3` trains the same. Curves are scores of the training itself, means over blocks of iterations. CPU-seconds
are of all three seeds, set-up (tracing and compiling) apart from training. Rows are saved as they come, and a second
call goes on where the first stopped; an algorithm that is named is trained again.
"""

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import common
from metarl_jax.algorithms.registry import ALGORITHMS
from metarl_jax.runs import config, files, style
from metarl_jax.runs.build import build
from metarl_jax.runs.states import initial_states
from metarl_jax.runs.train import compiled_call

PICTURES = Path("docs/images")
NUM_SEEDS, MAX_POINTS = 3, 60
Lines = dict[str, str]  # metric -> what it is called


class Panel(NamedTuple):
    """What is drawn over one another, and the label of the axis."""

    lines: Lines
    axis: str = "return of an episode"


class Curve(NamedTuple):
    """A shipped configuration made short, and what of it is drawn."""

    configuration: str
    overrides: tuple[str, ...]
    panels: tuple[Panel, ...]


ONE_UPDATE = (Panel({"return_0": "before adaptation", "return_1": "after 1 update"}),)
THREE_UPDATES = (Panel({**ONE_UPDATE[0].lines, **{f"return_{k}": f"after {k} updates" for k in (2, 3)}}),)
EPISODES = (Panel({"first_episode_return": "first episode", "last_episode_return": "last episode"}),)
POINT = ("num_iterations=60",)
CURVES: dict[str, Curve] = {
    "maml": Curve("maml_lvc_point", POINT, ONE_UPDATE),
    "maml_trpo": Curve("maml_trpo_point", ("num_iterations=30",), ONE_UPDATE),
    "promp": Curve("promp_point", POINT, ONE_UPDATE),
    "e_maml": Curve("e_maml_point", POINT, ONE_UPDATE),
    "reptile": Curve("reptile_point", POINT, THREE_UPDATES),
    "anil": Curve("anil_point", POINT, ONE_UPDATE),
    "boil": Curve("boil_point", POINT, ONE_UPDATE),
    "meta_sgd": Curve("meta_sgd_point", POINT, ONE_UPDATE),
    "cavia": Curve("cavia_point", POINT, ONE_UPDATE),
    "imaml": Curve("imaml_point", ("num_iterations=20", "meta_batch_size=10"), ONE_UPDATE),
    "ppo": Curve("ppo_cartpole", (), (Panel({"episode_return": "PPO"}),)),
    "meta_gradient_rl": Curve(
        "meta_gradient_cartpole",
        ("num_iterations=3000",),
        (
            Panel({"episode_return": "the agent"}),
            Panel({"tuned_gamma": "gamma", "tuned_gae_lambda": "lambda"}, "tuned by the agent"),
        ),
    ),
    "lirpg": Curve("lirpg_cartpole", ("num_iterations=20",), (Panel({"late_return": "agents, last quarter of life"}),)),
    "lpg": Curve("lpg_tabular", ("num_iterations=60",), (Panel({"late_return": "agents, last quarter of life"}),)),
    "lpo": Curve(
        "lpo_cartpole",
        ("start=random", "num_iterations=20", "population_size=16", "lifetime=16", "eval_episodes=8"),
        (Panel({"late_return": "agents, end of life"}),),
    ),
    "rl2": Curve("rl2_bandit", ("num_iterations=50",), EPISODES),
    "varibad": Curve("varibad_grid_navi", ("num_iterations=150",), EPISODES),
    "supervised_maml": Curve(
        "maml_sinusoid",
        ("num_iterations=10000",),
        (Panel({"mse_0": "before adaptation", "mse_1": "after 1 step"}, "mean squared error"),),
    ),
}


def row(name: str) -> dict[str, Any]:
    """Train `NUM_SEEDS` seeds in one compiled call: curves [seed][block], what they took.

    Raises: FloatingPointError where a number was not finite.
    """
    jax.clear_caches()
    curve = CURVES[name]
    began = time.process_time()
    chosen = config.load(config.shipped_config(curve.configuration), [*curve.overrides, f"num_seeds={NUM_SEEDS}"])
    job = build(chosen)
    states = initial_states(job)
    call, _ = compiled_call(job, chosen.num_iterations, states)
    set_up = time.process_time()
    _, metrics = jax.block_until_ready(call(states, 0))
    ended = time.process_time()
    if not all(bool(np.all(leaf)) for leaf in jax.tree.leaves(metrics["finite"])):
        raise FloatingPointError(f"{name}: NaN or infinity while it trained")
    size = -(-chosen.num_iterations // MAX_POINTS)
    blocks = np.split(np.arange(chosen.num_iterations), range(size, chosen.num_iterations, size))
    lines = [metric for panel in curve.panels for metric in panel.lines]
    return {
        "algorithm": name,
        "configuration": curve.configuration,
        "overrides": list(curve.overrides),
        "env": chosen.env,
        "num_seeds": NUM_SEEDS,
        "num_iterations": chosen.num_iterations,
        "unit": job.unit,
        "work": job.work_per_iteration * chosen.num_iterations,  # of one seed
        "set_up_cpu_s": round(set_up - began, 1),
        "train_cpu_s": round(ended - set_up, 1),
        "panels": [panel._asdict() for panel in curve.panels],
        "x": [float((block.mean() + 1) * job.work_per_iteration) for block in blocks],
        "curves": {metric: _thinned(np.asarray(metrics[metric]), blocks) for metric in lines},
    }


def _thinned(values: np.ndarray, blocks: Sequence[np.ndarray]) -> list[list[float | None]]:
    """Means [seed][block] of [seed, iteration], over what is finite, to five digits; None where nothing is."""
    values = np.where(np.isfinite(values), values, np.nan)
    means = [[_mean(seed[block]) for block in blocks] for seed in values]
    return [[None if np.isnan(mean) else float(f"{mean:.5g}") for mean in seed] for seed in means]


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def draw(result: dict[str, Any], directory: Path = PICTURES) -> Path:
    """docs/images/curve-NAME.png: the mean over seeds with its 95% interval, 720 pixels wide."""
    import matplotlib.pyplot as plt
    from PIL import Image

    panels = [Panel(**panel) for panel in result["panels"]]
    made, axes = style.figure(1, len(panels), 7.2 / len(panels), 3.6)
    scale = 1e6 if result["work"] >= 1e6 else 1e3
    x = np.asarray(result["x"]) / scale
    what = "environment steps" if result["unit"] == "steps" else f"labelled {result['unit']}"
    for axis, panel in zip(axes[0], panels, strict=True):
        for i, (metric, label) in enumerate(panel.lines.items()):
            colour = style.STAGES[i] if len(panel.lines) > 1 else style.OURS
            mean, low, high = style.mean_and_interval(np.asarray(result["curves"][metric], float).T)
            axis.plot(x, mean, color=colour, label=label, linewidth=1.8)
            axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set_xlabel(f"{what} of one seed, {'millions' if scale == 1e6 else 'thousands'}")
        axis.set_ylabel(panel.axis)
        axis.set_xlim(0, x[-1])
        over = f"mean of {result['num_seeds']} seeds,\nband: 95% interval (t)"
        axis.legend(frameon=False, fontsize=8, title=over, title_fontsize=8)
    made.suptitle(f"{result['algorithm']} on {result['env']}, training", fontsize=10, color=style.INK)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"curve-{result['algorithm']}.png"
    made.savefig(path, dpi=100)
    plt.close(made)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)  # a third of the bytes
    return path


def save(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows in the order of the registry, a list of numbers on one line."""
    order = list(ALGORITHMS)
    common.save(path, sorted(rows, key=lambda r: order.index(r["algorithm"])))
    text = re.sub(r"\[[\s\d.,eE+\-nul]*\]", lambda match: re.sub(r"\s+", " ", match[0]), path.read_text())
    path.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*CURVES, []], metavar="NAME", help="algorithms to train (again)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/algorithm_curves.json"))
    parser.add_argument("--draw", action="store_true", help="only draw, from the JSON")
    arguments = parser.parse_args()
    kept = files.read_json(arguments.output, "results")["rows"] if arguments.output.exists() else []
    done = {r["algorithm"]: r for r in kept}
    names = [] if arguments.draw else arguments.names or [name for name in CURVES if name not in done]
    for name in names:
        done[name] = row(name)
        save(arguments.output, list(done.values()))
        draw(done[name])
    for result in done.values() if arguments.draw else ():
        draw(result)
    columns = {"algorithm": "", "configuration": "", "work": ",d", "set_up_cpu_s": ".1f", "train_cpu_s": ".1f"}
    print(common.table(list(done.values()), columns))


if __name__ == "__main__":
    main()
