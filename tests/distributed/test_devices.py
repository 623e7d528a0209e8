"""Lanes shared out over devices keep their bits; tasks shared out keep their numbers.

That they keep their bits with the emitters that users have is in test_processes.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

CODE = """
import json
import sys
from pathlib import Path
import jax
import numpy as np
from metarl_jax.runs import config, train, training_loop
from metarl_jax.runs.build import build
from metarl_jax.tree import leaf_names

devices, out = int(sys.argv[1]), Path(sys.argv[2])
assert jax.device_count() == devices
for name, data in {runs}.items():
    job = build(config.validate(data))
    states = train.train(job, out / name, report=lambda _: None)
    call = training_loop.make_call(job.config, 1, 1, training_loop.everything)
    compiled = call.lower(states, {{}}, train.seeds_of(job), jax.numpy.asarray(0)).compile()  # is kept from before
    talks = any(word in compiled.as_text() for word in ("all-reduce", "all-gather"))
    (out / f"{{name}}.json").write_text(json.dumps({{"flops": compiled.cost_analysis()["flops"], "talks": talks}}))
    leaves = zip(leaf_names(states), jax.tree.leaves(states), strict=True)
    np.savez(out / f"{{name}}.npz", **{{f"{{i}} {{n}}": np.asarray(x) for i, (n, x) in enumerate(leaves)}})
"""
PROMP = {
    "algorithm": "promp", "env": "PointNavigation-v0", "num_iterations": 2, "meta_batch_size": 8,
    "episodes_per_task": 4, "horizon": 5, "hidden": [8], "outer_epochs": 2,
}  # fmt: skip
PPO = {
    "algorithm": "ppo", "env": "BernoulliBandit-v0", "num_iterations": 3, "num_envs": 2, "num_steps": 8, "hidden": [8],
    "num_seeds": 8, "num_epochs": 2, "num_minibatches": 2,
}  # fmt: skip
LPO = {
    "algorithm": "lpo", "env": "TabularMDP-v0", "num_iterations": 2, "num_agents": 8, "num_envs": 2, "num_steps": 4,
    "hidden": [], "width": 4, "num_inner_steps": 2, "lifetime": 4, "eval_updates": 4, "num_epochs": 2,
}  # fmt: skip
TRIALS = {
    "num_iterations": 2,
    "meta_batch_size": 4,
    "trials_per_task": 2,
    "num_episodes": 3,
    "num_minibatches": 1,
}
RL2 = {"algorithm": "rl2", "env": "PointNavigation-v0", "horizon": 4, "size": 8, "center_rewards": True, **TRIALS}
VARIBAD = {
    "algorithm": "varibad", "env": "TabularMDP-v0", "env_options": {"num_states": 3, "num_actions": 2}, "horizon": 4,
    "latent_size": 2, "encoder_size": 8, "hidden": [8], "decoder_hidden": [8], **TRIALS, "num_minibatches": 3,
}  # fmt: skip
RUNS = {
    "lpo1": LPO,
    "rl2": RL2,
    "varibad": VARIBAD,
    "ppo8": PPO,
    "promp2": {**PROMP, "num_seeds": 2},
}


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """{(devices, run): {leaf: array}} after training on 1 and on 8 virtual CPU devices."""
    found = {}
    for devices in (1, 8):
        out = tmp_path_factory.mktemp(f"on{devices}")
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        command = [sys.executable, "-c", CODE.format(runs=repr(RUNS)), str(devices), str(out)]
        subprocess.run(command, check=True, env=environment)
        for name in RUNS:
            with np.load(out / f"{name}.npz") as arrays:
                found[devices, name] = {key: arrays[key] for key in arrays}
            found[devices, name]["program"] = json.loads((out / f"{name}.json").read_text())
            found[devices, name]["metrics"] = np.frombuffer((out / name / "metrics.jsonl").read_bytes(), np.uint8)
    return found


def test_seeds_that_fill_the_devices_keep_their_bits(states):
    one, eight = states[1, "ppo8"], states[8, "ppo8"]
    assert one.keys() == eight.keys()
    for key in one.keys() - {"program"}:
        np.testing.assert_array_equal(one[key], eight[key], err_msg=key)


@pytest.mark.parametrize("name", ["promp2", "lpo1", "rl2", "varibad"])
def test_tasks_shared_out_keep_their_numbers(states, name):
    """One seed: 8 tasks on 8 devices; two seeds: 4 devices each. The mean over tasks is added up in another order."""
    one, eight = states[1, name], states[8, name]
    for key in one.keys() - {"metrics", "program"}:
        if np.issubdtype(one[key].dtype, np.floating):
            np.testing.assert_allclose(one[key], eight[key], rtol=2e-3, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("name", ["promp2", "lpo1", "rl2", "varibad"])
def test_the_work_is_shared(states, name):
    """Devices that share a training exchange numbers; where trials stand side by side, each has fewer flops."""
    one, eight = (states[devices, name]["program"] for devices in (1, 8))
    assert eight["talks"] and not one["talks"]
    if name in ("rl2", "varibad"):  # XLA counts a loop, as that over tasks, once however long it is
        assert eight["flops"] < 0.45 * one["flops"]
