"""What a meta-learned agent is measured against: hand-designed strategies, and the best that any learner can do.

Bandits are exported here; tabular MDPs are in `reference.tabular`, GridNavi in `reference.grid_navi`.
"""

from metarl_jax.reference.bandits import (
    Posterior,
    beta_bernoulli,
    epsilon_greedy,
    finite_horizon_gittins,
    gaussian,
    gittins,
    greedy,
    optimistic_thompson_sampling,
    random_arms,
    thompson_sampling,
    ucb1,
)
from metarl_jax.reference.bayes_optimal import bayes_optimal_bandit, bayes_optimal_value
from metarl_jax.reference.gittins_index import finite_horizon_table, gittins_table
from metarl_jax.reference.strategy import Strategy, play

__all__ = [
    "Posterior",
    "Strategy",
    "bayes_optimal_bandit",
    "bayes_optimal_value",
    "beta_bernoulli",
    "epsilon_greedy",
    "finite_horizon_gittins",
    "finite_horizon_table",
    "gaussian",
    "gittins",
    "gittins_table",
    "greedy",
    "optimistic_thompson_sampling",
    "play",
    "random_arms",
    "thompson_sampling",
    "ucb1",
]
