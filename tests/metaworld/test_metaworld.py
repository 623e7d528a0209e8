"""Meta-World's environments as users meet them: names, tasks, resets, rollouts, errors."""

import importlib.util
import sys

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("metaworld.sawyer_xyz_env")  # this folder has the package's name

from metarl_jax.envs.metaworld import ML10_TEST, ML10_TRAIN, TASKS, meta_world, ml1, ml10
from metarl_jax.rl.rollout import rollout

KEY = jax.random.key(0)


def act(params, observation):
    return distrax.MultivariateNormalDiag(params + 0 * observation[..., :4], jnp.ones(4))


def steps(env, task, actions):
    """Observations, rewards, terminated, info of the actions [T, 4] from a reset; and the last state."""

    def step(state, action):
        obs, state, reward, done, info = env.step_env(KEY, state, action, task)
        return state, (obs, reward, done, info)

    first, state = env.reset_env(KEY, task)
    state, out = jax.lax.scan(step, state, actions)
    return first, state, out


def test_spaces_and_shapes():
    env, tasks = ml1("button-press", horizon=7)
    assert env.calls_host
    assert env.action_space(env.default_params).shape == (4,) and env.num_actions == 4
    assert env.observation_space(env.default_params).shape == (39,)
    assert tasks.horizon == 7
    first, state, (obs, reward, done, info) = jax.jit(steps, static_argnums=0)(
        env, env.default_params, jnp.ones((9, 4))
    )
    assert first.shape == (39,) and obs.shape == (9, 39) and reward.shape == (9,)
    assert info["success"].dtype == bool and info["unstable"].dtype == bool
    np.testing.assert_array_equal(obs[1:, 18:36], obs[:-1, :18])
    assert not done.any() and not obs[:, 36:].any()
    assert env.is_truncated(state, env.default_params)
    assert not reward[7:].any()  # the time is up: nothing is computed any more
    np.testing.assert_array_equal(obs[7:, :18], np.tile(obs[6, :18], (2, 1)))


def test_a_reset_calls_nothing():
    env, tasks = ml1("push", num_goals=None)
    text = str(jax.make_jaxpr(lambda key: env.reset_env(key, tasks.sample(key)))(KEY))
    assert "callback" not in text


@pytest.mark.parametrize("name", ["sweep-into", "drawer-close"])
def test_lanes_are_those_of_a_lane_alone(name):
    env, tasks = ml1(name)
    several = jax.vmap(tasks.sample)(jax.random.split(KEY, 3))
    actions = jax.random.uniform(KEY, (3, 6, 4), minval=-1, maxval=1)
    together = jax.jit(jax.vmap(lambda t, a: steps(env, t, a)))(several, actions)[2]
    alone = jax.jit(lambda t, a: steps(env, t, a))(jax.tree.map(lambda x: x[2], several), actions[2])[2]
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a[2], b, atol=2e-5)


@pytest.mark.parametrize("auto_reset", [False, True])
def test_rollout(auto_reset):
    env, tasks = ml1("reach", horizon=5)

    def run(key):
        return rollout(
            env, act, jnp.zeros(4), key, tasks.sample(key), num_steps=8, num_envs=3, auto_reset=auto_reset
        )[0]  # fmt: skip

    data = jax.jit(jax.vmap(run))(jax.random.split(KEY, 2))
    assert data.observation.shape == (2, 8, 3, 39)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(data) if leaf.dtype.kind == "f")


def test_an_unstable_step_ends_the_episode():
    env, _ = ml1("reach")
    actions = jnp.zeros((4, 4)).at[1].set(jnp.nan)
    _, state, (obs, reward, done, info) = jax.jit(steps, static_argnums=0)(env, env.default_params, actions)
    np.testing.assert_array_equal(done, [False, True, True, True])
    np.testing.assert_array_equal(info["unstable"], done)
    assert np.isfinite(obs).all() and np.isfinite(state.physics).all()
    assert reward[0] > 0 and not reward[1:].any() and not info["success"].any()


def test_goals_are_the_packages():
    import warnings

    import metaworld

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = metaworld.ML1("reach-v3", seed=3)
    import pickle

    for part, tasks in zip(ml1("reach", seed=3)[1].split(0), (theirs.train_tasks, theirs.test_tasks), strict=True):
        vectors = np.array([pickle.loads(task.data)["rand_vec"] for task in tasks])
        np.testing.assert_allclose(part.members.object_pos, vectors[:, :3], rtol=1e-6)
        np.testing.assert_allclose(part.members.goal, vectors[:, 3:], rtol=1e-6)


def test_halves_of_ml1():
    _, tasks = ml1("push", num_goals=10)
    train, test = tasks.split(4)
    assert (train.part, test.part) == ("train", "test")
    assert train.members.goal.shape == test.members.goal.shape == (10, 3)
    assert not np.isin(np.asarray(train.members.goal[:, 0]), np.asarray(test.members.goal[:, 0])).any()
    np.testing.assert_array_equal(train.evaluation_tasks(10).goal, test.members.goal)
    np.testing.assert_array_equal(tasks.evaluation_tasks(10).goal, test.members.goal)


def test_a_continuous_range_and_its_halves():
    env, tasks = ml1("push", num_goals=None)
    many = jax.jit(jax.vmap(tasks.sample))(jax.random.split(KEY, 300))
    gap = np.linalg.norm(many.object_pos[:, :2] - many.goal[:, :2], axis=1)
    assert gap.min() >= 0.15 - 1e-6
    low, high = np.asarray(TASKS["push"].low), np.asarray(TASKS["push"].high)
    assert (many.object_pos[:, :2] >= low[:2]).all() and (many.object_pos[:, :2] <= high[:2]).all()
    assert len(np.unique(many.goal[:, 0])) == 300
    train, test = tasks.split(0)
    assert (train.sample(KEY).goal != test.sample(KEY).goal).any()
    assert (test.sample(KEY).goal != tasks.split(1)[1].sample(KEY).goal).any()
    assert (test.evaluation_tasks(2).goal == tasks.evaluation_tasks(2).goal).all()


def test_equal_options_give_one_environment():
    assert ml1("push")[0] is ml1("push-v3", num_goals=3, seed=5)[0] is meta_world("ML1-push")[0]
    assert ml1("push")[0] is not ml1("push", reward="v1")[0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: meta_world("ML1-button-pres"), "no task 'button-pres' here; did you mean button-press"),
        (lambda: meta_world("ML11"), "no benchmark 'ML11' here; did you mean ML10"),
        (lambda: ml1("reach", reward="v3"), "reward = v3: must be one of v2, v1"),
        (lambda: ml1("reach", num_goals=0), "num_goals must be an integer of at least 1"),
        (lambda: ml1("reach", horizon=0), "horizon must be an integer of at least 1"),
    ],
)
def test_errors_of_one_line(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_without_the_package(monkeypatch):
    from metarl_jax.envs.metaworld import settle

    settle._load.cache_clear()
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "metaworld" else real(name, *a))
    with pytest.raises(ImportError, match=r"needs the package metaworld: pip install 'metarl_jax\[metaworld\]'"):
        ml1("sweep", horizon=3)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r"needs the package mujoco: pip install 'metarl_jax\[metaworld\]'"):
        ml1("sweep", horizon=3)


# ---- ML10


def test_ml10_steps_all_models_as_each_alone():
    env, tasks = ml10(num_goals=2)
    names = ML10_TRAIN + ML10_TEST
    assert env.names == names
    kinds = jnp.arange(len(names))
    whole = jax.tree.map(lambda x: x[::2], tasks.members)  # the first goal of each
    np.testing.assert_array_equal(whole.kind, kinds)
    actions = jax.random.uniform(KEY, (len(names), 4, 4), minval=-1, maxval=1)
    ours = jax.jit(jax.vmap(lambda t, a: steps(env, t, a)))(whole, actions)
    for k, name in enumerate(names):
        one = jax.tree.map(lambda x, k=k: x[k], whole).replace(kind=jnp.zeros((), int))
        first, _, out = jax.jit(steps, static_argnums=0)(ml1(name)[0], one, actions[k])
        np.testing.assert_allclose(ours[0][k], first, atol=1e-6)
        for a, b in zip(jax.tree.leaves(ours[2]), jax.tree.leaves(out), strict=True):
            np.testing.assert_allclose(a[k], b, atol=1e-4, err_msg=name)


def test_goals_of_ml10_are_the_packages():
    import pickle
    import warnings

    import metaworld

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = metaworld.ML10(seed=1)
    env, tasks = ml10(seed=1)
    for part, theirs in zip(tasks.split(0), (package.train_tasks, package.test_tasks), strict=True):
        assert [env.names[k] for k in part.members.kind] == [task.env_name.removesuffix("-v3") for task in theirs]
        for k, task in enumerate(theirs):
            one = env.params(pickle.loads(task.data)["rand_vec"], kind=int(part.members.kind[k]))
            np.testing.assert_allclose(part.members.object_pos[k], one.object_pos, rtol=1e-6)
            np.testing.assert_allclose(part.members.goal[k], one.goal, rtol=1e-6)


def test_halves_of_ml10():
    env, tasks = ml10(num_goals=2)
    train, test = tasks.split(0)
    assert [env.names[k] for k in np.unique(train.members.kind)] == list(ML10_TRAIN)
    assert [env.names[k] for k in np.unique(test.members.kind)] == list(ML10_TEST)
    _, continuous = ml10(num_goals=None)
    for half, names in zip(continuous.split(0), (ML10_TRAIN, ML10_TEST), strict=True):
        drawn = jax.jit(jax.vmap(half.sample))(jax.random.split(KEY, 200))
        assert [env.names[k] for k in np.unique(drawn.kind)] == list(names)


def test_a_short_list_of_evaluation_tasks_has_all_tasks_of_ml10():
    env, tasks = ml10(num_goals=3)
    found = tasks.evaluation_tasks(12)
    assert [env.names[k] for k in found.kind[:5]] == list(ML10_TEST) == [env.names[k] for k in found.kind[5:10]]
    assert not np.array_equal(found.body_pos[0], found.body_pos[5])
    train, test = tasks.split(0)
    np.testing.assert_array_equal(train.evaluation_tasks(12).kind, found.kind)
    np.testing.assert_array_equal(test.evaluation_tasks(5).kind, found.kind[:5])
