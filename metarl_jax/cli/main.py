"""The `metarl` command; `cli_parser` says what it understands. Heavy imports wait until they are needed."""

import argparse
import gc
import os
import re
import sys
from pathlib import Path
from typing import Any

from metarl_jax.cli import distributed, look
from metarl_jax.cli.common import find_config, interruptible, new_run_dir, prepare_jax, recall, say, say_horizon
from metarl_jax.cli.completion import completion
from metarl_jax.cli.parser import parser, printable
from metarl_jax.envs.packages import MissingPackage
from metarl_jax.options import ConfigError
from metarl_jax.runs import files
from metarl_jax.runs.config import load
from metarl_jax.user_code import place, said

TRACEBACK = "METARL_TRACEBACK"  # an environment variable: where it is set, a user's own code fails with its traceback


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 1 if a run failed; 2 for a mistake in what was asked; 130 if interrupted, 143 if terminated."""
    # OpenBLAS, which XLA calls for small factorisations on a CPU, would wake and spin a thread for each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(50_000, 10, 10)  # imports and traces make millions of objects that stay: search them less often
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    if arguments.command in ("train", "check", "sweep", "tune"):  # key=value may stand anywhere, after options too
        arguments.overrides += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a user's own parts; last, so that no file there stands before a library
    arguments.argv = sys.argv[1:] if argv is None else argv
    arguments.together = False  # whether every process of a run ends as this one does
    status = _run(arguments)
    if distributed.is_worker():
        distributed.leave(status, together=status == 0 or arguments.together)
    return status


def _run(arguments: argparse.Namespace) -> int:
    """The exit status of a command, its failures worded."""
    try:
        return _COMMANDS[arguments.command](arguments)
    except (ConfigError, MissingPackage) as error:
        if error.__cause__ is not None and os.environ.get(TRACEBACK):
            raise
        print(f"error: {printable(str(error))}", file=sys.stderr)
        arguments.together = distributed.has_joined()
        return 2
    except KeyboardInterrupt as error:
        print(f"\ninterrupted{f'; {error}' if str(error) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if distributed.is_worker() and distributed.is_lost(error):
            return distributed.LOST
        arguments.together = type(error).__name__ in ("RunFailed", "Terminated")
        line = _line_of_a_failure(error)
        if line is None or (os.environ.get(TRACEBACK) and place(error)):
            raise
        if type(error).__name__ == "Terminated":
            print(line, file=sys.stderr)
            return 128 + 15
        print(f"error: {printable(line)}", file=sys.stderr)
        return 1


def _line_of_a_failure(error: Exception) -> str | None:
    """What went wrong while a run ran, in one line; None for a fault of the library, which needs its traceback.

    That is a run that failed, a file, memory, physics on the host, and whatever a user's own code raised.
    """
    if type(error).__name__ in ("RunFailed", "LoggerFailed", "Terminated"):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {files.reason(error)}" if error.filename else files.reason(error)
    text = str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        wanted = re.search(r"allocating (\d+) bytes", text)
        size = f" (an array of {int(wanted[1]) / 2**30:,.1f} GiB)" if wanted else ""
        return f"out of memory{size}: make the sizes of the configuration smaller"
    on_host = [line.partition("PhysicsError: ")[2] for line in text.splitlines() if "PhysicsError: " in line]
    if on_host:  # JAX wraps it in the traceback of its callback
        return on_host[-1]
    where = place(error)
    return f"{said(error)}{where}; {TRACEBACK}=1 shows how it came there" if where else None


def _train(arguments: argparse.Namespace) -> int:
    distributed.check(arguments)
    if arguments.distributed and not distributed.is_worker():
        return _train_distributed(arguments)
    overrides = list(arguments.overrides)
    config_name = arguments.config
    if config_name is not None and "=" in config_name and arguments.resume:
        overrides, config_name = [config_name, *overrides], None
    if arguments.seeds is not None:
        overrides.append(f"num_seeds={arguments.seeds}")
    if config_name is None:
        if not arguments.resume or arguments.run_dir is None:
            raise ConfigError("config is missing: name a YAML file, or give --run-dir DIR --resume")
        source = arguments.run_dir / "config.yaml"
        if not source.exists():
            raise ConfigError(f"run directory {arguments.run_dir}: has no config.yaml to resume")
        recall(arguments.run_dir)
    else:
        source = find_config(config_name)
    several = arguments.devices_per_model > 1 or (arguments.seeds is not None and arguments.seeds > 1)
    prepare_jax(a_device_for_every_core=several)
    if arguments.distributed:  # before anything is imported that computes: gymnax, and a user's own code perhaps
        distributed.join(arguments)
    from metarl_jax import devices
    from metarl_jax.runs import directory, memory, train
    from metarl_jax.runs.build import build

    with distributed.agreed():
        config = load(source, overrides)
        run_dir = arguments.run_dir or new_run_dir(source.stem, arguments.resume)
        directory.check_free(run_dir, arguments.resume)
        job = build(config)
    tell = say if devices.is_first_process() else lambda _: None
    say_horizon(job, tell)
    info = directory.environment_info()
    device = f"{info['device']} ({info['backend']})"
    if arguments.distributed:
        device += f", {info['num_devices']} devices of {devices.num_processes()} processes"
    if arguments.devices_per_model > 1:
        device += f", {arguments.devices_per_model} for each model"
    headline = f"{config.algorithm} on {config.env}, {config.num_seeds} seed(s), {device}; run directory {run_dir}"
    with devices.of_each_model(arguments.devices_per_model):
        estimate = memory.check(job, tell)
        call = estimate.call if estimate else None
        train.train(job, run_dir, resume=arguments.resume, report=tell, headline=headline, call=call)
    if arguments.distributed:
        return 0
    return _finish(job, run_dir)


def _finish(job: Any, run_dir: Path) -> int:
    from metarl_jax.runs import report

    for path in report.pictures(job, run_dir):
        say(f"picture: {path}")
    print(run_dir)
    return 0


def _train_distributed(arguments: argparse.Namespace) -> int:
    """The parent of one process; that of the first one draws the pictures when the run has ended."""
    status, is_first = distributed.supervise(arguments.argv, arguments.run_dir)
    if status or not is_first:
        return status
    prepare_jax()
    from metarl_jax.runs.states import open_run

    return _finish(open_run(arguments.run_dir), arguments.run_dir)


def _sweep(arguments: argparse.Namespace) -> int:
    from metarl_jax.sweeps import engines

    engines.check(arguments.engine, arguments.address)
    prepare_jax(a_device_for_every_core=True)
    if arguments.engine != "local":
        engines.keep_off_accelerators()
    from metarl_jax.sweeps.search_space import is_dimension

    source = find_config(arguments.config)
    if arguments.run_dir is not None and arguments.resume:
        recall(arguments.run_dir)
    plain = load(source).model_dump()
    ranges = [o for o in arguments.overrides if is_dimension(o, plain)]
    overrides = [o for o in arguments.overrides if o not in ranges]
    if arguments.seeds is not None:
        overrides.append(f"num_seeds={arguments.seeds}")
    config = load(source, overrides)
    if arguments.lanes is not None and arguments.lanes < 1:
        raise ConfigError(f"lanes = {arguments.lanes}: must be at least 1")
    directory = arguments.run_dir or new_run_dir(f"sweep-{source.stem}", arguments.resume)
    from metarl_jax.runs import memory, user_parts
    from metarl_jax.runs.build import build
    from metarl_jax.runs.directory import check_free
    from metarl_jax.runs.training_loop import LANES_AT_A_TIME
    from metarl_jax.sweeps import plan
    from metarl_jax.sweeps import run as sweep

    check_free(directory, arguments.resume, plan.WHAT)
    made = sweep.make(
        config,
        ranges,
        method=arguments.method,
        num_trials=arguments.trials,
        grid_points=arguments.grid_points,
        lanes_at_a_time=arguments.lanes,
        interval=arguments.interval,
    )
    at_a_time = arguments.lanes or LANES_AT_A_TIME
    here = len(made.settings) * config.num_seeds
    here = here if arguments.engine == "local" else min(here, at_a_time)  # elsewhere, each worker has its own
    job = build(config.model_copy(update={"num_seeds": here, "seeds_per_batch": at_a_time}))
    say_horizon(job)
    memory.check(job, say)
    say(
        f"{config.algorithm} on {config.env}: {len(made.settings)} trials x {config.num_seeds} seed(s); one program "
        f"varies {', '.join(made.traced) or 'nothing'}; sweep directory {directory}"
    )
    with (
        engines.opened(arguments.engine, arguments.address, user_parts.found(config)) as cluster,
        interruptible(f"the same command with --run-dir {directory} --resume"),
    ):
        rows = sweep.run(made, directory, resume=arguments.resume, report=say, cluster=cluster)
    print(sweep.format_rows(made, rows))
    print(directory)
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from metarl_jax.reproductions import REPRODUCTIONS, choose_cells, format_list, format_result, reproduce

    if arguments.only_list:
        print(format_list())
        return 0
    name = (arguments.name or "").replace("_", "-")
    if name not in REPRODUCTIONS:
        import difflib

        near = difflib.get_close_matches(name, REPRODUCTIONS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"reproduction {name or '(none)'}: must be one of {', '.join(REPRODUCTIONS)}{hint}")
    try:
        cells = choose_cells(name, arguments.cells)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    from metarl_jax.reproductions import on_cluster, records
    from metarl_jax.sweeps import engines

    engines.check(arguments.engine, arguments.address)
    prepare_jax()
    if arguments.engine != "local":
        on_cluster.check(name)
        engines.keep_off_accelerators()
    import json
    import shutil

    from metarl_jax.runs.directory import environment_info

    entry = REPRODUCTIONS[name]
    directory = arguments.run_dir or Path("runs") / f"reproduce-{name}"
    say(f"{name}: {entry.title}; kept in {directory}, where a second call goes on. CPU time, one core: {entry.cpu}")
    output = arguments.output or directory
    with engines.opened(arguments.engine, arguments.address) as cluster:
        for folder in (directory, output):
            files.make_directory(folder, "directory")
        records.bring(output / name, directory / records.FOLDER)
        if cluster is not None:
            with interruptible("the same command"):
                cells = on_cluster.run(cluster, name, directory, cells, say)
    found = reproduce(name, directory, say, cells)
    asked = ",".join(records.read(directory, entry.cells)) or arguments.cells  # of all whose claims these are
    command = f"metarl reproduce {name}" + (f" --cells {asked}" if asked else "")
    result = {**found, **environment_info(), "command": command}
    print(format_result(result), flush=True)
    files.write_whole(output / f"{name}.json", json.dumps(result, indent=1) + "\n")
    if output != directory:
        records.bring(directory / records.FOLDER, output / name, anew=True)
    for picture in sorted(directory.glob(f"{name}*.png")):
        if output != directory:
            shutil.copyfile(picture, output / picture.name)
        print(output / picture.name)
    print(output / f"{name}.json")
    return 0 if result["passed"] else 1


def _tune(arguments: argparse.Namespace) -> int:
    name = "".join(c if c.isalnum() else "-" for c in arguments.env)
    directory = arguments.run_dir or new_run_dir(f"tune-{name}", arguments.resume)
    prepare_jax(a_device_for_every_core=True)
    from metarl_jax.tuning import commands

    with interruptible(f"the same command with --run-dir {directory} --resume"):
        return commands.run_tune(arguments, directory, say)


def _learn(arguments: argparse.Namespace) -> int:
    prepare_jax(a_device_for_every_core=True)
    from metarl_jax.sweeps import engines
    from metarl_jax.tuning import commands

    engines.check(arguments.engine, arguments.address)
    if arguments.engine != "local":
        engines.keep_off_accelerators()
    with interruptible("the same command"):
        return commands.run_learn(arguments, arguments.run_dir, say)


_COMMANDS = {
    "train": _train,
    "check": look.check,
    "sweep": _sweep,
    "tune": _tune,
    "learn-optimizer": _learn,
    "evaluate": look.evaluate,
    "film": look.film,
    "export": look.export,
    "compare": look.compare,
    "report": look.report,
    "runs": look.runs,
    "reproduce": _reproduce,
    "list": look.list_all,
    "show": look.show,
    "completion": completion,
}
