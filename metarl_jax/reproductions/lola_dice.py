"""LOLA-DiCE on the iterated prisoner's dilemma (Foerster et al. 2018, DiCE, arXiv 1802.05098).

Each of two agents differentiates its return through the opponent's anticipated policy-gradient steps:

    theta_i <- theta_i - beta grad_i L_i(theta_i, theta_j'),   theta_j' = theta_j - alpha grad_j L_j(theta_i, theta_j).

L is DiCE over *both* agents' log-probabilities, so that grad_j L_j still depends on theta_i: that is what makes
cooperation worth learning. Without the magic box grad_j L_j is a plain score-function estimate, whose rewards are
numbers: it does not depend on theta_i, and the agents learn to defect, as naive ones do.

Settings are those of the authors' code (github.com/alshedivat/lola, scripts/run_lola_dice.py): gradient descent on
batch means of sums over time, no critic; each step's reward has its batch mean subtracted. Two things differ:

* alpha = 0.3 / lookahead steps (0.3 was the script's first value). Its present 0.1 cannot have made the published
  curve of 1 step: even exact gradients then end in defection on 19 of 20 seeds. The parameters recorded with their
  raw results move as by alpha of about 0.27, 0.16 and 0.12 for 1, 2 and 3 steps. 0.1 is run too, and reported.
* The agents update at once, not one after the other.

Published numbers are the last 20 updates of the raw results in that repository (notebooks/dice/results, 5 runs).
The score is (1 - gamma) sum_t gamma^t r_t, mean of both agents: theirs sampled, ours exact.

Shapes: S = 5 states (own action, other's action; then the start), T steps, B games.
"""

import json
import operator
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.meta import evaluation
from metarl_jax.reproductions import NO_RULE, Claim
from metarl_jax.rl import losses, returns
from metarl_jax.runs import files

PAYOFF = ((-1.0, -3.0), (0.0, -2.0))  # [own action][other's action]; 0 cooperates, 1 defects
START = 4  # other states: 2 * own action + other's action
NUM_STATES = 5
NUM_SEEDS = 20
LAST = 20  # updates that a score is the mean of


class Settings(NamedTuple):
    """Static settings of one variant."""

    lookahead: int = 1  # steps of the opponent that are anticipated; 0: naive learners
    magic: bool = True  # DiCE, or the plain score-function surrogate
    num_updates: int = 200
    horizon: int = 150
    batch: int = 64
    gamma: float = 0.96
    inner_lr: float = 0.3
    outer_lr: float = 0.2


class Variant(NamedTuple):
    """One row of the result."""

    title: str
    settings: Settings
    published: float | None
    rule: str = NO_RULE


VARIANTS = {
    "dice_1": Variant("LOLA-DiCE, 1 lookahead step", Settings(), -1.18, ">= -1.30"),
    "no_magic": Variant("1 lookahead step without the magic box", Settings(magic=False), -1.99, "<= -1.95"),
    "naive": Variant("naive learners", Settings(lookahead=0), -1.99),
    "dice_2": Variant("LOLA-DiCE, 2 lookahead steps", Settings(lookahead=2, inner_lr=0.15), -1.12),
    "dice_3": Variant("LOLA-DiCE, 3 lookahead steps", Settings(lookahead=3, inner_lr=0.1), -1.11),
    "dice_1_small": Variant("LOLA-DiCE, 1 lookahead step, inner lr 0.1", Settings(inner_lr=0.1), None),
}


@struct.dataclass
class Games:
    """Sampled play of two agents; axis 0 is the agent."""

    state: jax.Array  # [2, T, B] int, as the agent sees it
    action: jax.Array  # [2, T, B] int
    reward: jax.Array  # [2, T, B]


def play(key: jax.Array, logits: jax.Array, settings: Settings) -> Games:
    """Sample B games of T steps; logits [2, S] of cooperation in each state."""
    cooperation = jax.nn.sigmoid(logits)
    uniforms = jax.random.uniform(key, (settings.horizon, 2, settings.batch))

    def step(state: jax.Array, u: jax.Array) -> tuple[jax.Array, tuple]:
        action = (u >= jnp.take_along_axis(cooperation, state, axis=1)).astype(int)
        return 2 * action + action[::-1], (state, action)

    start = jnp.full((2, settings.batch), START)
    state, action = (jnp.swapaxes(x, 0, 1) for x in jax.lax.scan(step, start, uniforms)[1])
    return Games(state, action, jnp.asarray(PAYOFF)[action, action[::-1]])


def log_prob(logits: jax.Array, state: jax.Array, action: jax.Array) -> jax.Array:
    """log pi(action | state), [T, B], of one agent's logits [S]; a product with one-hots, not a gather."""
    table = jnp.stack([jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)], axis=1).reshape(-1)
    return jax.nn.one_hot(2 * state + action, 2 * NUM_STATES) @ table


def surrogate(own: jax.Array, other: jax.Array, games: Games, agent: int, settings: Settings) -> jax.Array:
    """The loss of `agent` (0: own, 1: other): minus the mean over games of the sum over time.

    The batch mean is taken from each step's reward. It multiplies magic(.), whose derivatives have mean zero,
    so it is a baseline for every order (short of a factor 1 - 1/B, as the mean contains the game itself).
    """
    both = log_prob(own, games.state[0], games.action[0]) + log_prob(other, games.state[1], games.action[1])
    reward = games.reward[agent]
    discount = settings.gamma ** jnp.arange(settings.horizon)
    reward = discount[:, None] * (reward - reward.mean(axis=1, keepdims=True))
    ones = jnp.ones_like(reward)
    if settings.magic:
        return settings.horizon * losses.dice(both, reward, jnp.zeros_like(reward), ones)
    to_go = returns.discounted_returns(reward, ones < 0, 1.0)
    return settings.horizon * losses.vpg(both, to_go, ones)


def lookahead_loss(own: jax.Array, other: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    """An agent's loss against an opponent that has taken `lookahead` steps, each on fresh games."""

    def sample(key: jax.Array, other: jax.Array) -> Games:
        return play(key, jax.lax.stop_gradient(jnp.stack([own, other])), settings)

    *inner_keys, outer_key = jax.random.split(key, settings.lookahead + 1)
    for k in inner_keys:
        games = sample(k, other)
        other = other - settings.inner_lr * jax.grad(surrogate, argnums=1)(own, other, games, 1, settings)
    return surrogate(own, other, sample(outer_key, other), 0, settings)


def exact_returns(logits: jax.Array, settings: Settings) -> jax.Array:
    """(1 - gamma) sum_{t < T} gamma^t E[r_t] of both agents, [2], by the Markov chain of joint actions."""
    cooperation = jax.nn.sigmoid(logits)

    def joint(mine: jax.Array, others: jax.Array) -> jax.Array:
        """Probability of each joint action (CC, CD, DC, DD), on a new last axis."""
        pair = [jnp.stack([p, 1.0 - p], axis=-1) for p in (mine, others)]
        return (pair[0][..., :, None] * pair[1][..., None, :]).reshape(*mine.shape, 4)

    swapped = cooperation[1][jnp.array([0, 2, 1, 3])]  # the other agent sees CD as DC
    transition = joint(cooperation[0][:START], swapped)
    first = joint(cooperation[0][START], cooperation[1][START])
    payoff = jnp.asarray(PAYOFF)

    def step(distribution: jax.Array, discount: jax.Array) -> tuple[jax.Array, jax.Array]:
        return distribution @ transition, discount * distribution

    visits = jax.lax.scan(step, first, settings.gamma ** jnp.arange(settings.horizon))[1].sum(axis=0)
    return (1.0 - settings.gamma) * jnp.stack([visits @ payoff.reshape(4), visits @ payoff.T.reshape(4)])


def optimum(settings: Settings) -> float:
    """The best mean of the two agents' returns: both always cooperate."""
    return PAYOFF[0][0] * (1.0 - settings.gamma**settings.horizon)


def train(key: jax.Array, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """One seed: logits [2, S] after the last update, and exact returns [num_updates, 2] after each."""
    init_key, key = jax.random.split(key)
    logits = jax.random.uniform(init_key, (2, NUM_STATES), minval=-1.0, maxval=1.0)

    def update(logits: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss = partial(lookahead_loss, settings=settings)
        grad = jax.vmap(jax.grad(loss))(logits, logits[::-1], jax.random.split(key))
        logits = logits - settings.outer_lr * grad
        return logits, exact_returns(logits, settings)

    return jax.lax.scan(update, logits, jax.random.split(key, settings.num_updates))


def measure(name: str, settings: Settings, directory: Path, num_seeds: int) -> dict[str, Any]:
    """Train one variant on all seeds in one program, or read what an earlier call has left in `directory`."""
    path = Path(directory) / f"{name}.json"
    wanted = {**settings._asdict(), "num_seeds": num_seeds}
    if path.exists():
        found = files.read_json(path, "results")
        if found.get("settings") == wanted:
            return found
    cpu = time.process_time()
    keys = jax.vmap(jax.random.key)(jnp.arange(num_seeds))
    logits, curve = jax.jit(jax.vmap(partial(train, settings=settings)))(keys)
    joint = np.asarray(curve, np.float64).mean(axis=-1)  # [seed, update]
    result = {
        "settings": wanted,
        "score": joint[:, -LAST:].mean(axis=1).tolist(),
        "curve": joint.round(4).tolist(),
        "cooperation": np.asarray(jax.nn.sigmoid(logits), np.float64).round(4).tolist(),  # [seed, agent, S]
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, json.dumps(result))
    return result


def holds(value: float, rule: str) -> bool:
    """Whether a rule such as ">= -1.30" is true of value."""
    if rule == NO_RULE:
        return True
    sign, bound = rule.split()
    return {">=": operator.ge, "<=": operator.le}[sign](value, float(bound))


def run(directory: Path, report: Callable[[Any], None] = print) -> list[Claim]:
    """Every variant on `NUM_SEEDS` seeds: mean over seeds of the mean of the last 20 updates."""
    claims = []
    for name, variant in VARIANTS.items():
        result = measure(name, variant.settings, directory, NUM_SEEDS)
        scores = np.asarray(result["score"])[None]  # one row: the seeds are what is redrawn
        mean, low, high = evaluation.bootstrap_interval(scores, evaluation.mean)
        best = optimum(variant.settings)
        passed = holds(mean, variant.rule)
        what = f"{variant.title}: joint return per step"
        claims.append(Claim(what, mean, (low, high), variant.rule, passed, variant.published, best))
        report(f"{variant.title}: {mean:.3f} [{low:.3f}, {high:.3f}], published {variant.published}")
    return claims
