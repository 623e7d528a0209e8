"""The lanes of a sweep shared out over devices."""

import os
import subprocess
import sys

import numpy as np

BASE = {
    "algorithm": "ppo", "env": "BernoulliBandit-v0", "env_options": {"num_arms": 3}, "num_iterations": 6,
    "checkpoint_every": 2, "iterations_per_call": 2, "num_envs": 4, "num_steps": 8, "num_minibatches": 1,
    "num_epochs": 1, "hidden": [4], "anneal_lr": False, "num_seeds": 2,
}  # fmt: skip


def test_several_devices_share_the_lanes(tmp_path):
    code = f"""
import jax
from metarl_jax.runs import config
from metarl_jax.sweeps import run
made = run.make(config.validate({BASE!r}), ["lr=log(1e-3,1e-1)"], num_trials=3)
assert jax.device_count() == DEVICES
run.run(made, __import__("pathlib").Path({str(tmp_path)!r}) / "DEVICES", report=lambda _: None)
"""
    for devices in ("1", "4"):  # 6 lanes on 4 devices: the last is computed three times
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        subprocess.run([sys.executable, "-c", code.replace("DEVICES", devices)], check=True, env=environment)
    one, four = (np.load(tmp_path / d / "curves.npz")["score"] for d in ("1", "4"))
    np.testing.assert_allclose(one, four, rtol=1e-5)
