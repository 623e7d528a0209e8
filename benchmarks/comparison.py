"""The gradient-based family side by side: returns before and after adapting, on dense and on sparse point navigation.

    python -m benchmarks.comparison                    all rows, about 70 minutes on one CPU core
    python -m benchmarks.comparison --only promp_point --tasks dense

Each row is a configuration of configs/, trained with 3 seeds for 150 iterations of 20 tasks x 10 episodes x 100 steps
(before and after each inner update) and evaluated on held-out tasks (the four corners hold nothing out) with 20
episodes an update. Rows are saved as they come, and a second call goes on where the first stopped. The baselines are
those of `metarl evaluate`, from the run of the first row.
"""

import json
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from metarl_jax.cli.common import config_directory, prepare_jax
from metarl_jax.runs import config, evaluate, train
from metarl_jax.runs.build import build

CONFIGS = (
    "maml_lvc_point", "maml_vpg_point", "maml_ppo_epochs_point", "fomaml_point", "maml_trpo_point", "promp_point",
    "e_maml_point", "reptile_point", "anil_point", "meta_sgd_point", "cavia_point", "imaml_point", "maml_target_point",
)  # fmt: skip
TASKS = {
    "dense": ["env=PointNavigation-v0"],
    "sparse": ["env=PointCorner-v0", "eval_tasks=4"],
}
NEEDS_COSTS = ("maml_target_point",)  # aims at a return of 0, which the sparse rewards exceed
SHARED = ["num_iterations=150", "iterations_per_call=50", "num_seeds=3", "eval_episodes=20", "eval_updates=3"]


def row(name: str, tasks: str, directory: Path, baselines: bool) -> dict[str, Any]:
    """Train (or resume) and evaluate one configuration."""
    chosen = config.load(config_directory() / f"{name}.yaml", [*TASKS[tasks], *SHARED])
    job = build(chosen)
    run_dir = directory / f"{name}-{tasks}"
    began = time.process_time()
    train.train(job, run_dir, resume=True, report=lambda _: None)
    trained = time.process_time() - began
    table, scores = evaluate.assess(run_dir, baselines=baselines, report=lambda _: None)
    evaluate.save(run_dir, table, scores)
    return {
        "config": name,
        "tasks": tasks,
        "algorithm": table["algorithm"],
        "env_steps": job.work_per_iteration * chosen.num_iterations,
        "train_cpu_s": trained,
        "adaptation": table["adaptation"],
        "baselines": table["baselines"],
        "num_seeds": table["num_seeds"],
        "num_tasks": table["num_tasks"],
        "num_episodes": table["num_episodes"],
    }


def main() -> None:
    parser = common.parser(__doc__, "comparison")
    parser.add_argument("--only", nargs="*", default=CONFIGS, help="names of configurations")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--run-dir", type=Path, default=Path("runs/comparison"))
    arguments = parser.parse_args()
    prepare_jax()
    rows = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else []
    for tasks in arguments.tasks:
        for name in arguments.only:
            if tasks == "sparse" and name in NEEDS_COSTS:
                continue
            if any(r["config"] == name and r["tasks"] == tasks for r in rows):
                continue
            rows.append(row(name, tasks, arguments.run_dir, baselines=name == CONFIGS[0]))
            scores = [f"{r['mean']:.2f}" for r in rows[-1]["adaptation"]]
            print(f"{tasks:7} {name:22} {' / '.join(scores)}  {rows[-1]['train_cpu_s']:.0f} CPU-s", flush=True)
            common.save(arguments.output, rows)


if __name__ == "__main__":
    main()
