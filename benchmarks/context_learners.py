"""GRU, LSTM and transformer as learners in context: bandits of 100 pulls, tabular MDPs of 25 episodes, 2e7 steps each.

    python -m benchmarks.context_learners --estimate                 what each cell will take, from two iterations
    python -m benchmarks.context_learners tabular-lstm-1             one cell, into runs/context_learners/tabular-lstm-1
    python -m benchmarks.context_learners                            all twelve, one after another

A cell is a task, a network and a seed: `metarl train` of the paper's configuration with the overrides below, which go
for every network alike but for `long_memory`, which is of gates. A cell that was stopped goes on from its last
checkpoint, and one that has ended is left as it is; `metarl evaluate` and `metarl compare` read the folders.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import common
from metarl_jax.cli.main import main as metarl
from metarl_jax.runs import config
from metarl_jax.runs.build import build

STEPS = 20_000_000  # of the environment, a cell
TASKS = {  # name: configuration, overrides, environment steps an iteration
    "bandit": ("rl2_bandit_n100", ("env_options.num_arms=5",), 512 * 100),
    "tabular": ("rl2_tabular", ("num_episodes=25",), 512 * 25 * 10),
}
NETWORKS = {
    "gru": ("network=gru",),
    "lstm": ("network=lstm",),
    "transformer": ("network=transformer", "long_memory=false"),
}
SEEDS = (0, 1)
CELLS = [f"{task}-{network}-{seed}" for task in TASKS for network in NETWORKS for seed in SEEDS]
COLUMNS = {"cell": "", "iterations": "d", "compile_s": ".1f", "cpu_s": ".2f", "cpu_minutes": ",.0f", "temp_mb": ",.0f"}


def overrides(cell: str) -> tuple[str, list[str]]:
    """(the paper's configuration, key=value ...) of a cell."""
    task, network, seed = cell.split("-")
    name, changes, steps = TASKS[task]
    iterations = round(STEPS / steps / 10) * 10  # in calls of ten
    return name, [*changes, *NETWORKS[network], f"seed={seed}", f"num_iterations={iterations}"]


def estimate(cell: str) -> dict[str, Any]:
    """CPU-minutes of a cell, from one iteration after one that is not counted."""
    name, changes = overrides(cell)
    job = build(config.load(config.paper_config(name), changes))
    state = jax.jit(job.algorithm.init)(jax.random.key(0))
    found = common.measure(job.algorithm.step, state, jax.random.key(1), repeats=1)
    iterations = job.config.num_iterations
    return {"cell": cell, "iterations": iterations, **found, "cpu_minutes": iterations * found["cpu_s"] / 60}


def train(cell: str, runs: Path) -> int:
    """The cell, from its last checkpoint where there is one."""
    name, changes = overrides(cell)
    folder = runs / cell
    if folder.exists():
        return metarl(["train", "--resume", "--run-dir", str(folder)])
    return metarl(["train", str(config.paper_config(name)), *changes, "--run-dir", str(folder)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", choices=[*CELLS, []], metavar="cell", help=f"of {', '.join(CELLS)}")
    parser.add_argument("--runs", type=Path, default=Path("runs/context_learners"))
    parser.add_argument("--estimate", action="store_true", help="train nothing; say what one seed of each will take")
    options = parser.parse_args(argv)
    if options.estimate:
        cells = options.cells or [cell for cell in CELLS if cell.endswith(f"-{SEEDS[0]}")]
        for row in map(estimate, cells):
            print(common.table([row], COLUMNS), flush=True)
        return 0
    return max(train(cell, options.runs) for cell in options.cells or CELLS)


if __name__ == "__main__":
    raise SystemExit(main())
