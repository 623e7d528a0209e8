"""What a finished run is worth on held-out tasks, beside the baselines that belong in every table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metarl_jax.algorithms.rule_config import RuleConfig
from metarl_jax.algorithms.schemas import Config, GradientConfig, MAMLConfig, PPOConfig
from metarl_jax.algorithms.trial_config import TrialConfig
from metarl_jax.envs.trial import episode_ends, episode_returns
from metarl_jax.meta import evaluation
from metarl_jax.options import ConfigError
from metarl_jax.rl.rollout import rollout
from metarl_jax.runs import train
from metarl_jax.runs.build import Job, build
from metarl_jax.runs.checkpoint import Checkpoints
from metarl_jax.runs.config import load, validate
from metarl_jax.types import Params

NO_ADAPTATION = "no adaptation (multi-task PPO)"
RANDOM_INIT = "random initialisation, same updates"
EVALUATION = 0xE7A1  # tag of the key that evaluation uses
RANDOM_POLICY = "random policy"
_OF_ADAPTING = ("inner_surrogate", "differentiation", "truncation_window", "exploration_coef", "eval_later_lr_scale")
ORACLE = "oracle"


def open_run(run_dir: Path) -> Job:
    """The job of a run directory.

    Raises: ConfigError if it is not one.
    """
    if not (run_dir / "config.yaml").is_file():
        raise ConfigError(f"run {run_dir}: is not a run directory (it has no config.yaml)")
    return build(load(run_dir / "config.yaml"))


def restore(job: Job, run_dir: Path, iteration: int | None = None) -> tuple[int, Params]:
    """(iteration, what was learned by each seed, leaves [seed, ...])."""
    if not (run_dir / "checkpoints").is_dir():
        raise ConfigError(f"run {run_dir}: has no checkpoint yet")
    states = jax.eval_shape(lambda: train.initial_states(job))
    checkpoints = Checkpoints(run_dir / "checkpoints")
    iteration, state = checkpoints.restore(states, iteration)
    checkpoints.close()
    return iteration, jax.tree.map(jax.numpy.asarray, job.params(state))


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
    c = job.config
    if isinstance(c, PPOConfig) and num_tasks not in (None, 1):
        raise ConfigError(
            f"num-tasks = {num_tasks}: a run of ppo is evaluated on the task it trained on, so it must be 1"
        )
    num_tasks = num_tasks or c.eval_tasks
    updates = getattr(c, "eval_updates", 0) if num_updates is None else num_updates
    if updates and isinstance(c, PPOConfig):
        raise ConfigError(f"num-updates = {updates}: a run of ppo does not adapt, so it must be 0")
    if isinstance(c, TrialConfig) and updates != c.eval_updates:
        raise ConfigError(
            f"num-updates = {updates}: a trial of {c.num_episodes} episodes is scored whole, so it must be "
            f"{c.eval_updates}"
        )
    if isinstance(c, RuleConfig):
        lifetime = c.eval_lifetime or c.lifetime or 1
        if updates < 1 or lifetime % updates:
            raise ConfigError(
                f"num-updates = {updates}: stages, which must divide the life of {lifetime} updates evenly"
            )
    changes = {"eval_tasks": num_tasks, "eval_episodes": num_episodes or episodes_of(c)}
    job = build(_for_evaluation(validate({**c.model_dump(), **changes})), evaluation=True)
    iteration, params = restore(build(c), run_dir)
    tasks = job.evaluation_tasks(num_tasks)
    key = jax.random.fold_in(jax.random.key(seed), EVALUATION)  # apart from every key of training
    report(f"evaluating iteration {iteration} on {num_tasks} task{'s' if num_tasks > 1 else ''}")

    def over_seeds(f: Callable) -> np.ndarray:
        return np.asarray(jax.jit(lambda trees: jax.lax.map(f, trees))(params))

    if isinstance(c, PPOConfig):
        scores = {"run": over_seeds(lambda p: _returns(job, job.policy.apply, p, key, tasks))[:, :, None]}
    else:

        def curve(p: Params) -> jax.Array:
            return evaluation.adaptation_curve(job.lives.get("run", job.algorithm), p, key, tasks, updates)

        scores = {"run": over_seeds(curve)}
        if baselines:
            untrained = job.params(train.initial_states(job))
            values = np.asarray(jax.jit(lambda trees: jax.lax.map(curve, trees))(untrained))
            if isinstance(c, TrialConfig):
                scores["random initialisation"] = values.mean(axis=2, keepdims=True)
            else:
                scores[RANDOM_INIT] = values
            for name, rival in job.lives.items():
                if name != "run":
                    lived = jax.jit(lambda rival=rival: evaluation.adaptation_curve(rival, {}, key, tasks, updates))()
                    scores[f"{name}, same updates"] = np.asarray(lived)[None]
    if baselines and job.policy is not None:
        if isinstance(c, GradientConfig) and c.num_inner_steps:
            try:
                scores[NO_ADAPTATION] = _multi_task(job, run_dir, key, tasks, report)
            except train.RunFailed as error:
                report(f"the baseline without adaptation is left out: {error}")
        act = evaluation.uniform_policy(job.env)
        if isinstance(c, TrialConfig):
            random = jax.jit(lambda: _trial_returns(job, act, key, tasks))()
        else:
            random = jax.jit(lambda: _returns(job, act, {}, key, tasks))()
        scores[RANDOM_POLICY] = np.asarray(random)[None, :, None]
        episode = job.env.horizon if isinstance(c, TrialConfig) else job.horizon
        if job.tasks.oracle is not None and episode == job.tasks.horizon:
            best = np.asarray(jax.jit(lambda: evaluation.oracle_returns(job.tasks.oracle, tasks))())
            scores[ORACLE] = best[None, :, None, None]
    bad = next((name for name, values in scores.items() if not np.isfinite(values).all()), None)
    if bad is not None:
        raise train.RunFailed(f"NaN or infinity in the scores of {bad!r}: the policy diverges when it is evaluated")
    return _table(job, run_dir, iteration, scores), scores


def episodes_of(config: Config) -> int:
    """Episodes (or query examples) a task and update: `eval_episodes`, or as many as at training."""
    if config.eval_episodes is not None:
        return config.eval_episodes
    return config.episodes_per_task if isinstance(config, GradientConfig) else 1


def _for_evaluation(config: Any) -> Any:
    """The same learner, gathering as many episodes (or query examples) as evaluation asks for."""
    if isinstance(config, GradientConfig):
        return config.model_copy(update={"episodes_per_task": config.eval_episodes})
    if isinstance(config, PPOConfig):
        return config
    if isinstance(config, TrialConfig):  # nothing is trained, so that the parts need not divide the trials
        return config.model_copy(update={"trials_per_task": config.eval_episodes, "num_minibatches": 1})
    return config.model_copy(update={"queries": config.eval_episodes})


def _returns(job: Job, act: Callable, params: Params, key: jax.Array, tasks: Any) -> jax.Array:
    return evaluation.policy_returns(
        job.env, act, params, key, tasks, num_steps=job.horizon, num_episodes=episodes_of(job.config)
    )


def _trial_returns(job: Job, act: Callable, key: jax.Array, tasks: Any) -> jax.Array:
    """Mean return of an episode over the trials of a policy without a memory, [task, trial]."""

    def one(x: tuple[jax.Array, Any]) -> jax.Array:
        index, task = x
        num_trials = episodes_of(job.config)
        data, _ = rollout(
            job.env, act, {}, jax.random.fold_in(key, index), task, num_steps=job.horizon, num_envs=num_trials
        )
        ends = episode_ends(data.next_observation)
        return episode_returns(data.reward, ends, job.env.num_episodes).mean(axis=0)

    return jax.lax.map(one, (jax.numpy.arange(job.config.eval_tasks), tasks))


def _multi_task(job: Job, run_dir: Path, key: jax.Array, tasks: Any, report: Callable) -> np.ndarray:
    """One policy for all tasks, trained like the run but without inner updates; trained once, kept in the run.

    It gathers as many episodes an iteration as the run does before and after all its updates.
    """
    directory = run_dir / "no_adaptation"
    trained: Any = load(run_dir / "config.yaml")
    episodes = trained.episodes_per_task * (trained.num_inner_steps + 1)
    shared = {k: v for k, v in trained.model_dump().items() if k in MAMLConfig.model_fields and k not in _OF_ADAPTING}
    changes = {"algorithm": "maml", "num_inner_steps": 0, "num_seeds": 1, "episodes_per_task": episodes}
    if trained.algorithm == "reptile":  # its outer step size is not Adam's
        del shared["outer_lr"]
    plain = build(validate({**shared, **changes}))
    report("training the baseline without adaptation: multi-task PPO on as many environment steps")
    states = train.train(plain, directory, resume=True, report=lambda _: None)
    params = jax.tree.map(lambda x: x[0], plain.params(states))
    returns = jax.jit(lambda p: _returns(job, plain.policy.apply, p, key, tasks))(params)
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
        "stage": "episode" if isinstance(c, TrialConfig) else "stage" if isinstance(c, RuleConfig) else "update",
        "tasks_held_out": bool(job.tasks.held_out) and not isinstance(c, PPOConfig),
        "interval": f"95% percentile bootstrap over {'tasks' if run.shape[1] > 1 else 'episodes'}, stratified by seed",
        "adaptation": summary(run),
        "baselines": {name: summary(values) for name, values in scores.items() if name != "run"},
    }
    if isinstance(c, TrialConfig):
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
    existing = run_dir / "evaluation.json"
    if existing.exists():
        old = json.loads(existing.read_text())
        same = all(old[k] == table[k] for k in size) and len(old["adaptation"]) == len(table["adaptation"])
        if not same or set(old["baselines"]) - set(table["baselines"]):
            tag = f"-{table['num_tasks']}x{table['num_episodes']}-{len(table['adaptation']) - 1}"
            tag += "" if table["baselines"] else "-no-baselines"
    path = run_dir / f"evaluation{tag}.json"
    train.write_whole(path, json.dumps(table, indent=2) + "\n")
    named = {name.replace(" ", "_").replace(",", ""): values for name, values in scores.items()}
    np.savez_compressed(run_dir / f"scores{tag}.npz", allow_pickle=False, **named)
    return path
