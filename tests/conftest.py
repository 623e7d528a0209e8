"""Settings of the test run: a compilation cache that survives it, and float64 for the tests that ask for it."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Read when jax is first imported, here and in the processes that tests start. Tests compile much and compute
# little: without LLVM's optimisations and XLA's newer emitters they compile much faster.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

# What the signatures of these say of shapes and types is checked at every call of the tests.
install_import_hook(["metarl_jax.rl.returns", "metarl_jax.rl.losses"], "typechecked.checker")


@pytest.fixture
def x64():
    """Double precision within one test."""
    import jax

    with jax.enable_x64(True):
        yield
