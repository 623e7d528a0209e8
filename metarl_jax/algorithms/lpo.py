"""Learned policy optimisation: PPO with a learned drift in the place of its clip (LPO, Lu et al. 2022).

Agents minimise -mean [rho A - f(rho, A)], rho = pi / pi_old, with the drift f = ReLU(net(x) - 1e-4) of
x = (1 - rho, (1 - rho)^2, log rho, log^2 rho) and the same four times A. The network is one layer of tanh and a linear
one without biases, so that f and its slope are 0 at rho = 1: any such f is a valid drift of mirror learning (Kuba et
al. 2022), with its guarantees. `losses.dpo` is one that was discovered like this, and PPO's clip is another:

    min(rho A, clip(rho, 1 +- eps) A) = rho A - ReLU((rho - clip(rho, 1 +- eps)) A)

With `clip_eps` the network is added to that one, f = ReLU(ReLU((rho - clip rho) A) + net(x) - 1e-4), and its last layer
starts at 0: learning begins at PPO.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metarl_jax import tree
from metarl_jax.rl import learners, losses
from metarl_jax.types import Batch, Learner, Params, Policy
from metarl_jax.update_rules.lifetimes import Rule

Float = float | jax.Array
MARGIN = 1e-4  # what the network has to exceed


def init_drift(key: jax.Array, width: int = 128, scale: float = 1.0) -> Params:
    """Weights of the drift network, LeCun normal; those of the last layer times `scale`."""
    hidden, out = jax.random.split(key)
    dtype = jnp.result_type(float)
    return {
        "hidden": jax.random.normal(hidden, (8, width), dtype) / jnp.sqrt(8.0),
        "output": scale * jax.random.normal(out, (width,), dtype) / jnp.sqrt(width),
    }


def drift(eta: Params, log_ratio: jax.Array, advantage: jax.Array, clip_eps: Float | None = None) -> jax.Array:
    """f(rho, A) >= 0, elementwise in log rho [...] and A [...]; advantages in units of their standard deviation."""
    ratio = losses.likelihood_ratio(log_ratio)
    net = _network(eta, log_ratio, ratio, advantage)
    if clip_eps is not None:
        net = net + jax.nn.relu((ratio - jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)) * advantage)
    return jax.nn.relu(net - MARGIN)


def _network(eta: Params, log_ratio: jax.Array, ratio: jax.Array, advantage: jax.Array) -> jax.Array:
    about = jnp.stack([1.0 - ratio, jnp.square(1.0 - ratio), log_ratio, jnp.square(log_ratio)], axis=-1)
    x = jnp.concatenate([about, about * advantage[..., None]], axis=-1)
    return jnp.tanh(x @ eta["hidden"]) @ eta["output"]


def surrogate(eta: Params, clip_eps: Float | None = None) -> losses.Surrogate:
    """-mean [rho A - f(rho, A)], for `learners.ppo`."""

    def loss(log_prob: jax.Array, batch: Batch) -> jax.Array:
        log_prob, old, advantage = tree.masked((log_prob, batch.log_prob, batch.advantage), batch.mask)
        log_ratio = log_prob - old
        ratio = losses.likelihood_ratio(log_ratio)
        gained = ratio * advantage - drift(eta, log_ratio, advantage, clip_eps)
        if clip_eps is not None:  # far out this is the difference of two huge numbers: written as what it comes to
            clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps) * advantage
            kept = jnp.minimum(ratio * advantage, clipped)
            net = _network(eta, log_ratio, ratio, advantage) - MARGIN
            gained = jnp.where(log_ratio > losses.FAR, jnp.minimum(ratio * advantage, kept - net), gained)
        return -losses.masked_mean(gained, batch.mask)

    return loss


def lpo(
    policy: Policy,
    lr: Float = 1e-3,
    *,
    width: int = 128,
    clip_eps: Float | None = 0.2,
    optimizer: Any = None,
    **options: Any,
) -> Rule:
    """The rule whose numbers are a drift network of `width` units, for `learn_rule` or `evolve_rule`.

    Args:
        policy: of the agents, with a critic.
        clip_eps: of the PPO that learning begins at; None: it begins at a random drift.
        lr: step size of their `optimizer` (step size -> optimiser; None: `learners.adam`).
        options: those of `learners.ppo`, but for the surrogate.
    Where the drift is 0 it has no slope: a network that is nowhere above `MARGIN` cannot be learned by gradients.
    """

    def learner(eta: Params) -> Learner:
        step: optax.GradientTransformation = (optimizer or learners.adam)(lr)
        return learners.ppo(policy, surrogate=surrogate(eta, clip_eps), optimizer=step, **options)

    scale = 1.0 if clip_eps is None else 0.0
    return Rule(lambda key: init_drift(key, width, scale), learner, policy)
