"""Meta-learners: collect a trial in every task, then improve what is meta-learned on the stored trials.

`meta_learner` is the frame of every gradient-based method; `policy_meta_learner` fits it to reinforcement learning.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax import sharing, tree
from metarl_jax.envs.protocol import tasks_at_a_time
from metarl_jax.meta import adaptation
from metarl_jax.meta.meta_gradient import MetaGradient, Way, resolve
from metarl_jax.meta.outer_update import Outer, Problem, gradient_steps
from metarl_jax.options import Count, Float, NonNegative, Positive, Rate, Unit, is_given, is_zero, takes_options
from metarl_jax.rl import learners, losses, normalize, returns
from metarl_jax.rl.rollout import environment_metrics, episode_returns, first_fault, rollout
from metarl_jax.types import (
    Batch,
    Learner,
    LearnerState,
    MetaLearner,
    MetaState,
    Metrics,
    Params,
    Policy,
    Rollout,
    Task,
    Trial,
)


class Objective(NamedTuple):
    """The meta-loss of one task's trial.

    Attributes:
      after: (params, batch) -> (loss, metrics) of the adapted agent.
      during: (params, batch, credit) -> (loss, KL) of the agent before an inner update, on the data that it gathered.
      policy: (params, batch) -> the distribution of the adapted agent, for what needs its KL divergence.
    """

    after: Callable[[Params, Any], tuple[jax.Array, Metrics]]
    during: Callable[[Params, Any, Any], tuple[jax.Array, jax.Array]] | None = None
    policy: Callable[[Params, Any], Any] | None = None


def meta_learner(
    sample_task: Callable[[jax.Array], Task],
    sample: adaptation.Sample,
    learner: Learner,
    objective: Objective,
    init_params: Callable[[jax.Array], Params],
    *,
    num_inner_steps: int,
    meta_batch_size: int,
    outer: Outer,
    differentiation: str | MetaGradient = "mixed",
    estimate: Callable[[Params, Trial], tuple[jax.Array, Params]] | None = None,
    credit: Callable[[jax.Array], jax.Array] | None = None,
    fold: Callable[[Params, Params, Trial], Params] | None = None,
    tasks_per_batch: int | None = None,
    tasks_per_collection: int | None = None,
    score_name: str = "return",
) -> MetaLearner:
    r"""min_theta mean_i L(adapt(theta; trial_i); trial_i) over tasks i (Finn et al. 2017, eq. 1).

    .. math::

        \min_\theta \; \frac{1}{N} \sum_{i=1}^{N} L \left( \theta'_i; \tau'_i \right), \quad \theta'_i
          = U_K(\cdots U_1(\theta; \tau_{i,1}) \cdots; \tau_{i,K})

    A step samples `meta_batch_size` tasks, collects their trials with the current theta, and lets `outer` work on
    them; adaptation is replayed as often as it asks, the environment is not. Memory is that of `tasks_per_batch`
    tasks (None: one on a CPU, all elsewhere); trials of `tasks_per_collection` are collected at a time (None: as many).

    Args:
        differentiation: how the gradient gets through the inner updates, see `metarl_jax.meta.differentiation`.
        estimate: (params, trial) -> (loss, direction), in the place of the meta-gradient (Reptile).
        credit: scores [task, K + 1, episode] -> [task], stored in the trials for `objective.during`.
        fold: (params that gathered, params after the outer update, all trials) -> params, for statistics among them.
    """
    way = resolve(differentiation)
    way.check(learner, num_inner_steps)

    def total(replay: Callable, params: Params, trial: Trial, weights: Any = None) -> tuple[jax.Array, Metrics]:
        during = None
        if objective.during is not None:
            during = lambda p, b: objective.during(p, b, trial.credit)  # type: ignore[misc] # noqa: E731
        state, records = replay(learner, params, trial, during)
        loss, metrics = objective.after(state.params, trial.outer)
        if records is not None:
            extra, inner_kl = records  # [K], [K]
            loss = loss + jnp.sum(extra) + (0.0 if weights is None else jnp.sum(weights * inner_kl))
            metrics = {**metrics, "inner_kl": inner_kl}
        return loss, metrics

    def meta_loss(params: Params, trial: Trial) -> jax.Array:
        return total(way.replay, params, trial)[0]

    def gradient(params: Params, trial: Trial, weights: Any = None) -> tuple[tuple[jax.Array, Metrics], Params]:
        if estimate is not None:
            loss, direction = estimate(params, trial)
            return (loss, {}), direction
        return way.value_and_grad(lambda *x: total(way.replay, *x))(params, trial, weights)

    def meta_gradient(params: Params, trial: Trial) -> tuple[jax.Array, Params]:
        (loss, _), grads = gradient(params, trial)
        return loss, grads

    def fisher(params: Params, v: Params, trial: Trial) -> Params:
        judged = tree.one_row(trial.outer)

        def adapted(replay: Callable, p: Params) -> Any:
            return objective.policy(replay(learner, p, trial)[0].params, judged)  # type: ignore[misc]

        def divergence(new: Any) -> jax.Array:
            return losses.kl_divergence(judged.distribution, new, judged.mask)

        assert way.tangents is not None
        tangents = way.tangents
        point, tangent = jax.jvp(lambda p: adapted(tangents, p), (params,), (v,))
        _, cotangent = jax.jvp(jax.grad(divergence), (point,), (tangent,))
        return jax.vjp(lambda p: adapted(way.replay, p), params)[1](cotangent)[0]

    def adapt(params: Params, trial: Trial) -> LearnerState:
        return way.replay(learner, params, trial)[0]

    def collect(
        params: Params, key: jax.Array, task: Task, num_updates: int = num_inner_steps
    ) -> tuple[Trial, jax.Array]:
        return adaptation.collect(sample, learner, params, key, task, num_updates)

    def init(key: jax.Array) -> MetaState:
        params = init_params(key)
        return MetaState(params, outer.init(params))

    def collect_one(params: Params, key: jax.Array) -> tuple[Trial, jax.Array]:
        task_key, trial_key = jax.random.split(key)
        return collect(params, trial_key, sample_task(task_key))

    def step(state: MetaState, key: jax.Array) -> tuple[MetaState, Metrics]:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(meta_batch_size))
        size = tasks_per_batch if tasks_per_collection is None else tasks_per_collection
        shares = sharing.shares_of(meta_batch_size)  # trials stay on the device that has collected them
        trials, scores = shares.map(lambda k: collect_one(state.params, k), shares.part(keys), size)
        scores = shares.whole(scores)
        if credit is not None:
            trials = trials.replace(credit=shares.part(credit(scores)))

        def over_tasks(f: Callable, num_tasks: int | None = None) -> Any:
            if num_tasks is None or num_tasks >= meta_batch_size:
                return shares.mean(f, trials, tasks_per_batch)
            some = jax.tree.map(lambda x: x[:num_tasks], shares.whole(trials))
            return sharing.mean_over_tasks(f, some, tasks_per_batch)

        problem = Problem(
            value=lambda p, w: over_tasks(lambda trial: total(way.replay, p, trial, w)),
            value_and_grad=lambda p, w: over_tasks(lambda trial: gradient(p, trial, w)),
            fisher=lambda p, v, n=None: over_tasks(lambda trial: fisher(p, v, trial), n),
        )
        before, (state, metrics) = state.params, outer.update(state, problem)
        if fold is not None:
            state = MetaState(fold(before, state.params, shares.whole(trials)), state.opt_state)
        if trials.faults is not None:
            finite, metrics["faulty_step"] = environment_metrics(first_fault(shares.whole(trials.faults)))
            metrics["finite"] = {**finite, **metrics.get("finite", {})}
        per_update = scores.reshape(meta_batch_size, num_inner_steps + 1, -1).mean(axis=(0, 2))
        reports = jax.tree.map(lambda x: x.mean(axis=0), shares.whole(trials.reports or {}))
        named = {score_name: per_update, **reports}  # [K + 1] each
        updates = range(num_inner_steps + 1)
        return state, {**metrics, **{f"{name}_{k}": x[k] for name, x in named.items() for k in updates}}

    return MetaLearner(init, step, collect, adapt, meta_loss, meta_gradient)


@takes_options()
def policy_meta_learner(
    env: Any,
    tasks: Any,
    policy: Policy,
    inner: Learner,
    *,
    num_inner_steps: Annotated[Count, "inner updates K; 0 is multi-task training without adaptation"] = 1,
    meta_batch_size: Annotated[Positive, "tasks an iteration"] = 40,
    episodes_per_task: Annotated[Positive, "episodes a task, before and after each inner update"] = 20,
    horizon: Annotated[Positive | None, "steps an episode; null: the environment's own"] = None,
    outer: Outer | None = None,
    outer_lr: Annotated[Rate, "Adam step size of the outer update"] = 1e-3,
    num_outer_epochs: Annotated[Positive, "outer steps on each set of stored trials"] = 5,
    max_grad_norm: Annotated[Rate | None, "bound on the norm of the meta-gradient; null: none"] = None,
    outer_surrogate: Annotated[learners.SurrogateName, "surrogate of the meta-loss"] = "ppo",
    outer_clip_eps: Annotated[Rate, "PPO clip of the outer update"] = 0.3,
    outer_dice_lambda: Annotated[Unit, "lambda of loaded_dice in the meta-loss"] = 1.0,
    outer_entropy_coef: Annotated[NonNegative, "weight of the entropy bonus of the meta-loss"] = 0.0,
    value_coef: Annotated[NonNegative, "weight of the critic's loss"] = 0.5,
    exploration_coef: Annotated[NonNegative, "weight of E-MAML's sampling-dependence term"] = 0.0,
    inner_kl: bool = False,
    outer_kl: bool = False,
    differentiation: Annotated[Way, "how the meta-gradient gets through the inner updates"] = "mixed",
    tasks_per_batch: Annotated[
        Positive | None, "tasks processed at a time; null: one on a CPU, all on an accelerator"
    ] = None,
    tasks_per_collection: Annotated[
        Positive | None, "tasks acted in at a time; null: all where the environment calls the host, or tasks_per_batch"
    ] = None,
    init_params: Callable[[jax.Array], Params] | None = None,
    policy_at: str | None = None,
    estimate: Callable[[Params, Trial], tuple[jax.Array, Params]] | None = None,
) -> MetaLearner:
    """`meta_learner` whose data are episodes and whose losses are surrogates: the base of the policy-gradient family.

    Args:
        env: gymnax environment.
        tasks: `TaskDistribution`, or anything with `sample(key)` and `horizon`.
        inner: an inner learner, such as `mrl.inner.ppo(policy, ...)` or one's own.
        episodes_per_task: episodes before, and after, each inner update; each of `horizon` steps at most.
        outer: what works on the stored trials; None: Adam with `outer_lr`, `num_outer_epochs` times.
        outer_surrogate: on the data gathered after adaptation; with `num_outer_epochs > 1` use "ppo" or "lvc".
        exploration_coef: E-MAML's term, in units of the reference (Stadie et al. 2018): adds
            exploration_coef * sum_k surrogate(theta_k; tau_k) with the task's credit as every advantage, the credit
            being its post-update episode returns standardised over the meta-batch. With "vpg" that is
            -credit * mean log pi_theta_k(a|s). A Python 0 leaves it out of the program.
        inner_kl, outer_kl: have the objective measure KL(old || new) on the inner, the outer batches.
        init_params: what is meta-learned at the start; None: `policy.init`.
        policy_at: the name under which what is meta-learned holds the policy's parameters; None: it is those.
        tasks_per_batch: tasks differentiated at a time (None: one on a CPU, all on an accelerator).
        tasks_per_collection: tasks acted in at a time (None: all where the environment calls the host, as a call costs
            something however few its lanes; else as `tasks_per_batch`).
    Step metrics: loss, grad_norm, return_k after k inner updates (mean over tasks and episodes), and the outer's own.
    Not differentiated: sampling, advantages. Without `exploration_coef` the dependence of tau on theta through sampling
    enters only by the surrogates' likelihood ratios.
    """
    if not isinstance(inner, Learner):
        raise ValueError(f"inner = {inner!r}: must be a Learner, such as mrl.inner.policy_gradient(policy, lr=0.1)")
    if outer is None:
        check_epochs(num_outer_epochs, inner if num_inner_steps else None, outer_surrogate)
    if resolve(differentiation).name == "evolution" and normalize.statistics_in(policy):
        raise ValueError(
            "differentiation = evolution: perturbs every parameter, which running statistics are not to be; use mixed, "
            "or leave out normalize_observations and normalize_rewards"
        )
    explores = not is_zero(exploration_coef)
    if explores and losses.spec_of(outer_surrogate).needs_rewards:
        raise ValueError(
            f"exploration_coef = {exploration_coef}: needs an outer_surrogate of advantages, not {outer_surrogate}; "
            "use loaded_dice, lvc or ppo"
        )
    num_steps = tasks.horizon if horizon is None else horizon
    if inner.check is not None and num_inner_steps:
        inner.check(num_steps, episodes_per_task, "horizon", "episodes_per_task")
    surrogate = losses.surrogate(outer_surrogate, clip_eps=outer_clip_eps, dice_lambda=outer_dice_lambda)
    needs_time = losses.spec_of(outer_surrogate).needs_time
    outer_loss = learners.actor_critic_loss(
        policy,
        surrogate,
        value_coef=value_coef,
        entropy_coef=outer_entropy_coef,
        use_entropy=not is_zero(outer_entropy_coef),
        needs_time=needs_time,
    )

    def sample(params: Params, key: jax.Array, task: Task) -> tuple[Rollout, jax.Array]:
        data, _ = rollout(env, policy.apply, params, key, task, num_steps=num_steps, num_envs=episodes_per_task)
        return data, episode_returns(data)

    def fold(before: Params, after: Params, trials: Trial) -> Params:
        if policy_at is None:
            return normalize.fold(before, after, trials.inner, trials.outer)
        own = normalize.fold(before[policy_at], after[policy_at], trials.inner, trials.outer)
        return {**after, policy_at: own}

    def acting(params: Params, batch: Batch) -> Any:
        return policy.apply(params, tree.finite_behind(batch.observation, batch.mask))

    def after(params: Params, batch: Batch) -> tuple[jax.Array, Metrics]:
        batch = batch if needs_time else tree.one_row(batch)
        loss = outer_loss(params, batch)[0]
        if not outer_kl:
            return loss, {}
        return loss, {"kl": losses.kl_divergence(batch.distribution, acting(params, batch), batch.mask)}

    def during(params: Params, batch: Batch, credit: Any) -> tuple[jax.Array, jax.Array]:
        batch = batch if needs_time else tree.one_row(batch)
        observation, action = tree.finite_behind((batch.observation, batch.action), batch.mask)
        new = policy.apply(params, observation)
        kl = losses.kl_divergence(batch.distribution, new, batch.mask)
        if not explores:
            return jnp.zeros_like(kl), kl
        paid = dataclasses.replace(
            batch, advantage=jnp.zeros_like(batch.advantage) + (0.0 if credit is None else credit)
        )
        with tree.usual_promotion():
            log_prob = new.log_prob(action)
        return exploration_coef * surrogate(log_prob, paid), kl

    def standardised_outcome(scores: jax.Array) -> jax.Array:
        last = scores[:, -1]  # [task, episode]
        return returns.standardize(last, jnp.ones_like(last), eps=0.0).mean(axis=1)

    if outer is not None:
        ignored = (("outer_lr", outer_lr, 1e-3), ("num_outer_epochs", num_outer_epochs, 5))
        names = [name for name, value, default in ignored if is_given(value, default)]
        names += [] if max_grad_norm is None else ["max_grad_norm"]
        if names:
            raise ValueError(
                f"{', '.join(names)}: has no part beside outer, which brings its own; give it to what makes the outer "
                "optimiser, or leave outer out"
            )
    if outer is None:
        outer = gradient_steps(meta_optimizer(outer_lr, max_grad_norm), num_outer_epochs)
    return meta_learner(
        tasks.sample,
        sample,
        inner,
        Objective(after, during if explores or inner_kl else None, acting),
        policy.init if init_params is None else init_params,
        num_inner_steps=num_inner_steps,
        meta_batch_size=meta_batch_size,
        outer=outer,
        differentiation=differentiation,
        estimate=estimate,
        credit=standardised_outcome if explores else None,
        fold=fold,
        tasks_per_batch=tasks_per_batch,
        tasks_per_collection=tasks_at_a_time(env, meta_batch_size, tasks_per_collection),
    )


def check_epochs(num_outer_epochs: int, inner: Learner | None, outer_surrogate: str | losses.Surrogate) -> None:
    """Raises: ValueError for several outer steps on a loss, inside or outside, that holds for the first one only."""
    if num_outer_epochs > 1:
        outside = outer_surrogate if losses.spec_of(outer_surrogate).on_policy else None
        inside = None if inner is None else inner.on_policy
        for name, found in (("inner_surrogate", inside), ("outer_surrogate", outside)):
            if found is not None:
                raise ValueError(
                    f"num_outer_epochs = {num_outer_epochs}: must be 1 with {name} = {found}, which has no likelihood "
                    "ratio; use lvc or ppo"
                )


def meta_optimizer(lr: Float, max_grad_norm: Float | None) -> optax.GradientTransformation:
    """Adam, with the gradient's global norm clipped if a bound is given."""
    if max_grad_norm is None:
        return optax.adam(lr)
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(lr))
