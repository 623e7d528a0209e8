"""Where the metrics of a run go: its files and TensorBoard always; Weights & Biases and functions of the user's too."""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax import devices
from metarl_jax.envs.packages import MissingPackage
from metarl_jax.options import ConfigError, is_address, suggest
from metarl_jax.runs import files
from metarl_jax.user_code import load_address, place, said

Row = dict[str, Any]  # iteration, and metrics: a number, a list over seeds, or None where there was nothing to measure
Logger = Callable[[Row], None]
WANDB = "wandb"
WANDB_ID = "wandb_id"  # the file that remembers which of its runs a run directory is


class LoggerFailed(RuntimeError):
    """What a logger of the user's raised, in one line."""


def check(names: Sequence[str]) -> dict[str, Logger | None]:
    """The loggers that `log_to` names; None for Weights & Biases, which is opened with the run.

    Raises: ConfigError for an unknown name, for a function that cannot be imported or called, without the package.
    """
    found: dict[str, Logger | None] = {}
    for name in names:
        if name == WANDB:
            _import_wandb()
            found[name] = None
        elif is_address(name):
            function = load_address(name, "log_to")
            if not callable(function):
                raise ConfigError(f"log_to = {name}: must be a function of a row of metrics, not {function!r:.60}")
            found[name] = function
        else:
            near = suggest(name, [WANDB])
            raise ConfigError(f"log_to = {name}: must be {WANDB} or a function, my_package.my_module:name{near}")
    return found


@contextmanager
def opened(config: Any, run_dir: Path, start: int, loggers: dict[str, Logger | None]) -> Iterator[Callable]:
    """A function (rows, row of timing) that writes them; `start`: the iteration that the run goes on from.

    Of several processes the first one writes. Rows are thinned by `log_every`: those of its multiples are written, and
    that of the last iteration.
    """
    if not devices.is_first_process():
        yield lambda rows, time_row: None
        return
    from tensorboardX import SummaryWriter

    with ExitStack() as stack:
        events = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start + 1)
        stack.callback(events.close)
        metrics = stack.enter_context(open(run_dir / "metrics.jsonl", "a"))
        timing = stack.enter_context(open(run_dir / "timing.jsonl", "a"))
        told = {
            name: stack.enter_context(_wandb(config, run_dir)) if logger is None else logger
            for name, logger in loggers.items()
        }

        def write(rows: list[Row], time_row: Row) -> None:
            rows = [row for row in rows if is_logged(config, row["iteration"])]
            metrics.writelines(json.dumps(row) + "\n" for row in rows)
            metrics.flush()
            timing.write(json.dumps(time_row) + "\n")
            timing.flush()
            for row in rows:
                for name, mean in means(row).items():
                    events.add_scalar(name, mean, row["iteration"])
                for name, logger in told.items():
                    _tell(name, logger, row)

        yield write


def is_logged(config: Any, iteration: int) -> bool:
    """Whether the row of an iteration, counted from 1, is written."""
    return iteration % config.log_every == 0 or iteration == config.num_iterations


def means(row: Row) -> dict[str, float]:
    """Metric -> its mean over the seeds that have a number; metrics without any are left out."""
    found = {}
    for name, value in row.items():
        numbers = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
        if name != "iteration" and numbers:
            found[name] = float(np.mean(numbers))
    return found


def _tell(name: str, logger: Logger, row: Row) -> None:
    try:
        logger(dict(row))
    except Exception as error:  # whatever the user's function raises
        at = f"at iteration {row['iteration']}"
        raise LoggerFailed(f"log_to = {name}: fails {at}: {said(error)}{place(error)}") from error


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError:
        raise MissingPackage("log_to = wandb needs the package wandb: pip install 'metarl_jax[wandb]'") from None
    return wandb


@contextmanager
def _wandb(config: Any, run_dir: Path) -> Iterator[Logger]:
    """A run of Weights & Biases, the same one when a run directory is resumed; its environment variables rule it.

    WANDB_MODE=offline keeps everything in the run directory, WANDB_PROJECT names the project (default: metarl_jax).
    """
    wandb = _import_wandb()
    remembered = run_dir / WANDB_ID
    if not remembered.is_file():
        files.write_whole(remembered, secrets.token_hex(4) + "\n")
    own = files.read_text(remembered, "file").strip()
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "metarl_jax"),
            name=run_dir.name,
            id=own,
            resume="allow",
            dir=str(run_dir),
            config=config.model_dump(),
            settings=wandb.Settings(silent=True),
        )
    except Exception as error:  # no key, no network, an id that is none
        raise LoggerFailed(
            f"log_to = wandb: cannot begin ({said(error)}); WANDB_MODE=offline needs no account"
        ) from error
    try:
        yield lambda row: run.log(means(row), step=row["iteration"])
    finally:
        run.finish()
