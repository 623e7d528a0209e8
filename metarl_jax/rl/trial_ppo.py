"""PPO between trials: the inner learner's update, with a step size and an entropy bonus that fall over training."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from metarl_jax.options import Float
from metarl_jax.rl import learners
from metarl_jax.types import Learner, Policy


def annealed_ppo(
    policy: Policy,
    *,
    lr: Float,
    num_iterations: int | None,
    anneal_lr: bool,
    entropy_coef: Float,
    anneal_entropy: bool,
    num_epochs: int,
    num_minibatches: int,
    **options: Any,
) -> tuple[Learner, Callable[[Any], Learner]]:
    """`learners.ppo` with Adam, as a learner and as (optimiser state -> the learner of that iteration).

    Args:
        anneal_lr, anneal_entropy: bring the step size, the `entropy_coef` linearly to 0 over `num_iterations` (None:
            constant). The iteration is told by Adam's count of its steps.
        options: of `learners.ppo`.
    Raises: ValueError for an entropy bonus to anneal over no number of iterations.
    """
    if anneal_entropy and num_iterations is None:
        raise ValueError("anneal_entropy = True: needs num_iterations, over which the weight falls")
    updates = num_epochs * num_minibatches
    total = None if num_iterations is None or not anneal_lr else num_iterations * updates
    optimizer = learners.annealed_adam(lr, total)
    fixed = {"num_epochs": num_epochs, "num_minibatches": num_minibatches, "optimizer": optimizer, **options}
    learner = learners.ppo(policy, entropy_coef=entropy_coef, **fixed)

    def at(opt_state: Any) -> Learner:
        if not anneal_entropy:
            return learner
        assert num_iterations is not None
        iteration = optax.tree_utils.tree_get_all_with_path(opt_state, "count")[0][1] // updates
        left = jnp.maximum(0.0, 1 - iteration / num_iterations)
        return learners.ppo(policy, entropy_coef=entropy_coef * left, **fixed)

    return learner, at
