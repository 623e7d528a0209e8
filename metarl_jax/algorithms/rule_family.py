"""What learners of update rules share as configurations: agents with lifetimes, and how the rule is moved."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from pydantic import Field

from metarl_jax.algorithms.interface import RANDOM_INIT, Entry, Evaluation, Job, RunOptions, common_references, held_out
from metarl_jax.envs.protocol import tasks_at_a_time
from metarl_jax.envs.tasks import num_members
from metarl_jax.meta import evaluation as scoring
from metarl_jax.options import ConfigError, Part, Positive, Rate, check_divides, configuration, options_of
from metarl_jax.rl import learners
from metarl_jax.types import Policy
from metarl_jax.update_rules.by_evolution import evolve_rule
from metarl_jax.update_rules.by_gradient import learn_rule
from metarl_jax.update_rules.lifetimes import Rule, lives

OF_EVOLUTION = {"num_episodes": "eval_episodes", "num_stages": "eval_updates"}
BY_GRADIENT = Part(
    learn_rule,
    {n: {"max_grad_norm": "outer_max_grad_norm"}.get(n, n) for n in options_of(learn_rule) if n != "differentiation"},
)
BY_EVOLUTION = Part(evolve_rule, {n: OF_EVOLUTION.get(n, n) for n in options_of(evolve_rule)})


class RuleOptions(RunOptions):
    """Keys of every run that learns a rule."""

    outer: Literal["gradient", "evolution"] = Field(
        "gradient", description="meta-gradients through updates of living agents, or OpenAI-ES on whole lives"
    )
    eval_lifetime: Positive | None = Field(None, description="updates of a life at evaluation; null: lifetime")
    rival_lr: Rate | None = Field(None, description="step size of the PPO or A2C beside it at evaluation; null: lr")


def rule_entry(
    name: str,
    about: str,
    make_rule: Callable[[Any, Any], tuple[Rule, Policy]],
    make_rival: Callable[[Any, Any, Any], tuple[str, Rule]],
    *parts: Part,
    gradient_defaults: dict[str, Any] | None = None,
) -> Entry:
    """The entry of a learned rule.

    Args:
        make_rule: (config, env) -> the rule, and a policy with a critic like that of its agents.
        make_rival: (config, env, policy) -> what agents do without what is learned, and its name.
        parts: keys of its own, beside those of how the rule is moved.
        gradient_defaults: where its configuration begins at another value than `learn_rule`.
    """
    by_gradient = Part(learn_rule, BY_GRADIENT.keys, gradient_defaults)
    options = configuration(f"{name}_options", about, RuleOptions, *parts, by_gradient, BY_EVOLUTION)

    def build(c: Any, env: Any, tasks: Any, evaluation: bool) -> Job:
        rule, policy = make_rule(c, env)
        rival_name, rival = make_rival(c, env, policy)
        lifetime = c.eval_lifetime or c.lifetime
        if lifetime is None:
            raise ConfigError("eval_lifetime is missing: with lifetime = null nothing says how long a life is")
        check_divides("eval_updates", c.eval_updates, lifetime, "eval_lifetime (or lifetime)")
        check = rival.learner({}).check
        if check is not None:
            check(c.num_steps, c.num_envs, "num_steps", "num_envs")
        train, _ = tasks.split(c.task_seed)
        if c.outer == "evolution":
            if c.lifetime is None:
                raise ConfigError("lifetime = null: evolution judges whole lives; give it a number of updates")
            algorithm: Any = BY_EVOLUTION(c, env, train, rule)
        else:
            algorithm = by_gradient(c, env, train, rule, policy)
        horizon = c.horizon or tasks.horizon
        sizes = {"num_steps": c.num_steps, "num_envs": c.num_envs, "num_episodes": c.eval_episodes}
        lived = {who: lives(env, r, lifetime=lifetime, horizon=horizon, **sizes) for who, r in
                 (("run", rule), (rival_name, rival))}  # fmt: skip
        return Job(
            c,
            algorithm,
            env,
            tasks,
            horizon,
            work_per_iteration=_work(c),
            score="late_return",
            evaluation=_evaluation(c, lived, env, tasks, horizon, lifetime),
            policy=rule.policy,
            parts=lived,
        )

    return Entry(options, build)


def _evaluation(c: Any, lived: dict[str, Any], env: Any, tasks: Any, horizon: int, lifetime: int) -> Evaluation:
    def scores_of(who: str) -> Callable:
        def scores(params: Any, key: jax.Array, some: Any, num_updates: int) -> jax.Array:
            size = tasks_at_a_time(env, num_members(some))
            return scoring.adaptation_curve(lived[who], params, key, some, num_updates, size)

        return scores

    def check(num_tasks: int, num_updates: int) -> None:
        if num_updates < 1 or lifetime % num_updates:
            raise ConfigError(
                f"num-updates = {num_updates}: stages, which must divide the life of {lifetime} updates evenly"
            )

    rivals = {
        f"{who}, same updates": lambda key, some, num_updates, who=who: scores_of(who)({}, key, some, num_updates)
        for who in lived
        if who != "run"
    }
    return Evaluation(
        held_out(c, tasks),
        scores_of("run"),
        num_updates=c.eval_updates,
        stage="stage",
        check=check,
        references={**rivals, **common_references(env, tasks, horizon, c.eval_episodes)},
        untrained=RANDOM_INIT,
    )


def _work(c: Any) -> int:
    """Environment steps of an iteration, those that score evolution's lives not among them."""
    update = c.num_envs * c.num_steps
    if c.outer == "evolution":
        return c.population_size * c.num_agents * c.lifetime * update
    return c.num_agents * (c.num_inner_steps + 1) * update


def beside(policy: Policy, surrogate: str, optimizer: Any, **options: Any) -> tuple[str, Rule]:
    """Agents that learn by PPO or, with the surrogate vpg, by A2C, as a rule without numbers; and its name."""
    learner = learners.ppo(policy, surrogate=surrogate, optimizer=optimizer, **options)
    return ("A2C" if surrogate == "vpg" else "PPO"), Rule(lambda key: {}, lambda eta: learner, policy)


def rival_step(c: Any) -> Any:
    """The optimiser of the agents beside the rule's."""
    return learners.optimizer_of(c.optimizer, c.lr if c.rival_lr is None else c.rival_lr)
