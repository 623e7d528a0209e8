"""Learned policy gradients: a network says what the policy and a prediction should move towards (LPG, Oh et al. 2020).

An agent has a policy pi and a prediction y(o), a categorical distribution over m outcomes whose meaning is up to the
rule. Backwards over a rollout, the rule reads (r, done, pi(a|o), phi(y(o)), phi(y(o'))) and says pi_hat and y_hat; the
agent descends

    mean [log pi(a|o) pi_hat] + c_y mean KL(y(o) || y_hat)

It knows neither observations nor actions, so that it can be taken to any environment with discrete actions.
"""

import dataclasses
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from metarl_jax import tree
from metarl_jax.algorithms.interface import Entry
from metarl_jax.algorithms.rule_family import beside, rival_step, rule_entry
from metarl_jax.gradient import check_differentiable, value_and_grad
from metarl_jax.networks import ENCODING, MLP, Categorical, encoder_of, mlp_policy, orthogonal
from metarl_jax.networks.encoder import Activation
from metarl_jax.options import (
    NonNegative,
    Part,
    Positive,
    Rate,
    Unit,
    Width,
    Widths,
    takes_options,
)
from metarl_jax.rl import learners, losses
from metarl_jax.types import Learner, LearnerState, Metrics, Params, Policy, Rollout
from metarl_jax.update_rules.lifetimes import Rule


class UpdateRule(nn.Module):
    """r, done [T, B], pi [T, B], y and y' [T, B, m] -> pi_hat [T, B], logits of y_hat [T, B, m]."""

    width: int  # of the GRU
    embedding: int  # of phi, to one number
    outcomes: int  # m

    @nn.compact
    def __call__(
        self, reward: jax.Array, done: jax.Array, terminated: jax.Array, pi: jax.Array, y: jax.Array, next_y: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        dtype = reward.dtype
        phi = MLP((self.embedding,), 1, "relu", name="phi")
        now, then = phi(y)[..., 0], jnp.where(terminated, 0.0, phi(next_y)[..., 0])
        x = jnp.stack([reward, done.astype(dtype), pi, now, then], axis=-1)
        cell = nn.GRUCell(self.width, dtype=dtype, param_dtype=dtype, name="gru")

        def back(cell: Any, carry: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
            x, done = at
            carry = jnp.where(done[:, None], jnp.zeros_like(carry), carry)  # nothing of the next episode
            return cell(carry, x)

        scan = nn.scan(back, variable_broadcast="params", split_rngs={"params": False}, reverse=True)
        _, features = scan(cell, jnp.zeros((*x.shape[1:-1], self.width), dtype), (x, done))
        features = nn.relu(features)
        outputs = nn.Dense(1 + self.outcomes, param_dtype=dtype, name="output")(features)
        return outputs[..., 0], outputs[..., 1:]


@struct.dataclass
class Directions:
    """What an update follows, [T, B, ...]."""

    observation: jax.Array
    action: jax.Array
    pi_hat: jax.Array  # [T, B]
    y_hat: jax.Array  # [T, B, m] logits
    mask: jax.Array


@takes_options(encoder_of, without=("space",))
def lpg(
    env: Any,
    lr: Annotated[Rate, "step size of the agents"] = 1e-3,
    *,
    hidden: Annotated[Widths, "hidden layer widths of the agents; [] is linear"] = (64, 64),
    activation: Annotated[Activation, "activation function"] = "tanh",
    outcomes: Annotated[Positive, "outcomes m of the agents' prediction"] = 8,
    width: Annotated[Width, "units of the rule's GRU"] = 64,
    embedding: Annotated[Width, "units that the rule embeds a prediction in"] = 16,
    prediction_coef: Annotated[NonNegative, "weight of the prediction's loss"] = 0.5,
    pi_hat_coef: Annotated[NonNegative, "weight of |pi_hat|^2 in the meta-loss"] = 5e-3,
    y_hat_coef: Annotated[NonNegative, "weight of |y_hat|^2 in the meta-loss"] = 1e-3,
    prediction_entropy_coef: Annotated[NonNegative, "weight of the prediction's entropy in the meta-loss"] = 1e-3,
    optimizer: Annotated[learners.OptimizerName, "optimiser of the agents"] = "adam",
    max_grad_norm: Annotated[Rate | None, "bound on the norm of an agent's gradient; null: none"] = 0.5,
    **encoding: Any,
) -> Rule:
    r"""A network that is the update: it says what policy and prediction move towards.

    .. math::

        L(\theta; \eta) = \hat{\mathbb{E}} \left[ \hat\pi_\eta \log \pi_\theta(a|o) + c_y \, \text{KL}
          \left( y_\theta(o) \,\Vert\, \hat y_\eta \right) \right]

    The rule whose numbers are an `UpdateRule`, for `learn_rule` (or `evolve_rule`).

    Args:
        hidden, activation: of the agents' actor and prediction, two MLPs; outcomes is m, prediction_coef c_y.
        width, embedding: of the rule's GRU and of phi.
        pi_hat_coef, y_hat_coef, prediction_entropy_coef: b2, b3, b1 of the meta-loss,
            b2 mean pi_hat^2 + b3 mean |y_hat|^2 - b1 mean H(y); its b0, the bonus on the policy's entropy, is
            `learn_rule`'s outer_entropy_coef.
    Not differentiated: the rule's inputs. Where a rollout ends within an episode the rule knows nothing of what follows
    but y(o').
    Raises: ValueError where actions are not discrete.
    """
    if not hasattr(env.action_space(env.default_params), "n"):
        raise ValueError(
            "lpg: reads the probabilities of actions, which must be one discrete number; use lpo, or another env"
        )
    actor, reads = mlp_policy(env, hidden, activation, **encoding), encoder_of(env, activation, **encoding)
    predictor = Categorical(outcomes, tuple(hidden), activation, reads)
    network = UpdateRule(width, embedding, outcomes)

    def init_agent(key: jax.Array) -> Params:
        first, second = jax.random.split(key)
        params = {"prediction": predictor.init(second, reads.nothing())["params"]}
        return {**actor.init(first), **orthogonal(second, params, {"prediction": 0.01})}

    def prediction(params: Params, observation: jax.Array) -> Any:
        return predictor.apply({"params": params["prediction"]}, observation)

    policy = Policy(init_agent, actor.apply, features=actor.features)

    def init(key: jax.Array) -> Params:
        one = jnp.zeros((1, 1))
        none, some = jnp.zeros((1, 1), bool), jnp.zeros((1, 1, outcomes))
        eta: Params = network.init(key, one, none, none, one, some, some)["params"]
        return eta

    def learner(eta: Params) -> Learner:
        given = step = learners.optimizer_of(optimizer, lr)
        if max_grad_norm is not None:
            step = optax.chain(tree.clip_by_global_norm(max_grad_norm), step)

        def begin(params: Params) -> LearnerState:
            return LearnerState(params, step.init(params))

        def prepare(state: LearnerState, rollout: Rollout) -> Directions:
            params = jax.lax.stop_gradient(state.params)
            names = ("reward", "log_prob", "observation", "next_observation")
            real = tree.finite_behind({name: getattr(rollout, name) for name in names}, rollout.mask)
            rollout = dataclasses.replace(rollout, **real)
            seen = (rollout.observation, rollout.next_observation)
            y, next_y = (jnp.exp(prediction(params, o).logits) for o in seen)
            inputs = (rollout.reward, rollout.done, rollout.terminated, jnp.exp(rollout.log_prob), y, next_y)
            told: Any = network.apply({"params": eta}, *inputs)
            pi_hat, y_hat = told
            return Directions(rollout.observation, rollout.action, pi_hat, y_hat, rollout.mask)

        def objective(params: Params, batch: Directions) -> tuple[jax.Array, Metrics]:
            batch = tree.one_row(batch)
            named = (batch.observation, batch.action, batch.pi_hat, batch.y_hat)
            observation, action, pi_hat, y_hat = tree.finite_behind(named, batch.mask)
            now = policy.apply(params, observation)
            with tree.usual_promotion():
                log_prob = now.log_prob(action)
            log_y = prediction(params, observation).logits  # distrax normalises them
            kl = jnp.sum(jnp.exp(log_y) * (log_y - jax.nn.log_softmax(y_hat)), axis=-1)
            towards = losses.masked_mean(log_prob * pi_hat, batch.mask)
            predicted = losses.masked_mean(kl, batch.mask)
            return towards + prediction_coef * predicted, {"policy_loss": towards, "prediction_kl": predicted}

        def update(
            state: LearnerState, key: jax.Array, batch: Directions, differentiation: str = "reverse"
        ) -> tuple[LearnerState, Metrics]:
            del key
            (value, metrics), grads = value_and_grad(objective, differentiation)(state.params, batch)
            moved, opt_state = tree.optimizer_step(step, grads, state.opt_state, state.params)
            return LearnerState(moved, opt_state), {"loss": value, **metrics}

        return Learner(begin, prepare, update, check=lambda: check_differentiable(given))

    def penalty(params: Params, batch: Directions) -> jax.Array:
        batch = tree.one_row(batch)
        y_hat = jax.nn.softmax(batch.y_hat)
        size = pi_hat_coef * jnp.square(batch.pi_hat) + y_hat_coef * jnp.sum(jnp.square(y_hat), axis=-1)
        spread = losses.entropy(prediction(params, tree.finite_behind(batch.observation, batch.mask)), batch.mask)
        return losses.masked_mean(size, batch.mask) - prediction_entropy_coef * spread

    return Rule(init, learner, policy, penalty)


# --- as a configuration ---------------------------------------------------------------------------------

OPTIONS = Part(lpg)


def _beside(
    init_std: Annotated[Rate, "initial standard deviation of a Gaussian policy"] = 1.0,
    gamma: Annotated[Unit, "discount of the A2C beside it"] = 0.99,
    gae_lambda: Annotated[Unit, "lambda of the A2C beside it"] = 0.95,
    entropy_coef: Annotated[NonNegative, "weight of the entropy bonus of the A2C beside it"] = 0.01,
    value_coef: Annotated[NonNegative, "weight of the critic's loss of the A2C beside it"] = 0.5,
) -> None:
    """Keys of the configuration: agents have no critic and no returns of their own; these are of what stands beside."""


A2C = Part(_beside, ("gamma", "gae_lambda", "entropy_coef", "value_coef"))


def make_rule(c: Any, env: Any) -> tuple[Rule, Policy]:
    """The rule that a configuration names, and a policy with a critic like that of its agents."""
    encoding = {name: getattr(c, name) for name in ENCODING}
    return OPTIONS(c, env), mlp_policy(env, c.hidden, c.activation, critic=True, init_std=c.init_std, **encoding)


def make_rival(c: Any, env: Any, policy: Policy) -> tuple[str, Rule]:
    """A2C."""
    once = {"num_epochs": 1, "num_minibatches": 1, "max_grad_norm": c.max_grad_norm}
    return beside(policy, "vpg", rival_step(c), **once, **A2C.values(c))


ENTRY: Entry = rule_entry(
    "lpg",
    "A network that is the update: it says what policy and prediction move towards.",
    make_rule,
    make_rival,
    OPTIONS,
    Part(_beside),
    gradient_defaults={"outer_entropy_coef": 0.05},  # b0 of the paper
)
