"""What docs/start/choosing.md says of each problem, and docs/hyperparameters.md of ways to choose hyperparameters.

Every figure is from its results file, with a link to the results. `benchmarks.tables` writes the tables into the pages.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIDE_BY_SIDE = "[side by side](../algorithms/index.md#side-by-side)"
Table = tuple[list[str], list[list[str]]]  # head, rows


@functools.cache
def _load(path: str) -> dict[str, Any]:
    return json.loads((ROOT / path).read_text())


def _claim(reproduction: str, what: str) -> dict[str, Any]:
    return next(c for c in _load(f"docs/reproductions/{reproduction}.json")["claims"] if c["what"] == what)


def _number(x: float, digits: int) -> str:
    """A number as the pages write it, without a 0 before the point."""
    return f"{x:.{digits}f}".replace("0.", ".", 1) if abs(x) < 1 else f"{x:.{digits}f}"


def _ours(reproduction: str, what: str, digits: int = 0, key: str = "ours") -> str:
    return _number(_claim(reproduction, what)[key], digits)


def _with_interval(reproduction: str, what: str, digits: int) -> str:
    low, high = (_number(x, digits) for x in _claim(reproduction, what)["interval"])
    return f"{_ours(reproduction, what, digits)} [{low}, {high}]"


def _results(reproduction: str) -> str:
    status = "passes" if _load(f"docs/reproductions/{reproduction}.json")["passed"] else "fails"
    return f"[{reproduction}](../reproductions.md#{reproduction}-{status})"


def _compared(configuration: str) -> dict[str, Any]:
    rows = _load("benchmarks/results/comparison_cpu.json")["rows"]
    return next(r for r in rows if (r["config"], r["tasks"]) == (configuration, "dense"))


def _after(configuration: str, updates: int) -> str:
    return f"{_compared(configuration)['adaptation'][updates]['mean']:.1f}"


def _time(configuration: str, beside: str = "maml_lvc_point") -> float:
    return _compared(configuration)["train_cpu_s"] / _compared(beside)["train_cpu_s"]


def problems() -> Table:
    """What one has, what to take, and what was measured."""
    ppo = next(r for r in _load("benchmarks/results/algorithm_curves.json")["rows"] if r["algorithm"] == "ppo")
    curve = np.asarray(ppo["curves"]["episode_return"], float)
    cheetah, grid = "halfcheetah-dir", "varibad-gridnavi"
    rules, optimizer, corner = "learned-rules", "learned-optimizer", "promp-sparse-corner"
    explored = "corners explored before adapting"
    on_cartpole = f"{curve[:, -max(1, curve.shape[1] // 10) :].mean():.0f} on CartPole after {ppo['work']:,} steps"
    rows = [
        [
            "one task",
            "[ppo](../algorithms/ppo.md)",
            f"{on_cartpole} ([curve](../algorithms/ppo.md#measured)). Its hyperparameters: a "
            "[sweep](../hyperparameters.md) or `metarl tune`",
        ],
        [
            "tasks that one batch of random episodes tells apart, dense reward",
            "[maml](../algorithms/maml.md) with `differentiation: first_order`",
            f"{_after('fomaml_point', 1)} after one update on point navigation; with second order "
            f"{_after('maml_lvc_point', 1)}, in {1 / _time('fomaml_point'):.1f} times the time ({SIDE_BY_SIDE})",
        ],
        [
            "the same, and a return that cannot be exceeded is known",
            "`maml_target_point`: `target_return`",
            f"{_after('maml_target_point', 1)} after one update, {_after('maml_lvc_point', 1)} without it "
            f"({SIDE_BY_SIDE})",
        ],
        [
            "tasks that differ in a few numbers",
            "[cavia](../algorithms/cavia.md)",
            f"{_after('cavia_point', 2)} after two updates, the best of those without a target ({SIDE_BY_SIDE}); its "
            "context of two numbers can be looked at",
        ],
        [
            "no wish to tune an outer step size",
            "[maml_trpo](../algorithms/maml_trpo.md)",
            f"{_ours(cheetah, 'maml-trpo: return after adaptation')} after one update on half-cheetahs, ProMP "
            f"{_ours(cheetah, 'promp: return after adaptation')} ({_results(cheetah)}); an iteration takes longer",
        ],
        [
            "continuous control by the published recipe",
            "[promp](../algorithms/promp.md)",
            f"gains {_ours(cheetah, 'promp: gain by adapting')} by one update on half-cheetahs ({_results(cheetah)})",
        ],
        [
            "exploring is a plan, episodes are short, or every step counts",
            "[rl2](../algorithms/rl2.md)",
            f"{_ours('rl2-bandits', 'n=10, k=5: RL2', 3)} on bandits of ten pulls, optimum "
            f"{_ours('rl2-bandits', 'n=10, k=5: RL2', 3, 'optimum')} ({_results('rl2-bandits')}); "
            f"{_ours('rl2-tabular-mdps', 'n=10: RL2', 1)} on tabular MDPs, published "
            f"{_ours('rl2-tabular-mdps', 'n=10: RL2', 1, 'published')} ({_results('rl2-tabular-mdps')}); "
            f"{_ours(cheetah, 'rl2: return after adaptation')} on half-cheetahs with whole actions, normalised "
            f"({_results(cheetah)}); "
            f"{_ours(grid, 'RL2: episode 4', 3)} in the last episode on GridNavi, optimum "
            f"{_ours(grid, 'RL2: episode 4', 3, 'optimum')} ({_results(grid)})",
        ],
        [
            "the same, and the belief itself is wanted",
            "[varibad](../algorithms/varibad.md)",
            f"{_ours(grid, 'VariBAD: episode 4', 3)} in the last episode on GridNavi, optimum "
            f"{_ours(grid, 'VariBAD: episode 4', 3, 'optimum')} ({_results(grid)}); more parts to tune than rl2",
        ],
        [
            "sparse reward, gradient-based",
            "[promp](../algorithms/promp.md) or [e_maml](../algorithms/e_maml.md)",
            f"explore {_ours(corner, f'promp - maml: {explored}', 2)} and "
            f"{_ours(corner, f'e_maml - maml: {explored}', 1)} corners more than MAML ({_results(corner)}); "
            "E-MAML does not use what it finds",
        ],
        [
            "a reward that comes late",
            "[lirpg](../algorithms/lirpg.md)",
            f"{_ours(rules, 'held-out CartPoles, paid late: LIRPG')} on CartPoles that pay every 50 steps, PPO "
            f"{_ours(rules, 'held-out CartPoles, paid late: PPO')} ({_results(rules)})",
        ],
        [
            "one long training in which hyperparameters should move",
            "[meta_gradient_rl](../algorithms/meta_gradient_rl.md)",
            f"finds the right discount on a chain ({_results('discounting-chain')}); on PPO "
            f"{_with_interval(optimizer, 'meta-gradients - best fixed, 1 trial', 3)} above the best fixed setting, "
            f"which is not significant ({_results(optimizer)})",
        ],
        [
            "many trainings to spend on hyperparameters",
            "population-based training, `metarl sweep --method pbt`",
            f"{_ours(optimizer, 'PBT, 16 trials', 3)} after the steps of 16 trials, learned optimiser "
            f"{_ours(optimizer, 'learned, 16 trials', 3)}, random search {_ours(optimizer, 'random, 16 trials', 3)} "
            f"({_results(optimizer)})",
        ],
        [
            "labelled examples",
            "[supervised_maml](../algorithms/supervised_maml.md)",
            f"error {_ours('sinusoid', '10 shots, error after one step, MAML', 3)} after one step on sinusoids, "
            f"published {_ours('sinusoid', '10 shots, error after one step, MAML', 3, 'published')} "
            f"({_results('sinusoid')})",
        ],
        [
            "research on update rules",
            "[lpg](../algorithms/lpg.md), [lpo](../algorithms/lpo.md)",
            f"LPG {_ours(rules, 'held-out MDPs: LPG - A2C', 2)} above A2C, LPO "
            f"{_ours(rules, 'held-out CartPoles: LPO - PPO')} above PPO on their own families; they do not all "
            f"transfer ({_results(rules)})",
        ],
    ]
    return ["you have", "take", "what was measured"], rows


WAYS = {  # claim of `metarl reproduce learned-optimizer` -> what it is
    "best fixed, 1 trial": "the setting that was best on the training families",
    "meta-gradients, 1 trial": "meta-gradients from that setting on",
    "learned, 1 trial": "the learned optimiser's first trial (the same setting, seeds of its own)",
    "learned, 4 trials": "the learned optimiser",
    "learned, 16 trials": "the learned optimiser",
    "control, 16 trials": "the same search, learned from meaningless landscapes",
    "random, 16 trials": "random search",
    "random, 32 trials": "random search",
    "TPE, 16 trials": "TPE",
    "grid, 16 trials": "a grid",
    "PBT, 16 trials": "population-based training, whose score is that of its agent",
}


def hyperparameters() -> Table:
    """How well PPO does on held-out families, by the way in which its hyperparameters were chosen."""
    rows = [[what.split()[-2], way, _with_interval("learned-optimizer", what, 3)] for what, way in WAYS.items()]
    return ["trainings", "way of choosing", "score, 95% interval"], rows


def doubts() -> str:
    """The answers that rest on a figure, as items of a list."""
    ratio = _ours("sinusoid", "10 shots, error after one step, FOMAML / MAML", 2)
    cosines = [
        _claim("promp-gradient-quality", f"cosine of the first-order and exact meta-gradients, H = {h}")["ours"]
        for h in (4, 6, 8)
    ]
    cosine, gradients = _number(min(cosines), 2), _results("promp-gradient-quality")
    order = (
        f"On dense point navigation it made no difference ({SIDE_BY_SIDE}). On sinusoids with 10 shots FOMAML's error "
        f"is {ratio} times MAML's ({_results('sinusoid')}). Computed exactly, the first-order meta-gradient has a "
        f"cosine of at least {cosine} with the true one, in the median of small random MDPs ({gradients}). Start with "
        "first order, then check."
    )
    last = (
        f"[imaml](../algorithms/imaml.md), which took {_time('imaml_point'):.0f} times the time of MAML and learned "
        f"least, and [reptile](../algorithms/reptile.md) for one update, {_after('reptile_point', 1)} where MAML is at "
        f"{_after('maml_lvc_point', 1)} ({SIDE_BY_SIDE}). [boil](../algorithms/boil.md) was not compared."
    )
    return f"* **First order or second?** {order}\n* **What not to start with?** {last}"
