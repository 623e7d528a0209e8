"""VariBAD: a variational belief over tasks, and a policy that acts on the belief (Zintgraf et al. 2020)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from metarl_jax import sharing, tree
from metarl_jax.algorithms.interface import Entry
from metarl_jax.algorithms.trial_family import TrialOptions, trial_builder
from metarl_jax.envs.trial import episode_ends
from metarl_jax.networks import ENCODING, belief_network, feature_policy
from metarl_jax.networks.belief import Belief, with_belief
from metarl_jax.options import (
    NonNegative,
    Part,
    Positive,
    Rate,
    check_divides,
    configuration,
    takes_options,
)
from metarl_jax.rl import learners, normalize
from metarl_jax.rl.rollout import environment_metrics, faulty_steps
from metarl_jax.rl.trials import (
    annealed_ppo,
    check_num_updates,
    report_rates,
    sample_tasks,
    score_metrics,
    trial_rollout,
)
from metarl_jax.types import (
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

CONDITIONS = ("next_state", "state_action")


def condition_size(env: Any, condition: str) -> int:
    """Size of what the decoder is told beside z.

    Raises: ValueError for an unknown name.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"condition = {condition!r}: must be one of {', '.join(CONDITIONS)}")
    return env.observation_features[0] + (env.action_features[0] if condition == "state_action" else 0)


@takes_options(
    annealed_ppo, defaults={"lr": 7e-4, "num_epochs": 2, "clip_eps": 0.05, "gamma": 0.95, "gae_lambda": 0.95}
)
def varibad(
    env: Any,
    tasks: Any,
    policy: Policy,
    belief: Belief,
    *,
    condition: Annotated[
        Literal["next_state", "state_action"], "what a reward is decoded from beside the belief"
    ] = "next_state",
    reward_levels: Annotated[
        Sequence[float] | None, "[low, high] if the reward is one of two (Bernoulli); null: Gaussian"
    ] = None,
    kl_coef: Annotated[NonNegative, "weight of KL(belief || belief a step before)"] = 0.01,
    vae_lr: Annotated[Rate, "Adam step size of the encoder and the decoder"] = 1e-3,
    num_vae_updates: Annotated[Positive, "steps on the ELBO an iteration"] = 3,
    vae_batch_size: Annotated[Positive | None, "trials in each of them; null: all"] = None,
    num_elbo_terms: Annotated[Positive | None, "steps of a trial in each of them; null: all"] = None,
    meta_batch_size: Annotated[Positive, "tasks an iteration"] = 64,
    trials_per_task: Annotated[Positive, "trials of each of them"] = 1,
    num_iterations: int | None = None,
    anneal_lr: Annotated[bool, "anneal both step sizes linearly to 0"] = True,
    num_minibatches: Annotated[Positive, "parts of the steps in each pass"] = 4,
    **ppo: Any,
) -> MetaLearner:
    r"""A variational belief over tasks, and a policy that acts on it.

    PPO on (observation, belief), and a belief that is trained to predict the rewards of the whole trial.

    At step t the encoder gives q_t = N(mean_t, exp(log_var_t)) from the trial up to t. It maximises, averaged over t,

    .. math::

        \text{ELBO}_t = \mathbb{E}_{z \sim q_t} \left[ \sum_{j < T} \log p(r_j \,|\, c_j, z) \right]
          - \beta \, \text{KL} \left( q_t \,\Vert\, q_{t-1} \right), \quad q_{-1} = N(0, I)

    (Zintgraf et al. 2020, eq. 8), c_j being the `condition` and beta `kl_coef`: past and future are decoded from every
    belief. PPO's gradient does not reach the encoder, whose outputs are data to the policy.

    Args:
        env: `envs.trial.trials(...)`. policy: `networks.belief.feature_policy` on 2 latent_size numbers of the belief.
            belief: `networks.belief.belief_network` with `condition_size(env, condition)`; where states are
            one-hot, the decoder "table" learns what the decoder "mlp" does not in as many steps.
        condition: what the reward is decoded from beside z: "next_state" (the last step of an episode, after which the
            environment has been reset, is then left out) or "state_action".
        reward_levels: (low, high): the reward is one of the two, and p is Bernoulli; None: Gaussian of unit variance.
        num_vae_updates: Adam steps on the ELBO an iteration, each on `vae_batch_size` of this iteration's trials (None:
            all) and `num_elbo_terms` of their steps t, drawn anew (None: all). The authors keep a buffer of old trials
            instead; here an iteration gathers more of them at once.
        num_iterations: over so many iterations `anneal_lr` brings both step sizes linearly to 0, and `anneal_entropy`
            the entropy bonus; None: constant. A belief that keeps moving leaves the policy behind: it has learned to
            read the belief of before the last `num_vae_updates`.
        ppo: options of `rl.trials.annealed_ppo`; a minibatch is of single steps.
    Returns: a MetaLearner. `collect` scores each episode of a trial; `adapt` returns the belief (mean, log_var) at the
        trial's end as `LearnerState.memory`; `meta_loss` is minus the ELBO of a trial, each z at its mean.
    Step metrics: PPO's loss terms, `elbo`, `reward_log_prob` (a step's, mean over all pairs), `kl`, `trial_return`,
        and the mean return of the first and the last episode.
    Raises: ValueError for an unknown condition, minibatches that do not divide the steps, more ELBO terms than steps.
    """
    condition_size(env, condition)
    if condition == "next_state" and env.horizon == 1:
        raise ValueError(
            "condition = 'next_state': every step ends an episode, so none leads to a state; use 'state_action'"
        )
    num_trials, num_steps = meta_batch_size * trials_per_task, env.num_steps
    check_divides("num_minibatches", num_minibatches, num_trials * num_steps, "the number of steps")
    if reward_levels is not None and not (len(reward_levels) == 2 and reward_levels[0] < reward_levels[1]):
        raise ValueError(f"reward_levels = {list(reward_levels)}: must be [low, high] with low < high")
    for name, value, most in (
        ("num_elbo_terms", num_elbo_terms, num_steps),
        ("vae_batch_size", vae_batch_size, num_trials),
    ):
        if value is not None and value > most:
            what = "steps of a trial" if name == "num_elbo_terms" else "trials of an iteration"
            raise ValueError(f"{name} = {value}: must be at most the {most} {what}")
    learner, learner_at, _ = annealed_ppo(
        policy, num_iterations=num_iterations, anneal_lr=anneal_lr, num_minibatches=num_minibatches, **ppo
    )
    vae = learners.annealed_adam(
        vae_lr, None if num_iterations is None or not anneal_lr else num_iterations * num_vae_updates
    )

    features, act = _features(env), acting(env, policy, belief).step
    assert act is not None

    def for_policy(params: Params, data: Rollout) -> Rollout:
        """The trial as the policy saw it: beliefs in the place of the past."""
        encoded = sharing.map_columns(lambda x: belief.encode(params["belief"], x), data.observation)
        seen = features(data.observation, *encoded)
        following = jnp.concatenate([seen[1:], seen[-1:]])  # what follows the last step has no value
        return dataclasses.replace(data, observation=seen, next_observation=following)

    def negative_elbo(
        params: Params, noise: jax.Array | None, data: Rollout, terms: jax.Array, weight: jax.Array | None = None
    ) -> tuple[jax.Array, Metrics]:
        """-mean_t ELBO_t over trials [T, B] and the steps `terms` [E]; z is the mean where there is no noise [E, B, Z].

        `weight` [B] of the trials in the means; None: 1.
        The metrics are means over trials: of `elbo`, `kl`, `log_prob` (of all pairs) and `pairs` (their number).
        """
        mean, log_var = belief.encode(params, data.observation)  # [T, B, Z]
        z, std = mean[terms], jnp.exp(0.5 * log_var[terms])
        z = z if noise is None else z + std * noise
        size, state, done = env.observation_size, env.observation_features[1], env.action_features[1]
        if condition == "next_state":
            told, counts = state(data.next_observation[..., :size]), data.mask
            counts = tree.masked(counts, ~episode_ends(data.next_observation))
        else:
            action = data.next_observation[..., size : size + env.action_size]  # as the environment shows it
            told, counts = jnp.concatenate([state(data.observation[..., :size]), done(action)], -1), data.mask
        told, paid = tree.masked((told, data.reward), counts)
        predicted = belief.reward(params, z[:, None], told[None])  # [E, T, B]
        if reward_levels is None:
            log_prob = -0.5 * jnp.square(predicted - paid[None])
        else:
            is_high = jnp.broadcast_to(paid > sum(reward_levels) / 2, predicted.shape)
            log_prob = -optax.sigmoid_binary_cross_entropy(predicted, is_high.astype(predicted.dtype))
        log_prob = tree.masked(log_prob, jnp.broadcast_to(counts, log_prob.shape))
        predicted_rewards = jnp.sum(log_prob, axis=1)  # [E, B]
        kl = _sequential_kl(mean, log_var)[terms]  # [E, B]

        def average(x: jax.Array) -> jax.Array:
            return jnp.mean(x if weight is None else x * weight.astype(x.dtype))

        elbo = average(predicted_rewards - kl_coef * kl)
        log_prob, pairs = average(jnp.sum(log_prob, axis=(0, 1))), average(jnp.sum(counts, axis=0)) * terms.shape[0]
        return -elbo, {"elbo": elbo, "kl": average(kl), "log_prob": log_prob, "pairs": pairs}

    def elbo_gradient(params: Params, noise: jax.Array, data: Rollout, terms: jax.Array) -> tuple[Params, Metrics]:
        """Of `negative_elbo`; devices may share the trials."""
        gradient, shares = jax.grad(negative_elbo, has_aux=True), sharing.shares_of(data.mask.shape[1])
        if shares.sharing is None:
            return gradient(params, noise, data, terms)
        weight = None if shares.is_even else jnp.where(shares.counts(), shares.weight, 0.0)
        return shares.sharing.mean(gradient(params, *shares.part((noise, data), 1), terms, weight))

    def train_belief(params: Params, opt_state: Any, key: jax.Array, data: Rollout) -> tuple[Params, Any, Metrics]:
        def update(carry: tuple, key: jax.Array) -> tuple[tuple, Metrics]:
            params, opt_state = carry
            trial_key, term_key, z_key = jax.random.split(key, 3)
            some, terms = data, jnp.arange(num_steps)
            if vae_batch_size is not None:
                columns = jax.random.choice(trial_key, num_trials, (vae_batch_size,), replace=False)
                some = jax.tree.map(lambda x: x[:, columns], data)
            if num_elbo_terms is not None:
                terms = jax.random.choice(term_key, num_steps, (num_elbo_terms,), replace=False)
            shape = (terms.shape[0], some.mask.shape[1], belief.latent_size)
            grads, metrics = elbo_gradient(params, tree.draw(jax.random.normal, z_key, shape), some, terms)
            metrics["reward_log_prob"] = metrics.pop("log_prob") / metrics.pop("pairs")
            return tree.optimizer_step(vae, grads, opt_state, params), metrics

        (params, opt_state), metrics = jax.lax.scan(update, (params, opt_state), jax.random.split(key, num_vae_updates))
        return params, opt_state, tree.tree_mean(metrics)

    def init(key: jax.Array) -> MetaState:
        params = acting(env, policy, belief).init(key)
        return MetaState(params, (learner.init(params["policy"]).opt_state, vae.init(params["belief"])))

    def step(state: MetaState, key: jax.Array) -> tuple[MetaState, Metrics]:
        task_key, trial_key, update_key, vae_key = jax.random.split(key, 4)
        task = sample_tasks(tasks.sample, task_key, meta_batch_size, trials_per_task)
        data, scores = trial_rollout(
            env, act, belief.remember, state.params, trial_key, task, num_trials, one_task_each=True
        )
        acting = LearnerState(state.params["policy"], state.opt_state[0])
        batch = learner.prepare(acting, for_policy(state.params, data))
        acting, metrics = learner_at(acting.opt_state).update(acting, update_key, batch)
        believing, vae_state, more = train_belief(state.params["belief"], state.opt_state[1], vae_key, data)
        params = {"policy": normalize.fold(state.params["policy"], acting.params, batch), "belief": believing}
        finite, faulty = environment_metrics(faulty_steps(data))
        finite |= {"loss": jnp.isfinite(metrics["loss"] + more["elbo"]), "params": tree.finite(params)}
        return MetaState(params, (acting.opt_state, vae_state)), {
            **metrics,
            **more,
            **score_metrics(scores, data),
            "finite": finite,
            "faulty_step": faulty,
        }

    def collect(params: Params, key: jax.Array, task: Task, num_updates: int | None = None) -> tuple[Trial, jax.Array]:
        check_num_updates(env, num_updates)
        data, scores = trial_rollout(env, act, belief.remember, params, key, task, trials_per_task)
        return Trial(None, data, jnp.zeros(0), reports=report_rates(data, env.num_episodes)), scores

    def adapt(params: Params, trial: Trial) -> LearnerState:
        mean, log_var = belief.encode(params["belief"], trial.outer.observation)
        return LearnerState(params, None, (mean[-1], log_var[-1]))

    def meta_loss(params: Params, trial: Trial) -> jax.Array:
        return negative_elbo(params["belief"], None, trial.outer, jnp.arange(num_steps))[0]

    def meta_gradient(params: Params, trial: Trial) -> tuple[jax.Array, Params]:
        return jax.value_and_grad(meta_loss)(params, trial)

    return MetaLearner(init, step, collect, adapt, meta_loss, meta_gradient)


def _features(env: Any) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """What the policy reads: the observation proper and the belief (mean, log_var), behind a stop-gradient."""

    def features(observation: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        return jax.lax.stop_gradient(jnp.concatenate([observation[..., : env.observation_size], mean, log_var], -1))

    return features


def acting(env: Any, policy: Policy, belief: Belief) -> Policy:
    """Policy and belief as one policy with a memory, on parameters {"policy": ..., "belief": ...}."""
    features = _features(env)

    def init(key: jax.Array) -> Params:
        policy_key, belief_key = jax.random.split(key)
        return {"policy": policy.init(policy_key), "belief": belief.init(belief_key)}

    def apply(params: Params, observation: jax.Array) -> Any:
        encoded = belief.encode(params["belief"], observation)
        return policy.apply(params["policy"], features(observation, *encoded))

    def step(params: Params, memory: Any, observation: jax.Array) -> tuple[Any, Any]:
        memory, believed = belief.step(params["belief"], memory, observation)
        return memory, policy.apply(params["policy"], features(observation, *believed))

    return Policy(init, apply, remember=belief.remember, step=step)


def _sequential_kl(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """KL(q_t || q_{t-1}) in nats, [T, B], of diagonal Gaussians [T, B, Z]; q_{-1} = N(0, I)."""
    before_mean = jnp.concatenate([jnp.zeros_like(mean[:1]), mean[:-1]])
    before = jnp.concatenate([jnp.zeros_like(log_var[:1]), log_var[:-1]])
    terms = before - log_var - 1 + (jnp.exp(log_var) + jnp.square(mean - before_mean)) / jnp.exp(before)
    return 0.5 * jnp.sum(terms, axis=-1)


# --- as a configuration ---------------------------------------------------------------------------------

OPTIONS = Part(varibad)
POLICY = Part(feature_policy, ("hidden", "activation", "init_std", "min_std", "squash", *ENCODING))
BELIEF = Part(
    belief_network,
    {name: name for name in ("latent_size", "decoder", "decoder_hidden", *ENCODING)} | {"hidden_size": "encoder_size"},
)


def belief_of(c: Any, env: Any) -> Belief:
    """The belief that a configuration names, for the trials `env`."""
    return BELIEF(c, env, condition_size(env, c.condition))


def _make(c: Any, env: Any, train: Any, trials_per_task: int, num_minibatches: int) -> tuple[MetaLearner, Policy]:
    size = 2 * c.latent_size
    policy = normalize.NORMALIZED(c, POLICY(c, env, size), env, space=with_belief(env, size))
    sizes: dict[str, Any] = {"trials_per_task": trials_per_task, "num_minibatches": num_minibatches}
    if trials_per_task != c.trials_per_task:  # evaluation, at which nothing is trained
        sizes["vae_batch_size"] = None
    belief = belief_of(c, env)
    algorithm = OPTIONS(c, env, train, policy, belief, num_iterations=c.num_iterations, **sizes)
    return algorithm, acting(env, policy, belief)


ENTRY = Entry(
    configuration(
        "varibad_options",
        "A variational belief over tasks, and a policy that acts on it.",
        TrialOptions,
        OPTIONS,
        normalize.NORMALIZED,
        POLICY,
        BELIEF,
    ),
    trial_builder(_make),
)
