"""Loops over time with 1, 2, 4, ... steps a turn: what an accelerator saves in launches, what it costs to compile.

    python -m benchmarks.unrolling
    python -m benchmarks.unrolling --unroll 1 4 --small     tiny sizes, a test of the command itself

Programs of `benchmarks.accelerator`, each compiled anew for every number of steps (`metarl_jax.tree.UNROLLED_STEPS`).
On a CPU the library never unrolls, so there all rows of a program are alike.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from benchmarks import accelerator_rows as work
from benchmarks import common
from benchmarks.accelerator_session import Session
from metarl_jax import tree

COLUMNS = {"work": "", "unroll": "d", "compile_s": ".1f", "run_ms": ".2f", "times_faster": ".2f"}


def main(argv: Sequence[str] | None = None) -> None:
    name = "cpu" if jax.default_backend() == "cpu" else "gpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(f"benchmarks/results/unrolling_{name}.json"))
    parser.add_argument("--minutes", type=float, default=5.0, help="what no longer fits is skipped (default 5)")
    parser.add_argument("--unroll", type=int, nargs="+", default=[1, 2, 4, 8], help="steps a turn (default 1 2 4 8)")
    parser.add_argument("--small", action="store_true", help="tiny sizes, whose times mean nothing")
    arguments = parser.parse_args(argv)
    sizes = work.SMALL if arguments.small else work.Sizes()
    command = f"python -m benchmarks.unrolling --unroll {' '.join(map(str, arguments.unroll))}"
    session = Session(arguments.output, arguments.minutes, 3, command=command + " --small" * arguments.small)
    many, tasks, pulls = sizes.members[-1], sizes.tasks[0], sizes.pulls[-1]
    programs: dict[str, Callable[[], work.Measured]] = {
        "PPO CartPole, 1 member": lambda: work.ppo(session, 1, sizes.seconds),
        f"PPO CartPole, {many} members": lambda: work.ppo(session, many, sizes.seconds),
        f"ProMP iteration, {tasks} tasks": lambda: work.promp_iteration(session, tasks, sizes),
        f"RL2 gru, trials of {pulls}": lambda: work.rl2(session, "gru", pulls, sizes.trials),
    }
    usual = tree.UNROLLED_STEPS
    try:
        for label, measure in programs.items():
            first: dict = {}
            for unroll in arguments.unroll:
                tree.UNROLLED_STEPS = unroll
                row = session.row("unrolling", label, lambda m=measure: m().facts, group=label, unroll=unroll)
                if "run_s" in row:
                    row["run_ms"] = row.get("iteration_ms", 1e3 * row["run_s"])
                    row["times_faster"] = first.setdefault("run_ms", row["run_ms"]) / row["run_ms"]
    finally:
        tree.UNROLLED_STEPS = usual
    session.save()
    print(common.table(session.rows, COLUMNS))
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
