"""`metarl` as processes without their imports: forks a child for each command that it reads, a JSON line.

{"arguments": [...], "folder": ..., "stderr": FILE} -> the child's exit status, negative for a signal. A child has
bounds on memory and on CPU time. Nothing is computed here, since JAX's threads do not survive a fork; gymnax, which
computes while it is imported, is not imported.
"""

import json
import os
import resource
import signal
import sys
import traceback

import distrax  # noqa: F401
import flax  # noqa: F401
import gymnasium  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import tensorboardX  # noqa: F401

import metarl_jax.runs.evaluate  # noqa: F401
import metarl_jax.runs.train  # noqa: F401
from metarl_jax.cli.main import main

GIB = 2**30
BOUNDS = {resource.RLIMIT_AS: 12 * GIB, resource.RLIMIT_CPU: 120}
LONGEST = 300  # seconds of the clock


def child(arguments: list[str], folder: str, stderr: str) -> int:
    """Run one command in this process; returns its exit status."""
    for which, bound in BOUNDS.items():
        resource.setrlimit(which, (bound, bound))
    signal.alarm(LONGEST)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    assert len(os.listdir("/proc/self/task")) == 1, "a thread was begun by an import"
    for line in sys.stdin:
        command = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = child(command["arguments"], command["folder"], command["stderr"])
            sys.stderr.flush()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
