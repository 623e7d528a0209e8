"""Rollouts: a policy acts in an environment with a given task, as one scan over time. Never differentiated."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax import tree
from metarl_jax.envs.protocol import has_dear_reset, has_large_step, reports
from metarl_jax.types import Params, Rollout, Task

RESET_GROUPS = 8  # parts of the lanes that are reset at a time, where a reset is dear
NEVER = 2**31 - 1  # a step that no rollout has


@struct.dataclass
class EnvCarry:
    """Where B environments stand, kept between auto-reset rollouts."""

    observation: jax.Array  # [B, ...]
    env_state: Any  # [B, ...]
    episode_return: jax.Array  # [B]
    episode_length: jax.Array  # [B]


def reset(
    env: Any,
    key: jax.Array,
    task: Task,
    num_envs: int,
    one_task_each: bool = False,
    among: tuple[jax.Array, int] | None = None,
) -> EnvCarry:
    """`num_envs` environments at the start of an episode of `task`; `among`: see `rollout`."""
    keys = _own(jax.random.split(key, _total(num_envs, among)), num_envs, among)
    observation, state = jax.vmap(env.reset_env, in_axes=(0, 0 if one_task_each else None))(keys, task)
    # Some gymnax states begin as Python or weakly typed numbers: give them the types that a step returns.
    state = jax.tree.map(jnp.asarray, state)
    zeros = jnp.zeros(num_envs)
    return EnvCarry(observation, state, zeros, zeros.astype(jnp.int32))


def rollout(
    env: Any,
    act: Callable[..., Any],
    params: Params,
    key: jax.Array,
    task: Task,
    carry: EnvCarry | None = None,
    *,
    num_steps: int,
    num_envs: int,
    auto_reset: bool = False,
    memory: Any = None,
    one_task_each: bool = False,
    among: tuple[jax.Array, int] | None = None,
) -> tuple[Rollout, EnvCarry]:
    """Act for `num_steps` steps in `num_envs` copies of one task.

    Episodes (`auto_reset=False`): every column is one episode from a fresh start. After its end the
    environment stands still at its last observation and `mask` is 0; one that reaches `num_steps` is truncated there.
    Auto-reset: columns are streams that start a new episode of the *same task* after each end, and
    go on from `carry` in the next call; `next_observation` still holds the final observation.

    Args:
        act: (params, observation [B, ...]) -> distrax distribution, sampled once a step; with a `memory` [B, ...] to
            start from, (params, memory, observation) -> (memory, distribution). A reset does not clear the memory.
        one_task_each: `task` is stacked, leaves [num_envs, ...]: a task for every column, instead of one for all.
        among: (start, total): these columns are the ones from `start` on of `total` that devices share, and draw the
            numbers that they have among all of them.
    Returns: Rollout [num_steps, num_envs, ...] and the carry. Both are behind a stop-gradient.
    """
    params = jax.lax.stop_gradient(params)
    reset_key, scan_key = jax.random.split(key)
    if carry is None:
        carry = reset(env, reset_key, task, num_envs, one_task_each, among)
    total = _total(num_envs, among)
    # One draw for all keys, since every random call costs compile time: acting, then stepping, then resetting.
    keys = tree.draw(jax.random.split, scan_key, (num_steps, 1 + total * (1 + auto_reset)))
    task_axis = 0 if one_task_each else None
    # Where a reset is dear, a trial's environments are restarted here, and resets are computed for few lanes at a time.
    dear, restarts = has_dear_reset(env), has_dear_reset(env) and hasattr(env, "restart")
    step_env = jax.vmap(env.advance if restarts else env.step_env, in_axes=(0, 0, 0, task_axis))
    reset_env = jax.vmap(env.reset_env, in_axes=(0, task_axis))
    group = max(1, num_envs // RESET_GROUPS)

    def where(condition: jax.Array, function: Callable, args: tuple, otherwise: Any) -> Any:
        """`function(*args, task)` in the lanes of the condition."""
        own_task = lambda x: x[-1] if one_task_each else task  # noqa: E731
        stacked = (*args, task) if one_task_each else (*args, None)
        return tree.where_in_groups(lambda x: function(*x[:-1], own_task(x)), condition, stacked, otherwise, group)

    is_truncated = jax.vmap(env.is_truncated, in_axes=(0, task_axis))

    def step(scanned: Any, x: Any) -> tuple[Any, Rollout]:
        now, alive, remembered = scanned
        act_key, step_keys, reset_keys = x[0], _own(x[1 : 1 + total], num_envs, among), x[1 + total :]
        if memory is None:
            distribution = act(params, now.observation)
        else:
            remembered, distribution = act(params, remembered, now.observation)
        with tree.usual_promotion():
            action, log_prob = _sample(distribution, act_key, num_envs, among)
        observation, env_state, reward, terminated, info = step_env(step_keys, now.env_state, action, task)
        if restarts:
            over = info["episode_over"] if auto_reset else info["episode_over"] & alive
            arguments = (step_keys, observation, env_state)
            observation, env_state = where(over, env.restart, arguments, (observation, env_state))
        truncated = is_truncated(env_state, task) & ~terminated
        lived = jnp.ones_like(truncated, jnp.int32)
        if not auto_reset:  # what a step from beyond the end gives, NaN maybe, is nobody's
            reward, observation = jnp.where(alive, reward, 0.0), _where(alive, observation, now.observation)
            terminated, truncated, lived = terminated & alive, truncated & alive, alive.astype(jnp.int32)
        reward = reward.astype(log_prob.dtype)
        stepped = EnvCarry(observation, env_state, now.episode_return + reward, now.episode_length + lived)
        done = terminated | truncated
        out = Rollout(
            observation=now.observation,
            action=action,
            log_prob=log_prob,
            distribution=tuple(jax.tree.leaves(distribution)),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            next_observation=observation,
            mask=None if auto_reset else lived.astype(log_prob.dtype),  # type: ignore[arg-type]
            episode_return=stepped.episode_return,
            episode_length=stepped.episode_length,
            reports={name: info[name] if auto_reset else info[name] & alive for name in reports(env)},
        )
        if auto_reset and dear:
            keys = _own(reset_keys, num_envs, among)
            observation, env_state = where(done, env.reset_env, (keys,), (observation, env_state))
            returns, lengths = (jnp.where(done, 0, x) for x in (stepped.episode_return, stepped.episode_length))
            return (EnvCarry(observation, env_state, returns, lengths), alive, remembered), out
        if auto_reset:
            first_observation, first_state = reset_env(_own(reset_keys, num_envs, among), task)
            zeros = jnp.zeros_like(now.episode_return)
            fresh = EnvCarry(first_observation, first_state, zeros, jnp.zeros_like(now.episode_length))
            return (_where(done, fresh, stepped), alive, remembered), out
        return (_where(alive, stepped, now), alive & ~done, remembered), out

    alive = None if auto_reset else jnp.ones(num_envs, bool)  # streams never stand still
    (last, _, _), out = tree.scan_steps(step, (carry, alive, memory), keys, large=has_large_step(env))
    if auto_reset:  # as a constant, which XLA folds away
        out = dataclasses.replace(out, mask=jnp.ones_like(out.reward))
    else:  # the horizon is a time limit too
        out = dataclasses.replace(out, truncated=out.truncated.at[-1].set((out.mask[-1] > 0) & ~out.terminated[-1]))
    return jax.lax.stop_gradient((out, last))


def _total(num_envs: int, among: tuple[jax.Array, int] | None) -> int:
    return num_envs if among is None else among[1]


def _own(whole: Any, num_envs: int, among: tuple[jax.Array, int] | None) -> Any:
    """The rows of these columns among those of all."""
    if among is None:
        return whole
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, among[0], num_envs), whole)


def _sample(
    distribution: Any, key: jax.Array, num_envs: int, among: tuple[jax.Array, int] | None
) -> tuple[jax.Array, jax.Array]:
    """Actions [B, ...] and their log-probabilities [B]. One key draws for all columns, those of other devices too."""
    if among is None:
        return distribution.sample_and_log_prob(seed=key)
    start, total = among

    def of_all(x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(jnp.zeros((total, *x.shape[1:]), x.dtype), x, start, 0)

    return _own(jax.tree.map(of_all, distribution).sample_and_log_prob(seed=key), num_envs, among)


def _where(condition: jax.Array, a: Any, b: Any) -> Any:
    """Leafwise select by a [B] condition, keeping the dtypes of `b`'s leaves."""

    def select(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(-1, *[1] * (y.ndim - 1)), x, y).astype(y.dtype)

    return jax.tree.map(select, a, b)


def episode_returns(rollout: Rollout) -> jax.Array:
    """[B] undiscounted return of each column of an episode-mode rollout."""
    return rollout.episode_return[-1]


def report_rates(rollout: Rollout) -> dict[str, jax.Array]:
    """Share of the columns of an episode-mode rollout in which each report came true, [] each."""
    live = rollout.mask > 0
    return {name: jnp.mean(jnp.any(x & live, axis=0).astype(float)) for name, x in (rollout.reports or {}).items()}


def completed(rollout: Rollout) -> dict[str, jax.Array]:
    """Mean return and length of the episodes that ended in an auto-reset rollout, their number, and rates of reports.

    The means are infinite where none ended, see `types.Metrics`.
    """
    count = jnp.sum(rollout.done)
    total = jnp.sum(tree.masked(rollout.episode_return, rollout.done))
    length = jnp.sum(tree.masked(rollout.episode_length, rollout.done)).astype(total.dtype)
    rates = {
        name: tree.mean_or_nothing(jnp.sum(x & rollout.done).astype(total.dtype), count)
        for name, x in (rollout.reports or {}).items()
    }
    return {
        **rates,
        "episode_return": tree.mean_or_nothing(total, count),
        "episode_length": tree.mean_or_nothing(length, count),
        "num_episodes": count,
    }


def faulty_steps(rollout: Rollout) -> dict[str, jax.Array]:
    """The first live step in which the environment gave an `observation`, a `reward` that is NaN or infinite, [] each.

    Steps count from 1, 0 is the reset before them, `NEVER` says that there was none. What an environment makes of an
    action that is not finite is the agent's fault.
    """
    num_steps = rollout.mask.shape[0]
    live = rollout.mask.astype(bool)
    answers = live & _is_finite(rollout.action, live)
    starts = live & (rollout.episode_length == 1)

    def first(bad: jax.Array, offset: int) -> jax.Array:
        number = jnp.arange(num_steps, dtype=jnp.int32) + offset
        return jnp.min(jnp.where(jnp.any(bad, axis=1), number, NEVER))

    at_start = first(starts & ~_is_finite(rollout.observation, live), 0)
    later = first(answers & ~_is_finite(rollout.next_observation, live), 1)
    return {
        "observation": jnp.minimum(at_start, later),
        "reward": first(answers & ~jnp.isfinite(rollout.reward), 1),
    }


def first_fault(*faults: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The earliest of many `faulty_steps`, leaves [...] -> []."""
    return jax.tree.map(lambda *x: jnp.min(jnp.stack([jnp.min(each) for each in x])), *faults)


def environment_metrics(faults: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """What a step reports of `faulty_steps`: their part of the metric `finite`, and the metric `faulty_step`."""
    return {name: step == NEVER for name, step in faults.items()}, faults


def _is_finite(x: jax.Array, like: jax.Array) -> jax.Array:
    """[T, B] bool: all of x [T, B, ...] is finite."""
    return jnp.all(jnp.isfinite(x), axis=tuple(range(like.ndim, x.ndim)))
