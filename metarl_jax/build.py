"""A validated configuration -> the functions that it names."""

import dataclasses
from typing import Any

import jax

from metarl_jax import envs, inner
from metarl_jax.algorithms.maml import maml
from metarl_jax.algorithms.ppo import ppo
from metarl_jax.algorithms.supervised_maml import few_shot, supervised_maml
from metarl_jax.config import Config, ConfigError, MAMLConfig, PPOConfig, SupervisedMAMLConfig
from metarl_jax.networks import mlp_policy
from metarl_jax.types import Params


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

    def params(self, state: Any) -> Params:
        """What was learned, out of a training state."""
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


def build(config: Config) -> Job:
    """Make the environment, the tasks, the networks and the algorithm of `config`; compiles nothing.

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
        if isinstance(config, MAMLConfig):
            return _maml(config, env, tasks)
        if isinstance(config, PPOConfig):
            return _ppo(config, env, tasks)
        return _supervised(config, env, tasks)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _maml(c: MAMLConfig, env: Any, tasks: Any) -> Job:
    horizon = c.horizon or tasks.horizon
    samples = horizon * c.episodes_per_task
    if samples % c.inner_minibatches:
        raise ConfigError(f"inner_minibatches = {c.inner_minibatches}: must divide episodes x horizon = {samples}")
    critic = c.baseline == "critic"
    policy = mlp_policy(env, c.hidden, c.activation, critic=critic, init_std=c.init_std)
    learner = inner.ppo(
        policy,
        c.inner_lr,
        surrogate=c.inner_surrogate,
        num_epochs=c.inner_epochs,
        num_minibatches=c.inner_minibatches,
        clip_eps=c.inner_clip_eps,
        dice_lambda=c.dice_lambda,
        gamma=c.gamma,
        gae_lambda=c.gae_lambda,
        baseline=c.baseline,
        normalize_advantage=c.normalize_advantage,
        entropy_coef=c.entropy_coef,
        value_coef=c.value_coef,
        differentiation=c.differentiation,
    )
    train, _ = tasks.split(c.task_seed)
    algorithm = maml(
        env,
        train,
        policy,
        learner,
        num_inner_steps=c.num_inner_steps,
        meta_batch_size=c.meta_batch_size,
        episodes_per_task=c.episodes_per_task,
        horizon=horizon,
        outer_lr=c.outer_lr,
        num_outer_epochs=c.outer_epochs,
        outer_surrogate=c.outer_surrogate,
        outer_clip_eps=c.outer_clip_eps,
        outer_dice_lambda=c.dice_lambda,
        outer_entropy_coef=c.entropy_coef,
        value_coef=c.value_coef,
        max_grad_norm=c.max_grad_norm,
        tasks_per_batch=c.tasks_per_batch,
    )
    work = c.meta_batch_size * samples * (c.num_inner_steps + 1)
    score = f"return_{c.num_inner_steps}"
    return Job(c, algorithm, env, tasks, horizon, work, "steps", score, policy=policy)


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


def _supervised(c: SupervisedMAMLConfig, examples: Any, tasks: Any) -> Job:
    train, _ = tasks.split(c.task_seed)
    algorithm = supervised_maml(
        examples,
        train,
        hidden=c.hidden,
        activation=c.activation,
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
