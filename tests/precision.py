"""Double precision for physics: a call of the host runs in a thread that sees JAX's global setting only."""

from contextlib import contextmanager

import jax


@contextmanager
def double_precision(on: bool = True):
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", on)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
