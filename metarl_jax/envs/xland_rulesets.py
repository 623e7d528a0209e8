"""Rulesets of XLand-MiniGrid: drawn here, and a file format for them from which nothing is unpickled.

The distributions are those of the package's benchmarks (Nikulin et al. 2024, section 2.3 and its ruleset generator,
after the Ada team 2023, appendix A.2). A goal is drawn: to hold an object, to be beside one, or to put one beside
another, in any direction or in a given one, 11 kinds. At each of `depth` levels every object that is needed is made by
a rule, or with probability `prune` lies there from the start; a rule has one of the same 11 conditions, and objects of
its own. What the last rules take lies on the board, beside distractors.

| name            | depth | prune | distractor rules | distractor objects                 |
|-----------------|-------|-------|------------------|------------------------------------|
| `drawn-trivial` | 0     |       | 0                | 3                                  |
| `drawn-small`   | 1     | .3    | 0 to 2           | 2, and what the distractors take   |

Differences from the published generator, by which no task is there twice and each can be solved:

- Two rulesets are the same task also where only the order of their rules, of their tiles or of two objects that are to
  be beside each other differs.
- A distractor rule may be a dead end, as there: it may take an object that the goal needs. Here it takes at least one
  other object too, so that it applies only where the agent puts the two beside each other. There, a distractor may turn
  the only object of the goal into another as soon as the agent comes near it.
- A goal tile, which nobody can move, is in no condition with a direction: beside a wall it could not be met.
"""

import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarl_jax.envs.tasks import check_count

Tile = tuple[int, int]  # kind, colour
Condition = tuple[int, tuple[Tile, ...]]  # one of the 11, its one or two tiles

# The package's numbers, `xminigrid.core`: balls, squares, pyramids, keys, hexes and stars in ten colours can be held.
COLOURS = (1, 2, 3, 4, 5, 6, 8, 9, 10, 11)  # all but black, the floor's
HELD = tuple((kind, colour) for kind in (3, 4, 5, 7, 11, 12) for colour in COLOURS)
SEEN = (*HELD, *((6, colour) for colour in COLOURS))  # with goal tiles
FLOOR = (1, 7)
HOLD, BESIDE, PUT = 0, 1, 6  # of 0 to 10; 2 to 5 and 7 to 10 are the last two up, right, down, left
GOAL_CODES = (1, 3, 11, 12, 13, 14, 4, 7, 8, 9, 10)
RULE_CODES = (1, 2, 8, 9, 10, 11, 3, 4, 5, 6, 7)
DOWN, LEFT = PUT + 3, PUT + 4

FIELDS: dict[str, tuple[int | None, ...]] = {
    "goals": (5,),
    "rules": (None, 7),
    "init_tiles": (None, 2),
    "num_rules": (),
}
NUM_GOALS, NUM_RULES, NUM_KINDS, NUM_COLOURS = 15, 12, 13, 12
POSITIONS = (5, 6)  # goals that name a cell
MOST = 10**9  # numbers in one array of a file


class Distribution(NamedTuple):
    """Where rulesets are drawn from; see the table above."""

    depth: int
    prune: float
    distractor_rules: int
    distractor_objects: int


DISTRIBUTIONS = {"drawn-trivial": Distribution(0, 0.0, 0, 3), "drawn-small": Distribution(1, 0.3, 2, 2)}


def draw_rulesets(name: str, num_tasks: int, seed: int = 0) -> dict[str, np.ndarray]:
    """`num_tasks` different rulesets of a distribution: goals [N, 5], rules [N, R, 7], init_tiles [N, I, 2], uint8.

    Encoded as the package does, padded with its empty rule and empty tile. `num_rules` [N]: rules that are not empty.
    Those of a smaller `num_tasks` are the first of a larger one. Nothing of the package is imported.

    Raises: ValueError for an unknown name, a count below 1 or a seed below 0.
    """
    if name not in DISTRIBUTIONS:
        raise ValueError(f"name must be one of {', '.join(DISTRIBUTIONS)}, got {name!r}")
    check_count("num_tasks", num_tasks)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    d, draws = DISTRIBUTIONS[name], random.Random(int(seed))
    found: dict[tuple, tuple] = {}
    while len(found) < num_tasks:
        goal, rules, tiles = ruleset = _ruleset(d, draws)
        same = tuple(sorted((_unordered(condition), product) for condition, product in rules))
        found.setdefault((_unordered(goal), same, tuple(sorted(tiles))), ruleset)
    num_rules = max(2 * (2**d.depth - 1) + d.distractor_rules, 1)
    num_tiles = 2 * 2**d.depth + d.distractor_objects + 2 * d.distractor_rules
    arrays = {
        "goals": np.zeros((num_tasks, 5), np.uint8),
        "rules": np.zeros((num_tasks, num_rules, 7), np.uint8),
        "init_tiles": np.zeros((num_tasks, num_tiles, 2), np.uint8),
        "num_rules": np.zeros(num_tasks, np.uint8),
    }
    for i, (goal, rules, tiles) in enumerate(found.values()):
        arrays["goals"][i] = _encoded(GOAL_CODES, goal, (), 5)
        for j, (condition, product) in enumerate(rules):
            arrays["rules"][i, j] = _encoded(RULE_CODES, condition, product, 7)
        arrays["init_tiles"][i, : len(tiles)] = tiles
        arrays["num_rules"][i] = len(rules)
    return arrays


def _ruleset(d: Distribution, draws: random.Random) -> tuple[Condition, list[tuple[Condition, Tile]], list[Tile]]:
    """(goal, rules, initial tiles); a rule is (condition, product)."""
    goal = _condition(draws, set(), SEEN)
    needed, wanted = set(goal[1]), list(goal[1])
    rules, tiles = [], []
    for _ in range(d.depth):
        products, wanted = wanted, []
        for product in products:
            if draws.random() < d.prune:
                tiles.append(product)
                continue
            condition = _condition(draws, needed, HELD)
            needed.update(condition[1])
            wanted += condition[1]
            rules.append((condition, product))
    tiles += wanted
    tiles += [_tile(draws, SEEN, needed) for _ in range(d.distractor_objects)]
    for _ in range(draws.randint(0, d.distractor_rules)):
        product = _tile(draws, (*HELD, FLOOR), needed)
        condition = _condition(draws, set(), HELD)
        while needed.issuperset(condition[1]):
            condition = _condition(draws, set(), HELD)
        rules.append((condition, product))
        tiles += condition[1]
    return goal, rules, tiles


def _condition(draws: random.Random, without: set[Tile], beside: tuple[Tile, ...]) -> Condition:
    """One of the 11, of tiles not in `without`; `beside`: those that the agent may have to be beside."""
    how = draws.randrange(len(GOAL_CODES))
    if how < PUT:
        return how, (_tile(draws, beside if how == BESIDE else HELD, without),)
    return how, (_tile(draws, SEEN if how == PUT else HELD, without), _tile(draws, HELD, without))


def _tile(draws: random.Random, tiles: tuple[Tile, ...], without: set[Tile]) -> Tile:
    tile = draws.choice(tiles)
    while tile in without:
        tile = draws.choice(tiles)
    return tile


def _unordered(condition: Condition) -> Condition:
    """The same for conditions that are met at the same time: a below b is b above a."""
    how, tiles = condition
    if how == PUT:
        return how, tuple(sorted(tiles))
    return (how - 2, tiles[::-1]) if how in (DOWN, LEFT) else condition


def _encoded(codes: tuple[int, ...], condition: Condition, product: tuple[int, ...], width: int) -> list[int]:
    numbers = [codes[condition[0]], *(n for tile in condition[1] for n in tile), *product]
    return numbers + [0] * (width - len(numbers))


def save_rulesets(path: str | Path, benchmark: Any) -> Path:
    """Write rulesets as a .npz file, which `benchmark=FILE.npz` reads.

    Args:
      benchmark: what `draw_rulesets` returns, or a `Benchmark` of the package.

    Raises: ValueError for another ending, and for rulesets that `load_rulesets` would refuse.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"path = {path}: must end in .npz")
    if not isinstance(benchmark, Mapping):
        benchmark = {name: getattr(benchmark, name) for name in FIELDS if hasattr(benchmark, name)}
    arrays = {name: np.asarray(benchmark[name]) for name in FIELDS if name in benchmark}
    if "num_rules" in arrays:
        arrays["num_rules"] = arrays["num_rules"].reshape(-1)  # the package keeps [N, 1]
    _check_shapes(f"path = {path}", {name: (x.dtype, x.shape) for name, x in arrays.items()})
    _check_numbers(f"path = {path}", arrays)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def load_rulesets(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file of `save_rulesets`. Nothing in it is run, and sizes are checked before anything is read.

    Raises: ValueError, one line, for a file of anything else.
    """
    what = f"benchmark = {path}"
    try:
        with zipfile.ZipFile(path) as file:
            _check_shapes(what, {name: _header(file, name) for name in FIELDS if f"{name}.npy" in file.namelist()})
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in FIELDS}
    except _Wrong:
        raise
    except Exception as error:  # a stranger's file: zipfile, zlib and NumPy raise a dozen kinds
        raise _Wrong(f"{what}: is no whole .npz file of rulesets ({type(error).__name__})") from None
    _check_numbers(what, arrays)
    return arrays


class _Wrong(ValueError):
    """What is wrong with rulesets, in one line."""


def _header(file: zipfile.ZipFile, name: str) -> tuple[np.dtype, tuple[int, ...]]:
    """(dtype, shape) of one array of a .npz file; what follows its header must be of that size."""
    info = file.getinfo(f"{name}.npy")
    with file.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        if info.file_size - stream.tell() != int(np.prod(shape, dtype=object)) * dtype.itemsize:
            raise EOFError
    return dtype, shape


def _check_shapes(what: str, found: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> None:
    missing = [name for name in FIELDS if name not in found]
    if missing:
        raise _Wrong(f"{what}: has no {', '.join(missing)}; rulesets have {', '.join(FIELDS)}")
    size = found["goals"][1][0] if found["goals"][1] else 0
    for name, each in FIELDS.items():
        dtype, shape = found[name]
        allowed = (size, *each)
        fits = len(shape) == len(allowed) and all(m in (None, n) for n, m in zip(shape, allowed, strict=True))
        if dtype != np.uint8 or not fits or 0 in shape:
            text = ", ".join(["N", *("any" if n is None else str(n) for n in each)])
            raise _Wrong(f"{what}: {name} is {dtype} {list(shape)}; must be uint8 [{text}], N = {size} at least 1")
        if np.prod(shape, dtype=object) > MOST:
            raise _Wrong(f"{what}: {name} has {np.prod(shape, dtype=object)} numbers; must have at most {MOST}")


def _check_numbers(what: str, arrays: Mapping[str, np.ndarray]) -> None:
    goals = arrays["goals"]
    for name, column, limit in (("goals", goals[:, 0], NUM_GOALS), ("rules", arrays["rules"][..., 0], NUM_RULES)):
        if column.max() >= limit:
            raise _Wrong(f"{what}: {name} has one of kind {column.max()}; kinds are 0 to {limit - 1}")
    in_goals = goals[~np.isin(goals[:, 0], POSITIONS), 1:]
    for name, tiles in (("init_tiles", arrays["init_tiles"]), ("goals", in_goals), ("rules", arrays["rules"][..., 1:])):
        pairs = tiles.reshape(-1, 2)
        wrong = pairs[(pairs[:, 0] >= NUM_KINDS) | (pairs[:, 1] >= NUM_COLOURS)]
        if len(wrong):
            raise _Wrong(
                f"{what}: {name} has a tile {wrong[0].tolist()}; kinds are 0 to {NUM_KINDS - 1}, "
                f"colours 0 to {NUM_COLOURS - 1}"
            )
