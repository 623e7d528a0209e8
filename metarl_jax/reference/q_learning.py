"""Tabular Q-learning (Watkins 1989) as an inner learner: a rule with a few numbers in it that can be meta-learned.

    Q(s, a) <- Q(s, a) + lr (r + gamma (1 - terminated) max_a' Q(s', a') - Q(s, a)),   one transition after another.

`q_learning` learns while it acts; `q_update` replays stored transitions by the same rule and is differentiable in the
table it starts from, `lr` and `gamma`. Where several actions share a maximum, JAX shares its derivative among them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax import tree
from metarl_jax.envs.observations import state_index
from metarl_jax.envs.tasks import check_count
from metarl_jax.reference.strategy import Strategy
from metarl_jax.reference.tabular import explore

Float = float | jax.Array


@struct.dataclass
class Transitions:
    """Steps of a discrete-state task, in the order in which they are learned from."""

    state: jax.Array  # [N] int
    action: jax.Array  # [N] int
    reward: jax.Array  # [N]
    next_state: jax.Array  # [N] int, what the step led to, before any reset
    terminated: jax.Array  # [N] bool: what follows is worth 0; False where only the clock ended the episode
    mask: jax.Array | None = None  # [N] 1 for real steps, 0 for steps to skip; None: all real


def temporal_difference(q: jax.Array, transition: Transitions, *, gamma: Float) -> jax.Array:
    """r + gamma (1 - terminated) max_a' Q(s', a') - Q(s, a) of one transition (leaves []) under q [S, A]; []."""
    following = jnp.where(transition.terminated, 0.0, q[transition.next_state].max())
    return transition.reward + gamma * following - q[transition.state, transition.action]


def q_update(q: jax.Array, transitions: Transitions, *, lr: Float, gamma: Float) -> jax.Array:
    """The table after learning from N transitions in order.

    Args:
        q: [S, A].
        transitions: leaves [N].
        lr: step size [], in (0, 1] to converge.
        gamma: discount [].
    Returns: [S, A], differentiable in q, rewards, lr and gamma.
    """

    def step(q: jax.Array, x: Transitions) -> tuple[jax.Array, None]:
        if x.mask is not None:  # NaN in a skipped step has no part in the table or its derivatives
            x = tree.masked(x, x.mask)
        change = lr * temporal_difference(q, x, gamma=gamma)
        if x.mask is not None:
            change = tree.masked(change, x.mask)
        return q.at[x.state, x.action].add(change), None

    return jax.lax.scan(step, q, transitions)[0]


def q_learning(
    num_states: int,
    num_actions: int,
    *,
    lr: Float,
    gamma: Float,
    epsilon: Float,
    initial_q: Float = 0.0,
    state_index: Callable[[jax.Array], jax.Array] = state_index,
) -> Strategy:
    """Online Q-learning; each action is the best one, ties broken at random, or with probability epsilon any action.

    The memory is the table Q [S, A]. A step that is `done` is taken for a termination: `Strategy` does not tell a time
    limit from one. An episode that the caller cuts off is not done, and its last step bootstraps.

    Args:
        lr, gamma, epsilon: [] floats, may be tracers.
        initial_q: [] or [S, A].
        state_index: observation -> index of the state; the default reads a one-hot observation, or a number.
    Raises: ValueError if a count is not positive, or initial_q does not fit [S, A].
    """
    shape = (check_count("num_states", num_states), check_count("num_actions", num_actions))
    if jnp.shape(initial_q) not in ((), shape):
        raise ValueError(f"initial_q.shape = {jnp.shape(initial_q)}: must be () or {shape}")

    def init(key: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(initial_q, float), shape)

    def act(q: jax.Array, key: jax.Array, observation: jax.Array) -> jax.Array:
        return explore(key, q[state_index(observation)], epsilon)

    def observe(
        q: jax.Array,
        key: jax.Array,
        observation: jax.Array,
        action: jax.Array,
        reward: jax.Array,
        next_observation: jax.Array,
        done: jax.Array,
    ) -> jax.Array:
        seen = Transitions(state_index(observation), action, reward, state_index(next_observation), done)
        return q.at[seen.state, action].add(lr * temporal_difference(q, seen, gamma=gamma))

    return Strategy(init, lambda q, key: q, act, observe)
