"""A validated configuration of a learned rule -> the functions that it names, and what it is compared with."""

from typing import Any

from metarl_jax.algorithms.lirpg import lirpg
from metarl_jax.algorithms.lpg import lpg
from metarl_jax.algorithms.lpo import lpo
from metarl_jax.algorithms.rule_config import LIRPGConfig, LPGConfig, LPOConfig, RuleConfig
from metarl_jax.networks import mlp_policy
from metarl_jax.rl import learners
from metarl_jax.types import Policy
from metarl_jax.update_rules.by_evolution import evolve_rule
from metarl_jax.update_rules.by_gradient import learn_rule
from metarl_jax.update_rules.lifetimes import Lives, Rule, lives

OPTIMIZERS = {"adam": learners.adam, "sgd": learners.sgd}


def make_rule(c: RuleConfig, env: Any) -> Rule:
    """The rule that a configuration names, for agents in `env`."""
    optimizer = OPTIMIZERS[c.optimizer]
    if isinstance(c, LPGConfig):
        own = ("hidden", "activation", "outcomes", "width", "prediction_coef", "pi_hat_coef", "y_hat_coef")
        options = {name: getattr(c, name) for name in (*own, "prediction_entropy_coef", "max_grad_norm")}
        return lpg(env, c.lr, optimizer=optimizer, **options)
    policy = _actor_critic(c, env)
    options = _ppo_options(c)
    if isinstance(c, LPOConfig):
        clip_eps = c.clip_eps if c.start == "clip" else None
        return lpo(policy, c.lr, width=c.width, clip_eps=clip_eps, optimizer=optimizer, **options)
    assert isinstance(c, LIRPGConfig)
    rewards: dict[str, Any] = {
        "hidden": c.reward_hidden,
        "intrinsic_coef": c.intrinsic_coef,
        "extrinsic_coef": c.extrinsic_coef,
    }
    options |= {"surrogate": c.surrogate, "clip_eps": c.clip_eps}
    return lirpg(env, policy, c.lr, optimizer=optimizer, **rewards, **options)


def make_rival(c: RuleConfig, env: Any) -> tuple[str, Rule]:
    """What agents do without what is learned, and its name: A2C beside lpg, PPO beside the others."""
    policy, options, lr = _actor_critic(c, env), _ppo_options(c), c.lr if c.rival_lr is None else c.rival_lr
    is_a2c = isinstance(c, LPGConfig) or getattr(c, "surrogate", "ppo") == "vpg"
    options |= {"surrogate": "vpg" if is_a2c else "ppo", "clip_eps": c.clip_eps}
    learner = learners.ppo(policy, optimizer=OPTIMIZERS[c.optimizer](lr), **options)
    return "A2C" if is_a2c else "PPO", Rule(lambda key: {}, lambda eta: learner, policy)


def make_algorithm(c: RuleConfig, env: Any, tasks: Any, rule: Rule) -> Any:
    """A `RuleLearner`, or an `Algorithm` that evolves the rule."""
    names = ("num_agents", "num_envs", "num_steps", "outer_lr", "agents_per_batch")
    shared: dict[str, Any] = {name: getattr(c, name) for name in names}
    if c.outer == "evolution":
        assert c.lifetime is not None
        return evolve_rule(
            env,
            tasks,
            rule,
            population_size=c.population_size,
            sigma=c.sigma,
            lifetime=c.lifetime,
            num_episodes=c.eval_episodes,
            num_stages=c.eval_updates,
            horizon=c.horizon,
            **shared,
        )
    own = ("num_inner_steps", "outer_gamma", "outer_gae_lambda", "outer_entropy_coef", "critic_lr")
    return learn_rule(
        env,
        tasks,
        rule,
        _actor_critic(c, env),
        lifetime=c.lifetime,
        max_grad_norm=c.outer_max_grad_norm,
        **{name: getattr(c, name) for name in own},
        **shared,
    )


def make_lives(c: RuleConfig, env: Any, tasks: Any, rule: Rule) -> Lives:
    """Whole lives at evaluation."""
    lifetime = c.eval_lifetime or c.lifetime
    assert lifetime is not None
    sizes = {"num_steps": c.num_steps, "num_envs": c.num_envs, "num_episodes": c.eval_episodes}
    return lives(env, rule, lifetime=lifetime, horizon=c.horizon or tasks.horizon, **sizes)


def work(c: RuleConfig) -> int:
    """Environment steps of an iteration, those that score evolution's lives not among them."""
    update = c.num_envs * c.num_steps
    if c.outer == "evolution":
        assert c.lifetime is not None
        return c.population_size * c.num_agents * c.lifetime * update
    return c.num_agents * (c.num_inner_steps + 1) * update


def _actor_critic(c: RuleConfig, env: Any) -> Policy:
    return mlp_policy(env, c.hidden, c.activation, critic=True, init_std=c.init_std)


def _ppo_options(c: RuleConfig) -> dict[str, Any]:
    names = ("num_epochs", "num_minibatches", "gamma", "gae_lambda", "entropy_coef", "value_coef", "max_grad_norm")
    return {name: getattr(c, name) for name in names}
