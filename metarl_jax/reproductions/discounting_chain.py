"""Meta-gradients of gamma on the Discounting Chain (Bonnet et al. 2022, arXiv 2211.10550).

The first of 100 actions chooses when a reward comes: after 1, 3, 10, 30 or 100 steps. It is 1, but 1.1 for the fourth,
so that a small discount prefers the first. Critics are exact, V_gamma of the tuned gamma or, as the outer critic, V_1:
what is left is the bias that V_gamma brings into an outer loss with gamma' = 1. With lambda 0 its advantage of the
first action is r + V_gamma(s') - V_gamma(s), which still prefers the soon reward, and drives gamma down.

Settings are those of the authors' notebook (github.com/instadeepai/outer-value-function-meta-rl), of its second half
with normalised advantages: linear actor, SGD 0.5, Adam 0.1 for the logit of (gamma - .9) / .1, 128 environments of 100
steps, lambda 0, entropy 0.005 inside and outside, K = L = 1, KL at the first step. Two things differ:

* 1,000 updates, where their curves have settled, instead of 50,000.
* Their exact V of the first state is too small by a factor gamma inside; ours is the environment's.

Published numbers are read off their figures: returns 1.000 and 1.100, gamma .90 and 1.00.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.bsuite.discounting_chain import DiscountingChain

from metarl_jax.algorithms.meta_gradient_rl import MetaGradientRL, meta_gradient_rl
from metarl_jax.envs import from_gymnax
from metarl_jax.meta import evaluation
from metarl_jax.meta.hyperparameters import Tuned
from metarl_jax.networks import mlp_policy
from metarl_jax.reproductions import Claim
from metarl_jax.reproductions.cells import kept
from metarl_jax.rl import learners, losses
from metarl_jax.types import Batch, Params, Policy
from metarl_jax.update_rules.lifetimes import OuterCritic

DELAYED = 3  # the action that pays 1.1, after 30 steps
NUM_SEEDS = 10
NUM_UPDATES = 1000
LAST = 20  # updates that a number is the mean of
ROUNDING = 1e-4  # of float32 means, at the ends of a range
OPTIMUM = 1.1
SETTINGS: dict[str, Any] = {
    "num_envs": 128,
    "num_steps": 100,
    "gae_lambda": 0.0,
    "entropy_coef": 0.005,
    "value_coef": 0.0,
    "outer_gamma": 1.0,
    "outer_gae_lambda": 0.0,
    "outer_entropy_coef": 0.005,
    "normalize_advantage": False,  # the surrogate does it
    "max_grad_norm": None,
    "meta_max_grad_norm": None,
}


class Number(NamedTuple):
    """A published number, and between what ours must be."""

    published: float
    low: float
    high: float


class Variant(NamedTuple):
    """One row of the result."""

    title: str
    objective: str
    outer_critic: bool
    meta_lr: float
    final_return: Number
    gamma: Number


SOON, BEST = Number(1.0, 0.99, 1.01), Number(OPTIMUM, 1.095, OPTIMUM)
FIXED, LOW, HIGH = Number(0.95, 0.95, 0.95), Number(0.9, 0.9, 0.905), Number(1.0, 0.995, 1.0)
VARIANTS = {
    "a2c": Variant("A2C, gamma fixed", "gradient", False, 0.0, SOON, FIXED),
    "mg": Variant("MG", "gradient", False, 0.1, SOON, LOW),
    "bmg": Variant("BMG", "bootstrapped", False, 0.1, SOON, LOW),
    "mg_outer": Variant("MG, outer critic", "gradient", True, 0.1, BEST, HIGH),
    "bmg_outer": Variant("BMG, outer critic", "bootstrapped", True, 0.1, BEST, HIGH),
}


def true_value(env: Any, task: Any, policy: Policy, gamma: Any) -> Callable[[Params, jax.Array], jax.Array]:
    """V_gamma of the chain: (params, observation [..., 2] of chosen action and time / 100) -> [...].

    A reward R after d steps of an episode is worth gamma^(d - 1 - t) R at time t, before it is paid, and nothing then;
    at t = 0, where nothing has been chosen yet, the mean of that under the policy.
    """
    rewards = env.reset_env(jax.random.key(0), task)[1].rewards
    delays = jnp.asarray(task.reward_timestep)

    def value(params: Params, observation: jax.Array) -> jax.Array:
        now = jnp.round(observation[..., 1] * task.max_steps_in_episode)
        left = delays - 1.0 - now[..., None]  # [..., A] steps until each reward
        worth = jnp.where(left >= 0, gamma ** jnp.maximum(left, 0.0) * rewards, 0.0)
        chosen = jax.nn.one_hot(observation[..., 0].astype(int), delays.size)  # all 0 at the start, where it is -1
        weights = jnp.where(now[..., None] == 0, policy.apply(params, observation).probs, chosen)
        return jnp.sum(weights * worth, axis=-1)

    return value


def normalized(log_prob: jax.Array, batch: Batch) -> jax.Array:
    """-mean log pi (A - mean) / sqrt(variance + 1e-5), mean and variance being constants.

    The 1e-5 is felt: once all episodes are alike, so is the noise of their advantages, which it keeps small.
    """
    mean, variance = jax.lax.stop_gradient((jnp.mean(batch.advantage), jnp.var(batch.advantage)))
    return losses.vpg(log_prob, (batch.advantage - mean) / jnp.sqrt(variance + 1e-5), batch.mask)


def algorithm(variant: Variant) -> MetaGradientRL:
    """The meta-gradient learner of one row; make it outside of what is compiled, so that the task is a constant."""
    env, tasks = from_gymnax(DiscountingChain(mapping_seed=DELAYED))
    task = tasks.sample(jax.random.key(0))
    actor = mlp_policy(env, ())

    def policy(h: dict[str, Any]) -> Policy:
        return actor._replace(value=true_value(env, task, actor, h["gamma"]))

    return meta_gradient_rl(
        env,
        task,
        policy,
        {"gamma": Tuned(0.95, 0.9, 1.0)},
        objective=variant.objective,  # type: ignore[arg-type]
        outer_critic=OuterCritic(true_value(env, task, actor, 1.0)) if variant.outer_critic else None,
        meta_lr=variant.meta_lr,
        optimizer=learners.sgd,
        lr=0.5,
        surrogate=normalized,
        outer_surrogate=normalized,
        matched=lambda rollout: rollout.episode_length == 1,
        **SETTINGS,
    )


def train(keys: jax.Array, algo: MetaGradientRL) -> tuple[jax.Array, jax.Array]:
    """Returns and gammas [seed, update], the seeds side by side."""

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        init_key, key = jax.random.split(key)
        _, metrics = jax.lax.scan(algo.step, algo.init(init_key), jax.random.split(key, NUM_UPDATES))
        return metrics["episode_return"], metrics["tuned_gamma"]

    return jax.vmap(one)(keys)


def claim(what: str, values: np.ndarray, number: Number, optimum: float | None = None) -> Claim:
    """The mean of the seeds' numbers; passed if all of its interval is in the range."""
    mean, low, high = evaluation.bootstrap_interval(values[None], evaluation.mean)
    passed = low >= number.low - ROUNDING and high <= number.high + ROUNDING
    return Claim(what, mean, (low, high), f"{number.low} to {number.high}", passed, number.published, optimum)


def run(directory: Path, report: Callable[[Any], None] = print) -> list[Claim]:
    """Every row on `NUM_SEEDS` seeds: means of the last `LAST` updates."""
    keys = jax.vmap(jax.random.key)(jnp.arange(NUM_SEEDS))
    claims = []
    for name, variant in VARIANTS.items():
        path = Path(directory) / f"{name}_{NUM_SEEDS}_{NUM_UPDATES}.npy"
        curves = kept(path, lambda v=variant: jax.jit(partial(train, algo=algorithm(v)))(keys))  # type: ignore[misc]
        returns, gammas = np.asarray(curves, np.float64)[:, :, -LAST:].mean(axis=2)
        claims.append(claim(f"{variant.title}: return", returns, variant.final_return, OPTIMUM))
        claims.append(claim(f"{variant.title}: gamma", gammas, variant.gamma))
        seeds = f"returns {returns.min():.3f} to {returns.max():.3f}, gammas {gammas.min():.4f} to {gammas.max():.4f}"
        report(f"{variant.title}: {seeds} over {NUM_SEEDS} seeds")
    return claims
