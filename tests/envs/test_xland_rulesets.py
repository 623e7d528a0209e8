"""Rulesets drawn for XLand-MiniGrid: what is in them, and files of them. The package is not needed."""

import io
import re
import zipfile

import numpy as np
import pytest

from metarl_jax.envs.xland_rulesets import DISTRIBUTIONS, FLOOR, GOAL, PICKABLE, drawn, load_rulesets, save_rulesets

SMALL = drawn("drawn-small", 3000, 0)


def tiles(numbers):
    return [tuple(pair) for pair in np.asarray(numbers, int).reshape(-1, 2).tolist()]


def read(arrays, i):
    """(goal tiles, [(kind, what it takes, product)], initial tiles) of ruleset i, without padding."""
    goal = arrays["goals"][i]
    rules = [
        (int(r[0]), tiles(r[1:5] if r[0] == 3 else r[1:3]), tiles(r[5:7] if r[0] == 3 else r[3:5])[0])
        for r in arrays["rules"][i]
        if r[0]
    ]
    lying = [tile for tile in tiles(arrays["init_tiles"][i]) if tile != (0, 0)]
    return (int(goal[0]), tiles(goal[1:5] if goal[0] == 4 else goal[1:3])), rules, lying


def chain_of(goal, rules, lying):
    """(rules that the goal needs, objects that it needs): backwards from the goal's own."""
    used, needed, open_tiles = [], [], list(goal[1])
    lying = list(lying)
    while open_tiles:
        tile = open_tiles.pop()
        needed.append(tile)
        maker = next((r for r in rules if r[2] == tile and r not in used), None)
        if maker is None:
            lying.remove(tile)  # ValueError: nothing makes it and it is not there
        else:
            used.append(maker)
            open_tiles += maker[1]
    return used, needed


def test_everything_a_goal_needs_is_there_or_can_be_made():
    for i in range(3000):
        goal, rules, lying = read(SMALL, i)
        chain, needed = chain_of(goal, rules, lying)
        for kind, taken, product in rules:
            if (kind, taken, product) in chain:
                continue
            assert any(tile not in needed for tile in taken), "a rule that leads nowhere can be avoided"
            assert product not in needed
        movable = goal[1][-1] if goal[0] == 4 else goal[1][0]
        assert goal[0] == 3 or movable in PICKABLE
        assert all(rule[1][-1] in PICKABLE for rule in rules if rule[0] in (1, 3))
        assert all(rule[2][0] in (3, 4, 5, 7, FLOOR, GOAL) for rule in rules)


def test_the_distribution_is_the_one_that_is_said():
    rulesets = [read(SMALL, i) for i in range(3000)]
    kinds = np.bincount([goal[0] for goal, *_ in rulesets], minlength=5)[[1, 3, 4]] / 3000
    np.testing.assert_allclose(kinds, 1 / 3, atol=0.04)
    counts = [(len(chain_of(*x)[0]), len(x[1]), len(x[0][1])) for x in rulesets]
    pruned = 1 - sum(c[0] for c in counts) / sum(c[2] for c in counts)
    assert abs(pruned - 0.3) < 0.03
    beside = np.bincount([c[1] - c[0] for c in counts], minlength=3) / 3000
    np.testing.assert_allclose(beside, 1 / 3, atol=0.04)
    trivial = drawn("drawn-trivial", 500, 0)
    assert not trivial["rules"].any() and not trivial["num_rules"].any()
    sizes = [len(lying) - len(goal[1]) for goal, _, lying in (read(trivial, i) for i in range(500))]
    assert set(sizes) == {3}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_no_task_is_there_twice_and_a_seed_is_a_seed(name):
    arrays = drawn(name, 2000, 7)
    sets = {
        (
            goal[0],
            frozenset(goal[1]),
            tuple(sorted((k, tuple(sorted(t)), p) for k, t, p in rules)),
            tuple(sorted(lying)),
        )
        for goal, rules, lying in (read(arrays, i) for i in range(2000))
    }
    assert len(sets) == 2000
    again, fewer, other = drawn(name, 2000, 7), drawn(name, 100, 7), drawn(name, 100, 8)
    for field, x in arrays.items():
        np.testing.assert_array_equal(again[field], x)
        np.testing.assert_array_equal(fewer[field], x[:100])
    assert not np.array_equal(fewer["goals"], other["goals"])


def test_a_file_is_read_as_it_was_written(tmp_path):
    path = save_rulesets(tmp_path / "mine.npz", SMALL)
    for field, x in load_rulesets(path).items():
        np.testing.assert_array_equal(x, SMALL[field])
    with pytest.raises(ValueError, match="must end in .npz"):
        save_rulesets(tmp_path / "mine.pkl", SMALL)


def changed(**arrays):
    return {**{name: x[:4] for name, x in SMALL.items()}, **arrays}


GOALS, RULES, TILES = (SMALL[name][:4] for name in ("goals", "rules", "init_tiles"))
STRANGE = {
    "has no num_rules; a file of rulesets has goals, rules": {k: v for k, v in changed().items() if k != "num_rules"},
    "holds Python objects or is damaged": changed(goals=np.array([{"run": "me"}] * 4, object)),
    "goals is float64 [4, 5]; must be uint8 [4, 5]": changed(goals=GOALS.astype(float)),
    "rules is uint8 [3, 4, 7]; must be uint8 [4, any, 7]": changed(rules=RULES[:3]),
    "init_tiles is uint8 [4, 0, 2]; must be uint8 [4, any, 2]": changed(init_tiles=TILES[:, :0]),
    "has 0 rulesets; must have 1 to": {name: x[:0] for name, x in SMALL.items()},
    "has a goal of kind 99; must be below 15": changed(goals=np.full_like(GOALS, 99)),
    "has a rule of kind 12; must be below 12": changed(rules=np.full_like(RULES, 12)),
    "has a tile of kind or colour out of range; kinds are below 13": changed(init_tiles=np.full_like(TILES, 12)),
}


@pytest.mark.parametrize("line", STRANGE)
def test_a_stranger_s_file_is_one_line(tmp_path, line):
    path = tmp_path / "theirs.npz"
    np.savez(path, **STRANGE[line])
    with pytest.raises(ValueError, match=rf"^benchmark = .*theirs\.npz: {re.escape(line)}"):
        load_rulesets(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_one_line(tmp_path, content):
    path = tmp_path / "theirs.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^benchmark = .*theirs\.npz: .*"):
        load_rulesets(path)
    whole = io.BytesIO()
    np.savez(whole, **SMALL)
    path.write_bytes(whole.getvalue()[:-200])
    with pytest.raises(ValueError, match=r"^benchmark = .*: cannot be read as a .npz file of rulesets"):
        load_rulesets(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("goals.npy", b"\x93NUMPY nothing")
    with pytest.raises(ValueError, match=r"^benchmark = .*theirs\.npz: "):
        load_rulesets(path)
