"""Published results, run again: each compares with the published number and the exact optimum, and passes or fails.

A reproduction is a module with `run(directory, report) -> list of Claim`, or "module:function" for a function of
another name. What it trains it keeps in `directory`, so that a run that was cut off goes on. One that is a table of
cells names them in `cells`, has `CELLS` and `run(directory, report, cells)`. `reproduce` adds the circumstances and
makes JSON of it.
"""

import dataclasses
import difflib
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NO_RULE = "none"  # the rule of a claim that is reported and not judged


@dataclasses.dataclass(frozen=True)
class Claim:
    """One number of ours beside the published one."""

    what: str
    ours: float
    interval: tuple[float, float] | None  # 95%
    rule: str  # what has to hold, in words: ">= -8"
    passed: bool
    published: float | None = None  # or what the reference measured where the paper shows only curves
    optimum: float | None = None  # exact, where it is known


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What `metarl reproduce --list` says before one starts."""

    title: str
    paper: str
    module: str
    seeds: int
    cpu: str  # measured cost on a CPU
    gpu: str  # measured cost on a GPU, or that it was not measured
    cells: tuple[str, ...] = ()  # of a table that can be run in part
    chosen: tuple[str, ...] = ()  # those run if none are named; `cpu` is their cost
    apart: bool = False  # whether cells can be run on different machines
    together: tuple[tuple[str, ...], ...] = ()  # but for these, which use what the first of them has trained


_HERE = "metarl_jax.reproductions"
NOT_MEASURED = "not measured"
_WORLDS = tuple(
    tuple(f"{world}-{method}" for method in methods)
    for world, methods in (
        ("driving", ("ppo", "promp", "rl2")),
        ("recommender", ("ppo", "promp", "rl2")),
        ("games", ("ppo", "told", "promp", "rl2")),
    )
)

REPRODUCTIONS: dict[str, Reproduction] = {
    "maml-point-navigation": Reproduction(
        "MAML on 2-D navigation, the authors' protocol",
        "Finn et al. 2017, figure 4",
        f"{_HERE}.maml_point_navigation",
        seeds=3,
        cpu="52 minutes",
        gpu=NOT_MEASURED,
    ),
    "sinusoid": Reproduction(
        "MAML and FOMAML on sinusoids, 5 and 10 shots",
        "Finn et al. 2017, section 5.1",
        f"{_HERE}.sinusoid",
        seeds=3,
        cpu="11 minutes",
        gpu=NOT_MEASURED,
    ),
    "promp-gradient-quality": Reproduction(
        "LVC has less variance than DiCE at a small bias, exactly",
        "Rothfuss et al. 2019, ProMP",
        f"{_HERE}.promp_gradient_quality",
        seeds=24,
        cpu="2 minutes",
        gpu=NOT_MEASURED,
    ),
    "promp-sparse-corner": Reproduction(
        "methods that see the sampling dependence explore the sparse corner",
        "Rothfuss et al. 2019, ProMP",
        f"{_HERE}.promp_sparse_corner",
        seeds=20,
        cpu="35 minutes",
        gpu=NOT_MEASURED,
    ),
    "lola-dice": Reproduction(
        "LOLA-DiCE on the iterated prisoner's dilemma",
        "Foerster et al. 2018, DiCE",
        f"{_HERE}.lola_dice",
        seeds=20,
        cpu="2 minutes",
        gpu=NOT_MEASURED,
    ),
    "discounting-chain": Reproduction(
        "an outer critic rids meta-gradients of gamma of their bias",
        "Bonnet et al. 2022, Debiasing meta-gradient RL",
        f"{_HERE}.discounting_chain",
        seeds=10,
        cpu="11 minutes",
        gpu=NOT_MEASURED,
    ),
    "two-colours": Reproduction(
        "a learned entropy coefficient follows a world that changes without a sign",
        "Flennerhag et al. 2022, Bootstrapped Meta-Learning",
        f"{_HERE}.two_colours",
        seeds=10,
        cpu="34 minutes",
        gpu=NOT_MEASURED,
    ),
    "exact-meta-gradients": Reproduction(
        "the library's meta-gradients are those of an exact tabular oracle",
        "Finn et al. 2017, Stadie et al. 2018, Nichol et al. 2018",
        f"{_HERE}.exact_meta_gradients",
        seeds=3,
        cpu="75 seconds",
        gpu=NOT_MEASURED,
    ),
    "learned-optimizer": Reproduction(
        "a learned hyperparameter optimiser for PPO on held-out families, beside other ways of choosing",
        "this project; no published number",
        f"{_HERE}.learned_optimizer",
        seeds=20,
        cpu="90 minutes",
        gpu=NOT_MEASURED,
        cells=("catch", "maze", "point", "tabular"),
        chosen=("catch", "maze", "point", "tabular"),
    ),
    "learned-rules": Reproduction(
        "learned updates, surrogates and rewards on unseen tasks, beside A2C and PPO",
        "Oh et al. 2020, Lu et al. 2022, Zheng et al. 2018; no published number at this size",
        f"{_HERE}.learned_rules",
        seeds=3,
        cpu="40 minutes",
        gpu=NOT_MEASURED,
        cells=("lpg", "lpo", "lirpg"),
        chosen=("lpg", "lpo", "lirpg"),
        apart=True,
    ),
    "rl2-bandits": Reproduction(
        "RL2 and strategies that are not learned on Bernoulli bandits",
        "Duan et al. 2016, table 1",
        f"{_HERE}.rl2_bandits",
        seeds=3,
        cpu="53 minutes: 25 for n10, 28 for n100-k5",
        gpu=NOT_MEASURED,
        cells=(
            "n10-k5",
            "n10-k10",
            "n10-k50",
            "n100-k5",
            "n100-k10",
            "n100-k50",
            "n500-k5",
            "n500-k10",
            "n500-k50",
        ),
        chosen=("n10-k5", "n10-k10", "n10-k50", "n100-k5"),
        apart=True,
    ),
    "rl2-tabular-mdps": Reproduction(
        "RL2 and strategies that are not learned on random tabular MDPs",
        "Duan et al. 2016, table 2",
        f"{_HERE}.rl2_tabular_mdps",
        seeds=1,
        cpu="120 minutes",
        gpu=NOT_MEASURED,
        cells=("n10", "n25", "n50", "n75", "n100"),
        chosen=("n10",),
    ),
    "halfcheetah-dir": Reproduction(
        "ProMP and others on HalfCheetah, forwards or backwards",
        "Rothfuss et al. 2019, ProMP",
        f"{_HERE}.locomotion:halfcheetah_dir",
        seeds=3,
        cpu="7 hours: 77 minutes for promp, 95 maml-trpo, 40 e-maml, 35 maml-vpg, 67 rl2, 85 varibad, 27 rivals",
        gpu=NOT_MEASURED,
        cells=("promp", "maml-trpo", "e-maml", "maml-vpg", "rl2", "varibad", "rl2-raw", "rivals"),
        chosen=("promp", "maml-trpo", "e-maml", "maml-vpg", "rl2", "varibad", "rivals"),
        apart=True,
        together=(("promp", "rivals"),),
    ),
    "halfcheetah-vel": Reproduction(
        "ProMP and RL2 on HalfCheetah, target velocities",
        "Rothfuss et al. 2019, ProMP",
        f"{_HERE}.locomotion:halfcheetah_vel",
        seeds=3,
        cpu="5 hours, estimated (300 minutes)",
        gpu=NOT_MEASURED,
        cells=("promp", "rl2", "rivals"),
        chosen=("promp", "rl2", "rivals"),
        apart=True,
        together=(("promp", "rivals"),),
    ),
    "ant-dir": Reproduction(
        "ProMP and RL2 on the ant, directions of the plane",
        "Rakelly et al. 2019, PEARL",
        f"{_HERE}.locomotion:ant_dir",
        seeds=3,
        cpu="7 hours, estimated (420 minutes)",
        gpu=NOT_MEASURED,
        cells=("promp", "rl2", "rivals"),
        chosen=("promp", "rl2", "rivals"),
        apart=True,
        together=(("promp", "rivals"),),
    ),
    "walker-rand-params": Reproduction(
        "ProMP and RL2 on walkers of random build",
        "Rothfuss et al. 2019, ProMP",
        f"{_HERE}.locomotion:walker_rand_params",
        seeds=3,
        cpu="6 hours, estimated (360 minutes)",
        gpu=NOT_MEASURED,
        cells=("promp", "rl2", "rivals"),
        chosen=("promp", "rl2", "rivals"),
        apart=True,
        together=(("promp", "rivals"),),
    ),
    "meta-world-ml1": Reproduction(
        "MAML-TRPO and RL2 on Meta-World's ML1, both rewards, one counted episode a goal",
        "Yu et al. 2019, Meta-World; McLean et al. 2025, Meta-World+",
        f"{_HERE}.meta_world",
        seeds=3,
        cpu="100 minutes a cell of maml-trpo, 70 a cell of rl2",
        gpu=NOT_MEASURED,
        cells=tuple(
            f"{task}-{method}-{reward}"
            for task in ("button-press", "reach", "push")
            for method in ("maml-trpo", "rl2", "rl2-normalized")
            for reward in ("v2", "v1")
        ),
        chosen=("button-press-maml-trpo-v2", "button-press-rl2-v2"),
        apart=True,
    ),
    "meta-world-ml10": Reproduction(
        "MAML-TRPO and RL2 on Meta-World's ML10, one counted episode a goal",
        "Yu et al. 2019, Meta-World; McLean et al. 2025, Meta-World+",
        f"{_HERE}.meta_world:run_ml10",
        seeds=1,
        cpu="200 minutes a cell, estimated",
        gpu=NOT_MEASURED,
        cells=("maml-trpo", "rl2", "rl2-normalized"),
        chosen=("rl2",),
        apart=True,
    ),
    "worlds": Reproduction(
        "ProMP and RL2 where the rules must be found out: driving, recommendation and a game",
        "this project; no published number",
        f"{_HERE}.worlds",
        seeds=3,
        cpu="120 minutes on a core shared with other work",
        gpu=NOT_MEASURED,
        cells=tuple(cell for world in _WORLDS for cell in world),
        chosen=tuple(cell for world in _WORLDS for cell in world),
        apart=True,
        together=_WORLDS,
    ),
    "varibad-gridnavi": Reproduction(
        "VariBAD and RL2 on GridNavi, beside the Bayes-optimal agent",
        "Zintgraf et al. 2020, VariBAD, section 5.1",
        f"{_HERE}.varibad_gridnavi",
        seeds=3,
        cpu="50 minutes",
        gpu=NOT_MEASURED,
    ),
}


def format_list() -> str:
    """Names, titles, seeds and costs, as text."""
    rows: list[tuple[str, ...]] = [("name", "seeds", "CPU time, one core", "GPU time", "what")]
    rows += [(name, str(r.seeds), r.cpu, r.gpu, f"{r.title} ({r.paper})") for name, r in REPRODUCTIONS.items()]
    return _columns(rows)


def format_result(result: dict[str, Any]) -> str:
    """The claims of one reproduction as text, and whether it passed."""
    rows: list[tuple[str, ...]] = [("claim", "ours", "95% interval", "published", "optimum", "rule", "")]
    for c in result["claims"]:
        between = "-" if c["interval"] is None else f"[{_short(c['interval'][0])}, {_short(c['interval'][1])}]"
        verdict = "-" if c["rule"] == NO_RULE else "pass" if c["passed"] else "FAIL"
        rows.append(
            (c["what"], _short(c["ours"]), between, _short(c["published"]), _short(c["optimum"]), c["rule"], verdict)
        )
    head = f"{result['name']}: {result['title']} ({result['paper']})"
    verdict = "passed" if result["passed"] else "FAILED"
    return f"{head}\n\n{_columns(rows)}\n\n{verdict}; {result['cpu_seconds_in_this_call']:.0f} CPU-s in this call"


def _short(x: float | None) -> str:
    return "-" if x is None else f"{x:.3g}" if abs(x) < 0.01 and x else f"{x:.3f}"


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def choose_cells(name: str, asked: str | None) -> tuple[str, ...]:
    """The cells that `asked` means, in the order of the table: names, or their beginnings, parted by commas.

    "n10" is n10-k5, n10-k10 and n10-k50; "all" is all; None those the entry has chosen.

    Raises: ValueError, one line, for a reproduction without cells and for a name that none begins with.
    """
    entry = REPRODUCTIONS[name]
    if asked is None or asked == "all":
        return entry.chosen if asked is None else entry.cells
    if not entry.cells:
        raise ValueError(f"cells = {asked!r}: {name} has none, it is run whole")
    words = [word.strip() for word in asked.split(",")]
    for word in words:
        if not any(_begins(cell, word) for cell in entry.cells):
            near = difflib.get_close_matches(word, entry.cells, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"cells = {word!r}: must be all, or of {', '.join(entry.cells)}{hint}")
    return tuple(cell for cell in entry.cells if any(_begins(cell, word) for word in words))


def _begins(cell: str, word: str) -> bool:
    return cell == word or cell.startswith(f"{word}-")


def function_of(entry: Reproduction) -> Callable[..., list[Claim]]:
    """What runs a reproduction."""
    module, _, function = entry.module.partition(":")
    return getattr(importlib.import_module(module), function or "run")


def reproduce(
    name: str, directory: Path, report: Callable[[Any], None] = print, cells: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """Run one reproduction; returns its result as JSON-ready data: claims, verdict, seeds, and what this call took.

    Args: cells: those to run (None: the chosen ones); a table that keeps records is judged by all that it has.
    """
    entry = REPRODUCTIONS[name]
    began, cpu_began = time.perf_counter(), time.process_time()
    options = {"cells": entry.chosen if cells is None else cells} if entry.cells else {}
    claims = function_of(entry)(directory, report, **options)
    return {
        "name": name,
        "title": entry.title,
        "paper": entry.paper,
        "seeds": entry.seeds,
        "passed": all(claim.passed for claim in claims),
        "claims": [dataclasses.asdict(claim) for claim in claims],
        "seconds_in_this_call": round(time.perf_counter() - began, 1),
        "cpu_seconds_in_this_call": round(time.process_time() - cpu_began, 1),
    }
