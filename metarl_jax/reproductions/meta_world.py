"""Meta-World's ML1 and ML10 (Yu et al. 2019): MAML-TRPO and RL2; in ML1 on one task whose goal is hidden, both rewards.

MAML-TRPO has the ML1 setting of metaworld-algorithms: 10 tasks x 10 episodes of 500 steps before and after one inner
step of .1, tanh 512-512, KL .01, a linear baseline with gamma .99 and lambda 1. RL2 has its ML10 setting: a GRU of 256
units, 10 epochs with clip .2, lambda .95, step size 5e-4, gradients of norm 1 at most, advantages as they are; trials
of 10 episodes, 20 tasks. `rl2-normalized` is the same but for rewards, which it divides by the running deviation of
discounted returns. All act for 100,000 steps an iteration.

Scored on the 50 held-out goals: one counted episode a goal, solved if it is solved in any step. Beside it stands what
the package's own evaluator would have counted on the same policy. That ends an episode at success and starts the goal
again, and counts the first three episodes that finish among ten goals: early successes push out the goals that take
their time. A return or a success is not compared with published numbers, which are of that count.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.meta import evaluation
from metarl_jax.reproductions import NO_RULE, Claim, records
from metarl_jax.reproductions.cells import kept
from metarl_jax.reproductions.locomotion import training_curve
from metarl_jax.reproductions.pictures import EPISODES, UPDATES, success_curves
from metarl_jax.rl.rollout import rollout
from metarl_jax.runs import config, evaluate, train
from metarl_jax.runs.build import Job, build

SEEDS, GOALS, HORIZON = 3, 50, 500
COUNTED, TOGETHER = 3, 10  # episodes that the package counts, of so many goals that it runs side by side
RUN = {"num_seeds": SEEDS, "num_iterations": 20, "checkpoint_every": 1, "horizon": HORIZON, "eval_tasks": GOALS}
RL2 = {
    "algorithm": "rl2", "size": 256, "num_episodes": 10, "meta_batch_size": 20, "num_minibatches": 5,
    "lr": 5e-4, "anneal_lr": False, "num_epochs": 10, "clip_eps": 0.2, "gae_lambda": 0.95, "gamma": 0.99,
    "max_grad_norm": 1.0, "normalize_advantage": False,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "maml-trpo": {
        "algorithm": "maml_trpo", "hidden": [512, 512], "meta_batch_size": 10, "episodes_per_task": 10,
        "inner_lr": 0.1, "max_kl": 0.01, "eval_updates": 1,
    },
    "rl2": RL2,
    "rl2-normalized": {**RL2, "normalize_rewards": True},
}  # fmt: skip
TASKS, REWARDS = ("button-press", "reach", "push"), ("v2", "v1")
CELLS = {
    f"{task}-{method}-{reward}": (task, method, reward) for task in TASKS for method in METHODS for reward in REWARDS
}


def configuration(task: str, method: str, reward: str) -> Any:
    """What a cell trains."""
    return config.validate(
        {**RUN, "env": f"MetaWorld:ML1-{task}", "env_options": {"reward": reward}, **METHODS[method]}
    )


def run(directory: Path, report: Callable[[Any], None], cells: tuple[str, ...]) -> list[Claim]:
    """Train `cells` (kept in `directory`, going on where they were left) and count successes on held-out goals.

    Returns the claims of all cells that have a record in `directory`.
    """
    for name in cells:
        task, method, reward = CELLS[name]
        c = configuration(task, method, reward)
        job, where = build(c), directory / name
        report(f"{name}: {SEEDS} seeds x {c.num_iterations} iterations of {job.work_per_iteration:,} steps")
        train.train(job, where, resume=True, report=report)
        solved_at = kept(where / "solved_at.npy", lambda job=job, where=where: solved(job, where))  # type: ignore[misc]
        curve = training_curve(where, job.work_per_iteration, of="success")
        records.write(directory, name, _claims(f"{task}, {method}, {reward}", solved_at), curve, where)
    found = records.read(directory, CELLS)
    for picture, methods, labels in (("", ("maml-trpo",), UPDATES), ("-trials", ("rl2", "rl2-normalized"), EPISODES)):
        curves = records.curves_of(found, [name for name, (_, how, _) in CELLS.items() if how in methods])
        if curves:
            success_curves(directory / f"meta-world-ml1{picture}.png", curves, labels)
    return records.claims_of(found)


def run_ml10(directory: Path, report: Callable[[Any], None], cells: tuple[str, ...]) -> list[Claim]:
    """ML10: one seed of each of `cells`, 20M steps, on ten goals of each of the five test tasks."""
    for method in cells:
        c = configuration_ml10(method)
        job, where = build(c), directory / method
        report(f"ML10, {method}: {c.num_iterations} iterations of {job.work_per_iteration:,} steps")
        train.train(job, where, resume=True, report=report)
        solved_at = kept(where / "solved_at.npy", lambda job=job, where=where: solved(job, where))  # type: ignore[misc]
        kinds = np.asarray(job.evaluation_tasks(GOALS).kind)
        inside = getattr(job.env, "env", job.env)
        claims = _claims(f"ML10, {method}", solved_at[:, :, np.argsort(kinds, kind="stable")])
        for kind in np.unique(kinds):
            claims += _claims(f"ML10, {inside.names[kind]}, {method}", solved_at[:, :, kinds == kind], judged=False)
        records.write(directory, method, claims, training_curve(where, job.work_per_iteration, of="success"), where)
    return records.claims_of(records.read(directory, METHODS))


def configuration_ml10(method: str) -> Any:
    """What a cell of ML10 trains: as in ML1 with one seed, MAML-TRPO with 20 tasks at a time."""
    sizes = {"meta_batch_size": 20, "num_iterations": 100} if method == "maml-trpo" else {"num_iterations": 200}
    return config.validate({**RUN, "num_seeds": 1, "env": "MetaWorld:ML10", **METHODS[method], **sizes})


def solved(job: Job, run_dir: Path) -> np.ndarray:
    """The step in which each episode is solved, or the horizon: [before or after adaptation, seed, goal, COUNTED]."""
    _, params = evaluate.restore(job, run_dir)
    tasks = job.evaluation_tasks(GOALS)
    key = jax.random.key(evaluate.EVALUATION)
    one = _of_trials if hasattr(job.env, "num_episodes") else _of_updates
    found = jax.jit(lambda p: jax.lax.map(lambda x: one(job, x, key, tasks), p))(params)
    return np.asarray(found).swapaxes(0, 1)


def _of_updates(job: Job, params: Any, key: jax.Array, tasks: Any) -> jax.Array:
    """[before or after, goal, COUNTED] of one seed."""
    collect_key, act_key = jax.random.split(key)
    sizes: dict[str, Any] = {"num_steps": HORIZON, "num_envs": COUNTED}

    def goal(task: Any, number: jax.Array) -> jax.Array:
        trial, _ = job.algorithm.collect(params, jax.random.fold_in(collect_key, number), task, num_updates=1)
        own = jax.random.fold_in(act_key, number)
        agents = params, job.algorithm.adapt(params, trial).params
        data = [rollout(job.env, job.policy.apply, p, own, task, **sizes)[0] for p in agents]
        return jnp.stack([_first(x.reports["success"]) for x in data])

    return jax.vmap(goal, out_axes=1)(tasks, jnp.arange(GOALS))


def _of_trials(job: Job, params: Any, key: jax.Array, tasks: Any) -> jax.Array:
    """The first COUNTED episodes of a trial, and the last."""
    policy, env = job.policy, job.env
    sizes: dict[str, Any] = {"num_steps": env.num_steps, "num_envs": GOALS, "one_task_each": True}
    data, _ = rollout(env, policy.step, params, key, tasks, memory=policy.remember(GOALS), **sizes)
    flags = data.reports["success"].reshape(env.num_episodes, HORIZON, GOALS)
    at = jax.vmap(_first)(flags).T  # [goal, episode]
    return jnp.stack([at[:, :COUNTED], at[:, -COUNTED:]])


def _first(flags: jax.Array) -> jax.Array:
    """[T, ...] whether it has been solved so far -> steps before it was."""
    return flags.shape[0] - jnp.sum(flags, axis=0)


def package_count(solved_at: np.ndarray, horizon: int = HORIZON) -> float:
    """What metaworld 3.1.1's `metalearning_evaluation` counts: episodes [goal, COUNTED] that end at success.

    Of every `TOGETHER` goals that run side by side the first COUNTED episodes to finish are counted.
    """
    rates = []
    for goals in np.split(solved_at, range(TOGETHER, len(solved_at), TOGETHER)):
        ends = np.cumsum(np.minimum(goals + 1, horizon), axis=1)
        order = np.lexsort((np.repeat(np.arange(len(goals)), goals.shape[1]), ends.reshape(-1)))
        rates.append((goals.reshape(-1)[order[:COUNTED]] < horizon).mean())
    return float(np.mean(rates))


def _claims(name: str, solved_at: np.ndarray, judged: bool = True) -> list[Claim]:
    rates = [(when[..., 0] < HORIZON).astype(float) for when in solved_at]  # [seed, goal], the first counted episode
    rates[1] = (solved_at[1][..., -1] < HORIZON).astype(float)
    claims = []
    for when, rate in zip(("before", "after"), rates, strict=True):
        mean, low, high = evaluation.bootstrap_interval(rate, evaluation.mean)
        claims.append(Claim(f"{name}: success {when} adaptation", mean, (low, high), NO_RULE, True))
    more, low, high = evaluation.bootstrap_interval(rates[1] - rates[0], evaluation.mean)
    counted = float(np.mean([package_count(seed) for seed in solved_at[1]]))
    return [
        *claims,
        Claim(
            f"{name}: more by adaptation",
            more,
            (low, high),
            "interval not below 0" if judged else NO_RULE,
            high >= 0 or not judged,
        ),
        Claim(f"{name}: success as the package counts it", counted, None, NO_RULE, True),
    ]
