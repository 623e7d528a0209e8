"""What a learner that is not learned looks like, and how one plays a task: several episodes with one memory.

A `Strategy` is a fixed rule (a bandit index, posterior sampling, optimism) that learns inside one task, from a memory
of counts. It sees the observation, action and reward of every step and never the task. Meta-RL agents such as RL2
(Duan et al. 2016) are compared with these rules.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Memory = Any  # a pytree of arrays, of the same shapes and dtypes throughout a task


class Strategy(NamedTuple):
    """A learning rule as pure functions for one task.

    Attributes:
      init: key -> memory, at the start of a task.
      begin_episode: (memory, key) -> memory: plan; the identity for bandits.
      act: (memory, key, observation) -> action.
      observe: (memory, key, observation, action, reward, next_observation, done) -> memory, after every step; `done`
        [] bool says that the environment ended the episode with this step.
    """

    init: Callable[[jax.Array], Memory]
    begin_episode: Callable[[Memory, jax.Array], Memory]
    act: Callable[[Memory, jax.Array, jax.Array], jax.Array]
    observe: Callable[..., Memory]


def memoryless(act: Callable[[jax.Array, jax.Array], jax.Array]) -> Strategy:
    """The strategy of (key, observation) -> action, which learns nothing."""
    return Strategy(
        init=lambda key: jnp.zeros(0),
        begin_episode=lambda memory, key: memory,
        act=lambda memory, key, observation: act(key, observation),
        observe=lambda memory, *_: memory,
    )


def play(env: Any, strategy: Strategy, key: jax.Array, task: Any, *, num_episodes: int, horizon: int = 1) -> jax.Array:
    """Rewards [episode, step] of one strategy in one task; its memory survives the episodes.

    Each episode starts afresh, runs for `horizon` steps, and after a terminated or truncated one the rest of its
    steps are masked: the reward is 0 and nothing is observed. An episode that outlasts `horizon` is cut off there,
    and `done` stays False. A bandit trial of n pulls is n episodes of horizon 1, or one episode of horizon n.

    Strategies played with one key meet the same chance, as far as they take the same actions.
    """
    init_key, scan_key = jax.random.split(key)

    def step(carry: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
        memory, observation, state, alive = carry
        action = strategy.act(memory, keys[0], observation)
        next_observation, next_state, reward, terminated, _ = env.step_env(keys[1], state, action, task)
        done = jnp.asarray(terminated, bool) | env.is_truncated(next_state, task)
        learned = strategy.observe(memory, keys[2], observation, action, reward, next_observation, done)
        stepped = (learned, next_observation, next_state)
        kept = _where(alive, stepped, (memory, observation, state))
        return (*kept, alive & ~done), jnp.where(alive, reward, 0.0)

    def episode(memory: Memory, key: jax.Array) -> tuple[Memory, jax.Array]:
        keys = jax.random.split(key, 2 + 3 * horizon)
        observation, state = env.reset_env(keys[0], task)
        state = jax.tree.map(jnp.asarray, state)  # some gymnax states begin as Python numbers
        memory = strategy.begin_episode(memory, keys[1])
        carry: Any = (memory, observation, state, jnp.ones((), bool))
        last, reward = jax.lax.scan(step, carry, keys[2:].reshape(horizon, 3, *keys.shape[1:]))
        return last[0], reward

    return jax.lax.scan(episode, strategy.init(init_key), jax.random.split(scan_key, num_episodes))[1]


def _where(condition: jax.Array, a: Any, b: Any) -> Any:
    """Leafwise select, keeping the dtypes of `b`'s leaves."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y).astype(y.dtype), a, b)
