"""The `metarl` command; `cli_parser` says what it understands. Heavy imports wait until they are needed."""

import argparse
import gc
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metarl_jax.algorithms import registry
from metarl_jax.cli.parser import parser
from metarl_jax.options import ConfigError, shortened
from metarl_jax.runs import files
from metarl_jax.runs.config import config_directory, describe, dump, load


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
    try:
        return _COMMANDS[arguments.command](arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"\ninterrupted{f'; {error}' if str(error) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RuntimeError, OSError, MemoryError) as error:
        line = _line_of_a_failure(error)
        if line is None:
            raise
        if type(error).__name__ == "Terminated":
            print(line, file=sys.stderr)
            return 128 + 15
        print(f"error: {line}", file=sys.stderr)
        return 1


def _line_of_a_failure(error: Exception) -> str | None:
    """What went wrong while a run ran, in one line: a run that failed, physics on the host, a file, memory; or None."""
    if type(error).__name__ in ("RunFailed", "Terminated"):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {files.reason(error)}" if error.filename else files.reason(error)
    text = str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        wanted = re.search(r"allocating (\d+) bytes", text)
        size = f" (an array of {int(wanted[1]) / 2**30:,.1f} GiB)" if wanted else ""
        return f"out of memory{size}: make the sizes of the configuration smaller"
    on_host = [line.partition("PhysicsError: ")[2] for line in text.splitlines() if "PhysicsError: " in line]
    return on_host[-1] if on_host else None  # JAX wraps it in the traceback of its callback


def _say(message: Any) -> None:
    print(message, file=sys.stderr, flush=True)


def _prepare_jax(a_device_for_every_core: bool = False) -> None:
    from metarl_jax import devices

    devices.keep_compiled_programs()
    if a_device_for_every_core:
        devices.one_for_every_core()


def _recall(directory: Path) -> None:
    """Find a user's own parts of a run again."""
    if (directory / "parts.json").is_file():
        from metarl_jax.runs import user_parts

        user_parts.recall(directory)


def _find_config(name: str, also: Iterable[str] = ()) -> Path:
    path = Path(name)
    with files.worded(f"config {shortened(name)}"):
        if path.is_file() or path.suffix in (".yaml", ".yml") and (path.exists() or path.parent != Path(".")):
            return path
    found = config_directory() / (path.name if path.suffix == ".yaml" else f"{name}.yaml")
    if found.exists():
        return found
    import difflib

    known = sorted(p.stem for p in config_directory().glob("*.yaml"))
    near = difflib.get_close_matches(path.stem[:100], [*known, *also], n=1)
    what = "is a directory" if path.is_dir() else "no such file"
    hint = f"; did you mean {near[0]}?" if near else f", which are {', '.join(known)}"
    raise ConfigError(f"config {shortened(name)}: {what}, and not one of `metarl list`{hint}")


def _train(arguments: argparse.Namespace) -> int:
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
        _recall(arguments.run_dir)
    else:
        source = _find_config(config_name)
    _prepare_jax(a_device_for_every_core=arguments.seeds is not None and arguments.seeds > 1)
    config = load(source, overrides)
    run_dir = arguments.run_dir or _new_run_dir(source.stem, arguments.resume)
    from metarl_jax.runs import directory, memory, report, train
    from metarl_jax.runs.build import build

    directory.check_free(run_dir, arguments.resume)
    job = build(config)
    memory.check(job, _say)
    info = directory.environment_info()
    device = f"{info['device']} ({info['backend']})"
    headline = f"{config.algorithm} on {config.env}, {config.num_seeds} seed(s), {device}; run directory {run_dir}"
    train.train(job, run_dir, resume=arguments.resume, report=_say, headline=headline)
    for path in report.pictures(job, run_dir):
        _say(f"picture: {path}")
    print(run_dir)
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from metarl_jax.sweeps.search_space import is_dimension

    _prepare_jax(a_device_for_every_core=True)
    source = _find_config(arguments.config)
    if arguments.run_dir is not None and arguments.resume:
        _recall(arguments.run_dir)
    plain = load(source).model_dump()
    ranges = [o for o in arguments.overrides if is_dimension(o, plain)]
    overrides = [o for o in arguments.overrides if o not in ranges]
    if arguments.seeds is not None:
        overrides.append(f"num_seeds={arguments.seeds}")
    config = load(source, overrides)
    if arguments.lanes is not None and arguments.lanes < 1:
        raise ConfigError(f"lanes = {arguments.lanes}: must be at least 1")
    directory = arguments.run_dir or _new_run_dir(f"sweep-{source.stem}", arguments.resume)
    from metarl_jax.runs import memory
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
    lanes = {"num_seeds": len(made.settings) * config.num_seeds, "seeds_per_batch": arguments.lanes or LANES_AT_A_TIME}
    memory.check(build(config.model_copy(update=lanes)), _say)
    _say(
        f"{config.algorithm} on {config.env}: {len(made.settings)} trials x {config.num_seeds} seed(s); one program "
        f"varies {', '.join(made.traced) or 'nothing'}; sweep directory {directory}"
    )
    rows = sweep.run(made, directory, resume=arguments.resume, report=_say)
    print(sweep.format_rows(made, rows))
    print(directory)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    source = _find_config(arguments.config)
    config = load(source, arguments.overrides)
    from metarl_jax.runs import memory
    from metarl_jax.runs.build import build

    job = build(config)
    found, room = memory.check(job, _say), memory.available()
    about = [
        ("configuration", f"{config.algorithm} on {config.env}, {config.num_seeds} seed(s)"),
        ("an iteration", f"{job.work_per_iteration * config.num_seeds:,} {job.unit}"),
        ("in all", f"{job.work_per_iteration * config.num_seeds * config.num_iterations:,} {job.unit}"),
        ("learned", f"{memory.num_learned(job):,} numbers a seed"),
        ("a checkpoint", memory.worded(found.kept)),
        ("memory", f"about {memory.worded(found.total)}" + (f" of {memory.worded(room)} free" if room else "")),
    ]
    for name, value in about:
        print(f"{name:14} {value}")
    return 0


def _new_run_dir(name: str, resume: bool) -> Path:
    if resume:
        raise ConfigError("--resume needs --run-dir, to know which run to go on with")
    import time

    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _evaluate(arguments: argparse.Namespace) -> int:
    for option in ("num_tasks", "num_episodes"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ConfigError(f"--{option.replace('_', '-')} = {value}: must be at least 1")
    if arguments.num_updates is not None and arguments.num_updates < 0:
        raise ConfigError(f"--num-updates = {arguments.num_updates}: must be at least 0")
    _prepare_jax()
    from metarl_jax.runs.trained import run_of

    arguments.run = run_of(arguments.run)
    import json

    import jax

    from metarl_jax.runs import evaluate, report

    writable = evaluate.check_directory(arguments.run, _say)
    table, scores = evaluate.assess(
        arguments.run,
        num_tasks=arguments.num_tasks,
        num_episodes=arguments.num_episodes,
        num_updates=arguments.num_updates,
        baselines=not arguments.no_baselines,
        report=_say,
    )
    print(json.dumps(table) if arguments.json else report.format_table(table), flush=True)
    if not writable:
        return 0
    saved = evaluate.save(arguments.run, table, scores)
    if arguments.json:
        return 0
    job = evaluate.open_run(arguments.run)
    params = None
    if scores["run"].shape[2] > 1:
        params = jax.tree.map(lambda x: x[0], evaluate.restore(job, arguments.run)[1])
    made = report.pictures(job, arguments.run, params, max(1, scores["run"].shape[2] - 1))
    for path in [saved, *made]:
        print(path)
    return 0


def _film(arguments: argparse.Namespace) -> int:
    for option, least in (("task", 0), ("every", 1)):
        if getattr(arguments, option) < least:
            raise ConfigError(f"--{option} = {getattr(arguments, option)}: must be at least {least}")
    _prepare_jax()
    from metarl_jax.runs.trained import run_of

    arguments.run = run_of(arguments.run)
    from metarl_jax.runs import film

    path = arguments.output or arguments.run / "film.gif"
    print(film.film(arguments.run, arguments.task, path, arguments.every, _say))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    _prepare_jax()
    import json

    from metarl_jax.runs import compare

    found = compare.compare(arguments.runs, _say)
    print(json.dumps(found) if arguments.json else compare.format_comparison(found))
    return 0


def _runs(arguments: argparse.Namespace) -> int:
    import json

    from metarl_jax.runs import listing

    rows = listing.runs(arguments.folder)
    print(json.dumps(rows) if arguments.json else listing.format_runs(rows))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    _prepare_jax()
    from metarl_jax.runs.export import export
    from metarl_jax.runs.trained import load_run

    run = load_run(arguments.run, arguments.iteration)
    for path in export(run, arguments.output or run.directory / "export", arguments.seed):
        print(path)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from metarl_jax.envs import registered

    print("algorithms")
    for name, about in registry.names().items():
        print(f"  {name:22} {about}")
    print("\nenvironments")
    for name, description in registered().items():
        print(f"  {name:22} {description}")
    print("\nconfigurations")
    directory = config_directory()
    for path in [*sorted(directory.glob("*.yaml")), *sorted(directory.glob("papers/*.yaml"))]:
        first = path.read_text().splitlines()[0]
        name = str(path.relative_to(directory).with_suffix(""))
        print(f"  {name:28} {first.removeprefix('#').strip() if first.startswith('#') else ''}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    import json

    what = arguments.what
    if what in registry.names():
        for key, default, values, description in describe(what):
            print(f"{key:22} {default:14} {values:14} {description}")
        return 0
    run = Path(what)
    if (run / "config.yaml").is_file():
        print(files.read_text(run / "config.yaml", "config"), end="")
        if (run / "metrics.jsonl").is_file():
            rows = files.read_rows(run / "metrics.jsonl")
            if rows:
                print(f"\nlast iteration: {json.dumps(rows[-1])}")
        return 0
    from metarl_jax.envs import registered

    if what in registered():
        print(f"{what}: {registered()[what]}")
        return 0
    print(dump(load(_find_config(what, also=[*registry.names(), *registered()]))), end="")
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
    _prepare_jax()
    import json
    import shutil

    from metarl_jax.runs.directory import environment_info

    entry = REPRODUCTIONS[name]
    directory = arguments.run_dir or Path("runs") / f"reproduce-{name}"
    _say(f"{name}: {entry.title}; kept in {directory}, where a second call goes on. CPU time, one core: {entry.cpu}")
    output = arguments.output or directory
    for place in (directory, output):
        files.make_directory(place, "directory")
    command = f"metarl reproduce {name}" + (f" --cells {arguments.cells}" if arguments.cells else "")
    result = {**reproduce(name, directory, _say, cells), **environment_info(), "command": command}
    print(format_result(result), flush=True)
    files.write_whole(output / f"{name}.json", json.dumps(result, indent=1) + "\n")
    picture = directory / f"{name}.png"
    if picture.exists():
        if output != directory:
            shutil.copyfile(picture, output / picture.name)
        print(output / picture.name)
    print(output / f"{name}.json")
    return 0 if result["passed"] else 1


def _tune(arguments: argparse.Namespace) -> int:
    name = "".join(c if c.isalnum() else "-" for c in arguments.env)
    directory = arguments.run_dir or _new_run_dir(f"tune-{name}", arguments.resume)
    _prepare_jax(a_device_for_every_core=True)
    from metarl_jax.tuning import commands

    return commands.run_tune(arguments, directory, _say)


def _learn(arguments: argparse.Namespace) -> int:
    _prepare_jax(a_device_for_every_core=True)
    from metarl_jax.tuning import commands

    return commands.run_learn(arguments, arguments.run_dir, _say)


_COMMANDS = {
    "train": _train,
    "check": _check,
    "sweep": _sweep,
    "tune": _tune,
    "learn-optimizer": _learn,
    "evaluate": _evaluate,
    "film": _film,
    "export": _export,
    "compare": _compare,
    "runs": _runs,
    "reproduce": _reproduce,
    "list": _list,
    "show": _show,
}
