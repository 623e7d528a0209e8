"""What was trained on worlds whose rules must be found out, as rows of a table."""

from typing import Any

from benchmarks.curve_tables import Table

TRIALS = ", in trials"  # of the name of a reference that plays several episodes of a task


def returns(found: dict[str, Any]) -> Table:
    """A row a method or reference: returns before and after adaptation, the gain, and more than multi-task PPO."""
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for claim in found["claims"]:
        cell, _, what = claim["what"].partition(": ")
        cells.setdefault(cell, {})[what] = claim
    rows = []
    for cell, claims in cells.items():
        if cell + TRIALS in cells:
            continue  # its first episode is the same
        world, _, name = cell.removesuffix(TRIALS).partition(", ")
        before = claims.get("return before adaptation", claims.get("return of the first episode"))
        after = claims.get("return after adaptation", claims.get("return of the last episode", claims.get("return")))
        judged = (claims.get("gain by adapting"), claims.get("more than multi-task PPO"))
        rows.append([world, name, *(_number(c) for c in (before, after)), *(_verdict(c) for c in judged)])
    rows.sort(key=lambda row: row[0])
    head = ["world", f"{found['seeds']} seeds", "before, or first episode", "after, or last episode"]
    return [*head, "gain by adapting", "more than multi-task PPO"], rows


def _number(claim: dict[str, Any] | None) -> str:
    return "-" if claim is None else _with_interval(claim)


def _verdict(claim: dict[str, Any] | None) -> str:
    return "-" if claim is None else f"{_with_interval(claim)}: {'pass' if claim['passed'] else '**fail**'}"


def _with_interval(claim: dict[str, Any]) -> str:
    low, high = claim["interval"]
    return f"{claim['ours']:.1f} [{low:.1f}, {high:.1f}]"
