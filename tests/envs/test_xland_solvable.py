"""Every ruleset that is drawn can be solved: a player plans from its numbers and plays the plan in the package."""

import collections

import jax
import numpy as np
import pytest

pytest.importorskip("xminigrid", reason="needs metarl_jax[xland]; make test-robots has it")

from metarl_jax.envs import make  # noqa: E402
from metarl_jax.envs.xland_rulesets import DISTRIBUTIONS  # noqa: E402

FORWARD, RIGHT, PICK_UP, PUT_DOWN = 0, 1, 3, 4
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
FLOOR, WALL, GOAL = 1, 2, 6
# Codes of the package -> (what has to be done, direction or None).
HOLD, BESIDE, PUT = "hold", "beside", "put"
GOALS = {1: (HOLD, None), 3: (BESIDE, None), 4: (PUT, None)}
GOALS |= {7 + i: (PUT, i) for i in range(4)} | {11 + i: (BESIDE, i) for i in range(4)}
RULES = {1: (HOLD, None), 2: (BESIDE, None), 3: (PUT, None)}
RULES |= {4 + i: (PUT, i) for i in range(4)} | {8 + i: (BESIDE, i) for i in range(4)}


class Stuck(Exception):
    """The player finds no way from this start."""


class Solved(Exception):
    """The goal is met."""


class Player:
    """Plays one episode; what it knows of the world are the ruleset, the grid, the agent and its pocket."""

    def __init__(self, reset, step, task, key):
        self.step, self.task, self.key = step, task, key
        self.look(reset(key, task)[1])
        ruleset = jax.tree.map(np.asarray, task.ruleset)
        self.goal = self.condition(GOALS, ruleset.goal)
        self.rules = []  # (condition, product)
        for rule in ruleset.rules[ruleset.rules[:, 0] > 0]:
            condition = self.condition(RULES, rule)
            end = 1 + 2 * len(condition[2])
            self.rules.append((condition, tuple(map(int, rule[end : end + 2]))))

    @staticmethod
    def condition(codes, numbers):
        what, direction = codes[int(numbers[0])]
        tiles = [tuple(map(int, numbers[i : i + 2])) for i in ((1, 3) if what == PUT else (1,))]
        return what, direction, tiles

    def solve(self):
        what, direction, tiles = self.goal
        for tile in tiles:
            self.obtain(tile, tiles.count(tile))
        self.meet(what, direction, tiles)
        raise Stuck("the condition of the goal was met, the goal was not")

    def obtain(self, tile, count):
        """Have `count` of a tile on the board or in the pocket, by rules where there are fewer."""
        while self.count(tile) < count:
            for (what, direction, tiles), product in self.rules:
                if product == tile and all(self.count(each) >= tiles.count(each) for each in tiles):
                    self.meet(what, direction, tiles)
                    break
            else:
                raise Stuck(f"no rule makes {tile}")

    def meet(self, what, direction, tiles):
        if what == HOLD:
            self.take(tiles[0])
        elif what == PUT:
            self.put_beside(direction, *tiles)
        elif direction is None:
            self.go_beside(tiles[0])
        else:  # where it lies now the agent may not get to that side of it
            self.take(tiles[0])
            self.put_down(self.open_cells(), direction)

    def put_beside(self, direction, a, b):
        """`b` on the side `direction` of `a`."""
        if self.pocket == a or (a[0] != GOAL and not self.sides(self.where(a), direction)):
            self.take(a)
            self.put_down(self.open_cells())
        self.take(b)
        self.put_down(self.sides(self.where(a), direction))

    def go_beside(self, tile):
        cells = self.where(tile) or self.lay_down(tile)
        if tile[0] == GOAL:  # onto it and off again
            self.walk(cells)
            self.walk([cell for move in MOVES for cell in [self.next(self.position, move)] if self.walkable(cell)])
            return
        self.walk_beside(cells[0])
        self.act(FORWARD)  # into it

    def lay_down(self, tile):
        self.put_down(self.open_cells())
        return self.where(tile)

    def take(self, tile):
        if self.pocket == tile:
            return
        if self.pocket[0] != 0:
            self.put_down(self.open_cells())
        cells = [cell for cell in self.where(tile) if self.reachable(self.around(cell))]
        if not cells:
            raise Stuck(f"no way to {tile}")
        self.walk_beside(cells[0])
        self.act(PICK_UP)

    def put_down(self, cells, direction=None):
        """Put what is in the pocket on one of the cells, looking in the direction."""
        for cell in cells:
            stands = [s for s in self.around(cell) if direction is None or self.next(s, MOVES[direction]) == cell]
            stands = [s for s in stands if self.reachable([s])]
            if stands:
                self.walk(stands[:1])
                self.face(cell)
                self.act(PUT_DOWN)
                return
        raise Stuck("no place to put it")

    # What is there -----------------------------------------------------------------------------------------

    def look(self, state):
        self.state, seen = state, jax.device_get(state.timestep.state)
        self.grid, self.direction = seen.grid, int(seen.agent.direction)
        self.position, self.pocket = (tuple(map(int, x)) for x in (seen.agent.position, seen.agent.pocket))

    def where(self, tile):
        return [tuple(map(int, cell)) for cell in np.argwhere((self.grid == tile).all(-1))]

    def count(self, tile):
        return len(self.where(tile)) + (self.pocket == tile)

    @staticmethod
    def next(cell, move):
        return cell[0] + move[0], cell[1] + move[1]

    def around(self, cell):
        return [other for move in MOVES for other in [self.next(cell, move)] if self.walkable(other)]

    def walkable(self, cell):
        return self.grid[cell][0] in (FLOOR, GOAL)

    def alone(self, cell, but=()):
        """Whether nothing lies around a free cell, other than on `but`."""
        near = [other for move in MOVES for other in [self.next(cell, move)] if other not in but]
        return self.grid[cell][0] == FLOOR and all(self.grid[other][0] in (FLOOR, WALL) for other in near)

    def open_cells(self):
        inside = [(y, x) for y in range(2, len(self.grid) - 2) for x in range(2, len(self.grid) - 2)]
        return [cell for cell in inside if self.alone(cell) and cell != self.position]

    def sides(self, cells, direction):
        """Free cells on that side of one of `cells`, with nothing else around."""
        moves = MOVES if direction is None else (MOVES[direction],)
        found = [(self.next(cell, move), cell) for cell in cells for move in moves]
        return [side for side, cell in found if self.alone(side, but=(cell,)) and self.around(side)]

    # Ways --------------------------------------------------------------------------------------------------

    def act(self, action):
        _, state, reward, terminated, _ = self.step(self.key, self.state, action, self.task)
        self.look(state)
        if terminated:
            assert reward > 0
            raise Solved

    def way(self, cells):
        """The shortest way to one of `cells`, over floor and goal tiles; None: there is none."""
        came, queue = {self.position: None}, collections.deque([self.position])
        while queue:
            cell = queue.popleft()
            if cell in cells:
                way = [cell]
                while came[way[-1]] is not None:
                    way.append(came[way[-1]])
                return way[::-1]
            for other in self.around(cell):
                if other not in came:
                    came[other] = cell
                    queue.append(other)
        return None

    def reachable(self, cells):
        return self.way(cells) is not None

    def walk(self, cells):
        way = self.way(cells)
        if way is None:
            raise Stuck("no way")
        for cell in way[1:]:
            self.face(cell)
            self.act(FORWARD)

    def walk_beside(self, cell):
        self.walk(self.around(cell))
        self.face(cell)

    def face(self, cell):
        while self.next(self.position, MOVES[self.direction]) != cell:
            self.act(RIGHT)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_each_ruleset_is_solved_in_the_package(name):
    env, tasks = make("XLand-MiniGrid:R1-9x9", benchmark=name, num_tasks=60, seed=1)
    reset, step = jax.jit(env.reset_env), jax.jit(env.step_env)
    tries = []
    for i in range(60):
        task = jax.tree.map(lambda leaf: leaf[i], tasks.members)  # noqa: B023
        for start in range(10):
            try:
                Player(reset, step, task, jax.random.key(start)).solve()
            except Solved:
                tries.append(start + 1)
                break
            except Stuck:
                continue
        else:
            raise AssertionError(f"no plan for ruleset {i}: {task.ruleset}")
    assert np.mean(np.asarray(tries) == 1) > 0.8  # most from the first start that is tried
