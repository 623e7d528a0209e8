"""The adapter on a stand-in with the package's interface; robots/test_xland_package.py has the package itself."""

import sys
import types
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from metarl_jax.envs import make, registered, xland_adapter
from metarl_jax.envs.observations import flattener
from metarl_jax.rl.rollout import rollout

KEY = jax.random.key(0)


@struct.dataclass
class RuleSet:
    goal: Any
    rules: Any
    init_tiles: Any


@struct.dataclass
class StaticParams:
    view_size: int = struct.field(pytree_node=False, default=3)
    max_steps: int = struct.field(pytree_node=False, default=8)


@struct.dataclass
class RuledParams(StaticParams):
    ruleset: Any = None


@struct.dataclass
class Agent:
    position: Any
    direction: Any


@struct.dataclass
class State:
    key: Any
    step_num: Any
    agent: Agent
    goal_encoding: Any


@struct.dataclass
class TimeStep:
    state: State
    step_type: Any
    reward: Any
    discount: Any
    observation: Any


class Corridor:
    """A drawn start in 0..2; action 0 goes on, the others turn; the goal is met in the cell that the ruleset names."""

    def num_actions(self, params):
        return 6

    def _observe(self, params, agent):
        view = jnp.zeros((params.view_size, params.view_size, 2), jnp.uint8)
        return view.at[0, 0].set(jnp.stack([agent.position, agent.direction]).astype(jnp.uint8))

    def reset(self, params, key):
        key, start_key = jax.random.split(key)
        agent = Agent(jax.random.randint(start_key, (), 0, 3), jnp.asarray(0))
        goal = params.ruleset.goal if isinstance(params, RuledParams) else jnp.asarray([5], jnp.uint8)
        state = State(key, jnp.asarray(0), agent, goal)
        step_type = jnp.asarray(0, jnp.uint8)
        return TimeStep(state, step_type, jnp.asarray(0.0), jnp.asarray(1.0), self._observe(params, agent))

    def step(self, params, timestep, action):
        old = timestep.state.agent
        agent = Agent(
            jnp.where(action == 0, old.position + 1, old.position),
            jnp.where(action == 0, old.direction, (old.direction + 1) % 4),
        )
        state = timestep.state.replace(agent=agent, step_num=timestep.state.step_num + 1)
        met = agent.position == state.goal_encoding[0]
        last = met | (state.step_num == params.max_steps)
        return TimeStep(
            state,
            jnp.where(last, 2, 1).astype(jnp.uint8),
            jnp.where(met, 1.0 - 0.9 * (state.step_num / params.max_steps), 0.0),
            jnp.where(met, 0.0, 1.0),
            self._observe(params, agent),
        )


@struct.dataclass
class Benchmark:
    goals: Any

    def num_rulesets(self):
        return len(self.goals)

    def get_ruleset(self, i):
        return RuleSet(self.goals[i], jnp.zeros((1, 7), jnp.uint8), jnp.zeros((2, 2), jnp.uint8))


@pytest.fixture
def package(monkeypatch):
    modules = {name: types.ModuleType(name) for name in ("xminigrid", "xminigrid.core", "xminigrid.core.constants")}
    benchmarks = modules["xminigrid.benchmarks"] = types.ModuleType("xminigrid.benchmarks")
    top, constants = modules["xminigrid"], modules["xminigrid.core.constants"]
    constants.NUM_TILES, constants.NUM_COLORS = 13, 12
    specs = {"XLand-MiniGrid-R1-9x9": RuledParams(), "MiniGrid-Empty-5x5": StaticParams()}
    top.registered_environments = lambda: tuple(specs)
    top.make = lambda id: (Corridor(), specs[id])
    benchmarks.registered_benchmarks = lambda: ("trivial-21k", "small-1m")
    benchmarks.load_benchmark = lambda name: Benchmark(jnp.arange(3, 13, dtype=jnp.uint8)[:, None])
    benchmarks.load_benchmark_from_path = lambda path: Benchmark(jnp.arange(3, 5, dtype=jnp.uint8)[:, None])
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    xland_adapter._environment.cache_clear()
    yield
    xland_adapter._environment.cache_clear()


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xminigrid", None)
    line = r"^XLand-MiniGrid needs the package xminigrid: pip install 'metarl_jax\[xland\]'$"
    for error in (ImportError, ValueError):  # a library's error, and one that the command line prints as a line
        with pytest.raises(error, match=line):
            make("XLand-MiniGrid:R1-9x9", benchmark="trivial-21k")
    assert "XLand-MiniGrid:<id>" in registered()


def test_rulesets_are_the_tasks(package):
    env, tasks = make("XLand-MiniGrid:R1-9x9", benchmark="trivial-21k")
    assert env is make("XLand-MiniGrid:XLand-MiniGrid-R1-9x9", benchmark="small-1m")[0]
    assert env.name == "XLand-MiniGrid-R1-9x9" and tasks.horizon == 8 and "10 rulesets" in tasks.description
    train, test = tasks.split(0)
    goals = [set(half.members.ruleset.goal[:, 0].tolist()) for half in (train, test)]
    assert len(goals[1]) == 2 and not goals[0] & goals[1] and goals[0] | goals[1] == set(range(3, 13))
    few = make("XLand-MiniGrid:R1-9x9", benchmark=Benchmark(jnp.arange(9)[:, None]), num_tasks=4)[1]
    np.testing.assert_array_equal(few.members.ruleset.goal[:, 0], range(4))


def test_a_file_that_is_unpickled_has_to_be_trusted(package, tmp_path):
    path = tmp_path / "rulesets"
    path.touch()
    with pytest.raises(
        ValueError, match="rulesets: would be unpickled, which can run any program; give trusted = True"
    ):
        make("XLand-MiniGrid:R1-9x9", benchmark=str(path))
    assert len(make("XLand-MiniGrid:R1-9x9", benchmark=str(path), trusted=True)[1].members.ruleset.goal) == 2


def test_episodes_end_as_in_the_package_and_keep_their_ruleset(package):
    env, tasks = make("XLand-MiniGrid:R1-9x9", benchmark="trivial-21k")
    params = jax.tree.map(lambda leaf: leaf[3], tasks.members)  # the goal is cell 6
    obs, state = env.reset(KEY, params)
    starts = []
    for t in range(40):  # straight on
        before = int(state.timestep.state.agent.position)
        starts += [before] if state.time == 0 else []
        obs, state, reward, terminated, truncated, _ = env.step(jax.random.key(t), state, 0, params)
        assert bool(terminated) == (before == 5) and not truncated
        assert float(reward) == pytest.approx(1 - 0.9 * (6 - starts[-1]) / 8 if terminated else 0)
    assert len(starts) > 5 and len(set(starts)) > 1  # starts differ, the goal does not
    state = env.reset(KEY, params)[1]
    for t in range(8):  # on the spot
        *_, state, reward, terminated, truncated, _ = env.step(KEY, state, 1, params)
        assert not terminated and bool(truncated) == (t == 7)


def test_observations(package):
    env, tasks = make("XLand-MiniGrid:R1-9x9", benchmark="trivial-21k")
    obs, state = env.reset(KEY, tasks.sample(KEY))
    obs, state, *_ = env.step(KEY, state, 1, tasks.sample(KEY))
    position = int(state.timestep.state.agent.position)
    assert obs.shape == env.observation_space().shape and env.num_actions == env.action_space().n == 6
    np.testing.assert_array_equal(obs, [position, 1, *[0] * 16, 1])
    size, features = flattener(env)
    tiles, direction = jnp.split(features(obs), [9 * 25])
    kinds, colors = jnp.split(tiles.reshape(9, 25), [13], axis=1)
    np.testing.assert_array_equal(kinds.argmax(1), [position] + [0] * 8)
    np.testing.assert_array_equal(colors.argmax(1), [1] + [0] * 8)
    np.testing.assert_array_equal(direction, [0, 1, 0, 0])
    assert size == 9 * 25 + 4


def test_it_rolls_out_with_the_library(package):
    env, tasks = make("XLand-MiniGrid:R1-9x9", benchmark="trivial-21k", horizon=5)

    def run(key):
        logits = jnp.asarray([3.0, 0, 0, 0, 0, 0])
        act = lambda params, obs: distrax.Categorical(logits=jnp.broadcast_to(logits, (*obs.shape[:1], 6)))  # noqa: E731
        return rollout(env, act, {}, key, tasks.sample(key), auto_reset=True, num_steps=20, num_envs=2)[0]

    streams = jax.jit(jax.vmap(run))(jax.random.split(KEY, 8))
    assert streams.terminated.sum() > 3 and streams.truncated.sum() > 3
    assert int(streams.episode_length.max()) == 5 and 0 < float(streams.reward.max()) <= 1


def test_environments_without_rulesets_are_one_task(package):
    env, tasks = make("XLand-MiniGrid:MiniGrid-Empty-5x5", horizon=6)
    assert tasks.horizon == 6 and not tasks.held_out and tasks.members.ruleset is None
    obs, _ = env.reset(KEY, tasks.sample(KEY))
    assert obs.shape == env.observation_space().shape
    with pytest.raises(ValueError, match="has no rulesets"):
        make("XLand-MiniGrid:MiniGrid-Empty-5x5", benchmark="trivial-21k")


@pytest.mark.parametrize(
    "name, overrides, line",
    [
        ("R1-9x8", {}, "no environment 'R1-9x8'; did you mean R1-9x9"),
        ("R1-9x9", {}, "give benchmark, one of drawn-trivial, drawn-small, trivial-21k"),
        ("R1-9x9", {"benchmark": "trivial-2"}, "'trivial-2' is no file and no name; did you mean trivial-21k"),
        (
            "R1-9x9",
            {"benchmark": "trivial-21k", "seed": 3},
            "seed = 3: is for benchmark = drawn-trivial or drawn-small",
        ),
        ("R1-9x9", {"benchmark": "drawn-small", "seed": -1}, "seed must be an integer of at least 0, got -1"),
        ("R1-9x9", {"benchmark": "small-1m", "num_tasks": 11}, "num_tasks must be at most 10.*got 11"),
        ("R1-9x9", {"benchmark": "small-1m", "observation": "rgb"}, "no option 'observation'"),
        ("R1-9x9", {"benchmark": "small-1m", "horizon": 0}, "horizon must be an integer of at least 1"),
        ("R1-9x9", {"rulesets": 3}, "no option 'rulesets'"),
    ],
)
def test_errors_name_the_fault(package, name, overrides, line):
    with pytest.raises(ValueError, match=line):
        make("XLand-MiniGrid:" + name, **overrides)
