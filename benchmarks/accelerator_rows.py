"""The work of `benchmarks.accelerator`, parts (a) to (e): each function here measures one row."""

import functools
import importlib
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import metarl_jax as mrl
from benchmarks import meta_gradient, peers
from benchmarks.accelerator_session import Facts, Program, Session, compile_to_fit
from metarl_jax.envs.trial import trials

WHOLE_TRAINING = 976  # iterations of 512 steps: 5e5
FEWEST = 2  # iterations of a row, however long they take
AGENT_STEPS = 4 * 128  # environment steps of one PPO iteration
TRIALS_LEAST = 8  # one in each minibatch of RL2
WAYS = ("reverse", "mixed", "first_order")


class Sizes(NamedTuple):
    """How much of everything."""

    members: tuple[int, ...] = (1, 64, 1024, 4096)
    seconds: float = 1.0  # that a run of PPO is cut to
    tasks: tuple[int, ...] = (40, 640, 10_240)
    episodes: int = 20
    horizon: int = 100
    inner_steps: tuple[int, ...] = (1, 4, 16)
    hidden: int = 256
    gradient_tasks: int = 40  # of 20 x 100 samples
    pulls: tuple[int, ...] = (10, 100, 500)
    trials: int = 4096
    xland_trials: int = 16_384  # of 256 steps, as XLand-MiniGrid's script trains
    xland_steps: int = 256
    xland_width: int = 1024
    precision_steps: int = 4
    precision_tasks: int = 640
    copy_mb: int = 1024
    matmul: int = 8192
    robots: tuple[tuple[str, int, int], ...] = (  # robot, lanes, bits
        ("HalfCheetahDir", 4096, 32), ("HalfCheetahDir", 65_536, 32), ("HalfCheetahDir", 65_536, 64),
        ("AntDir", 65_536, 32),
    )  # fmt: skip
    robot_steps: int = 10


SMALL = Sizes(
    members=(2,), seconds=0.01, tasks=(2,), episodes=2, horizon=5, inner_steps=(1,), hidden=4, gradient_tasks=2,
    pulls=(3,), trials=8, xland_trials=16, xland_steps=4, xland_width=8, precision_steps=1, precision_tasks=2,
    copy_mb=4, matmul=128, robots=(("HalfCheetahDir", 2, 32),), robot_steps=2,
)  # fmt: skip
ON_CPU = Sizes(copy_mb=128, matmul=1024)  # what does not fit the minutes is skipped


def _at_most(n: int, on_cpu: int = 1) -> int:
    """Of `n` tasks or members, those to begin with: few on a CPU, where more fall out of cache."""
    return min(n, on_cpu) if jax.default_backend() == "cpu" else n


# (a) ------------------------------------------------------------------------------------------------------


def ppo(session: Session, members: int, seconds: float) -> "Measured":
    """PPO on CartPole, learning rates x 4 seeds, as many iterations as take `seconds`.

    The setting is PureJaxRL's: 4 environments x 128 steps, 4 epochs, 4 minibatches, 64x64 tanh.
    """
    env, tasks = mrl.make("gymnax:CartPole-v1")
    task = tasks.sample(jax.random.key(0))
    policy = mrl.networks.mlp_policy(env, (64, 64), critic=True)

    def train(member: tuple[jax.Array, jax.Array], iterations: jax.Array) -> jax.Array:
        seed, lr = member
        key = jax.random.key(seed)
        algo = mrl.ppo(env, task, policy, lr=lr, num_iterations=WHOLE_TRAINING, value_clip_eps=0.2)

        def iteration(i: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            state, metrics = algo.step(carry[0], jax.random.fold_in(key, i))
            return state, metrics["episode_return"]

        return jax.lax.fori_loop(0, iterations, iteration, (algo.init(key), jnp.zeros(())))[1]

    def make(at_a_time: int) -> Callable:
        return lambda members, n: mrl.tree.chunked_map(lambda member: train(member, n), members, at_a_time)

    seeds = min(4, members)
    rates = 2.5e-4 * jnp.geomspace(0.25, 4.0, members // seeds) if members > seeds else jnp.full(1, 2.5e-4)
    lanes = jnp.tile(jnp.arange(seeds), members // seeds), jnp.repeat(rates, seeds)
    program = compile_to_fit(make, (lanes, FEWEST), members if members == 1 else _at_most(members, 8))
    began = time.perf_counter()
    jax.block_until_ready(program.compiled(lanes, FEWEST))
    an_iteration = (time.perf_counter() - began) / FEWEST
    iterations = int(min(max(seconds / an_iteration, FEWEST), WHOLE_TRAINING))
    timed = session.timed(program.compiled, (lanes, iterations), members * iterations * AGENT_STEPS)
    facts = {"iterations": iterations, "iteration_ms": 1e3 * timed["run_s"] / iterations}
    return Measured(program, (lanes, FEWEST), make(program.at_a_time), {**program.facts, **timed, **facts})


def rejax(session: Session, members: int, iterations: int) -> Facts:
    """The same of rejax, in this process: its seeds vmapped, at one learning rate."""
    found = peers.rejax_ppo(members, iterations * AGENT_STEPS, eval_episodes=1, repeats=session.repeats)
    if not found["available"]:
        missing = "not installed" if found["reason"].startswith("not installed") else found["reason"]
        return {"missing": missing, "install": found["install"]}
    run_s = found["run_wall_s"]
    return {
        "compile_s": found["compile_s"],
        "run_s": run_s,
        "runs": session.repeats,
        "env_steps": found["env_steps"],
        "env_steps_per_s": found["env_steps"] / run_s,
        "iterations": iterations,
        "iteration_ms": 1e3 * run_s / iterations,
        "peer_version": importlib.metadata.version("rejax"),
    }


# (b) ------------------------------------------------------------------------------------------------------


def promp(tasks: int, episodes: int, horizon: int, at_a_time: int) -> Any:
    """ProMP on point navigation, 64x64 tanh."""
    env, distribution = mrl.make("PointNavigation-v2")
    policy = mrl.networks.mlp_policy(env, (64, 64))
    return mrl.promp(
        env,
        distribution,
        policy,
        mrl.inner.policy_gradient(policy, 0.1),
        num_outer_epochs=5,
        meta_batch_size=tasks,
        episodes_per_task=episodes,
        horizon=horizon,
        tasks_per_batch=at_a_time,
    )


class Measured(NamedTuple):
    """A program that was compiled and timed, for part (f)."""

    program: Program
    arguments: tuple
    step: Callable  # what was compiled
    facts: Facts


def promp_iteration(session: Session, tasks: int, sizes: Sizes) -> Measured:
    """Trials before and after one inner step, 5 outer epochs on them."""

    def make(at_a_time: int) -> Callable:
        return promp(tasks, sizes.episodes, sizes.horizon, at_a_time).step

    state = jax.jit(promp(tasks, sizes.episodes, sizes.horizon, 1).init)(jax.random.key(0))
    arguments = (state, jax.random.key(1))
    program = compile_to_fit(make, arguments, _at_most(tasks))
    timed = session.timed(program.compiled, arguments, 2 * tasks * sizes.episodes * sizes.horizon)
    return Measured(program, arguments, make(program.at_a_time), {**program.facts, **timed})


# (c) ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def stored_trials(inner_steps: int, tasks: int, hidden: int) -> tuple[Any, Any]:
    """(parameters, trials [task, ...] of `inner_steps` updates)."""
    algo, family = meta_gradient.algorithm("reverse", inner_steps, hidden)
    params = jax.jit(algo.init)(jax.random.key(0)).params

    def collect(key: jax.Array) -> Any:
        return algo.collect(params, key, family.sample(key))[0]

    keys = jax.random.split(jax.random.key(1), tasks)
    return params, jax.jit(lambda keys: mrl.tree.chunked_map(collect, keys, _at_most(tasks)))(keys)


def mean_gradient(way: str, inner_steps: int, hidden: int, at_a_time: int) -> Callable:
    """(parameters, trials) -> (loss, meta-gradient), their means over the trials."""
    algo, _ = meta_gradient.algorithm(way, inner_steps, hidden)
    return lambda params, trials: mrl.tree.chunked_mean(lambda t: algo.meta_gradient(params, t), trials, at_a_time)


def gradient(session: Session, way: str, inner_steps: int, sizes: Sizes) -> tuple[Facts, Any]:
    """One meta-gradient: (facts, the gradient as one float64 vector)."""
    arguments = stored_trials(inner_steps, sizes.gradient_tasks, sizes.hidden)
    return _gradient(session, way, inner_steps, sizes, arguments)


def _gradient(session: Session, way: str, inner_steps: int, sizes: Sizes, arguments: tuple) -> tuple[Facts, Any]:
    make = functools.partial(mean_gradient, way, inner_steps, sizes.hidden)
    program = compile_to_fit(make, arguments, _at_most(sizes.gradient_tasks))
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(program.output[1])]
    return {**program.facts, **session.timed(program.compiled, arguments)}, np.concatenate(leaves)


# (d) ------------------------------------------------------------------------------------------------------


def rl2(session: Session, network: str, pulls: int, most: int) -> Measured:
    """An iteration of RL2 on five Bernoulli arms: GRU of 64 units, or transformer of 2 layers of width 64."""
    bandit, tasks = mrl.make("BernoulliBandit-v0", num_arms=5)
    env = trials(bandit, tasks, pulls)
    if network == "gru":
        policy = mrl.networks.recurrent_policy(env, 64)
    else:
        policy = mrl.networks.transformer_policy(env, env.num_steps, 64)

    def learner(trials_at_once: int) -> Any:
        return mrl.rl2(env, tasks, policy, meta_batch_size=trials_at_once)

    arguments = (jax.jit(learner(TRIALS_LEAST).init)(jax.random.key(0)), jax.random.key(1))
    program = compile_to_fit(lambda n: learner(n).step, arguments, most, least=TRIALS_LEAST)
    timed = session.timed(program.compiled, arguments, program.at_a_time * pulls)
    return Measured(program, arguments, learner(program.at_a_time).step, {**program.facts, **timed})


def xland(session: Session, sizes: Sizes) -> Measured | Facts:
    """RL2 on XLand-MiniGrid R1-9x9, one episode a trial: GRU, embeddings of 16, 1 epoch of 16 minibatches, float32."""
    if importlib.util.find_spec("xminigrid") is None:
        return {"missing": "not installed", "install": "pip install 'metarl_jax[xland]'"}
    grid, tasks = mrl.make("XLand-MiniGrid:R1-9x9", benchmark="drawn-small", num_tasks=1024, horizon=sizes.xland_steps)
    env = trials(grid, tasks, 1)
    policy = mrl.networks.recurrent_policy(env, sizes.xland_width, embedding_size=16)

    def learner(trials_at_once: int) -> Any:
        return mrl.rl2(env, tasks, policy, meta_batch_size=trials_at_once, num_epochs=1, num_minibatches=16)

    arguments = (jax.jit(learner(16).init)(jax.random.key(0)), jax.random.key(1))
    program = compile_to_fit(lambda n: learner(n).step, arguments, sizes.xland_trials, least=16)
    timed = session.timed(program.compiled, arguments, program.at_a_time * sizes.xland_steps)
    facts = {**program.facts, **timed, "peer_version": importlib.metadata.version("xminigrid")}
    return Measured(program, arguments, learner(program.at_a_time).step, facts)


# (e) ------------------------------------------------------------------------------------------------------


def gradient_in_float64(session: Session, way: str, inner_steps: int, sizes: Sizes) -> tuple[Facts, Any]:
    """`gradient` on the same trials, in double precision."""
    stored = stored_trials(inner_steps, sizes.gradient_tasks, sizes.hidden)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, stored)
        return _gradient(session, way, inner_steps, sizes, wide)


def difference(one: Any, other: Any) -> Facts:
    """How far the vector `one` is from `other`: |one - other| / |other|, and the cosine between them."""
    scale = np.linalg.norm(one) * np.linalg.norm(other)
    return {
        "relative": float(np.linalg.norm(one - other) / np.linalg.norm(other)),
        "cosine": float(one @ other / scale),
    }


# (f) ------------------------------------------------------------------------------------------------------


def copy_rate(megabytes: int) -> Facts:
    """Bytes read and written a second by x -> x + 1."""
    x = jnp.zeros(megabytes * 250_000, jnp.float32)
    return _rate(lambda x: x + 1, (x,), 2 * x.nbytes)


def matmul_rate(n: int, dtype: Any, precision: str) -> Facts:
    """Floating-point operations a second of products of n x n matrices."""
    a = jax.random.normal(jax.random.key(0), (n, n), dtype) / jnp.asarray(n**0.5, dtype)
    return _rate(lambda x, a: jnp.matmul(x, a, precision=precision), (a, a), 2 * n**3)


def _rate(function: Callable, arguments: tuple, work: float, calls: int = 10, repeats: int = 3) -> Facts:
    """Work a second of a function that is applied to its own result `calls` times over; the best of `repeats`."""
    program = compile_to_fit(lambda _: function, arguments, 1)
    x, times = program.output, []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(calls):
            x = program.compiled(x, *arguments[1:])
        jax.block_until_ready(x)
        times.append((time.perf_counter() - began) / calls)
    return {**program.facts, "run_s": min(times), "runs": calls * repeats, "per_s": work / min(times)}
