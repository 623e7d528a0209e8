"""What a person looks at: tables, learning curves, pictures and films of adaptation."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from metarl_jax.runs import files, style
from metarl_jax.runs.build import Job, build
from metarl_jax.runs.held_out import FILE as HELD_OUT


def format_table(table: dict[str, Any]) -> str:
    """The adaptation table as text: a row for each update and baseline, with 95% intervals."""
    rows = table_rows(table)
    width = max(len(label) for label, _ in rows)
    lines = [headline(table), "", f"{'':{width}}  {'mean':>9}  {'95% interval':>20}  {'IQM':>9}  {'95% interval':>20}"]
    for label, row in rows:
        mean, iqm = (f"{row[k]:9.3f}  {_interval(row[k + '_interval']):>20}" for k in ("mean", "iqm"))
        lines.append(f"{label:{width}}  {mean}  {iqm}")
        if row is table["adaptation"][-1] and table["baselines"]:
            lines.append("")
    for line in remarks(table):
        lines += ["", line]
    lines.append(f"intervals: {table['interval']}")
    return "\n".join(lines)


def headline(table: dict[str, Any]) -> str:
    """What an adaptation table holds: algorithm, environment, score, tasks, episodes, seeds, iteration."""
    head = f"{table['algorithm']} on {table['env']}: {table['score']} on {table['num_tasks']} "
    many = "tasks" if table["num_tasks"] > 1 else "task"
    head += f"held-out {many}" if table["tasks_held_out"] else f"{many} (none is held out)"
    by_episode = table.get("stage") == "episode"
    what = "trials" if by_episode else "episodes" if table["score"] == "return" else "examples"
    head += f", {table['num_episodes']} {what} each"
    return head + f", {table['num_seeds']} seed{'s' if table['num_seeds'] > 1 else ''}, iteration {table['iteration']}"


def table_rows(table: dict[str, Any], whole: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """(label, row) of an adaptation table: the run's stages, some of many or the whole, then the baselines."""
    stage = table.get("stage", "update")
    rows: list[tuple[str, dict[str, Any]]] = []
    last = table["adaptation"][-1]["update"]
    for row in table["adaptation"]:
        u = row["update"]
        if stage == "episode" and not whole and not _shown(u + 1, last + 1):
            continue
        rows.append((_when(u, stage) if len(table["adaptation"]) > 1 else "trained policy", row))
    for name, summaries in table["baselines"].items():
        for row in summaries:
            suffix = f": {_when(row['update'], stage)}" if len(summaries) > 1 else ""
            rows.append((name + suffix, row))
    return rows


def _when(update: int, stage: str) -> str:
    if stage == "episode":
        return f"episode {update + 1}"
    return "before adaptation" if update == 0 else f"after {update} {stage}{'s' if update > 1 else ''}"


def remarks(table: dict[str, Any]) -> list[str]:
    """What stands under an adaptation table: the whole trial, the gain of the first update, reports such as success."""
    stage, last = table.get("stage", "update"), table["adaptation"][-1]["update"]
    by_episode = stage == "episode"
    lines = []
    if "trial" in table:
        t = table["trial"]
        lines.append(f"whole trial of {last + 1} episodes: {t['mean']:.3f} {_interval([t['low'], t['high']])}")
    if "gain" in table and not by_episode and table["gain"][0]["mean"] > 0:
        g = table["gain"][0]
        lines.append(
            f"gain of the first {stage} {g['mean']:.3f} {_interval([g['low'], g['high']])}, on "
            f"{100 * table['share_of_tasks_improved']:.0f}% of tasks; 90% of the whole gain after "
            f"{table['convergence_update']} {stage}(s)"
        )
    for name, rates in table.get("reports", {}).items():
        if name == "success" or any(row["mean"] for row in rates):
            stages = [(f"{stage} {row['update'] + by_episode}", row) for row in rates if _shown(row["update"], last)]
            said = [f"{label}: {row['mean']:.2f} {_interval(row['mean_interval'])}" for label, row in stages]
            lines.append(f"{name}, share of episodes: {'; '.join(said)}")
    return lines


def _shown(episode: int, last: int) -> bool:
    """Whether a table of `last` episodes has a row for this one: of many, 1, 2, 5, 10, 20, 50, ... and the last."""
    return last <= 12 or episode == last or str(episode).rstrip("0") in ("1", "2", "5")


def _interval(bounds: list[float]) -> str:
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"


def learning_curve(job: Job, run_dir: Path) -> Path | None:
    """PNG of the training scores against work: the mean over seeds with its 95% interval, or of one seed every score.

    Of two seeds each is drawn thin in the place of an interval. One seed's scores are drawn thin, with means over a
    window of rows in front; the legend says how many.
    Learners that adapt by updates have a line before adaptation and one after each; RL2 and VariBAD one for the first,
    the second and the last episode of a trial. None where the run has logged nothing yet.
    """
    rows = files.read_rows(run_dir / "metrics.jsonl")
    if not rows:
        return None
    lines = curves(job, rows)
    made, axes = style.figure()
    axis = axes[0][0]
    scale, label_of_work = work_axis(job, rows)
    x = np.array([row["iteration"] for row in rows], float) * job.work_per_iteration / scale
    for i, (name, label) in enumerate(lines.items()):
        colour = style.STAGES[min(i, len(style.STAGES) - 1)] if len(lines) > 1 else style.OURS
        values = files.column(rows, name)
        if values.shape[1] > 1:
            centre, low, high = style.mean_and_interval(values)
            axis.plot(x, centre, color=colour, label=label, linewidth=1.8)
            if values.shape[1] < style.SEEDS_OF_A_BAND:
                axis.plot(x, values, color=colour, linewidth=0.7, alpha=0.5)
            else:
                axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            continue
        window = style.window(len(values))
        axis.plot(x, values[:, 0], color=colour, linewidth=0.7, alpha=0.4 if window > 1 else 1.0)
        axis.plot(x, style.smoothed(values[:, 0], window), color=colour, label=label, linewidth=1.8)
    _held_out(axis, job.work_per_iteration / scale, run_dir)
    axis.set_xlabel(label_of_work)
    axis.set_ylabel(score_axis(job))
    axis.set_title(f"{job.config.algorithm} on {job.config.env}, training", fontsize=10, color=style.INK)
    if not job.higher_is_better:
        axis.set_yscale("log")
    what = "iterations" if job.config.log_every == 1 else "logged iterations"
    seeds = job.config.num_seeds
    over = f"mean of {seeds} seeds,\n" + ("band: 95% interval (t)" if seeds >= style.SEEDS_OF_A_BAND else "thin: each")
    alone = "one seed" + (f",\nthick: mean of {window} {what}" if values.shape[1] == 1 and window > 1 else "")
    axis.legend(frameon=False, fontsize=8, title=over if values.shape[1] > 1 else alone, title_fontsize=8)
    return style.save(made, run_dir / "learning_curve.png")


def work_axis(job: Job, rows: list[dict[str, Any]]) -> tuple[float, str]:
    """(scale, label) of the axis of work: environment steps or examples of one seed, over the scale."""
    scale = 1e6 if rows[-1]["iteration"] * job.work_per_iteration >= 1e6 else 1.0
    unit = "environment steps" if job.unit == "steps" else job.unit
    return scale, f"{unit} of one seed" + (", millions" if scale > 1 else "")


def score_axis(job: Job) -> str:
    """What the axis of scores says."""
    return "return of an episode" if job.higher_is_better else "mean squared error"


def held_out_scores(run_dir: Path) -> tuple[list[int], np.ndarray, str]:
    """(iterations, scores [iteration, seed] on held-out tasks at the end of adaptation, what they are called)."""
    rows = files.read_rows(run_dir / HELD_OUT, "held-out scores") if (run_dir / HELD_OUT).is_file() else []
    numbered = [k.removeprefix("score_") for k in (rows[0] if rows else {}) if k.startswith("score_")]
    stages = [int(k) for k in numbered if k.isdigit()]
    if not stages:
        return [], np.zeros((0, 1)), ""
    label = "held-out tasks, adapted" if max(stages) else "held-out tasks"
    return [row["iteration"] for row in rows], files.column(rows, f"score_{max(stages)}"), label


def _held_out(axis: Any, work: float, run_dir: Path) -> None:
    """Points: scores on held-out tasks at the end of adaptation."""
    iterations, values, label = held_out_scores(run_dir)
    if iterations:
        x = np.array(iterations, float) * work
        axis.plot(x, values.mean(axis=1), "o", color=style.INK, markersize=4, label=label)


def curves(job: Job, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Metric -> what it is called, in the order of adaptation."""
    there = rows[0]
    prefix = job.score.rsplit("_", 1)[0]
    numbered = {
        k: int(k.rsplit("_", 1)[1]) for k in there if k.startswith(prefix + "_") and k.rsplit("_", 1)[1].isdigit()
    }
    if prefix in ("return", "mse") and numbered:
        return {
            name: "before adaptation" if u == 0 else f"after {u} update{'s' * (u != 1)}"
            for name, u in sorted(numbered.items(), key=lambda item: item[1])
        }
    episodes = {f"{which}_episode_return": f"{which} episode of a trial" for which in ("first", "second", "last")}
    found = {name: label for name, label in episodes.items() if name in there}
    return found or {job.score: job.score.replace("_", " ")}


def is_navigation(job: Job) -> bool:
    """Whether observations are positions in the plane and the task is a goal there."""
    if job.policy is None or not hasattr(job.env.default_params, "goal"):
        return False
    return tuple(job.env.observation_space(job.env.default_params).shape) == (2,)


def adaptation_paths(job: Job, params: Any, num_tasks: int, num_updates: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions [task, update, T, episode, 2] (NaN after the end of an episode), and goals [task, 2]."""
    tasks = _apart(job.evaluation_tasks(max(num_tasks, job.config.eval_tasks)), num_tasks)
    algorithm = build(job.config, evaluation=True).algorithm

    def one(x: tuple) -> Any:
        index, task = x
        key = jax.random.fold_in(jax.random.key(0), index)
        trial, _ = algorithm.collect(params, key, task, num_updates=num_updates)
        batches = jax.tree.map(lambda a, b: jax.numpy.concatenate([a, b[None]]), trial.inner, trial.outer)
        return jax.numpy.where(batches.mask[..., None] > 0, batches.observation, jax.numpy.nan)

    positions = jax.jit(lambda t: jax.lax.map(one, (jax.numpy.arange(num_tasks), t)))(tasks)
    return np.asarray(positions), np.asarray(tasks.goal)


def _apart(tasks: Any, number: int) -> Any:
    """The first of the tasks, and those whose goals lie in the directions furthest from the ones before."""
    goals = np.asarray(tasks.goal)
    direction = goals / np.maximum(np.linalg.norm(goals, axis=1, keepdims=True), 1e-9)
    chosen = [0]
    while len(chosen) < number:
        nearest = (direction @ direction[chosen].T).max(axis=1)
        chosen.append(int(np.argmin(nearest)))
    return jax.tree.map(lambda x: x[np.array(chosen)], tasks)


def _draw_tasks(positions: np.ndarray, goals: np.ndarray, until: int | None = None, width: float = 2.6) -> Any:
    """A panel for each task and update: four episodes, the mean over all of them, the start and the goal."""
    num_tasks, num_updates = positions.shape[:2]
    reach = max(np.nanmax(np.abs(positions[:, :, :, :4])), np.abs(goals).max()) * 1.05
    figure, panels = style.figure(num_tasks, num_updates, width, width + 0.1)
    for i in range(num_tasks):
        for u in range(num_updates):
            axes = panels[i][u]
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
            axes.locator_params(nbins=4)
            axes.tick_params(labelsize=7, length=0, labelleft=u == 0, labelbottom=i == num_tasks - 1)
            for spine in axes.spines.values():
                spine.set(color=style.GRID, visible=True)
            colour = style.STAGES[min(u, len(style.STAGES) - 1)]
            walked = positions[i, u, :until]
            axes.plot(walked[:, :4, 0], walked[:, :4, 1], color=colour, linewidth=0.6, alpha=0.3)
            lasting = ~np.isnan(walked[:, :, 0]).all(axis=1)
            centre = np.nanmean(walked[lasting], axis=1)
            axes.plot(centre[:, 0], centre[:, 1], color=colour, linewidth=2.5, solid_capstyle="round")
            axes.plot(*positions[i, u, 0, 0], marker="o", color=style.INK, markersize=4)
            axes.plot(*goals[i], marker="*", color=style.OURS, markersize=12, markeredgecolor="white")
            if i == 0:
                label = "before adaptation" if u == 0 else f"after {u} update{'s' if u > 1 else ''}"
                axes.set_title(label, fontsize=10, color=style.INK)
            if u == 0:
                axes.set_ylabel(f"task {i + 1}\ny", fontsize=8, color=style.INK)
            if i == num_tasks - 1:
                axes.set_xlabel("x", fontsize=8, color=style.INK)
    style.key(
        figure,
        {
            "start": {"marker": "o", "color": style.INK, "linestyle": "", "markersize": 4},
            "goal, not observed": {"marker": "*", "color": style.OURS, "linestyle": "", "markersize": 10},
            "one episode": {"color": style.INK, "linewidth": 0.6, "alpha": 0.4},
            f"mean of {positions.shape[3]} episodes": {"color": style.INK, "linewidth": 2.5},
        },
    )
    return figure


def adaptation_picture(positions: np.ndarray, goals: np.ndarray, path: Path) -> Path:
    """PNG: paths before and after each update, one row a task."""
    return style.save(_draw_tasks(positions, goals), path)


def adaptation_film(positions: np.ndarray, goals: np.ndarray, path: Path, num_frames: int = 25) -> Path:
    """GIF: the same paths being walked, a pause at the end."""
    import io

    import matplotlib.pyplot as plt
    from PIL import Image

    steps = np.unique(np.linspace(1, positions.shape[2], num_frames).astype(int))
    frames = []
    for until in steps:
        figure = _draw_tasks(positions, goals, int(until), width=1.8)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=80)
        plt.close(figure)
        buffer.seek(0)
        frames.append(Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE))
    durations = [80] * (len(frames) - 1) + [2000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    return path


def pictures(job: Job, run_dir: Path, params: Any | None = None, num_updates: int = 3) -> list[Path]:
    """Every picture that fits the run; `params` are one seed's."""
    curve = learning_curve(job, run_dir)
    made = [] if curve is None else [curve]
    if params is not None and is_navigation(job):
        positions, goals = adaptation_paths(job, params, num_tasks=3, num_updates=num_updates)
        made.append(adaptation_picture(positions, goals, run_dir / "adaptation.png"))
        made.append(adaptation_film(positions, goals, run_dir / "adaptation.gif"))
    return made
