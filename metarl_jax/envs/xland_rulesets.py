"""Rulesets for XLand-MiniGrid drawn here, and a file format for them that nothing is unpickled from.

The distributions are those of the package's benchmarks (Nikulin et al. 2024, appendix on generation, after the Ada team
2023). A goal is drawn: to hold an object, to be beside one, or to put two beside each other. With depth 1 each object
of the goal is made by a rule, or with chance `prune` lies there from the start; a rule turns an object that is held,
one that the agent is beside, or two that are beside each other into another. What the last rules take lies on the
board, beside objects and rules that lead nowhere.

| name            | depth | prune | rules that lead nowhere | objects that nothing needs |
|-----------------|-------|-------|-------------------------|----------------------------|
| `drawn-trivial` | 0     |       | 0                       | 3                          |
| `drawn-small`   | 1     | .3    | 0 to 2                  | 2, and what those rules take |

Two things differ from the published files. No task is there twice, in whatever order its rules and objects stand. And
every task can be solved: in the published files a rule that leads nowhere may turn the goal's own object into another
as soon as the agent comes near it. Here such a rule takes at least one object that the goal does not need, so that it
is a dead end that can be avoided.
"""

import numbers
import random
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarl_jax.envs.tasks import check_count

Tile = tuple[int, int]  # kind, colour

BALL, SQUARE, PYRAMID, GOAL, KEY, FLOOR, BLACK = 3, 4, 5, 6, 7, 1, 7
COLOURS = (1, 2, 3, 4, 5, 6, 9)  # red, green, blue, purple, yellow, grey, white
PICKABLE = tuple((kind, colour) for kind in (BALL, SQUARE, PYRAMID, KEY) for colour in COLOURS)
NEARABLE = (
    *PICKABLE,
    *((GOAL, colour) for colour in COLOURS),
)  # what the agent can be beside; GOAL cannot be picked up
HOLD, NEAR, TILES_NEAR = range(3)
GOAL_CODES, RULE_CODES = (1, 3, 4), (1, 2, 3)  # of the package's AgentHold, AgentNear and TileNear
NUM_KINDS, NUM_COLOURS, NUM_GOALS, NUM_RULES = 13, 12, 15, 12
FIELDS = {"goals": (5,), "rules": (None, 7), "init_tiles": (None, 2), "num_rules": ()}
MOST, LARGEST = 10**7, 2 * 10**9  # rulesets in a file, and bytes of them


class Distribution(NamedTuple):
    """Where rulesets are drawn from; see the table above."""

    depth: int
    prune: float
    distractor_rules: int
    distractor_objects: int


DISTRIBUTIONS = {"drawn-trivial": Distribution(0, 0.0, 0, 3), "drawn-small": Distribution(1, 0.3, 2, 2)}


def drawn(name: str, num_tasks: int, seed: int) -> dict[str, np.ndarray]:
    """`num_tasks` different rulesets: goals [N, 5], rules [N, R, 7], init_tiles [N, I, 2], num_rules [N], uint8.

    Encoded as by the package, padded with its empty rule and empty tile; `num_rules` is the depth of the goal's chain.
    The first n are the same for every larger `num_tasks`.
    """
    d, draws = DISTRIBUTIONS[name], random.Random(seed)
    num_rules = max(2 * (2**d.depth - 1) + d.distractor_rules, 1)
    num_tiles = 2 * 2**d.depth + d.distractor_objects + 2 * d.distractor_rules
    found: dict[tuple, tuple] = {}
    while len(found) < num_tasks:
        goal, each, lying = one = _ruleset(d, draws)
        key = _sorted(goal), tuple(sorted(map(_sorted, each))), tuple(sorted(lying))
        found.setdefault(key, one)
    size = len(found)
    goals, rules = np.zeros((size, 5), np.uint8), np.zeros((size, num_rules, 7), np.uint8)
    tiles = np.zeros((size, num_tiles, 2), np.uint8)
    for i, (goal, each, lying) in enumerate(found.values()):
        goals[i] = _encoded(GOAL_CODES, *goal, width=5)
        for j, rule in enumerate(each):
            rules[i, j] = _encoded(RULE_CODES, *rule, width=7)
        tiles[i, : len(lying)] = lying
    return {"goals": goals, "rules": rules, "init_tiles": tiles, "num_rules": np.full(size, d.depth, np.uint8)}


def _ruleset(d: Distribution, draws: random.Random) -> tuple[tuple, list[tuple], list[Tile]]:
    """(goal, rules, initial tiles); a goal is (how, tiles), a rule (how, tiles, product)."""
    goal = _drawn_condition(draws, set())
    needed, chain, rules, lying = set(goal[1]), list(goal[1]), [], []
    for _ in range(d.depth):
        made, chain = chain, []
        for product in made:
            if draws.random() < d.prune:
                lying.append(product)
                continue
            how, taken = _drawn_condition(draws, needed)
            needed.update(taken)
            chain += taken
            rules.append((how, taken, product))
    lying += chain
    others = [tile for tile in NEARABLE if tile not in needed]
    lying += draws.choices(others, k=d.distractor_objects)
    products = [*(tile for tile in PICKABLE if tile not in needed), (FLOOR, BLACK)]
    for _ in range(draws.randint(0, d.distractor_rules)):
        while True:
            how, taken = _drawn_condition(draws, set())
            if any(tile not in needed for tile in taken):
                break
        rules.append((how, taken, draws.choice(products)))
        lying += taken
    return goal, rules, lying


def _drawn_condition(draws: random.Random, without: set[Tile]) -> tuple[int, tuple[Tile, ...]]:
    how = draws.randrange(3)
    sets = ((PICKABLE,), (NEARABLE,), (NEARABLE, PICKABLE))[how]
    return how, tuple(draws.choice([tile for tile in tiles if tile not in without]) for tiles in sets)


def _sorted(condition: tuple) -> tuple:
    """A goal or a rule with its two tiles in one order: beside each other, it does not matter which is which."""
    how, taken, *product = condition
    return how, tuple(sorted(taken)), *product


def _encoded(codes: tuple[int, ...], how: int, taken: tuple[Tile, ...], product: Any = (), *, width: int) -> list[int]:
    numbers = [codes[how], *(n for tile in taken for n in tile), *product]
    return numbers + [0] * (width - len(numbers))


def save_rulesets(path: str | Path, benchmark: Any) -> Path:
    """Write the rulesets of a benchmark of the package, or of `drawn`, as a .npz file for `benchmark: FILE.npz`."""
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"path = {path}: must end in .npz")
    get = benchmark.get if isinstance(benchmark, dict) else lambda name: getattr(benchmark, name)
    arrays = {name: np.asarray(get(name), np.uint8) for name in FIELDS}
    arrays["num_rules"] = arrays["num_rules"].reshape(-1)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def load_rulesets(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of such a file; nothing in it is run.

    Raises: ValueError, one line, for a file of anything else.
    """

    def wrong(what: str) -> ValueError:
        return ValueError(f"benchmark = {path}: {what}")

    found = {}
    try:
        with open(path, "rb") as raw, zipfile.ZipFile(raw) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > LARGEST:
                raise wrong(f"would be {size:,} bytes in memory; must be at most {LARGEST:,}")
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            missing = [name for name in FIELDS if name not in file.files]
            if missing:
                raise wrong(f"has no {', '.join(missing)}; a file of rulesets has {', '.join(FIELDS)}")
            for name in FIELDS:
                found[name] = file[name]
    except (OSError, EOFError, zipfile.BadZipFile, KeyError, AttributeError, TypeError, MemoryError) as error:
        raise wrong(f"cannot be read as a .npz file of rulesets ({type(error).__name__})") from None
    except ValueError as error:
        raise error if str(error).startswith("benchmark = ") else wrong("holds Python objects or is damaged") from None
    size = len(found["goals"]) if found["goals"].ndim else 0
    if not 1 <= size <= MOST:
        raise wrong(f"has {size} rulesets; must have 1 to {MOST}")
    for name, shape in FIELDS.items():
        x, wanted = found[name], (size, *shape)
        fits = x.ndim == len(wanted) and all(n in (None, m) for n, m in zip(wanted, x.shape, strict=True))
        if not fits or x.dtype != np.uint8 or 0 in x.shape:
            text = ", ".join("any" if n is None else str(n) for n in wanted)
            raise wrong(f"{name} is {x.dtype} {list(x.shape)}; must be uint8 [{text}]")
    for name, codes, what in (("goals", NUM_GOALS, "goal"), ("rules", NUM_RULES, "rule")):
        if found[name][..., 0].max() >= codes:
            raise wrong(f"has a {what} of kind {found[name][..., 0].max()}; must be below {codes}")
    tiles = found["init_tiles"]
    if tiles[..., 0].max() >= NUM_KINDS or tiles[..., 1].max() >= NUM_COLOURS:
        raise wrong(f"has a tile of kind or colour out of range; kinds are below {NUM_KINDS}, colours {NUM_COLOURS}")
    return found


def check_drawn(num_tasks: int | None, seed: int | None) -> tuple[int, int]:
    """How many rulesets to draw, 10,000 unless it is said, and from which seed, 0 unless it is said."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0):
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    return check_count("num_tasks", 10_000 if num_tasks is None else num_tasks), int(seed or 0)
