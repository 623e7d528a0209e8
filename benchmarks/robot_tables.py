"""What was measured of robots, as rows of tables: speed, returns of walking robots, successes on Meta-World."""

from typing import Any

from benchmarks.curve_tables import Table


def speed(found: dict[str, Any]) -> Table:
    """A row a work of `benchmarks.robots`."""
    rows = []
    for r in found["rows"]:
        compiled = f"{r['compile_s']:.1f}" if "compile_s" in r else "-"
        times = f"{r['times_peer']:.2f}" if "times_peer" in r else "-"
        cells = [str(r["lanes"]), f"{r['env_steps_per_cpu_s']:,.0f}", f"{r['env_steps_per_s']:,.0f}", times]
        rows.append([r["work"], *cells, f"{r['cpu_s']:.2f}", compiled])
    head = ["work", "lanes", "env steps per CPU-s", "env steps a second", "times the package", "CPU-s"]
    return [*head, "trace + compile s"], rows


def accelerator(found: dict[str, Any]) -> Table:
    """A row a work on a GPU."""
    rows = []
    for r in found["rows"]:
        physics = f"{r['physics_steps_per_s']:,.0f}" if "physics_steps_per_s" in r else "-"
        cells = [f"{r['compile_s']:.1f}", f"{r['run_s']:.1f}", f"{r['env_steps_per_s']:,.0f}", physics]
        rows.append([r["work"], *cells, f"{r['needed_mb']:,.0f}"])
    head = ["work, NVIDIA H200", "trace + compile s", "s", "env steps a second", "substeps a second", "needed MB"]
    return head, rows


def returns(family: str, found: dict[str, Any]) -> Table:
    """A row a method: return before and after adaptation, and the gain."""
    columns = ("return before adaptation", "return after adaptation", "gain by adapting")
    rows = []
    for method, claims in _by_cell(found).items():
        if columns[0] in claims:
            rows.append([method, *(_with_interval(claims[c], ".0f") for c in columns)])
    return [f"{family}, {found['seeds']} seeds", *columns], rows


def successes(found: dict[str, Any]) -> Table:
    """A row a cell: share of held-out goals solved before and after adaptation, and as the package counts it."""
    rows = []
    for cell, claims in _by_cell(found).items():
        columns = ("success before adaptation", "success after adaptation", "more by adaptation")
        values = [_with_interval(claims[c], ".0%") for c in columns]
        rows.append([cell, *values, f"{claims['success as the package counts it']['ours']:.0%}"])
    head = [f"task, method, reward; {found['seeds']} seeds", "before adaptation", "after adaptation", "more"]
    return [*head, "as the package counts"], rows


def _by_cell(found: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """cell -> what is claimed of it -> claim."""
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for claim in found["claims"]:
        cell, _, what = claim["what"].partition(": ")
        cells.setdefault(cell, {})[what] = claim
    return cells


def _with_interval(claim: dict[str, Any], form: str) -> str:
    low, high = claim["interval"]
    return f"{claim['ours']:{form}} [{low:{form}}, {high:{form}}]"
