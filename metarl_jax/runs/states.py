"""Training states of a run: new ones, those of its checkpoints, and what another run has learned to start from."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import tree
from metarl_jax.options import ConfigError
from metarl_jax.runs import files, training_loop, user_parts
from metarl_jax.runs.build import Job, build
from metarl_jax.runs.checkpoint import Checkpoints
from metarl_jax.runs.config import load
from metarl_jax.runs.listing import run_of
from metarl_jax.types import Params


def seeds_of(job: Job) -> jax.Array:
    """The seeds of a run, [seed]."""
    return job.config.seed + jnp.arange(job.config.num_seeds)


def initial_states(job: Job) -> Any:
    """Training states of all seeds, leaves [seed, ...]."""
    return training_loop.make_init(job.config)({}, seeds_of(job))


def shapes_of_states(job: Job) -> Any:
    """Shapes and types of `initial_states`, without computing them."""
    return training_loop.make_init(job.config).eval_shape({}, seeds_of(job))


def open_run(run_dir: Path) -> Job:
    """The job of a run directory.

    Raises: ConfigError if it is not one.
    """
    if not (run_dir / "config.yaml").is_file():
        raise ConfigError(f"run {run_dir}: is not a run directory (it has no config.yaml)")
    user_parts.recall(run_dir)
    return build(load(run_dir / "config.yaml"))


def restore(job: Job, run_dir: Path, iteration: int | None = None) -> tuple[int, Params]:
    """(iteration, what was learned by each seed, leaves [seed, ...])."""
    if not (run_dir / "checkpoints").is_dir():
        raise ConfigError(f"run {run_dir}: has no checkpoint yet")
    checkpoints = Checkpoints(run_dir / "checkpoints", job.config.model_dump())
    iteration, state = checkpoints.restore(shapes_of_states(job), iteration)
    checkpoints.close()
    return iteration, jax.tree.map(jnp.asarray, job.params(state))


def learned_elsewhere(job: Job) -> Params | None:
    """What the run of `init_from` has learned, for the seeds of `job`, leaves [seed, ...]; None without the key.

    Seeds start from theirs, or all from the one that the other run has. Nothing is compiled.
    Raises: ConfigError for a directory that is no run, another number of seeds, parameters that do not fit.
    """
    if job.config.init_from is None:
        return None
    about = f"init_from = {job.config.init_from}"
    with files.worded(about):
        place = run_of(Path(job.config.init_from))
        source = open_run(place)
        _, params = restore(source, place)
    there, here = source.config.num_seeds, job.config.num_seeds
    if there not in (1, here):
        raise ConfigError(f"{about}: has {there} seeds, and num_seeds = {here}; make that {there} too")
    wanted = job.params(shapes_of_states(job))
    _check_fit(about, params, wanted)
    return jax.tree.map(lambda x, w: jnp.broadcast_to(x, w.shape), params, wanted)


def with_params(job: Job, states: Any, params: Params) -> Any:
    """`states` with other parameters in the place of what is learned; optimisers and all else stay as they are."""
    leaves, structure = jax.tree.flatten(states)
    places = jax.tree.leaves(job.params(jax.tree.unflatten(structure, range(len(leaves)))))
    for place, new in zip(places, jax.tree.leaves(params), strict=True):
        leaves[place] = new
    return jax.tree.unflatten(structure, leaves)


def _check_fit(about: str, params: Params, wanted: Params) -> None:
    """That two trees of parameters have the same leaves: shapes without the axis of seeds, and types."""

    def kinds(leaves: Params) -> dict[str, str]:
        pairs = zip(tree.leaf_names(leaves), jax.tree.leaves(leaves), strict=True)
        return {name: f"{x.dtype}{list(x.shape[1:])}" for name, x in pairs}

    there, here = kinds(params), kinds(wanted)
    for name in [*here, *there]:
        if there.get(name) != here.get(name):
            found, asked = there.get(name), here.get(name)
            if found is None or asked is None:
                what = f"has no {name}" if found is None else f"has {name}, which is not in this configuration"
                raise ConfigError(f"{about}: {what}; the algorithms and the policies must be the same")
            raise ConfigError(f"{about}: {name} is {found} there, and {asked} here; the policies must be the same")
