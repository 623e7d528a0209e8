"""Adaptation: acting and learning in one task, and the replay that every second-order gradient passes through.

`collect` lets an agent act, learn, act, learn ... and stores what it saw (a `Trial`). `replay` repeats the
same inner updates on the stored data: a deterministic, differentiable function of what is meta-learned.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.rl.rollout import faulty_steps, report_rates
from metarl_jax.types import Learner, LearnerState, Params, Rollout, Task, Trial

# sample(params, key, task) -> (data for learner.prepare, score): acting, or drawing labelled examples
Sample = Callable[[Params, jax.Array, Task], tuple[Any, jax.Array]]
Observe = Callable[[Params, Any], Any]  # (agent's params, batch) -> any pytree, before the update on that batch


def unroll(
    update: Callable[..., LearnerState],
    state: LearnerState,
    keys: jax.Array,
    data: Any,
    experience: Callable[[LearnerState, Any], Any],
) -> tuple[LearnerState, Any]:
    """K inner updates; `experience(state, data_k) -> (batch, record)` says what update k learns from.

    Returns the last state and the records, leaves [K, ...]. `update(state, key, batch) -> state`.
    """

    def step(state: LearnerState, x: tuple) -> tuple[LearnerState, Any]:
        key, data_k = x
        batch, record = experience(state, data_k)
        return update(state, key, batch), record

    return jax.lax.scan(step, state, (keys, data))


def collect(
    sample: Sample, learner: Learner, params: Params, key: jax.Array, task: Task, num_updates: int
) -> tuple[Trial, jax.Array]:
    """Sample, update, sample, ... in one task: K = `num_updates` updates, K + 1 samplings.

    Returns: the Trial, and scores [K + 1, ...] (episode returns [K + 1, B]) before and after each update.
    Everything is behind a stop-gradient.
    """
    sample_key, update_key = jax.random.split(key)
    sample_keys = jax.random.split(sample_key, num_updates + 1)
    update_keys = jax.random.split(update_key, num_updates)

    def experience(state: LearnerState, key: jax.Array) -> tuple[Any, tuple[Any, jax.Array, Any, Any]]:
        data, score = sample(state.params, key, task)
        batch = learner.prepare(state, data)
        about = (faulty_steps(data), report_rates(data)) if isinstance(data, Rollout) else (None, None)
        return batch, (batch, score, *about)

    state = learner.init(jax.lax.stop_gradient(params))
    state, (inner, *about) = unroll(lambda *x: learner.update(*x)[0], state, update_keys, sample_keys[:-1], experience)
    outer, (_, *last) = experience(state, sample_keys[-1])
    append = lambda first, then: jnp.concatenate([first, then[None]])  # noqa: E731
    scores, faults, reports = jax.tree.map(append, tuple(about), tuple(last))
    return jax.lax.stop_gradient((Trial(inner, outer, update_keys, reports=reports, faults=faults), scores))


def replay(
    update: Callable[..., LearnerState], state: LearnerState, trial: Trial, observe: Observe | None = None
) -> tuple[LearnerState, Any]:
    """U_K(... U_1(theta)) on `trial.inner`, and what `observe` saw before each update, leaves [K, ...]."""

    def experience(state: LearnerState, batch: Any) -> tuple[Any, Any]:
        return batch, None if observe is None else observe(state.params, batch)

    return unroll(update, state, trial.keys, trial.inner, experience)


def adapt(learner: Learner, params: Params, trial: Trial, differentiation: str = "reverse") -> LearnerState:
    r"""U_K(... U_1(theta)): the inner updates replayed on `trial.inner`; differentiable in `params`.

    .. math::

        \theta_K = U_K(\cdots U_2(U_1(\theta; \tau_1); \tau_2) \cdots; \tau_K)
    """
    return replay(lambda *x: learner.update(*x, differentiation)[0], learner.init(params), trial)[0]
