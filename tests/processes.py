"""`metarl train` as several processes of one machine, for tests."""

import os
import socket
import subprocess
import sys
from importlib.metadata import version

# Not all flags of the other tests: what is claimed is claimed of the emitters that users have.
FLAGS = "--xla_backend_optimization_level=0"
if tuple(map(int, version("jax").split(".")[:2])) < (0, 11):  # as in tests/conftest.py
    FLAGS += " --xla_cpu_parallel_codegen_split_count=1"
METARL = [sys.executable, "-m", "metarl_jax.cli"]


def environment(devices, **more):
    usual = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}
    return {**os.environ, **usual, "JAX_NUM_CPU_DEVICES": str(devices), **more}


def start(words, told=None, **more):
    """`metarl train` with these words as each of several processes of two devices: [process, word].

    `told`: the environment variables [process] by which a cluster tells each its place; None: by options.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", str(len(words))]
    return [
        subprocess.Popen(
            [*METARL, "train", *map(str, own), *(several[:1] if told else [*several, "--process-id", str(i)])],
            env=environment(2, **more, **(told[i] if told else {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, own in enumerate(words)
    ]


def ends(processes, within=400):
    """[(status, output, messages)]"""
    return [(*reversed((p.communicate(timeout=within), p.returncode)),) for p in processes]
