"""Part (f) of `benchmarks.accelerator`: what a program computes and moves, and which kernels take its time.

XLA's cost analysis counts the body of a loop once, however often it runs. So both counts here are made anew with the
trip counts that the program itself states, and `check` holds them against loops whose answers are known:

* `product_flops` walks the jaxpr: 2 x (elements of the result) x (length of the contraction) for each matrix product,
  times the lengths of the scans around it. Products only; of branches the most expensive.
* `traffic` reads the optimised program: what each kernel takes in and gives out, times the trip counts of the loops
  around it. Of an array that a kernel only slices, the slice. Caches may serve part of it; scratch space is left out.
"""

import glob
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "opt-barrier", "partition-id",
    "replica-id", "domain",
}  # fmt: skip
SLICES = {"dynamic-slice", "slice", "gather"}
CONTROL = {"while", "conditional", "call"}
INSTRUCTION = re.compile(r"^\s*(ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
SHAPE = re.compile(r"\b(pred|bf16|[fsuc]\d+\w*)\[([\d,]*)\]")


def product_flops(jaxpr: Any) -> int:
    """Floating-point operations of all matrix products of a jaxpr, loops multiplied out."""
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lengths = (equation.invars[0].aval.shape[i] for i in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(lengths)
            continue
        inside = [product_flops(x) for value in equation.params.values() for x in _jaxprs(value)]
        if equation.primitive.name == "cond":
            total += max(inside, default=0)
        else:  # a while loop of unknown length counts once: there are none in what is measured here
            total += sum(inside) * equation.params.get("length", 1)
    return total


def _jaxprs(value: Any) -> list[Any]:
    values = value if isinstance(value, tuple | list) else (value,)
    return [v for v in values if hasattr(getattr(v, "jaxpr", v), "eqns")]


class Instruction(NamedTuple):
    """A line of an optimised program."""

    name: str
    shape: str
    opcode: str
    operands: list[str]
    rest: str  # attributes
    root: bool


def parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """The text of a compiled program -> ({computation: {name: instruction}}, the name of its entry)."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if (head := re.match(r"^(ENTRY )?%([\w.\-]+) \(.*\{$", line)) is not None:
            current = head[2]
            computations[current] = {}
            entry = current if head[1] else entry
        elif current and (found := INSTRUCTION.match(line)) is not None:
            root, name, shape, opcode, rest = found.groups()
            inside, after = _to_closing(rest)
            operands = re.findall(r"%([\w.\-]+)", inside)
            computations[current][name] = Instruction(name, shape, opcode, operands or [inside], after, bool(root))
    return computations, entry


def _to_closing(text: str) -> tuple[str, str]:
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[:i], text[i + 1 :]
    return text, ""


def _bytes(shape: str) -> float:
    total = 0.0
    for kind, dimensions in SHAPE.findall(shape):
        bits = 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])
        total += bits / 8 * math.prod(int(d) for d in dimensions.split(",") if d)
    return total


def over_program(
    text: str, cost: Callable[[Instruction, dict[str, dict[str, Instruction]], str], float]
) -> tuple[float, int]:
    """(sum of a cost over what a compiled program runs, loops of unknown length, which are counted once).

    Args: cost: (instruction, all computations, the name of its own) -> what it costs each time that it runs.
    """
    computations, entry = parse(text)
    unknown = 0

    def of(computation: str) -> float:
        nonlocal unknown
        total = 0.0
        for i in computations[computation].values():
            if i.opcode in FREE or i.opcode.endswith("-done"):
                continue
            if i.opcode == "while":
                trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', i.rest)
                unknown += trips is None
                total += (int(trips[1]) if trips else 1) * sum(map(of, _called(i, "body", "condition")))
            elif i.opcode == "conditional":
                names = _called(i, "branch_computations", "true_computation", "false_computation")
                total += max(map(of, names), default=0.0)
            elif i.opcode in ("call", "async-start"):
                total += sum(map(of, _called(i, "to_apply", "calls")))
            else:
                total += cost(i, computations, computation)
        return total

    return of(entry), unknown


def _called(i: Instruction, *names: str) -> list[str]:
    found = re.findall(rf"\b(?:{'|'.join(names)})=\{{?((?:%[\w.\-]+(?:, )?)+)\}}?", i.rest)
    return [name for group in found for name in re.findall(r"%([\w.\-]+)", group)]


def traffic(text: str) -> tuple[float, int]:
    """(bytes that the kernels of a compiled program take in and give out, loops of unknown length counted once)."""

    def cost(i: Instruction, computations: dict[str, dict[str, Instruction]], name: str) -> float:
        if i.opcode == "fusion":
            return _of_fusion(computations[_called(i, "calls")[0]])
        inside = computations[name]
        return _written(i, inside) + sum(_read(i, k, inside) for k in range(len(i.operands)))

    return over_program(text, cost)


COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def exchanged(text: str) -> dict[str, tuple[float, float]]:
    """{collective: (how often a device takes part in it, bytes of its results)} of a compiled program."""

    def of(collective: str, size: Callable[[Instruction], float]) -> float:
        names = (collective, f"{collective}-start")
        return over_program(text, lambda i, *_: size(i) if i.opcode in names else 0.0)[0]

    found = {name: (of(name, lambda i: 1.0), of(name, lambda i: _bytes(i.shape))) for name in COLLECTIVES}
    return {name: counts for name, counts in found.items() if counts[0]}


def _of_fusion(inside: dict[str, Instruction]) -> float:
    """Bytes in and out of one kernel: of its parameters what is used of them, of its results what is new."""
    users: dict[str, list[tuple[Instruction, int]]] = {name: [] for name in inside}
    for i in inside.values():
        for k, operand in enumerate(i.operands):
            users.get(operand, []).append((i, k))

    def read(name: str) -> float:
        total, whole = 0.0, _bytes(inside[name].shape)
        for user, k in users[name]:
            total += read(user.name) if user.opcode == "bitcast" else _read(user, k, inside)
        return min(total, whole)

    def written(i: Instruction) -> float:
        if i.opcode == "tuple":
            return sum(written(inside[name]) for name in i.operands)
        return written(inside[i.operands[0]]) if i.opcode == "bitcast" else _written(i, inside)

    taken = sum(read(i.name) for i in inside.values() if i.opcode == "parameter")
    return taken + sum(written(i) for i in inside.values() if i.root)


def _read(i: Instruction, k: int, inside: dict[str, Instruction]) -> float:
    """Bytes that an instruction reads of its operand `k`."""
    if k == 0 and i.opcode in SLICES:
        return _bytes(i.shape)
    if k == 0 and i.opcode in ("dynamic-update-slice", "scatter"):
        return 0.0  # stays where it is
    return _bytes(inside[i.operands[k]].shape) if i.operands[k] in inside else 0.0


def _written(i: Instruction, inside: dict[str, Instruction]) -> float:
    if i.opcode in ("dynamic-update-slice", "scatter"):
        update = i.operands[1 if i.opcode == "dynamic-update-slice" else -1]
        return _bytes(inside[update].shape) if update in inside else _bytes(i.shape)
    if i.opcode == "custom-call":  # a library's scratch space is an array of bytes beside the result
        return _bytes(re.sub(r"\b[su]8\[[\d,]*\]", "", i.shape))
    return _bytes(i.shape)


def check(n: int = 128, length: int = 10) -> dict[str, Any]:
    """Both counts, and XLA's own, over the truth for two scans: matrix products, and a scaled sum of one long array."""
    x, long = jnp.ones((n, n)), jnp.ones(n * n * 16)

    def products(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, _: (jnp.tanh(y @ x), None), x, None, length=length)[0]

    def sums(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, _: (y * 1.5 + 0.1, None), x, None, length=length)[0]

    flops, moved = 2 * n**3 * length, 2 * long.nbytes * length
    compiled = jax.jit(sums, donate_argnums=0).lower(long).compile()
    own = jax.jit(products).lower(x).compile().cost_analysis() or {}
    return {
        "flops_over_truth": product_flops(jax.make_jaxpr(products)(x)) / flops,
        "traffic_over_truth": traffic(compiled.as_text())[0] / moved,
        "cost_analysis_flops_over_truth": own.get("flops", math.nan) / flops,
    }


class Event(NamedTuple):
    """Something that a trace tells of."""

    plane: str  # of a device or the host
    line: str  # a stream, a thread
    name: str
    us: float


def kernels(events: list[Event], text: str) -> dict[str, Any]:
    """Time by kernel in a trace: a GPU's streams; on a CPU the instructions that XLA's threads ran.

    `text`: the optimised program, whose instructions tell kernels from the rest of what a CPU's threads do.
    Raises: ValueError where there are none.
    """
    on_device = any(e.plane.startswith("/device:") for e in events)
    ran = {i.name for inside in parse(text)[0].values() for i in inside.values() if i.opcode not in CONTROL}
    us: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for e in events:
        if on_device:  # beside its streams a device has lines that tell of the same again
            counts = e.plane.startswith("/device:") and e.line.startswith("Stream")
        else:
            counts = e.line.startswith("tf_XLA") and e.name in ran
        if counts:
            us[e.name] += e.us
            calls[e.name] += 1
    if not us:
        raise ValueError(f"no kernels in the trace; its lines: {sorted({e.line for e in events})}")
    total = sum(us.values())
    top = [{"kernel": k, "ms": t / 1e3, "share": t / total, "calls": calls[k]} for k, t in us.most_common(10)]
    where = "device" if on_device else "host"
    return {"lines": where, "kernel_ms": total / 1e3, "num_kernels": len(us), "calls": sum(calls.values()), "top": top}


def traced(call: Callable[[], Any]) -> tuple[list[Event], float]:
    """(what happened in one call, the seconds that it took).

    From the profiler's own record: the chrome trace beside it stops at a million events without a word.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            jax.block_until_ready(call())
            seconds = time.perf_counter() - began
        (found,) = glob.glob(f"{folder}/plugins/profile/*/*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(found).planes
        lines = [(plane.name, line.name, line) for plane in planes for line in plane.lines]
        return [Event(p, n, e.name, e.duration_ns / 1e3) for p, n, line in lines for e in line.events], seconds
