"""Entropy coefficients on two colours (Flennerhag et al. 2022, Bootstrapped Meta-Learning, section 5.1).

One actor-critic lives through colours that change places every 100,000 steps. A large entropy coefficient lets it find
out, a small one lets it earn: a constant one has to choose. The meta-gradient (MG) and the bootstrapped one (BMG) learn
a network from the mean rewards of the last ten rollouts to the coefficient.

Sizes are those of a public re-implementation (github.com/MagiFeeney/Bootstrapped-Meta-Learning): one environment,
rollouts of 16 steps, discount .99, one-step returns, SGD; a network of 32 units in [0, 1], Adam; K = 7 and L = 9; for
MG as many updates that it goes through as BMG makes, 15, and an entropy weight of .12 in its outer loss. Ours are
networks of 64 units and a step size of .3 in the place of 256 and .1, gradients of norm .5 at most (without a bound one
agent in five ends with a policy that it cannot leave), a meta step size of 1e-3 in the place of 1e-4, and a life of
`STEPS` steps in the place of 6.4M. The constant coefficient is the best of `CONSTANTS` on seeds of its own. The paper's
figures are curves; what is claimed is their order.
"""

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.algorithms.meta_gradient_rl import MetaGradientRL, meta_gradient_rl
from metarl_jax.envs import make
from metarl_jax.meta import evaluation
from metarl_jax.meta.hyperparameters import Tuned
from metarl_jax.networks import mlp_policy
from metarl_jax.reproductions import NO_RULE, Claim
from metarl_jax.reproductions.cells import kept
from metarl_jax.reproductions.pictures import lives_curves
from metarl_jax.rl import learners

NUM_SEEDS = 10
STEPS = 2_400_000
SWAP_EVERY = 100_000
ROLLOUT, ROLLOUTS = 16, 16  # steps of a rollout; rollouts of an iteration
CONSTANTS = (0.05, 0.1, 0.15, 0.2, 0.3)
START = 0.1  # of the coefficients that are learned
OPTIMUM = 0.2789  # reward a step in the long run, `envs.two_colours`
SETTINGS: dict[str, Any] = {
    "num_envs": 1,
    "num_steps": ROLLOUT,
    "gamma": 0.99,
    "gae_lambda": 0.0,
    "lr": 0.3,
    "optimizer": learners.sgd,
    "normalize_advantage": False,
    "max_grad_norm": 0.5,
    "outer_gamma": 0.99,
    "outer_gae_lambda": 0.0,
}
LEARNED: dict[str, Any] = {"recent": 10, "meta_hidden": (32,), "meta_lr": 1e-3, "meta_max_grad_norm": 0.1}
METHODS: dict[str, dict[str, Any]] = {
    "fixed": {"num_inner_steps": ROLLOUTS - 1},
    "MG": {"num_inner_steps": ROLLOUTS - 1, "outer_entropy_coef": 0.12, **LEARNED},
    "BMG": {"num_inner_steps": 7, "num_target_steps": 9, "objective": "bootstrapped", **LEARNED},
}


def algorithm(method: str, constant: Any = START) -> MetaGradientRL:
    """One of `METHODS`; every iteration acts for `ROLLOUTS` rollouts and learns from all but the last."""
    env, tasks = make("TwoColours-v0", swap_every=SWAP_EVERY, horizon=10**9)
    policy = mlp_policy(env, (64, 64), "relu", critic=True)
    tuned = {} if method == "fixed" else {"entropy_coef": Tuned(START)}
    fixed = {"entropy_coef": constant} if method == "fixed" else {}
    return meta_gradient_rl(env, env.params(0), policy, tuned, **SETTINGS, **fixed, **METHODS[method])


def live(keys: jax.Array, method: str, constants: jax.Array) -> jax.Array:
    """[seed, iteration, 2] mean rewards a step, and entropy coefficients."""

    def one(key: jax.Array, constant: jax.Array) -> jax.Array:
        algo = algorithm(method, constant)
        init_key, key = jax.random.split(key)

        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            state, metrics = algo.step(state, key)
            return state, jnp.stack([metrics["reward"], metrics.get("tuned_entropy_coef", constant)])

        count = STEPS // (ROLLOUT * ROLLOUTS)
        return jax.lax.scan(step, algo.init(init_key), jax.random.split(key, count))[1]

    return jax.vmap(one)(keys, constants)


def run(directory: Path, report: Callable[[Any], None] = print) -> list[Claim]:
    """Mean reward a step over a whole life, of new agents; the constant chosen on lives of others."""

    compiled = functools.cache(lambda method: jax.jit(partial(live, method=method)))  # one program for all constants

    def lives(name: str, method: str, constant: float, first_seed: int) -> np.ndarray:
        keys = jax.vmap(jax.random.key)(first_seed + jnp.arange(NUM_SEEDS))
        report(f"{name}: {NUM_SEEDS} lives of {STEPS:,} steps")
        path = Path(directory) / f"{name}_{NUM_SEEDS}_{STEPS}.npy"
        made = kept(path, lambda: compiled(method)(keys, constants=jnp.full(NUM_SEEDS, constant)))
        return np.asarray(made, np.float64)

    tried = {c: lives(f"constant_{c}", "fixed", c, 1000)[:, :, 0].mean() for c in CONSTANTS}
    best = max(tried, key=lambda c: tried[c])
    curves = {f"constant {best}": lives(f"fixed_{best}", "fixed", best, 0)}
    curves |= {name: lives(name, name, START, 0) for name in ("MG", "BMG")}
    lives_curves(Path(directory) / "two-colours.png", curves, ROLLOUT * ROLLOUTS, SWAP_EVERY, OPTIMUM)
    return claims({name: curve[:, :, 0].mean(axis=1) for name, curve in curves.items()}, tried)


def claims(rewards: dict[str, np.ndarray], tried: dict[float, float]) -> list[Claim]:
    """`rewards` [seed] of the best constant, MG and BMG, in this order; `tried` the means of all constants."""
    found = [Claim(f"constant {c}, seeds to choose by", mean, None, NO_RULE, True) for c, mean in tried.items()]
    for name, values in rewards.items():
        found.append(_claim(name, values, NO_RULE, lambda low: True, OPTIMUM))
    names = list(rewards)
    for better, worse in ((2, 1), (1, 0), (2, 0)):
        what = f"{names[better]} - {names[worse]}"
        found.append(_claim(what, rewards[names[better]] - rewards[names[worse]], "interval > 0", lambda low: low > 0))
    return found


def _claim(
    what: str, values: np.ndarray, rule: str, holds: Callable[[float], bool], optimum: float | None = None
) -> Claim:
    mean, low, high = evaluation.bootstrap_interval(values[None], evaluation.mean)
    return Claim(what, mean, (low, high), rule, holds(low), None, optimum)
