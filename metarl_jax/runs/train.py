"""A training run: one compiled program, a run directory that survives a kill, progress, and failure reports.

A run directory holds
  config.yaml       the resolved configuration
  info.json         versions, device, command
  metrics.jsonl     one object an iteration (`log_every`: or fewer); depends on configuration and device only
  held_out.jsonl    with `eval_every`: scores on held-out tasks while it trains
  timing.jsonl      wall-clock seconds and throughput of each compiled call
  checkpoints/      orbax, the newest two
  memory.json       how much is computed at a time, where an accelerator's memory limits it
  tensorboard/      the same metrics as events
  *.png, *.gif      pictures, by `report`
"""

import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import __version__, devices, tree
from metarl_jax.options import ConfigError
from metarl_jax.runs import files, loggers, memory, training_loop
from metarl_jax.runs.build import Job
from metarl_jax.runs.checkpoint import Checkpoints
from metarl_jax.runs.directory import locked, open_directory, prolong
from metarl_jax.runs.held_out import HeldOut
from metarl_jax.runs.progress import Progress
from metarl_jax.runs.states import initial_states, learned_elsewhere, seeds_of, shapes_of_states, with_params
from metarl_jax.runs.termination import Terminated, asked_to_end
from metarl_jax.types import Metrics, Params

FIT = "memory.json"


class RunFailed(RuntimeError):
    """Training produced NaN or infinity; the message says where, and what is safe."""


def compiled_call(
    job: Job,
    num_iterations: int,
    states: Any,
    call: training_loop.TracedCall | None = None,
    begin: training_loop.Fit | None = None,
) -> tuple[Callable[[Any, Any], tuple[Any, Metrics]], training_loop.Fit]:
    """((states, first iteration) -> (states, metrics [seed, iteration]), compiled; how it fits into memory).

    Seeds are shared out over the devices; the tasks of each, where there are fewer seeds than devices.

    Args:
        call: what was traced before; it is used on a CPU, where it has the length.
        begin: see `training_loop.fit`.
    """
    seeds, config = devices.for_all(seeds_of(job)), job.config
    if devices.memory() is None:
        if call is None or call.length != num_iterations:
            call = training_loop.trace_call(config, num_iterations, states)
        compiled, fitted = call.traced.lower().compile(), training_loop.Fit(None, tree.Limits())
    else:
        make = functools.partial(training_loop.make_call, config, num_iterations, keep=training_loop.everything)
        args: tuple = (states, {}, seeds, jnp.asarray(0))
        compiled, fitted = training_loop.fit(make, args, config.num_seeds, config.seeds_per_batch, begin)
    return lambda states, first: compiled(states, {}, seeds, devices.for_all(jnp.asarray(first))), fitted


def train(
    job: Job,
    run_dir: Path,
    *,
    resume: bool = False,
    report: Callable[[Any], None] = print,
    headline: str = "",
    call: training_loop.TracedCall | None = None,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
) -> Any:
    """Run `job` to its last iteration in `run_dir`; returns the final states, leaves [seed, ...].

    A run of fewer iterations, finished or not, goes on to those of `job`. Several processes call it alike, and share
    `run_dir`; the first of them writes all but the checkpoints, and reports.

    Args:
        headline: reported once the directory is open.
        call: the call of `job`, if it was traced before.
        on_metrics: called with every row of metrics that is written, as the functions of `log_to` are.
    Raises: ConfigError for a directory that is in use or does not fit; RunFailed at the first NaN or infinity
        in a loss, gradient or parameter, with the last good checkpoint kept; Terminated after SIGTERM, once a
        checkpoint is written; LoggerFailed where a function of the user's raises, the rows being written.
    """
    with files.worded(f"run directory {run_dir}: cannot be made"):
        begun = any((run_dir / "checkpoints").glob("[0-9]*"))
    given = None if begun else learned_elsewhere(job)
    told = loggers.check(job.config.log_to)
    if on_metrics is not None:
        told["on_metrics"] = on_metrics
    if not devices.is_first_process():
        report, told = _to_nobody, {}
    with _opened(job, run_dir, resume, report):
        if headline:
            report(headline)
        return _train(job, run_dir, resume, report, call, given, told)


def _to_nobody(_: Any) -> None:
    """What the other processes would report."""


@contextmanager
def _opened(job: Job, run_dir: Path, resume: bool, report: Callable[[Any], None]) -> Iterator[None]:
    """The directory opened and held by the first process; the others wait until it is, and have to see it."""
    if not devices.same_in_all(json.dumps([__version__, str(run_dir), job.config.model_dump()])):
        raise ConfigError("the processes do not train the same; start all of them by one command and one version")
    with ExitStack() as held:
        failure = None
        if devices.is_first_process():
            try:
                open_directory(job.config, run_dir, resume)
                held.enter_context(locked(run_dir))
                prolong(job.config, run_dir, report)
            except (ConfigError, OSError) as error:
                failure = error
        if devices.any_process(failure is not None):
            raise failure or ConfigError(f"run directory {run_dir}: the first process cannot open it; see there")
        if devices.any_process(not (run_dir / "config.yaml").is_file()):
            raise ConfigError(f"run directory {run_dir}: must be on a file system that all processes share")
        yield


def _train(
    job: Job,
    run_dir: Path,
    resume: bool,
    report: Callable[[Any], None],
    call: training_loop.TracedCall | None,
    given: Params | None,
    told: dict[str, loggers.Logger | None],
) -> Any:
    config = job.config
    checkpoints = Checkpoints(run_dir / "checkpoints", config.model_dump())
    start = 0
    if checkpoints.iterations():
        start, restored = checkpoints.restore(shapes_of_states(job), end=config.num_iterations)
        states = devices.for_all(jax.tree.map(jnp.asarray, restored))
        report(f"resuming after iteration {start} of {config.num_iterations}")
    else:
        states = initial_states(job)
        if given is not None:
            states = with_params(job, states, given)
            report(f"starting from what {job.config.init_from} has learned")
        if resume and (run_dir / "metrics.jsonl").exists():
            report("no checkpoint yet: starting from iteration 0")
        states = devices.for_all(states)
    for name in ("metrics.jsonl", "timing.jsonl") if devices.is_first_process() else ():
        files.keep_rows(run_dir / name, start)
    held_out = HeldOut(job, run_dir, start, report)
    length = training_loop.call_length(config, start)
    if start == config.num_iterations:
        report("nothing left to do")
        return states
    work = job.work_per_iteration * config.num_seeds
    progress = Progress(start, config.num_iterations, work, job.unit, report)
    with (
        loggers.opened(config, run_dir, start, told) as write,
        progress,
        _interrupted(checkpoints),
        asked_to_end() as ending,
    ):
        began = time.perf_counter()
        compiled, fitted = compiled_call(job, length, states, call, _fit_before(run_dir))
        report(f"compiled in {time.perf_counter() - began:.1f} s")
        if fitted.worded():
            report(f"memory: {memory.worded(fitted.needed)} needed; {fitted.worded()}")
            _remember_fit(run_dir, fitted)
        for first in range(start, config.num_iterations, length):
            began = time.perf_counter()
            states, metrics = compiled(states, first)
            metrics = jax.tree.map(lambda x: np.swapaxes(np.asarray(x), 0, 1), metrics)  # [iteration, seed]
            seconds = time.perf_counter() - began
            last = first + length
            finite, faulty = metrics.pop("finite"), metrics.pop("faulty_step", {})
            bad = _first_bad(finite)
            rows = _rows(metrics, first, length if bad is None else bad[0])
            write(rows, {"iteration": last, "seconds": seconds})
            if bad is not None:
                raise _failure(first + bad[0], _cause(job, bad, faulty), checkpoints)
            progress.update(last, seconds, _about(job, rows[-1]))
            held_out(last, states)
            stop = devices.any_process(ending()) and last < config.num_iterations
            if stop or last % config.checkpoint_every == 0 or last == config.num_iterations:
                checkpoints.save(last, states)
            if stop:
                raise Terminated(f"terminated; {_kept(checkpoints)}")
    checkpoints.close()
    return states


def _fit_before(run_dir: Path) -> training_loop.Fit | None:
    """What an earlier call of the run came to, so that it goes on to the same bits."""
    if not (run_dir / FIT).exists():
        return None
    data = files.read_json(run_dir / FIT, "run")
    try:
        numbers = [None if data[key] is None else int(data[key]) for key in ("lanes", "tasks", "parts")]
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"run {run_dir / FIT}: is damaged; move it away, and memory is planned anew") from None
    lanes, batch, parts = numbers
    return training_loop.Fit(lanes, tree.Limits(batch, parts or 1))


def _remember_fit(run_dir: Path, fitted: training_loop.Fit) -> None:
    if devices.is_first_process():
        what = {"lanes": fitted.lanes, "tasks": fitted.limits.batch, "parts": fitted.limits.parts}
        files.write_whole(run_dir / FIT, json.dumps({**what, "bytes_needed": fitted.needed}) + "\n")


@contextmanager
def _interrupted(checkpoints: Checkpoints) -> Iterator[None]:
    """An interrupt says what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(checkpoints)) from None


def _kept(checkpoints: Checkpoints) -> str:
    good = checkpoints.iterations()
    if not good:
        return "no checkpoint had been written"
    return f"--resume goes on from the checkpoint of iteration {good[-1]}"


def _rows(metrics: Metrics, first: int, count: int) -> list[dict]:
    """One JSON object an iteration (counted from 1); a list over seeds where there are several."""

    def plain(values: np.ndarray) -> Any:
        numbers = [float(v) if np.isfinite(v) else None for v in values]
        return numbers[0] if len(numbers) == 1 else numbers

    return [
        {"iteration": first + i + 1, **{name: plain(values[i]) for name, values in sorted(metrics.items())}}
        for i in range(count)
    ]


# --- failures -------------------------------------------------------------------------------------------


def _first_bad(finite: Any) -> tuple[int, str] | None:
    """(offset of the first iteration with a False, name of its first leaf: the environment's, then loss, ...)."""
    bad = []
    for part in ("reward", "observation", "loss", "gradient", "params"):
        if part not in finite:
            continue
        for name, ok in zip(leaf_names_of(part, finite[part]), jax.tree.leaves(finite[part]), strict=True):
            failed = np.flatnonzero(~ok.reshape(ok.shape[0], -1).all(axis=1))
            if failed.size:
                bad.append((int(failed[0]), name))
    return min(bad, key=lambda b: b[0]) if bad else None


def leaf_names_of(part: str, leaves: Any) -> list[str]:
    """Leaf names with the part of the step that they belong to: `gradient actor.log_std`."""
    return [f"{part} {name}".strip() for name in tree.leaf_names(leaves)]


def _cause(job: Job, bad: tuple[int, str], faulty: Any) -> tuple[str, str]:
    """(what was first to be NaN or infinite, what usually helps)."""
    offset, name = bad
    if name not in faulty:
        return f"first in {name}", "a new run with a smaller step size or max_grad_norm usually helps"
    step, what = min((int(faulty[each][offset].min()), each) for each in ("reward", "observation"))
    if (what, step) == ("observation", int(faulty["reward"][offset].min())):
        what = "reward"  # some environments show the reward in their observation
    where = f"in step {step}" if step else "at a reset"
    thing = "an observation" if what == "observation" else "a reward"
    return (
        f"the environment {job.config.env} gave {thing} that is not finite {where} of that iteration",
        f"no step size helps: mend the {what} of that environment, or its env_options",
    )


def _failure(iteration: int, cause: tuple[str, str], checkpoints: Checkpoints) -> RunFailed:
    good = checkpoints.iterations()
    kept = (
        f"the last good checkpoint, of iteration {good[-1]}, is kept"
        if good
        else "no checkpoint had been written (--resume begins anew)"
    )
    return RunFailed(f"NaN or infinity at iteration {iteration + 1}, {cause[0]}; {kept}; {cause[1]}")


def _about(job: Job, row: dict) -> str:
    """The score and the loss of an iteration, means over the seeds."""

    def mean(value: Any) -> float | None:
        numbers = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
        return float(np.mean(numbers)) if numbers else None

    score, loss = mean(row.get(job.score)), mean(row["loss"])
    return f"{job.score} {'-' if score is None else format(score, '.3f'):>8}  loss {loss:9.3g}"
