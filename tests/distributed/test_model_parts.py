"""Devices that keep a model in parts compute what one device computes, and each holds a part of its memory."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from processes import METARL, ends, environment, start

from metarl_jax import devices
from metarl_jax.options import ConfigError

CODE = """
import json
import sys
from pathlib import Path
import jax
import numpy as np
from metarl_jax import devices
from metarl_jax.runs import config, states, training_loop
from metarl_jax.runs.build import build
from metarl_jax.tree import leaf_names

number, out = int(sys.argv[1]), Path(sys.argv[2])
for name, data in {runs}.items():
    job = build(config.validate(data))
    with devices.of_each_model(number):
        compiled = training_loop.trace_call(job.config, 1).traced.lower().compile()
    now, seeds = states.initial_states(job), states.seeds_of(job)
    for i in range(2):
        now, _ = compiled(now, {{}}, seeds, np.asarray(i))
    parts = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(now)]
    needed = compiled.memory_analysis()
    sizes = {{"parts": parts, "arguments": needed.argument_size_in_bytes, "temporaries": needed.temp_size_in_bytes}}
    (out / f"{{name}}.json").write_text(json.dumps(sizes))
    leaves = zip(leaf_names(now), jax.tree.leaves(now), strict=True)
    np.savez(out / f"{{name}}.npz", **{{f"{{i}} {{n}}": np.asarray(x) for i, (n, x) in enumerate(leaves)}})
"""
TRIALS = {"num_iterations": 2, "meta_batch_size": 8, "num_episodes": 3, "num_minibatches": 2, "num_epochs": 2}
BANDIT = {"env": "BernoulliBandit-v0", **TRIALS}
TRANSFORMER = {"algorithm": "rl2", "network": "transformer", "size": 64, "num_heads": 2, "num_layers": 2, **BANDIT}
POINT = {
    "env": "PointNavigation-v0", "horizon": 4, "num_iterations": 2, "meta_batch_size": 4, "episodes_per_task": 3,
    "hidden": [64, 64],
}  # fmt: skip
RUNS = {
    "transformer": {**TRANSFORMER, "max_grad_norm": 0.5, "remat": True},
    "promp": {"algorithm": "promp", "outer_epochs": 2, **POINT},
    "ppo": {
        "algorithm": "ppo", "env": "gymnax:CartPole-v1", "num_iterations": 2, "num_envs": 4, "num_steps": 8,
        "hidden": [64, 64], "num_seeds": 2,
    },
}  # fmt: skip
PARTED = [*((name, 2) for name in RUNS), ("transformer", 4)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{devices of each model: {run: (leaves, sizes)}} after two iterations in double precision; 1: of one device."""
    found = {}
    for number in (1, 2, 4):
        out = tmp_path_factory.mktemp(f"models-of-{number}")
        own = environment(1 if number == 1 else 8, JAX_ENABLE_X64="1", XLA_FLAGS=os.environ["XLA_FLAGS"])
        runs = {name: RUNS[name] for name in RUNS if number == 1 or (name, number) in PARTED}
        subprocess.run([sys.executable, "-c", CODE.format(runs=repr(runs)), str(number), str(out)], check=True, env=own)
        found[number] = {
            name: (dict(np.load(out / f"{name}.npz")), json.loads((out / f"{name}.json").read_text())) for name in runs
        }
    return found


@pytest.mark.parametrize(("name", "number"), PARTED)
def test_a_model_in_parts_is_trained_to_the_same_numbers(found, name, number):
    """With 8 devices, so that 4 or 2 of these groups share seeds, tasks or trials too."""
    (alone, _), (parted, _) = found[1][name], found[number][name]
    assert alone.keys() == parted.keys()
    for leaf, wanted in alone.items():
        error = np.linalg.norm(parted[leaf] - wanted) / max(np.linalg.norm(wanted), 1e-12)
        assert error < 1e-10, (leaf, error)


@pytest.mark.parametrize(("name", "number"), PARTED)
def test_each_device_keeps_its_part(found, name, number):
    leaves, sizes = found[number][name]
    lanes = RUNS[name].get("num_seeds", 1)
    large = 0
    for (leaf, whole), part in zip(leaves.items(), sizes["parts"], strict=True):
        if whole.size // lanes >= devices.LEAST:
            large += 1
            assert part == whole.nbytes // lanes // number, leaf
    assert large >= 3, "a matrix, and what Adam keeps of it"


def test_a_model_in_parts_needs_a_part_of_the_memory(found):
    """Parameters and optimiser, gradients and activations."""
    of = {n: found[n]["transformer"][1] for n in (1, 2, 4)}
    for n in (2, 4):
        assert of[n]["arguments"] < 1.1 * of[1]["arguments"] / n
    assert of[4]["temporaries"] < of[2]["temporaries"] < 0.8 * of[1]["temporaries"]


def test_a_number_that_does_not_divide_is_one_line():
    there = jax.device_count()
    with (
        pytest.raises(ConfigError, match=f"devices-per-model = {there + 1}: must divide the"),
        devices.of_each_model(there + 1),
    ):
        pass
    with pytest.raises(ConfigError, match="devices-per-model = 0: must be at least 1"), devices.of_each_model(0):
        pass


def test_the_command_line_keeps_models_in_parts_and_goes_on_with_another_number(tmp_path):
    """One process of two devices, then one of one; and two processes of two, whose models are shared by all four."""
    data = {**TRANSFORMER, "num_layers": 1, "num_iterations": 4, "checkpoint_every": 2, "anneal_lr": False}
    (tmp_path / "model.yaml").write_text(json.dumps(data))
    double = {"JAX_ENABLE_X64": "1"}

    def metarl(count, *words):
        command = [*METARL, "train", *map(str, words)]
        done = subprocess.run(command, env=environment(count, **double), capture_output=True, text=True)
        return done.returncode, done.stderr

    def losses(run):
        return [json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]

    config, parts = tmp_path / "model.yaml", "--devices-per-model"
    status, said = metarl(1, config, "--run-dir", tmp_path / "alone")
    assert status == 0, said
    status, said = metarl(2, config, "num_iterations=2", "--run-dir", tmp_path / "two", parts, "2")
    assert status == 0 and ", 2 for each model; run directory" in said, said
    status, said = metarl(1, config, "--run-dir", tmp_path / "two", "--resume")
    assert status == 0 and "resuming after iteration 2 of 4" in said, said
    np.testing.assert_allclose(losses("two"), losses("alone"), rtol=1e-9)

    words = [config, "--run-dir", tmp_path / "hosts", parts, "4"]
    for status, (_, said) in ends(start([words] * 2, **double)):
        assert status == 0, said
    np.testing.assert_allclose(losses("hosts"), losses("alone"), rtol=1e-9)

    status, said = metarl(2, config, "--run-dir", tmp_path / "refused", parts, "3")
    wanted = "error: devices-per-model = 3: must divide the 2 devices of this training (1, 2)"
    assert status == 2 and said.splitlines()[-1] == wanted and not (tmp_path / "refused").exists(), said
