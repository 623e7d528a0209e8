"""What the `metarl` command understands; imports nothing heavy."""

import argparse
import difflib
from pathlib import Path
from typing import NoReturn

from metarl_jax import __version__

COMMANDS = (
    "train", "check", "sweep", "tune", "learn-optimizer", "evaluate", "compare", "report", "runs", "film", "export",
    "reproduce", "list", "show", "completion",
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """A mistake is one line, with the nearest spelling of a command that is none."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice: " in message:
            word = message.partition("invalid choice: ")[2].split(" (choose")[0].strip("'")
            near = difflib.get_close_matches(word[:100], COMMANDS, n=1)
            message = f"no command {word[:80]!r}" + (f"; did you mean {near[0]}?" if near else "")
        self.exit(2, f"error: {printable(' '.join(message.split()))[:300]}; see {self.prog} --help\n")


def printable(text: str) -> str:
    """Text without a character that would break its line or cannot be printed: these are escaped, as in "\\r"."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _add_engine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--engine", default="local", help="local (default: this process), or ray: a Ray cluster")
    command.add_argument("--address", metavar="HOST:PORT", help="ray: of a cluster that runs (default: starts one)")


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = _Parser(prog="metarl", description="Meta-reinforcement learning in JAX.")
    top.add_argument("--version", action="version", version=f"metarl_jax {__version__}")
    names = f"{{{','.join(COMMANDS)}}}"
    commands = top.add_subparsers(dest="command", required=True, metavar=names)

    train = commands.add_parser("train", help="train a configuration", description="Train a configuration.")
    train.add_argument(
        "config", nargs="?", help="a YAML file or the name of one, see `metarl list`; not needed with --resume"
    )
    train.add_argument("overrides", nargs="*", metavar="key=value", help="configuration keys to change")
    train.add_argument("--run-dir", type=Path, help="where to keep the run (default: runs/<config>-<time>)")
    train.add_argument("--resume", action="store_true", help="go on with the run in --run-dir from its last checkpoint")
    train.add_argument("--seeds", type=int, metavar="N", help="train N seeds in one program (num_seeds)")
    train.add_argument(
        "--devices-per-model", type=int, default=1, metavar="N", help="devices that keep each seed's model in parts"
    )
    several = train.add_argument_group(
        "several processes", "the same command for each, on one host or on many; they share --run-dir"
    )
    several.add_argument(
        "--distributed", action="store_true", help="train by processes that SLURM, Open MPI, Kubernetes or a TPU starts"
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="elsewhere: where process 0 listens")
    several.add_argument("--num-processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process-id", type=int, metavar="I", help="which of them this is, from 0 on")
    several.add_argument(
        "--start-timeout", type=int, default=300, metavar="S", help="seconds to wait for the others (default 300)"
    )

    check = commands.add_parser(
        "check",
        help="check a configuration and what memory it needs",
        description="Check a configuration, and estimate the memory that it needs; compiles nothing, makes no files.",
    )
    check.add_argument("config", help="a YAML file or the name of one, see `metarl list`")
    check.add_argument("overrides", nargs="*", metavar="key=value", help="configuration keys to change")

    sweep = commands.add_parser(
        "sweep",
        help="train many settings as one program",
        description="Train many settings of one configuration, as one program for all that compile alike.",
        epilog="example: metarl sweep ppo_cartpole 'lr=log(1e-5,1e-1)' 'gamma=[.9,.99]' --trials 64 --seeds 2",
    )
    sweep.add_argument("config", help="YAML file, or the name of one in configs/")
    sweep.add_argument(
        "overrides",
        nargs="*",
        help="key=log(low,high), key=uniform(low,high) or key=[a,b,...] to vary; key=value to change for all",
    )
    sweep.add_argument("--method", default="random", help="random (default), sobol, grid, halving or pbt")
    sweep.add_argument("--trials", type=int, help="settings to try (grid: as many as its values make)")
    sweep.add_argument("--grid-points", type=int, default=5, help="values of a range in a grid (default 5)")
    sweep.add_argument("--interval", type=int, help="pbt: iterations between exploits (default: a 20th of all)")
    sweep.add_argument("--seeds", type=int, help="independent seeds of each setting (num_seeds)")
    sweep.add_argument("--lanes", type=int, help="trainings computed at a time (default: 8 on a CPU, else all)")
    sweep.add_argument("--run-dir", type=Path, help="where to keep it (default: runs/sweep-CONFIG-N)")
    sweep.add_argument("--resume", action="store_true", help="go on with the sweep in --run-dir")
    _add_engine(sweep)

    tune = commands.add_parser(
        "tune",
        help="tune PPO on an environment with a learned optimiser",
        description="Choose PPO's hyperparameters for an environment: a learned optimiser proposes, trains, looks.",
        epilog="example: metarl tune gymnax:Acrobot-v1 --trials 8",
    )
    tune.add_argument("env", metavar="ENV", help="environment, see `metarl list`")
    tune.add_argument("overrides", nargs="*", metavar="key=value", help="keys of configs/ppo_families.yaml to change")
    tune.add_argument("--optimizer", type=Path, help="a run of `metarl learn-optimizer` (default: the one shipped)")
    tune.add_argument("--trials", type=int, default=8, help="trainings in all (default 8)")
    tune.add_argument("--at-a-time", type=int, default=2, help="trainings between two looks (default 2)")
    tune.add_argument("--run-dir", type=Path, help="where to keep it (default: runs/tune-ENV-N)")
    tune.add_argument("--resume", action="store_true", help="go on with --run-dir, up to --trials")

    learn = commands.add_parser(
        "learn-optimizer",
        help="learn an optimiser for `metarl tune`",
        description="Train PPO with sampled hyperparameters on task families, and learn from it how to choose them.",
    )
    learn.add_argument("--families", metavar="A,B", help="families to learn from (default: all)")
    learn.add_argument("--trials", type=int, default=512, help="trainings a family (default 512)")
    learn.add_argument("--run-dir", type=Path, required=True, help="where to keep it, and where a second call goes on")
    _add_engine(learn)

    evaluate = commands.add_parser(
        "evaluate", help="evaluate a run on held-out tasks", description="Evaluate a run on held-out tasks."
    )
    evaluate.add_argument("run", type=Path, help="run directory")
    evaluate.add_argument("--json", action="store_true", help="print the table as one JSON object, and nothing else")
    evaluate.add_argument("--num-tasks", type=int, help="held-out tasks (default: eval_tasks)")
    evaluate.add_argument("--num-episodes", type=int, help="episodes a task and update (default: eval_episodes)")
    evaluate.add_argument("--num-updates", type=int, help="inner updates (default: eval_updates)")
    evaluate.add_argument("--no-baselines", action="store_true", help="leave the baselines out")

    compare = commands.add_parser(
        "compare",
        help="compare runs on the same held-out tasks",
        description="Compare runs (or the best of sweeps) on their held-out tasks: the first with each of the others.",
    )
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories, two or more")
    compare.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")

    about = commands.add_parser(
        "report",
        help="write a page of HTML about a run, several runs or a sweep",
        description="Write one page of HTML that needs nothing beside it, about a run, several runs, or a sweep.",
    )
    about.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run or sweep directory, or several runs")
    about.add_argument(
        "--output", type=Path, metavar="FILE", help="the page (default: report.html in RUN; of several runs, here)"
    )

    listing = commands.add_parser(
        "runs", help="list runs and sweeps", description="List runs and sweeps, the newest first."
    )
    listing.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help="where to look (default: runs)")
    listing.add_argument("--json", action="store_true", help="print one JSON array, and nothing else")

    film = commands.add_parser(
        "film",
        help="film an agent before and after adaptation",
        description="A GIF of a run on robots or another environment that draws itself: an episode before adaptation "
        "beside one after it.",
    )
    film.add_argument("run", type=Path, help="run directory")
    film.add_argument(
        "--task", type=int, nargs="+", default=[0], metavar="I", help="numbers of held-out tasks, one a row (default 0)"
    )
    film.add_argument(
        "--every", type=int, default=2, metavar="N", help="steps from one picture to the next (default 2)"
    )
    film.add_argument("--output", type=Path, help="the GIF (default: film.gif in the run directory)")

    export = commands.add_parser(
        "export",
        help="write what a run has learned for other programs",
        description="Write the parameters of a run as safetensors and its policy as a compiled function (jax.export).",
    )
    export.add_argument("run", type=Path, help="run directory, or a sweep's for its best member")
    export.add_argument(
        "--seed", type=int, default=0, metavar="I", help="which of the run's seeds (default 0, the first)"
    )
    export.add_argument("--iteration", type=int, help="of which checkpoint (default: the newest)")
    export.add_argument("--output", type=Path, metavar="DIR", help="where to (default: export in the run directory)")

    again = commands.add_parser(
        "reproduce",
        help="run a published result again and judge it",
        description="Run a published result again: prints pass or fail, with intervals. Exit status 1 if it fails.",
    )
    again.add_argument("name", nargs="?", help="see --list")
    again.add_argument("--list", action="store_true", dest="only_list", help="list reproductions and what they cost")
    again.add_argument(
        "--cells", metavar="A,B", help="the cells of a table to run, by their beginnings: n10, or n100-k5"
    )
    again.add_argument("--run-dir", type=Path, help="where to keep what it trains (default: runs/reproduce-NAME)")
    again.add_argument("--output", type=Path, metavar="DIR", help="write NAME.json there (default: the run directory)")
    _add_engine(again)

    commands.add_parser("list", help="list environments, algorithms and configurations")
    show = commands.add_parser("show", help="explain an algorithm's keys, a configuration, a run or an environment")
    show.add_argument("what", help="algorithm, YAML file or its name, run directory, or environment")
    shell = commands.add_parser(
        "completion",
        help="write the completion script of a shell",
        description="Write the completion script of a shell.",
        epilog='bash, zsh: eval "$(metarl completion bash)"; fish: metarl completion fish | source',
    )
    shell.add_argument("shell", metavar="SHELL", help="bash, zsh, fish or tcsh")
    return top
