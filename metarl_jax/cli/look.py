"""Commands that look at configurations and at what was trained, and train nothing."""

import argparse
import json
from pathlib import Path

from metarl_jax.algorithms import registry
from metarl_jax.cli.common import find_config, prepare_jax, say, say_horizon
from metarl_jax.envs.packages import MissingPackage
from metarl_jax.options import ConfigError, is_address
from metarl_jax.runs import files
from metarl_jax.runs.config import config_directory, describe, dump, load
from metarl_jax.runs.listing import run_of


def check(arguments: argparse.Namespace) -> int:
    """`metarl check`."""
    source = find_config(arguments.config)
    config = load(source, arguments.overrides)
    from metarl_jax.runs import loggers, memory, states
    from metarl_jax.runs.build import build

    job = build(config)
    say_horizon(job)
    states.learned_elsewhere(job)
    loggers.check(config.log_to)
    found, room = memory.check(job, say) or memory.estimate(job), memory.available()
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


def evaluate(arguments: argparse.Namespace) -> int:
    """`metarl evaluate`."""
    for option in ("num_tasks", "num_episodes"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ConfigError(f"--{option.replace('_', '-')} = {value}: must be at least 1")
    if arguments.num_updates is not None and arguments.num_updates < 0:
        raise ConfigError(f"--num-updates = {arguments.num_updates}: must be at least 0")
    arguments.run = run_of(arguments.run)
    prepare_jax()
    import jax

    from metarl_jax.runs import evaluate, report

    writable = evaluate.check_directory(arguments.run, say)
    table, scores = evaluate.assess(
        arguments.run,
        num_tasks=arguments.num_tasks,
        num_episodes=arguments.num_episodes,
        num_updates=arguments.num_updates,
        baselines=not arguments.no_baselines,
        report=say,
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


def film(arguments: argparse.Namespace) -> int:
    """`metarl film`."""
    for option, values, least in (("task", arguments.task, 0), ("every", [arguments.every], 1)):
        if min(values) < least:
            raise ConfigError(f"--{option} = {min(values)}: must be at least {least}")
    arguments.run = run_of(arguments.run)
    prepare_jax()
    from metarl_jax.runs import film

    path = arguments.output or arguments.run / "film.gif"
    print(film.film(arguments.run, arguments.task, path, arguments.every, say))
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """`metarl compare`."""
    prepare_jax()
    from metarl_jax.runs import compare

    found = compare.compare(arguments.runs, say)
    print(json.dumps(found) if arguments.json else compare.format_comparison(found))
    return 0


def report(arguments: argparse.Namespace) -> int:
    """`metarl report`."""
    places = arguments.runs
    is_sweep = len(places) == 1 and (places[0] / "sweep.json").is_file()
    if not is_sweep:
        for place in places:
            run_of(place)
    output = arguments.output or (places[0] / "report.html" if len(places) == 1 else Path("report.html"))
    files.check_writable(output.parent, "report")
    prepare_jax()
    from metarl_jax.runs import html_report

    if is_sweep:
        from metarl_jax.sweeps.html_report import sweep_page

        text = sweep_page(places[0])
    elif len(places) == 1:
        text = html_report.run_page(places[0])
    else:
        from metarl_jax.runs.html_comparison import comparison_page

        text = comparison_page(places, say)
    print(html_report.write(text, output))
    return 0


def runs(arguments: argparse.Namespace) -> int:
    """`metarl runs`."""
    from metarl_jax.runs import listing

    rows = listing.runs(arguments.folder)
    print(json.dumps(rows) if arguments.json else listing.format_runs(rows))
    return 0


def export(arguments: argparse.Namespace) -> int:
    """`metarl export`."""
    prepare_jax()
    from metarl_jax.runs.export import export
    from metarl_jax.runs.trained import load_run

    run = load_run(arguments.run, arguments.iteration)
    for path in export(run, arguments.output or run.directory / "export", arguments.seed):
        print(path)
    return 0


def list_all(arguments: argparse.Namespace) -> int:
    """`metarl list`."""
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


def _show_environment(name: str, line: str) -> int:
    """What an environment is, its options, its spaces; of a family such as gymnax:<id>, its line."""
    from metarl_jax.envs import make
    from metarl_jax.envs.registry import about, options_of

    print(f"{name}: {line}" if line else name)
    if name.endswith("<id>"):
        return 0
    print(f"\n{about(name)}\n")
    options = options_of(name)
    for key, default in options.items():
        print(f"{key:22} {'required' if default is ... else default}")
    if ... in options.values():
        return 0
    try:
        env, _ = make(name)
    except MissingPackage:
        raise
    except ValueError as error:
        raise ConfigError(f"env = {name}: {error}") from None
    for what in ("observation_space", "action_space"):
        if hasattr(env, what):
            space = getattr(env, what)(env.default_params)
            number = f"one of {space.n}" if hasattr(space, "n") else f"{list(space.shape)} numbers"
            print(f"{what.replace('_space', ''):22} {number}")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """`metarl show`."""
    what = arguments.what
    if what in registry.names():
        for key, default, values, description in describe(what):
            print(f"{key:22} {default:14} {values:14} {description}")
        return 0
    if any((Path(what) / name).is_file() for name in ("config.yaml", "sweep.json")):
        run = run_of(Path(what))
        print(files.read_text(run / "config.yaml", "config"), end="")
        last = files.last_row(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else None
        if last is not None:
            print(f"\nlast iteration: {json.dumps(last)}")
        return 0
    from metarl_jax.envs import registered

    known = registered()
    family = next(
        (name for name in known if name.endswith("<id>") and what.startswith(name.removesuffix("<id>"))), None
    )
    if what in known or family or (is_address(what) and not Path(what).exists()):
        return _show_environment(what, known.get(what, known.get(family or "", "")))
    print(dump(load(find_config(what, also=[*registry.names(), *registered()]))), end="")
    return 0
