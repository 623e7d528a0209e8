"""Rulesets that are drawn, and files of them; the package is not needed. What the package makes of them: test_xland."""

import collections
import io
import itertools
import pickle
import zipfile

import numpy as np
import pytest

from metarl_jax.envs import xland_rulesets
from metarl_jax.envs.xland_rulesets import DISTRIBUTIONS, draw_rulesets, load_rulesets, save_rulesets

GOAL_TILE = 6
DIRECTED_GOALS, DIRECTED_RULES = range(7, 15), range(4, 12)
PUT_GOALS, PUT_RULES = (4, 7, 8, 9, 10), (3, 4, 5, 6, 7)


@pytest.fixture(scope="module", params=DISTRIBUTIONS)
def drawn(request):
    return draw_rulesets(request.param, 10_000, seed=0)


def pairs(numbers):
    return [tuple(map(int, numbers[i : i + 2])) for i in range(0, len(numbers), 2)]


def read(arrays, i):
    """(tiles of the goal, [(tiles, product)], initial tiles) of ruleset i."""
    goal, rules = arrays["goals"][i], arrays["rules"][i]
    needs = pairs(goal[1:5] if goal[0] in PUT_GOALS else goal[1:3])
    rules = [rule for rule in rules if rule[0]]
    rules = [pairs(rule[1:7] if rule[0] in PUT_RULES else rule[1:5]) for rule in rules]
    return needs, [(rule[:-1], rule[-1]) for rule in rules], [t for t in pairs(arrays["init_tiles"][i].ravel()) if t[0]]


def plan(needs, rules, tiles):
    """The fewest rules by which the tiles of the goal are there: breadth first over what lies on the board."""
    start = tuple(sorted(tiles))
    seen, queue = {start}, collections.deque([(start, 0)])
    while queue:
        there, steps = queue.popleft()
        if not collections.Counter(needs) - collections.Counter(there):
            return steps
        for taken, product in rules:
            if not collections.Counter(taken) - collections.Counter(there):
                rest = collections.Counter(there) - collections.Counter(taken) + collections.Counter([product])
                after = tuple(sorted(rest.elements()))
                if after not in seen:
                    seen.add(after)
                    queue.append((after, steps + 1))
    return None


def needed_by(needs, rules):
    """Tiles of the goal, and those that rules make them of."""
    needed = set(needs)
    while grown := {t for taken, product in rules if product in needed for t in taken} - needed:
        needed |= grown
    return needed


def test_every_goal_can_be_made(drawn):
    steps = [plan(*read(drawn, i)) for i in range(2_000)]
    assert None not in steps
    assert max(steps) == (2 if drawn["num_rules"].any() else 0)


def test_distractor_rules_need_a_tile_that_the_goal_does_not(drawn):
    dead_ends = 0
    for i in range(10_000):
        needs, rules, tiles = read(drawn, i)
        needed = needed_by(needs, rules)
        for taken, product in rules:
            if product not in needed:
                assert not needed.issuperset(taken)
                dead_ends += any(tile in needed for tile in taken)
            assert all(tile in tiles for tile in taken)
    assert (dead_ends > 50) == bool(drawn["num_rules"].any())  # as in the published ones


def test_no_rule_that_is_needed_takes_what_is_needed_elsewhere(drawn):
    for i in range(10_000):
        needs, rules, _ = read(drawn, i)
        taken = [set(taken) for taken, product in rules if product in needs]
        assert len(set(needs).union(*taken)) == len(set(needs)) + sum(map(len, taken))


def test_what_has_a_direction_can_be_moved(drawn):
    tiles = drawn["goals"][np.isin(drawn["goals"][:, 0], DIRECTED_GOALS)][:, [1, 3]]
    rules = drawn["rules"].reshape(-1, 7)
    rules = rules[np.isin(rules[:, 0], DIRECTED_RULES)]
    taken = [rules[:, 1], rules[np.isin(rules[:, 0], PUT_RULES), 3]]
    assert GOAL_TILE not in tiles and all(GOAL_TILE not in x for x in taken)
    assert GOAL_TILE in drawn["goals"] and GOAL_TILE in drawn["init_tiles"]


def test_frequencies(drawn):
    size = len(drawn["goals"])
    counts = np.bincount(drawn["goals"][:, 0], minlength=15)
    assert not counts[[0, 2, 5, 6]].any()
    assert np.sum((counts[counts > 0] - size / 11) ** 2) / (size / 11) < 30  # chi squared, 10 degrees: 1 in 1,000
    num_rules = drawn["num_rules"].astype(float)
    np.testing.assert_array_equal(num_rules, (drawn["rules"][..., 0] > 0).sum(1))
    if num_rules.any():  # 16/11 objects a goal, each made with probability .7; 0, 1 or 2 distractors
        mean = 0.7 * 16 / 11 + 1
        assert abs(num_rules.mean() - mean) < 4 * num_rules.std() / np.sqrt(size)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_seed_is_a_list(name):
    few, many, other = draw_rulesets(name, 50, 3), draw_rulesets(name, 200, 3), draw_rulesets(name, 50, 4)
    for key in few:
        np.testing.assert_array_equal(few[key], many[key][:50])
    assert (few["goals"] != other["goals"]).any()
    assert len({b"".join(x[i].tobytes() for x in many.values()) for i in range(200)}) == 200


def test_the_same_task_in_another_order_is_left_out(monkeypatch):
    a, b, c, d = (3, 1), (4, 1), (5, 1), (7, 1)
    up, down, left, right = 7, 9, 10, 8
    first = ((6, (a, b)), [((0, (c,)), a), ((up, (c, d)), b)], [c, c, d])
    same = [
        ((6, (b, a)), first[1], first[2]),
        (first[0], first[1][::-1], first[2]),
        (first[0], first[1], [c, d, c]),
        (first[0], [first[1][0], ((down, (d, c)), b)], first[2]),
    ]
    others = [
        ((up, (a, b)), [], [a, b]),
        ((up, (b, a)), [], [a, b]),
        ((right, (a, b)), [], [a, b]),
        ((6, (a, b)), [], [a, b]),
        ((6, (a, b)), [], [a, b, b]),
        ((6, (a, b)), [((up, (c, d)), b), ((0, (c,)), a)], [c, d]),
    ]
    again = [((left, (b, a)), [], [b, a]), ((down, (a, b)), [], [a, b])]
    given = iter([first, *same, *others, *again, ((0, (a,)), [], [a])])
    monkeypatch.setattr(xland_rulesets, "_ruleset", lambda d, draws: next(given))
    found = draw_rulesets("drawn-small", 8, 0)
    assert [tuple(goal) for goal in found["goals"]] == [
        (4, *a, *b), (7, *a, *b), (7, *b, *a), (8, *a, *b), (4, *a, *b), (4, *a, *b), (4, *a, *b), (1, *a, 0, 0)
    ]  # fmt: skip
    np.testing.assert_array_equal(found["num_rules"], [2, 0, 0, 0, 0, 0, 2, 0])


@pytest.mark.parametrize(
    "given, line",
    [
        (("drawn-medium", 3, 0), "name must be one of drawn-trivial, drawn-small, got 'drawn-medium'"),
        (("drawn-small", 0, 0), "num_tasks must be an integer of at least 1, got 0"),
        (("drawn-small", 3, -1), "seed must be an integer of at least 0, got -1"),
        (("drawn-small", 3, True), "seed must be an integer of at least 0, got True"),
    ],
)
def test_what_cannot_be_drawn(given, line):
    with pytest.raises(ValueError, match=f"^{line}$"):
        draw_rulesets(*given)


# Files ------------------------------------------------------------------------------------------------------


def test_a_file_keeps_them(drawn, tmp_path):
    path = save_rulesets(tmp_path / "rulesets.npz", {**drawn, "num_rules": drawn["num_rules"][:, None]})
    found = load_rulesets(path)
    assert list(found) == list(drawn)
    for key in drawn:
        np.testing.assert_array_equal(found[key], drawn[key])
        assert found[key].dtype == np.uint8


class Trap:
    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


def npy(shape, dtype="|u1", data=b""):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue() + data


def arrays(**changed):
    found = draw_rulesets("drawn-small", 9, 0)
    return {**found, **changed}


def put(name, index, value):
    found = arrays()
    found[name][index] = value
    return found


NPZ = {
    "no such key": ({k: v for k, v in arrays().items() if k != "goals"}, "has no goals; rulesets have goals, rules"),
    "another width": (arrays(goals=np.zeros((9, 4), np.uint8)), r"goals is uint8 \[9, 4\]; must be uint8 \[N, 5\]"),
    "another length": (arrays(num_rules=np.zeros(8, np.uint8)), r"num_rules is uint8 \[8\]; must be .* N = 9"),
    "one number": (arrays(goals=np.uint8(3)), r"goals is uint8 \[\]; must be uint8 \[N, 5\]"),
    "floats": (arrays(rules=np.zeros((9, 4, 7))), r"rules is float64 \[9, 4, 7\]"),
    "none": ({k: v[:0] for k, v in arrays().items()}, r"goals is uint8 \[0, 5\]; must be .* at least 1"),
    "a kind of goal": (put("goals", (3, 0), 15), "goals has one of kind 15; kinds are 0 to 14"),
    "a kind of rule": (put("rules", (3, 0, 0), 12), "rules has one of kind 12; kinds are 0 to 11"),
    "a kind of tile": (put("init_tiles", (0, 0, 0), 13), r"init_tiles has a tile \[13, \d+\]; kinds are 0 to 12"),
    "a colour": (put("rules", (0, 0, 2), 200), r"rules has a tile \[\d+, 200\]; .* colours 0 to 11"),
    "a colour of a goal": (put("goals", (0, 2), 12), r"goals has a tile \[\d+, 12\]"),
}


@pytest.mark.parametrize("case", NPZ)
def test_a_strangers_arrays(case, tmp_path):
    found, line = NPZ[case]
    np.savez(tmp_path / "x.npz", **found)
    with pytest.raises(ValueError, match=rf"^benchmark = \S+x\.npz: {line}") as error:
        load_rulesets(tmp_path / "x.npz")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=rf"^path = \S+y\.npz: {line}"):
        save_rulesets(tmp_path / "y.npz", found)
    assert not (tmp_path / "y.npz").exists()


def test_positions_of_goals_are_no_tiles(tmp_path):
    found = put("goals", 0, (5, 3, 1, 60, 60))  # a ball on cell 60, 60
    assert load_rulesets(save_rulesets(tmp_path / "x.npz", found))["goals"][0, 3] == 60


def test_a_strangers_bytes(tmp_path):
    whole = save_rulesets(tmp_path / "whole.npz", arrays()).read_bytes()
    objects, archive = np.empty(9, object), io.BytesIO()
    objects[:] = Trap()
    np.savez(archive, **arrays(num_rules=objects))

    def zipped(**members):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            for name in ("goals", "rules", "init_tiles", "num_rules"):
                data = io.BytesIO()
                np.save(data, arrays()[name])
                file.writestr(f"{name}.npy", members.get(name, data.getvalue()))
        return out.getvalue()

    cases = {
        "text": b"goals, rules",
        "nothing": b"",
        "a pickle": pickle.dumps(Trap()),
        "a lone array": npy((9, 5), data=bytes(45)),
        "objects": archive.getvalue(),
        "no array": zipped(goals=b"hello"),
        "a huge header": zipped(goals=npy((2**40, 5))),
        "less than it says": zipped(goals=npy((9, 5), data=bytes(44))),
        "more than it says": zipped(goals=npy((9, 5), data=bytes(46))),
        **{f"cut at {n}": whole[:n] for n in range(10, len(whole), 97)},
        "flipped": bytes(b ^ (0x55 if 60 < i < 90 else 0) for i, b in enumerate(whole)),
    }
    for name, data in cases.items():
        path = tmp_path / "x.npz"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"^benchmark = \S+x\.npz: (is no whole|num_rules is object)") as error:
            load_rulesets(path)
        assert "\n" not in str(error.value), name
    path.write_bytes(zipped())
    assert len(load_rulesets(path)["goals"]) == 9


def test_too_many_are_refused_before_they_are_read(monkeypatch, tmp_path):
    path = save_rulesets(tmp_path / "x.npz", arrays())
    monkeypatch.setattr(xland_rulesets, "MOST", 9 * 4 * 7 - 1)
    monkeypatch.setattr(np, "load", lambda *args, **kw: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="rules has 252 numbers; must have at most 251$"):
        load_rulesets(path)


def test_only_npz(tmp_path):
    with pytest.raises(ValueError, match=r"^path = \S+x\.pkl: must end in \.npz$"):
        save_rulesets(tmp_path / "x.pkl", arrays())


def test_every_condition_of_two_is_met_when_its_other_reading_is():
    """On all boards of two tiles: a condition and the one that counts as the same hold together."""
    moves = {6: [(0, 1), (1, 0), (0, -1), (-1, 0)], 7: [(-1, 0)], 8: [(0, 1)], 9: [(1, 0)], 10: [(0, -1)]}

    def holds(how, tiles, at):
        return any(np.add(at[tiles[0]], move).tolist() == list(at[tiles[1]]) for move in moves[how])

    cells = list(itertools.product(range(3), repeat=2))
    boards = [dict(zip("ab", two, strict=True)) for two in itertools.permutations(cells, 2)]
    readings = list(itertools.product(moves, (("a", "b"), ("b", "a"))))
    for one, other in itertools.product(readings, repeat=2):
        same = all(holds(*one, at) == holds(*other, at) for at in boards)
        assert same == (xland_rulesets._unordered(one) == xland_rulesets._unordered(other))
