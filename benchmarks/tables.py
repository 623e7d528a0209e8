"""Write the measured tables into the README and the pages of docs/, from the JSON results beside them.

python -m benchmarks.tables            rewrite what stands between `<!-- table: NAME -->` and `<!-- end -->`
python -m benchmarks.tables --check    only say whether it is up to date (a test calls this)
"""

import argparse
import functools
import json
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from benchmarks import choosing, curve_tables, device_tables, robot_tables, world_tables
from metarl_jax.algorithms.registry import ALGORITHMS
from metarl_jax.reproductions import REPRODUCTIONS

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md", "docs/architecture.md", "docs/tour.md", "docs/command-line.md", "docs/benchmarks.md",
    "docs/algorithms/index.md", "docs/reproductions.md", "docs/robots.md", "docs/worlds.md",
    "docs/start/first-run.md", "docs/start/choosing.md", "docs/hyperparameters.md", "docs/scaling.md",
    *(f"docs/algorithms/{name}.md" for name in ALGORITHMS),
)  # fmt: skip
KEPT_BY_CELL = ("halfcheetah-dir", "meta-world-ml1", "meta-world-ml10", "worlds")  # filled cell by cell, over weeks
CURVES = "benchmarks/results/algorithm_curves.json"


def _load(path: str) -> dict[str, Any]:
    return json.loads((ROOT / path).read_text())


def _markdown(head: list[str], rows: list[list[str]], words: Collection[int] = (0,)) -> str:
    """A table; the columns of these numbers are `words`, the others are numbers, which stand to the right."""
    rule = ["---" if i in words else "---:" for i in range(len(head))]
    safe = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *safe])


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


def memory() -> str:
    """RL2's policies with a memory: acting and training."""
    rows = []
    for r in _load("benchmarks/results/throughput_memory_cpu.json")["rows"]:
        cells = [f"{r['compile_s']:.1f}", f"{r['env_steps_per_cpu_s']:,.0f}", f"{r['cpu_us_per_step']:.1f}"]
        rows.append([r["work"], *cells, f"{r['temp_mb']:.0f}"])
    return _markdown(["work", "trace + compile s", "env steps per CPU-s", "CPU-us a step", "temp MB"], rows)


def transformers() -> str:
    """Tokens a second and utilisation of policies with a memory."""
    rows = []
    for r in _load("benchmarks/results/transformers_cpu.json")["rows"]:
        if "tokens" in r:
            shares = [f"{r['tokens_per_s']:,.0f}", f"{1e6 / r['tokens_per_s']:.1f}", f"{r['utilisation']:.3f}"]
            last = [f"{r['temp_mb']:,.0f}", f"{r['apart']:.0e}" if "apart" in r else "-"]
            rows.append([r["work"].removesuffix(", float32"), f"{r['parameters']:,}", *shares, *last])
    head = ["work", "parameters", "tokens per CPU-s", "CPU-us a token", "model FLOP utilisation", "temp MB"]
    return _markdown([*head, "acting from learning"], rows)


def memory_estimates() -> str:
    """What `metarl check` says beside what training takes."""
    rows = []
    for r in _load("benchmarks/results/memory_estimates_cpu.json")["rows"]:
        sizes = [
            f"{r['equations']:,}",
            f"{r['compiled_mib']:,.0f}",
            f"{r['estimate_mib']:,.0f}",
            f"{r['took_mib']:,.0f}",
            f"{r['ratio']:.2f}",
        ]
        rows.append([f"{r['configuration']} {r['sizes']}", *sizes])
    return _markdown(["training", "equations", "once compiled, MiB", "estimate, MiB", "took, MiB", "ratio"], rows)


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


def meta_gradient() -> str:
    """Time and memory of a meta-gradient against the number of inner steps."""
    rows = []
    for r in _load("benchmarks/results/meta_gradient_cpu.json")["rows"]:
        if "mode" in r:
            ratios = [f"{r[k]:.{d}f}" for k, d in (("speedup", 2), ("memory_ratio", 1), ("over_first_order", 2))]
            cells = [f"2 x {r['hidden']}", str(r["inner_steps"]), r["mode"], f"{r['cpu_s_per_task']:.3f}"]
            rows.append([*cells, f"{r['temp_mb']:.1f}", *ratios])
    head = ["policy", "inner steps", "mode", "CPU-s a task", "temp MB", "times faster than reverse"]
    return _markdown([*head, "times less memory", "times first order's cost"], rows)


def population() -> str:
    """A population as one program, beside its members one after the other."""
    rows = []
    for r in _load("benchmarks/results/population_cpu.json")["rows"]:
        times = [f"{r[k]:.1f}" for k in ("compile_s", "cpu_s", "wall_s")]
        rows.append([r["work"], str(r["members"]), *times, f"{r['env_steps_per_s']:,.0f}", f"{r['speedup']:.2f}"])
    head = ["PPO on CartPole, 1e5 steps a member", "members", "trace + compile s", "CPU-s", "wall s", "env steps per s"]
    return _markdown([*head, "times faster"], rows)


def comparison() -> str:
    """Every algorithm on dense and sparse point navigation."""
    rows: list[list[str]] = []
    results = _load("benchmarks/results/comparison_cpu.json")["rows"]
    for tasks in ("dense", "sparse"):
        for r in (r for r in results if r["tasks"] == tasks):
            scores = [_with_interval(a) for a in r["adaptation"]]
            rows.append([tasks, f"`{r['config']}`", *scores, f"{r['env_steps'] / 1e6:.0f}"])
        baselines = next((r["baselines"] for r in results if r["tasks"] == tasks and r["baselines"]), {})
        for name, summaries in baselines.items():
            scores = [_with_interval(a) for a in summaries]
            rows.append([tasks, name, *scores, *["-"] * (4 - len(scores)), "-"])
    head = ["task", "configuration", "before", *[f"after {k}" for k in range(1, 4)], "env steps a seed, millions"]
    return _markdown(head, rows, words=range(2))


def _with_interval(r: dict[str, Any]) -> str:
    low, high = r["mean_interval"]
    return f"{r['mean']:.1f} [{low:.1f},&nbsp;{high:.1f}]"  # lines may break before an interval, not inside one


def reproductions() -> str:
    """All claims of all reproductions that have been run."""
    parts = []
    for path in sorted((ROOT / "docs/reproductions").glob("*.json")):
        r = json.loads(path.read_text())
        rows = []
        for c in r["claims"]:
            between = "-" if c["interval"] is None else f"[{_number(c['interval'][0])}, {_number(c['interval'][1])}]"
            verdict = "-" if c["rule"] == "none" else "pass" if c["passed"] else "**fail**"
            shown = [_number(c["ours"]), between, _number(c["published"]), _number(c["optimum"]), c["rule"], verdict]
            rows.append([c["what"], *shown])
        head = ["claim", "ours", "95% interval", "published", "exact optimum", "rule", "verdict"]
        kept = [i for i in range(len(head)) if any(row[i] != "-" for row in rows)]  # the others are empty
        words = [j for j, i in enumerate(kept) if i in (0, 5, 6)]
        head, rows = [head[i] for i in kept], [[row[i] for i in kept] for row in rows]
        verdict = "passes" if r["passed"] else "**fails**"
        title = r["title"][0].upper() + r["title"][1:]
        picture = f"\n\n![{title}](reproductions/{path.stem}.png)" if path.with_suffix(".png").exists() else ""
        where = f"{r['device']}, jax {r['versions']['jax']}"
        parts.append(
            f"## {r['name']}: {verdict}\n{title} ({r['paper']}). Seeds: {r['seeds']}. `{r['command']}`, {where}. "
            f"[JSON](reproductions/{path.name})\n\n{_markdown(head, rows, words=words)}{picture}"
        )
    return "\n\n".join(parts)


def _statuses() -> dict[str, str]:
    """Target of `metarl reproduce` -> passes, fails or not run."""
    found = {name: ROOT / f"docs/reproductions/{name}.json" for name in REPRODUCTIONS}
    words = {True: "passes", False: "fails"}
    return {name: words[_load(str(p))["passed"]] if p.exists() else "not run" for name, p in found.items()}


def _in_part(name: str) -> bool:
    """Whether fewer cells of a reproduction have been run than it runs unless told otherwise."""
    asked = _load(f"docs/reproductions/{name}.json")["command"].partition("--cells ")[2].split(" ")[0]
    cells = REPRODUCTIONS[name].cells if asked == "all" else asked.split(",") if asked else REPRODUCTIONS[name].chosen
    wanted = REPRODUCTIONS[name].cells if name in KEPT_BY_CELL else REPRODUCTIONS[name].chosen
    return not set(wanted) <= set(cells)


def reproduction_status() -> str:
    """How many reproductions pass, which fail and which have not been run: two sentences."""
    by_status: dict[str, list[str]] = {"passes": [], "fails": [], "not run": []}
    for name, status in _statuses().items():
        by_status[status].append(f"`{name}`")
    counts = f"Of {len(REPRODUCTIONS)} results that `metarl reproduce` runs again {len(by_status['passes'])} pass"
    part = [f"`{name}`" for name, status in _statuses().items() if status != "not run" and _in_part(name)]
    lists = {"Run in part": part, "Fail": by_status["fails"], "Not run": by_status["not run"]}
    said = " ".join(f"{what}: {', '.join(names)}." for what, names in lists.items() if names)
    return f"{counts} ([reproductions](docs/reproductions.md)). {said}"


def reproduction_table() -> str:
    """All targets of `metarl reproduce`: status first, those that fail on top."""
    order = {"fails": 0, "passes": 1, "not run": 2}
    rows = []
    for name, status in sorted(_statuses().items(), key=lambda item: (order[item[1]], item[0])):
        claims = _load(f"docs/reproductions/{name}.json")["claims"] if status != "not run" else []
        judged = [c["passed"] for c in claims if c["rule"] != "none"]
        shown = f"[{status}](#{name}-{status})" + ", in part" * _in_part(name) if claims else status
        rows.append(
            [f"`{name}`", shown, f"{sum(judged)} of {len(judged)}" if claims else "-", REPRODUCTIONS[name].title]
        )
    return _markdown(["target", "status", "rules that hold", "what"], rows, words=(0, 1, 3))


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.1e}" if x and abs(x) < 1e-3 else f"{x:.3f}"


def accelerator() -> str:
    """Environment steps a second on a GPU."""
    runs = (_load(f"benchmarks/results/accelerator_nvidia-h200{run}.json") for run in ("", "_a_b_d_f"))
    return _markdown(*device_tables.accelerator(*runs))


def accelerator_gradients() -> str:
    """The meta-gradient on a GPU."""
    return _markdown(*device_tables.gradients(_load("benchmarks/results/accelerator_nvidia-h200.json")))


def unrolling() -> str:
    """Loops over time with several steps a turn."""
    return _markdown(*device_tables.unrolling(_load("benchmarks/results/unrolling_gpu.json")))


def device_scaling() -> str:
    """What sharing a training over devices and processes costs."""
    return _markdown(*device_tables.scaling(_load("benchmarks/results/device_scaling_cpu.json")))


def device_models() -> str:
    """What keeping a model in parts costs and saves."""
    return _markdown(*device_tables.models(_load("benchmarks/results/device_models_cpu.json")))


def growth() -> str:
    """What more GPUs would do, on paper."""
    return _markdown(*device_tables.growth())


def robots() -> str:
    """Robots on a CPU, beside their packages."""
    return _markdown(*robot_tables.speed(_load("benchmarks/results/robots_cpu.json")))


def accelerator_robots() -> str:
    """Robots on a GPU."""
    return _markdown(*robot_tables.accelerator(_load("benchmarks/results/accelerator_nvidia-h200_g.json")))


def halfcheetah_dir() -> str:
    """What was trained on HalfCheetahDir."""
    return _markdown(*robot_tables.returns("HalfCheetahDir", _load("docs/reproductions/halfcheetah-dir.json")))


def meta_world_ml1() -> str:
    """What was trained on Meta-World's ML1."""
    return _markdown(*robot_tables.successes(_load("docs/reproductions/meta-world-ml1.json")))


def worlds() -> str:
    """What was trained on driving and recommendation."""
    return _markdown(*world_tables.returns(_load("docs/reproductions/worlds.json")), words=range(2))


def ways_of_choosing() -> str:
    """How well PPO does on held-out families by the way in which its hyperparameters were chosen."""
    return _markdown(*choosing.hyperparameters(), words=range(2))


def test_costs() -> str:
    """What each file of tests costs; those under 10 s together."""
    rows, few, rest = [], 0, 0.0
    for r in _load("benchmarks/results/test_costs.json")["rows"]:
        if r["seconds"] >= 10:
            rows.append([r["file"], str(r["tests"]), f"{r['seconds']:.0f}"])
        else:
            few, rest = few + r["tests"], rest + r["seconds"]
    return _markdown(["file", "tests", "seconds"], [*rows, ["all others", str(few), f"{rest:.0f}"]])


def algorithm_costs() -> str:
    """What the short training of every algorithm cost."""
    return _markdown(*curve_tables.costs(_load(CURVES)["rows"]), words=range(3))


def choosing_problems() -> str:
    """Which algorithm for which problem."""
    head, rows = choosing.problems()
    return _markdown(head, rows, words=range(len(head)))


def curve(name: str) -> str:
    """The short training of one algorithm: its command, its scores, its cost."""
    found = next(r for r in _load(CURVES)["rows"] if r["algorithm"] == name)
    return "\n\n".join((curve_tables.command(found), _markdown(*curve_tables.scores(found)), curve_tables.cost(found)))


TABLES = {
    "device_scaling": device_scaling,
    "device_models": device_models,
    "growth": growth,
    "test_costs": test_costs,
    "accelerator": accelerator,
    "accelerator_gradients": accelerator_gradients,
    "robots": robots,
    "memory_estimates": memory_estimates,
    "halfcheetah_dir": halfcheetah_dir,
    "meta_world_ml1": meta_world_ml1,
    "worlds": worlds,
    "accelerator_robots": accelerator_robots,
    "unrolling": unrolling,
    "demo": demo,
    "throughput": throughput,
    "memory": memory,
    "transformers": transformers,
    "sinusoid": sinusoid,
    "scaling": scaling,
    "population": population,
    "meta_gradient": meta_gradient,
    "comparison": comparison,
    "reproductions": reproductions,
    "reproduction_status": reproduction_status,
    "reproduction_table": reproduction_table,
    "ways_of_choosing": ways_of_choosing,
    "algorithm_costs": algorithm_costs,
    "choosing_problems": choosing_problems,
    "choosing_doubts": choosing.doubts,
    **{f"curve_{name}": functools.partial(curve, name) for name in ALGORITHMS},
}


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
