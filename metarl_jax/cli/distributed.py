"""A training by several processes: on each host a parent watches over a worker, which is the one that imports JAX.

When a process of a run is lost, JAX ends those that are left from C++, with pages of messages. So each worker has a
parent: it passes on what the worker says, keeps JAX's messages back, and says in one line what happened and how to go
on.
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from metarl_jax.envs.packages import MissingPackage
from metarl_jax.options import ConfigError

WORKER = "METARL_WORKER"  # an environment variable, set in a worker
PLACE = "\x1eplace "  # before what a worker tells its parent, and nobody else
LOST = 75  # exit status of a worker that has lost another
# What JAX, XLA and Gloo write from C++: severity, date, time; and the lines with which such a message goes on.
_NATIVE = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d|[IWEF]0000 00:00:|\[Gloo\]|WARNING: All log messages before absl")
_GOES_ON = re.compile(r"\s|\d+\s*$|:UNKNOWN|RPC: |Additional GRPC|The tasks? ha|\*\*\* |\[type\.googleapis")
_OTHERS = ("distributed service", "coordination", "Gloo", "gloo", "NCCL", "Socket closed", "Connection reset by peer")


def check(arguments: argparse.Namespace) -> None:
    """That the options of several processes fit together. Raises: ConfigError."""
    named = {
        "--coordinator": arguments.coordinator,
        "--num-processes": arguments.num_processes,
        "--process-id": arguments.process_id,
    }
    given = [name for name, value in named.items() if value is not None]
    if given and not arguments.distributed:
        raise ConfigError(f"{given[0]}: is for --distributed, which is not given")
    if not arguments.distributed:
        return
    if given and len(given) < len(named):
        missing = " and ".join(name for name in named if name not in given)
        verb = "needs" if len(given) == 1 else "need"
        raise ConfigError(f"--distributed: {' and '.join(given)} {verb} {missing} beside it")
    if arguments.start_timeout < 1:
        raise ConfigError(f"--start-timeout {arguments.start_timeout}: must be at least 1 second")
    if arguments.run_dir is None:
        raise ConfigError("--distributed: needs --run-dir, a directory on a file system that all processes share")
    if not given:
        return
    number, place = arguments.num_processes, arguments.process_id
    if number < 1:
        raise ConfigError(f"--num-processes {number}: must be at least 1")
    if not 0 <= place < number:
        raise ConfigError(f"--process-id {place}: must be from 0 to {number - 1}, as there are {number} processes")
    host, _, port = arguments.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--coordinator {arguments.coordinator}: must be HOST:PORT of process 0, such as node1:12345")


def is_worker() -> bool:
    """Whether this process has been started by a parent."""
    return WORKER in os.environ


# --- the worker -----------------------------------------------------------------------------------------


def join(arguments: argparse.Namespace) -> None:
    """Join the other processes, and end with the parent."""
    from metarl_jax import devices

    threading.Thread(target=_end_with_parent, daemon=True).start()
    devices.join(arguments.coordinator, arguments.num_processes, arguments.process_id, arguments.start_timeout)
    import jax

    print(f"{PLACE}{jax.process_index()} {jax.process_count()}", file=sys.stderr, flush=True)


def has_joined() -> bool:
    """Whether this process is one of several."""
    return is_worker() and "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """What one process refuses in here, all refuse."""
    from metarl_jax import devices

    failure = None
    try:
        yield
    except (ConfigError, MissingPackage) as error:
        failure = error
    if devices.any_process(failure is not None):
        raise failure or ConfigError("another process has refused to begin; it says why")


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # nothing comes; it ends when the parent does, whatever ends it
    os._exit(1)


def is_lost(error: Exception) -> bool:
    """Whether a worker's error is that another process cannot be reached."""
    return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and any(x in str(error) for x in _OTHERS)


def leave(status: int, together: bool) -> None:
    """End a worker. `together`: all of them end here, and wait for each other."""
    if together:
        import jax

        jax.distributed.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # at once: JAX's own farewell would wait for the others, who wait for this one


# --- the parent -----------------------------------------------------------------------------------------


def supervise(argv: list[str], run_dir: Path) -> tuple[int, bool]:
    """(exit status of a worker that runs the command line `argv`, whether it was the first process)."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "metarl_jax.cli", *argv],
        env={**os.environ, WORKER: "1", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # Gloo writes to either
        text=True,
        errors="replace",
        start_new_session=True,  # a terminal's Ctrl-C reaches the parent only, which hands it on
    )
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda number, _: worker.send_signal(number))
    try:
        assert worker.stdout is not None
        heard = _Heard()
        heard.listen(worker.stdout)
        status = worker.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        worker.kill()
    if status < 0 or status == LOST:
        print(f"error: {heard.why(status)}; {_kept(run_dir)}", file=sys.stderr)
        return 1, heard.place == 0
    return status, heard.place == 0


class _Heard:
    """What a worker has said, of its place and of its end."""

    def __init__(self) -> None:
        self.place: int | None = None
        self.number = 0
        self.fatal = ""

    def listen(self, stream: IO[str]) -> None:
        """Pass on the lines that are meant for people, until there are no more."""
        held_back = False
        for line in stream:
            if line.startswith(PLACE):
                self.place, self.number = map(int, line.removeprefix(PLACE).split())
            elif _NATIVE.match(line) or "connected peer ranks" in line:  # threads write into each other's lines
                held_back = True
                if line.startswith("F") or self.fatal:
                    self.fatal += line
            elif self.fatal:
                self.fatal += line  # and the stack of what is fatal
            elif held_back and _GOES_ON.match(line):
                continue
            else:
                held_back = False
                print(line, end="", file=sys.stderr, flush=True)

    def why(self, status: int) -> str:
        """What ended a worker that has not said so itself."""
        who = "this process" if self.place is None else f"process {self.place} of {self.number}"
        if "RegisterTask" in self.fatal or "ALREADY_EXISTS" in self.fatal:
            if "ALREADY_EXISTS" in self.fatal:
                return "two processes have the same --process-id; give each its own"
            return "the other processes did not come in time; start all of them, with the same --coordinator"
        if status == LOST or any(word in self.fatal for word in _OTHERS):
            return f"{who} has lost another one, which has ended or cannot be reached"
        name = signal.Signals(-status).name
        memory = " (is the memory full?)" if name == "SIGKILL" else ""
        first = self.fatal.partition("\n")[0][-300:]
        return f"{who} was ended by {name}{memory}" + (f": {first}" if first else "")


def _kept(run_dir: Path) -> str:
    found = [int(p.name) for p in (run_dir / "checkpoints").glob("*") if p.name.isdecimal()]
    if not found:
        return "no checkpoint had been written"
    return f"the same commands with --resume go on from the checkpoint of iteration {max(found)}"
