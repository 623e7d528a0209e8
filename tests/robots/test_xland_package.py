"""XLand-MiniGrid itself: the adapter against the package, and drawn rulesets solved by a planner on its boards."""

from collections import Counter, deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.envs.trial import trials
from metarl_jax.envs.xland_rulesets import DISTRIBUTIONS, drawn, save_rulesets
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate

xminigrid = pytest.importorskip("xminigrid")
from xminigrid.core import goals, rules  # noqa: E402

NAMES = ("MiniGrid-EmptyRandom-5x5", "MiniGrid-DoorKey-6x6", "XLand-MiniGrid-R1-9x9", "XLand-MiniGrid-R4-13x13")
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
FORWARD, CLOCKWISE, COUNTERCLOCKWISE, PICK_UP, PUT_DOWN = range(5)
FLOOR, GOAL, DOOR_OPEN = 1, 6, 10


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_the_package_s(name):
    """Observations, rewards and ends over 400 random actions, with a drawn ruleset where there are rulesets."""
    options = {"benchmark": "drawn-small", "num_tasks": 20} if name.startswith("XLand") else {}
    env, tasks = mrl.make(f"XLand-MiniGrid:{name}", **options)
    theirs, static = xminigrid.make(name)
    task = tasks.sample(jax.random.key(5))
    if options:
        ruleset = jax.tree.map(lambda x: x.astype(jnp.uint8), task.ruleset)
        static = static.replace(ruleset=ruleset)
    step, own = jax.jit(theirs.step), jax.jit(env.step_env)
    key, episodes = jax.random.key(0), 0
    seen, state = env.reset_env(key, task)
    timestep = theirs.reset(static, jax.random.key_data(key))
    for action in np.random.default_rng(0).integers(0, env.num_actions, 400):
        view, direction = env.observation_space().split(seen)
        np.testing.assert_array_equal(view, timestep.observation)
        assert int(direction) == int(timestep.state.agent.direction)
        timestep = step(static, timestep, action)
        seen, state, reward, terminated, _ = own(key, state, action, task)
        np.testing.assert_allclose(reward, timestep.reward, rtol=1e-6)
        assert bool(terminated) == (float(timestep.discount) == 0)
        assert bool(terminated | env.is_truncated(state, task)) == bool(timestep.last())
        if timestep.last():
            key, episodes = jax.random.fold_in(key, 1), episodes + 1
            (seen, state), timestep = env.reset_env(key, task), theirs.reset(static, jax.random.key_data(key))
    assert episodes or name.endswith("13x13")


def test_what_a_trial_shows_is_in_the_space_of_the_environment():
    env, tasks = mrl.make("XLand-MiniGrid:R1-9x9", benchmark="drawn-small", num_tasks=50)
    trial = trials(env, tasks, 2, 5)

    def walk(key):
        task = tasks.sample(key)
        seen, state = trial.reset_env(key, task)

        def one(carry, key):
            seen, state = carry
            action = jax.random.randint(key, (), 0, env.num_actions)
            after, state, *_ = trial.step_env(key, state, action, task)
            return (after, state), after

        return jax.lax.scan(one, (seen, state), jax.random.split(key, 10))[1]

    seen = jax.jit(jax.vmap(walk))(jax.random.split(jax.random.key(0), 16))
    assert seen.shape == (16, 10, 51 + 1 + 2)
    assert bool(jax.vmap(jax.vmap(env.observation_space().contains))(seen[..., :51].astype(int)).all())
    assert not bool(env.observation_space().contains(seen[0, 0, :51].astype(int).at[0].set(13)))


def test_rl2_trains_on_drawn_rulesets_with_embeddings():
    run = {"algorithm": "rl2", "env": "XLand-MiniGrid:R1-9x9", "num_iterations": 2, "num_episodes": 2, "horizon": 8}
    options = {"benchmark": "drawn-small", "num_tasks": 64}
    sizes = {"meta_batch_size": 8, "num_minibatches": 2, "size": 8, "embedding_size": 4, "channels": [4]}
    job = build(validate({**run, "env_options": options, **sizes}))

    def two(key):
        state = job.algorithm.init(key)
        return state, *jax.lax.scan(job.algorithm.step, state, jax.random.split(key))

    before, after, metrics = jax.jit(two)(jax.random.key(0))
    assert all(bool(jnp.all(x)) for x in jax.tree.leaves(metrics["finite"]))
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before.params, after.params)
    assert moved["encoder"]["Embedding_0"] == {"table_0": True, "table_1": True}, "kinds and colours"


def test_drawn_rulesets_are_what_the_package_reads(tmp_path):
    """Decoded by the package's classes; a file of them is a benchmark again."""
    arrays = drawn("drawn-small", 100, 3)
    for goal in arrays["goals"][:20]:
        kind = {1: goals.AgentHoldGoal, 3: goals.AgentNearGoal, 4: goals.TileNearGoal}[int(goal[0])]
        np.testing.assert_array_equal(kind.decode(jnp.asarray(goal)).encode(), goal)
    for rule in arrays["rules"][:20].reshape(-1, 7):
        kinds = (rules.EmptyRule, rules.AgentHoldRule, rules.AgentNearRule, rules.TileNearRule)
        np.testing.assert_array_equal(kinds[rule[0]].decode(jnp.asarray(rule)).encode(), rule)
    path = save_rulesets(tmp_path / "mine.npz", arrays)
    env, tasks = mrl.make("XLand-MiniGrid:R1-9x9", benchmark=str(path))
    np.testing.assert_array_equal(tasks.members.ruleset.goal, arrays["goals"])
    again = mrl.make("XLand-MiniGrid:R1-9x9", benchmark="drawn-small", num_tasks=100, seed=3)[1]
    jax.tree.map(np.testing.assert_array_equal, tasks.members, again.members)


class Planner:
    """Solves a ruleset on a board by what its rules say, one object after another; the package's steps decide."""

    def __init__(self, env, step, task, key):
        self.task, self.step = task, step
        self.state, self.solved, self.steps = env.reset_env(key, task)[1], False, 0
        self.goal, self.rules = np.asarray(task.ruleset.goal), np.asarray(task.ruleset.rules)

    @property
    def grid(self):
        return np.asarray(self.state.timestep.state.grid)

    @property
    def pocket(self):
        return tuple(int(x) for x in self.state.timestep.state.agent.pocket)

    def places(self, tile):
        return [tuple(p) for p in np.argwhere(np.all(self.grid == tile, axis=-1))]

    def act(self, *actions):
        for action in actions:
            if self.solved:
                return
            _, self.state, _, ended, _ = self.step(self.state, action, self.task)
            self.solved, self.steps = bool(ended), self.steps + 1
            assert self.steps < 500

    def go(self, arrived):
        """Walk by the shortest way until arrived(position, direction, last action); False where there is none."""
        agent, grid = self.state.timestep.state.agent, self.grid
        start = (*map(int, agent.position), int(agent.direction))
        came, waiting = {start: None}, deque([start])
        while waiting:
            at = waiting.popleft()
            position, direction = np.array(at[:2]), at[2]
            ahead = position + MOVES[direction]
            free = grid[tuple(ahead)][0] in (FLOOR, GOAL, DOOR_OPEN)
            after = {
                FORWARD: (*(ahead if free else position), direction),
                CLOCKWISE: (*position, (direction + 1) % 4),
                COUNTERCLOCKWISE: (*position, (direction - 1) % 4),
            }
            for action, to in after.items():
                to = tuple(int(x) for x in to)
                if to in came and to != at:
                    continue
                if arrived(to[:2], to[2], action):
                    path = [action]
                    while came[at] is not None:
                        at, action = came[at]
                        path.append(action)
                    self.act(*reversed(path))
                    return True
                came.setdefault(to, (at, action))
                if came[to] == (at, action):
                    waiting.append(to)
        return False

    def face(self, cells):
        agent = self.state.timestep.state.agent
        ahead = tuple(np.asarray(agent.position) + MOVES[int(agent.direction)])
        return ahead in cells or self.go(lambda p, d, _: tuple(p + MOVES[d]) in cells)

    def free(self, beside=None):
        """Floor cells, those with the fewest things around first; next to a tile, where one is given."""
        grid, agent = self.grid, tuple(np.asarray(self.state.timestep.state.agent.position))
        around = lambda p: [tuple(np.array(p) + m) for m in MOVES]  # noqa: E731
        cells = [p for p in zip(*np.nonzero(grid[..., 0] == FLOOR), strict=True) if p != agent]
        if beside is not None:
            cells = [p for p in cells if any(tuple(grid[q]) == beside for q in around(p))]
        return sorted(cells, key=lambda p: sum(grid[q][0] > 2 for q in around(p)))

    def put(self, beside=None):
        for cell in self.free(beside):
            if self.face({cell}):
                return self.act(PUT_DOWN)
        raise AssertionError("nowhere to put it")

    def hold(self, tile):
        if self.pocket != tile:
            if self.pocket[0]:
                self.put()
            assert self.face(set(self.places(tile))), "cannot be reached"
            self.act(PICK_UP)

    def meet(self, how, taken):
        """Make a condition true: to hold a tile (1), to be beside one (2), to have two beside each other (3)."""
        need = Counter(taken)
        for tile, count in need.items():
            while not self.solved and len(self.places(tile)) + (self.pocket == tile) < count:
                rule = next(r for r in self.rules if r[0] and tuple(r[-2:] if r[0] == 3 else r[3:5]) == tile)
                self.meet(int(rule[0]), tiles_of(rule[1 : 5 if rule[0] == 3 else 3]))
        if self.solved:
            return
        if how == 1:
            self.hold(taken[0])
        elif how == 2:
            if self.pocket == taken[0]:
                self.put()
            near = {tuple(np.array(p) + m) for p in self.places(taken[0]) for m in MOVES}
            assert self.go(lambda p, d, action: action == FORWARD and p in near), "cannot be reached"
        else:
            if self.pocket[0] and self.pocket != taken[1]:
                self.put()
            self.hold(taken[1])
            self.put(beside=taken[0])

    def solve(self):
        how = {1: 1, 3: 2, 4: 3}[int(self.goal[0])]
        self.meet(how, tiles_of(self.goal[1 : 5 if how == 3 else 3]))
        return self.solved


def tiles_of(numbers):
    return [tuple(int(x) for x in pair) for pair in np.asarray(numbers).reshape(-1, 2)]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_planner_solves_every_drawn_ruleset(name):
    env, tasks = mrl.make("XLand-MiniGrid:R1-9x9", benchmark=name, num_tasks=60, seed=1)
    step = jax.jit(lambda state, action, task: env.step_env(jax.random.key(0), state, action, task))
    unsolved = []
    for i in range(60):
        task = jax.tree.map(lambda x, i=i: x[i], tasks.members)
        for attempt in range(4):  # objects may lie so that the plain plan fails: another board
            try:
                if Planner(env, step, task, jax.random.key(attempt)).solve():
                    break
            except (AssertionError, StopIteration):
                continue
        else:
            unsolved.append(i)
    assert not unsolved
