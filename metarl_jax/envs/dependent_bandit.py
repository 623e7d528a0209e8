"""Bandits whose arms tell about each other (Wang et al. 2016, "Learning to reinforcement learn", section 3.1).

| kind        | arms                                                             | paper's pulls | Bayes-optimal total |
|-------------|------------------------------------------------------------------|---------------|---------------------|
| uniform     | Bernoulli p and 1 - p, p ~ U[0, 1]                               | 100           | 73.7786             |
| easy        | the same, p = .1 or .9                                           | 100           | 89.3750             |
| medium      | the same, p = .25 or .75                                         | 100           | 74.0000             |
| hard        | the same, p = .4 or .6                                           | 100           | 57.6879             |
| independent | Bernoulli p_1 and p_2, each U[0, 1]                              | 100           |                     |
| informative | one target of 10 arms pays 5, the others 1.1; arm 11 pays .1 x   | 5             | 20.5500             |
|             | the target's number (1 to 10), the least of all: nothing random  |               |                     |

The totals are exact, by dynamic programming over beliefs (ours; the paper's tables are of learners). With arms p and
1 - p either pull tells the same about p, so the greedy policy is Bayes-optimal. With the informative arm it is not:
the best agent takes the worst arm first, and then the target: .55 + 4 x 5.

The paper's episode is one task of 100 (or 5) pulls. As with the other bandits here, `horizon` defaults to 1 pull an
episode, and a trial of many episodes, or `horizon=100`, makes the paper's. Its agents read the time step and the last
action and reward, which is for trials to add.
"""

import jax
import jax.numpy as jnp
from jax import Array

from metarl_jax.envs.bandit import Bandit, BernoulliParams, GaussianParams, bernoulli_bandit, gaussian_bandit
from metarl_jax.envs.tasks import TaskDistribution

KINDS = ("uniform", "easy", "medium", "hard", "independent", "informative")
NUM_TARGETS, TARGET_REWARD, OTHER_REWARD = 10, 5.0, 1.1
_PROBS = {"easy": (0.1, 0.9), "medium": (0.25, 0.75), "hard": (0.4, 0.6)}


def dependent_bandit(*, kind: str = "uniform", horizon: int = 1) -> tuple[Bandit, TaskDistribution]:
    """The tasks of the table above, on the environments of `bandit.py`. The oracle knows the arms: horizon * best.

    Nothing is held out of the finite kinds (easy, medium, hard: 2 tasks; informative: 10), as in the paper.

    Raises: ValueError for an unknown kind, or a horizon below 1.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "informative":
        return _informative(horizon)
    env, independent = bernoulli_bandit(num_arms=2, horizon=horizon)
    if kind == "independent":
        return env, independent
    if kind in _PROBS:
        low, high = _PROBS[kind]
        members = jax.vmap(env.params)(jnp.asarray([[low, high], [high, low]], float))
        description = f"2 Bernoulli arms, p and 1 - p, p = {low:g} or {high:g}"
        return env, TaskDistribution.from_members(members, horizon, independent.oracle, description, hold_out=False)

    def sample(key: Array) -> BernoulliParams:
        p = jax.random.uniform(key, (), float)
        return env.params(jnp.stack([p, 1 - p]))

    description = "2 Bernoulli arms, p and 1 - p, p ~ U[0, 1]"
    return env, TaskDistribution(sample, horizon, oracle=independent.oracle, description=description)


def _informative(horizon: int) -> tuple[Bandit, TaskDistribution]:
    env, gaussian = gaussian_bandit(num_arms=NUM_TARGETS + 1, horizon=horizon, sigma=0.0)

    def params(target: Array) -> GaussianParams:
        arms = jnp.where(jnp.arange(NUM_TARGETS) == target, TARGET_REWARD, OTHER_REWARD).astype(float)
        return env.params(jnp.append(arms, (target + 1.0) / NUM_TARGETS))

    members = jax.vmap(params)(jnp.arange(NUM_TARGETS))
    description = "10 arms, one of them the target, and an arm that tells which"
    return env, TaskDistribution.from_members(members, horizon, gaussian.oracle, description, hold_out=False)
