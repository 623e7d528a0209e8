"""Landscapes: how well PPO does with which hyperparameters, on many tasks. What a learned optimiser is trained on.

One sweep a family (`make`, resumable, as long as a sweep is), read into one file (`read`, `save`, `load`):

| array | shape | what |
| --- | --- | --- |
| `names` | [F] | the families, in alphabetical order |
| `hyperparameters` | [7] | names, in the order of the columns of `settings` |
| `family`, `task` | [R] | of run r: index into `names`; `task_seed` |
| `settings` | [R, 7] | hyperparameters, as they were used |
| `points` | [R, 7] | the same in [0, 1], even where the range is (log for lr) |
| `curves` | [R, 16] | mean return of the episodes that ended in each sixteenth of training |
| `scores` | [R] | mean return over the last tenth of training |
| `diverged` | [R] | whether something became NaN or infinite |
| `traits` | [F, 4, T] | description of each task, `traits.describe` |
"""

import csv
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.runs import files
from metarl_jax.runs.config import load as load_config
from metarl_jax.runs.config import shipped_config, validate
from metarl_jax.sweeps import plan as sweep_plan
from metarl_jax.sweeps import run
from metarl_jax.sweeps.engines import Cluster
from metarl_jax.sweeps.plan import Sweep
from metarl_jax.sweeps.search_space import Dimension, parse
from metarl_jax.tuning.landscape_families import FAMILIES, SPACE, Family
from metarl_jax.tuning.task_features import describe

CURVE_POINTS = 16
TASKS = (0, 1, 2, 3)  # task seeds of the landscapes; others are new tasks
TRIALS = 512


@dataclasses.dataclass(frozen=True)
class Landscapes:
    """The arrays of the table above."""

    names: tuple[str, ...]
    family: np.ndarray
    task: np.ndarray
    settings: np.ndarray
    points: np.ndarray
    curves: np.ndarray
    scores: np.ndarray
    diverged: np.ndarray
    traits: np.ndarray

    def of(self, names: Sequence[str]) -> "Landscapes":
        """Those of some families only."""
        chosen = [self.names.index(name) for name in sorted(names)]
        keep = np.isin(self.family, chosen)
        place = {old: new for new, old in enumerate(chosen)}
        arrays = {f: getattr(self, f)[keep] for f in ("task", "settings", "points", "curves", "scores", "diverged")}
        family = np.asarray([place[f] for f in self.family[keep]])
        return Landscapes(tuple(sorted(names)), family, traits=self.traits[chosen], **arrays)


def tuned_config(family: Family | None = None, **changes: Any) -> Any:
    """The configuration that is tuned, configs/ppo_families.yaml, on a family."""
    plain = load_config(shipped_config("ppo_families")).model_dump()
    where = {} if family is None else {"env": family.env, "env_options": family.env_options}
    return validate({**plain, **where, **changes})


def space() -> tuple[Dimension, ...]:
    """The ranges of `families.SPACE`."""
    plain = tuned_config().model_dump()
    return tuple(parse(text, plain) for text in SPACE)


def to_settings(points: np.ndarray) -> list[dict[str, float]]:
    """[..., 7] in [0, 1] -> hyperparameters."""
    dimensions = space()
    return [{d.name: d.at(float(u)) for d, u in zip(dimensions, row, strict=True)} for row in points]


def plan(name: str, trials: int = TRIALS) -> Sweep:
    """The sweep that makes the landscape of a family: the same settings for all families."""
    tasks = f"task_seed=[{','.join(map(str, TASKS))}]"
    return run.make(tuned_config(FAMILIES[name]), [*SPACE, tasks], method="random", num_trials=trials)


def make(
    directory: Path,
    names: Sequence[str],
    report: Callable[[Any], None],
    trials: int = TRIALS,
    cluster: Cluster | None = None,
) -> Landscapes:
    """Run the sweeps that are not yet in `directory`, on the workers of a cluster if there is one, then `read`."""
    for name in names:
        report(f"{name}:")
        run.run(plan(name, trials), directory / name, resume=True, report=report, cluster=cluster)
    return read(directory, names)


def read(directory: Path, names: Sequence[str]) -> Landscapes:
    """The landscapes out of the sweeps of these families."""
    columns: dict[str, list[Any]] = {k: [] for k in ("family", "task", "settings", "curves", "scores", "diverged")}
    dimensions = space()
    for place, name in enumerate(sorted(names)):
        made = sweep_plan.read(directory / name / "sweep.json")["settings"]
        raw = files.read_arrays(directory / name / "curves.npz", "curves", "score")["score"]
        raw = raw[:, 0].astype(float)  # [trial, iteration]
        with (directory / name / "table.csv").open() as table:
            diverged = {int(row["trial"]): row["diverged_seeds"] != "0" for row in csv.DictReader(table)}
        columns["diverged"].append([diverged[trial] for trial in range(len(made))])
        raw[np.asarray(columns["diverged"][-1])] = np.nan
        columns["curves"].append(shorten(raw))
        columns["scores"].append(scored(raw))
        columns["family"].append(np.full(len(made), place))
        columns["task"].append([s["task_seed"] for s in made])
        columns["settings"].append([[s[d.name] for d in dimensions] for s in made])
    flat = {k: np.concatenate([np.asarray(x) for x in v]) for k, v in columns.items()}
    points = np.stack([[d.unit(x) for d, x in zip(dimensions, row, strict=True)] for row in flat["settings"]])
    traits = [_traits(directory / n / "traits.npy", n) for n in sorted(names)]
    return Landscapes(tuple(sorted(names)), points=points, traits=np.asarray(traits), **flat)


def _traits(path: Path, name: str) -> np.ndarray:
    """Of the tasks of a family; kept in a file, since they take longer to compile than everything else here."""
    if not path.exists():
        files.write_array(path, describe(tuned_config(FAMILIES[name]), TASKS))
    return files.read_arrays(path, "task features")[""]


def scored(curves: np.ndarray) -> np.ndarray:
    """[run, iteration] -> [run] mean over the last tenth, or over the last sixteenth in which an episode ended."""
    last = run.final_scores(curves[:, None], np.full(len(curves), curves.shape[1]))[:, 0]
    return np.where(np.isfinite(last), last, shorten(curves)[:, -1])


def shorten(curves: np.ndarray) -> np.ndarray:
    """[run, iteration] -> [run, 16], means over sixteenths; where no episode ended, the value before (or after)."""
    import warnings

    parts = np.array_split(np.where(np.isfinite(curves), curves, np.nan), CURVE_POINTS, axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        short = np.stack([np.nanmean(part, axis=1) for part in parts], axis=1)
    for i in range(1, CURVE_POINTS):
        short[:, i] = np.where(np.isfinite(short[:, i]), short[:, i], short[:, i - 1])
    for i in reversed(range(CURVE_POINTS - 1)):
        short[:, i] = np.where(np.isfinite(short[:, i]), short[:, i], short[:, i + 1])
    return short


def save(landscapes: Landscapes, path: Path) -> None:
    """One compressed .npz with the arrays of the table above; numbers in half precision where that is enough."""
    arrays = dataclasses.asdict(landscapes)
    small = {"settings": np.float32, "points": np.float16, "curves": np.float32, "scores": np.float32, "task": np.int16}
    arrays = {k: np.asarray(v).astype(small.get(k, np.asarray(v).dtype)) for k, v in arrays.items()}
    names = np.asarray([d.name for d in space()])
    files.write_arrays(path, {"hyperparameters": names, **arrays})


def load(path: Path) -> Landscapes:
    """What `save` wrote. Raises: ConfigError for a file that is something else."""
    arrays: dict[str, Any] = files.read_arrays(path, "landscapes", *(f.name for f in dataclasses.fields(Landscapes)))
    return Landscapes(**{**arrays, "names": tuple(str(n) for n in arrays["names"])})
