"""Write the measured tables into README.md and docs/benchmarks.md, from the JSON results beside them.

python -m benchmarks.tables            rewrite what stands between `<!-- table: NAME -->` and `<!-- end -->`
python -m benchmarks.tables --check    only say whether it is up to date (a test calls this)
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/benchmarks.md")


def _load(path: str) -> dict[str, Any]:
    return json.loads((ROOT / path).read_text())


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def demo() -> str:
    """Mean return on held-out tasks, before and after each update, beside the baselines."""
    table = _load("docs/results/demo.json")
    rows = [
        ("before adaptation" if r["update"] == 0 else f"after {r['update']} PPO update(s)", r)
        for r in table["adaptation"]
    ]
    for name, summaries in table["baselines"].items():
        last = summaries[-1]
        rows.append((f"{name} ({last['update']})" if len(summaries) > 1 else name, last))
    cells = [
        [label, f"{r['mean']:.1f}", f"[{r['mean_interval'][0]:.1f}, {r['mean_interval'][1]:.1f}]", f"{r['iqm']:.1f}"]
        for label, r in rows
    ]
    head = [f"return, {table['env']}, {table['num_tasks']} held-out tasks", "mean", "95% interval", "IQM"]
    return _markdown(head, cells)


def throughput() -> str:
    """Environment steps per CPU-second beside the peers."""
    rows = []
    for r in _load("benchmarks/results/throughput_cpu.json")["rows"]:
        if "cpu_s" in r:
            rate, memory = f"{r['env_steps_per_cpu_s']:,.0f}", r.get("temp_mb")
            compile_s = f"{r['compile_s']:.1f}" if r.get("compile_s") else "-"
            score = f"{r['score']:.0f}" if r.get("score") and "CartPole" in r["work"] else "-"
            rows.append([r["work"], rate, f"{r['cpu_s']:.2f}", compile_s, f"{memory:.0f}" if memory else "-", score])
    return _markdown(["work", "env steps per CPU-s", "CPU-s", "trace + compile s", "temp MB", "return"], rows)


def sinusoid() -> str:
    """Errors of MAML and FOMAML after each gradient step."""
    rows, steps = [], 0
    for prefix, iterations in (("", "35,000"), ("70k_", "70,000")):
        for name, label in (("maml", "MAML"), ("fomaml", "FOMAML")):
            results = _load(f"docs/results/sinusoid_{prefix}{name}.json")["adaptation"]
            cells = [f"{r['mean']:.3f} [{r['mean_interval'][0]:.3f}, {r['mean_interval'][1]:.3f}]" for r in results]
            rows.append([f"{label}, {iterations} iterations", *cells])
            steps = len(results)
    return _markdown(["mean squared error after step", *map(str, range(steps))], rows)


def scaling() -> str:
    """Time and compiled temporary memory against size."""
    rows = []
    for r in _load("benchmarks/results/scaling_cpu.json")["rows"]:
        stored = f"{r['stored_mb']:.2f}" if "stored_mb" in r else "-"
        cells = [str(r["size"]), r["mode"], f"{r['compile_s']:.1f}", f"{r['cpu_s']:.3f}", f"{r['temp_mb']:.2f}", stored]
        rows.append([r["study"], *cells])
    return _markdown(["study", "size", "mode", "trace + compile s", "CPU-s", "temp MB", "stored MB"], rows)


TABLES = {"demo": demo, "throughput": throughput, "sinusoid": sinusoid, "scaling": scaling}


def render(text: str) -> str:
    """`text` with every marked table made anew."""

    def fill(match: re.Match) -> str:
        return f"{match[1]}\n{TABLES[match[2]]()}\n<!-- end -->"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?<!-- end -->", fill, text, flags=re.S)


def stale() -> list[str]:
    """Pages whose tables are not those of the results."""
    return [page for page in PAGES if render((ROOT / page).read_text()) != (ROOT / page).read_text()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        print("\n".join(f"{page} is out of date" for page in stale()) or "up to date")
        return bool(stale())
    for page in PAGES:
        (ROOT / page).write_text(render((ROOT / page).read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
