"""What only an accelerator can show, within a number of minutes, the most telling part first.

    python -m benchmarks.accelerator --minutes 8
    python -m benchmarks.accelerator --parts b f         some of it
    python -m benchmarks.accelerator --small             tiny sizes: a test of the command itself

(a) PPO on CartPole, 1 to 4,096 members (seeds x learning rates) in one program, beside rejax where it is installed.
(b) An iteration of ProMP: 40 to 10,240 tasks x 20 episodes x 100 steps, 5 outer epochs.
(c) The meta-gradient alone: reverse, mixed and first order, 1 to 16 inner steps, 2 x 256, 40 tasks x 2,000 samples.
(d) RL2 training, GRU and transformer, trials of 10, 100 and 500; on XLand-MiniGrid, where it is installed.
(e) Matrix products at the default precision against the highest: time, and how far the meta-gradients differ.
(f) The ten most expensive kernels of the largest of (a), (b) and (d), and the share of the card's copy and matmul rates
    that (b) reaches.
(g) Robots, where mujoco is installed: MJX, 4,096 and 65,536 of them; ProMP on HalfCheetahDir by MJX and by C MuJoCo on
    the host's cores.

A row that no longer fits the minutes is skipped, one that fails says why, and the JSON is whole after each row. Tasks
(members, trials) at a time are what the memory holds. Times are of the wall clock, compilation apart. Memory is what
the compiled program needs (temp_mb: its temporaries alone); peak_mb is the process's.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import accelerator_counts as counts
from benchmarks import accelerator_robots as robots
from benchmarks import accelerator_rows as work
from benchmarks import common
from benchmarks.accelerator_session import Facts, Session, note

COLUMNS = {"work": "", "on": "", "compile_s": ".1f", "run_s": ".4f", "env_steps_per_s": ",.0f", "needed_mb": ",.0f"}
MORE = {
    "a": {"at_a_time": "d", "iterations": "d", "iteration_ms": ".2f", "times_one": ".2f"},
    "b": {"at_a_time": "d"},
    "c": {"temp_mb": ",.0f", "at_a_time": "d", "times_faster": ".2f", "times_less_memory": ".1f"},
    "d": {"temp_mb": ",.0f", "at_a_time": "d"},
    "e": {"slower": ".2f", "default_differs": ".1e", "highest_differs": ".1e"},
    "f": {"tb_per_s": ".2f", "tflop_per_s": ".2f", "copy_share": ".3f", "matmul_share": ".4f", "busy_share": ".2f"},
    "g": {"physics_steps_per_s": ",.0f"},
}
# What others have published, and what we aim at; the device beside each.
TO_BEAT: list[Facts] = [
    {"part": "a", "work": "NAVIX, 2,048 PPO agents x 16 envs", "on": "A100-80", "env_steps_per_s": 668.7e6},
    {"part": "a", "work": "gymnax CartPole, no agent, 2,000 envs", "on": "A100", "env_steps_per_s": 20e6},
    {"part": "a", "work": "aim: 4,096 members in 4 times the time of one", "on": "-", "times_one": 4.0},
    {"part": "c", "work": "MixFlow-MG against reverse, at best", "on": "TPU, GPU", "times_faster": 4 / 3,
     "times_less_memory": 10.0},
    {"part": "c", "work": "aim: 16 inner steps", "on": "-", "times_less_memory": 15.0},
    {"part": "d", "work": "RL2 on XLand-MiniGrid, 16,384 envs, bfloat16", "on": "A100", "env_steps_per_s": 0.72e6},
    {"part": "f", "work": "known of the H100: copy, bfloat16 products", "on": "H100", "tb_per_s": 3.0,
     "tflop_per_s": 798.0},
    {"part": "f", "work": "known of the H200: copy, bfloat16 products", "on": "H200", "tb_per_s": 4.3,
     "tflop_per_s": 790.0},
    *({"part": "g", "work": f"MJX {robot}, {lanes} lanes, float64", "on": "H200", "physics_steps_per_s": 1e6 * rate}
      for robot, lanes, rate in (("HalfCheetah", 1024, .38), ("HalfCheetah", 4096, 1.24), ("HalfCheetah", 65536, 2.97),
                                 ("Ant", 1024, .52), ("Ant", 4096, .77), ("Ant", 65536, .83))),
]  # fmt: skip


def keep(kept: Facts, name: str, size: float, measured: work.Measured) -> Facts:
    """The facts of what was measured; the largest of each name is profiled in part (f)."""
    kept[name], kept[f"{name}, size"] = measured, size
    return measured.facts


def part_a(session: Session, sizes: work.Sizes, kept: Facts) -> None:
    one: Facts = {}  # iteration_ms of one member, ours and rejax's
    of_a_member = 0.0  # seconds of an iteration, at most
    for n in sizes.members:
        seconds = max(sizes.seconds, work.FEWEST * n * of_a_member)
        label, same = f"PPO CartPole, {n} member{'s' * (n > 1)}", {"size": seconds, "members": n}
        ours = session.row(
            "a", label, lambda n=n: keep(kept, "PPO", n, work.ppo(session, n, sizes.seconds)), group="ppo", **same
        )
        of_a_member = ours.get("iteration_ms", 1e3 * n * of_a_member) / 1e3 / n
        iterations = ours.get("iterations", work.FEWEST)
        peer = session.row(
            "a", f"rejax {label}", lambda n=n, i=iterations: work.rejax(session, n, i), group="rejax", **same
        )
        for row, whose in ((ours, "ours"), (peer, "rejax")):
            if "iteration_ms" in row:
                row["times_one"] = row["iteration_ms"] / one.setdefault(whose, row["iteration_ms"])


def part_b(session: Session, sizes: work.Sizes, kept: Facts) -> None:
    for n in sizes.tasks:

        def iteration(n: int = n) -> Facts:
            kept[f"promp, {n} tasks"] = work.promp_iteration(session, n, sizes)
            return keep(kept, "ProMP", n, kept[f"promp, {n} tasks"])

        session.row("b", f"ProMP iteration, {n} tasks", iteration, group="promp", size=n, tasks=n)


def part_c(session: Session, sizes: work.Sizes, kept: Facts) -> None:
    for k in sizes.inner_steps:
        ways = [*work.WAYS, "mixed, 5 parts"] if k == max(sizes.inner_steps) else work.WAYS
        reverse: Facts = {}
        for way in ways:

            def gradient(way: str = way, k: int = k) -> Facts:
                kept[f"gradient, {way}, {k}"] = work.gradient(session, way, k, sizes)
                return kept[f"gradient, {way}, {k}"][0]

            label, group = f"meta-gradient, {k} inner step{'s' * (k > 1)}, {way}", f"meta-gradient, {way}"
            row = session.row("c", label, gradient, group=group, size=k, inner_steps=k, mode=way)
            reverse = reverse or row
            if "run_s" in row and "run_s" in reverse:
                row["times_faster"] = reverse["run_s"] / row["run_s"]
                if row["at_a_time"] == reverse["at_a_time"] and row["temp_mb"]:
                    row["times_less_memory"] = reverse["temp_mb"] / row["temp_mb"]


def part_d(session: Session, sizes: work.Sizes, kept: Facts) -> None:
    for network in ("gru", "transformer"):
        for pulls in sizes.pulls:
            label, facts = f"RL2 {network}, trials of {pulls}", {"network": network, "pulls": pulls}
            name = f"RL2 {network}"
            session.row(
                "d", label, lambda n=network, p=pulls, k=name: keep(kept, k, p, work.rl2(session, n, p, sizes.trials)),
                group=f"rl2, {network}", size=pulls, **facts,
            )  # fmt: skip

    def on_xland() -> Facts:
        measured = work.xland(session, sizes)
        return measured if isinstance(measured, dict) else keep(kept, "RL2 XLand", sizes.xland_trials, measured)

    session.row("d", "RL2 gru, XLand-MiniGrid R1-9x9", on_xland)


def part_e(session: Session, sizes: work.Sizes, kept: Facts) -> None:
    steps, tasks = sizes.precision_steps, sizes.precision_tasks
    gradients: Facts = {}

    def gradient(precision: str) -> Facts:
        if precision == "float64":
            facts, gradients[precision] = work.gradient_in_float64(session, "mixed", steps, sizes)
        elif precision == "default" and f"gradient, mixed, {steps}" in kept:  # part (c) has measured it
            facts, gradients[precision] = kept[f"gradient, mixed, {steps}"]
        else:
            with jax.default_matmul_precision(precision):
                facts, gradients[precision] = work.gradient(session, "mixed", steps, sizes)
        return dict(facts)

    def iteration(precision: str) -> Facts:
        if precision == "default" and f"promp, {tasks} tasks" in kept:  # part (b) has
            return dict(kept[f"promp, {tasks} tasks"].facts)
        with jax.default_matmul_precision(precision):
            return work.promp_iteration(session, tasks, sizes).facts

    for label, measure, precisions in (
        (f"meta-gradient, mixed, {steps} inner steps", gradient, ("default", "highest", "float64")),
        (f"ProMP iteration, {tasks} tasks", iteration, ("default", "highest")),
    ):
        default: Facts = {}
        for p in precisions:
            row = session.row("e", f"{label}, {p}", lambda m=measure, p=p: m(p), group=label, precision=p)
            default = default or row
            if "run_s" in row and "run_s" in default:
                row["slower"] = row["run_s"] / default["run_s"]
            if measure is gradient and p in gradients:
                row["differences"] = {q: work.difference(gradients[q], gradients[p]) for q in gradients if q != p}
                row |= {f"{q}_differs": d["relative"] for q, d in row["differences"].items()}


def part_f(session: Session, sizes: work.Sizes, kept: Facts) -> None:
    def rated(facts: Facts, name: str) -> Facts:
        kept[name] = facts["per_s"]
        return {**facts, "tb_per_s" if name == "copy" else "tflop_per_s": facts["per_s"] / 1e12}

    peaks: list[tuple[str, Callable[[], Facts]]] = [
        ("copy", lambda: work.copy_rate(sizes.copy_mb)),
        ("product, bfloat16", lambda: work.matmul_rate(sizes.matmul, jnp.bfloat16, "default")),
        ("product, float32, default", lambda: work.matmul_rate(sizes.matmul, jnp.float32, "default")),
        ("product, float32, highest", lambda: work.matmul_rate(sizes.matmul, jnp.float32, "highest")),
    ]
    for name, measure in peaks:
        session.row("f", f"peak: {name}", lambda n=name, m=measure: rated(m(), n), floor_s=5.0)
    session.row("f", "counts over the truth, on scans", counts.check, floor_s=5.0)
    for name in PROFILED:
        size = kept.get(f"{name}, size")
        if size is None:
            session.row("f", f"kernels of {name}", lambda: {"missing": "its part was not run"}, floor_s=1.0)
            continue
        session.row("f", f"kernels of {name}, {size}", lambda n=name: kernels(kept[n]), floor_s=10.0)
    if "ProMP" in kept:
        label = f"rates of ProMP, {kept['ProMP, size']}"
        session.row("f", label, lambda: rates(session, kept), floor_s=10.0)


def part_g(session: Session, sizes: work.Sizes, kept: Facts) -> None:
    for backend in ("c", "mjx"):
        label = f"ProMP HalfCheetahDir, {sizes.tasks[0]} tasks, {backend}"
        session.row("g", label, lambda b=backend: robots.promp(session, b, sizes), backend=backend)
    for robot, lanes, bits in sizes.robots:
        session.row(
            "g", f"MJX {robot}, {lanes} lanes, float{bits}",
            lambda r=robot, n=lanes, b=bits: robots.physics(session, r, n, sizes.robot_steps, b),
            robot=robot, lanes=lanes, bits=bits,
        )  # fmt: skip


def kernels(measured: work.Measured) -> Facts:
    """Where the time of a program goes."""
    program = measured.program.compiled
    events, seconds = counts.traced(lambda: program(*measured.arguments))
    found = counts.kernels(events, program.as_text())
    for kernel in found["top"]:
        print(
            f"    {kernel['share']:6.1%}  {kernel['ms']:9.2f} ms  {kernel['calls']:6d} calls  {kernel['kernel'][:80]}"
        )
    busy = found["kernel_ms"] / 1e3 / seconds if found["lines"] == "device" else None  # a host's threads run at once
    return {**found, "traced_s": seconds, "busy_share": busy}


def rates(session: Session, kept: Facts) -> Facts:
    """What that iteration computes and moves a second, over what the card can, where the counts hold on known loops."""
    measured = kept["ProMP"]
    checked = next(r for r in session.rows if r["work"].startswith("counts over"))
    seconds = measured.facts["run_s"]
    facts: Facts = {}
    for count, peak, share, unit in (
        ("flops", "product, float32, default", "matmul_share", "tflop_per_s"),
        ("traffic", "copy", "copy_share", "tb_per_s"),
    ):
        ratio = checked.get(f"{count}_over_truth")
        if ratio is None or abs(ratio - 1) > 0.05 or peak not in kept:
            facts[f"{share}_missing"] = f"count over truth: {ratio}; peak measured: {peak in kept}"
            continue
        if count == "flops":
            number: float = counts.product_flops(jax.make_jaxpr(measured.step)(*measured.arguments))
        else:
            number, facts["loops_counted_once"] = counts.traffic(measured.program.compiled.as_text())
        facts |= {count: number, unit: number / seconds / 1e12, share: number / seconds / kept[peak]}
    return facts


PROFILED = ("PPO", "ProMP", "RL2 gru", "RL2 transformer", "RL2 XLand")
PARTS: dict[str, Callable[[Session, work.Sizes, Facts], None]] = {
    "a": part_a, "b": part_b, "c": part_c, "d": part_d, "e": part_e, "f": part_f,
    "g": part_g,
}  # fmt: skip


def report(session: Session, part: str) -> str:
    """The rows of a part beside those to beat."""
    ours = [{"on": "here", **row, "note": note(row)} for row in session.rows if row["part"] == part]
    columns = {**COLUMNS, **MORE[part], **({"note": ""} if any(row["note"] for row in ours) else {})}
    return common.table([*ours, *(row for row in TO_BEAT if row["part"] == part)], columns)


def main(argv: Sequence[str] | None = None) -> None:
    name = "cpu" if jax.default_backend() == "cpu" else re.sub(r"\W+", "-", jax.devices()[0].device_kind.lower())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results") / f"accelerator_{name}.json")
    parser.add_argument("--minutes", type=float, default=8.0, help="what no longer fits is skipped (default 8)")
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each row (default 3)")
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS), help="default: all")
    parser.add_argument("--small", action="store_true", help="tiny sizes, whose times mean nothing")
    arguments = parser.parse_args(argv)
    sizes = work.SMALL if arguments.small else work.ON_CPU if name == "cpu" else work.Sizes()
    command = f"python -m benchmarks.accelerator --minutes {arguments.minutes:g} --parts {' '.join(arguments.parts)}"
    session = Session(
        arguments.output, arguments.minutes, arguments.repeats, command=command + " --small" * arguments.small,
        sizes=sizes._asdict(), to_beat=TO_BEAT,
    )  # fmt: skip
    kept: dict[str, Any] = {}
    for part in arguments.parts:
        PARTS[part](session, sizes, kept)
        session.save()  # with what was worked out from several rows
        print(f"\n{report(session, part)}\n", flush=True)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
