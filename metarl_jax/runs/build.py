"""A validated configuration -> the functions that it names."""

import dataclasses
from typing import Any

import jax
import optax

from metarl_jax import envs
from metarl_jax.algorithms.anil import anil
from metarl_jax.algorithms.cavia import cavia
from metarl_jax.algorithms.e_maml import e_maml
from metarl_jax.algorithms.imaml import imaml
from metarl_jax.algorithms.maml import maml
from metarl_jax.algorithms.maml_trpo import maml_trpo
from metarl_jax.algorithms.meta_gradient_rl import meta_gradient_rl
from metarl_jax.algorithms.meta_sgd import meta_sgd
from metarl_jax.algorithms.ppo import ppo
from metarl_jax.algorithms.promp import promp
from metarl_jax.algorithms.reptile import reptile
from metarl_jax.algorithms.rl2 import rl2
from metarl_jax.algorithms.rule_config import RuleConfig
from metarl_jax.algorithms.schemas import (
    Config,
    GradientConfig,
    MAMLConfig,
    MetaGradientRLConfig,
    PPOConfig,
    SupervisedMAMLConfig,
)
from metarl_jax.algorithms.supervised_maml import few_shot, supervised_maml
from metarl_jax.algorithms.trial_config import TrialConfig
from metarl_jax.algorithms.varibad import condition_size, varibad
from metarl_jax.envs.trial import trials
from metarl_jax.meta import differentiation
from metarl_jax.meta.hyperparameters import Tuned
from metarl_jax.networks import belief_network, feature_policy, mlp_policy, recurrent_policy, transformer_policy
from metarl_jax.networks.belief import Belief
from metarl_jax.options import ConfigError
from metarl_jax.rl import learners
from metarl_jax.runs.rule_build import make_algorithm, make_lives, make_rival, make_rule, work
from metarl_jax.types import Params
from metarl_jax.update_rules.lifetimes import with_outer_critic


@dataclasses.dataclass(frozen=True)
class Job:
    """What a configuration comes to."""

    config: Config
    algorithm: Any  # Algorithm or MetaLearner
    env: Any
    tasks: Any  # the TaskDistribution; its halves are for training and for evaluation
    horizon: int
    work_per_iteration: int  # environment steps, or labelled examples
    unit: str
    score: str  # the metric to watch
    higher_is_better: bool = True
    policy: Any = None  # Policy, for reinforcement learning
    lives: dict[str, Any] = dataclasses.field(default_factory=dict)  # of a learned rule: "run", and what it is beside

    def params(self, state: Any) -> Params:
        """What was learned, out of a training state (Meta-SGD: with its step sizes)."""
        return state.params if hasattr(state, "params") else state.learner.params

    def evaluation_tasks(self, num_tasks: int) -> Any:
        """The fixed held-out tasks that `task_seed` names, stacked; for PPO, the task that it trains on."""
        c, seed = self.config, self.config.task_seed
        if isinstance(c, PPOConfig):
            return jax.tree.map(lambda x: x[None], _ppo_task(c, self.tasks))
        tasks = self.tasks.evaluation_tasks(num_tasks, seed)
        if not isinstance(c, SupervisedMAMLConfig):
            return tasks
        keys = jax.random.split(jax.random.key(seed), num_tasks)
        return jax.vmap(lambda key, task: few_shot(self.env, lambda _: task, c.shots)(key))(keys, tasks)


def build(config: Config, evaluation: bool = False) -> Job:
    """Make the environment, the tasks, the networks and the algorithm of `config`; compiles nothing.

    With `evaluation`, keys that are about evaluation only (`eval_later_lr_scale`) are at work.

    Raises: ConfigError, one line, for what only the environment can tell to be wrong.
    """
    try:
        try:
            env, tasks = envs.make(config.env, **config.env_options)
        except (TypeError, AttributeError, OSError) as error:
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"env = {config.env!r} with env_options = {config.env_options}: {message}") from None
        supervised = not hasattr(env, "step_env")
        if supervised != isinstance(config, SupervisedMAMLConfig):
            kind = "labelled examples" if supervised else "a reinforcement-learning environment"
            raise ConfigError(f"env = {config.env!r}: is {kind}, which algorithm {config.algorithm} cannot train on")
        if isinstance(config, GradientConfig):
            return _gradient_based(config, env, tasks, evaluation)
        if isinstance(config, MetaGradientRLConfig):
            return _meta_gradient_rl(config, env, tasks)
        if isinstance(config, PPOConfig):
            return _ppo(config, env, tasks)
        if isinstance(config, TrialConfig):
            return _trials(config, env, tasks)
        if isinstance(config, RuleConfig):
            return _rule(config, env, tasks)
        return _supervised(config, env, tasks)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _gradient_based(c: Any, env: Any, tasks: Any, evaluation: bool) -> Job:
    horizon = c.horizon or tasks.horizon
    samples = horizon * c.episodes_per_task
    policy = mlp_policy(
        env,
        c.hidden,
        c.activation,
        critic=c.baseline == "critic",
        init_std=c.init_std,
        context_size=getattr(c, "context_size", 0),
    )
    train, _ = tasks.split(c.task_seed)
    algorithm = _ALGORITHMS[c.algorithm](c, env, train, policy, horizon, samples, evaluation)
    work = c.meta_batch_size * samples * (c.num_inner_steps + 1)
    score = f"return_{c.num_inner_steps}"
    return Job(c, algorithm, env, tasks, horizon, work, "steps", score, policy=policy)


def _inner_options(c: Any) -> dict[str, Any]:
    names = (
        "dice_lambda", "gamma", "gae_lambda", "baseline", "normalize_advantage", "target_return", "entropy_coef",
        "value_coef",
    )  # fmt: skip
    return {"num_microbatches": c.inner_microbatches, **{name: getattr(c, name) for name in names}}


def _options(c: Any, horizon: int) -> dict[str, Any]:
    """What every algorithm of the family takes."""
    names = ("num_inner_steps", "meta_batch_size", "episodes_per_task", "tasks_per_batch", "value_coef")
    shared = {name: getattr(c, name) for name in names}
    return {
        **shared,
        "horizon": horizon,
        "exploration_coef": c.exploration_coef,
        "outer_dice_lambda": c.dice_lambda,
        "outer_entropy_coef": c.entropy_coef,
        "differentiation": _differentiation(c),
    }


def _adam(c: Any) -> dict[str, Any]:
    names = ("outer_lr", "outer_surrogate", "outer_clip_eps", "max_grad_norm")
    return {**{name: getattr(c, name) for name in names}, "num_outer_epochs": c.outer_epochs}


def _differentiation(c: Any) -> Any:
    if c.differentiation == "truncated":
        return differentiation.truncated(c.truncation_window)
    if c.differentiation == "implicit":
        return differentiation.implicit(c.cg_steps)
    if c.differentiation == "evolution":
        return differentiation.evolution(c.evolution_pairs, c.evolution_sigma)
    return c.differentiation


def _inner_lr(c: Any, evaluation: bool, steps_per_update: int = 1) -> Any:
    """The inner step size; at evaluation that of the updates after the first may be scaled."""
    if not evaluation or c.eval_later_lr_scale == 1:
        return c.inner_lr
    return optax.piecewise_constant_schedule(c.inner_lr, {steps_per_update: c.eval_later_lr_scale})


def _maml(c: MAMLConfig, env: Any, train: Any, policy: Any, horizon: int, samples: int, evaluation: bool) -> Any:
    if samples % c.inner_minibatches:
        raise ConfigError(f"inner_minibatches = {c.inner_minibatches}: must divide episodes x horizon = {samples}")
    learner = learners.ppo(
        policy,
        _inner_lr(c, evaluation, c.inner_epochs * c.inner_minibatches),
        surrogate=c.inner_surrogate,
        num_epochs=c.inner_epochs,
        num_minibatches=c.inner_minibatches,
        clip_eps=c.inner_clip_eps,
        **_inner_options(c),
    )
    return maml(env, train, policy, learner, **_options(c, horizon), **_adam(c))


def _simple(make: Any, *names: str, adam: bool = True, surrogate: bool = True) -> Any:
    """A builder for the algorithms that make their inner learner themselves; `names` are their own keys."""

    def build_one(c: Any, env: Any, train: Any, policy: Any, horizon: int, samples: int, evaluation: bool) -> Any:
        options = {**_options(c, horizon), **(_adam(c) if adam else {}), **{name: getattr(c, name) for name in names}}
        if surrogate:
            options["inner_surrogate"] = c.inner_surrogate
        lr = _inner_lr(c, evaluation, getattr(c, "num_proximal_steps", 1))
        return make(env, train, policy, lr, inner_options=_inner_options(c), **options)

    return build_one


_TRUST_REGION = ("max_kl", "cg_steps", "cg_damping", "fisher_tasks", "line_search_steps", "backtrack")
_ALGORITHMS = {
    "maml": _maml,
    "maml_trpo": _simple(maml_trpo, *_TRUST_REGION, adam=False),
    "promp": _simple(promp, "kl_coef", "kl_target", surrogate=False),
    "e_maml": _simple(e_maml),
    "reptile": _simple(reptile, "outer_lr", adam=False),
    "anil": _simple(anil, "head"),
    "meta_sgd": _simple(meta_sgd),
    "cavia": _simple(cavia, "context_size"),
    "imaml": _simple(imaml, "proximal_strength", "num_proximal_steps", "cg_steps"),
}


def _ppo_task(c: PPOConfig, tasks: Any) -> Any:
    """The one task of a run of PPO: of a family, the one that `task_seed` names."""
    return tasks.sample(jax.random.fold_in(jax.random.key(c.task_seed), 2))


def _ppo(c: PPOConfig, env: Any, tasks: Any) -> Job:
    policy = mlp_policy(env, c.hidden, c.activation, critic=True, init_std=c.init_std)
    task = _ppo_task(c, tasks)
    algorithm = ppo(
        env,
        task,
        policy,
        lr=c.lr,
        num_envs=c.num_envs,
        num_steps=c.num_steps,
        num_iterations=c.num_iterations if c.anneal_lr else None,
        num_epochs=c.num_epochs,
        num_minibatches=c.num_minibatches,
        surrogate=c.surrogate,
        clip_eps=c.clip_eps,
        value_clip_eps=c.value_clip_eps,
        gamma=c.gamma,
        gae_lambda=c.gae_lambda,
        entropy_coef=c.entropy_coef,
        value_coef=c.value_coef,
        max_grad_norm=c.max_grad_norm,
    )
    work = c.num_envs * c.num_steps
    return Job(c, algorithm, env, tasks, tasks.horizon, work, "steps", "episode_return", policy=policy)


def _meta_gradient_rl(c: MetaGradientRLConfig, env: Any, tasks: Any) -> Job:
    network = mlp_policy(env, c.hidden, c.activation, critic=True, init_std=c.init_std)
    policy, critic = with_outer_critic(network, network, lr=c.lr) if c.outer_critic else (network, None)
    tunable = ("gamma", "gae_lambda", "lr", "entropy_coef", "value_coef", "policy_coef", "clip_eps")
    unit = ("gamma", "gae_lambda", "clip_eps")  # others have no upper end unless `ranges` says so
    tuned: dict[str, Tuned] = {}
    for name in c.tune:
        low, high = c.ranges.get(name, [0.0, 1.0 if name in unit else None])
        tuned[name] = Tuned(getattr(c, name), low or 0.0, high)
    own = (
        "objective", "num_inner_steps", "num_target_steps", "recent", "meta_hidden", "meta_lr", "meta_max_grad_norm",
        "num_envs", "num_steps",
        "surrogate", "num_epochs", "num_minibatches", "outer_gamma", "outer_gae_lambda", "outer_entropy_coef",
        "max_grad_norm", "value_clip_eps", *(name for name in tunable if name not in c.tune),
    )  # fmt: skip
    options: dict[str, Any] = {name: getattr(c, name) for name in own}
    algorithm = meta_gradient_rl(env, _ppo_task(c, tasks), policy, tuned, outer_critic=critic, **options)
    rollouts = c.num_inner_steps + (c.num_target_steps if c.objective == "bootstrapped" else 1)
    work = rollouts * c.num_envs * c.num_steps
    return Job(c, algorithm, env, tasks, tasks.horizon, work, "steps", "episode_return", policy=policy)


def _trials(c: Any, env: Any, tasks: Any) -> Job:
    env = trials(env, tasks, c.num_episodes, c.horizon)
    train, _ = tasks.split(c.task_seed)
    algorithm, policy = _MEMORIES[c.algorithm](c, env, train)
    work = c.meta_batch_size * c.trials_per_task * env.num_steps
    return Job(c, algorithm, env, tasks, env.num_steps, work, "steps", "trial_return", policy=policy)


def _trial_options(c: Any, *names: str) -> dict[str, Any]:
    """What every algorithm on trials takes, and its own `names`."""
    shared = (
        "meta_batch_size", "trials_per_task", "lr", "num_epochs", "clip_eps", "value_clip_eps",
        "gamma", "gae_lambda", "entropy_coef", "value_coef", "max_grad_norm", "normalize_advantage", "reward_scale",
    )  # fmt: skip
    options = {name: getattr(c, name) for name in (*shared, *names)}
    return {
        **options,
        "num_iterations": c.num_iterations if c.anneal_lr else None,
        "anneal_entropy": c.num_iterations if c.anneal_entropy else None,
    }


def _rl2(c: Any, env: Any, train: Any) -> tuple[Any, Any]:
    if c.network == "transformer":
        context = env.num_steps if c.context is None else c.context
        policy = transformer_policy(
            env, context, c.size, num_layers=c.num_layers, num_heads=c.num_heads, init_std=c.init_std
        )
    else:
        policy = recurrent_policy(
            env,
            c.size,
            cell=c.network,
            chunk=c.chunk,
            truncate=c.truncate,
            init_std=c.init_std,
            max_memory=env.num_steps if c.long_memory else None,
        )
    return rl2(env, train, policy, **_trial_options(c, "num_minibatches", "center_rewards")), policy


def belief_of(c: Any, env: Any) -> Belief:
    """The belief that a VariBAD configuration names, for the trials `env`."""
    return belief_network(
        env,
        condition_size(env, c.condition),
        latent_size=c.latent_size,
        hidden_size=c.encoder_size,
        decoder=c.decoder,
        decoder_hidden=c.decoder_hidden,
    )


def _varibad(c: Any, env: Any, train: Any) -> tuple[Any, Any]:
    policy = feature_policy(env, env.observation_size + 2 * c.latent_size, c.hidden, c.activation, init_std=c.init_std)
    belief = belief_of(c, env)
    own = ("num_minibatches", "condition", "kl_coef", "vae_lr", "num_vae_updates", "vae_batch_size", "num_elbo_terms")
    levels = None if c.reward_levels is None else (c.reward_levels[0], c.reward_levels[1])
    return varibad(env, train, policy, belief, reward_levels=levels, **_trial_options(c, *own)), policy


_MEMORIES = {"rl2": _rl2, "varibad": _varibad}


def _rule(c: RuleConfig, env: Any, tasks: Any) -> Job:
    train, _ = tasks.split(c.task_seed)
    rule, (name, rival) = make_rule(c, env), make_rival(c, env)
    lives = {"run": make_lives(c, env, tasks, rule), name: make_lives(c, env, tasks, rival)}
    algorithm, horizon = make_algorithm(c, env, train, rule), c.horizon or tasks.horizon
    return Job(c, algorithm, env, tasks, horizon, work(c), "steps", "late_return", policy=rule.policy, lives=lives)


def _supervised(c: SupervisedMAMLConfig, examples: Any, tasks: Any) -> Job:
    train, _ = tasks.split(c.task_seed)
    algorithm = supervised_maml(
        examples,
        train,
        hidden=c.hidden,
        activation=c.activation,
        init_std=c.init_std,
        shots=c.shots,
        queries=c.queries,
        inner_lr=c.inner_lr,
        outer_lr=c.outer_lr,
        num_inner_steps=c.num_inner_steps,
        meta_batch_size=c.meta_batch_size,
        differentiation=c.differentiation,
    )
    work = c.meta_batch_size * (c.shots + c.queries)
    score = f"mse_{c.num_inner_steps}"
    return Job(c, algorithm, examples, tasks, 1, work, "examples", score, higher_is_better=False)
