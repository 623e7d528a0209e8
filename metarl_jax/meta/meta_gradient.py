"""How the meta-gradient passes through adaptation: one option, `differentiation`, for every algorithm.

* `reverse`: exact, reverse over reverse; memory grows by all activations of every inner step.
* `mixed`: exact, forward over reverse for each inner step, recomputed; memory grows by the parameters alone
  (MixFlow-MG, Kemaev et al. 2025).
* `first_order`: d theta_K / d theta := I, inner gradients are constants (FOMAML, Finn et al. 2017, section 5.2).
* `truncated(window)`: exact through the last `window` updates, first order before (Shaban et al. 2019).
* `implicit(...)`: of the minimum of a regularised inner loss, by conjugate gradients (iMAML, Rajeswaran et al. 2019).
* `evolution(...)`: antithetic perturbations of theta (after ES-MAML, Song et al. 2020); nothing is differentiated.

The first three are names; the others are made by the functions here, which a name alone calls with their defaults
(`truncated` has none). The choice between `reverse`, `mixed` and `first_order` within one inner step is in `gradient`.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from metarl_jax import gradient
from metarl_jax.meta import adaptation
from metarl_jax.meta.conjugate_gradient import conjugate_gradient
from metarl_jax.options import Count, NonNegative, Positive, Rate, one_of, suggest, takes_options
from metarl_jax.types import Learner, LearnerState, Params, Trial

NAMES = ("reverse", "mixed", "first_order", "truncated", "implicit", "evolution")
NOISE = 0xE5  # tag of the key that perturbations are drawn with


class MetaGradient(NamedTuple):
    """One way through the inner updates.

    Attributes:
      name: as `differentiation` has it.
      replay: (learner, params, trial, observe=None) -> (state, records), as `adaptation.replay`, with the derivative in
        question.
      tangents: the same function for `jax.jvp`, which a custom reverse rule refuses.
      value_and_grad: of f(params, trial, weights) -> (loss, aux).
      check: (learner, num_inner_steps); raises ValueError for what makes no sense.
    """

    name: str
    replay: Callable[..., tuple[LearnerState, Any]]
    tangents: Callable[..., tuple[LearnerState, Any]] | None
    value_and_grad: Callable[[Callable], Callable]
    check: Callable[[Learner, int], None]


Way = Annotated[Any, one_of(lambda: NAMES)]


def resolve(differentiation: str | MetaGradient) -> MetaGradient:
    """A name, or what one of the functions here made -> MetaGradient."""
    if isinstance(differentiation, MetaGradient):
        return differentiation
    if differentiation in gradient.MODES:
        return _unrolled(differentiation)
    if differentiation == "implicit":
        return implicit()
    if differentiation == "evolution":
        return evolution()
    if differentiation == "truncated":
        raise ValueError("differentiation = 'truncated': needs its window, meta_gradient.truncated(window)")
    hint = suggest(str(differentiation), NAMES)
    raise ValueError(f"differentiation = {differentiation!r}: must be one of {', '.join(NAMES)}{hint}")


def _autodiff(loss: Callable) -> Callable:
    return jax.value_and_grad(loss, has_aux=True)


def _anything(learner: Learner, num_inner_steps: int) -> None:
    del learner, num_inner_steps


def _second_order(learner: Learner, num_inner_steps: int) -> None:
    if learner.check_second_order is not None and num_inner_steps:
        learner.check_second_order()


def _unrolled(mode: str) -> MetaGradient:
    def replay_in(mode: str) -> Callable:
        def replay(learner: Learner, params: Params, trial: Trial, observe: Any = None) -> tuple[LearnerState, Any]:
            return adaptation.replay(lambda *x: learner.update(*x, mode)[0], learner.init(params), trial, observe)

        return replay

    tangents = replay_in("reverse" if mode == "mixed" else mode)
    check = _anything if mode == "first_order" else _second_order
    return MetaGradient(mode, replay_in(mode), tangents, _autodiff, check)


@takes_options()
def truncated(window: Annotated[Count, "last inner updates that `truncated` differentiates"]) -> MetaGradient:
    r"""Second order through the last `window` inner updates; the ones before count as first order.

    .. math::

        \frac{d \theta_K}{d \theta} = (I - \alpha H_{K-1}) \cdots (I - \alpha H_{K-w})

    d theta_K / d theta = product over the last `window` updates of (I - alpha H_k), times I for those before, so that
    0 is `first_order` and K is `mixed`. The bias falls geometrically in `window` where the inner loss is strongly
    convex near its end (Shaban et al. 2019, theorem 3.4), and not in general.
    """

    def replay_in(mode: str) -> Callable:
        def replay(learner: Learner, params: Params, trial: Trial, observe: Any = None) -> tuple[LearnerState, Any]:
            split = trial.keys.shape[0] - window
            state, records = learner.init(params), []
            for part, how in ((slice(None, split), "first_order"), (slice(split, None), mode)):
                inner = jax.tree.map(lambda x, p=part: x[p], trial.inner)
                some = dataclasses.replace(trial, inner=inner, keys=trial.keys[part])
                state, record = adaptation.replay(lambda *x, how=how: learner.update(*x, how)[0], state, some, observe)
                records.append(record)
            return state, jax.tree.map(lambda *x: jnp.concatenate(x), *records)

        return replay

    def check(learner: Learner, num_inner_steps: int) -> None:
        if window > num_inner_steps:
            raise ValueError(
                f"window = {window}: is longer than the inner loop, num_inner_steps = {num_inner_steps}; "
                "use at most that, or differentiation = mixed for all of it"
            )
        _second_order(learner, min(window, num_inner_steps))

    return MetaGradient(f"truncated({window})", replay_in("mixed"), replay_in("reverse"), _autodiff, check)


@takes_options()
def implicit(
    cg_steps: Annotated[Positive, "conjugate-gradient steps of the implicit gradient"] = 5,
    cg_tol: Annotated[NonNegative, "residual, relative to the right-hand side, at which they end"] = 1e-10,
) -> MetaGradient:
    r"""The derivative of a minimum: theta* = argmin_p F(p; theta), whatever the steps that went there.

    .. math::

        \frac{d \theta^*}{d \theta} = -\left( \frac{\partial^2 F}{\partial p^2} \right)^{-1}
          \frac{\partial^2 F}{\partial p \, \partial \theta}, \quad \theta^* = \arg\min_p F(p; \theta)

    d theta* / d theta = -(d2F/dp2)^-1 d2F/dp dtheta by the implicit function theorem; for
    F = L(p) + strength/2 |p - theta|^2 it is (I + Hess L / strength)^-1 (Rajeswaran et al. 2019, lemma 1). The inverse
    is applied by at most `cg_steps` conjugate-gradient steps, fewer where the residual falls below `cg_tol`
    relative to the right-hand side. Exact only in so far as the learner's update arrives at its minimum. The data are
    not differentiated.

    Needs a learner with `loss`, such as `inner.proximal`. Several inner updates chain.
    """

    def replay_with(attach: Callable) -> Callable:
        def replay(learner: Learner, params: Params, trial: Trial, observe: Any = None) -> tuple[LearnerState, Any]:
            assert learner.loss is not None
            regularised = learner.loss

            def update(state: LearnerState, key: jax.Array, batch: Any) -> LearnerState:
                # Hyperparameters that the loss closes over may be traced by an outer derivative: make them arguments.
                loss, consts = jax.closure_convert(regularised, state.params, state.params, batch)
                end = jax.lax.stop_gradient(learner.update(state, key, batch)[0].params)
                return LearnerState(attach(loss, solve, end, state.params, batch, consts), state.opt_state)

            return adaptation.replay(update, learner.init(params), trial, observe)

        return replay

    def solve(matvec: Callable, b: Params) -> Params:
        return conjugate_gradient(matvec, b, num_steps=cg_steps, tol=cg_tol)[0]

    def check(learner: Learner, num_inner_steps: int) -> None:
        if learner.loss is None:
            raise ValueError(
                "differentiation = implicit: needs an inner update that descends one regularised loss to its minimum, "
                "without minibatches; use algorithm imaml (inner.proximal), or differentiation = mixed"
            )

    return MetaGradient("implicit", replay_with(_attach_reverse), replay_with(_attach_forward), _autodiff, check)


def _attach_reverse(loss: Callable, solve: Callable, end: Params, anchor: Params, batch: Any, consts: Any) -> Params:
    """`end`, with the reverse derivative of argmin_p loss(p, anchor, batch, *consts) in anchor and consts."""

    @jax.custom_vjp
    def attach(end: Params, anchor: Params, batch: Any, consts: Any) -> Params:
        return end

    def backward(residuals: Any, v: Params) -> Any:
        end, anchor, batch, consts = residuals
        x = solve(_hessian_product(loss, end, anchor, batch, consts), v)

        def along_x(anchor: Params, consts: Any) -> jax.Array:
            return -optax.tree.vdot(x, jax.grad(loss)(end, anchor, batch, *consts))

        to_anchor, to_consts = jax.grad(along_x, (0, 1))(anchor, consts)
        return None, to_anchor, None, to_consts

    attach.defvjp(lambda *args: (args[0], args), backward)
    return attach(end, anchor, batch, consts)


def _attach_forward(loss: Callable, solve: Callable, end: Params, anchor: Params, batch: Any, consts: Any) -> Params:
    """The same with the forward derivative."""

    @jax.custom_jvp
    def attach(end: Params, anchor: Params, batch: Any, consts: Any) -> Params:
        return end

    @attach.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        end, anchor, batch, consts = primals
        moving, moves = (anchor, consts), (tangents[1], tangents[3])
        _, change = jax.jvp(lambda a, c: jax.grad(loss)(end, a, batch, *c), moving, moves)
        return end, solve(_hessian_product(loss, end, anchor, batch, consts), optax.tree.scale(-1.0, change))

    return attach(end, anchor, batch, consts)


def _hessian_product(loss: Callable, end: Params, anchor: Params, batch: Any, consts: Any) -> Callable:
    return lambda x: jax.jvp(lambda p: jax.grad(loss)(p, anchor, batch, *consts), (end,), (x,))[1]


@takes_options()
def evolution(
    num_pairs: Annotated[Positive, "antithetic perturbations a task of `evolution`"] = 64,
    sigma: Annotated[Rate, "standard deviation of the perturbations of `evolution`"] = 0.02,
) -> MetaGradient:
    r"""Antithetic evolution strategies: mean of e (L(theta + sigma e) - L(theta - sigma e)) / (2 sigma), e ~ N(0, I).

    .. math::

        \nabla L(\theta) \approx \frac{1}{n} \sum_{i=1}^{n} \frac{L(\theta
          + \sigma e_i) - L(\theta - \sigma e_i)}{2 \sigma} \, e_i, \quad e_i \sim N(0, I)

    The gradient of L smoothed by N(0, sigma^2), where L is the meta-loss on the stored trial (Salimans et al. 2017;
    ES-MAML, Song et al. 2020, which samples anew for every perturbation). Unbiased as sigma -> 0. With P
    parameters its variance is about P / num_pairs times the squared gradient, for each task. No inner step is
    differentiated, so the inner learner may be anything. The perturbations come from the trial's last key: the same
    in every outer epoch, others for every task.
    """

    def value_and_grad(loss: Callable) -> Callable:
        def estimate(params: Params, trial: Trial, *rest: Any) -> Any:
            centre, unravel = ravel_pytree(params)
            value = loss(params, trial, *rest)

            def at(x: jax.Array) -> jax.Array:
                return loss(unravel(x), trial, *rest)[0]

            def pair(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
                e = jax.random.normal(key, centre.shape, centre.dtype)
                return total + e * (at(centre + sigma * e) - at(centre - sigma * e)), None

            keys = jax.random.split(jax.random.fold_in(trial.keys[-1], NOISE), num_pairs)
            total, _ = jax.lax.scan(pair, jnp.zeros_like(centre), keys)
            return value, unravel(total / (2 * sigma * num_pairs))

        return estimate

    def check(learner: Learner, num_inner_steps: int) -> None:
        if num_inner_steps == 0:
            raise ValueError("differentiation = evolution: needs num_inner_steps of at least 1; use mixed for none")

    return MetaGradient("evolution", _unrolled("reverse").replay, None, value_and_grad, check)
