"""What the gradient-based meta-learners share as configurations: one table of keys, one way to build and to evaluate.

`entry(maml, policy_gradient)` makes the keys of MAML out of the signatures of the network, the inner learner, the
algorithm with the meta-learner that it is made of, and the ways through the inner updates.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import optax
from pydantic import Field

from metarl_jax.algorithms.interface import RANDOM_INIT, Entry, Evaluation, Job, RunOptions, common_references, held_out
from metarl_jax.envs.protocol import tasks_at_a_time
from metarl_jax.envs.tasks import num_members
from metarl_jax.meta import evaluation as scoring
from metarl_jax.meta import meta_gradient as ways
from metarl_jax.networks import build_policy, network_part
from metarl_jax.options import ConfigError, Count, Part, Rate, configuration, options_of, worded
from metarl_jax.rl.normalize import NORMALIZED

INNER = {  # options of the inner learner that have another name as a key
    "lr": "inner_lr",
    "surrogate": "inner_surrogate",
    "num_epochs": "inner_epochs",
    "num_minibatches": "inner_minibatches",
    "clip_eps": "inner_clip_eps",
    "num_microbatches": "inner_microbatches",
    "strength": "proximal_strength",
    "num_steps": "num_proximal_steps",
    "size": "context_size",
}
NO_KEYS_INSIDE = ("max_grad_norm", "value_clip_eps")  # keys of the outer update, and of none
META = {"num_outer_epochs": "outer_epochs"}
NO_KEYS_OUTSIDE = ("outer_dice_lambda", "outer_entropy_coef")  # those of the inner updates
WAYS = {
    "truncated": Part(ways.truncated, {"window": "truncation_window"}),
    "evolution": Part(ways.evolution, {"num_pairs": "evolution_pairs", "sigma": "evolution_sigma"}),
    "implicit": Part(ways.implicit, ("cg_steps",)),
}


class EvaluationOptions(RunOptions):
    """What every run of a learner that adapts by updates has."""

    eval_updates: Count = Field(3, description="inner updates at evaluation")
    eval_later_lr_scale: Rate = Field(1.0, description="factor on inner_lr after the first update, at evaluation")


def entry(
    make: Callable[..., Any],
    learner: Callable[..., Any],
    *,
    inner_defaults: Mapping[str, Any] | None = None,
    baselines: Sequence[str] | None = None,
    ways_through: Sequence[str] = ("truncated", "evolution"),
) -> Entry:
    """The entry of `make(env, tasks, policy, inner, **options)` with `learner(policy, **options)` inside.

    Args:
        inner_defaults: where the configuration of its inner learner begins at another value than `learner`.
        baselines: those that go with it; None: all.
        ways_through: ways of differentiation whose own options are keys.
    """
    inner = Part(learner, _keys(learner, INNER, NO_KEYS_INSIDE), inner_defaults)
    meta = Part(make, _keys(make, META, NO_KEYS_OUTSIDE))
    fields: dict[str, Any] = {}
    if "truncated" in ways_through:  # nothing unless it is asked for
        about = WAYS["truncated"].options["window"].about
        fields["truncation_window"] = (Count | None, Field(None, description=about))
    if baselines is not None:
        about = inner.options["baseline"].about
        fields["baseline"] = (Literal[*baselines], Field(baselines[0], description=about))
    about = (make.__doc__ or "").splitlines()[0]
    parts = (*network_part(), NORMALIZED, inner, meta, *(WAYS[name] for name in ways_through))
    options = configuration(f"{make.__name__}_options", about, EvaluationOptions, *parts, **fields)
    learns_lr = "lr" not in inner.keys

    def build(c: Any, env: Any, tasks: Any, evaluation: bool) -> Job:
        horizon = c.horizon or tasks.horizon
        network = build_policy(c, env, critic=c.baseline == "critic", context_size=getattr(c, "context_size", 0))
        policy = NORMALIZED(c, network, env)
        scale = c.eval_later_lr_scale
        if learns_lr and scale != 1:
            raise ConfigError(f"eval_later_lr_scale = {scale}: must be 1, as {c.algorithm} learns the step sizes")
        steps = getattr(c, "num_proximal_steps", 1) * getattr(c, "inner_epochs", 1) * getattr(c, "inner_minibatches", 1)
        more = {}
        if evaluation and scale != 1:
            more["lr"] = optax.piecewise_constant_schedule(c.inner_lr, {steps: scale})
        adapting = inner(c, policy, **more)
        if adapting.check is not None and c.eval_episodes is not None:
            with worded(inner):
                adapting.check(horizon, c.eval_episodes, "horizon", "eval_episodes")
        shared = {"outer_dice_lambda": c.dice_lambda, "outer_entropy_coef": c.entropy_coef, "horizon": horizon}
        if evaluation and c.eval_episodes is not None:
            shared["episodes_per_task"] = c.eval_episodes
        if "differentiation" in meta.keys:
            shared["differentiation"] = _way(c, {name: WAYS[name] for name in ways_through})
        shared = {name: value for name, value in shared.items() if name in options_of(make)}
        with worded(inner, meta, *(WAYS[name] for name in ways_through)):
            algorithm = meta.function(
                env, tasks.split(c.task_seed)[0], policy, adapting, **{**meta.values(c), **shared}
            )
        return Job(
            c,
            algorithm,
            env,
            tasks,
            horizon,
            work_per_iteration=c.meta_batch_size * horizon * c.episodes_per_task * (c.num_inner_steps + 1),
            score=f"return_{c.num_inner_steps}",
            evaluation=_evaluation(c, algorithm, env, tasks, horizon),
            policy=policy,
        )

    return Entry(options, build)


def _keys(function: Callable, renamed: Mapping[str, str], without: Sequence[str]) -> dict[str, str]:
    return {name: renamed.get(name, name) for name in options_of(function) if name not in without}


def _way(c: Any, ways: Mapping[str, Part]) -> Any:
    """What `differentiation` and its options name; `ways`: those whose options are keys."""
    name = c.differentiation
    for other, part in ways.items():
        for key in part.keys.values():
            if other != name and getattr(c, key) != type(c).model_fields[key].default:
                raise ConfigError(f"{key} = {getattr(c, key)}: is for differentiation = {other}, not {name}")
    if name == "truncated" and c.truncation_window is None:
        raise ConfigError("truncation_window is missing: differentiation = truncated needs it")
    return ways[name](c) if name in ways else name


def _evaluation(c: Any, algorithm: Any, env: Any, tasks: Any, horizon: int) -> Evaluation:
    def scores(params: Any, key: Any, some: Any, num_updates: int) -> Any:
        size = tasks_at_a_time(env, num_members(some))
        return scoring.adaptation_curve_and_reports(algorithm, params, key, some, num_updates, size)

    beside = None
    if c.num_inner_steps:  # one policy for all tasks, on as many environment steps
        beside = {
            **dict(c),  # not model_dump, which warns of traced values
            "algorithm": "maml",
            "num_inner_steps": 0,
            "num_seeds": 1,
            "eval_later_lr_scale": 1.0,
        }
        beside["episodes_per_task"] = c.episodes_per_task * (c.num_inner_steps + 1)
        of_another_kind = () if "outer_epochs" in beside else ("outer_lr",)  # not Adam's
        of_the_way = [key for part in WAYS.values() for key in part.keys.values()]
        of_the_inner = ["inner_surrogate", "inner_clip_eps", "differentiation", "exploration_coef"]
        if beside.get("outer_surrogate") != "loaded_dice":
            of_the_inner.append("dice_lambda")
        for key in (*of_the_inner, *of_the_way, *of_another_kind):
            beside.pop(key, None)
    return Evaluation(
        held_out(c, tasks),
        scores,
        num_updates=c.eval_updates,
        references=common_references(env, tasks, horizon, c.eval_episodes or c.episodes_per_task),
        untrained=RANDOM_INIT,
        without_adaptation=beside,
    )
