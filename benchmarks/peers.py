"""Costs of the peer libraries that the benchmarks compare against, measured with the peers' own code.

Two peers are covered, by three works:

``rejax_ppo``
    rejax's PPO on gymnax CartPole at PureJaxRL's default setting.
``rejax_minatar``
    rejax's PPO with a convolution on MinAtar's Breakout.
``learn2learn_promp``
    One ProMP iteration on 2-D navigation (``Particles2D``), put together from the parts that learn2learn
    and its companion cherry provide.

Neither is a dependency of this project, and learn2learn needs packages that we do not want beside ours.
So this file imports the standard library only, each function imports its peer lazily, and the file runs
as a script under any interpreter that has the peer::

    python benchmarks/peers.py rejax --seeds 8 --json
    python -m benchmarks.peers all --peer-python path/to/other/python

``run_peer`` is the same subprocess call for use from Python. A peer that is not installed gives
``{"available": False, "reason": ...}`` with the commands that install it.

Every result has ``compile_s``, ``run_cpu_s``, ``run_wall_s``, ``env_steps``, ``env_steps_per_cpu_s`` and
``versions``. CPU-seconds are process time, all threads added up; with several ``repeats`` they are medians,
and every sample is kept under ``run_cpu_s_all``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

Result = dict[str, Any]

REJAX_INSTALL = ("pip install rejax==0.1.3 gymnax==1.0.1 jax==0.10.2",)
# A CPU build of torch is enough. The build_ext option makes learn2learn's set-up regenerate its C sources
# with the installed Cython: the ones it ships do not compile on Python 3.11 and later. gym and cherry go in
# without their dependencies, which are old; what is used of them is listed in the second command.
LEARN2LEARN_INSTALL = (
    "pip install torch==2.13.0",
    "pip install setuptools wheel cython numpy scipy pillow matplotlib requests tqdm dotmap six cloudpickle",
    "pip install --no-deps gym==0.26.2 gym-notices==0.1.0",
    "pip install --no-deps --no-build-isolation cherry-rl==0.2.0",
    "pip install --no-deps --no-build-isolation --config-settings=--global-option=build_ext learn2learn==0.2.0",
)

EXTRAPOLATED_TASKS = 40


def _unavailable(peer: str, why: str, install: Sequence[str]) -> Result:
    return {
        "available": False,
        "peer": peer,
        "reason": f"{why}; to install: {' && '.join(install)}",
        "install": list(install),
    }


def _missing(modules: Sequence[str]) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is None]


def _versions(*distributions: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpus() -> int:
    """CPU cores this process may use, recorded because CPU-seconds depend a little on it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _timings(cpu: Sequence[float], wall: Sequence[float], env_steps: Sequence[int]) -> Result:
    rates = [steps / seconds for steps, seconds in zip(env_steps, cpu, strict=True)]
    return {
        "run_cpu_s": statistics.median(cpu),
        "run_wall_s": statistics.median(wall),
        "run_cpu_s_all": list(cpu),
        "env_steps": int(statistics.median(env_steps)),
        "env_steps_per_cpu_s": statistics.median(rates),
        "cpus": _cpus(),
    }


# ---------------------------------------------------------------------------------------------------------
# rejax


class _FiveValueStep:
    """A gymnax 1.x environment with the five-value ``step`` that rejax was written for.

    gymnax 1.x returns ``terminated`` and ``truncated`` apart; before, ``done`` was either of them. So their
    disjunction is the old behaviour, and the work added is one logical or per step.
    """

    def __init__(self, env: Any) -> None:
        self._wrapped = env

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_wrapped":  # copy and pickle probe these before __init__
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def step(self, key: Any, state: Any, action: Any, params: Any) -> tuple[Any, Any, Any, Any, Any]:
        result = self._wrapped.step(key, state, action, params)
        if len(result) == 5:
            return result
        obs, state, reward, terminated, truncated, info = result
        return obs, state, reward, terminated | truncated, info


def rejax_ppo(
    num_seeds: int = 1,
    total_timesteps: int = 500_000,
    *,
    anneal_lr: bool = True,
    eval_episodes: int = 128,
    repeats: int = 1,
    seed: int = 0,
) -> Result:
    """Train rejax's PPO on CartPole: 4 environments x 128 steps, 4 epochs of 4 minibatches, 64x64 tanh.

    ``num_seeds`` > 1 vmaps rejax's ``train`` over seeds. rejax's evaluation is switched off within the
    timed run (no initial evaluation, one no-op callback at the end), and the final return is measured
    afterwards with rejax's own ``evaluate``. What stays different from PureJaxRL is rejax's own: separate
    actor and critic optimizers, element-wise gradient clipping, default initialisers, and one rollout more
    where the number of steps is not a multiple of 512 (it rounds up; ``env_steps`` counts what was run).
    ``anneal_lr`` hands rejax a linear schedule as its learning rate, which it passes on to Adam.
    """
    if num_seeds < 1 or total_timesteps < 1 or repeats < 1:
        raise ValueError("num_seeds, total_timesteps and repeats must be at least 1")
    missing = _missing(("jax", "gymnax", "rejax"))
    if missing:
        return _unavailable("rejax", f"not installed: {', '.join(missing)}", REJAX_INSTALL)
    try:
        import gymnax
        from rejax import PPO
    except Exception as error:  # an old peer can fail to import in any way
        return _unavailable("rejax", f"import failed: {error!r}", REJAX_INSTALL)

    num_envs, num_steps, num_epochs, num_minibatches = 4, 128, 4, 4
    rollout = num_envs * num_steps
    iterations = -(-total_timesteps // rollout)
    learning_rate: Any = 2.5e-4
    if anneal_lr:
        # Piecewise constant over an iteration's optimizer steps, as in PureJaxRL.
        updates = num_epochs * num_minibatches

        def learning_rate(count: Any) -> Any:
            return 2.5e-4 * (1.0 - (count // updates) / iterations)

    base_env, env_params = gymnax.make("CartPole-v1")
    env = _FiveValueStep(base_env)
    algo = PPO.create(
        env=env,
        env_params=env_params,
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": (64, 64)},
        num_envs=num_envs,
        num_steps=num_steps,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        learning_rate=learning_rate,
        max_grad_norm=0.5,
        gamma=0.99,
        gae_lambda=0.95,
        clip_eps=0.2,
        vf_coef=0.5,
        ent_coef=0.01,
        total_timesteps=total_timesteps,
        eval_freq=total_timesteps,
        skip_initial_evaluation=True,
    ).replace(eval_callback=lambda algo, train_state, key: ())

    measured = _train_rejax(algo, env, env_params, num_seeds, repeats, seed, eval_episodes)
    steps = iterations * rollout
    return {
        **measured,
        "what": f"PPO CartPole, {num_seeds} seed(s), {steps} steps each",
        **_timings(measured.pop("cpu"), measured.pop("wall"), [steps * num_seeds] * repeats),
        "anneal_lr": anneal_lr,
    }


def rejax_minatar(
    game: str = "Breakout",
    iterations: int = 12,
    *,
    patches: bool = False,
    eval_episodes: int = 16,
    repeats: int = 1,
    seed: int = 0,
) -> Result:
    """Train rejax's PPO with a convolution on a game of MinAtar, as `configs/ppo_minatar.yaml` trains ours.

    64 environments x 128 steps, 4 epochs of 8 minibatches; actor and critic each have 16 filters of 3 x 3 without
    padding, a layer of 64 units and relu. rejax's own networks flatten images. The convolution is flax's `nn.Conv`, or
    with ``patches`` the same by a matrix product over all patches, as ours is. The step size falls linearly, iteration
    by iteration, as ours does.
    """
    missing = _missing(("jax", "gymnax", "rejax"))
    if missing:
        return _unavailable("rejax-minatar", f"not installed: {', '.join(missing)}", REJAX_INSTALL)
    import gymnax
    import jax.numpy as jnp
    from flax import linen as nn
    from rejax import PPO
    from rejax.networks import DiscretePolicy, VNetwork

    class Torso(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            if patches:
                tall, wide = x.shape[-3] - 2, x.shape[-2] - 2
                x = jnp.concatenate([x[:, i : i + tall, j : j + wide] for i in range(3) for j in range(3)], axis=-1)
                x = nn.relu(nn.Dense(16)(x))
            else:
                x = nn.relu(nn.Conv(16, (3, 3), padding="VALID")(x))
            return nn.relu(nn.Dense(64)(x.reshape(x.shape[0], -1)))

    class Actor(DiscretePolicy):
        def setup(self) -> None:
            self.features = Torso()
            self.action_logits = nn.Dense(self.action_dim)

    class Critic(VNetwork):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.Dense(1)(Torso()(x)).squeeze(1)

    num_envs, num_steps = 64, 128
    base_env, env_params = gymnax.make(f"{game}-MinAtar")
    env, steps = _FiveValueStep(base_env), iterations * num_envs * num_steps

    def learning_rate(count: Any) -> Any:
        return 5e-3 * (1.0 - (count // (4 * 8)) / iterations)

    algo = PPO.create(
        env=env, env_params=env_params, num_envs=num_envs, num_steps=num_steps, num_epochs=4, num_minibatches=8,
        learning_rate=learning_rate, max_grad_norm=0.5, gamma=0.99, gae_lambda=0.95, clip_eps=0.2, vf_coef=0.5,
        ent_coef=0.01, total_timesteps=steps, eval_freq=steps, skip_initial_evaluation=True,
    ).replace(eval_callback=lambda algo, train_state, key: ())  # fmt: skip
    sizes = {"hidden_layer_sizes": (64,), "activation": nn.relu}
    algo = algo.replace(actor=Actor(base_env.num_actions, **sizes), critic=Critic(**sizes))
    measured = _train_rejax(algo, env, env_params, 1, repeats, seed, eval_episodes)
    timings = _timings(measured.pop("cpu"), measured.pop("wall"), [steps] * repeats)
    return {**measured, "peer": "rejax-minatar", "what": f"PPO {game}-MinAtar, {steps} steps", **timings}


def _train_rejax(
    algo: Any, env: Any, env_params: Any, num_seeds: int, repeats: int, seed: int, eval_episodes: int
) -> Result:
    """Compile and time rejax's `train`, vmapped over seeds where there are several, then evaluate what it trained."""
    import jax
    from rejax.evaluate import evaluate

    def train_one(key: Any) -> Any:
        return algo.train(key)[0]

    def evaluate_one(train_state: Any, key: Any) -> Any:
        limit = env_params.max_steps_in_episode
        return evaluate(algo.make_act(train_state), key, env, env_params, eval_episodes, limit)[1].mean()

    train, measure = train_one, evaluate_one
    keys = jax.random.split(jax.random.key(seed), num_seeds)
    if num_seeds == 1:
        train_keys, eval_keys = keys[0], jax.random.fold_in(keys[0], 1)
    else:
        train, measure = jax.vmap(train_one), jax.vmap(evaluate_one)
        train_keys, eval_keys = keys, jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)

    wall_0, cpu_0 = time.perf_counter(), time.process_time()
    compiled = jax.jit(train).lower(train_keys).compile()
    compile_s, compile_cpu_s = time.perf_counter() - wall_0, time.process_time() - cpu_0

    cpu, wall = [], []
    for _ in range(repeats):
        wall_0, cpu_0 = time.perf_counter(), time.process_time()
        train_state = jax.block_until_ready(compiled(train_keys))
        cpu.append(time.process_time() - cpu_0)
        wall.append(time.perf_counter() - wall_0)

    returns = jax.jit(measure)(train_state, eval_keys).reshape(-1).tolist()
    return {
        "available": True,
        "peer": "rejax",
        "compile_s": compile_s,
        "compile_cpu_s": compile_cpu_s,
        "cpu": cpu,
        "wall": wall,
        "num_seeds": num_seeds,
        "final_return": statistics.fmean(returns),
        "final_return_per_seed": returns,
        "device": jax.devices()[0].device_kind,
        "versions": _versions("rejax", "jax", "jaxlib", "gymnax", "flax", "optax", "distrax", "numpy"),
    }


# ---------------------------------------------------------------------------------------------------------
# learn2learn


class _Placeholder(types.ModuleType):
    """A module with a class for every name asked of it, enough for the ``from ... import`` of code not used."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _import_learn2learn() -> tuple[Any, Any, Any, Any]:
    """Import torch, gym, cherry and learn2learn, with placeholders for what they import but do not need here.

    learn2learn imports torchvision for its image data sets, and cherry subclasses a class that gym dropped
    from its video recorder. Nothing measured touches either.
    """
    torch = importlib.import_module("torch")
    gym = importlib.import_module("gym")
    recorder: Any = importlib.import_module("gym.wrappers.monitoring.video_recorder")
    if not hasattr(recorder, "ImageEncoder"):
        recorder.ImageEncoder = object
    cherry = importlib.import_module("cherry")
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        for child in ("", ".transforms", ".datasets", ".datasets.folder", ".datasets.omniglot"):
            name = f"torchvision{child}"
            module = sys.modules[name] = _Placeholder(name)
            parent, _, attribute = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], attribute, module)
    learn2learn = importlib.import_module("learn2learn")
    importlib.import_module("learn2learn.gym.envs.particles")
    return torch, gym, cherry, learn2learn


def _cpu_with_children() -> float:
    """Process time of this process and of the child processes that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def learn2learn_promp(
    num_tasks: int = 5,
    episodes: int = 20,
    horizon: int = 100,
    outer_epochs: int = 5,
    *,
    recompute: bool = True,
    num_workers: int = 1,
    torch_threads: int = 1,
    repeats: int = 1,
    seed: int = 0,
) -> Result:
    """One ProMP iteration on Particles2D: 64x64 tanh Gaussian policy, one inner step, clipped surrogate.

    For each task: roll out, adapt, roll out again; then ``outer_epochs`` Adam steps on the stored data, each
    of which adapts a differentiable clone per task and sums the clipped losses. Cloning and adapting are
    learn2learn's ``MAML``, the environment its ``Particles2DEnv``; rollouts, replay, linear baseline,
    advantages and losses are cherry's. Ours are the policy network, the time limit and the loop.

    ``recompute`` works the fixed parts of the data (advantages, densities under the old policy) out again in
    every outer epoch, as learn2learn's published ProMP example does; without it they are computed once,
    which is the best that a user of the library can do. ``num_workers`` > 1 uses learn2learn's
    ``AsyncVectorEnv``, one process a worker, whose CPU time is counted.

    The cost is linear in tasks, so the result carries ``extrapolated`` for 40 of them. PyTorch runs eagerly:
    ``compile_s`` is 0, and a tiny iteration before the timed ones takes the first-call costs.
    """
    if min(num_tasks, episodes, horizon, outer_epochs, num_workers, torch_threads, repeats) < 1:
        raise ValueError("all sizes must be at least 1")
    missing = _missing(("torch", "gym", "cherry", "learn2learn"))
    if missing:
        return _unavailable("learn2learn", f"not installed: {', '.join(missing)}", LEARN2LEARN_INSTALL)
    try:
        torch, gym, ch, l2l = _import_learn2learn()
    except Exception as error:  # an old peer can fail to import in any way
        return _unavailable("learn2learn", f"import failed: {error!r}", LEARN2LEARN_INSTALL)

    import random

    normal, kl_divergence = torch.distributions.Normal, torch.distributions.kl_divergence
    gamma, gae_lambda, clip, kl_coef, inner_lr, outer_lr = 0.99, 1.0, 0.3, 5e-4, 0.1, 1e-3

    wrapper_base: Any = gym.Wrapper
    module_base: Any = torch.nn.Module

    class TimeLimit(wrapper_base):
        """Ends an episode at ``horizon``; gym's own has another step signature than learn2learn's tasks."""

        def reset(self, **kwargs: Any) -> Any:
            self.elapsed = 0
            return self.env.reset(**kwargs)

        def step(self, action: Any) -> Any:
            obs, reward, done, info = self.env.step(action)
            self.elapsed += 1
            return obs, reward, bool(done) or self.elapsed >= self.limit, info

    class Policy(module_base):
        def __init__(self) -> None:
            super().__init__()
            nn = torch.nn
            self.mean = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
            self.log_std = nn.Parameter(torch.zeros(2))

        def density(self, states: Any) -> Any:
            return normal(self.mean(states), self.log_std.exp())

        def forward(self, states: Any) -> Any:
            return self.density(states).sample()

    def make_env(limit: int) -> Any:
        task = l2l.gym.envs.particles.Particles2DEnv()
        task.seed(seed)  # the goals that sample_tasks draws
        env = TimeLimit(task)
        env.limit = limit
        return ch.envs.ActionSpaceScaler(env)

    def log_prob(density: Any, actions: Any) -> Any:
        return density.log_prob(actions).sum(dim=1, keepdim=True)

    baseline = ch.models.robotics.LinearValue(2)

    def unpack(replay: Any) -> tuple[Any, Any, Any]:
        """States, actions and normalised advantages of a replay."""
        states, actions, rewards, dones = replay.state(), replay.action(), replay.reward(), replay.done()
        with torch.no_grad():
            baseline.fit(states, ch.td.discount(gamma, rewards, dones))
            advantages = ch.pg.generalized_advantage(
                gamma, gae_lambda, rewards, dones, baseline(states), torch.zeros(1)
            )
        return states, actions, ch.normalize(advantages)

    def iteration(meta: Any, optimizer: Any, env: Any, tasks: int, episodes: int, epochs: int) -> Result:
        stored = []
        steps, total_reward = 0, 0.0
        for task in env.sample_tasks(tasks):
            env.set_task(task)
            runner = ch.envs.Runner(env)
            phases = []
            policy = meta.clone()
            for phase in range(2):
                with torch.no_grad():
                    replay = runner.run(policy, episodes=episodes)
                steps += len(replay)
                phases.append((replay, policy))
                if phase == 0:
                    states, actions, advantages = unpack(replay)
                    adapted = meta.clone()
                    adapted.adapt(
                        ch.algorithms.a2c.policy_loss(log_prob(adapted.module.density(states), actions), advantages),
                        first_order=True,
                    )
                    policy = adapted
            total_reward += replay.reward().sum().item() / episodes
            # meta's parameters are about to move; the clones hold copies, cut off here from its graph.
            for _, snapshot in phases:
                l2l.detach_module(snapshot.module)
            stored.append(phases)

        def fixed(phase: tuple[Any, Any]) -> tuple[Any, Any, Any, Any, Any]:
            replay, snapshot = phase
            states, actions, advantages = unpack(replay)
            with torch.no_grad():
                density = snapshot.module.density(states)
                old = log_prob(density, actions)
            return states, actions, advantages, density, old

        kept = None if recompute else [[fixed(phase) for phase in phases] for phases in stored]
        for _ in range(epochs):
            loss = torch.zeros(())
            for index, phases in enumerate(stored):
                before, after = kept[index] if kept is not None else [fixed(phase) for phase in phases]
                learner = meta.clone()
                states, actions, advantages, old_density, old = before
                density = learner.module.density(states)
                penalty = kl_divergence(old_density, density).sum(dim=1).mean()
                surrogate = ch.algorithms.trpo.policy_loss(log_prob(density, actions), old, advantages)
                learner.adapt(surrogate)
                states, actions, advantages, _, old = after
                new = log_prob(learner.module.density(states), actions)
                loss = loss + ch.algorithms.ppo.policy_loss(new, old, advantages, clip=clip) + kl_coef * penalty
            optimizer.zero_grad()
            (loss / tasks).backward()
            optimizer.step()
        return {"env_steps": steps, "mean_return": total_reward / tasks}

    def timed(tasks: int, episodes: int, limit: int, epochs: int) -> tuple[float, float, Result]:
        """One iteration with environments of its own: child processes are counted once waited for."""
        wall_0, cpu_0 = time.perf_counter(), _cpu_with_children()
        vector = None
        if num_workers > 1:
            vector = l2l.gym.AsyncVectorEnv([lambda: make_env(limit) for _ in range(num_workers)])
        env = ch.envs.Torch(vector if vector is not None else make_env(limit))
        outcome = iteration(meta, optimizer, env, tasks, episodes, epochs)
        if vector is not None:
            vector.close()
        return _cpu_with_children() - cpu_0, time.perf_counter() - wall_0, outcome

    threads_before = torch.get_num_threads()
    torch.set_num_threads(torch_threads)
    try:
        random.seed(seed)
        torch.manual_seed(seed)
        meta = l2l.algorithms.MAML(Policy(), lr=inner_lr)
        optimizer = torch.optim.Adam(meta.parameters(), lr=outer_lr)
        _, warmup_s, _ = timed(1, 1, 10, 1)
        samples = [timed(num_tasks, episodes, horizon, outer_epochs) for _ in range(repeats)]
    finally:
        torch.set_num_threads(threads_before)

    timings = _timings(
        [sample[0] for sample in samples],
        [sample[1] for sample in samples],
        [sample[2]["env_steps"] for sample in samples],
    )
    return {
        "available": True,
        "peer": "learn2learn",
        "what": f"ProMP Particles2D, {num_tasks} x {episodes} x {horizon}, {outer_epochs} outer epochs",
        "compile_s": 0.0,
        "warmup_s": warmup_s,
        **timings,
        "extrapolated": {
            "num_tasks": EXTRAPOLATED_TASKS,
            "run_cpu_s": timings["run_cpu_s"] * EXTRAPOLATED_TASKS / num_tasks,
            "how": f"linear in tasks, from {num_tasks}",
        },
        "recompute": recompute,
        "num_workers": num_workers,
        "torch_threads": torch_threads,
        "mean_return": samples[-1][2]["mean_return"],
        "mean_return_all": [sample[2]["mean_return"] for sample in samples],
        "device": "cpu",
        "versions": _versions("learn2learn", "cherry-rl", "gym", "torch", "numpy"),
    }


# ---------------------------------------------------------------------------------------------------------
# Command line


def run_peer(peer: str, options: Sequence[str] = (), *, python: str | None = None, timeout: float = 3600.0) -> Result:
    """Measure a peer in a process of its own: ``run_peer("rejax", ["--seeds", "8"], python=...)``.

    ``python`` is the interpreter to use, this one by default. A process that fails gives an unavailable
    result with the last line of what it wrote to stderr.
    """
    if peer not in ("rejax", "rejax-minatar", "learn2learn"):
        raise ValueError(f"unknown peer {peer!r}")
    command = [python or sys.executable, os.path.abspath(__file__), peer, *options, "--json"]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # files beside this one must not hide a package
    install = LEARN2LEARN_INSTALL if peer == "learn2learn" else REJAX_INSTALL
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _unavailable(peer, f"could not be measured: {error}", install)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        message = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return _unavailable(peer, f"process ended with status {done.returncode}: {message}", install)
    result: Result = json.loads(lines[-1])
    return result


def format_table(results: Sequence[Result]) -> str:
    """The results as an aligned text table."""
    header = ("peer", "work", "compile s", "CPU s", "wall s", "env steps", "steps/CPU-s", "return")
    rows: list[tuple[str, ...]] = [header]
    notes: list[str] = []
    for result in results:
        if not result["available"]:
            rows.append((result["peer"], "not measured", *("-",) * 6))
            notes.append(f"{result['peer']}: {result['reason']}")
            continue
        rows.append(
            (
                f"{result['peer']} {result['versions'].get(result['peer'], '?')}",
                result["what"],
                f"{result['compile_s']:.1f}",
                f"{result['run_cpu_s']:.2f}",
                f"{result['run_wall_s']:.2f}",
                str(result["env_steps"]),
                f"{result['env_steps_per_cpu_s']:.0f}",
                f"{result.get('final_return', result.get('mean_return', float('nan'))):.1f}",
            )
        )
        if "extrapolated" in result:
            more = result["extrapolated"]
            notes.append(
                f"{result['peer']}: {more['run_cpu_s']:.1f} CPU s for {more['num_tasks']} tasks ({more['how']})"
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([line.rstrip() for line in lines] + notes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the peer libraries that the benchmarks compare with.")
    parser.add_argument("peer", nargs="?", choices=("all", "rejax", "rejax-minatar", "learn2learn"), default="all")
    parser.add_argument("--json", action="store_true", help="one line of JSON: a result, or a list of them for all")
    parser.add_argument("--peer-python", metavar="PATH", help="interpreter that has the peers, if not this one")
    parser.add_argument("--repeats", type=int, default=1, help="timed runs; medians are reported")
    parser.add_argument("--seed", type=int, default=0)
    rejax = parser.add_argument_group("rejax")
    rejax.add_argument("--seeds", type=int, default=1, help="seeds trained at once")
    rejax.add_argument("--timesteps", type=int, default=500_000)
    rejax.add_argument("--constant-lr", action="store_true", help="do not anneal the learning rate")
    rejax.add_argument("--game", default="Breakout", help="of rejax-minatar")
    rejax.add_argument("--eval-episodes", type=int, default=16, help="of rejax-minatar, after training")
    rejax.add_argument("--iterations", type=int, default=6, help="of rejax-minatar, 8,192 steps each")
    rejax.add_argument("--patches", action="store_true", help="rejax-minatar convolves by a matrix product")
    promp = parser.add_argument_group("learn2learn")
    promp.add_argument("--tasks", type=int, default=5)
    promp.add_argument("--episodes", type=int, default=20)
    promp.add_argument("--horizon", type=int, default=100)
    promp.add_argument("--outer-epochs", type=int, default=5)
    promp.add_argument("--workers", type=int, default=1, help="environment processes; 1 stays in this process")
    promp.add_argument("--compute-once", action="store_true", help="advantages once, not in every outer epoch")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)
    chosen = ("rejax", "learn2learn") if options.peer == "all" else (options.peer,)
    measure: dict[str, Callable[[], Result]] = {
        "rejax": lambda: rejax_ppo(
            options.seeds,
            options.timesteps,
            anneal_lr=not options.constant_lr,
            repeats=options.repeats,
            seed=options.seed,
        ),
        "rejax-minatar": lambda: rejax_minatar(
            options.game,
            options.iterations,
            patches=options.patches,
            eval_episodes=options.eval_episodes,
            repeats=options.repeats,
            seed=options.seed,
        ),
        "learn2learn": lambda: learn2learn_promp(
            options.tasks,
            options.episodes,
            options.horizon,
            options.outer_epochs,
            recompute=not options.compute_once,
            num_workers=options.workers,
            repeats=options.repeats,
            seed=options.seed,
        ),
    }
    if options.peer_python is None and len(chosen) == 1:
        results = [measure[chosen[0]]()]
    else:  # a process each: their packages do not meet, and neither pays for the other's threads
        passed = ["--repeats", str(options.repeats), "--seed", str(options.seed)]
        passed += ["--seeds", str(options.seeds), "--timesteps", str(options.timesteps)]
        passed += ["--tasks", str(options.tasks), "--episodes", str(options.episodes)]
        passed += ["--horizon", str(options.horizon), "--outer-epochs", str(options.outer_epochs)]
        passed += ["--workers", str(options.workers)]
        passed += ["--constant-lr"] * options.constant_lr + ["--compute-once"] * options.compute_once
        results = [run_peer(peer, passed, python=options.peer_python) for peer in chosen]
    if options.json:
        print(json.dumps(results if options.peer == "all" else results[0]))
    else:
        print(format_table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
