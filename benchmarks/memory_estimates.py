"""What `metarl check` says of a training's memory, beside what the training takes.

    python -m benchmarks.memory_estimates

Each case is a process of its own: it imports the library, estimates, trains one iteration, and says how its largest
resident size grew from just after the imports: until the program was compiled, and in all. Compiled programs are not
taken from a cache. CPU only.
"""

import json
import resource
import subprocess
import sys

from benchmarks import common

CASES = {  # a configuration, and sizes with which its arrays weigh something
    "maml_ppo_point": ["meta_batch_size=8", "episodes_per_task=500", "tasks_per_batch=8"],
    "promp_point": ["meta_batch_size=40", "episodes_per_task=800", "tasks_per_batch=4"],
    "maml_trpo_point": ["meta_batch_size=400", "episodes_per_task=200"],
    "ppo_cartpole": ["num_envs=4096", "num_steps=256", "num_epochs=1"],
    "rl2_bandit": ["meta_batch_size=80000", "num_epochs=1"],
    "varibad_grid_navi": ["meta_batch_size=8192", "num_epochs=1"],
    "lpg_tabular": ["num_agents=512"],
    "maml_sinusoid": ["meta_batch_size=50000"],
}
MIB = 2**20


def largest() -> int:
    """The largest resident size of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one(name: str) -> None:
    """Estimate and train one case in this process; prints a row as JSON."""
    import jax
    import jax.numpy as jnp

    from metarl_jax.runs import config, memory, train
    from metarl_jax.runs.build import build

    jax.config.update("jax_enable_compilation_cache", False)
    jnp.ones(3).block_until_ready()
    job = build(config.load(config.shipped_config(name), [*CASES[name], "iterations_per_call=1"]))
    idle = largest()
    estimate = memory.estimate(job)
    said, equations = estimate.total, memory.num_equations(estimate.call.traced.jaxpr.jaxpr)
    states = train.initial_states(job)
    call, _ = train.compiled_call(job, estimate.call.length, states, estimate.call)
    compiled = largest() - idle
    jax.block_until_ready(call(states, 0))
    took = largest() - idle
    row = {"configuration": name, "sizes": ", ".join(CASES[name]), "equations": equations}
    sizes = {"compiled_mib": compiled / MIB, "estimate_mib": said / MIB, "took_mib": took / MIB, "ratio": said / took}
    print(json.dumps({**row, **sizes}))


def main() -> None:
    arguments = common.parser(__doc__, "memory_estimates").parse_args()
    rows = []
    for name in CASES:
        command = [sys.executable, "-c", f"from benchmarks.memory_estimates import one; one({name!r})"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{name}: {rows[-1]['ratio']:.2f}", flush=True)
    columns = {"configuration": "", "equations": "d", "compiled_mib": ".0f"}
    print(common.table(rows, {**columns, "estimate_mib": ".0f", "took_mib": ".0f", "ratio": ".2f"}))
    common.save(arguments.output, rows)


if __name__ == "__main__":
    main()
