"""The adapter beside the package itself: the same keys and actions give the same episodes."""

import pickle

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("xminigrid", reason="needs metarl_jax[xland]; make test-robots has it")

import xminigrid  # noqa: E402
from xminigrid import benchmarks  # noqa: E402
from xminigrid.core import constants, goals, rules  # noqa: E402

from metarl_jax.envs import make, registered, xland_rulesets  # noqa: E402
from metarl_jax.envs.observations import flattener  # noqa: E402
from metarl_jax.envs.trial import trials  # noqa: E402
from metarl_jax.rl.rollout import rollout  # noqa: E402
from metarl_jax.runs.build import build  # noqa: E402
from metarl_jax.runs.config import validate  # noqa: E402

KEY = jax.random.key(0)
DRAWN = {"benchmark": "drawn-small", "num_tasks": 96}
STEPS, EPISODES = 60, 96


def actions(key, shape):
    """Forward in half of the steps."""
    return jax.random.choice(key, 6, shape, p=jnp.asarray([0.5, 0.1, 0.1, 0.15, 0.1, 0.05]))


@pytest.mark.parametrize(
    "env_id, options",
    [
        ("MiniGrid-EmptyRandom-5x5", {}),
        ("MiniGrid-DoorKey-5x5", {}),
        ("R1-9x9", DRAWN),
        ("R4-13x13", {**DRAWN, "horizon": 40}),
    ],
)
def test_episodes_are_those_of_the_package(env_id, options):
    env, tasks = make("XLand-MiniGrid:" + env_id, **options)
    theirs, static = xminigrid.make(env.name)
    static = static.replace(max_steps=options.get("horizon", static.max_steps))
    keys = jax.random.split(KEY, EPISODES)
    which = jnp.arange(EPISODES) % len(tasks.members.max_steps_in_episode)
    chosen = jax.tree.map(lambda leaf: leaf[which], tasks.members)
    done = actions(jax.random.key(1), (EPISODES, STEPS))

    def ours(key, task, done):
        def one(state, action):
            obs, state, reward, terminated, info = env.step_env(key, state, action, task)
            return state, (obs, reward, terminated, env.is_truncated(state, task))

        obs, state = env.reset_env(key, task)
        return obs, jax.lax.scan(one, state, done)[1]

    def reference(key, ruleset, done):
        params = static if ruleset is None else static.replace(ruleset=ruleset)

        def one(now, action):
            now = theirs.step(params, now, action)
            late = (now.step_type == 2) & (now.discount > 0)
            return now, (now.observation, now.state.agent.direction, now.reward, now.discount == 0, late)

        now = theirs.reset(params, key)
        return (now.observation, now.state.agent.direction), jax.lax.scan(one, now, done)[1]

    first, (seen, reward, terminated, truncated) = jax.jit(jax.vmap(ours))(keys, chosen, done)
    start, after = jax.jit(jax.vmap(reference))(keys, chosen.ruleset, done)

    def vector(view, direction):
        view = np.asarray(view)
        return np.concatenate([view.reshape(*view.shape[:-3], -1), np.asarray(direction)[..., None]], -1)

    np.testing.assert_array_equal(first, vector(*start))
    np.testing.assert_array_equal(seen, vector(*after[:2]))
    np.testing.assert_array_equal(reward, after[2])
    np.testing.assert_array_equal(terminated, after[3])
    ends = np.arange(1, STEPS + 1) >= int(tasks.horizon)  # theirs at the one step, ours from there on
    np.testing.assert_array_equal(truncated, np.broadcast_to(ends, truncated.shape))
    at = np.arange(1, STEPS + 1) == int(tasks.horizon)
    np.testing.assert_array_equal(after[4], at & ~np.asarray(terminated))
    assert terminated.any() or "DoorKey" in env_id
    assert len(np.unique(np.asarray(first), axis=0)) > 3


def test_observations_are_read_as_one_hots():
    env, tasks = make("XLand-MiniGrid:R1-9x9", **DRAWN)
    space = env.observation_space()
    obs, state = env.reset(KEY, tasks.sample(KEY))
    view, direction = space.split(obs)
    np.testing.assert_array_equal(view, state.timestep.observation)
    assert direction == state.timestep.state.agent.direction
    assert space.contains(obs) and obs.shape == space.shape == (51,) and obs.dtype == space.dtype == jnp.int32
    size, features = flattener(env)
    expected = [np.eye(n)[x] for cell in np.asarray(view).reshape(-1, 2) for n, x in zip((13, 12), cell, strict=True)]
    np.testing.assert_array_equal(features(obs), np.concatenate([*expected, np.eye(4)[int(direction)]]))
    assert size == 25 * 25 + 4
    view = space.parts[0]
    assert (view.nvec == [constants.NUM_TILES, constants.NUM_COLORS]).all() and env.num_actions == 6


def test_double_precision(x64):
    env, tasks = make("XLand-MiniGrid:R1-9x9", **DRAWN)
    task = tasks.sample(KEY)
    first = jax.eval_shape(env.reset_env, KEY, task)
    after = jax.eval_shape(env.step_env, KEY, first[1], 0, task)
    assert jax.tree.map(lambda x: x.dtype, first) == jax.tree.map(lambda x: x.dtype, after[:2])
    assert after[2].dtype == jnp.float64


def test_trials_of_two_episodes():
    grid, tasks = make("XLand-MiniGrid:R1-9x9", **DRAWN, horizon=5)
    env = trials(grid, tasks, 2)
    task = tasks.sample(KEY)

    def one(state, key):
        obs, state, reward, terminated, info = env.step_env(key, state, actions(key, ()), task)
        return state, (obs, state.env_state.timestep, terminated, info["episode_over"])

    def run(key):
        return jax.lax.scan(one, env.reset_env(key, task)[1], jax.random.split(key, 10))[1]

    seen, now, terminated, over = jax.jit(jax.vmap(run))(jax.random.split(KEY, 16))
    np.testing.assert_array_equal(seen[..., :50].reshape(now.observation.shape), now.observation)
    np.testing.assert_array_equal(seen[..., 50], now.state.agent.direction)
    assert seen.shape == (16, 10, 51 + 1 + 2)
    ends = np.cumsum(over, axis=1)
    np.testing.assert_array_equal(terminated, ends >= 2)
    assert 9 in np.argmax(ends == 2, 1)  # all ten steps where no goal was met
    goal = jnp.broadcast_to(task.ruleset.goal, now.state.goal_encoding.shape)
    np.testing.assert_array_equal(now.state.goal_encoding, goal)


def test_rl2_trains_with_embeddings_and_convolutions():
    run = {"algorithm": "rl2", "env": "XLand-MiniGrid:R1-9x9", "num_iterations": 2, "num_episodes": 2, "horizon": 8}
    sizes = {"meta_batch_size": 8, "num_minibatches": 2, "size": 8, "embedding_size": 4, "channels": [4]}
    job = build(validate({**run, "env_options": DRAWN, **sizes}))

    def two(key):
        state = job.algorithm.init(key)
        return state, *jax.lax.scan(job.algorithm.step, state, jax.random.split(key))

    before, after, metrics = jax.jit(two)(KEY)
    assert all(bool(jnp.all(x)) for x in jax.tree.leaves(metrics["finite"]))
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before.params, after.params)
    assert all(jax.tree.leaves(moved["encoder"])) and len(jax.tree.leaves(moved["encoder"])) > 4


def test_rollouts_reset_episodes():
    drawn = xland_rulesets.draw_rulesets("drawn-trivial", 200, 0)
    near = {key: x[drawn["goals"][:, 0] == 3] for key, x in drawn.items()}  # to be beside an object
    env, tasks = make("XLand-MiniGrid:R1-9x9", benchmark=_benchmark(near), horizon=5)

    def run(key):
        logits = jnp.asarray([2.0, 1, 1, 0, 0, 0])
        act = lambda params, obs: distrax.Categorical(logits=jnp.broadcast_to(logits, (*obs.shape[:1], 6)))  # noqa: E731
        return rollout(env, act, {}, key, tasks.sample(key), auto_reset=True, num_steps=20, num_envs=4)[0]

    streams = jax.jit(jax.vmap(run))(jax.random.split(KEY, 8))
    assert streams.terminated.sum() > 3 and streams.truncated.sum() > 3
    assert int(streams.episode_length.max()) == 5 and 0 < float(streams.reward.max()) <= 1


def test_environments_without_rulesets_are_one_task():
    env, tasks = make("XLand-MiniGrid:MiniGrid-EmptyRandom-5x5", horizon=6)
    assert tasks.horizon == 6 and not tasks.held_out and tasks.members.ruleset is None
    assert len(tasks.members.max_steps_in_episode) == 1 and "a single task" in tasks.description


# Rulesets ---------------------------------------------------------------------------------------------------


def test_rulesets_are_the_tasks():
    env, tasks = make("XLand-MiniGrid:R1-9x9", **DRAWN, seed=2)
    assert env is make("XLand-MiniGrid:XLand-MiniGrid-R1-9x9", benchmark="drawn-trivial", num_tasks=9)[0]
    assert tasks.horizon == 243 and "96 rulesets" in tasks.description and "XLand-MiniGrid:<id>" in registered()
    drawn = xland_rulesets.draw_rulesets("drawn-small", 96, 2)
    np.testing.assert_array_equal(tasks.members.ruleset.rules, drawn["rules"])
    assert tasks.held_out and len(tasks.split(0)[1].members.max_steps_in_episode) == 19
    few = make("XLand-MiniGrid:R1-9x9", benchmark=_benchmark(drawn), num_tasks=4)[1]
    np.testing.assert_array_equal(few.members.ruleset.goal, drawn["goals"][:4])


def _benchmark(arrays):
    return benchmarks.Benchmark(**jax.tree.map(jnp.asarray, arrays))


def test_conditions_have_the_numbers_of_the_package():
    sides = ("Up", "Right", "Down", "Left")
    names = ["AgentHold", "AgentNear", *(f"AgentNear{side}" for side in sides)]
    names += ["TileNear", *(f"TileNear{side}" for side in sides)]
    a, b, product = (3, 1), (4, 2), (5, 3)
    for how, name in enumerate(names):
        tiles = (a, b) if how >= xland_rulesets.PUT else (a,)
        kinds = ("tile_a", "tile_b") if len(tiles) == 2 else ("tile",)
        of = {kind: jnp.asarray(tile) for kind, tile in zip(kinds, tiles, strict=True)}
        goal = getattr(goals, f"{name}Goal")(**of).encode()
        rule = getattr(rules, f"{name}Rule")(**of, prod_tile=jnp.asarray(product)).encode()
        condition = how, tiles
        np.testing.assert_array_equal(xland_rulesets._encoded(xland_rulesets.GOAL_CODES, condition, (), 5), goal)
        np.testing.assert_array_equal(xland_rulesets._encoded(xland_rulesets.RULE_CODES, condition, product, 7), rule)
    assert len(names) == len(xland_rulesets.GOAL_CODES)


def test_tiles_have_the_numbers_of_the_package():
    kinds, colours = constants.Tiles(), constants.Colors()
    assert {kind for kind, _ in xland_rulesets.HELD} == set(constants.PICKABLE.tolist())
    assert {kind for kind, _ in xland_rulesets.SEEN} == {*constants.PICKABLE.tolist(), kinds.GOAL}
    assert {*range(12)} - set(xland_rulesets.COLOURS) == {colours.EMPTY, colours.BLACK}
    assert (kinds.FLOOR, colours.BLACK) == xland_rulesets.FLOOR
    assert (goals.NUM_GOALS, rules.NUM_RULES) == (xland_rulesets.NUM_GOALS, xland_rulesets.NUM_RULES)
    assert (constants.NUM_TILES, constants.NUM_COLORS) == (xland_rulesets.NUM_KINDS, xland_rulesets.NUM_COLOURS)


def test_files_of_rulesets(tmp_path):
    drawn = xland_rulesets.draw_rulesets("drawn-small", 12, 0)
    path = xland_rulesets.save_rulesets(tmp_path / "mine.npz", _benchmark(drawn))
    for given in (path, str(path)):
        found = make("XLand-MiniGrid:R1-9x9", benchmark=given, num_tasks=10)[1].members.ruleset
        np.testing.assert_array_equal(found.init_tiles, drawn["init_tiles"][:10])
    benchmarks.save_bz2_pickle(drawn, str(tmp_path / "theirs"))
    found = make("XLand-MiniGrid:R1-9x9", benchmark=str(tmp_path / "theirs"), trusted=True)[1].members.ruleset
    np.testing.assert_array_equal(found.rules, drawn["rules"])


class Trap:
    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


def test_nothing_is_unpickled_that_is_not_trusted(tmp_path):
    path = tmp_path / "theirs"
    for data in (pickle.dumps(Trap()), b""):
        path.write_bytes(data)
        line = rf"^benchmark = {path}: would be unpickled, which can run any program; give trusted=True if"
        with pytest.raises(ValueError, match=line):
            make("XLand-MiniGrid:R1-9x9", benchmark=str(path))
    path = path.rename(tmp_path / "theirs.npz")
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"theirs\.npz: is no whole \.npz file of rulesets \(BadZipFile\)$"):
        make("XLand-MiniGrid:R1-9x9", benchmark=str(path), trusted=True)


@pytest.mark.parametrize(
    "name, overrides, line",
    [
        ("R1-9x8", {}, "no environment 'R1-9x8'; did you mean R1-9x9"),
        ("R1-9x9", {}, "give benchmark, one of drawn-trivial, drawn-small, trivial-21k"),
        ("R1-9x9", {"benchmark": "trivial"}, "'trivial' is no file and no name; did you mean trivial-21k"),
        ("R1-9x9", {"benchmark": 3}, "benchmark must be one of drawn-trivial.*got 3"),
        ("R1-9x9", {**DRAWN, "num_tasks": 0}, "num_tasks must be an integer of at least 1, got 0"),
        ("R1-9x9", {**DRAWN, "seed": -1}, "seed must be an integer of at least 0, got -1"),
        ("R1-9x9", {**DRAWN, "horizon": 0}, "horizon must be an integer of at least 1"),
        ("R1-9x9", {"benchmark": "small-1m", "seed": 1}, "seed = 1: is for rulesets that are drawn, drawn-trivial and"),
        ("R1-9x9", {"rulesets": 3}, "no option 'rulesets'"),
        ("MiniGrid-Empty-5x5", {"benchmark": "drawn-small"}, "benchmark: MiniGrid-Empty-5x5 has no rulesets"),
        ("MiniGrid-Empty-5x5", {"seed": 0}, "seed: MiniGrid-Empty-5x5 has no rulesets"),
    ],
)
def test_errors_name_the_fault(name, overrides, line):
    with pytest.raises(ValueError, match=line):
        make("XLand-MiniGrid:" + name, **overrides)


def test_a_benchmark_that_is_too_small_or_whose_objects_have_no_room():
    drawn = xland_rulesets.draw_rulesets("drawn-trivial", 3, 0)
    with pytest.raises(ValueError, match="num_tasks must be at most 3.*got 4"):
        make("XLand-MiniGrid:R1-9x9", benchmark=_benchmark(drawn), num_tasks=4)
    crowded = _benchmark({**drawn, "init_tiles": np.full((3, 49, 2), 3, np.uint8)})
    with pytest.raises(ValueError, match="benchmark: has 49 objects a task, XLand-MiniGrid-R1-9x9 has room for 48"):
        make("XLand-MiniGrid:R1-9x9", benchmark=crowded)
