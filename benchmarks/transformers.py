"""Tokens a second and model FLOP utilisation of policies with a memory: GRU, LSTM and transformer of equal width.

    python -m benchmarks.transformers                      a size for CPUs: trials of 512 steps
    python -m benchmarks.transformers --long --streams 2   and of 4,096
    python -m benchmarks.transformers --size 512 --num-layers 8 --num-heads 8 --streams 64 --remat --long
                                                           a size for a GPU

A token is a step of a stream. Acting is `Policy.step`, scanned over a trial of random observations; learning is one
gradient of an actor-critic loss on whole trials. No environment is stepped, no optimiser run. The transformer attends
to whole trials, and in the rows that say so to the last `--context` steps.

Model FLOP utilisation counts what the model needs, not what is computed for it (masked scores, what is computed again):

    learning: (6 parameters + 12 layers size attended) tokens / seconds / peak
    acting:   (2 parameters +  4 layers size attended) tokens / seconds / peak

with `attended` the mean number of steps that a step attends to, 0 for a GRU or an LSTM, and `peak` the FLOP/s of a
large matrix product of the same type on the same device, measured in the same run. `apart` is how far the
log-probabilities of acting are from those of learning, at most. Seconds are CPU-seconds on a CPU,
and wall-clock elsewhere. Pin the process to one core (`taskset -c 0 ...`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import metarl_jax as mrl
from benchmarks import common
from metarl_jax.envs.trial import trials
from metarl_jax.networks import recurrent_policy, transformer_policy

COLUMNS = {
    "work": "", "parameters": ",d", "compile_s": ".1f", "cpu_s": ".3f", "wall_s": ".3f", "tokens_per_s": ",.0f",
    "utilisation": ".3f", "temp_mb": ",.1f", "apart": ".1e",
}  # fmt: skip
NETWORKS = ("gru", "lstm", "transformer")
PRODUCTS = 10  # one after another in a run of the peak


def seconds(measured: dict[str, Any]) -> float:
    """CPU-seconds on a CPU, of the wall clock elsewhere."""
    return measured["cpu_s"] if jax.default_backend() == "cpu" else measured["wall_s"]


def peak(n: int, dtype: str, repeats: int) -> dict[str, Any]:
    """FLOP/s of products of n x n matrices."""
    a = jax.random.normal(jax.random.key(0), (n, n), dtype) / jnp.asarray(n**0.5, dtype)
    found = common.measure(lambda x: jax.lax.fori_loop(0, PRODUCTS, lambda _, y: y @ x, x), a, repeats=repeats)
    per_s = PRODUCTS * 2 * n**3 / seconds(found)
    return {"work": f"peak: product of {n} x {n}, {dtype}", **found, "dtype": dtype, "flop_per_s": per_s}


def policies(options: Any, length: int, dtype: str) -> Iterator[tuple[str, Any, int, int]]:
    """(name, policy, context, size of an observation); context 0 where there is none; GRU and LSTM in float32 only."""
    bandit, tasks = mrl.make("BernoulliBandit-v0", num_arms=5)
    env = trials(bandit, tasks, length)
    inputs = int(env.observation_space(env.default_params).shape[0])
    if dtype == "float32":
        for cell in [name for name in options.networks if name != "transformer"]:
            yield cell, recurrent_policy(env, options.size, cell=cell), 0, inputs
    sizes = {"num_layers": options.num_layers, "num_heads": options.num_heads}
    for context in dict.fromkeys((length, options.context)) if "transformer" in options.networks else ():
        if context <= length:
            name = "transformer" if context == length else f"transformer, context {context}"
            more = {"compute_dtype": dtype, "remat": options.remat}
            yield name, transformer_policy(env, context, options.size, **sizes, **more), context, inputs


def model_flops(parameters: int, num_layers: int, size: int, attended: float, learning: bool) -> float:
    """FLOPs a token that the model needs, see the top of this file."""
    return (6 if learning else 2) * (parameters + 2 * num_layers * size * attended)


def programs(policy: Any) -> dict[str, Any]:
    """{"acting", "learning"}: functions of (params, observation [T, B, in])."""

    def acting(params: Any, observation: jax.Array) -> jax.Array:
        def one(memory: Any, seen: jax.Array) -> tuple[Any, jax.Array]:
            memory, distribution = policy.step(params, memory, seen)
            return memory, distribution.logits

        return jax.lax.scan(one, policy.remember(observation.shape[1]), observation)[1]

    def loss(params: Any, observation: jax.Array) -> jax.Array:
        distribution, value = policy.joint(params, observation)
        return jnp.mean(jnp.square(value)) - jnp.mean(distribution.log_prob(jnp.zeros(value.shape, int)))

    return {"acting": acting, "learning": jax.grad(loss)}


def apart(policy: Any, params: Any, observation: jax.Array) -> float:
    """The largest difference of a log-probability between acting and learning."""
    acted = jax.jit(programs(policy)["acting"])(params, observation)
    learned = jax.jit(lambda p, x: policy.joint(p, x)[0].logits)(params, observation)
    return float(jnp.max(jnp.abs(jax.nn.log_softmax(acted) - jax.nn.log_softmax(learned))))


def rows(options: Any) -> Iterator[dict[str, Any]]:
    """The peak of each type, and below it each network's acting and learning, for each length."""
    for dtype in options.dtypes:
        top = peak(options.matmul, dtype, options.repeats)
        yield top
        for length in (options.length, *([options.long_length] if options.long else [])):
            for name, policy, context, inputs in policies(options, length, dtype):
                params = policy.init(jax.random.key(0))
                count = sum(x.size for x in jax.tree.leaves(params))
                observation = jax.random.normal(jax.random.key(1), (length, options.streams, inputs))
                for work, program in programs(policy).items():
                    found = common.measure(program, params, observation, repeats=options.repeats)
                    tokens, took = length * options.streams, seconds(found)
                    attended = sum(min(t + 1, context) for t in range(length)) / length
                    more = {"apart": apart(policy, params, observation)} if work == "acting" else {}
                    flops = model_flops(count, options.num_layers, options.size, attended, work == "learning")
                    yield {
                        "work": f"{name}, {work}, trials of {length}, {dtype}", "network": name, "program": work,
                        "length": length, "context": context, "streams": options.streams, "dtype": dtype,
                        "parameters": count, **found, "tokens": tokens, "tokens_per_s": tokens / took,
                        "flops_per_token": flops, "utilisation": flops * tokens / took / top["flop_per_s"], **more,
                    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    on_cpu = jax.default_backend() == "cpu"
    parser = common.parser(__doc__, "transformers")
    parser.add_argument("--size", type=int, default=64, help="width of every network (default 64)")
    parser.add_argument("--num-layers", type=int, default=2, help="of the transformer (default 2)")
    parser.add_argument("--num-heads", type=int, default=4, help="of the transformer (default 4)")
    parser.add_argument("--context", type=int, default=128, help="of the transformers that slide (default 128)")
    parser.add_argument("--streams", type=int, default=8, help="trials side by side (default 8)")
    parser.add_argument("--length", type=int, default=512, help="steps of a trial (default 512)")
    parser.add_argument("--long", action="store_true", help="trials of --long-length too")
    parser.add_argument("--long-length", type=int, default=4096, help="(default 4096)")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS), help="default: all")
    parser.add_argument("--remat", action="store_true", help="compute each layer again in the backward pass")
    parser.add_argument(
        "--dtypes", nargs="*", choices=("float32", "bfloat16"), help="(default float32; on a GPU both)",
        default=["float32"] if on_cpu else ["float32", "bfloat16"],
    )  # fmt: skip
    parser.add_argument("--matmul", type=int, default=1024 if on_cpu else 8192, help="size of the peak's product")
    options = parser.parse_args(argv)
    made: list[dict[str, Any]] = []
    sizes = {k: v for k, v in vars(options).items() if k != "output"}
    for row in rows(options):
        made.append(row)
        common.save(options.output, made, sizes=sizes)  # whole after each row
    print("\n" + common.table(made, COLUMNS))


if __name__ == "__main__":
    main()
