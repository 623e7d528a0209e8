"""A surrogate of one's own: likelihood ratios that are cut off above, and never below."""

import jax
import jax.numpy as jnp

import metarl_jax as mrl
from metarl_jax.types import Batch

HIGHEST = 2.0


def capped_ratio(log_prob: jax.Array, batch: Batch) -> jax.Array:
    """-mean min(pi / pi_old, 2) A over real steps."""
    ratio = jnp.exp(jnp.minimum(log_prob - batch.log_prob, jnp.log(HIGHEST)))
    return -mrl.losses.masked_mean(ratio * batch.advantage, batch.mask)
