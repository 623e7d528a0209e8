"""RL2: a policy with a memory learns to learn within a trial (Duan et al. 2016; Wang et al. 2016)."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from metarl_jax import tree
from metarl_jax.algorithms.interface import Entry
from metarl_jax.algorithms.trial_family import TrialOptions, trial_builder
from metarl_jax.networks import ENCODING, recurrent_policy, transformer_policy
from metarl_jax.networks.registry import ELSE, REGISTERED, call_own, check_of_ours, own_network
from metarl_jax.options import (
    ConfigError,
    Part,
    Positive,
    Width,
    configuration,
    one_of,
    takes_options,
)
from metarl_jax.rl import normalize
from metarl_jax.rl.rollout import environment_metrics, faulty_steps
from metarl_jax.rl.trials import (
    annealed_ppo,
    check_num_updates,
    report_rates,
    sample_tasks,
    score_metrics,
    trial_rollout,
)
from metarl_jax.types import Batch, LearnerState, MetaLearner, MetaState, Metrics, Params, Policy, Rollout, Task, Trial


@takes_options(annealed_ppo)
def rl2(
    env: Any,
    tasks: Any,
    policy: Policy,
    *,
    meta_batch_size: Annotated[Positive, "tasks an iteration"] = 256,
    trials_per_task: Annotated[Positive, "trials of each of them"] = 1,
    center_rewards: Annotated[
        bool, "learn from rewards less their mean over the iteration's trials at the same step"
    ] = False,
    **ppo: Any,
) -> MetaLearner:
    r"""A recurrent network or a transformer that learns in context.

    .. math::

        \max_\theta \; \mathbb{E}_{\text{task}} \, \mathbb{E} \left[ \sum_{t < T} \gamma^t r_t \right],
          \quad a_t \sim \pi_\theta(\cdot \,|\, o_0, a_0, r_0, \ldots, o_t)

    PPO on whole trials: max E[sum over the trial of gamma^t r_t] for a policy that sees all of the trial so far.

    Learning within a task is what the memory does; PPO's updates happen between trials only. Advantages run across
    the episodes of a trial (`envs.trial` terminates it at its end), so that the next episode pays for exploring in
    this one.

    Args:
        env: `envs.trial.trials(...)`.
        tasks: the distribution over the parameters of the environment in it.
        policy: with a memory, as `networks.recurrent_policy` or `networks.transformer_policy` make them.
        meta_batch_size: tasks an iteration, `trials_per_task` trials of each: together what PPO sees.
        center_rewards: PPO learns from rewards less their mean over the iteration's B trials at the same step. Where
            all trials are of one length that is a baseline: it scales the expected policy gradient by 1 - 1 / B, as a
            trial's own reward is in the mean. It takes the clock out of the critic's targets: what is left to predict
            is how this trial differs from others.
        ppo: options of `rl.trials.annealed_ppo`; a minibatch has all steps of its trials.
    Returns: a MetaLearner. `collect` scores each episode of a trial, [num_episodes, trials_per_task]; `adapt` returns
        the memory at the end of the trial, `LearnerState.memory`; `meta_loss` is PPO's loss on it.
    Step metrics: loss terms, `trial_return`, and the mean return of the first and the last episode.
    Raises: ValueError for a policy without a memory, and for minibatches that do not divide the trials.
    """
    if policy.step is None or policy.remember is None:
        raise ValueError("policy: has no memory; make one with networks.recurrent_policy or transformer_policy")
    num_trials = meta_batch_size * trials_per_task
    learner, learner_at, loss = annealed_ppo(policy, **ppo)
    assert learner.check is not None
    learner.check(env.num_steps, num_trials, streams="meta_batch_size * trials_per_task")
    remember, act = policy.remember, policy.step
    size = env.observation_space(env.default_params).shape
    jax.eval_shape(  # what a policy of the user's own cannot read is refused here
        lambda key: policy.apply(policy.init(key), jnp.zeros((env.num_steps, 1, *size))), jax.random.key(0)
    )

    def prepare(params: Params, data: Rollout) -> Batch:
        return learner.prepare(LearnerState(params, ()), data)

    def init(key: jax.Array) -> MetaState:
        state = learner.init(policy.init(key))
        return MetaState(state.params, state.opt_state)

    def step(state: MetaState, key: jax.Array) -> tuple[MetaState, Metrics]:
        task_key, trial_key, update_key = jax.random.split(key, 3)
        task = sample_tasks(tasks.sample, task_key, meta_batch_size, trials_per_task)
        data, scores = trial_rollout(env, act, remember, state.params, trial_key, task, num_trials, one_task_each=True)
        faults, reported = faulty_steps(data), score_metrics(scores, data)
        if center_rewards:
            centred = data.reward - data.reward.mean(axis=1, keepdims=True)
            data = dataclasses.replace(data, reward=tree.masked(centred, data.mask))
        batch = prepare(state.params, data)
        learned, metrics = learner_at(state.opt_state).update(
            LearnerState(state.params, state.opt_state), update_key, batch
        )
        params = normalize.fold(state.params, learned.params, batch)
        finite, faulty = environment_metrics(faults)
        finite |= {"loss": jnp.isfinite(metrics["loss"]), "params": tree.finite(params)}
        metrics = {**metrics, **reported, "finite": finite, "faulty_step": faulty}
        return MetaState(params, learned.opt_state), metrics

    def collect(params: Params, key: jax.Array, task: Task, num_updates: int | None = None) -> tuple[Trial, jax.Array]:
        check_num_updates(env, num_updates)
        data, scores = trial_rollout(env, act, remember, params, key, task, trials_per_task)
        return Trial(None, prepare(params, data), jnp.zeros(0), reports=report_rates(data, env.num_episodes)), scores

    def adapt(params: Params, trial: Trial) -> LearnerState:
        observation = trial.outer.observation

        def remember_one(memory: Any, seen: jax.Array) -> tuple[Any, None]:
            return act(params, memory, seen)[0], None

        memory, _ = jax.lax.scan(remember_one, remember(observation.shape[1]), observation)
        return LearnerState(params, None, memory)

    def meta_loss(params: Params, trial: Trial) -> jax.Array:
        return loss(params, trial.outer)

    def meta_gradient(params: Params, trial: Trial) -> tuple[jax.Array, Params]:
        return jax.value_and_grad(meta_loss)(params, trial)

    return MetaLearner(init, step, collect, adapt, meta_loss, meta_gradient)


# --- as a configuration ---------------------------------------------------------------------------------

OPTIONS = Part(rl2)
RECURRENT = Part(recurrent_policy, ("chunk", "truncate", "init_std", "min_std", "squash", *ENCODING))
OF_TRANSFORMERS = ("num_layers", "num_heads", "compute_dtype", "remat")
TRANSFORMER = Part(transformer_policy, (*OF_TRANSFORMERS, "init_std", "min_std", "squash", *ENCODING))

OURS = ("gru", "lstm", "transformer")


def _network(
    network: Annotated[Any, one_of(lambda: (*OURS, *REGISTERED), ELSE), "what remembers: ours, or your own"] = "gru",
    network_options: Annotated[dict[str, Any], "options of your own network"] = {},  # noqa: B006 (never changed)
    size: Annotated[Width, "hidden units, or the width of the transformer's residual stream"] = 64,
    long_memory: Annotated[bool, "gru, lstm: gates start by remembering, for up to a whole trial"] = False,
    context: Annotated[
        Positive | None, "transformer: steps that a layer attends to, a step itself included; null: a whole trial"
    ] = None,
) -> None:
    """Keys of the configuration that choose among networks with a memory."""


def make_policy(c: Any, env: Any) -> Policy:
    """The policy with a memory that a configuration names."""
    factory = own_network(c.network)
    if factory is not None:
        check_of_ours(c, ("size", *RECURRENT.keys.values(), *TRANSFORMER.keys.values()), " or ".join(OURS))
        return call_own(factory, c.network, env, **c.network_options)
    if c.network_options:
        raise ConfigError(f"network_options = {c.network_options}: are for a network of your own, not {c.network}")
    if c.network == "transformer":
        for key in ("chunk", "truncate", "long_memory"):
            if getattr(c, key):
                raise ConfigError(f"{key} = {getattr(c, key)}: is for gru and lstm; a transformer has no gates")
        return TRANSFORMER(c, env, env.num_steps if c.context is None else c.context, c.size)
    for key in (*OF_TRANSFORMERS, "context"):
        if getattr(c, key) != type(c).model_fields[key].default:
            raise ConfigError(f"{key} = {getattr(c, key)}: is for network = transformer, not {c.network}")
    memory = env.num_steps if c.long_memory else None
    return RECURRENT(c, env, c.size, cell=c.network, max_memory=memory)


def _make(c: Any, env: Any, train: Any, trials_per_task: int, num_minibatches: int) -> tuple[MetaLearner, Policy]:
    policy = normalize.NORMALIZED(c, make_policy(c, env), env)
    sizes = {"trials_per_task": trials_per_task, "num_minibatches": num_minibatches}
    return OPTIONS(c, env, train, policy, num_iterations=c.num_iterations, **sizes), policy


ENTRY = Entry(
    configuration(
        "rl2_options",
        "A recurrent network or a transformer that learns in context.",
        TrialOptions,
        OPTIONS,
        normalize.NORMALIZED,
        Part(_network),
        RECURRENT,
        TRANSFORMER,
    ),
    trial_builder(_make),
)
