"""Networks of the learned hyperparameter optimiser: one predicts how well PPO will do, one proposes what to try.

What has been tried on a task is a *history*: pairs of a setting x in [0, 1]^7 and the learning curve it had. With the
task's traits it is summed up by a permutation-invariant encoder (a conditional neural process, Garnelo et al. 2018);

  score   (y | x, history) ~ N(mu_m(x, h), sigma_m(x, h)^2) by member m of an ensemble (Lakshminarayanan et al. 2017),
  propose x' = f_phi(x, h, kappa), trained to make mean_m mu_m + kappa std_m mu_m large: kappa > 0 explores,
kappa < 0 avoids what the members disagree about.

Learning curves have the task's units. A history is shown in units of its own: 0 is where its curves begin, 1 the
distance between its lowest and highest point. The score to predict is 0 for an untrained policy and 1 for the best of
the task's landscape, which a new task does not tell; that is part of what is uncertain.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl_jax.networks.mlp import MLP

WIDTH = 32
MIN_STD = 0.02  # of a predicted score
STEP = 0.15  # of a proposal, in the unit cube


class History(NamedTuple):
    """What was tried on one task; padded, `mask` says what is there."""

    x: jax.Array  # [N, 7]
    curve: jax.Array  # [N, 16] in the task's units
    mask: jax.Array  # [N]
    traits: jax.Array  # [T]


def in_own_units(history: History) -> jax.Array:
    """[N, 17] curves with 0 at their beginning and 1 for the history's spread; and the last value again."""
    there = history.mask[:, None] > 0
    count = jnp.maximum(history.mask.sum(), 1.0)
    begin = jnp.sum(history.curve[:, 0] * history.mask) / count
    high = jnp.max(jnp.where(there, history.curve, -jnp.inf), initial=-jnp.inf)
    low = jnp.min(jnp.where(there, history.curve, jnp.inf), initial=jnp.inf)
    spread = jnp.where(history.mask.sum() > 0, high - low, 1.0)
    curve = jnp.where(there, (history.curve - begin) / jnp.maximum(spread, 1e-6), 0.0)
    return jnp.concatenate([curve, curve[:, -3:].mean(axis=1, keepdims=True)], axis=1)


class Encoder(nn.Module):
    """A history -> [2 * WIDTH], from mean and maximum over what was tried, and the setting that did best."""

    @nn.compact
    def __call__(self, history: History) -> jax.Array:
        curve, mask = in_own_units(history), history.mask[:, None]
        each = MLP([WIDTH], WIDTH, "relu")(jnp.concatenate([history.x, curve], axis=1))
        count = history.mask.sum()
        mean = jnp.sum(each * mask, axis=0) / jnp.maximum(count, 1.0)
        most = jnp.where(count > 0, jnp.max(jnp.where(mask > 0, each, -1e9), axis=0, initial=-1e9), 0.0)
        best = jnp.argmax(jnp.where(history.mask > 0, curve[:, -1], -jnp.inf))
        incumbent = jnp.where(count > 0, jnp.concatenate([history.x[best], curve[best]]), 0.0)
        known = jnp.concatenate([history.traits, jnp.stack([jnp.log1p(count), (count > 0).astype(count.dtype)])])
        return nn.relu(nn.Dense(2 * WIDTH)(jnp.concatenate([mean, most, incumbent, known])))


class Predictor(nn.Module):
    """(history, settings [Q, 7]) -> mean and standard deviation [Q] of their scores."""

    @nn.compact
    def __call__(self, history: History, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.broadcast_to(Encoder()(history), (*x.shape[:-1], 2 * WIDTH))
        out = MLP([2 * WIDTH, WIDTH], 2, "relu")(jnp.concatenate([x, h], axis=-1))
        return out[..., 0], MIN_STD + nn.softplus(out[..., 1])


class Proposer(nn.Module):
    """(history, settings [Q, 7], kappa [Q]) -> better settings [Q, 7], at most `STEP` away in each coordinate.

    Free to go anywhere, proposals end in a corner where the predictors have seen nothing and hope for everything.
    """

    @nn.compact
    def __call__(self, history: History, x: jax.Array, kappa: jax.Array) -> jax.Array:
        h = jnp.broadcast_to(Encoder()(history), (*x.shape[:-1], 2 * WIDTH))
        change = MLP([2 * WIDTH, WIDTH], x.shape[-1], "relu")(jnp.concatenate([x, kappa[..., None], h], axis=-1))
        return jnp.clip(x + STEP * nn.tanh(change), 0.0, 1.0)
