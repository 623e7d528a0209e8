r"""An exact oracle for tabular MDPs: what every estimator of a gradient, Hessian or meta-gradient should find.

S states, A actions, H steps, and the softmax policy pi(a|s) = softmax(theta[s])_a with logits theta [S, A]:

.. math:: V(\theta) = \mathbb{E} \sum_{t < H} \gamma^t r(s_t, a_t), \quad a_t \sim \pi_\theta(\cdot \mid s_t)

Values are found by dynamic programming, their derivatives by automatic differentiation of it, and expectations over
sampled data by a sum over all trajectories. Gradients are of returns: they point uphill.

The functions take arrays of any float type, check them, compute in float64 whatever JAX's default precision, and
return float64 NumPy arrays; so they cannot be traced. Two are plain JAX in the caller's precision, to be compiled and
differentiated: `Trajectories.probability` and `trajectory_batch`.
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.types import Batch

Surrogate = Callable[[jax.Array, Batch], jax.Array]  # (log_prob [H, N], batch [H, N]) -> loss, a mean over [H, N]
CURVATURES = ("exact", "lvc", "vpg")
METHODS = {"maml": "exact", "lvc": "lvc", "vpg": "vpg", "fomaml": "none", "reptile": "none"}
MAX_TERMS = 2_000_000  # of a sum over trajectories, or over tuples of them


@struct.dataclass
class MDP:
    """A tabular MDP. Checked where it is used: bad values raise a ValueError that names them."""

    transitions: Any  # [S, A, S] probabilities of the next state; rows are normalised again in float64
    rewards: Any  # [S, A] expected rewards
    start: Any  # [S] probabilities of the first state
    gamma: Any = 1.0  # [] discount in [0, 1]
    horizon: int = struct.field(pytree_node=False, kw_only=True)  # steps of an episode

    @classmethod
    def from_task(cls, task: Any, gamma: float = 1.0) -> "MDP":
        """The MDP of an `envs.tabular` task without its reward noise, which only `sampled_meta_gradient` would feel."""
        start = np.eye(np.shape(task.reward_mean)[0])[0]
        return cls(task.transitions, task.reward_mean, start, gamma, horizon=int(task.max_steps_in_episode))


@struct.dataclass
class Evaluation:
    """What a policy is worth."""

    expected_return: Any  # [] V(theta)
    value: Any  # [H, S] V_t(s) = E[sum_{u >= t} gamma^(u - t) r_u | s_t = s]
    action_value: Any  # [H, S, A] Q_t(s, a) = r(s, a) + gamma E[V_{t+1}(s') | s, a]
    state_distribution: Any  # [H, S] P(s_t = s), not discounted


@struct.dataclass
class MetaGradient:
    """Derivatives of the return after adaptation by exact gradients; see `meta_gradient`."""

    objective: Any  # [] V(theta_K)
    adapted: Any  # [S, A] theta_K
    gradient: Any  # [S, A] with respect to theta
    inner_lr: Any  # [] with respect to inner_lr; like the next one it has the method's J_k in it from K = 2 on
    inner_gamma: Any  # [] with respect to inner_gamma


@struct.dataclass
class Trajectories:
    """Every trajectory that can happen, without the state that follows the last action."""

    states: Any  # [N, H] int
    actions: Any  # [N, H] int
    chance: Any  # [N] start(s_0) prod_t P(s_{t+1} | s_t, a_t): what does not depend on the policy

    def probability(self, logits: Any) -> jax.Array:
        """[N] p(tau; theta) = chance prod_t pi(a_t | s_t), differentiable in the logits."""
        log_pi = jax.nn.log_softmax(jnp.asarray(logits))
        return self.chance * jnp.exp(log_pi[self.states, self.actions].sum(axis=1))


@struct.dataclass
class Moments:
    """Mean and total variance E|x - E x|^2 of one trajectory's derivatives of a surrogate."""

    gradient: Any  # [S, A]
    hessian: Any  # [S, A, S, A]
    gradient_variance: Any  # []
    hessian_variance: Any  # []


@struct.dataclass
class SampledMetaGradient:
    """J_N(theta) and gradients with respect to theta; see `sampled_meta_gradient`."""

    objective: Any  # [] J_N
    total: Any  # [S, A] grad J_N
    fixed_data: Any  # [S, A] through the surrogate's Hessians, with the distribution of the data held fixed
    sampling: Any  # [S, A] E[V(theta_K) grad sum_k log p(data_k; theta_k)]


def evaluate(mdp: MDP, logits: Any) -> Evaluation:
    """Return, values and state distribution of the softmax policy, by dynamic programming."""
    return _float64(_evaluate, mdp, logits)


def policy_gradient(mdp: MDP, logits: Any) -> np.ndarray:
    """[S, A] grad V(theta)."""
    return _float64(_gradient, mdp, logits, curvature="exact")


def hessian(mdp: MDP, logits: Any, curvature: str = "exact") -> np.ndarray:
    """[S, A, S, A] Hessian of V, or what an estimator finds in its place, given infinite data.

    * `exact`: the Hessian of V, which DiCE and Loaded DiCE with lambda = 1 estimate without bias;
    * `lvc`: that of sum_t gamma^t E_{s ~ d_t} sum_a pi_theta(a|s) Q_t(s, a) with d_t and Q_t held fixed, the
      low-variance curvature of Rothfuss et al. 2018; also that of PPO at ratio 1, of Loaded DiCE with lambda = 0;
    * `vpg`: that of log pi times the advantage, which is zero for a softmax policy.
    """
    _require(curvature in CURVATURES, "curvature", curvature, f"one of {', '.join(CURVATURES)}")
    return _float64(_hessian, mdp, logits, curvature=curvature)


def meta_gradient(
    mdp: MDP, logits: Any, *, inner_lr: Any, num_steps: int = 1, inner_gamma: Any = None, method: str = "maml"
) -> MetaGradient:
    r"""Derivatives of V(theta_K) after K = num_steps exact steps theta_{k+1} = theta_k + inner_lr grad V'(theta_k).

    .. math:: \nabla_\theta V(\theta_K) = \left[ \prod_{k<K} (I + \alpha J_k) \right] \nabla V(\theta_K)

    alpha is inner_lr; V' discounts by inner_gamma (None: mdp.gamma), V by mdp.gamma. J_k, the Jacobian of grad V', is

    * `maml`: the Hessian of V', so all derivatives are exact (Finn et al. 2017);
    * `lvc`, `vpg`: what `hessian` calls by that name;
    * `fomaml`: zero (first order, Finn et al. 2017, section 5.2);
    * `reptile`: zero, and the gradient is replaced by theta_K - theta, not scaled (Nichol et al. 2018).
    """
    _require(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
    inner, num_steps = _inner(mdp, inner_lr, inner_gamma), _count("num_steps", num_steps, 0)
    return _float64(_meta_gradient, mdp, logits, *inner, method=method, num_steps=num_steps)


def enumerate_trajectories(mdp: MDP, max_terms: int = MAX_TERMS) -> Trajectories:
    """All trajectories with a probability above zero under a softmax policy; a ValueError if over max_terms."""
    mdp = _checked(mdp)
    num_actions = mdp.rewards.shape[1]
    states = np.flatnonzero(mdp.start)[:, None]
    actions, chance = np.zeros((len(states), 0), int), mdp.start[states[:, 0]]
    for t in range(mdp.horizon):
        size = f"smaller: {len(states) * num_actions} trajectories of {t + 1} steps, > {max_terms}"
        _require(len(states) * num_actions <= max_terms, "horizon", mdp.horizon, size)
        choice = np.tile(np.arange(num_actions), len(states))
        states, actions, chance = (np.repeat(x, num_actions, axis=0) for x in (states, actions, chance))
        actions = np.column_stack([actions, choice])
        if t + 1 < mdp.horizon:
            arrive = mdp.transitions[states[:, -1], choice]  # [N, S]
            row, following = np.nonzero(arrive)
            states, actions = np.column_stack([states[row], following]), actions[row]
            chance = chance[row] * arrive[row, following]
    return Trajectories(states, actions, chance)


def trajectory_batch(mdp: MDP, logits: Any, states: Any, actions: Any, baseline: Any = None) -> Batch:
    """The `Batch` [H, N] that a surrogate of `losses` sees, from trajectories [N, H] of the policy with these logits.

    With the baseline b [H, S] (None: 0), a function of the state and the time that is held fixed, the advantage is
    gamma^t (G_t - b_t(s_t)). That gamma^t is part of the gradient of V; the field often leaves it out of the
    advantage. Every step counts (mask 1). Plain JAX; gradients with respect to the logits are not stopped.
    """
    states, actions = jnp.asarray(states).T, jnp.asarray(actions).T  # [H, N]
    reward = jnp.asarray(mdp.rewards)[states, actions]
    time = jnp.arange(mdp.horizon)[:, None]
    discount = jnp.asarray(mdp.gamma) ** time
    to_go = jnp.cumsum((discount * reward)[::-1], axis=0)[::-1]  # gamma^t G_t
    value = jnp.zeros_like(reward) if baseline is None else jnp.asarray(baseline)[time, states]
    log_pi = jax.nn.log_softmax(jnp.asarray(logits))
    return Batch(
        observation=states,
        action=actions,
        log_prob=log_pi[states, actions],
        distribution=(log_pi[states],),
        advantage=to_go - discount * value,
        value=value,
        target=to_go / jnp.where(discount > 0, discount, 1.0),
        discounted_reward=discount * reward,
        discounted_value=discount * value,
        mask=jnp.ones_like(reward),
    )


def surrogate_moments(mdp: MDP, logits: Any, surrogate: Surrogate, baseline: Any = None) -> Moments:
    """Mean and variance, over trajectories, of the derivatives of a surrogate at the sampling parameters.

    The objective of a trajectory is -H loss(log_prob [H, 1], batch): the losses of `losses` are means over steps,
    and V is a sum over them. An unbiased surrogate has the means `policy_gradient` and `hessian`; a batch of N
    trajectories has the variances divided by N. `baseline` [H, S] is that of `trajectory_batch`.
    """
    paths, baseline = enumerate_trajectories(mdp), _baseline(mdp, baseline)
    return _float64(_moments, mdp, logits, baseline, paths, surrogate=surrogate)


def sampled_meta_gradient(
    mdp: MDP, logits: Any, surrogate: Surrogate, *, inner_lr: Any, num_trajectories: int = 1, num_steps: int = 1,
    inner_gamma: Any = None, baseline: Any = None, max_terms: int = MAX_TERMS,
) -> SampledMetaGradient:  # fmt: skip
    r"""The return after adaptation by N sampled trajectories in each of K = num_steps steps, and its gradients.

    .. math:: J_N(\theta) = \mathbb{E} V(\theta_K), \quad \theta_{k+1} = \theta_k + \alpha g(\theta_k, d_k)

    alpha is inner_lr, d_k are N trajectories of theta_k, g is the gradient of -H surrogate(log_prob [H, N], batch): of
    a mean over them. It is a sum over (number of trajectories)^(N K) tuples; over max_terms of them raise a ValueError.

    * `total`, grad J_N, lets theta move the data too. It takes the weight of each step's score in g for a function
      of the data, as it is for all of `losses`; surrogates of one gradient then have one J_N and one total.
    * `fixed_data` is the mean of what differentiation through the surrogate gives: MAML (Finn et al. 2017).
    * `sampling` is the mean of V(theta_K) grad sum_k log p(data_k; theta_k), with the surrogate's Hessians inside
      theta_k: the term of E-MAML (Stadie et al. 2018, Al-Shedivat et al. 2018).

    For `vpg`, whose Hessian with the data held is the derivative of g, total = fixed_data + sampling. The Hessians
    of `dice` and `lvc` hold an estimate of the sampling term already: the sum counts it twice. As N grows, the total
    and the fixed_data of `dice` tend to `meta_gradient`. The baseline [H, S] (None: 0) is held constant.
    """
    shape = (_count("num_steps", num_steps, 0), _count("num_trajectories", num_trajectories, 1))
    inner, table, paths = _inner(mdp, inner_lr, inner_gamma), _baseline(mdp, baseline), enumerate_trajectories(mdp)
    terms = len(paths.chance) ** math.prod(shape)
    size = f"smaller: {terms:.3g} tuples of {len(paths.chance)} trajectories, > {max_terms}"
    _require(terms <= max_terms, "(num_steps, num_trajectories)", shape, size)
    return _float64(_sampled_meta_gradient, mdp, logits, *inner, table, paths, surrogate=surrogate, shape=shape)


def _evaluate(mdp: MDP, logits: jax.Array) -> Evaluation:
    pi = jax.nn.softmax(logits)

    def backward(following: jax.Array, _: None) -> tuple[jax.Array, tuple]:
        q = mdp.rewards + mdp.gamma * mdp.transitions @ following
        v = (pi * q).sum(axis=1)
        return v, (v, q)

    def forward(here: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return jnp.einsum("s,sa,sax->x", here, pi, mdp.transitions), here

    first, (value, action_value) = jax.lax.scan(backward, 0 * mdp.start, length=mdp.horizon, reverse=True)
    _, state_distribution = jax.lax.scan(forward, mdp.start, length=mdp.horizon)
    return Evaluation(mdp.start @ first, value, action_value, state_distribution)


def _gradient(mdp: MDP, logits: jax.Array, curvature: str) -> jax.Array:
    """grad V, whose Jacobian with respect to the logits is the curvature named."""
    held = jax.lax.stop_gradient(logits)

    def objective(x: jax.Array) -> jax.Array:
        if curvature in ("exact", "none"):
            return _evaluate(mdp, x).expected_return
        old = _evaluate(mdp, held)
        weight = mdp.gamma ** jnp.arange(mdp.horizon)[:, None] * old.state_distribution  # [H, S]
        action = jax.nn.softmax(x) if curvature == "lvc" else jax.nn.softmax(held) * jax.nn.log_softmax(x)
        return jnp.einsum("hs,sa,hsa->", weight, action, old.action_value - old.value[..., None])

    return jax.grad(objective)(held if curvature == "none" else logits)


_hessian = jax.jacobian(_gradient, argnums=1)


def _meta_gradient(mdp: MDP, logits: Any, inner_lr: Any, inner_gamma: Any, method: str, num_steps: int) -> MetaGradient:
    def objective(theta: jax.Array, lr: jax.Array, gamma: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return x + lr * _gradient(replace(mdp, gamma=gamma), x, METHODS[method]), None

        adapted, _ = jax.lax.scan(step, theta, length=num_steps)
        return _evaluate(mdp, adapted).expected_return, adapted

    derivatives = jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True)
    (value, adapted), (gradient, by_lr, by_gamma) = derivatives(logits, inner_lr, inner_gamma)
    return MetaGradient(value, adapted, adapted - logits if method == "reptile" else gradient, by_lr, by_gamma)


def _objective(surrogate: Surrogate, mdp: MDP, states: Any, actions: Any, baseline: Any, held: Any) -> Callable:
    """logits -> -H loss on these trajectories, drawn with the logits `held`."""
    batch = trajectory_batch(mdp, held, states, actions, baseline)
    return lambda x: -mdp.horizon * surrogate(jax.nn.log_softmax(x)[batch.observation, batch.action], batch)


def _moments(mdp: MDP, logits: jax.Array, baseline: jax.Array, paths: Trajectories, surrogate: Surrogate) -> Moments:
    probability = paths.probability(logits)

    def one(i: jax.Array) -> tuple:
        f = _objective(surrogate, mdp, paths.states[i][None], paths.actions[i][None], baseline, logits)
        g, h = jax.grad(f)(logits), jax.hessian(f)(logits)
        return jax.tree.map(lambda x: probability[i] * x, (g, h, jnp.sum(g * g), jnp.sum(h * h)))

    g, h, gg, hh = _sum(one, len(paths.chance))
    return Moments(g, h, gg - jnp.sum(g * g), hh - jnp.sum(h * h))


def _sampled_meta_gradient(
    mdp: MDP, logits: Any, lr: Any, gamma: Any, baseline: Any, paths: Trajectories, surrogate: Surrogate, shape: tuple
) -> SampledMetaGradient:
    inner, count = replace(mdp, gamma=gamma), len(paths.chance)
    place = count ** np.arange(math.prod(shape)).reshape(shape)  # a tuple is a number with digits [K, N] in base count

    def honest(log_prob: jax.Array, batch: Batch) -> jax.Array:  # g as a function of theta: score times data
        weight = jax.grad(surrogate)(jax.lax.stop_gradient(log_prob), batch)
        return jnp.sum(jax.lax.stop_gradient(weight) * log_prob)

    def outcome(theta: jax.Array, chosen: jax.Array, loss: Surrogate) -> tuple[jax.Array, jax.Array]:
        """log p(data) and V(theta_K) of one tuple, chosen [K, N]."""
        log_p = jnp.log(paths.chance[chosen]).sum()
        for i in chosen:
            states, actions, held = paths.states[i], paths.actions[i], jax.lax.stop_gradient(theta)
            log_p += jax.nn.log_softmax(theta)[states, actions].sum()
            theta = theta + lr * jax.grad(_objective(loss, inner, states, actions, baseline, held))(theta)
        return log_p, _evaluate(mdp, theta).expected_return

    def one(i: jax.Array) -> SampledMetaGradient:
        chosen = (i // place) % count
        (log_p, value), back = jax.vjp(lambda x: outcome(x, chosen, surrogate), logits)
        p, zero = jnp.exp(log_p), jnp.zeros_like(log_p)
        honest_back = jax.vjp(lambda x: outcome(x, chosen, honest), logits)[1]
        total, fixed_data, sampling = honest_back((p * value, p))[0], back((zero, p))[0], back((p * value, zero))[0]
        return SampledMetaGradient(p * value, total, fixed_data, sampling)

    return _sum(one, count**place.size)


def _sum(f: Callable, count: int, chunk: int = 4096) -> Any:
    """sum_{i < count} f(i) of pytrees, `chunk` of them in memory at a time."""

    def step(total: Any, first: jax.Array) -> tuple[Any, None]:
        index = first + jnp.arange(min(chunk, count))
        terms = jax.vmap(f)(jnp.minimum(index, count - 1))
        return jax.tree.map(lambda a, x: a + jnp.tensordot((index < count).astype(x.dtype), x, 1), total, terms), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(f, 0))
    return jax.lax.scan(step, zeros, jnp.arange(0, count, chunk))[0]


# --- from the caller's arrays to float64 and back -------------------------------------------------------


def _float64(function: Callable, mdp: MDP, logits: Any, *arguments: Any, **static: Any) -> Any:
    """function(mdp, logits, ...) in float64, as NumPy arrays; compiled once for each set of shapes and statics."""
    mdp, logits = _checked(mdp), _table("logits", logits, np.shape(mdp.rewards))
    with jax.enable_x64(True):
        compiled = jax.jit(function, static_argnames=tuple(static))
        return jax.tree.map(np.asarray, compiled(mdp, logits, *arguments, **static))


def _checked(mdp: MDP) -> MDP:
    """The MDP in float64 NumPy, its rows normalised, or a ValueError."""
    _require(np.ndim(mdp.rewards) == 2 and np.size(mdp.rewards) > 0, "rewards.shape", np.shape(mdp.rewards), "[S, A]")
    states, actions = np.shape(mdp.rewards)
    return MDP(
        _probabilities("transitions", mdp.transitions, (states, actions, states)),
        _table("rewards", mdp.rewards, (states, actions)),
        _probabilities("start", mdp.start, (states,)),
        _table("gamma", mdp.gamma, (), 0, 1),
        horizon=_count("horizon", mdp.horizon, 1),
    )


def _require(ok: Any, name: str, value: Any, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{name} = {value!r}: must be {allowed}")


def _table(name: str, value: Any, shape: tuple, low: float = -np.inf, high: float = np.inf) -> np.ndarray:
    x = np.asarray(value, np.float64)
    _require(x.shape == shape, f"{name}.shape", x.shape, f"{shape} (H, S and A are those of the MDP)")
    bounds = f"finite, in [{low}, {high}]" if np.isfinite(low) else "finite"
    _require(np.isfinite(x).all() and (x >= low).all() and (x <= high).all(), name, value, bounds)
    return x


def _probabilities(name: str, value: Any, shape: tuple) -> np.ndarray:
    rows = _table(name, value, shape, 0)
    total = rows.sum(axis=-1, keepdims=True)
    for where in np.argwhere(np.abs(total[..., 0] - 1) > 1e-5)[:1].tolist():
        _require(False, f"{name}{where or ''}", rows[tuple(where)].tolist(), "of sum 1")
    return rows / total


def _count(name: str, value: Any, least: int) -> int:
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    _require(is_whole and value >= least, name, value, f"an integer of at least {least}")
    return int(value)


def _inner(mdp: MDP, inner_lr: Any, inner_gamma: Any) -> tuple[np.ndarray, np.ndarray]:
    gamma = mdp.gamma if inner_gamma is None else inner_gamma
    return _table("inner_lr", inner_lr, ()), _table("inner_gamma", gamma, (), 0, 1)


def _baseline(mdp: MDP, baseline: Any) -> np.ndarray:
    shape = (mdp.horizon, len(mdp.rewards))
    return np.zeros(shape) if baseline is None else _table("baseline", baseline, shape)
