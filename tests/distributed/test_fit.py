"""Where an accelerator's memory is short, less of a run is computed at a time, to the same results."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import devices, tree
from metarl_jax.options import ConfigError
from metarl_jax.runs import config, evaluate, train
from metarl_jax.runs import training_loop as population
from metarl_jax.runs.build import build


def needs(compiled):
    found = compiled.memory_analysis()
    fixed = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return fixed + found.temp_size_in_bytes


def all_at_a_time(monkeypatch):
    """As on an accelerator."""
    default = tree.default_batch_size
    monkeypatch.setattr(tree, "default_batch_size", lambda n: max(default(n), min(n, tree._LIMITS.get()[0].batch or n)))


FITTED = {
    "tasks": {
        "algorithm": "maml", "env": "PointNavigation-v0", "num_iterations": 4, "meta_batch_size": 8, "horizon": 20,
        "episodes_per_task": 16, "hidden": [32],
    },
    "parts": {
        "algorithm": "ppo", "env": "gymnax:CartPole-v1", "num_iterations": 4, "num_envs": 64, "num_steps": 16,
        "num_minibatches": 1, "num_epochs": 1, "hidden": [256],
    },
}  # fmt: skip


@pytest.mark.parametrize("what", FITTED)
def test_a_run_computes_fewer_tasks_or_parts_at_a_time_where_memory_is_short_and_remembers_it(
    what, monkeypatch, tmp_path
):
    """As on an accelerator, where all tasks are computed at a time unless they do not fit."""
    lines = []
    all_at_a_time(monkeypatch)
    job = build(config.validate({**FITTED[what], "checkpoint_every": 2, "iterations_per_call": 2}))
    states = train.initial_states(job)

    def program(limits):
        make = functools.partial(population.make_call, job.config, 2, keep=population.everything)
        with tree.limited(limits):
            return make(None).lower(states, {}, train.seeds_of(job), jnp.asarray(0)).compile()

    small = tree.Limits(2, 1) if what == "tasks" else tree.Limits(None, 8)
    whole, little = (needs(program(limits)) for limits in (tree.Limits(), small))
    assert little < 0.8 * whole
    wanted = train.train(job, tmp_path / "whole", report=lambda _: None)
    monkeypatch.setattr(devices, "memory", lambda: 1.01 * little / population.MEMORY_SHARE)
    found = train.train(job, tmp_path / "fitted", report=lines.append)
    assert sum("needed; " in str(line) for line in lines) == 1, lines
    kept = json.loads((tmp_path / "fitted" / "memory.json").read_text())
    assert kept["bytes_needed"] <= 1.01 * little
    assert (kept["tasks"] or 9) <= 4 if what == "tasks" else kept["parts"] > 1
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-5)
    assert train._fit_before(tmp_path / "fitted").limits == tree.Limits(kept["tasks"], kept["parts"])


def test_an_evaluation_fits_too(monkeypatch, tmp_path):
    all_at_a_time(monkeypatch)
    job = build(config.validate({**FITTED["tasks"], "num_iterations": 1, "eval_tasks": 16, "eval_episodes": 8}))
    train.train(job, tmp_path / "run", report=lambda _: None)
    _, wanted = evaluate.assess(tmp_path / "run", baselines=False, report=lambda _: None)
    lines, asked = [], population.fit

    def little(make, args, lanes, *rest):
        need = needs(asked(make, args, lanes, *rest)[0])
        monkeypatch.setattr(devices, "memory", lambda: 0.7 * need / population.MEMORY_SHARE)
        return asked(make, args, lanes, *rest)

    monkeypatch.setattr(devices, "memory", lambda: 2**40)
    monkeypatch.setattr(population, "fit", little)
    _, found = evaluate.assess(tmp_path / "run", baselines=False, report=lines.append)
    assert any("needed; tasks" in str(line) for line in lines), lines
    np.testing.assert_allclose(found["run"], wanted["run"], rtol=1e-4, atol=1e-4)


def test_a_damaged_plan_is_one_line(tmp_path):
    (tmp_path / "memory.json").write_text('{"lanes": 1}')
    with pytest.raises(ConfigError, match="memory.json: is damaged; move it away, and memory is planned anew"):
        train._fit_before(tmp_path)
