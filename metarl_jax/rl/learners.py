"""Inner learners: how experience changes an agent within a task. All but `regression` are `ppo` with other options.

`ppo` with one epoch and one minibatch is a plain policy-gradient step, so `policy_gradient` is that.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from metarl_jax import tree
from metarl_jax.gradient import value_and_grad
from metarl_jax.options import Positive, Rate, Unit, takes_options
from metarl_jax.rl.optimizers import OPTIMIZERS, OptimizerName, adam, annealed_adam, learned_sgd, optimizer_of, sgd
from metarl_jax.rl.ppo import SurrogateName, actor_critic_loss, ppo, prepare_batch
from metarl_jax.types import Learner, LearnerState, Metrics, Params, Policy

__all__ = [
    "OPTIMIZERS",
    "OptimizerName",
    "SurrogateName",
    "actor_critic_loss",
    "adam",
    "annealed_adam",
    "context",
    "head",
    "learned_sgd",
    "meta_sgd",
    "optimizer_of",
    "policy_gradient",
    "ppo",
    "prepare_batch",
    "proximal",
    "regression",
    "sgd",
    "squared_error",
]


@takes_options(ppo)
def policy_gradient(
    policy: Policy,
    lr: Annotated[Rate, "inner step size"] = 0.1,
    *,
    surrogate: Annotated[SurrogateName, "surrogate of the inner update"] = "lvc",
    num_epochs: Annotated[Positive, "passes over the data in one inner update"] = 1,
    num_minibatches: Annotated[Positive, "parts of each pass; must divide episodes x horizon"] = 1,
    clip_eps: Annotated[Rate, "PPO clip of the inner update"] = 0.3,
    gae_lambda: Annotated[Unit, "lambda of generalised advantage estimation"] = 1.0,
    baseline: Annotated[Literal["linear", "critic", "zero"], "baseline of the advantages"] = "linear",
    **options: Any,
) -> Learner:
    r"""One gradient step on a named surrogate: theta' = theta - lr * grad L(theta; tau).

    .. math::

        \theta' = \theta - \alpha \nabla_\theta L(\theta; \tau)

    The inner update of MAML (Finn et al. 2017) with "vpg", of ProMP (Rothfuss et al. 2018) with "lvc". It is `ppo` with
    other defaults: more epochs or minibatches make it several steps.
    """
    return ppo(
        policy,
        lr,
        surrogate=surrogate,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        clip_eps=clip_eps,
        gae_lambda=gae_lambda,
        baseline=baseline,
        **options,
    )


@takes_options(policy_gradient, without=("num_epochs", "num_minibatches"))
def proximal(
    policy: Policy,
    lr: Annotated[Rate, "inner step size"] = 0.1,
    *,
    strength: Annotated[Rate, "weight of the distance to the initial parameters"] = 2.0,
    num_steps: Annotated[Positive, "gradient steps on the inner problem"] = 16,
    **options: Any,
) -> Learner:
    r"""`num_steps` gradient steps towards argmin_p L(p; tau) + strength / 2 |p - theta|^2.

    .. math::

        \theta' = \arg\min_p \; L(p; \tau) + \frac{\lambda}{2} \lVert p - \theta \rVert^2

    The inner problem of iMAML (Rajeswaran et al. 2019, eq. 3), which `differentiation.implicit` differentiates. Steps
    converge where lr * (strength + curvature of L) < 2. Options are those of `policy_gradient`.
    """
    return policy_gradient(policy, lr, num_epochs=num_steps, proximal_coef=strength, **options)


@takes_options(policy_gradient, without=("num_epochs", "num_minibatches"))
def meta_sgd(policy: Policy, **options: Any) -> Learner:
    r"""theta' = theta - lr (.) grad L with a learned step size for every parameter (Meta-SGD, Li et al. 2017, eq. 2).

    .. math::

        \theta' = \theta - \alpha \odot \nabla_\theta L(\theta; \tau)

    What is meta-learned is {"params": theta, "lr": tree like theta}, which `algorithms.meta_sgd` starts.
    """
    learner = policy_gradient(policy, optimizer=learned_sgd(), **options)
    return learner._replace(init=lambda meta: LearnerState(meta["params"], meta["lr"]))


@takes_options(policy_gradient)
def context(
    policy: Policy,
    lr: Annotated[Rate, "inner step size"] = 1.0,
    *,
    size: Annotated[Positive, "numbers in the context"] = 2,
    **options: Any,
) -> Learner:
    r"""phi' = phi - lr grad_phi L, phi = 0 at the start of every task (CAVIA, Zintgraf et al. 2019, eq. 4).

    .. math::

        \phi' = \phi - \alpha \nabla_\phi L(\theta, \phi; \tau), \quad \phi = 0

    Only the context parameters `params["context"]` [size] move; the policy must read them, as
    `networks.mlp_policy(..., context_size=size)` does. Options are those of `policy_gradient`.
    """
    learner = policy_gradient(policy, lr, adapts=("context",), **options)

    def init(params: Params) -> LearnerState:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return learner.init({**params, "context": jnp.zeros(size, dtype)})

    return learner._replace(init=init)


@takes_options(policy_gradient)
def head(
    policy: Policy,
    lr: Annotated[Rate, "inner step size"] = 0.1,
    *,
    head: Annotated[Sequence[str], Field(min_length=1), "parameters or modules that adapt"] = ("output",),
    **options: Any,
) -> Learner:
    r"""head' = head - lr grad_head L(body, head; tau): only some parameters move (ANIL, Raghu et al. 2020).

    .. math::

        \theta'_{\text{head}} = \theta_{\text{head}} - \alpha
          \nabla_{\theta_{\text{head}}} L(\theta; \tau), \quad \theta'_{\text{body}} = \theta_{\text{body}}

    Args:
        head: names of parameters, or of the modules that hold them: "output" is the last layer of the networks here.
    Raises: ValueError for a name that no parameter has.
    """
    tree.select(jax.eval_shape(policy.init, jax.random.key(0)), head)  # a misspelt name is refused here
    return policy_gradient(policy, lr, adapts=tuple(head), **options)


def regression(apply: Callable[[Params, jax.Array], jax.Array], lr: Any = 0.01) -> Learner:
    r"""One gradient step on the mean squared error of labelled data {"x": [N, ...], "y": [N, ...]}.

    .. math::

        \theta' = \theta - \alpha \nabla_\theta \frac{1}{N} \sum_n \left( f_\theta(x_n) - y_n \right)^2
    """
    optimizer = sgd(lr)

    def objective(params: Params, data: dict[str, jax.Array]) -> tuple[jax.Array, Metrics]:
        return squared_error(apply, params, data), {}

    def update(
        state: LearnerState, key: jax.Array, data: dict[str, jax.Array], differentiation: str = "reverse"
    ) -> tuple[LearnerState, Metrics]:
        del key
        (value, _), grads = value_and_grad(objective, differentiation)(state.params, data)
        return LearnerState(*tree.optimizer_step(optimizer, grads, state.opt_state, state.params)), {"loss": value}

    return Learner(lambda params: LearnerState(params, optimizer.init(params)), lambda state, data: data, update)


def squared_error(apply: Callable, params: Params, data: dict[str, jax.Array]) -> jax.Array:
    """mean (f(x) - y)^2."""
    return jnp.mean(jnp.square(apply(params, data["x"]) - data["y"]))
