"""PPO between trials: the inner learner's update, with a step size and an entropy bonus that fall over training."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from metarl_jax.rl import learners
from metarl_jax.rl.learners import Float
from metarl_jax.types import Learner, Policy


def annealed_ppo(
    policy: Policy,
    *,
    lr: Float,
    num_iterations: int | None,
    entropy_coef: Float,
    anneal_entropy: int | None,
    num_epochs: int,
    num_minibatches: int,
    **options: Any,
) -> tuple[Learner, Callable[[Any], Learner]]:
    """`learners.ppo` with Adam, as a learner and as (optimiser state -> the learner of that iteration).

    Args:
        num_iterations: anneals the step size linearly to 0 over that many iterations; None: constant.
        anneal_entropy: the same for `entropy_coef`. The iteration is told by Adam's count of its steps.
        options: of `learners.ppo`.
    """
    updates = num_epochs * num_minibatches
    optimizer = learners.annealed_adam(lr, None if num_iterations is None else num_iterations * updates)
    fixed = {"num_epochs": num_epochs, "num_minibatches": num_minibatches, "optimizer": optimizer, **options}
    learner = learners.ppo(policy, entropy_coef=entropy_coef, **fixed)

    def at(opt_state: Any) -> Learner:
        if anneal_entropy is None:
            return learner
        iteration = optax.tree_utils.tree_get_all_with_path(opt_state, "count")[0][1] // updates
        left = jnp.maximum(0.0, 1 - iteration / anneal_entropy)
        return learners.ppo(policy, entropy_coef=entropy_coef * left, **fixed)

    return learner, at
