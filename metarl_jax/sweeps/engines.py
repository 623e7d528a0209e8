"""Engines: where the units of a sweep are computed. `local` is this process; `ray` the workers of a Ray cluster.

A unit goes to a worker with all that it needs and comes back with all that it found: the machines share no files, and
only the process that was started writes. A unit whose worker or node dies is run again; one that runs out of memory is
split, and its parts are run.
"""

import contextlib
import importlib.metadata
import os
import re
import socket
import subprocess
import sys
import textwrap
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from metarl_jax import __version__, devices
from metarl_jax.envs.packages import MissingPackage, package
from metarl_jax.options import ConfigError, suggest
from metarl_jax.runs import user_parts
from metarl_jax.runs.checkpoint import NUMERICS
from metarl_jax.runs.termination import Terminated, asked_to_end
from metarl_jax.runs.train import RunFailed
from metarl_jax.user_code import place, said

ENGINES = ("local", "ray")
RETRIES = 3  # of a unit whose worker died
REACH_S = 25.0  # seconds in which a cluster has to answer
AHEAD = 2  # units handed out for each that can be computed now
GONE = ("WorkerCrashedError", "NodeDiedError", "ObjectLostError", "ObjectFetchTimedOutError", "OwnerDiedError")
_DEVICES = re.compile(r"--xla_force_host_platform_device_count=\S+")


def check(engine: str, address: str | None) -> None:
    """Raises: ConfigError for an engine that there is not, and an address that the engine does not need."""
    if engine not in ENGINES:
        raise ConfigError(f"engine = {engine!r}: must be {' or '.join(ENGINES)}{suggest(engine, ENGINES)}")
    if address is not None and engine != "ray":
        raise ConfigError(f"address = {address}: is of a Ray cluster; add --engine ray")
    if address is not None and not re.fullmatch(r"[^\s/:]+:\d{1,5}", address):
        raise ConfigError(f"address = {address}: must be HOST:PORT, as `ray start --head` prints it")
    if engine == "ray":
        _ray()


def _ray() -> Any:
    """The package, quiet: nothing sent home, no notes on workers that died, for which there are lines of our own.

    Workers of a cluster that is started here get no less of a core than this process would.
    """
    for name, value in (
        ("USAGE_STATS_ENABLED", "0"), ("ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"), ("DEDUP_LOGS_SKIP_REGEX", ".*"),
        ("worker_niceness", "0"),
    ):  # fmt: skip
        os.environ.setdefault(f"RAY_{name}", value)
    return package("ray", "ray", "--engine ray")


def keep_off_accelerators() -> None:
    """Before JAX starts: this process computes next to nothing, and leaves accelerators to the workers."""
    jax.config.update("jax_platforms", "cpu")


@contextlib.contextmanager
def opened(engine: str, address: str | None = None, parts: dict[str, Any] | None = None) -> Iterator["Cluster | None"]:
    """The cluster of an engine, left at the end; None for `local`. `parts`: a user's own, `user_parts.found`.

    Raises: ConfigError, MissingPackage: one line, for a cluster that cannot be had.
    """
    check(engine, address)
    if engine == "local":
        yield None
        return
    ray = _ray()
    where = f"address = {address}" if address else "a cluster of this machine"
    if address is not None:
        _reach(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if address is None:
        options |= {"num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()}
        options |= {"include_dashboard": False}
    before = os.environ.pop("RAY_ADDRESS", None)  # says what --address does
    try:
        with _nothing_said():
            ray.init(address or "local", **options)
    except (Exception, SystemExit) as error:
        ray.shutdown()
        raise ConfigError(f"{where}: cannot be used by Ray ({textwrap.shorten(said(error), 300)})") from None
    finally:
        if before is not None:
            os.environ["RAY_ADDRESS"] = before
    try:
        yield Cluster(ray, where, parts or {})
    finally:
        with _nothing_said():
            ray.shutdown()


@contextlib.contextmanager
def _nothing_said() -> Iterator[None]:
    """What Ray's C++ writes to stderr while it starts and ends is dropped; and a warning that it forks."""
    sys.stderr.flush()
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _reach(address: str) -> None:
    """Raises: ConfigError where no Ray cluster answers. Ray itself would try for minutes, and then end the process."""
    host, _, port = address.rpartition(":")
    line = f"address = {address}: no Ray cluster answers there; `ray start --head` starts one"
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S / 2).close()
        ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
        done = subprocess.run(ask, timeout=REACH_S, capture_output=True, check=False)
    except (OSError, OverflowError, subprocess.TimeoutExpired):
        raise ConfigError(line) from None
    if done.returncode:
        raise ConfigError(line)


def versions() -> dict[str, str]:
    """What has to be the same wherever a part of a sweep is computed."""
    found = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    return {"metarl_jax": __version__, "numerics": str(NUMERICS), **found}


def on_worker(function: Callable[[Any], Any], unit: Any, wanted: dict[str, str], parts: dict[str, Any]) -> Any:
    """A unit's result, in a worker.

    Raises: ConfigError for other versions there; RunFailed, with its place, for what a user's own code raises.
    """
    for name, here in versions().items():
        if here != wanted[name]:
            raise ConfigError(f"{name} is {here} there and {wanted[name]} here; install the same on every machine")
    devices.keep_compiled_programs()
    user_parts.make_known(parts)
    try:
        return function(unit)
    except Exception as error:
        where = place(error)  # of a traceback, which stays there
        if not where or isinstance(error, ConfigError | RunFailed) or _is_full_memory(error):
            raise
        raise RunFailed(f"{said(error)}{where}") from None


def _is_full_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


class Cluster:
    """The workers of a Ray cluster."""

    def __init__(self, ray: Any, where: str, parts: dict[str, Any]):
        self._ray, self._parts, self.versions = ray, parts, versions()
        gpus = ray.cluster_resources().get("GPU", 0)
        self.uses_gpus = gpus >= 1 and os.environ.get("JAX_PLATFORMS", "") != "cpu"
        self._kind = "GPU" if self.uses_gpus else "CPU"
        if not self.workers:
            raise ConfigError(f"{where}: has no CPU for tasks; start a node with --num-cpus 1 or more")

    @property
    def workers(self) -> int:
        """CPUs, or GPUs, that there are now: nodes come and go."""
        return int(self._ray.cluster_resources().get(self._kind, 0))

    def describe(self) -> str:
        """In words: 4 CPUs of 2 nodes."""
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        workers = self.workers
        return f"{workers} {self._kind}{'s' * (workers > 1)} of {nodes} node{'s' * (nodes > 1)}"

    def run(
        self,
        function: Callable[[Any], Any],
        units: Iterable[Any],
        *,
        split: Callable[[Any], list[Any]],
        report: Callable[[Any], None],
        name: Callable[[Any], str],
    ) -> Iterator[tuple[Any, Any]]:
        """(unit, function(unit)) of all units, as they end; of a unit that did not fit into memory, of its parts.

        Args:
            split: a unit -> smaller ones that do the same, or [] if there are none.
            name: a unit in words, for messages.
        Raises: ConfigError, MissingPackage for what a worker refuses; RunFailed; Terminated after SIGTERM.
        """
        waiting, running, deaths = deque(units), {}, {}  # type: ignore[var-annotated]
        with asked_to_end() as ending:
            while waiting or running:
                while waiting and len(running) < AHEAD * max(1, self.workers):
                    unit = waiting.popleft()
                    running[self._send(function, unit)] = unit
                ready, _ = self._ray.wait(list(running), num_returns=1, timeout=0.5)
                if ending():
                    raise Terminated("terminated; --resume goes on with what was not finished")
                for reference in ready:
                    unit = running.pop(reference)
                    try:
                        found = self._ray.get(reference)
                    except Exception as error:
                        fault = self._fault(error, name(unit))
                        parts = split(unit) if fault == "memory" else []
                        if fault == "memory" and not parts:
                            raise RunFailed(f"out of memory: a worker cannot hold {name(unit)}, nor less") from None
                        if parts:
                            report(f"out of memory: {name(unit)} will be run as {', '.join(map(name, parts))}")
                        else:
                            deaths[id(unit)] = deaths.get(id(unit), 0) + 1
                            if deaths[id(unit)] > RETRIES:
                                line = f"a worker died {RETRIES + 1} times while it ran {name(unit)} ({said(error)})"
                                raise RunFailed(textwrap.shorten(line, 400)) from None
                            report(f"a worker or its node died: {name(unit)} will be run again")
                        waiting.extendleft(reversed(parts or [unit]))
                        continue
                    yield unit, found

    def _send(self, function: Callable, unit: Any) -> Any:
        """Deaths are counted here, so Ray retries nothing by itself."""
        options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if self.uses_gpus else {}
        options = options or {"num_cpus": 1}
        task = self._ray.remote(max_retries=0, runtime_env={"env_vars": self._environment()}, **options)
        return task(on_worker).remote(function, unit, self.versions, self._parts)

    def _environment(self) -> dict[str, str]:
        """What JAX in a worker reads: as here, but for one device."""
        same = {k: v for k, v in os.environ.items() if k.startswith("JAX_") and k != "JAX_PLATFORMS"}
        flags = _DEVICES.sub("", os.environ.get("XLA_FLAGS", "")).strip()
        found = {**same, "XLA_FLAGS": flags, "JAX_ENABLE_X64": str(int(jax.config.read("jax_enable_x64")))}
        if self.uses_gpus:
            return found
        # NPROC: threads of XLA's pool. A worker has one core, and threads of several workers wait for each other.
        one = dict.fromkeys(("JAX_NUM_CPU_DEVICES", "OPENBLAS_NUM_THREADS", "NPROC"), "1")
        return {**found, **one, "JAX_PLATFORMS": "cpu"}

    def _fault(self, error: Exception, what: str) -> str:
        """ "memory" or "death"; anything else is raised."""
        cause, kinds = getattr(error, "cause", None) or error, {kind.__name__ for kind in type(error).__mro__}
        text = str(error)
        if "OutOfMemoryError" in kinds or _is_full_memory(cause) or _is_full_memory(error):
            return "memory"
        if kinds & set(GONE):
            return "death"
        if isinstance(cause, ConfigError | MissingPackage):
            raise ConfigError(f"a worker refuses {what}: {cause}") from None
        if "No module named 'metarl_jax'" in text:
            raise ConfigError(f"a worker cannot run {what}: metarl_jax is not installed there") from None
        if type(error).__module__.startswith("ray.") and not hasattr(error, "cause"):
            raise RunFailed(f"Ray: {textwrap.shorten(said(error), 300)}; --resume goes on from what is kept") from None
        raise cause
