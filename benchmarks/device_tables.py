"""What was measured on accelerators and on several devices, as rows of tables."""

from typing import Any

from benchmarks import growth as on_paper
from benchmarks.curve_tables import Table


def accelerator(first: dict[str, Any], later: dict[str, Any]) -> Table:
    """Environment steps a second: the later run's rows, and the first one's, before the library unrolled its loops."""
    again_by_work = {r["work"]: r for r in later["rows"]}
    rows = []
    for r in first["rows"]:
        if "env_steps_per_s" not in r or r["part"] not in "abd":
            continue
        work, before = r["work"], r["env_steps_per_s"]
        again = "env_steps_per_s" in again_by_work.get(work, {})
        r = again_by_work[work] if again else r
        needed = f"{r['needed_mb']:,.0f}" if "needed_mb" in r else "-"
        times = f"{r['times_one']:.2f}" if "times_one" in r else "-"
        ms = r.get("iteration_ms", 1e3 * r["run_s"])
        cells = [f"{r['compile_s']:.1f}", f"{ms:.1f}", times, f"{r['env_steps_per_s']:,.0f}" if again else "-"]
        rows.append([work, *cells, f"{before:,.0f}", needed])
    head = ["work, NVIDIA H200", "trace + compile s", "ms an iteration", "times one member", "env steps a second"]
    return [*head, "with one step a turn", "needed MB"], rows


def gradients(found: dict[str, Any]) -> Table:
    """The meta-gradient: ways to differentiate, and precisions."""
    rows = []
    for r in found["rows"]:
        if r["part"] in "ce" and "run_s" in r:
            less = f"{r['times_less_memory']:.1f}" if "times_less_memory" in r else "-"
            faster = r.get("times_faster", 1 / r["slower"] if "slower" in r else None)
            apart = f"{r['differences']['default']['relative']:.0e}" if r.get("differences") else "-"
            cells = [f"{r['compile_s']:.1f}", f"{1e3 * r['run_s']:.1f}", f"{r['needed_mb']:,.0f}"]
            rows.append([r["work"], *cells, f"{faster:.2f}", less, apart])
    head = ["work, NVIDIA H200", "trace + compile s", "ms", "needed MB", "times faster", "times less memory"]
    return [*head, "from the default precision's, relative"], rows


def unrolling(found: dict[str, Any]) -> Table:
    """Loops over time with several steps a turn."""
    rows = []
    for r in found["rows"]:
        if "run_ms" in r:
            cells = [str(r["unroll"]), f"{r['compile_s']:.1f}", f"{r['run_ms']:.1f}", f"{r['times_faster']:.2f}"]
            rows.append([r["work"], *cells])
    return ["work, NVIDIA H200", "steps a turn", "trace + compile s", "ms", "times faster"], rows


def scaling(found: dict[str, Any]) -> Table:
    """A training that is shared by devices and processes."""
    formats = {
        "devices": "d", "processes": "d", "wall_s": ".3f", "speedup": ".2f", "cpu_ratio": ".2f", "collectives": ",.0f",
        "kilobytes": ",.1f", "compile_s": ".0f",
    }  # fmt: skip
    rows = [[r["work"], *(format(r[key], spec) for key, spec in formats.items())] for r in found["rows"]]
    head = ["work", "devices", "processes", "s an iteration", "times faster", "CPU-seconds, ratio", "collectives"]
    return [*head, "kB", "compile s"], rows


def models(kept: Any) -> Table:
    """What keeping a model in parts costs, and what memory it saves each device."""
    rows = []
    for r in kept["rows"]:
        cells = [str(r["devices"]), f"{r['kept_mb']:.1f}", f"{r['temp_mb']:.1f}", f"{r['wall_s']:.2f}"]
        cells += [f"{r['cpu_ratio']:.2f}", f"{r['collectives']:,.0f}", f"{r['kilobytes'] / 1e3:,.0f}"]
        rows.append([*cells, f"{r['compile_s']:.0f}"])
    head = ["devices of a model", "MB kept", "MB within an iteration", "s an iteration", "CPU-seconds, ratio"]
    return [*head, "collectives", "MB exchanged", "compile s"], rows


def growth() -> Table:
    """More GPUs, on paper."""
    rows = []
    for r in on_paper.rows():
        cells = [f"{r['gpus']:,}", f"{r['compute_ms']:,.1f}", f"{r['exchange_ms']:.2f}"]
        rows.append([r["work"], *cells, f"{r['speedup']:,.1f}", f"{r['efficiency']:.0%}"])
    return ["work, on paper", "GPUs", "ms of computing", "ms of exchange", "times faster", "efficiency"], rows
