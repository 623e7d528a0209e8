"""What a program will need of memory, read off its jaxpr: nothing is compiled.

A buffer is counted from the equation that makes it to the last one that reads it. What XLA fuses (elementwise
arithmetic, broadcasts, reshapes) has no buffer of its own: its operands live until its value is read by something that
needs it whole. A loop needs its carry, what it stacks, and one turn of its body.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax import devices
from metarl_jax.algorithms.interface import AROUND_ITERATIONS
from metarl_jax.options import ConfigError
from metarl_jax.runs import training_loop
from metarl_jax.runs.build import Job

# What tracing and compiling take on the host, in all and for each equation: `python -m benchmarks.memory_estimates`.
FIXED, PER_EQUATION = 300 * 2**20, 120 * 2**10
DOUBT = 1.7  # by which an estimate may be too large
# Whose operands must be there as a whole. Everything else that is not a loop or a call is fused.
WHOLE = {
    "dot_general", "conv_general_dilated", "sort", "scatter", "scatter-add", "scatter_add", "gather", "cumsum",
    "cumlogsumexp", "cumprod", "cummax", "cummin", "fft", "cholesky", "triangular_solve", "eigh", "lu", "qr", "svd",
    "custom_linear_solve", "pure_callback", "io_callback", "buffer_callback", "random_bits", "random_split",
    "random_fold_in", "random_wrap", "threefry2x32", "rng_bit_generator", "top_k", "reduce_window",
    "dynamic_update_slice", "concatenate", "all_gather", "psum", "rev",
}  # fmt: skip
SAME = {"reshape", "squeeze", "expand_dims", "stop_gradient", "copy_p", "optimization_barrier", "name"}  # no new buffer
NO_SIZES = ("seed", "task_seed", *AROUND_ITERATIONS)  # keys whose value costs no memory


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes: of what is kept from call to call, and in all; and the call, traced, to be compiled."""

    kept: int
    total: int
    call: training_loop.TracedCall


def estimate(job: Job) -> Estimate:
    """What a run of `job` takes above a process that has imported JAX and started it."""
    call = training_loop.trace_call(job.config)
    kept = sum(_bytes(x) for x in jax.tree.leaves(call.states))
    of_host = FIXED + PER_EQUATION * num_equations(call.traced.jaxpr.jaxpr) if devices.memory() is None else 0
    return Estimate(kept, kept + peak(call.traced.jaxpr) + of_host, call)


def check(job: Job, report: Callable[[Any], None]) -> Estimate | None:
    """`estimate`, held against the memory there is; what may not fit is reported.

    None, without tracing, on an accelerator: there the compiled program says what it needs (`training_loop.fit`).
    Raises: ConfigError where a run needs more, whatever the estimate's error.
    """
    if devices.memory() is not None:
        return None
    found = estimate(job)
    fits(found.total, _largest(job.config), report)
    return found


def fits(size: int, made_of: str, report: Callable[[Any], None]) -> None:
    """Report a need for `size` bytes that may not be met. Raises: ConfigError for one that cannot."""
    room = available()
    if room is not None and size > room:
        said = f"memory: needs about {worded(size)}, and {worded(room)} are free"
        if size > DOUBT * room:
            raise ConfigError(f"{said}; make {made_of} smaller")
        report(f"{said}: it may not fit")


def of_call(function: Any, *shapes: Any) -> int:
    """Bytes that a jitted function needs, its arguments included, for arguments of these shapes."""
    traced = function.trace(*shapes)
    return sum(map(_bytes, jax.tree.leaves(shapes))) + peak(traced.jaxpr)


def available() -> int | None:
    """Bytes that a run may take: of an accelerator's memory, or what this process can have of the host's."""
    if (limit := devices.memory()) is not None:
        return int(training_loop.MEMORY_SHARE * limit)
    rooms = list(_rooms())
    return min(rooms) if rooms else None


def _rooms() -> Iterator[int]:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        yield int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            yield int(Path(limit).read_text()) - int(Path(used).read_text())
        except (OSError, ValueError):  # no such group, or "max"
            pass
    try:
        import resource

        limit_of_space = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit_of_space != resource.RLIM_INFINITY:
            yield limit_of_space - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError):
        pass


def _largest(config: Any) -> str:
    """The keys that are the largest sizes, with their values."""
    sizes = {k: v for k, v in config.model_dump().items() if isinstance(v, int) and not isinstance(v, bool)}
    sizes |= {k: max(v) for k, v in config.model_dump().items() if isinstance(v, list) and v and isinstance(v[0], int)}
    sizes |= {f"env_options.{k}": v for k, v in config.env_options.items() if isinstance(v, int)}
    sizes = {k: v for k, v in sizes.items() if k not in NO_SIZES and not k.startswith("eval_")}
    best = [k for k in sorted(sizes, key=lambda k: -sizes[k])[:3] if sizes[k] > max(sizes.values()) // 100]
    return " or ".join(f"{k} = {sizes[k]}" for k in best)


def worded(size: float) -> str:
    """Bytes in words: 4.0 KiB, 1.3 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1000 or unit == "GiB":
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 1000 else f"{size:.1f} {unit}"


def num_learned(job: Job) -> int:
    """Numbers that a seed learns."""
    params = jax.eval_shape(lambda key: job.params(job.algorithm.init(key)), jax.random.key(0))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


# --- liveness -------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """An equation, calls written out: what it reads and makes are (place, variable)."""

    equation: Any
    reads: list[Any]
    makes: list[Any]


def peak(closed: Any) -> int:
    """Bytes that a closed jaxpr needs beside its arguments, its results included."""
    return _peak(closed.jaxpr) + sum(_bytes(x) for x in closed.consts)


def _peak(jaxpr: Any, stacked: int = 0) -> int:
    """The same of a jaxpr, whose last `stacked` results a loop writes to their place at once."""
    steps: list[_Step] = []
    results = _write_out(jaxpr, {}, steps)
    kept = results[: len(results) - stacked]
    whole = {x for step in steps if not _is_fused(step.equation) for x in step.reads} | set(kept)
    steps = [steps[i] for i in _order(steps, whole)]
    end = len(steps)
    last = {x: i for i, step in enumerate(steps) for x in step.reads} | dict.fromkeys(results, end)

    made_from: dict[Any, frozenset] = {}  # value -> the buffers that it is in, or is computed from when it is read
    sizes: dict[Any, int] = {}  # of buffers
    begins: dict[Any, int] = {}
    for i, (equation, reads, makes) in enumerate(steps):
        sources = frozenset().union(*(made_from.get(x, frozenset()) for x in reads))
        for out, variable in zip(makes, equation.outvars, strict=True):
            if equation.primitive.name in SAME or (_is_fused(equation) and out not in whole):
                made_from[out] = sources
            else:
                made_from[out], sizes[out], begins[out] = frozenset((out,)), _bytes(variable.aval), i
    ends = dict(begins)
    for value, i in last.items():
        for buffer in made_from.get(value, ()):
            ends[buffer] = max(ends[buffer], i)

    changes = [0] * (end + 2)
    dying: dict[tuple[int, int], list] = {}
    for buffer, i in ends.items():
        dying.setdefault((i, sizes[buffer]), []).append(buffer)
    for buffer, i in begins.items():
        spent = [x for x in dying.get((i, sizes[buffer]), ()) if begins[x] < i] if _is_fused(steps[i].equation) else []
        if spent:  # elementwise arithmetic writes over an operand that nothing reads again
            dying[i, sizes[buffer]].remove(spent[0])
            ends[spent[0]] = i - 1
    for buffer, i in ends.items():
        changes[begins[buffer]] += sizes[buffer]
        changes[i + 1] -= sizes[buffer]
    inside = [_inside(step.equation) for step in steps]
    return max((live + more for live, more in zip(itertools.accumulate(changes), inside, strict=False)), default=0)


def _write_out(jaxpr: Any, known: dict[Any, Any], steps: list[_Step]) -> list[Any]:
    """Append the steps of a jaxpr, those of the functions it calls in their place; returns its results.

    `known`: variable of the jaxpr -> what it is called outside.
    """
    place = object()

    def read(x: Any) -> Any:
        return known.get(x, (place, x))

    for equation in jaxpr.eqns:
        reads = [read(x) for x in equation.invars if not hasattr(x, "val")]
        called = _called(equation)
        if called is None:
            steps.append(_Step(equation, reads, [(place, x) for x in equation.outvars]))
            continue
        inside = {
            inner: read(x) if not hasattr(x, "val") else (place, inner)
            for inner, x in zip(called.invars, equation.invars, strict=True)
        }
        known.update(zip(equation.outvars, _write_out(called, inside, steps), strict=True))
    return [read(x) if not hasattr(x, "val") else (place, object()) for x in jaxpr.outvars]


def _order(steps: list[_Step], whole: set) -> list[int]:
    """XLA's CPU backend runs side by side what does not depend on one another: by depth, in what is not fused."""
    depth: dict[Any, int] = {}
    found = []
    for step in steps:
        below = max((depth.get(x, 0) for x in step.reads), default=0)
        found.append(below + (not _is_fused(step.equation) or any(x in whole for x in step.makes)))
        depth.update(dict.fromkeys(step.makes, found[-1]))
    return sorted(range(len(steps)), key=found.__getitem__)


def _called(equation: Any) -> Any:
    """The jaxpr of a function that is called, or of a loop of one turn; None for loops, branches and all else."""
    once = equation.primitive.name == "scan" and equation.params["length"] == 1
    if equation.primitive.name in ("scan", "while", "cond", "shard_map") and not once:
        return None
    inner = list(_jaxprs(equation))
    return inner[0] if len(inner) == 1 and len(inner[0].invars) == len(equation.invars) else None


def num_equations(jaxpr: Any) -> int:
    """Equations, those of all bodies included."""
    return sum(1 + sum(map(num_equations, _jaxprs(equation))) for equation in jaxpr.eqns)


def _is_fused(equation: Any) -> bool:
    return equation.primitive.name not in WHOLE and not any(True for _ in _jaxprs(equation))


def _inside(equation: Any) -> int:
    """Bytes that an equation needs for itself while it runs."""
    inner = list(_jaxprs(equation))
    if not inner:
        return 0
    if equation.primitive.name == "scan":
        pairs = zip(equation.outvars, inner[0].outvars, strict=True)
        return _peak(inner[0], sum(whole.aval.ndim > part.aval.ndim for whole, part in pairs))  # those that are stacked
    needs = max(_peak(jaxpr) for jaxpr in inner)
    if equation.primitive.name == "shard_map" and jax.default_backend() == "cpu":
        needs *= math.prod(equation.params["mesh"].shape.values())
    if equation.primitive.name == "while":
        return needs
    return max(0, needs - sum(_bytes(x.aval) for x in equation.outvars))  # the results of a branch are its own


def _jaxprs(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        for x in value if isinstance(value, list | tuple) else (value,):
            if hasattr(x, "jaxpr") and hasattr(x, "consts"):
                yield x.jaxpr
            elif hasattr(x, "eqns") and hasattr(x, "invars"):
                yield x


def _bytes(x: Any) -> int:
    shape, dtype = getattr(x, "shape", ()), getattr(x, "dtype", None)
    if dtype is None:
        return 0
    size = 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else jnp.dtype(dtype).itemsize
    return math.prod(int(n) for n in shape) * size
