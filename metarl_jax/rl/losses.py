"""Surrogate objectives and the other loss terms, as functions of log-probabilities.

All are *losses* (to be minimised), averaged over the steps where `mask` is 1, so that their gradients
share one scale whatever the surrogate. Letters of a shape in one signature are one size: T steps of *b streams, or any
*n steps, shuffled or not, where time has no part.
Callers stop the gradients of what they feed in. What stands behind the mask has no part in a value or a gradient, NaN
and infinity included; a likelihood ratio that would overflow is bounded (`likelihood_ratio`). The surrogates have
equal gradients at the sampling parameters, and different Hessians, which is all that second-order MAML adds to first
order: see `tests/meta/test_exactness.py`, which measures both against exact enumeration.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metarl_jax import tree
from metarl_jax.options import is_address, suggest
from metarl_jax.types import Batch
from metarl_jax.user_code import load_address

Steps: TypeAlias = Float[Array, "*n"]
Mask: TypeAlias = Num[Array, "*n"]
Times: TypeAlias = Float[Array, "T *b"]
TimeMask: TypeAlias = Num[Array, "T *b"]
Scalar: TypeAlias = Float[Array, ""]
Surrogate = Callable[[jax.Array, Batch], jax.Array]  # (log_prob, batch) -> loss []
FAR = 15.0  # log rho from which on the difference of rho A and what is close to it would be lost to rounding


def masked_mean(x: Steps, mask: Mask) -> Scalar:
    r"""Mean of x where mask is 1 (0 if nowhere).

    .. math::

        \hat{\mathbb{E}}[x] = \frac{\sum_n m_n x_n}{\max(1, \sum_n m_n)}
    """
    weight = mask.astype(x.dtype)
    return jnp.sum(tree.masked(x, mask) * weight) / jnp.maximum(jnp.sum(weight), 1.0)


def likelihood_ratio(log_ratio: Steps) -> Steps:
    r"""rho = exp(log rho), and e^L (1 + log rho - L) beyond L, so that its square and its slope fit into the type.

    .. math::

        \rho(x) = \begin{cases} e^x & x \le L \\ e^L (1 + x - L) & x > L \end{cases}, \quad x
          = \log \pi_\theta(a|s) - \log \pi_{\text{old}}(a|s)

    L = .4 ln(largest float): 35 in float32, 283 in float64. Below it nothing is changed; above it value and slope stay
    finite, of the right sign and increasing, so that a clip takes effect: 0 * inf is NaN.
    """
    largest = 0.4 * math.log(float(jnp.finfo(log_ratio.dtype).max))
    return jnp.exp(jnp.minimum(log_ratio, largest)) + math.exp(largest) * jax.nn.relu(log_ratio - largest)


def magic_box(x: Steps) -> Steps:
    r"""exp(x - sg(x)): 1 in value, and its derivative is that of x (DiCE, Foerster et al. 2018).

    .. math::

        \square(x) = e^{x - \bot(x)}, \quad \bot(x) = x, \quad \nabla \bot(x) = 0
    """
    return jnp.exp(x - jax.lax.stop_gradient(x))


def vpg(log_prob: Steps, advantage: Steps, mask: Mask) -> Scalar:
    r"""-mean log pi(a|s) A: the right gradient, and a Hessian that is zero in expectation for softmax policies.

    .. math::

        L(\theta) = -\hat{\mathbb{E}} \left[ \log \pi_\theta(a|s) \, A \right]
    """
    log_prob, advantage = tree.masked((log_prob, advantage), mask)
    return -masked_mean(log_prob * advantage, mask)


def lvc(log_prob: Steps, log_prob_old: Steps, advantage: Steps, mask: Mask) -> Scalar:
    r"""-mean pi / pi_old A: low-variance curvature (Rothfuss et al. 2018, eq. 11), pi_old stored at sampling.

    .. math::

        L(\theta) = -\hat{\mathbb{E}} \left[ \rho A \right], \quad \rho =
          \frac{\pi_\theta(a|s)}{\pi_{\text{old}}(a|s)}
    """
    log_ratio, advantage = _masked_ratio(log_prob, log_prob_old, advantage, mask)
    return -masked_mean(likelihood_ratio(log_ratio) * advantage, mask)


def ppo_clip(log_prob: Steps, log_prob_old: Steps, advantage: Steps, mask: Mask, clip_eps: float | Array) -> Scalar:
    r"""-mean min(rho A, clip(rho, 1 - eps, 1 + eps) A) (Schulman et al. 2017, eq. 7).

    .. math::

        L(\theta) = -\hat{\mathbb{E}} \left[ \min \left( \rho A, \, \text{clip}(\rho, 1 - \epsilon, 1
          + \epsilon) \, A \right) \right], \quad \rho = \frac{\pi_\theta(a|s)}{\pi_{\text{old}}(a|s)}
    """
    log_ratio, advantage = _masked_ratio(log_prob, log_prob_old, advantage, mask)
    ratio = likelihood_ratio(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    return -masked_mean(jnp.minimum(ratio * advantage, clipped * advantage), mask)


def smooth_ppo(log_prob: Steps, log_prob_old: Steps, advantage: Steps, mask: Mask, clip_eps: float | Array) -> Scalar:
    r"""`ppo_clip` with 1 + eps tanh((rho - 1) / eps) for the clip, so that gradients depend on eps smoothly.

    .. math::

        L(\theta) = -\hat{\mathbb{E}} \left[ \min \left( \rho A, \, \left( 1 + \epsilon \tanh
          \frac{\rho - 1}{\epsilon} \right) A \right) \right]

    The slope of a step falls as sech^2((rho - 1) / eps) instead of dropping to 0; gradient and Hessian at rho = 1 are
    those of `ppo_clip`. It is what lets clip_eps be tuned by meta-gradients.
    """
    log_ratio, advantage = _masked_ratio(log_prob, log_prob_old, advantage, mask)
    ratio = likelihood_ratio(log_ratio)
    clipped = 1.0 + clip_eps * jnp.tanh((ratio - 1.0) / clip_eps)
    return -masked_mean(jnp.minimum(ratio * advantage, clipped * advantage), mask)


def dpo(log_prob: Steps, log_prob_old: Steps, advantage: Steps, mask: Mask) -> Scalar:
    r"""-mean [rho A - drift], Discovered Policy Optimisation (Lu et al. 2022): a closed form of a learned loss.

    .. math::

        L(\theta) &= -\hat{\mathbb{E}} \left[ \rho A - f(\rho, A) \right] \\
        f(\rho, A) &= \begin{cases} \text{ReLU} \left( (\rho - 1) A - 2 \tanh \frac{(\rho - 1) A}{2} \right)
          & A \ge 0 \\ \text{ReLU} \left( A \log \rho - 0.6 \tanh \frac{A \log \rho}{0.6} \right)
          & A < 0 \end{cases}

    drift = ReLU(x - 2 tanh(x / 2)) of x = (rho - 1) A where A >= 0, ReLU(x - .6 tanh(x / .6)) of x = A log rho
    elsewhere. Instead of a clip: where rho moved with a positive A, the push fades as sech^2(x / 2); with a negative
    one it turns round far out. Value, gradient and Hessian at rho = 1 are those of `lvc`. Advantages have to be
    standardised: 2 and .6 have their unit.
    """
    log_ratio, advantage = _masked_ratio(log_prob, log_prob_old, advantage, mask)
    ratio = likelihood_ratio(log_ratio)
    with_it, against_it = (ratio - 1.0) * advantage, log_ratio * advantage
    drift = jnp.where(
        advantage >= 0,
        jax.nn.relu(with_it - 2.0 * jnp.tanh(with_it / 2.0)),
        jax.nn.relu(against_it - 0.6 * jnp.tanh(against_it / 0.6)),
    )
    # Far out rho A - drift is the difference of two huge numbers: there it is written as what it comes to.
    far = (log_ratio > FAR) & (advantage >= 0)
    return -masked_mean(
        jnp.where(far, advantage + 2.0 * jnp.tanh(with_it / 2.0), ratio * advantage - drift),
        mask,
    )


def dice(log_prob: Times, discounted_reward: Times, discounted_value: Times, mask: TimeMask) -> Scalar:
    r"""-sum_t magic(sum_{t' <= t} log pi_t') gamma^t r_t - sum_t (1 - magic(log pi_t)) gamma^t V_t.

    .. math::

        L(\theta) = -\hat{\mathbb{E}}_t \left[ \square \left(
          \sum_{t' \le t} \log \pi_\theta(a_{t'}|s_{t'}) \right) \gamma^t r_t +
          \left( 1 - \square(\log \pi_\theta(a_t|s_t)) \right) \gamma^t V_t \right]

    DiCE with its first-order baseline (Foerster et al. 2018, eq. 8): derivatives of every order are
    unbiased. Time is axis 0. The weights gamma^t are those of the discounted objective; the other
    surrogates follow the field in leaving them out, so the two agree exactly only for gamma = 1.
    """
    log_prob, discounted_reward, discounted_value = tree.masked((log_prob, discounted_reward, discounted_value), mask)
    reward_term = magic_box(jnp.cumsum(log_prob, axis=0)) * discounted_reward
    baseline_term = (1.0 - magic_box(log_prob)) * discounted_value
    return -masked_mean(reward_term + baseline_term, mask)


def loaded_dice(log_prob: Times, advantage: Times, mask: TimeMask, dice_lambda: float | Array = 1.0) -> Scalar:
    r"""-sum_t (magic(w_t) - magic(v_t)) A_t, v_t = lambda w_{t-1}, w_t = v_t + log pi_t.

    .. math::

        L(\theta) &= -\hat{\mathbb{E}}_t \left[ \left( \square(w_t) - \square(v_t) \right) A_t \right] \\
        v_t &= \lambda w_{t-1}, \quad w_t = v_t + \log \pi_\theta(a_t|s_t), \quad w_{-1} = 0

    Loaded DiCE (Farquhar et al. 2019, algorithm 1). Time is axis 0. lambda = 1 has unbiased derivatives
    of every order; lambda = 0 is `lvc` in expectation; between them, bias buys variance.
    """

    log_prob, advantage = tree.masked((log_prob, advantage), mask)

    def step(w: jax.Array, log_pi: jax.Array) -> tuple[jax.Array, tuple]:
        v = dice_lambda * w
        return v + log_pi, (v + log_pi, v)

    _, (w, v) = jax.lax.scan(step, jnp.zeros_like(log_prob[0]), log_prob)
    return -masked_mean((magic_box(w) - magic_box(v)) * advantage, mask)


def tmaml(log_prob: Times, discounted_reward: Times, discounted_value: Times, mask: TimeMask) -> Scalar:
    r"""DiCE with control variates for the Hessian too, after TMAML (Liu et al. 2019).

    .. math::

        L(\theta) &= -\hat{\mathbb{E}}_t \left[ M_t \gamma^t r_t
          + (1 - m_t) \gamma^t V_t - (1 - M_{t-1}) (1 - m_t) \gamma^t V_t \right] \\
        m_t &= \square(\log \pi_\theta(a_t|s_t)), \quad M_t = \square \left(
          \sum_{t' \le t} \log \pi_\theta(a_{t'}|s_{t'}) \right)

    -sum_t [M_t gamma^t r_t + (1 - m_t) gamma^t V_t - (1 - M_{t-1}) (1 - m_t) gamma^t V_t] with
    m_t = magic(log pi_t) and M_t = magic(sum_{t' <= t} log pi_t'). The last term takes a baseline off the pairs
    grad log pi_t' grad log pi_t^T, t' < t, that DiCE's first-order baseline leaves alone; its own expectation is 0
    at every order, because the past M_{t-1} is exclusive. Time is axis 0. Equal at every order to loaded_dice with
    lambda = 1 on the advantages G_t - V_t, from which it differs in what it is fed: rewards, not advantages.
    """
    log_prob, discounted_reward, discounted_value = tree.masked((log_prob, discounted_reward, discounted_value), mask)
    total = jnp.cumsum(log_prob, axis=0)
    now, past = magic_box(log_prob), magic_box(total - log_prob)
    value_terms = (1.0 - now) * discounted_value - (1.0 - past) * (1.0 - now) * discounted_value
    return -masked_mean(magic_box(total) * discounted_reward + value_terms, mask)


def towards_target(batch: Batch, target_return: float | Array) -> Batch:
    r"""`batch` with every weight times (R* - R) / T: its surrogates then descend (R* - R)^2 / 2 in place of -R.

    .. math::

        A'_t = \frac{R^* - R}{T} \, A_t, \quad \frac{1}{2} \nabla (R^* - R)^2 = -(R^* - R) \nabla R

    R is the mean discounted return of the episodes [T, B], R* = `target_return` in the same unit, T the most steps that
    one can take. (R* - R)^2 / 2 has the gradient of -R times R* - R, the numerator of Polyak's step size (1987). So how
    far a step goes says how far the target is, which a policy gradient alone does not know (a constant added to the
    rewards does not change it), and steps get shorter on the way. They turn round beyond it: R* is for a return that
    cannot be exceeded, such as 0 where rewards are costs.
    R is data, as advantages are, and not differentiated: of the Hessian, grad R grad R^T is left out.
    """
    num_steps, num_episodes = batch.mask.shape
    mean_return = jnp.sum(tree.masked(batch.discounted_reward, batch.mask)) / num_episodes
    missing = (target_return - mean_return) / num_steps
    names = ("advantage", "discounted_reward", "discounted_value")
    return batch.replace(**{name: missing * getattr(batch, name) for name in names})  # type: ignore[attr-defined]


def value_loss(
    value: Steps,
    target: Steps,
    mask: Mask,
    value_old: Steps | None = None,
    clip_eps: float | Array | None = None,
) -> Scalar:
    r"""mean (V - target)^2 / 2, or the clipped form max of it and (V_old + clip(V - V_old, +-eps) - target)^2 / 2.

    .. math::

        L = \frac{1}{2} \hat{\mathbb{E}} \left[ \max \left( (V - y)^2, \, (V_{\text{old}} +
          \text{clip}(V - V_{\text{old}}, -\epsilon, \epsilon) - y)^2 \right) \right]

    y is the target; without `clip_eps` and `value_old` the first square is all.
    """
    value, target = tree.masked((value, target), mask)
    error = jnp.square(value - target)
    if clip_eps is not None and value_old is not None:
        value_old = tree.masked(value_old, mask)
        clipped = value_old + jnp.clip(value - value_old, -clip_eps, clip_eps)
        error = jnp.maximum(error, jnp.square(clipped - target))
    return 0.5 * masked_mean(error, mask)


def entropy(distribution: Any, mask: Mask) -> Scalar:
    r"""Mean entropy in nats of a distrax distribution with batch shape that of mask.

    .. math::

        H = \hat{\mathbb{E}}_s \left[ -\sum_a \pi_\theta(a|s) \log \pi_\theta(a|s) \right]

    The sum is an integral where actions are continuous.
    """
    with tree.usual_promotion():
        each = _masked_distribution(distribution, mask).entropy()
    return masked_mean(each, mask)


def kl_divergence(old: Any, new: Any, mask: Mask) -> Scalar:
    r"""Mean KL(old || new) in nats; `old` are the leaves that a rollout stored of a distribution like `new`.

    .. math::

        \hat{\mathbb{E}}_s \left[ \sum_a \pi_{\text{old}}(a|s) \log
          \frac{\pi_{\text{old}}(a|s)}{\pi_{\text{new}}(a|s)} \right]

    The sum is an integral where actions are continuous.
    """
    old = jax.tree.unflatten(jax.tree.structure(new), jax.tree.leaves(old))
    old, new = _masked_distribution(old, mask), _masked_distribution(new, mask)
    with tree.usual_promotion():
        each = old.kl_divergence(new)
    return masked_mean(each, mask)


def _masked_ratio(
    log_prob: Steps,
    log_prob_old: Steps,
    advantage: Steps,
    mask: Mask,
) -> tuple[Steps, Steps]:
    """(log rho, A), 0 behind the mask."""
    log_prob, log_prob_old, advantage = tree.masked((log_prob, log_prob_old, advantage), mask)
    return log_prob - log_prob_old, advantage


def _masked_distribution(distribution: Any, mask: Mask) -> Any:
    """`distribution` with parameters of 1 behind the mask: finite, with a finite slope, for logits and scales alike."""
    shape = mask.shape

    def one(x: jax.Array) -> jax.Array:
        if jnp.shape(x)[: len(shape)] != shape:
            return x
        return jnp.where(mask.astype(bool).reshape(*shape, *[1] * (x.ndim - len(shape))), x, jnp.ones((), x.dtype))

    return jax.tree.map(one, distribution)


class SurrogateSpec(NamedTuple):
    """A surrogate, and what a learner has to know about it."""

    loss: Callable[..., jax.Array]  # (log_prob, batch, **options) -> []
    options: tuple[str, ...] = ()  # of `clip_eps` and `dice_lambda`, those that it takes
    needs_time: bool = False  # reads whole episodes: cannot be shuffled into minibatches of single steps
    needs_rewards: bool = False  # weighs rewards, not advantages: GAE on top would count the future twice
    on_policy: bool = False  # no ratio to the policy that acted: wrong once the parameters have moved


# The surrogates by name: what `surrogate`, `inner_surrogate` and `outer_surrogate` can be.
SURROGATES: dict[str, SurrogateSpec] = {
    "vpg": SurrogateSpec(lambda lp, b: vpg(lp, b.advantage, b.mask), on_policy=True),
    "lvc": SurrogateSpec(lambda lp, b: lvc(lp, b.log_prob, b.advantage, b.mask)),
    "dice": SurrogateSpec(
        lambda lp, b: dice(lp, b.discounted_reward, b.discounted_value, b.mask),
        needs_time=True,
        needs_rewards=True,
        on_policy=True,
    ),
    "loaded_dice": SurrogateSpec(
        lambda lp, b, dice_lambda: loaded_dice(lp, b.advantage, b.mask, dice_lambda),
        ("dice_lambda",),
        needs_time=True,
        on_policy=True,
    ),
    "tmaml": SurrogateSpec(
        lambda lp, b: tmaml(lp, b.discounted_reward, b.discounted_value, b.mask),
        needs_time=True,
        needs_rewards=True,
        on_policy=True,
    ),
    "ppo": SurrogateSpec(
        lambda lp, b, clip_eps: ppo_clip(lp, b.log_prob, b.advantage, b.mask, clip_eps), ("clip_eps",)
    ),
    "dpo": SurrogateSpec(lambda lp, b: dpo(lp, b.log_prob, b.advantage, b.mask)),
    "smooth_ppo": SurrogateSpec(
        lambda lp, b, clip_eps: smooth_ppo(lp, b.log_prob, b.advantage, b.mask, clip_eps), ("clip_eps",)
    ),
}


def surrogate_names(**properties: bool) -> list[str]:
    """The names of the surrogates with these properties, such as on_policy=False."""
    return [name for name, spec in SURROGATES.items() if all(getattr(spec, k) == v for k, v in properties.items())]


def spec_of(surrogate: str | Surrogate) -> SurrogateSpec:
    """What is known of a named surrogate, or of the user's own `f(log_prob, batch) -> loss`.

    A function says what it is by attributes: `f.needs_time = True`, to be given whole episodes [T, B] instead of one
    row of steps. What it does not say counts as False.
    Raises: ValueError for an unknown name; ConfigError for an address that leads nowhere.
    """
    if isinstance(surrogate, str) and is_address(surrogate):
        surrogate = load_address(surrogate, "surrogate")
    if callable(surrogate):
        known = {name: getattr(surrogate, name, False) for name in ("needs_time", "needs_rewards", "on_policy")}
        return SurrogateSpec(surrogate, (), **known)
    if surrogate not in SURROGATES:
        hint = suggest(str(surrogate), SURROGATES)
        raise ValueError(f"surrogate = {surrogate!r}: must be one of {', '.join(SURROGATES)}, or a function{hint}")
    return SURROGATES[surrogate]


def surrogate(name: str | Surrogate, **options: float | jax.Array) -> Surrogate:
    """A named surrogate (or the user's own `f(log_prob, batch) -> loss`) with its options bound.

    Options (`clip_eps`, `dice_lambda`) that it does not use are ignored.
    """
    spec = spec_of(name)
    used = {k: v for k, v in options.items() if k in spec.options}
    return partial(spec.loss, **used) if used else spec.loss
