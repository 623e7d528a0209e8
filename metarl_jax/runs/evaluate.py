"""What a finished run is worth on held-out tasks, beside the baselines that belong in every table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metarl_jax.algorithms import registry
from metarl_jax.meta import evaluation
from metarl_jax.options import ConfigError
from metarl_jax.runs import files, train
from metarl_jax.runs.build import Job, build
from metarl_jax.runs.config import validate
from metarl_jax.runs.held_out import EVALUATION, scorer
from metarl_jax.runs.states import initial_states, open_run, restore

NO_ADAPTATION = "no adaptation (multi-task PPO)"


def assess(
    run_dir: Path,
    *,
    num_tasks: int | None = None,
    num_episodes: int | None = None,
    num_updates: int | None = None,
    seed: int = 0,
    baselines: bool = True,
    report: Callable[[Any], None] = print,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Evaluate the newest checkpoint of a run: (table, scores).

    The table is JSON: mean and interquartile mean with 95% bootstrap intervals, before and after each inner
    update. The scores are whole, [seed, task, update, episode], for the run and for each baseline.
    """
    job = open_run(run_dir)
    asked = num_tasks or job.config.eval_tasks
    updates = job.evaluation.num_updates if num_updates is None else num_updates
    job.evaluation.check(asked, updates)
    iteration, params = restore(job, run_dir)
    job = _for_evaluation(job.config, asked, num_episodes)
    how = job.evaluation
    over_seeds = scorer(job, asked, updates, report, seed)
    tasks, key = job.evaluation_tasks(asked), jax.random.fold_in(jax.random.key(seed), EVALUATION)
    report(f"evaluating iteration {iteration} on {asked} task{'s' if asked > 1 else ''}")
    scores = {}
    scores["run"], reports = over_seeds(params)
    if baselines:
        if how.untrained is not None:
            values, _ = over_seeds(job.params(initial_states(job)))
            scores[how.untrained] = values.mean(axis=2, keepdims=True) if how.stage == "episode" else values
        if how.without_adaptation is not None:
            try:
                scores[NO_ADAPTATION] = _without_adaptation(job, run_dir, key, tasks, scores["run"].shape[-1], report)
            except (train.RunFailed, ConfigError) as error:
                report(f"the baseline without adaptation is left out: {error}")
        for name, reference in how.references.items():
            scores[name] = np.asarray(jax.jit(lambda f=reference: f(key, tasks, updates))())[None]
    bad = next((name for name, values in scores.items() if not np.isfinite(values).all()), None)
    if bad is not None:
        raise train.RunFailed(f"NaN or infinity in the scores of {bad!r}: the policy diverges when it is evaluated")
    table = _table(job, run_dir, iteration, scores)
    if reports:
        table["reports"] = {name: _rates(values) for name, values in reports.items()}
    return table, scores


def _rates(values: np.ndarray) -> list[dict[str, Any]]:
    """Share of episodes [seed, task, update] -> mean and interval before and after each update."""
    rows = []
    for update in range(values.shape[2]):
        mean, *interval = evaluation.bootstrap_interval(values[:, :, update], evaluation.mean)
        rows.append({"update": update, "mean": mean, "mean_interval": interval})
    return rows


def _for_evaluation(config: Any, num_tasks: int, num_episodes: int | None) -> Job:
    """The same learner, gathering as many episodes (or query examples) as evaluation asks for."""
    changes: dict[str, Any] = {"eval_tasks": num_tasks}
    if num_episodes is not None:
        changes["eval_episodes"] = num_episodes
    return build(validate({**config.model_dump(), **changes}), evaluation=True)


def without_adaptation(job: Job) -> Any:
    """The configuration of one policy for all tasks, multi-task PPO, trained on as many steps as `job`, one seed."""
    wanted = job.evaluation.without_adaptation
    assert wanted is not None
    known = registry.entry(wanted["algorithm"]).options.model_fields
    own = {name: value for name, value in wanted.items() if name in known and name not in ("init_from", "log_to")}
    return validate(own)


def _without_adaptation(
    job: Job, run_dir: Path, key: jax.Array, tasks: Any, num_episodes: int, report: Callable
) -> np.ndarray:
    """One policy for all tasks, trained like the run but without inner updates; trained once, kept in the run."""
    plain = build(without_adaptation(job))
    report("training the baseline without adaptation: multi-task PPO on as many environment steps")
    states = train.train(plain, run_dir / "no_adaptation", resume=True, report=report)
    params = jax.tree.map(lambda x: x[0], plain.params(states))
    sizes: dict[str, Any] = {"num_steps": job.horizon, "num_episodes": num_episodes}
    act = plain.policy.apply
    returns = jax.jit(lambda p: evaluation.policy_returns(job.env, act, p, key, tasks, **sizes))(params)
    return np.asarray(returns)[None, :, None]


def _table(job: Job, run_dir: Path, iteration: int, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    c = job.config

    def summary(values: np.ndarray) -> list[dict[str, Any]]:
        rows = []
        for update in range(values.shape[2]):
            per_task = values[:, :, update].mean(axis=-1)
            if values.shape[1] == 1:  # one task: its episodes are what varies
                per_task = values[:, 0, update]
            mean, mean_low, mean_high = evaluation.bootstrap_interval(per_task, evaluation.mean)
            iqm, iqm_low, iqm_high = evaluation.bootstrap_interval(per_task, evaluation.iqm)
            rows.append(
                {
                    "update": update,
                    "mean": mean,
                    "mean_interval": [mean_low, mean_high],
                    "iqm": iqm,
                    "iqm_interval": [iqm_low, iqm_high],
                }
            )
        return rows

    run = scores["run"]
    per_task = run.mean(axis=-1) * (1 if job.higher_is_better else -1)
    table: dict[str, Any] = {
        "run": str(run_dir),
        "algorithm": c.algorithm,
        "env": c.env,
        "score": "return" if job.higher_is_better else "mean squared error",
        "iteration": iteration,
        "num_seeds": int(run.shape[0]),
        "num_tasks": int(run.shape[1]),
        "num_episodes": int(run.shape[3]),
        "horizon": job.horizon,
        "stage": job.evaluation.stage,
        "tasks_held_out": bool(job.tasks.held_out) and job.evaluation.held_out,
        "interval": f"95% percentile bootstrap over {'tasks' if run.shape[1] > 1 else 'episodes'}, stratified by seed",
        "adaptation": summary(run),
        "baselines": {name: summary(values) for name, values in scores.items() if name != "run"},
    }
    if job.evaluation.stage == "episode":
        whole = run.sum(axis=2).mean(axis=-1)  # [seed, task]
        table["trial"] = dict(
            zip(("mean", "low", "high"), evaluation.bootstrap_interval(whole, evaluation.mean), strict=True)
        )
    if run.shape[2] > 1:
        table["share_of_tasks_improved"] = evaluation.paired_improvement(per_task[:, :, 1], per_task[:, :, 0])
        table["convergence_update"] = evaluation.convergence_update(per_task)
        gains = per_task[:, :, 1:] - per_task[:, :, :1]
        table["gain"] = [
            dict(
                zip(
                    ("mean", "low", "high"), evaluation.bootstrap_interval(gains[:, :, u], evaluation.mean), strict=True
                )
            )
            for u in range(gains.shape[2])
        ]
    return table


def save(run_dir: Path, table: dict[str, Any], scores: dict[str, np.ndarray]) -> Path:
    """evaluation.json and scores.npz (arrays only) in the run directory; returns the former.

    An evaluation of another size than the one already there gets names that say its size.
    """
    size = ("num_tasks", "num_episodes")
    tag = ""
    old = saved_table(run_dir)
    if old is not None:
        same = all(old[k] == table[k] for k in size) and len(old["adaptation"]) == len(table["adaptation"])
        if not same or set(old["baselines"]) - set(table["baselines"]):
            tag = f"-{table['num_tasks']}x{table['num_episodes']}-{len(table['adaptation']) - 1}"
            tag += "" if table["baselines"] else "-no-baselines"
    path = run_dir / f"evaluation{tag}.json"
    files.write_whole(path, json.dumps(table, indent=2) + "\n")
    named = {name.replace(" ", "_").replace(",", ""): values for name, values in scores.items()}
    files.write_arrays(run_dir / f"scores{tag}.npz", named)
    return path


def check_directory(run_dir: Path, report: Callable[[Any], None]) -> bool:
    """Whether an evaluation can be saved, seen before anything is computed; where it cannot, the reason is reported.

    Raises: ConfigError for a saved evaluation that is damaged.
    """
    saved_table(run_dir)
    try:
        files.check_writable(run_dir, "run")
    except ConfigError as error:
        report(f"{error}; the table is printed and not saved")
        return False
    return True


def saved_table(run_dir: Path) -> dict[str, Any] | None:
    """The table that `save` wrote, if there is one.

    Raises: ConfigError for a file that holds something else.
    """
    path = run_dir / "evaluation.json"
    if not path.exists():
        return None
    table = files.read_json(path, "evaluation")
    for name, kind in (("num_tasks", int), ("num_episodes", int), ("adaptation", list), ("baselines", dict)):
        if not isinstance(table.get(name), kind):
            raise ConfigError(f"evaluation {path}: is damaged (its {name} is missing); move it away")
    return table
