"""Meta-learners: collect a trial in every task, then descend the meta-loss on the stored trials."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metarl_jax import adapt as adaptation
from metarl_jax import tree
from metarl_jax.types import Learner, LearnerState, MetaLearner, MetaState, Metrics, Params, Task, Trial


def meta_learner(
    sample_task: Callable[[jax.Array], Task],
    sample: adaptation.Sample,
    learner: Learner,
    loss: Callable[[Params, Any], jax.Array],
    init_params: Callable[[jax.Array], Params],
    *,
    num_inner_steps: int,
    meta_batch_size: int,
    optimizer: optax.GradientTransformation,
    num_outer_epochs: int = 1,
    tasks_per_batch: int | None = None,
    score_name: str = "return",
) -> MetaLearner:
    """min_theta mean_i L_outer(adapt(theta; trial_i); trial_i.outer) over tasks i (Finn et al. 2017, eq. 1).

    A step samples `meta_batch_size` tasks, collects their trials with the current theta, and takes
    `num_outer_epochs` full-batch steps of `optimizer` on them; adaptation is replayed at each step, the
    environment is not. Memory is that of `tasks_per_batch` tasks (None: one on a CPU, all elsewhere).
    """

    def adapt(params: Params, trial: Trial) -> LearnerState:
        return adaptation.adapt(learner, params, trial)

    def meta_loss(params: Params, trial: Trial) -> jax.Array:
        return loss(adapt(params, trial).params, trial.outer)

    def collect(
        params: Params, key: jax.Array, task: Task, num_updates: int = num_inner_steps
    ) -> tuple[Trial, jax.Array]:
        return adaptation.collect(sample, learner, params, key, task, num_updates)

    def init(key: jax.Array) -> MetaState:
        params = init_params(key)
        return MetaState(params, optimizer.init(params))

    def collect_one(params: Params, key: jax.Array) -> tuple[Trial, jax.Array]:
        task_key, trial_key = jax.random.split(key)
        return collect(params, trial_key, sample_task(task_key))

    def step(state: MetaState, key: jax.Array) -> tuple[MetaState, Metrics]:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(meta_batch_size))
        trials, scores = tree.chunked_map(lambda k: collect_one(state.params, k), keys, tasks_per_batch)

        def epoch(state: MetaState, _: None) -> tuple[MetaState, Metrics]:
            per_task = tree.chunked_map(
                lambda trial: jax.value_and_grad(meta_loss)(state.params, trial), trials, tasks_per_batch
            )
            value, grads = tree.tree_mean(per_task)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            finite = {"loss": tree.finite(value), "gradient": tree.finite(grads), "params": tree.finite(params)}
            return MetaState(params, opt_state), {
                "loss": value,
                "grad_norm": tree.global_norm(grads),
                "finite": finite,
            }

        state, epochs = jax.lax.scan(epoch, state, None, length=num_outer_epochs)
        finite = jax.tree.map(jnp.all, epochs.pop("finite"))
        per_update = scores.reshape(meta_batch_size, num_inner_steps + 1, -1).mean(axis=(0, 2))
        named = {f"{score_name}_{k}": per_update[k] for k in range(num_inner_steps + 1)}
        return state, {**tree.tree_mean(epochs), **named, "finite": finite}

    return MetaLearner(init, step, collect, adapt, meta_loss)
