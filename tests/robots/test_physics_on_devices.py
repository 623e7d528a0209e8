"""Physics on several devices: each calls the host for its own lanes, and lanes are those of one device."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("mujoco")

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec
from metarl_jax.envs import make
from metarl_jax.envs.physics import c_mujoco

assert jax.device_count() == 4
env, tasks = make("HalfCheetahDir-v0")
task = tasks.sample(jax.random.key(0))
states = jax.vmap(lambda k: env.reset_env(k, task)[1])(jax.random.split(jax.random.key(1), 8))
actions = jax.random.uniform(jax.random.key(2), (5, 8, 6), minval=-1.0, maxval=1.0)

def run(states, actions):
    def step(states, action):
        after = jax.vmap(env.step_env, in_axes=(None, 0, 0, None))(jax.random.key(0), states, action, task)
        return after[1], after[2]
    return jax.lax.scan(step, states, actions)[1]

alone = jax.jit(run)(states, actions)
calls, real = [], c_mujoco.Host._step
c_mujoco.Host._step = lambda self, lanes, out: (calls.append(len(lanes)), real(self, lanes, out))[1]
mesh = Mesh(np.array(jax.devices()), ("lanes",))
spec = PartitionSpec
specs = {"in_specs": (spec("lanes"), spec(None, "lanes")), "out_specs": spec(None, "lanes")}
mapped = jax.shard_map(run, mesh=mesh, check_vma=False, **specs)
shared = jax.block_until_ready(jax.jit(mapped)(states, actions))
assert np.array_equal(alone, shared), np.abs(np.asarray(alone) - np.asarray(shared)).max()
assert sorted(calls) == [2] * 20, calls  # four devices, five steps, two lanes each
print("fine")
"""


def test_lanes_over_four_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, **flags}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "fine", done.stderr[-2000:]


ON_ONE_CPU = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one thread in the pool that runs programs
import jax, jax.numpy as jnp, numpy as np
from metarl_jax.envs.physics import c_mujoco

lanes, width = 900, 37  # 130 KiB, and rows that start where no vector register does

def host(rows):
    return np.asarray(rows)[..., :1] + 1

@jax.jit
def run(x):
    def step(table, i):
        rows = jax.lax.dynamic_slice(table, (i, 1), (lanes, width))
        out = jax.vmap(lambda row: c_mujoco.call_host(host, 1, row))(rows)
        return table + 0 * out.sum(), out.mean()
    return jax.lax.scan(step, x * jnp.ones((lanes + 9, width + 1)), jnp.arange(9))[1]

slow = jax.jit(lambda x: 1 + 0 * (x * jnp.ones((2000, 2000)) @ jnp.ones((2000, 2000)))[0, 0])
print(np.asarray(run(slow(slow(1.0)))).tolist() == [2.0] * 9)  # dispatched before its argument is there
"""


def test_one_cpu_is_enough():
    """A callback that waits for a copy by the thread it runs on waits for ever."""
    flags = {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", ON_ONE_CPU]
    done = subprocess.run(command, env={**os.environ, **flags}, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "True", done.stderr[-2000:]
