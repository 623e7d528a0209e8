"""Learned policy optimisation: PPO with a learned drift in the place of its clip (LPO, Lu et al. 2022).

Agents minimise -mean [rho A - f(rho, A)], rho = pi / pi_old, with the drift f = ReLU(net(x) - 1e-4) of
x = (1 - rho, (1 - rho)^2, log rho, log^2 rho) and the same four times A. The network is one layer of tanh and a linear
one without biases, so that f and its slope are 0 at rho = 1: any such f is a valid drift of mirror learning (Kuba et
al. 2022), with its guarantees. `losses.dpo` is one that was discovered like this, and PPO's clip is another:

    min(rho A, clip(rho, 1 +- eps) A) = rho A - ReLU((rho - clip(rho, 1 +- eps)) A)

With `clip_eps` the network is added to that one, f = ReLU(ReLU((rho - clip rho) A) + net(x) - 1e-4), and its last layer
starts at 0: learning begins at PPO.
"""

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from metarl_jax import tree
from metarl_jax.algorithms.interface import Entry
from metarl_jax.algorithms.rule_family import beside, rival_step, rule_entry
from metarl_jax.networks import build_policy, network_part
from metarl_jax.options import (
    Float,
    NonNegative,
    Part,
    Positive,
    Rate,
    Width,
    options_of,
    takes_options,
)
from metarl_jax.rl import learners, losses
from metarl_jax.rl.normalize import SEEN_NORMALIZED
from metarl_jax.types import Batch, Learner, Params, Policy
from metarl_jax.update_rules.lifetimes import Rule

NOT_IN_STREAMS = (  # options of whole episodes, and one that the outer critic's rewards would need too
    "baseline", "dice_lambda", "target_return", "num_microbatches", "reward_scale", "normalize_task_rewards",
)  # fmt: skip
MARGIN = 1e-4  # what the network has to exceed


def init_drift(key: jax.Array, width: int = 128, scale: float = 1.0) -> Params:
    """Weights of the drift network, LeCun normal; those of the last layer times `scale`."""
    hidden, out = jax.random.split(key)
    dtype = jnp.result_type(float)
    return {
        "hidden": jax.random.normal(hidden, (8, width), dtype) / jnp.sqrt(8.0),
        "output": scale * jax.random.normal(out, (width,), dtype) / jnp.sqrt(width),
    }


def drift(eta: Params, log_ratio: jax.Array, advantage: jax.Array, clip_eps: Float | None = None) -> jax.Array:
    """f(rho, A) >= 0, elementwise in log rho [...] and A [...]; advantages in units of their standard deviation."""
    ratio = losses.likelihood_ratio(log_ratio)
    net = _network(eta, log_ratio, ratio, advantage)
    if clip_eps is not None:
        net = net + jax.nn.relu((ratio - jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)) * advantage)
    return jax.nn.relu(net - MARGIN)


def _network(eta: Params, log_ratio: jax.Array, ratio: jax.Array, advantage: jax.Array) -> jax.Array:
    about = jnp.stack([1.0 - ratio, jnp.square(1.0 - ratio), log_ratio, jnp.square(log_ratio)], axis=-1)
    x = jnp.concatenate([about, about * advantage[..., None]], axis=-1)
    return jnp.tanh(x @ eta["hidden"]) @ eta["output"]


def surrogate(eta: Params, clip_eps: Float | None = None) -> losses.Surrogate:
    """-mean [rho A - f(rho, A)], for `learners.ppo`."""

    def loss(log_prob: jax.Array, batch: Batch) -> jax.Array:
        log_prob, old, advantage = tree.masked((log_prob, batch.log_prob, batch.advantage), batch.mask)
        log_ratio = log_prob - old
        ratio = losses.likelihood_ratio(log_ratio)
        gained = ratio * advantage - drift(eta, log_ratio, advantage, clip_eps)
        if clip_eps is not None:  # far out this is the difference of two huge numbers: written as what it comes to
            clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps) * advantage
            kept = jnp.minimum(ratio * advantage, clipped)
            net = _network(eta, log_ratio, ratio, advantage) - MARGIN
            gained = jnp.where(log_ratio > losses.FAR, jnp.minimum(ratio * advantage, kept - net), gained)
        return -losses.masked_mean(gained, batch.mask)

    return loss


@takes_options(learners.ppo, without=("surrogate", "adapts", "proximal_coef", *NOT_IN_STREAMS))
def lpo(
    policy: Policy,
    lr: Annotated[Rate, "step size of the agents"] = 1e-3,
    *,
    width: Annotated[Width, "units of the drift network"] = 128,
    clip_eps: Annotated[Rate | None, "clip of the PPO that the drift begins at; null: it begins at random"] = 0.2,
    num_epochs: Annotated[Positive, "passes over the data an update"] = 4,
    num_minibatches: Annotated[Positive, "parts of each pass; must divide num_envs x num_steps"] = 4,
    entropy_coef: Annotated[NonNegative, "weight of the entropy bonus of the agents"] = 0.01,
    max_grad_norm: Annotated[Rate | None, "bound on the norm of an agent's gradient; null: none"] = 0.5,
    optimizer: Annotated[learners.OptimizerName, "optimiser of the agents"] = "adam",
    **options: Any,
) -> Rule:
    r"""PPO with a learned drift in the place of its clip.

    .. math::

        L(\theta; \eta) = -\hat{\mathbb{E}} \left[ \rho A - f_\eta(\rho, A) \right], \quad f_\eta \ge 0

    The rule whose numbers are a drift network of `width` units, for `learn_rule` or `evolve_rule`.

    Args:
        policy: of the agents, with a critic.
    Raises: ValueError for updates of one step, at which the ratio is 1 and the drift 0.
    Where the drift is 0 it has no slope: a network that is nowhere above `MARGIN` cannot be learned by gradients.
    """

    if num_epochs * num_minibatches == 1:
        raise ValueError(
            "num_epochs = 1 with num_minibatches = 1: the ratio is 1 and the drift 0; make more steps an update"
        )
    fixed = {
        "num_epochs": num_epochs, "num_minibatches": num_minibatches, "entropy_coef": entropy_coef,
        "max_grad_norm": max_grad_norm, **options,
    }  # fmt: skip

    def learner(eta: Params) -> Learner:
        step = learners.optimizer_of(optimizer, lr)
        return learners.ppo(policy, surrogate=surrogate(eta, clip_eps), optimizer=step, **fixed)

    scale = 1.0 if clip_eps is None else 0.0
    return Rule(lambda key: init_drift(key, width, scale), learner, policy)


# --- as a configuration ---------------------------------------------------------------------------------

OPTIONS = Part(lpo)
PPO_OPTIONS = [n for n in options_of(lpo) if n not in ("width", "lr", "optimizer")]


def _start(
    start: Annotated[Literal["clip", "random"], "the drift to begin at: PPO's, or a random one"] = "clip",
    clip_eps: Annotated[Rate, "PPO clip of the agents that the drift begins at, and of the PPO beside it"] = 0.2,
) -> None:
    """Keys of the configuration that say where the drift begins."""


def make_rule(c: Any, env: Any) -> tuple[Rule, Policy]:
    """The rule that a configuration names, and the policy of its agents."""
    policy = SEEN_NORMALIZED(c, build_policy(c, env, critic=True), env)
    return OPTIONS(c, policy, clip_eps=c.clip_eps if c.start == "clip" else None), policy


def make_rival(c: Any, env: Any, policy: Policy) -> tuple[str, Rule]:
    """PPO."""
    return beside(policy, "ppo", rival_step(c), **{name: getattr(c, name) for name in PPO_OPTIONS})


ENTRY: Entry = rule_entry(
    "lpo",
    "PPO with a learned drift in the place of its clip.",
    make_rule,
    make_rival,
    *network_part(),
    SEEN_NORMALIZED,
    Part(_start),
    Part(lpo, [name for name in OPTIONS.keys if name != "clip_eps"]),
)
