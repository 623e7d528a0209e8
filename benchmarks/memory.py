"""Policies with a memory: RL2's iterations and the cost of acting, for trials of 10, 100 and 500 pulls.

`python -m benchmarks.throughput --memory` prints and keeps these rows. An iteration gathers about 50,000 pulls of five
Bernoulli arms and makes 4 epochs of 8 minibatches over them; the GRU has 64 units, the transformer 2 layers of width
64. `chunk` is the number of steps between rematerialisations of the GRU's backward pass.
"""

from typing import Any

import jax

import metarl_jax as mrl
from benchmarks import common
from metarl_jax.envs.trial import trials
from metarl_jax.networks import recurrent_policy, transformer_policy
from metarl_jax.rl.trials import trial_rollout

PULLS = (10, 100, 500)
CHUNKS = {100: 10, 500: 25}
STEPS = 51_200  # of an iteration
COLUMNS = {
    "work": "", "compile_s": ".1f", "cpu_s": ".3f", "env_steps_per_cpu_s": ",.0f", "cpu_us_per_step": ".2f",
    "temp_mb": ".1f",
}  # fmt: skip


def _policy(network: str, env: Any, chunk: int | None = None) -> Any:
    return recurrent_policy(env, 64, chunk=chunk) if network == "gru" else transformer_policy(env, env.num_steps, 64)


def training(network: str, pulls: int, chunk: int | None, repeats: int) -> dict[str, Any]:
    """One iteration: rollouts and updates."""
    bandit, tasks = mrl.make("BernoulliBandit-v0", num_arms=5)
    env = trials(bandit, tasks, pulls)
    learner = mrl.rl2(env, tasks, _policy(network, env, chunk), meta_batch_size=STEPS // pulls // 8 * 8)
    state = learner.init(jax.random.key(0))
    result = common.measure(learner.step, state, jax.random.key(1), repeats=repeats)
    steps = STEPS // pulls // 8 * 8 * pulls
    label = f"RL2 {network}, training, trials of {pulls}" + (f", chunk {chunk}" if chunk else "")
    return {"work": label, **_per_step(common.rates(result, steps))}


def acting(network: str, pulls: int, repeats: int) -> dict[str, Any]:
    """Rollouts alone, 128 trials side by side."""
    bandit, tasks = mrl.make("BernoulliBandit-v0", num_arms=5)
    env = trials(bandit, tasks, pulls)
    policy = _policy(network, env)
    task = jax.vmap(tasks.sample)(jax.random.split(jax.random.key(0), 128))

    def collect(params: Any, key: jax.Array) -> jax.Array:
        return trial_rollout(env, policy.step, policy.remember, params, key, task, 128, one_task_each=True)[1]

    result = common.measure(collect, policy.init(jax.random.key(0)), jax.random.key(1), repeats=repeats)
    return {"work": f"RL2 {network}, acting, trials of {pulls}", **_per_step(common.rates(result, 128 * pulls))}


def _per_step(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "cpu_us_per_step": 1e6 / row["env_steps_per_cpu_s"]}


def rows(repeats: int) -> list[dict[str, Any]]:
    """All of them."""
    made = []
    for network in ("gru", "transformer"):
        for pulls in PULLS:
            made.append(acting(network, pulls, repeats))
            made.append(training(network, pulls, None, repeats))
            if network == "gru" and pulls in CHUNKS:
                made.append(training(network, pulls, CHUNKS[pulls], repeats))
    return made
