"""Robots that walk: ProMP and its rivals, RL2 and VariBAD on the families of the papers.

The gradient-based methods have ProMP's setting (Rothfuss et al. 2019): 40 tasks x 20 episodes before and after one
inner step of .1, tanh 64-64, a linear baseline with gamma .99 and lambda 1, Adam 1e-3 for 5 epochs with clip .3, and,
as in its code, actions divided by 10. The paper trains 1,001 iterations; `ITERATIONS` says how many are trained here.
RL2 and VariBAD act for as many steps an iteration: 40 tasks x 20 trials of two episodes. Actions are not divided for
them; observations and rewards are normalised by running statistics. `rl2-raw` does without, its step size is annealed.

Judged is what must hold on any simulator: adaptation helps, and after one update ProMP's return is above that of one
policy for all tasks, trained on as many steps and fine-tuned by the same update, which is above that of random
initialisation. Returns of the papers are of other MuJoCos; they are not compared.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metarl_jax.algorithms.interface import RANDOM_INIT
from metarl_jax.envs.protocol import tasks_at_a_time
from metarl_jax.meta import evaluation
from metarl_jax.reproductions import NO_RULE, Claim, records
from metarl_jax.reproductions.pictures import EPISODES, UPDATES, reward_curves, training_curves
from metarl_jax.runs import config, evaluate, files, train
from metarl_jax.runs.build import build

SEEDS = 3
RUN = {"num_seeds": SEEDS, "checkpoint_every": 5, "eval_tasks": 40, "eval_episodes": 20}
BY_GRADIENT = {"meta_batch_size": 40, "episodes_per_task": 20, "inner_lr": 0.1, "eval_updates": 1}
BY_ADAM = {"outer_lr": 1e-3, "outer_epochs": 5, "outer_clip_eps": 0.3}
ON_TRIALS = {"num_episodes": 2, "meta_batch_size": 40, "trials_per_task": 20, "gae_lambda": 0.95, "gamma": 0.99}
RL2 = {"algorithm": "rl2", "size": 128, "lr": 5e-4, "num_epochs": 5, "num_minibatches": 8, **ON_TRIALS}
NORMALIZED = {"normalize_observations": True, "normalize_rewards": True}
METHODS: dict[str, dict[str, Any]] = {
    "promp": {"algorithm": "promp", "kl_coef": 5e-4, **BY_GRADIENT, **BY_ADAM},
    "maml-trpo": {"algorithm": "maml_trpo", "max_kl": 0.01, **BY_GRADIENT},
    "e-maml": {"algorithm": "e_maml", "exploration_coef": 1.0, **BY_GRADIENT, "outer_lr": 1e-3},
    "maml-vpg": {
        "algorithm": "maml", "inner_surrogate": "vpg", "outer_surrogate": "vpg", "baseline": "linear",
        "gae_lambda": 1.0, **BY_GRADIENT, "outer_lr": 1e-3, "outer_epochs": 1,
    },
    "rl2": {**RL2, **NORMALIZED, "anneal_lr": False},
    "varibad": {
        "algorithm": "varibad", "hidden": [128, 128], "encoder_size": 128, "lr": 5e-4, "num_epochs": 5,
        "num_minibatches": 8, "clip_eps": 0.2, "anneal_lr": False, "num_vae_updates": 20, "vae_batch_size": 80,
        "num_elbo_terms": 20, **ON_TRIALS, **NORMALIZED,
    },
    "rl2-raw": RL2,
}  # fmt: skip
RIVALS = "rivals"  # the cell that trains one policy for all tasks, on as many steps as ProMP
LEARN_BY_ACTING = ("rl2", "varibad", "rl2-raw")
FAMILIES: dict[str, dict[str, Any]] = {
    "halfcheetah-dir": {"env": "HalfCheetahDir-v0", "horizon": 100},
    "halfcheetah-vel": {"env": "HalfCheetahVel-v0", "horizon": 200},
    "ant-dir": {"env": "AntDir-v0", "horizon": 200},
    "walker-rand-params": {"env": "Walker2DRandParams-v0", "horizon": 200},
}
# Shown beside, not judged: (environment steps, return of an adapted episode of 200 steps) of PEARL, one seed, from the
# TensorBoard files of a re-implementation, github.com/x35f/meta_rl; actions are not divided there.
PEARL = {
    "halfcheetah-dir": ((0.156e6, 600), (0.37e6, 741), (0.73e6, 1371), (1.09e6, 1570), (1.44e6, 1674)),
    "halfcheetah-vel": ((0.205e6, -281), (0.26e6, -66), (0.35e6, -45), (0.78e6, -37)),
    "ant-dir": ((0.21e6, 316), (0.51e6, 748), (1.0e6, 877), (1.5e6, 973), (2.0e6, 1056)),
    "walker-rand-params": ((0.09e6, 169), (0.34e6, 363), (0.59e6, 500), (0.84e6, 652), (1.09e6, 724)),
}
PEARL_HORIZON = 200
ITERATIONS = {
    ("halfcheetah-dir", "promp"): 200,
    ("halfcheetah-dir", "maml-trpo"): 200,
    **{("halfcheetah-dir", method): 100 for method in ("e-maml", "maml-vpg", "rl2", "varibad", "rl2-raw")},
    **{(family, method): 200 for family in ("halfcheetah-vel", "walker-rand-params") for method in ("promp", "rl2")},
    **{("ant-dir", method): 60 for method in ("promp", "rl2")},
}


def configuration(family: str, method: str) -> Any:
    """What a cell trains."""
    scale = {} if method in LEARN_BY_ACTING else {"env_options": {"action_scale": 0.1}}
    number = {"num_iterations": ITERATIONS[family, method]}
    return config.validate({**RUN, **FAMILIES[family], **scale, **METHODS[method], **number})


def run_family(family: str, directory: Path, report: Callable[[Any], None], cells: tuple[str, ...]) -> list[Claim]:
    """Train `cells` (kept in `directory`, going on where they were left), evaluate on held-out tasks, judge.

    Returns the claims of all cells that have a record in `directory`.
    """
    for cell in cells:
        method = "promp" if cell == RIVALS else cell
        c = configuration(family, method)
        job, where = build(c), directory / method
        report(f"{family}, {method}: {SEEDS} seeds x {c.num_iterations} iterations of {job.work_per_iteration:,} steps")
        train.train(job, where, resume=True, report=report)
        table, scores = evaluate.assess(where, baselines=cell == RIVALS, report=report)
        evaluate.save(where, table, scores)
        if cell == RIVALS:
            records.write(directory, cell, _rivals(where, scores))
        else:
            curve = training_curve(where, job.work_per_iteration)
            records.write(directory, cell, _claims(method, table), curve, where)
    found = records.read(directory, (*METHODS, RIVALS))
    _pictures(family, directory, found)
    return records.claims_of(found)


def _pictures(family: str, directory: Path, found: dict[str, records.Record]) -> None:
    """Curves of the gradient-based methods, and of those that learn by acting; each beside PEARL's."""
    pearl = np.array(PEARL[family], float)
    beside = {"PEARL, published, one seed": (pearl[:, 0], pearl[:, 1] / PEARL_HORIZON)}
    for name, methods, labels in (
        (family, [m for m in METHODS if m not in LEARN_BY_ACTING], UPDATES),
        (f"{family}-trials", LEARN_BY_ACTING, EPISODES),
    ):
        curves = records.curves_of(found, methods)
        if curves:
            training_curves(directory / f"{name}.png", curves, labels=labels)
            horizon = FAMILIES[family]["horizon"]
            per_step = {method: (steps, returns[..., 1] / horizon) for method, (steps, returns) in curves.items()}
            reward_curves(directory / f"{name}-per-step.png", per_step, beside)


def training_curve(run_dir: Path, work: int, of: str = "return") -> tuple[np.ndarray, np.ndarray]:
    """(environment steps of a seed so far [iteration], returns before and after adaptation [iteration, seed, 2]).

    `of`: another metric that has such names, such as success.
    """
    rows = files.read_rows(run_dir / "metrics.jsonl")
    names = (f"{of}_0", f"{of}_1") if f"{of}_0" in rows[0] else (f"first_episode_{of}", f"last_episode_{of}")
    returns = np.stack([files.column(rows, name) for name in names], axis=2)
    return work * np.array([row["iteration"] for row in rows]), returns


def _claims(method: str, table: dict[str, Any]) -> list[Claim]:
    after = [row["mean"] for row in table["adaptation"]]
    between = [tuple(row["mean_interval"]) for row in table["adaptation"]]
    gain = table["gain"][0]
    return [
        Claim(f"{method}: return before adaptation", after[0], between[0], NO_RULE, True),
        Claim(f"{method}: return after adaptation", after[1], between[1], NO_RULE, True),
        Claim(
            f"{method}: gain by adapting", gain["mean"], (gain["low"], gain["high"]), "interval > 0", gain["low"] > 0
        ),
    ]


def _rivals(run_dir: Path, scores: dict[str, np.ndarray]) -> list[Claim]:
    """ProMP after one update, one policy for all tasks and an untrained one, both after the same update."""
    adapted = {
        "promp": scores["run"][:, :, 1].mean(axis=-1),
        "one policy for all tasks, fine-tuned": _fine_tuned(run_dir)[None],
        "random initialisation, adapted": scores[RANDOM_INIT][:, :, 1].mean(axis=-1),
    }
    claims = []
    for (name, ours), (other, theirs) in pairwise(adapted.items()):
        more, low, high = evaluation.bootstrap_interval(ours - theirs, evaluation.mean)
        claims.append(Claim(f"{name}: more than {other}", more, (low, high), "interval > 0", low > 0))
    return claims


def _fine_tuned(run_dir: Path) -> np.ndarray:
    """Return [task] of the policy for all tasks that `evaluate.assess` has trained, after ProMP's inner update."""
    job, plain = evaluate.open_run(run_dir), evaluate.open_run(run_dir / "no_adaptation")
    params = jax.tree.map(lambda x: x[0], evaluate.restore(plain, run_dir / "no_adaptation")[1])
    tasks, key = job.evaluation_tasks(job.config.eval_tasks), jax.random.key(evaluate.EVALUATION)
    size = tasks_at_a_time(job.env, job.config.eval_tasks)
    curve = jax.jit(lambda p: evaluation.adaptation_curve(job.algorithm, p, key, tasks, 1, size))(params)
    return np.asarray(curve)[:, 1].mean(axis=-1)


def halfcheetah_dir(directory: Path, report: Callable[[Any], None], cells: tuple[str, ...]) -> list[Claim]:
    """HalfCheetahDir: two tasks, so that held-out tasks are the tasks of training."""
    return run_family("halfcheetah-dir", directory, report, cells)


def halfcheetah_vel(directory: Path, report: Callable[[Any], None], cells: tuple[str, ...]) -> list[Claim]:
    """HalfCheetahVel, goals U[0, 3] m/s."""
    return run_family("halfcheetah-vel", directory, report, cells)


def ant_dir(directory: Path, report: Callable[[Any], None], cells: tuple[str, ...]) -> list[Claim]:
    """AntDir, directions of the plane, survive bonus 1."""
    return run_family("ant-dir", directory, report, cells)


def walker_rand_params(directory: Path, report: Callable[[Any], None], cells: tuple[str, ...]) -> list[Claim]:
    """Walker2DRandParams."""
    return run_family("walker-rand-params", directory, report, cells)
