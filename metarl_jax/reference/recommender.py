r"""What recommendations can be held against: the best slate for the known taste, and a filter that learns the taste.

The filter believes that the taste is Gaussian, as the prior of `envs.recommender` is. It keeps two tastes together, u_0
at the start of every session and u_t now, with mean mu and covariance Sigma. Before the first slate both are one draw
of N(0, I). A slate shows items x_j, of which the conditional logit picks slot j with chance p_j, or none, whose x is 0.
With a click on slot c (or none), one step is

.. math::

    g = \frac{x_c - \bar{x}}{\tau}, \quad H = \frac{\sum_j p_j x_j x_j^\top - \bar{x} \bar{x}^\top}{\tau^2},
        \quad \bar{x} = \sum_j p_j x_j

    \Sigma' = (\Sigma^{-1} + H)^{-1}, \quad \mu' = \mu + \Sigma' (g + H (v - \mu))

    \mu \leftarrow \sqrt{1 - \delta^2} \, \mu', \quad
        \Sigma \leftarrow (1 - \delta^2) \Sigma' + \delta^2 I

g and H are the gradient and the negative Hessian of log p_c with respect to u_t, at v. The second line is Newton's step
to the maximum of the posterior from v (at first v = mu, then the mu' before), and Laplace's approximation of it:
without drift, Thompson sampling as Chapelle and Li (2011) do it, with a full covariance. The third is a Kalman filter's
prediction for the drift, delta being what the filter takes for it. H and delta touch u_t only; what is learned of u_t
says something of u_0 by their covariance, and a new session starts with u_t = u_0.

`play` plays the strategies; the oracle sees the taste, so it is played in `told(env)`, and meets the same chance:

    play(told(env), oracle(env), key, task, num_episodes=1, horizon=env.horizon)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from metarl_jax.envs.recommender import Recommender
from metarl_jax.envs.tasks import check_count
from metarl_jax.reference.strategy import Strategy, memoryless, play

_JITTER = 1e-6  # on the variances that a taste is drawn from, so that they have a root in float32


@struct.dataclass
class Belief:
    """N(mean, covariance) of (u_0, u_t), d factors each."""

    mean: Array  # [2 d]
    covariance: Array  # [2 d, 2 d]


class Told(NamedTuple):
    """A recommender whose observation is the taste [num_factors], in the form that `play` needs."""

    reset_env: Callable[..., Any]
    step_env: Callable[..., Any]
    is_truncated: Callable[..., Any]


def told(env: Recommender) -> Told:
    """`env` with the taste in sight; states, rewards and chance are those of `env`."""

    def reset(key: Array, params: Any) -> tuple[Array, Any]:
        state = env.reset_env(key, params)[1]
        return state.taste, state

    def step(key: Array, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
        _, state, *rest = env.step_env(key, state, action, params)
        return state.taste, state, *rest

    return Told(reset, step, env.is_truncated)


def oracle(env: Recommender) -> Strategy:
    """The best slate for the taste, which it must be told: played in `told(env)`, or where observations are tastes.

    Exact: `SlateChoice.best_slate` says why no slate has a higher chance of a click, and no slate changes the taste.
    """
    return memoryless(lambda key, observation: env.choice.best_slate(observation))


def random_slates(env: Recommender) -> Strategy:
    """Every slate of different items with the same chance."""

    def act(key: Array, observation: Array) -> Array:
        order = jax.lax.top_k(jax.random.uniform(key, (env.choice.num_items,)), env.slate_size)[1].astype(int)
        return order[0] if env.slate_size == 1 else order

    return memoryless(act)


def thompson_sampling(env: Recommender, drift: float | Array | None = None, *, newton_steps: int = 3) -> Strategy:
    """The best slate for a taste drawn from the belief.

    Args:
        drift: the delta that the filter takes for the user's, which is hidden, from 0 to 1, may be a tracer. By default
            the root mean square of those of the family, U[0, d]: d / sqrt(3).
        newton_steps: of an update; static. 1 is the extended Kalman filter.

    Raises: ValueError for less than one Newton step.
    """

    def draw(belief: Belief, key: Array) -> Array:
        mean, covariance = now(belief)
        root = jnp.linalg.cholesky(covariance + _JITTER * jnp.eye(env.num_factors))
        return mean + root @ jax.random.normal(key, mean.shape, mean.dtype)

    return _filtering(env, drift, newton_steps, draw)


def greedy(env: Recommender, drift: float | Array | None = None, *, newton_steps: int = 3) -> Strategy:
    """The best slate for the mean of the belief; arguments as those of `thompson_sampling`."""
    return _filtering(env, drift, newton_steps, lambda belief, key: now(belief)[0])


def prior(num_factors: int) -> Belief:
    """u_0 = u_t ~ N(0, I)."""
    unit = jnp.eye(num_factors)
    return Belief(mean=jnp.zeros(2 * num_factors), covariance=jnp.block([[unit, unit], [unit, unit]]))


def now(belief: Belief) -> tuple[Array, Array]:
    """(mean [d], covariance [d, d]) of the taste now."""
    d = belief.mean.shape[0] // 2
    return belief.mean[d:], belief.covariance[d:, d:]


def learn(env: Recommender, belief: Belief, shown: Array, clicked: Array, *, newton_steps: int = 3) -> Belief:
    """The belief after a click on slot `clicked` (slate_size: none) of the items `shown` [slate_size]."""
    d = env.num_factors
    mean, covariance = now(belief)
    items = jnp.concatenate([env.choice.factors(shown), jnp.zeros((1, d))]) / env.choice.temperature  # [k + 1, d]

    def derivatives(taste: Array) -> tuple[Array, Array]:
        probs = jax.nn.softmax(env.choice.logits(taste, shown))
        centre = probs @ items
        return items[clicked] - centre, (items * probs[:, None]).T @ items - jnp.outer(centre, centre)

    def weigh(hessian: Array) -> Array:  # (H^-1 + Sigma)^-1, where H need not have an inverse
        return jnp.linalg.solve(jnp.eye(d) + hessian @ covariance, hessian)

    def newton(_: Any, taste: Array) -> Array:
        gradient, hessian = derivatives(taste)
        after = covariance - covariance @ weigh(hessian) @ covariance
        return mean + after @ (gradient + hessian @ (taste - mean))

    taste = jax.lax.fori_loop(0, newton_steps - 1, newton, mean)
    gradient, hessian = derivatives(taste)
    across = belief.covariance[:, d:]  # [2 d, d]
    both = belief.covariance - across @ weigh(hessian) @ across.T
    both = (both + both.T) / 2
    return Belief(mean=belief.mean + both[:, d:] @ (gradient + hessian @ (taste - mean)), covariance=both)


def move(belief: Belief, drift: float | Array) -> Belief:
    """The belief one step of the drift later."""
    d = belief.mean.shape[0] // 2
    variance = jnp.asarray(drift, float) ** 2
    scale = jnp.concatenate([jnp.ones(d), jnp.full(d, jnp.sqrt(jnp.maximum(1 - variance, 0)))])
    added = variance * jnp.diag(jnp.concatenate([jnp.zeros(d), jnp.ones(d)]))
    return Belief(mean=scale * belief.mean, covariance=scale[:, None] * belief.covariance * scale[None, :] + added)


def begin(belief: Belief) -> Belief:
    """The belief at the start of a session: u_t is u_0 again."""
    d = belief.mean.shape[0] // 2
    return Belief(mean=jnp.tile(belief.mean[:d], 2), covariance=jnp.tile(belief.covariance[:d, :d], (2, 2)))


def references(env: Recommender) -> dict[str, Callable[[Array, Any, int], Array]]:
    """{name: (key, user, number of sessions) -> clicks of each [session]}; all meet the same chance."""

    def row(strategy: Strategy) -> Callable[[Array, Any, int], Array]:
        def clicks(key: Array, user: Any, num_sessions: int) -> Array:
            return play(env, strategy, key, user, num_episodes=num_sessions, horizon=env.horizon).sum(axis=1)

        return clicks

    return {"Thompson sampling": row(thompson_sampling(env)), "greedy filter": row(greedy(env))}


def _filtering(
    env: Recommender, drift: float | Array | None, newton_steps: int, choose: Callable[[Belief, Array], Array]
) -> Strategy:
    """The strategy that keeps a `Belief` and shows the best slate for `choose(belief, key)` [num_factors]."""
    newton_steps = check_count("newton_steps", newton_steps)
    assumed = env.drift / 3**0.5 if drift is None else drift

    def observe(
        belief: Belief,
        key: Array,
        observation: Array,
        action: Array,
        reward: Array,
        next_observation: Array,
        done: Array,
    ) -> Belief:
        clicked = env.clicked_slot(next_observation)
        return move(learn(env, belief, env.choice.shown(action), clicked, newton_steps=newton_steps), assumed)

    return Strategy(
        init=lambda key: prior(env.num_factors),
        begin_episode=lambda belief, key: begin(belief),
        act=lambda belief, key, observation: env.choice.best_slate(choose(belief, key)),
        observe=observe,
    )
