"""Part (g) of `benchmarks.accelerator`: robots. MJX compiled into the program, and C MuJoCo on the host's cores."""

import importlib.util
from collections.abc import Callable
from typing import Any

import jax

import metarl_jax as mrl
from benchmarks.accelerator_rows import Sizes
from benchmarks.accelerator_session import Facts, Session, compile_to_fit

MISSING = {"missing": "not installed", "install": "pip install 'metarl_jax[robots]'"}
SUBSTEPS = 5  # of a step of the cheetah and the ant


def physics(session: Session, robot: str, lanes: int, steps: int, bits: int) -> Facts:
    """Environment steps a second of `lanes` robots under random actions, by MJX, in float32 or float64."""
    if importlib.util.find_spec("mujoco") is None:
        return dict(MISSING)
    with jax.enable_x64(bits == 64):
        env, tasks = mrl.make(f"{robot}-v0", backend="mjx")
        task = tasks.sample(jax.random.key(0))
        _, states = jax.jit(jax.vmap(env.reset_env, in_axes=(0, None)))(
            jax.random.split(jax.random.key(1), lanes), task
        )
        shape = (steps, lanes, env.num_actions)

        def run(states: Any, key: jax.Array) -> Any:
            def step(states: Any, action: jax.Array) -> tuple[Any, None]:
                return jax.vmap(env.step_env, in_axes=(None, 0, 0, None))(key, states, action, task)[1], None

            actions = jax.random.uniform(key, shape, states.physics.dtype, -1.0, 1.0)
            return jax.lax.scan(step, states, actions)[0]

        arguments = (states, jax.random.key(2))
        program = compile_to_fit(lambda _: run, arguments, 1)
        timed = session.timed(program.compiled, arguments, steps * lanes)
        unstable = float(program.output.reports["unstable"].mean())
    more = {"physics_steps_per_s": SUBSTEPS * timed["env_steps_per_s"], "unstable_share": unstable}
    return {**program.facts, **timed, **more}


def promp(session: Session, backend: str, sizes: Sizes) -> Facts:
    """An iteration of ProMP on HalfCheetahDir: 40 tasks x 20 episodes x 100 steps before and after, 5 outer epochs."""
    if importlib.util.find_spec("mujoco") is None:
        return dict(MISSING)
    env, tasks = mrl.make("HalfCheetahDir-v0", backend=backend, action_scale=0.1)
    policy = mrl.networks.mlp_policy(env, (64, 64))
    number = sizes.tasks[0]
    algorithm = mrl.promp(
        env, tasks, policy, mrl.inner.policy_gradient(policy, 0.1), num_outer_epochs=5, meta_batch_size=number,
        episodes_per_task=sizes.episodes, horizon=sizes.horizon,
    )  # fmt: skip
    step: Callable = algorithm.step
    arguments = (jax.jit(algorithm.init)(jax.random.key(0)), jax.random.key(1))
    program = compile_to_fit(lambda _: step, arguments, 1)
    timed = session.timed(program.compiled, arguments, 2 * number * sizes.episodes * sizes.horizon)
    return {**program.facts, **timed}
