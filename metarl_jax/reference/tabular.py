"""Strategies for tabular MDPs that plan in a learned model: posterior sampling, optimism, greed.

S states, A actions, episodes of H steps without discount, observations that are one-hot [S] or numbers. A memory holds
how often s' followed (s, a) and the sum of the rewards of (s, a). With the prior

    P(s, a) ~ Dirichlet(concentration, ..., concentration),  R(s, a) ~ N(mean, 1 / precision),
    reward ~ N(R(s, a), 1 / noise_precision),

the posterior has concentrations alpha = concentration + counts [S, A, S] and, after n rewards that sum to x, precision
tau = precision + n noise_precision and mean (precision mean + noise_precision x) / tau. `begin_episode` solves a model
made of it; the episode is then played by the Q-values [H, S, A] of that model, ties broken at random.

They are for table 2 of Duan et al. 2016 (RL2): S = 10, A = 5, H = 10, 1,000 MDPs, made with Osband's TabulaRL
(github.com/iosband/TabulaRL). Defaults are those of that code: the prior mean of a reward is 0, where the tasks have
1; greed and UCRL2 begin with next to no prior; the last transition of an episode is not counted. What the table shows
is, at each number of episodes, the best of a grid (on the same MDPs): `num_samples` 1, 2, ..., 20; `scale`
exp(linspace(log 1e-4, log 1, 21)); `epsilon` .1, .2, ..., 1. One setting comes close to each whole row: `opsrl` with
10 samples, `ucrl2` with scale .398 and `in_place`, `beb` with scale .00158, `epsilon_greedy` with epsilon .1.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.envs.observations import state_index
from metarl_jax.envs.tasks import check_count
from metarl_jax.reference.strategy import Strategy

Float = float | jax.Array


@struct.dataclass
class Prior:
    """What is believed before the first step; all may be tracers."""

    concentration: Float = 1.0  # of every next state, > 0
    mean: Float = 0.0  # of a mean reward
    precision: Float = 1.0  # of a mean reward, 1 / reward^2, > 0
    noise_precision: Float = 1.0  # of a reward given its mean, 1 / reward^2


UNIT = Prior()  # `Prior(mean=1.0)` is what the tasks of `envs.tabular` are drawn from
WEAK = Prior(concentration=1e-4, precision=1e-4)
WEAKER = Prior(concentration=1e-5, precision=1e-4)


@struct.dataclass
class TabularMemory:
    """What happened in one MDP, and the plan for this episode."""

    counts: jax.Array  # [S, A, S] transitions seen
    visits: jax.Array  # [S, A] rewards seen
    reward_sum: jax.Array  # [S, A]
    q: jax.Array  # [H, S, A] action values of the plan
    episode: jax.Array  # [] episodes begun
    time: jax.Array  # [] steps into this one


@struct.dataclass
class Posterior:
    """Beliefs about an MDP: Dirichlet transitions, Gaussian mean rewards."""

    concentration: jax.Array  # [S, A, S]
    mean: jax.Array  # [S, A] of the mean rewards
    precision: jax.Array  # [S, A]

    @property
    def transitions(self) -> jax.Array:
        """[S, A, S] expected probabilities."""
        return self.concentration / self.concentration.sum(axis=-1, keepdims=True)


def posterior(memory: TabularMemory, prior: Prior) -> Posterior:
    """The belief after what the memory has seen."""
    precision = prior.precision + prior.noise_precision * memory.visits
    mean = (prior.precision * prior.mean + prior.noise_precision * memory.reward_sum) / precision
    return Posterior(prior.concentration + memory.counts, mean, precision)


# --- planning -------------------------------------------------------------------------------------------


def value_iteration(reward: jax.Array, transitions: jax.Array, bonus: Float = 0.0, *, horizon: int) -> jax.Array:
    """Q_t(s, a) = R(s, a) + P(s, a) . V_{t+1} + (H - 1 - t) bonus(s, a),  V_t(s) = max_a Q_t(s, a),  V_H = 0.

    Args:
        reward: [S, A] expected rewards.
        transitions: [S, A, S] probabilities.
        bonus: [S, A] or [], reward per step to go: how far the value of what follows is overstated.
    Returns: [H, S, A].
    """

    def step(value: jax.Array, to_go: jax.Array) -> tuple[jax.Array, jax.Array]:
        q = reward + transitions @ value + to_go * bonus
        return q.max(axis=-1), q

    return jax.lax.scan(step, jnp.zeros_like(reward[:, 0]), jnp.arange(horizon))[1][::-1]


def extended_value_iteration(
    reward: jax.Array, transitions: jax.Array, radius: jax.Array, *, horizon: int, in_place: bool = False
) -> jax.Array:
    """Q_t(s, a) = R(s, a) + max_p p . V_{t+1}  over distributions p with |p - P(s, a)|_1 <= radius(s, a).

    The inner maximum of UCRL2 (Jaksch et al. 2010, figure 2): radius / 2 goes to the best next state and comes from
    the worst ones. With states in order of falling value, the cumulative probabilities become
    min(cumulative + radius / 2, 1).

    Args:
        reward: [S, A] optimistic expected rewards.
        transitions: [S, A, S] probabilities at the centre of the balls.
        radius: [S, A], at least 0.
        in_place: the centre of a ball is the p of the backup before, unless that put all mass on one state: TabulaRL
            writes p over its estimate. Optimism then adds up on the way back. In the first backup, where V is 0, the
            last state counts as the best.
    Returns: [H, S, A].
    """

    def step(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
        value, centre = carry
        order = jnp.argsort(value)[::-1]
        ranked = centre[..., order]
        cumulative = jnp.minimum(jnp.cumsum(ranked, axis=-1) + radius[..., None] / 2, 1)
        best = jnp.diff(cumulative, axis=-1, prepend=0)[..., jnp.argsort(order)]
        q = reward + best @ value
        if in_place:
            moved = ranked[..., :1] + radius[..., None] / 2 <= 1
            centre = jnp.where(moved, best, centre)
        return (q.max(axis=-1), centre), q

    return jax.lax.scan(step, (jnp.zeros_like(reward[:, 0]), transitions), length=horizon)[1][::-1]


# --- strategies -----------------------------------------------------------------------------------------


def random_actions(num_actions: int) -> Strategy:
    """Every action with the same probability; nothing is remembered.

    Raises: ValueError if num_actions is not positive.
    """
    num_actions = check_count("num_actions", num_actions)

    def act(memory: tuple, key: jax.Array, observation: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), 0, num_actions)

    return Strategy(lambda key: (), lambda memory, key: memory, act, lambda memory, *step: memory)


def psrl(num_states: int, num_actions: int, horizon: int, *, prior: Prior = UNIT) -> Strategy:
    """Posterior sampling (Strens 2000; Osband et al. 2013): an episode is played by the best policy of an MDP drawn
    from the posterior at its start.

    Raises: ValueError if a count is not positive.
    """
    return opsrl(num_states, num_actions, horizon, num_samples=1, prior=prior)


def opsrl(num_states: int, num_actions: int, horizon: int, *, num_samples: int = 10, prior: Prior = UNIT) -> Strategy:
    """Optimistic posterior sampling: the greatest Q_t(s, a) of `num_samples` MDPs drawn from the posterior.

    Each of the samples is solved by itself (TabulaRL; Osband and Van Roy 2017 discuss the algorithm).

    Raises: ValueError if a count is not positive.
    """
    num_samples = check_count("num_samples", num_samples)

    def plan(key: jax.Array, memory: TabularMemory) -> jax.Array:
        belief = posterior(memory, prior)

        def sample(key: jax.Array) -> jax.Array:
            reward_key, transition_key = jax.random.split(key)
            noise = jax.random.normal(reward_key, belief.mean.shape, belief.mean.dtype)
            transitions = jax.random.dirichlet(transition_key, belief.concentration, dtype=belief.mean.dtype)
            return value_iteration(belief.mean + noise / jnp.sqrt(belief.precision), transitions, horizon=horizon)

        return jax.vmap(sample)(jax.random.split(key, num_samples)).max(axis=0)

    return _planner(plan, num_states, num_actions, horizon)


def ucrl2(
    num_states: int,
    num_actions: int,
    horizon: int,
    *,
    scale: Float = 1.0,
    delta: Float = 0.05,
    prior: Prior = WEAKER,
    in_place: bool = False,
) -> Strategy:
    """Optimism in confidence sets (Jaksch et al. 2010), for a finite horizon, planning at every episode k = 1, 2, ...

    With c = log(2 S A (k + 1) / delta), a mean reward is within scale sqrt(4 c / max(n, 1)) of its estimate, and
    transition probabilities in an L1 ball of radius scale sqrt(4 S c / max(n, 1)), n the number of observations of
    (s, a). `scale` 1 is the theory's width for rewards of unit scale, too wide in practice. `in_place` is that of
    `extended_value_iteration`; the numbers of the table were made with it.

    Raises: ValueError if a count is not positive.
    """

    def plan(key: jax.Array, memory: TabularMemory) -> jax.Array:
        belief = posterior(memory, prior)
        log_term = jnp.log(2 * num_states * num_actions * (memory.episode + 1) / delta)
        slack = scale * jnp.sqrt(4 * log_term / jnp.maximum(memory.visits, 1))
        radius = scale * jnp.sqrt(4 * num_states * log_term / jnp.maximum(memory.counts.sum(axis=-1), 1))
        return extended_value_iteration(
            belief.mean + slack, belief.transitions, radius, horizon=horizon, in_place=in_place
        )

    return _planner(plan, num_states, num_actions, horizon)


def beb(num_states: int, num_actions: int, horizon: int, *, scale: Float = 1.0, prior: Prior = UNIT) -> Strategy:
    """Bayesian exploration bonus (Kolter and Ng 2009): the expected MDP, with a bonus that falls as 1 / n.

    In the form of TabulaRL: 1 / (1 + tau(s, a)) is added to the reward, and for every step to go beta H / (1 + |alpha|)
    with beta = 2 H^2 scale and |alpha| the sum of the concentrations of (s, a).

    Raises: ValueError if a count is not positive.
    """

    def plan(key: jax.Array, memory: TabularMemory) -> jax.Array:
        belief = posterior(memory, prior)
        bonus = 2 * horizon**3 * scale / (1 + belief.concentration.sum(axis=-1))
        reward = belief.mean + 1 / (1 + belief.precision)
        return value_iteration(reward, belief.transitions, bonus, horizon=horizon)

    return _planner(plan, num_states, num_actions, horizon)


def greedy(num_states: int, num_actions: int, horizon: int, *, prior: Prior = WEAK) -> Strategy:
    """The best policy of the expected MDP, always.

    Raises: ValueError if a count is not positive.
    """
    return epsilon_greedy(num_states, num_actions, horizon, 0.0, prior=prior)


def epsilon_greedy(num_states: int, num_actions: int, horizon: int, epsilon: Float, *, prior: Prior = WEAK) -> Strategy:
    """The best policy of the expected MDP; at each step, with probability epsilon, a random action instead.

    Raises: ValueError if a count is not positive.
    """

    def plan(key: jax.Array, memory: TabularMemory) -> jax.Array:
        belief = posterior(memory, prior)
        return value_iteration(belief.mean, belief.transitions, horizon=horizon)

    return _planner(plan, num_states, num_actions, horizon, epsilon=epsilon)


def _planner(
    plan: Callable[[jax.Array, TabularMemory], jax.Array],
    num_states: int,
    num_actions: int,
    horizon: int,
    *,
    epsilon: Float = 0.0,
) -> Strategy:
    """The strategy that plays plan(key, memory) -> Q [H, S, A] for an episode."""
    num_states, num_actions = check_count("num_states", num_states), check_count("num_actions", num_actions)
    horizon = check_count("horizon", horizon)

    def init(key: jax.Array) -> TabularMemory:
        zeros = jnp.zeros((num_states, num_actions), float)
        q = jnp.zeros((horizon, num_states, num_actions), float)
        none = jnp.zeros((), int)
        return TabularMemory(jnp.zeros((*zeros.shape, num_states), float), zeros, zeros, q, none, none)

    def begin_episode(memory: TabularMemory, key: jax.Array) -> TabularMemory:
        memory = replace(memory, episode=memory.episode + 1, time=jnp.zeros_like(memory.time))
        return replace(memory, q=plan(key, memory).astype(memory.q.dtype))

    def act(memory: TabularMemory, key: jax.Array, observation: jax.Array) -> jax.Array:
        q = memory.q[jnp.minimum(memory.time, horizon - 1), state_index(observation)]
        return explore(key, q, epsilon)

    def observe(
        memory: TabularMemory,
        key: jax.Array,
        observation: jax.Array,
        action: jax.Array,
        reward: jax.Array,
        next_observation: jax.Array,
        done: jax.Array,
    ) -> TabularMemory:
        state, following = state_index(observation), state_index(next_observation)
        return replace(
            memory,
            counts=memory.counts.at[state, action, following].add(1.0 - done),
            visits=memory.visits.at[state, action].add(1.0),
            reward_sum=memory.reward_sum.at[state, action].add(reward),
            time=memory.time + 1,
        )

    return Strategy(init, begin_episode, act, observe)


def explore(key: jax.Array, q: jax.Array, epsilon: Float = 0.0) -> jax.Array:
    """The action of the greatest q [A], one of them at random where several are; any with probability epsilon."""
    explore_key, tie_key = jax.random.split(key)
    candidates = (q == q.max()) | (jax.random.uniform(explore_key) < epsilon)
    return jnp.argmax(jnp.where(candidates, jax.random.uniform(tie_key, q.shape), -1.0))
