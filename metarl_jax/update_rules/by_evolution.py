"""Learning rules by evolution: whole lives of agents are what a rule is judged by.

OpenAI-ES (Salimans et al. 2017) by evosax, with antithetic pairs: a generation draws rules around the mean,
eta_i = eta + sigma e_i, and one task for each of N agents. Every rule lives in every task, from the same birth and with
the same random numbers; its score in a task is the mean return over the stages of that life. Scores are standardised
within each task over the population (Lu et al. 2022, appendix), averaged over tasks, and eta follows the estimated
gradient by Adam. Nothing is differentiated, so that a life can be any number of updates long.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from metarl_jax import sharing, tree
from metarl_jax.options import Positive, Rate, takes_options
from metarl_jax.rl.returns import standardize
from metarl_jax.rl.rollout import environment_metrics, first_fault
from metarl_jax.types import Algorithm, MetaState, Metrics, Params
from metarl_jax.update_rules.lifetimes import Rule, lives


@takes_options()
def evolve_rule(
    env: Any,
    tasks: Any,
    rule: Rule,
    *,
    population_size: Annotated[Positive, "evolution: rules of a generation, an even number"] = 32,
    sigma: Annotated[Rate, "evolution: standard deviation of the rules around their mean"] = 0.05,
    num_agents: Annotated[Positive, "tasks of a generation"] = 16,
    lifetime: Annotated[Positive, "updates of a life"] = 100,
    num_envs: Annotated[Positive, "parallel environments of an agent"] = 16,
    num_steps: Annotated[Positive, "steps of each environment an update"] = 32,
    outer_lr: Annotated[Rate, "Adam step size of the rule"] = 1e-3,
    agents_per_batch: Annotated[
        Positive | None, "agents processed at a time; null: one on a CPU, all on an accelerator"
    ] = None,
    num_episodes: Annotated[Positive, "episodes that score an agent after each stage of its life"] = 16,
    horizon: Annotated[Positive | None, "steps of an evaluation episode; null: the environment's own"] = None,
    num_stages: Annotated[Positive, "stages that a scored life is cut into; must divide it"] = 8,
) -> Algorithm:
    r"""Evolve `rule` on `tasks`: `population_size` rules (an even number), each in the same N = `num_agents` tasks.

    .. math::

        g = \frac{1}{n \sigma} \sum_{i=1}^{n} \tilde F(\eta + \sigma e_i) \, e_i, \quad e_i \sim N(0, I)

    Adam moves eta along g; F~ is the score of a rule, standardised over the n rules and averaged over tasks.

    Args:
        tasks: `TaskDistribution`, or anything with `sample(key)` and `horizon`.
        sigma: standard deviation of the rules around their mean.
        lifetime: updates of a life, a multiple of `num_stages`; after each stage `num_episodes` episodes score it.
        agents_per_batch: lives at a time (None: one on a CPU, all on an accelerator).
    Raises: ValueError for an odd population, a lifetime that is no multiple of the stages.
    A life that ends in NaN or infinity counts as the worst of its task, and is counted (`num_diverged`).
    Step metrics: loss (minus the mean fitness), fitness_best, fitness_mean, fitness_std over rules (returns), grad_norm
        (the change of eta over `outer_lr`), num_diverged; late_return, the mean return of the last stage.
    """
    sizes: dict[str, Any] = {"num_steps": num_steps, "num_envs": num_envs, "num_episodes": num_episodes}
    whole = lives(env, rule, lifetime=lifetime, horizon=horizon or tasks.horizon, **sizes)
    if population_size % 2:
        raise ValueError(f"population_size = {population_size}: must be even, as rules come in antithetic pairs")
    if lifetime % num_stages:
        raise ValueError(f"lifetime = {lifetime}: must be a multiple of num_stages = {num_stages}")

    def strategy(eta: Params) -> Any:
        from evosax.algorithms import Open_ES  # imports slowly

        with jax.ensure_compile_time_eval():  # it keeps what it is given, which must not be a tracer
            like = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), eta)
        return Open_ES(
            population_size,
            like,
            optimizer=optax.adam(outer_lr),
            std_schedule=lambda _: jnp.asarray(sigma, float),
            fitness_shaping_fn=lambda population, fitness, state, params: fitness,
        )

    def init(key: jax.Array) -> MetaState:
        eta_key, es_key = jax.random.split(key)
        eta = rule.init(eta_key)
        es = strategy(eta)
        state = es.init(es_key, eta, es.default_params)
        return MetaState(eta, jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state))  # no weak types

    def step(state: MetaState, key: jax.Array) -> tuple[MetaState, Metrics]:
        es = strategy(state.params)
        ask_key, tell_key, task_key, life_key = jax.random.split(key, 4)
        with tree.usual_promotion():
            rules, es_state = es.ask(ask_key, state.opt_state, es.default_params)
        task = jax.vmap(tasks.sample)(jax.random.split(task_key, num_agents))
        keys = jax.random.split(life_key, num_agents)

        def one(i: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            eta = jax.tree.map(lambda x: x[i // num_agents], rules)
            key, mine = keys[i % num_agents], jax.tree.map(lambda x: x[i % num_agents], task)
            faults, scores = whole.collect(eta, key, mine, num_stages)
            return jnp.mean(scores[1:], axis=1), faults  # [S]

        returns, faults = sharing.map_tasks(one, jnp.arange(population_size * num_agents), agents_per_batch)
        returns = returns.reshape(population_size, num_agents, num_stages)
        scores = jnp.mean(returns, axis=-1)  # [rule, task]
        finite = jnp.isfinite(scores)
        worst = jnp.min(jnp.where(finite, scores, jnp.inf), axis=0)
        scores = jnp.where(finite, scores, jnp.where(jnp.isfinite(worst), worst, 0.0))
        everyone = jnp.ones(population_size, scores.dtype)
        standard = jax.vmap(lambda x: standardize(x, everyone), 1, 1)(scores)  # 0 where all rules earned the same
        with tree.usual_promotion():
            es_state, _ = es.tell(tell_key, rules, -jnp.mean(standard, axis=1), es_state, es.default_params)
        es_state = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), es_state, state.opt_state)
        eta = es.get_mean(es_state)
        change = jax.tree.map(jnp.subtract, eta, state.params)
        fitness = jnp.mean(scores, axis=1)
        healthy, faulty = environment_metrics(first_fault(faults))
        metrics = {
            "loss": -jnp.mean(fitness),
            "fitness_best": jnp.max(fitness),
            "fitness_mean": jnp.mean(fitness),
            "fitness_std": jnp.std(fitness),
            "late_return": tree.finite_mean(returns[..., -1]),
            "grad_norm": tree.global_norm(change) / outer_lr,
            "num_diverged": jnp.sum(~finite),
            "finite": {**healthy, "params": tree.finite(eta)},
            "faulty_step": faulty,
        }
        return MetaState(eta, es_state), metrics

    return Algorithm(init, step)
