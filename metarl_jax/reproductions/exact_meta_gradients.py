"""The library's meta-gradients against the exact oracle, in float64 and without sampling.

An inner batch of *all* trajectories of a small tabular MDP, each weighted by its probability, is an infinite batch.
On it the library's own pipeline (prepare, inner update, adapt, meta-gradient) must find the derivatives that
`exact.meta_gradient` finds by dynamic programming. E-MAML is about finite batches: its estimate is averaged over every
tuple of trajectories that could have been drawn, and must be the total gradient of `exact.sampled_meta_gradient`.

Scales: the losses are means over steps, V is a sum over them, so that an inner step size alpha of the oracle is
H alpha here, and the oracle's meta-gradient is -H times the one here. `prepare` leaves gamma^t out of the advantage, as
the field does; the oracle's V has it, so the weights put it back. The critic of the infinite batches is the exact V of
theta_k, without which the Hessian of `vpg` is not zero. E-MAML has no critic, and its unbiased coefficient is N H, the
number of steps in tau, at a credit of V(theta_K) / H, the mean reward after adaptation.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.algorithms.e_maml import e_maml
from metarl_jax.algorithms.maml import maml
from metarl_jax.algorithms.reptile import reptile
from metarl_jax.envs.tabular import tabular_mdp
from metarl_jax.meta import adaptation
from metarl_jax.reference import exact
from metarl_jax.reproductions import Claim
from metarl_jax.rl import learners, losses
from metarl_jax.types import Batch, Learner, LearnerState, Policy, Rollout, Trial

SEEDS = range(3)  # random MDPs; a claim holds the worst
NUM_STEPS = (1, 2, 3)
INNER_LR, INNER_GAMMA, GAMMA = 0.7, 0.8, 0.9
BOUND = 1e-8  # on relative errors
METHODS = {  # of the oracle: the name in the claims, the inner surrogate, the differentiation
    "maml": ("MAML (dice)", "dice", "mixed"),
    "lvc": ("MAML (lvc)", "lvc", "mixed"),
    "vpg": ("MAML (vpg)", "vpg", "mixed"),
    "fomaml": ("FOMAML", "dice", "first_order"),
    "reptile": ("Reptile", "dice", "mixed"),
}
BATCHES = ((1, 1), (1, 2), (2, 1), (3, 1))  # (K, N) of E-MAML: 32^(K N) tuples of trajectories


class Problem(NamedTuple):
    """An MDP with all its trajectories [M, H], and the logits theta [S, A] at which to differentiate."""

    mdp: exact.MDP
    paths: exact.Trajectories
    theta: Any


class Experience(NamedTuple):
    """What an update learns from: trajectories, how often each counts [N], and the policy that took them."""

    rollout: Rollout
    weight: jax.Array
    theta: jax.Array


def problem(seed: int, num_states: int) -> Problem:
    """A = 2, H = 3, P(s, a) ~ Dirichlet(1), R and logits ~ N(0, 1), start ~ Dirichlet(1); of 2 states always the first.

    M = 216 for 3 states, 32 for 2.
    """
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.ones(num_states), size=(num_states, 2))
    rewards, logits = rng.normal(size=(2, num_states, 2))
    start = np.eye(2)[0] if num_states == 2 else rng.dirichlet(np.ones(num_states))
    mdp = exact.MDP(transitions, rewards, start, GAMMA, horizon=3)
    return Problem(mdp, exact.enumerate_trajectories(mdp), logits)


def tabular_policy(mdp: exact.MDP, gamma: Any) -> Policy:
    """pi(a|s) = softmax(theta[s])_a on observations (t, s); the critic is the V_t(s) of that policy, not trained."""

    def init(key: jax.Array) -> jax.Array:
        return jnp.zeros_like(mdp.rewards)

    def apply(theta: jax.Array, observation: jax.Array) -> distrax.Categorical:
        return distrax.Categorical(logits=theta[observation[..., 1]])

    def value(theta: jax.Array, observation: jax.Array) -> jax.Array:
        pi, table = jax.nn.softmax(jax.lax.stop_gradient(theta)), [jnp.zeros(len(mdp.start))]
        for _ in range(mdp.horizon):
            table.append(jnp.sum(pi * (mdp.rewards + gamma * mdp.transitions @ table[-1]), axis=1))
        return jnp.stack(table[:0:-1])[observation[..., 0], observation[..., 1]]

    return Policy(init, apply, value)


def setting(mdp: exact.MDP) -> tuple[Any, Any, Policy]:
    """(env, tasks, policy) for the algorithms, which here never step the environment."""
    num_states, num_actions = np.shape(mdp.rewards)
    env, tasks = tabular_mdp(num_states=num_states, num_actions=num_actions, horizon=mdp.horizon)
    return env, tasks, tabular_policy(mdp, mdp.gamma)._replace(value=None)


def inner_options(gamma: Any, baseline: str = "zero") -> dict[str, Any]:
    """Nothing between the rewards and the surrogate but the baseline."""
    return {"gamma": gamma, "baseline": baseline, "normalize_advantage": False, "value_coef": 0.0}


def act(setup: Problem, theta: jax.Array, chosen: jax.Array) -> Rollout:
    """The chosen trajectories [N] as if the policy of theta had just taken them."""
    mdp, paths, _ = setup
    states, actions = jnp.asarray(paths.states)[chosen].T, jnp.asarray(paths.actions)[chosen].T  # [H, N]
    reward, log_pi = jnp.asarray(mdp.rewards)[states, actions], jax.nn.log_softmax(theta)
    length = jnp.broadcast_to(jnp.arange(1, mdp.horizon + 1)[:, None], states.shape)
    observation, end = jnp.stack([length - 1, states], axis=-1), length == mdp.horizon
    return Rollout(
        observation=observation,
        action=actions,
        log_prob=log_pi[states, actions],
        reward=reward,
        terminated=end,
        truncated=jnp.zeros_like(end),
        next_observation=jnp.roll(observation, -1, axis=0),  # that of the last step is not looked at: it terminated
        mask=jnp.ones_like(reward),
        episode_return=jnp.cumsum(reward, axis=0),
        episode_length=length,
        distribution=(log_pi[states],),
    )


def prepare(learner: Learner, gamma: Any, data: Experience) -> Batch:
    """The learner's batch, in which trajectory n counts weight[n] times: surrogates are linear in what is scaled."""
    batch = learner.prepare(LearnerState(data.theta, ()), data.rollout)
    discount = gamma ** jnp.arange(len(batch.mask))[:, None]
    return replace(
        batch,
        advantage=batch.advantage * data.weight * discount,
        discounted_reward=batch.discounted_reward * data.weight,
        discounted_value=batch.discounted_value * data.weight,
    )


def gather(
    setup: Problem, learner: Learner, gamma: Any, num_steps: int, chosen: jax.Array | None = None
) -> tuple[Experience, Experience, jax.Array]:
    """(inner data [K], outer data, probability of the inner data): what theta_0, ..., theta_K meet.

    `chosen` [K, N] are the trajectories of each inner batch; None: all, weighted by their probability under theta_k.
    The outer data are always all of them. Nothing here is differentiated.
    """
    count = len(setup.paths.chance)

    def meet(theta: jax.Array, some: jax.Array | None) -> tuple[Experience, jax.Array]:
        probability = setup.paths.probability(theta)
        if some is None:
            return Experience(act(setup, theta, jnp.arange(count)), count * probability, theta), jnp.ones(())
        return Experience(act(setup, theta, some), jnp.ones(some.shape), theta), jnp.prod(probability[some])

    def experience(state: LearnerState, some: jax.Array | None) -> tuple[Batch, Any]:
        data, probability = meet(state.params, some)
        return prepare(learner, gamma, data), (data, probability)

    keys = jax.random.split(jax.random.key(0), num_steps)
    start = learner.init(jnp.asarray(setup.theta))
    state, (data, probability) = adaptation.unroll(lambda *x: learner.update(*x)[0], start, keys, chosen, experience)
    return jax.lax.stop_gradient((data, meet(state.params, None)[0], jnp.prod(probability)))


def make_trial(mdp: exact.MDP, learner: Learner, gamma: Any, inner_data: Experience, outer_data: Experience) -> Trial:
    """The Trial of `gather`'s data, differentiable in the inner learner's discount; its credit is V(theta_K) / H."""
    outside = learners.policy_gradient(tabular_policy(mdp, mdp.gamma), **inner_options(mdp.gamma))
    outer = prepare(outside, mdp.gamma, outer_data)
    keys = jax.random.split(jax.random.key(0), len(inner_data.weight))
    batches = jax.vmap(lambda data: prepare(learner, gamma, data))(inner_data)
    return Trial(batches, outer, keys, credit=jnp.mean(outer.discounted_reward))


@functools.partial(jax.jit, static_argnames=("method", "num_steps"))
def infinite_batches(setup: Problem, lr: Any, gamma: Any, *, method: str, num_steps: int) -> tuple[jax.Array, ...]:
    """Derivatives of the return after K inner updates: in theta and, for "maml", in alpha and the inner gamma."""
    mdp, theta, scale = setup.mdp, setup.theta, setup.mdp.horizon
    _, surrogate, differentiation = METHODS[method]

    def learner_of(lr: Any, gamma: Any) -> Learner:
        policy = tabular_policy(mdp, gamma)
        return learners.policy_gradient(policy, scale * lr, surrogate=surrogate, **inner_options(gamma, "critic"))

    *data, _ = gather(setup, learner_of(lr, gamma), gamma, num_steps)

    def algorithm(lr: Any, gamma: Any) -> tuple[Any, Trial]:
        learner = learner_of(lr, gamma)
        options: dict[str, Any] = {"num_inner_steps": num_steps, "num_outer_epochs": 1}
        algo = maml(*setting(mdp), learner, differentiation=differentiation, **options)
        return algo, make_trial(mdp, learner, gamma, *data)

    def meta_loss(lr: Any, gamma: Any) -> jax.Array:
        algo, trial = algorithm(lr, gamma)
        return algo.meta_loss(theta, trial)

    algo, trial = algorithm(lr, gamma)
    if method == "reptile":
        plain = learners.policy_gradient(setting(mdp)[2], scale * lr, surrogate=surrogate, **inner_options(gamma))
        algo = reptile(*setting(mdp), plain)
        return (-algo.meta_gradient(theta, trial)[1],)
    rest = jax.grad(meta_loss, (0, 1))(lr, gamma) if method == "maml" else ()
    return tuple(-scale * x for x in (algo.meta_gradient(theta, trial)[1], *rest))


@functools.partial(
    jax.jit, static_argnames=("num_steps", "num_trajectories", "surrogate", "outer_surrogate", "explores")
)
def finite_batches(
    setup: Problem, lr: Any, gamma: Any, *, num_steps: int, num_trajectories: int, surrogate: str = "vpg",
    outer_surrogate: str = "ppo", explores: bool = True,
) -> jax.Array:  # fmt: skip
    """Mean of E-MAML's gradient over all batches of N trajectories in each of K steps; MAML's if not `explores`."""
    mdp, theta, scale, count = setup.mdp, setup.theta, setup.mdp.horizon, len(setup.paths.chance)
    env, tasks, policy = setting(mdp)
    learner = learners.policy_gradient(policy, scale * lr, surrogate=surrogate, **inner_options(gamma))
    algo = e_maml(
        env, tasks, policy, learner, num_inner_steps=num_steps,
        exploration_coef=float(num_trajectories * scale) if explores else 0.0, outer_surrogate=outer_surrogate,
    )  # fmt: skip
    place = count ** jnp.arange(num_steps * num_trajectories).reshape(num_steps, num_trajectories)

    def one(i: jax.Array) -> jax.Array:
        chosen = (i // place) % count  # a tuple is a number with digits [K, N] in base M
        *data, probability = gather(setup, learner, gamma, num_steps, chosen)
        return -scale * probability * algo.meta_gradient(theta, make_trial(mdp, learner, gamma, *data))[1]

    def add(total: jax.Array, numbers: jax.Array) -> tuple[jax.Array, None]:
        return total + jax.vmap(one)(numbers).sum(axis=0), None

    numbers = jnp.arange(count ** (num_steps * num_trajectories)).reshape(-1, count)
    return jax.lax.scan(add, jnp.zeros_like(theta), numbers)[0]


def relative_error(found: Any, expected: Any) -> float:
    """|found - expected| / |expected|."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def measure_infinite(method: str, num_steps: int, seed: int) -> dict[str, float]:
    """{what: relative error} of one method, all inner batches being infinite."""
    setup = problem(seed, num_states=3)
    options: dict[str, Any] = {"num_steps": num_steps, "method": method}
    oracle = exact.meta_gradient(setup.mdp, setup.theta, inner_lr=INNER_LR, inner_gamma=INNER_GAMMA, **options)
    found = infinite_batches(setup, INNER_LR, INNER_GAMMA, **options)
    names = ("meta-gradient", "derivative in alpha", "derivative in the inner gamma")
    pairs = zip(names, found, (oracle.gradient, oracle.inner_lr, oracle.inner_gamma), strict=False)
    return {f"{METHODS[method][0]} {what}, K = {num_steps}": relative_error(x, y) for what, x, y in pairs}


def measure_finite(num_steps: int, num_trajectories: int, seed: int) -> dict[str, float]:
    """The same for E-MAML's mean over all inner batches of N trajectories."""
    setup = problem(seed, num_states=2)
    options: dict[str, Any] = {"num_steps": num_steps, "num_trajectories": num_trajectories}
    rates: dict[str, Any] = {"inner_lr": INNER_LR, "inner_gamma": INNER_GAMMA}
    oracle = exact.sampled_meta_gradient(setup.mdp, setup.theta, losses.surrogate("vpg"), **rates, **options)
    found = finite_batches(setup, INNER_LR, INNER_GAMMA, **options)
    what = f"E-MAML total gradient, K = {num_steps}, N = {num_trajectories}"
    return {what: relative_error(found, oracle.total)}


def run(directory: Path, report: Callable[[Any], None]) -> list[Claim]:
    """Every method and K on every MDP; the whole is short, so nothing is kept in `directory`."""
    del directory
    cases = [functools.partial(measure_infinite, method, k) for k in NUM_STEPS for method in METHODS]
    cases += [functools.partial(measure_finite, *shape) for shape in BATCHES]
    claims = []
    with jax.enable_x64(True):
        for case in cases:
            errors = [case(seed) for seed in SEEDS]
            for what in errors[0]:
                worst = max(error[what] for error in errors)
                report(f"{what}: relative error {worst:.1e}")
                claims.append(Claim(f"relative error of {what}", worst, None, f"<= {BOUND:.0e}", worst <= BOUND))
    return claims
