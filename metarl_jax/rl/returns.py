"""Returns and advantages of one stream of experience.

Every function takes time as its leading axis; trailing axes are independent streams. Letters of a shape in one
signature are one size: T steps, *b streams.
Nothing here stops a gradient: callers stop what they feed in (usually the values), so that derivatives
with respect to gamma and lambda exist. What lies beyond the end of an episode, or behind a mask, has no part in a value
or a derivative, not even where it is NaN.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from metarl_jax import tree

MAX_ROUNDING = 32  # in units of the last place: numbers that differ by less than this are equal


def discounted_returns(
    reward: Float[Array, "T *b"],
    done: Bool[Array, "T *b"],
    gamma: float | Array,
    bootstrap: Float[Array, "T *b"] | None = None,
    mask: Num[Array, "T *b"] | None = None,
) -> Float[Array, "T *b"]:
    r"""G_t = r_t + gamma (b_t if done_t else G_{t+1}).

    .. math::

        G_t = r_t + \gamma \begin{cases} b_t & \text{if done}_t \\ G_{t+1} & \text{otherwise} \end{cases}

    Args:
        done: the last step of an episode; the last row counts as one.
        gamma: discount in [0, 1].
        bootstrap: value of the state that follows a done step (0 if None); where the episode
            terminated it must be 0.
        mask: 1 for real steps; the others are 0 (None: all are real).
    """
    chex.assert_equal_shape([reward, done])
    bootstrap = jnp.zeros_like(reward) if bootstrap is None else bootstrap
    if mask is not None:
        reward, bootstrap = tree.masked((reward, bootstrap), mask)
    last = done.at[-1].set(True)

    def step(following: Array, x: tuple) -> tuple[Array, Array]:
        r, end, b = x
        g = r + gamma * jnp.where(end, b, following)
        return g, g

    return tree.scan_steps(step, jnp.zeros_like(reward[0]), (reward, last, bootstrap), reverse=True)[1]


def running_returns(
    reward: Float[Array, "T *b"],
    done: Bool[Array, "T *b"],
    gamma: float | Array,
    before: Float[Array, "*b"] | None = None,
) -> Float[Array, "T *b"]:
    r"""R_t = r_t + gamma (0 if done_{t-1} else R_{t-1}), the discounted return of an episode up to step t.

    .. math::

        R_t = r_t + \gamma \begin{cases} 0 & \text{if done}_{t-1} \\ R_{t-1} & \text{otherwise} \end{cases}

    Args: before: R of the step before the first one (None: 0), 0 where an episode ended with it.
    """
    start = jnp.zeros_like(reward[0]) if before is None else before

    def step(so_far: Array, x: tuple) -> tuple[Array, Array]:
        r, end = x
        so_far = r + gamma * so_far
        return jnp.where(end, 0.0, so_far), so_far

    return tree.scan_steps(step, start, (reward, done))[1]


def discounts(gamma: float | Array, time: Int[Array, "*n"], dtype: Any) -> Float[Array, "*n"]:
    """gamma^time for whole numbers `time` [...] >= 0, with the right derivative at gamma = 0 too (1 at time 1)."""
    later = jnp.maximum(time, 1).astype(dtype)
    powers = jnp.broadcast_to(jnp.asarray(gamma, dtype), time.shape) ** later
    return jnp.where(time > 0, powers, jnp.ones((), dtype))


def gae(
    reward: Float[Array, "T *b"],
    value: Float[Array, "T *b"],
    next_value: Float[Array, "T *b"],
    terminated: Bool[Array, "T *b"],
    truncated: Bool[Array, "T *b"],
    gamma: float | Array,
    gae_lambda: float | Array,
    mask: Num[Array, "T *b"] | None = None,
) -> Float[Array, "T *b"]:
    r"""Generalised advantage estimation (Schulman et al. 2016, eq. 16).

    .. math::

        \delta_t &= r_t + \gamma \, (1 - \text{terminated}_t) \, V(s'_t) - V(s_t) \\
        A_t &= \delta_t + \gamma \lambda \, (1 - \text{done}_t) \, A_{t+1}

    delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t);
    A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}.

    Args:
        value: V(s_t).
        next_value: V(s'_t) of the state that the step led to, before any reset: at a truncation
            it is the value of the final observation, so the time limit does not look like a bad state.
        mask: 1 for real steps; the advantages of the others are 0 (None: all are real).
    Returns: advantages; `A + V` is the critic's target.
    """
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated])
    done = terminated | truncated
    if mask is not None:
        reward, value, next_value = tree.masked((reward, value, next_value), mask)
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    carry_on = gamma * gae_lambda * jnp.where(done, jnp.zeros_like(delta), jnp.ones_like(delta))

    def step(following: Array, x: tuple) -> tuple[Array, Array]:
        d, c, end = x
        advantage = d + c * jnp.where(end, 0.0, following)
        return advantage, advantage

    return tree.scan_steps(step, jnp.zeros_like(delta[0]), (delta, carry_on, done), reverse=True)[1]


def standardize(x: Float[Array, "*n"], mask: Num[Array, "*n"], eps: float = 1e-8) -> Float[Array, "*n"]:
    r"""(x - mean) / (standard deviation + eps) over the entries where mask is 1; 0 elsewhere.

    .. math::

        \tilde x_n = \frac{x_n - \mu}{\sigma + \epsilon}, \quad \mu = \frac{1}{M} \sum_n m_n x_n,
          \quad \sigma^2 = \frac{1}{M} \sum_n m_n (x_n - \mu)^2, \quad M = \sum_n m_n

    Equal entries give zeros, with derivative 0. Equal are entries that differ by no more than rounding makes of one
    number, `MAX_ROUNDING` units in the last place of the largest: their computed deviation is that of the sums.
    """
    x = tree.masked(x, mask)
    weight = mask.astype(x.dtype)
    count = jnp.maximum(jnp.sum(weight), 1.0)
    centred = tree.masked(x - jnp.sum(x) / count, mask)
    variance = jnp.sum(jnp.square(centred)) / count
    varies = jax.lax.stop_gradient(_varies(x, mask) & ~(variance <= 0))
    std = jnp.sqrt(jnp.where(varies, variance, 1.0))
    return jnp.where(varies, centred, 0.0) / (std + eps)


def _varies(x: Float[Array, "*n"], mask: Num[Array, "*n"]) -> Bool[Array, ""]:
    """The entries where mask is 1 differ by more than rounding, or are not finite."""
    low = jnp.min(jnp.where(mask.astype(bool), x, jnp.inf))
    high = jnp.max(jnp.where(mask.astype(bool), x, -jnp.inf))
    rounding = MAX_ROUNDING * jnp.finfo(x.dtype).eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
    return ~(high - low <= jnp.minimum(rounding, jnp.finfo(x.dtype).max))


def baseline_features(observation: Num[Array, "*n D"], time: Num[Array, "*n"]) -> Float[Array, "*n F"]:
    """[o, o^2, t/100, (t/100)^2, (t/100)^3, 1] with o clipped to +-10 (Duan et al. 2016, appendix).

    Args: observation (flattened by the caller), time: steps since the episode began.
    Returns: F = 2 D + 4 features.
    """
    o = jnp.clip(observation, -10.0, 10.0)
    t = (time.astype(jnp.result_type(float)) / 100.0)[..., None].astype(o.dtype)
    return jnp.concatenate([o, o**2, t, t**2, t**3, jnp.ones_like(t)], axis=-1)


def linear_baseline(
    features: Float[Array, "*n F"], targets: Float[Array, "*n"], mask: Num[Array, "*n"], ridge: float = 1e-5
) -> Float[Array, "*n"]:
    r"""V = X w with w = argmin |X w - y|^2 + ridge |w|^2, fitted and evaluated on the same samples.

    .. math::

        V = X w, \quad w = \arg\min_w \; \lVert X w - y \rVert^2 + \kappa \lVert w \rVert^2

    Solved by a QR factorisation of [X; sqrt(ridge) I | y; 0]: the normal equations square a condition
    number that float32 cannot hold.

    Args: features X, targets y, mask (0 rows are ignored).
    Not differentiated: a baseline is a control variate, not a path to the loss.
    """
    chex.assert_equal_shape([targets, mask])
    num_features = features.shape[-1]
    real = mask.reshape(-1)
    x = tree.masked(features.reshape(-1, num_features), real)
    y = tree.masked(targets.reshape(-1, 1), real)
    penalty = jnp.sqrt(ridge) * jnp.eye(num_features, num_features + 1, dtype=x.dtype)
    rows = jax.lax.stop_gradient(jnp.concatenate([jnp.concatenate([x, y], axis=1), penalty]))
    r = jnp.linalg.qr(rows, mode="r")
    w = jax.scipy.linalg.solve_triangular(r[:num_features, :num_features], r[:num_features, num_features])
    return jax.lax.stop_gradient(tree.finite_behind(features, mask) @ w)
