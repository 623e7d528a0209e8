"""The data that flows through the library, and the bundles of functions that act on it.

Data are `flax.struct` dataclasses (arrays only, so they can be batched, sharded and checkpointed).
Bundles are `NamedTuple`s of pure functions, as in optax; they never enter a compiled program as data.

Shape letters: K inner updates, T time, B parallel episodes (environments), N = T * B.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Num, Shaped

Params = Any  # a pytree of arrays
Task = Any  # a gymnax EnvParams, or any other pytree that says what the task is
# What a step reports, by name. A mean over things of which there may be none, such as the episodes that ended, is
# infinite where there were none: null in metrics.jsonl. NaN would say so too, but 0 / 0 stops `jax_debug_nans`.
Metrics = dict[str, Any]


@struct.dataclass
class Rollout:
    """What one policy did in one task; every leaf is behind a stop-gradient."""

    observation: Num[Array, "T B *obs"]  # what the policy saw
    action: Num[Array, "T B *act"]  # what it did
    log_prob: Float[Array, "T B"]  # under the policy that acted
    reward: Float[Array, "T B"]  # of the step
    terminated: Bool[Array, "T B"]  # the task ended here, so the value of what follows is 0
    truncated: Bool[Array, "T B"]  # only the clock ended it, so bootstrap from next_observation
    next_observation: Num[Array, "T B *obs"]  # what the step led to, before any reset
    mask: Float[Array, "T B"]  # 1 for real steps, 0 after the end of an episode
    episode_return: Float[Array, "T B"]  # undiscounted return of the current episode up to this step
    episode_length: Int[Array, "T B"]  # steps of the current episode up to this step
    distribution: Any = None  # leaves [T, B, ...] of the distribution that the action was drawn from
    reports: Any = None  # {name: bool [T, B]}: what the environment reports of the current episode up to this step
    earlier_return: Any = None  # [B] discounted return, before the first step, of an episode under way; None: 0

    @property
    def done(self) -> Bool[Array, "T B"]:
        """An episode ends with this step, for either reason."""
        return self.terminated | self.truncated


@struct.dataclass
class Batch:
    """What a policy-gradient loss sees: *n is T, B, or N once shuffled into minibatches."""

    observation: Num[Array, "..."]  # [*n, *obs]
    action: Num[Array, "..."]  # [*n, *act]
    log_prob: Float[Array, "*n"]  # under the policy that acted: the denominator of every likelihood ratio
    advantage: Float[Array, "*n"]  # what the loss weighs log-probabilities or ratios by
    value: Float[Array, "*n"]  # the baseline at sampling time
    target: Float[Array, "*n"]  # regression target of the critic
    discounted_reward: Float[Array, "*n"]  # gamma^t r_t, for DiCE
    discounted_value: Float[Array, "*n"]  # gamma^t V(s_t), for DiCE's baseline
    mask: Float[Array, "*n"]  # 1 for real steps
    distribution: Any = None  # leaves of the distribution that acted: what a KL penalty or trust region stays near
    running_return: Any = None  # [*n] R_t = r_t + gamma R_{t-1} of the environment's rewards, where they are normalised


@struct.dataclass
class Trial:
    """All data of one task: what each inner update saw, and what the adapted learner met."""

    inner: Any  # pytree with leading axis K
    outer: Any  # pytree without it
    keys: Shaped[Array, "K"]  # the inner updates' own randomness (minibatch shuffles), part of the data
    credit: Any = None  # [] how good the outcome was beside the other tasks', or None: pays for exploration (E-MAML)
    reports: Any = None  # {name: share of episodes [K + 1]}: `rollout.report_rates` before and after each update
    faults: Any = None  # leaves [K + 1]: `rollout.faulty_steps` before and after each update, where there were rollouts


@struct.dataclass
class LearnerState:
    """An agent inside a task.

    Attributes:
      params: its parameters.
      opt_state: of its optimiser.
      memory: what it has learned by acting: the state of a recurrent network or of a cache (RL2), a belief (VariBAD).
        None for agents that learn by updates.
    """

    params: Params
    opt_state: Any
    memory: Any = None


class Policy(NamedTuple):
    """A network as pure functions. `value` is None for a policy without a critic.

    A policy with a memory reads whole trials in `apply`, `value` and `joint`, observation [T, B, obs] from the start of
    a trial, and has two functions more: what it remembers at the start, and one step of acting. `features` is what the
    network makes of an observation before it reads it (one-hot where the space is discrete, see `envs.observations`;
    normalised where that is asked for), which is what a linear baseline reads too; None: the observation's own numbers.
    """

    init: Callable[[jax.Array], Params]  # key -> params
    apply: Callable[[Params, jax.Array], Any]  # params, observation [..., obs] -> distrax distribution
    value: Callable[[Params, jax.Array], jax.Array] | None = None  # params, observation [..., obs] -> V [...]
    joint: Callable[[Params, jax.Array], tuple[Any, jax.Array]] | None = None  # both at once, where they share layers
    remember: Callable[[int], Any] | None = None  # number of streams B -> memory at the start of a trial, [B, ...]
    step: Callable[[Params, Any, jax.Array], tuple[Any, Any]] | None = None  # memory, [B, obs] -> memory, distribution
    features: Callable[[Params, jax.Array], jax.Array] | None = None  # params, [..., *obs] -> [..., D]


class Learner(NamedTuple):
    """An inner learner: how data from one task changes an agent.

    Attributes:
      init: meta -> state.
      prepare: (state, data) -> batch, in which nothing depends differentiably on `state`.
      update: (state, key, batch, differentiation="reverse") -> (state, metrics), differentiable in `state`, where
        `differentiation` is handed to `gradient.value_and_grad`.
      loss: (params, anchor, batch) -> what an update from `anchor` descends to its minimum: implicit differentiation
        needs it.
      check: (num_steps, num_streams, *names); raises ValueError for data of a size that does not fit, so that a
        constructor can refuse it before anything is traced.
      on_policy: name of a surrogate without a likelihood ratio, whose updates are right only from the parameters that
        sampled.
      check_second_order: () raises ValueError where an update has no derivative to second order, such as by its
        optimiser.
    """

    init: Callable[[Params], LearnerState]
    prepare: Callable[[LearnerState, Any], Any]
    update: Callable[..., tuple[LearnerState, Metrics]]
    loss: Callable[[Params, Params, Any], jax.Array] | None = None
    check: Callable[..., None] | None = None
    on_policy: str | None = None
    check_second_order: Callable[[], None] | None = None


class Algorithm(NamedTuple):
    """Anything that trains."""

    init: Callable[[jax.Array], Any]  # key -> state
    step: Callable[[Any, jax.Array], tuple[Any, Metrics]]  # (state, key) -> (state, metrics), a scan body


class MetaLearner(NamedTuple):
    """An `Algorithm` that learns how to adapt, with the parts of its step open to use and to test."""

    init: Callable[[jax.Array], Any]  # key -> state
    step: Callable[[Any, jax.Array], tuple[Any, Metrics]]  # (state, key) -> (state, metrics), a scan body
    collect: Callable[..., tuple[Trial, jax.Array]]  # (params, key, task, num_updates=K) -> trial, scores
    adapt: Callable[[Params, Trial], LearnerState]  # deterministic and differentiable in params
    meta_loss: Callable[[Params, Trial], jax.Array]  # jax.grad goes through adapt
    meta_gradient: Callable[[Params, Trial], tuple[jax.Array, Params]]  # (loss, gradient) as `step` takes them


@struct.dataclass
class MetaState:
    """State of a `MetaLearner`: what is meta-learned, and its optimiser."""

    params: Params  # what is meta-learned
    opt_state: Any  # of its optimiser
