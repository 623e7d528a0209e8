"""An agent before and after adaptation, as a film: the first seed of a run on held-out tasks.

An environment that can be filmed has `frames(states, task)`: states [T] of one episode -> pictures, uint8
[T, height, width, 3], of one size for all tasks. `seconds_a_step`, where it has that, is how long one is shown.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.envs.trial import Trials
from metarl_jax.options import ConfigError
from metarl_jax.runs import evaluate, files
from metarl_jax.runs.build import Job

SECONDS_A_STEP = 0.1  # where an environment does not say


def film(
    run_dir: Path, chosen: Sequence[int], path: Path, every: int = 2, report: Callable[[Any], None] = print
) -> Path:
    """Write a GIF: left the episode before adaptation, right the one after the first update, a row for each task.

    Of RL2, which learns by acting, it shows the first and the last episode of a trial.

    Args:
        chosen: which of the held-out tasks. every: steps from one picture to the next.
    Raises: ConfigError for a run on what cannot be drawn, or that does not adapt, for a task that is not among those of
        its evaluation, and for a file that cannot be written.
    """
    from metarl_jax.envs.physics.film import NoRenderer

    job = evaluate.open_run(run_dir)
    files.make_directory(path.parent, "output")
    inside = job.env.env if isinstance(job.env, Trials) else job.env
    if not hasattr(inside, "frames"):
        raise ConfigError(f"run {run_dir}: env = {job.config.env} has nothing to film: it has no function `frames`")
    if max(chosen) >= job.config.eval_tasks:
        raise ConfigError(f"task = {max(chosen)}: must be below eval_tasks = {job.config.eval_tasks}")
    play = jax.jit(_player(job))
    iteration, params = evaluate.restore(job, run_dir)
    first = jax.tree.map(lambda x: x[0], params)
    tasks, key = job.evaluation_tasks(max(chosen) + 1), jax.random.key(evaluate.EVALUATION)
    in_trials = isinstance(job.env, Trials)
    names = ("first episode", "last episode") if in_trials else ("before adaptation", "after adaptation")
    rows = []
    for index in chosen:
        report(f"filming iteration {iteration} on held-out task {index}")
        task = jax.tree.map(lambda x, i=index: x[i], tasks)
        row = []
        for name, (states, total) in zip(names, _episodes(job, play(first, key, task)), strict=True):
            label = f"{name}: return {total:.1f}" if len(chosen) == 1 else f"task {index}, {name}: return {total:.1f}"
            try:
                pictures = inside.frames(jax.tree.map(lambda x: x[::every], states), task)
            except (NoRenderer, ValueError) as error:
                raise ConfigError(str(error)) from None
            row.append(_labelled(pictures, label))
        rows.append(row)
    seconds = every * getattr(inside, "seconds_a_step", SECONDS_A_STEP)
    with files.worded(f"output {path}: cannot be written"):
        return write_gif(path, in_rows(rows), seconds)


def _player(job: Job) -> Callable[[Any, jax.Array, Any], Any]:
    """(params, key, task) -> steps of one episode before and of one after adaptation.

    Each is (states after the steps, rewards, whether the episode ended there), [T] each; a trial is cut by `_episodes`.
    """
    if isinstance(job.env, Trials):
        if job.policy.step is None or job.policy.remember is None:
            raise ConfigError(f"algorithm = {job.config.algorithm}: films of it are not supported")
        return lambda params, key, task: _trial(job, params, jax.random.split(key)[1], task)
    if job.evaluation.stage != "update" or not job.evaluation.num_updates:
        raise ConfigError(f"algorithm = {job.config.algorithm}: has no policy before and after adaptation to film")

    def both(params: Any, key: jax.Array, task: Any) -> Any:
        collect_key, act_key = jax.random.split(key)
        trial, _ = job.algorithm.collect(params, collect_key, task, num_updates=1)
        after = job.algorithm.adapt(params, trial).params
        return [_episode(job, p, act_key, task) for p in (_before(job, params, trial), after)]

    return both


def _before(job: Job, params: Any, trial: Any) -> Any:
    """What acts before adaptation: adapting on nothing."""
    nothing = jax.tree.map(lambda x: x[:0], trial.inner)
    return job.algorithm.adapt(params, trial.replace(inner=nothing, keys=trial.keys[:0])).params


def _episode(job: Job, params: Any, key: jax.Array, task: Any) -> Any:
    reset_key, key = jax.random.split(key)

    def step(carry: Any, key: jax.Array) -> Any:
        observation, state = carry
        action = job.policy.apply(params, observation[None]).sample(seed=key)[0]
        observation, state, reward, terminated, _ = job.env.step_env(key, state, action, task)
        return (observation, state), (state, reward, terminated | job.env.is_truncated(state, task))

    keys = jax.random.split(key, job.horizon)
    states, rewards, over = jax.lax.scan(step, job.env.reset_env(reset_key, task), keys)[1]
    return states, rewards, over.at[-1].set(True)


def _trial(job: Job, params: Any, key: jax.Array, task: Any) -> Any:
    """The steps of a whole trial, where states are those before a new episode begins."""
    env, policy = job.env, job.policy

    def step(carry: Any, key: jax.Array) -> Any:
        seen, memory = carry
        memory, distribution = policy.step(params, memory, seen[0][None])
        action = distribution.sample(seed=key)[0]
        observation, state, reward, _, info = env.advance(key, seen[1], action, task)
        over, fresh = info["episode_over"], env.restart(key, observation, state, task)
        begun = jax.tree.map(lambda x, y: jnp.where(over, x, y).astype(y.dtype), fresh, (observation, state))
        return (begun, memory), (state.env_state, reward, over)

    keys = jax.random.split(key, env.num_steps)
    return jax.lax.scan(step, (env.reset_env(key, task), policy.remember(1)), keys)[1]


def _episodes(job: Job, played: Any) -> list[tuple[Any, float]]:
    """(states, return) of the episode before adaptation, up to its end, and of the one after it."""
    if isinstance(played, list):
        return [_part(steps, 0, int(np.argmax(steps[2])) + 1) for steps in played]
    ends = [0, *np.flatnonzero(played[2])[: job.env.num_episodes] + 1]
    return [_part(played, ends[0], ends[1]), _part(played, ends[-2], ends[-1])]


def _part(steps: Any, begin: int, end: int) -> tuple[Any, float]:
    states, rewards, _ = jax.tree.map(lambda x: np.asarray(x)[begin:end], steps)
    return states, float(rewards.sum())


def _labelled(pictures: np.ndarray, label: str) -> list[Any]:
    """Pillow images of pictures [T, H, W, 3] with a label in their upper left corner."""
    from PIL import Image, ImageDraw

    images = [Image.fromarray(picture) for picture in pictures]
    for image in images:
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, 8 + draw.textlength(label), 15), fill=(255, 255, 255))
        draw.text((4, 2), label, fill=(20, 20, 20))
    return images


def in_rows(films: Sequence[Sequence[Sequence[Any]]]) -> list[Any]:
    """Films [row][column][T] of images of one size in one; those that are over show their last image."""
    from PIL import Image

    width, height = films[0][0][0].size
    length = max(len(each) for row in films for each in row)
    images = []
    for t in range(length):
        whole = Image.new("RGB", (width * len(films[0]), height * len(films)))
        for i, row in enumerate(films):
            for j, each in enumerate(row):
                whole.paste(each[min(t, len(each) - 1)], (j * width, i * height))
        images.append(whole)
    return images


def write_gif(path: Path, images: Sequence[Any], seconds_a_frame: float) -> Path:
    """An endless GIF of Pillow images, in one palette of 128 colours: those of the first, a middle and the last."""
    some = in_rows([[[images[i]]] for i in (0, len(images) // 2, -1)])[0]
    palette = some.quantize(colors=128)
    few = [image.quantize(palette=palette, dither=0) for image in images]
    ms = max(20, round(1000 * seconds_a_frame))
    few[0].save(path, format="GIF", save_all=True, append_images=few[1:], duration=ms, loop=0, optimize=False)
    return path
