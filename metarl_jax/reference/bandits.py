"""Bandit strategies that are not learned: what RL2 was compared with (Duan et al. 2016, Table 1 and appendix).

All keep the same memory, two numbers an arm, and see the arms through a `Posterior`: Bernoulli arms with a Beta prior
(the default), or Gaussian arms with a Gaussian prior and known noise. Ties go to the first arm, as in the authors'
code; among arms not yet pulled that makes greedy stay with the first until it has disappointed.

The published numbers take the best of a grid for each pair of n pulls and k arms: c and epsilon of 0, .1, ..., 1,
num_samples of 1, ..., 20, discounts of .9, .99, .999, .9999. `epsilon`, `c` and the floats of the posteriors may be
tracers, to be batched; counts and `discount` are static.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from metarl_jax.envs.tasks import check_count
from metarl_jax.reference.gittins_index import finite_horizon_position, finite_horizon_table, gittins_table
from metarl_jax.reference.strategy import Strategy

RULES = ("densest", "truncated")


@struct.dataclass
class Counts:
    """What has been seen of each arm."""

    pulls: Array  # [k]
    total: Array  # [k] sum of the rewards: the successes of a Bernoulli arm


class Posterior(NamedTuple):
    """Beliefs about the mean reward of each arm, as functions of `Counts`; arms are independent."""

    mean: Callable[[Counts], Array]  # [k]
    pulls: Callable[[Counts], Array]  # [k] pulls and those that the prior is worth
    sample: Callable[[Counts, Array], Array]  # counts, key -> [k]
    log_density: Callable[[Counts, Array], Array]  # counts, means [k] -> [k], up to a constant of the counts
    noise: float | Array = 1.0  # what UCB's bonus is multiplied by: the standard deviation of Gaussian rewards


def beta_bernoulli(a: float | Array = 1.0, b: float | Array = 1.0) -> Posterior:
    """Rewards 0 and 1, p ~ Beta(a, b): Beta(a + successes, b + failures)."""

    def parameters(counts: Counts) -> tuple[Array, Array]:
        return a + counts.total, b + counts.pulls - counts.total

    def log_density(counts: Counts, x: Array) -> Array:
        alpha, beta = parameters(counts)
        return jax.scipy.special.xlogy(alpha - 1, x) + jax.scipy.special.xlog1py(beta - 1, -x)

    return Posterior(
        mean=lambda counts: (a + counts.total) / (a + b + counts.pulls),
        pulls=lambda counts: a + b + counts.pulls,
        sample=lambda counts, key: jax.random.beta(key, *parameters(counts)),
        log_density=log_density,
    )


def gaussian(sigma: float | Array = 1.0, mean: float | Array = 0.5, std: float | Array = 12**-0.5) -> Posterior:
    """Rewards N(mu, sigma^2) with known sigma > 0, mu ~ N(mean, std^2): N(m, sigma^2 / n) with n = sigma^2 / std^2
    + pulls, m = (mean sigma^2 / std^2 + total) / n. The default prior has the moments of U[0, 1], that of
    `envs.bandit.gaussian_bandit`.
    """
    prior = (sigma / std) ** 2

    def center(counts: Counts) -> Array:
        return (prior * mean + counts.total) / (prior + counts.pulls)

    def spread(counts: Counts) -> Array:
        return sigma / jnp.sqrt(prior + counts.pulls)

    return Posterior(
        mean=center,
        pulls=lambda counts: prior + counts.pulls,
        sample=lambda counts, key: center(counts) + spread(counts) * jax.random.normal(key, counts.pulls.shape),
        log_density=lambda counts, x: -(((x - center(counts)) / spread(counts)) ** 2) / 2,
        noise=sigma,
    )


BERNOULLI = beta_bernoulli()


def random_arms(num_arms: int) -> Strategy:
    """Every arm with the same chance."""
    return _strategy(num_arms, lambda counts, key: jax.random.randint(key, (), 0, num_arms))


def greedy(num_arms: int, posterior: Posterior = BERNOULLI) -> Strategy:
    """The arm with the highest posterior mean."""
    return _highest(num_arms, lambda counts, key: posterior.mean(counts))


def epsilon_greedy(num_arms: int, epsilon: float | Array, posterior: Posterior = BERNOULLI) -> Strategy:
    """Any arm with probability epsilon, otherwise that of `greedy`."""

    def act(counts: Counts, key: Array) -> Array:
        chance, choice = jax.random.split(key)
        explore = jax.random.uniform(chance) < epsilon
        arm = jax.random.randint(choice, (), 0, num_arms)
        return jnp.where(explore, arm, jnp.argmax(posterior.mean(counts)))

    return _strategy(num_arms, act)


def ucb1(num_arms: int, c: float | Array = 1.0, posterior: Posterior = BERNOULLI) -> Strategy:
    r"""The highest mean_i + c noise sqrt(2 ln t / pulls_i) (Auer et al. 2002, where c = 1), t the pulls so far.

    .. math::

        \arg\max_i \; \hat\mu_i + c \, \sigma \sqrt{\frac{2 \ln t}{n_i}}

    As in Duan et al. 2016 the mean is the posterior's and pulls_i has the prior's in it: for Beta(1, 1) they are
    (1 + successes) / (2 + n_i) and 2 + n_i, so that no arm has to be pulled once. c = 0 is `greedy`.
    """

    def score(counts: Counts, key: Array) -> Array:
        log_t = jnp.log(jnp.maximum(counts.pulls.sum(), 1.0))
        return posterior.mean(counts) + c * posterior.noise * jnp.sqrt(2 * log_t / posterior.pulls(counts))

    return _highest(num_arms, score)


def thompson_sampling(num_arms: int, posterior: Posterior = BERNOULLI) -> Strategy:
    """The highest of one draw from the posterior of each arm (Thompson 1933)."""
    return _highest(num_arms, posterior.sample)


def optimistic_thompson_sampling(
    num_arms: int, num_samples: int = 10, posterior: Posterior = BERNOULLI, *, rule: str = "densest"
) -> Strategy:
    """Thompson sampling with better draws, by one of two rules that share the name.

    * `densest`: of `num_samples` joint draws, the one with the highest posterior density. Duan et al. 2016 publish the
      best of 1 (`thompson_sampling`) to 20 draws under the name OTS.
    * `truncated`: max(draw, posterior mean) for each arm, so that uncertainty never counts against it (May et al.
      2012, from whom the name is); `num_samples` has no part in it.

    Raises: ValueError: if num_samples is not a count, or rule is not one of the two.
    """
    check_count("num_samples", num_samples)
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")

    def densest(counts: Counts, key: Array) -> Array:
        draws = jax.vmap(lambda k: posterior.sample(counts, k))(jax.random.split(key, num_samples))  # [samples, k]
        return draws[jnp.argmax(posterior.log_density(counts, draws).sum(axis=1))]

    def truncated(counts: Counts, key: Array) -> Array:
        return jnp.maximum(posterior.sample(counts, key), posterior.mean(counts))

    return _highest(num_arms, densest if rule == "densest" else truncated)


def gittins(num_arms: int, num_pulls: int, discount: float) -> Strategy:
    """The Bernoulli arm with the highest Gittins index, for trials of at most `num_pulls` pulls.

    Optimal for rewards discounted by `discount` for ever (Gittins 1979), not for their sum over a trial. `discount`
    is a number, not a tracer: the constructor computes `gittins_table`, or remembers it.
    """
    table = gittins_table(num_pulls, discount)

    def score(counts: Counts, key: Array) -> Array:
        successes = counts.total.astype(int)
        return jnp.asarray(table, float)[successes, counts.pulls.astype(int) - successes]

    return _highest(num_arms, score)


def finite_horizon_gittins(num_arms: int, num_pulls: int, table: Array | None = None) -> Strategy:
    """The Bernoulli arm with the highest undiscounted index given the pulls that are left of `num_pulls`.

    `table` is `finite_horizon_table(num_pulls)`, to be handed in where it should be an argument of the compiled
    program: computed here (None) it is a constant in it, of 83 MB at 500 pulls.
    """
    entries = jnp.asarray(finite_horizon_table(num_pulls) if table is None else table)

    def score(counts: Counts, key: Array) -> Array:
        pulls = counts.pulls.astype(int)
        remaining = jnp.maximum(num_pulls - pulls.sum(), 1)
        return entries[finite_horizon_position(counts.total.astype(int), pulls, remaining)]

    return _highest(num_arms, score)


def _highest(num_arms: int, score: Callable[[Counts, Array], Array]) -> Strategy:
    """The strategy that pulls the first arm with the highest score: (counts, key) -> [k]."""
    return _strategy(num_arms, lambda counts, key: jnp.argmax(score(counts, key)))


def _strategy(num_arms: int, act: Callable[[Counts, Array], Array]) -> Strategy:
    """A strategy that remembers counts and acts on them: (counts, key) -> arm."""
    num_arms = check_count("num_arms", num_arms)

    def init(key: Array) -> Counts:
        return Counts(pulls=jnp.zeros(num_arms), total=jnp.zeros(num_arms))

    def observe(
        counts: Counts, key: Array, observation: Array, arm: Array, reward: Array, next_observation: Array, done: Array
    ) -> Counts:
        return Counts(pulls=counts.pulls.at[arm].add(1), total=counts.total.at[arm].add(reward))

    return Strategy(
        init=init,
        begin_episode=lambda counts, key: counts,
        act=lambda counts, key, observation: act(counts, key),
        observe=observe,
    )
