"""The Bayes-optimal Bernoulli bandit, exactly: the best that any agent, learned or not, can do on average.

k arms with p_i ~ U[0, 1], n pulls, undiscounted. What is known is (successes, failures) of each arm. Arms are
exchangeable, so a state is a multiset of such pairs, and

    V_t(state) = max_i p_i (1 + V_{t+1}(state, i succeeds)) + (1 - p_i) V_{t+1}(state, i fails),    V_n = 0,

with p_i = (1 + successes) / (2 + pulls). Of arms never pulled only one can be pulled next, so at most n of them
matter. States are enumerated: 1,951 for n = 10 and k = 5, 278,136 for n = k = 18 (half a minute, 1 GB).
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from metarl_jax.envs.tasks import check_count
from metarl_jax.reference.strategy import Strategy

MAX_STATES = 300_000


class Solution(NamedTuple):
    """States in order of their pulls, arms of a state in order of `_code`, most pulled first; read-only arrays."""

    value: np.ndarray  # [N] float64, total reward of the pulls that are left; [0] of the whole trial
    best: np.ndarray  # [N] place of the best arm among the arms of the state
    following: np.ndarray  # [N, min(k, n), 2] the state after that arm has failed (0) or succeeded (1)


def bayes_optimal_value(num_arms: int, num_pulls: int) -> float:
    """The highest expected total reward of `num_pulls` pulls of `num_arms` arms with p ~ U[0, 1].

    6.660 for 10 pulls of 5 arms, 6.714 for 10 pulls of 10 or more.

    Raises: ValueError: if there are more than `MAX_STATES` states, which it counts before it enumerates.
    """
    return float(solve(num_arms, num_pulls).value[0])


def bayes_optimal_bandit(num_arms: int, num_pulls: int) -> Strategy:
    """The strategy that attains `bayes_optimal_value` in trials of `num_pulls` pulls; raises what it raises."""
    solution = solve(num_arms, num_pulls)
    width = solution.following.shape[1]

    def init(key: Array) -> Memory:
        zeros = jnp.zeros(num_arms, int)
        return Memory(state=jnp.zeros((), int), pulls=zeros, successes=zeros)

    def order(memory: Memory) -> Array:
        """[width] the arms as the state has them."""
        return jnp.argsort(-_code(memory.successes, memory.pulls), stable=True)[:width]

    def act(memory: Memory, key: Array, observation: Array) -> Array:
        return order(memory)[jnp.asarray(solution.best)[memory.state]]

    def observe(
        memory: Memory, key: Array, observation: Array, arm: Array, reward: Array, next_observation: Array, done: Array
    ) -> Memory:
        place, success = jnp.argmax(order(memory) == arm), (reward > 0).astype(int)
        return Memory(
            state=jnp.asarray(solution.following)[memory.state, place, success].astype(int),
            pulls=memory.pulls.at[arm].add(1),
            successes=memory.successes.at[arm].add(success),
        )

    return Strategy(init, lambda memory, key: memory, act, observe)


@struct.dataclass
class Memory:
    """Of `bayes_optimal`."""

    state: Array  # [] index into the solution
    pulls: Array  # [k]
    successes: Array  # [k]


def count_states(num_arms: int, num_pulls: int) -> float:
    """Multisets of at most num_arms arms that have been pulled, fewer than num_pulls times in all; inf if > 1e308.

    The coefficients of y^(arms) x^(pulls) in prod_{m >= 1} (1 - y x^m)^-(m + 1): an arm pulled m times has m + 1
    numbers of successes.
    """
    width = min(check_count("num_arms", num_arms), check_count("num_pulls", num_pulls))
    count = np.zeros((width + 1, num_pulls))  # [arms, pulls]
    count[0, 0] = 1
    with np.errstate(over="ignore", invalid="ignore"):
        for m in range(1, num_pulls):
            old, ways = count.copy(), 1.0
            for j in range(1, min(width, (num_pulls - 1) // m) + 1):
                ways *= (m + j) / j  # multisets of j out of m + 1
                count[j:, m * j :] += ways * old[: width + 1 - j, : num_pulls - m * j]
    return float(np.nan_to_num(count.sum(), nan=np.inf))


@functools.lru_cache(maxsize=16)
def solve(num_arms: int, num_pulls: int) -> Solution:
    """Values and best arms of all states with a pull left; kept for the life of the process.

    Raises: ValueError: as `bayes_optimal_value`.
    """
    states = count_states(num_arms, num_pulls)
    if states > MAX_STATES:
        raise ValueError(f"num_arms {num_arms}, num_pulls {num_pulls}: {states:.3g} states, above {MAX_STATES:,}")
    layers = [np.zeros((1, min(num_arms, num_pulls)), np.int32)]  # codes [states, arms], descending
    following = []
    for _ in range(1, num_pulls):
        children = _children(layers[-1])
        unique, inverse = np.unique(children.reshape(-1, children.shape[-1]), axis=0, return_inverse=True)
        layers.append(unique)
        following.append(inverse.reshape(children.shape[:-1]))
    following.append(np.zeros((*layers[-1].shape, 2), np.int64))

    value, best = np.zeros(1), []
    values = []
    for codes, child in zip(reversed(layers), reversed(following), strict=True):
        successes, pulls = _decode(codes)
        p = (1 + successes) / (2 + pulls)
        after = value[child]  # [states, arms, 2]; after the last pull all are 0
        action_value = p * (1 + after[..., 1]) + (1 - p) * after[..., 0]
        best.append(action_value.argmax(axis=1))
        value = action_value.max(axis=1)
        values.append(value)
    first = np.cumsum([0, *map(len, layers)])  # where each layer starts
    shifted = [child + start for child, start in zip(following[:-1], first[1:], strict=False)] + following[-1:]
    arrays = np.concatenate(values[::-1]), np.concatenate(best[::-1]), np.concatenate(shifted)
    for x in arrays:
        x.flags.writeable = False
    return Solution(*arrays)


def _code(successes: Array, pulls: Array) -> Array:
    """A number for (successes, pulls): 0 for an arm never pulled, then those pulled once, twice, ..."""
    return pulls * (pulls + 1) // 2 + successes


def _decode(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pulls = ((np.sqrt(8 * codes + 1) - 1) / 2).astype(codes.dtype)
    return codes - pulls * (pulls + 1) // 2, pulls


def _children(codes: np.ndarray) -> np.ndarray:
    """[states, arms, 2, arms] the codes after each arm has failed or succeeded, descending again."""
    pulls, arms = _decode(codes)[1], np.arange(codes.shape[1])
    children = np.repeat(codes[:, None, None, :], len(arms), axis=1).repeat(2, axis=2)
    children[:, arms, 0, arms] += pulls + 1  # one pull more, as many successes
    children[:, arms, 1, arms] += pulls + 2
    return -np.sort(-children, axis=-1)
