"""Returns of PPO on MinAtar's unchanged games beside rejax's, at equal environment steps.

    python -m benchmarks.game_returns --peer-python PYTHON                      4 games, 3 seeds, 3.0M steps each
    python -m benchmarks.game_returns --peer-python PYTHON --games Breakout     one of them

`configs/ppo_minatar.yaml` as it is, and rejax with the same network, convolution, sizes and step size
(`benchmarks/peers.py`); rejax also clips the critic's loss. Returns are means over 100 episodes of the last policy,
each of at most as many steps as the game has. What is done stays in `--run-dir` and is not done again.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import common, peers
from metarl_jax.runs import config, evaluate, train
from metarl_jax.runs.build import build

PUBLISHED = {"Asterix": 15, "Breakout": 28, "Freeway": 58, "SpaceInvaders": 131}  # gymnax-blines, 10M steps, an MLP
EPISODES = 100
COLUMNS = {"game": "", "seeds": "d", "env_steps": ",d", "ours": ".1f", "rejax": ".1f", "published": "d"}


def ours(game: str, seed: int, iterations: int, directory: Path) -> float:
    """Mean return of our PPO."""
    where = directory / f"{game}-{iterations}-{seed}"
    changed = [f"env=gymnax:{game}-MinAtar", f"seed={seed}", f"num_iterations={iterations}"]
    train.train(build(config.load(config.shipped_config("ppo_minatar"), changed)), where, resume=True)
    _, scores = evaluate.assess(where, num_tasks=1, num_episodes=EPISODES, baselines=False)
    return float(scores["run"].mean())


def rejax(game: str, seed: int, iterations: int, directory: Path, python: str | None) -> float | None:
    """Mean return of rejax's PPO, None where it cannot be measured."""
    kept = directory / f"{game}-{iterations}-{seed}-rejax.json"
    if not kept.exists():
        words = ["--game", game, "--iterations", str(iterations), "--seed", str(seed), "--patches"]
        result = peers.run_peer("rejax-minatar", [*words, "--eval-episodes", str(EPISODES)], python=python)
        if not result["available"]:
            print(f"rejax: {result['reason']}")
            return None
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(result))
    return float(json.loads(kept.read_text())["final_return"])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--output", type=Path, default=Path("benchmarks/results/game_returns_cpu.json"))
    p.add_argument("--peer-python", help="interpreter that has rejax installed, see benchmarks/peers.py")
    p.add_argument("--games", nargs="+", choices=PUBLISHED, default=list(PUBLISHED))
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--iterations", type=int, help="of 8,192 steps, a multiple of 6; default the configuration's")
    p.add_argument("--run-dir", type=Path, default=Path("runs/game_returns"))
    a = p.parse_args()
    own = config.load(config.shipped_config("ppo_minatar"))
    iterations = a.iterations or own.num_iterations
    rows: list[dict[str, Any]] = []
    for game in a.games:
        mine = [ours(game, seed, iterations, a.run_dir) for seed in range(a.seeds)]
        peer = [rejax(game, seed, iterations, a.run_dir, a.peer_python) for seed in range(a.seeds)]
        theirs = [value for value in peer if value is not None]
        row = {"game": game, "seeds": a.seeds, "env_steps": iterations * own.num_envs * own.num_steps}
        row |= {"ours": statistics.fmean(mine), "ours_all": mine, "published": PUBLISHED[game]}
        row |= {"rejax": statistics.fmean(theirs) if theirs else None, "rejax_all": theirs}
        rows.append(row)
        print(common.table(rows, COLUMNS))
    common.save(a.output, rows)


if __name__ == "__main__":
    main()
