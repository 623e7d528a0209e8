"""Settings of the test run: a compilation cache that survives it, few garbage collections, float64 where asked for."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Read when jax is first imported, here and in the processes that tests start. Tests compile much and compute
# little: without LLVM's optimisations, XLA's newer emitters and the parts into which it splits a program for its
# threads (each test worker has one core) they compile much faster.
FLAGS = ["--xla_backend_optimization_level=0"]
if tuple(map(int, version("jax").split(".")[:2])) < (0, 11):  # later ones do not know it, and XLA ends the process
    FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # no line of Python beside every operation
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

# What the signatures of these say of shapes and types is checked at every call of the tests.
install_import_hook(["metarl_jax.rl.returns", "metarl_jax.rl.losses"], "typechecked.checker")


# Tracing makes millions of objects that live as long as their program: looking through them all for cycles again and
# again took a twelfth of the tests' time.
gc.set_threshold(50_000, 10, 10)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()


@pytest.fixture
def x64():
    """Double precision within one test."""
    import jax

    with jax.enable_x64(True):
        yield
