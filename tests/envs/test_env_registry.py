import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.envs import make, register, registered, registry

OWN = [
    "PointNavigation-v0",
    "PointNavigation-v2",
    "PointCorner-v0",
    "PointHalfCircle-v0",
    "CartPolePhysics-v0",
    "BernoulliBandit-v0",
    "GaussianBandit-v0",
    "DependentBandit-v0",
    "TabularMDP-v0",
    "TwoColours-v0",
    "GridNavi-v0",
    "Maze-v0",
    "KrazyWorld-v0",
    "Recommender-v0",
    "Driving-v0",
]


@pytest.mark.parametrize("name", OWN)
def test_every_name_makes_a_working_pair_and_caches_the_environment(name):
    env, tasks = make(name)
    assert make(name)[0] is env and make(name, horizon=3)[0] is make(name, horizon=3)[0]
    assert tasks.horizon >= 1 and tasks.description and registered()[name]

    def use(key):
        params = tasks.sample(key)
        obs, state = env.reset(key, params)
        return params, env.step(key, state, env.action_space(params).sample(key), params)

    params, (obs, *_) = jax.eval_shape(use, jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(env.default_params)
    assert obs.shape == env.observation_space(env.default_params).shape
    batch = jax.eval_shape(lambda: tasks.evaluation_tasks(3))
    assert [leaf.shape for leaf in jax.tree.leaves(batch)] == [(3, *leaf.shape) for leaf in jax.tree.leaves(params)]


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", [name for name in OWN if not name.startswith("CartPole")])
def test_dtypes_follow_x64_and_survive_scan(name, x64):
    """By abstract evaluation: strong dtypes, a state that can be carried, whatever the dtype of the action."""
    with jax.enable_x64(x64):
        env, tasks = make(name)

        def use(key):
            params = tasks.sample(key)
            obs, state = env.reset_env(key, params)
            action = jnp.zeros(env.action_space(env.default_params).shape, jnp.float32)
            action = action if "Point" in name else action.astype(jnp.int32)
            new_obs, new_state, reward, terminated, _ = env.step_env(key, state, action, params)
            optimum = tasks.oracle(params) if tasks.oracle else reward
            return params, (obs, state), (new_obs, new_state), reward, terminated, optimum

        keys = jax.random.split(jax.random.key(0), 2)
        params, old, new, reward, terminated, optimum = jax.eval_shape(jax.vmap(use), keys)
        dtype = jnp.float64 if x64 else jnp.float32
        assert reward.dtype == optimum.dtype == old[0].dtype == dtype and terminated.dtype == bool
        assert all(leaf.dtype in (dtype, jnp.result_type(int)) for leaf in jax.tree.leaves(params))
        assert not any(leaf.weak_type for leaf in jax.tree.leaves((params, old, new, reward)))
        assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and a.shape == b.shape, old, new))


def test_unknown_names_give_the_nearest():
    with pytest.raises(ValueError, match="unknown environment 'PointNavigaton-v0'; did you mean PointNavigation-v0"):
        make("PointNavigaton-v0")
    with pytest.raises(ValueError, match="did you mean .*CartPole-v1"):
        make("gymnax:CartPole-v7")
    with pytest.raises(ValueError, match="known: "):
        make("zzzzzz")


def test_unknown_overrides_give_the_allowed_ones():
    with pytest.raises(ValueError, match=r"no option 'horizn' \(allowed: horizon, goal_limit.*did you mean horizon"):
        make("PointNavigation-v0", horizn=5)
    with pytest.raises(ValueError, match="no option 'env_or_name'"):
        make("gymnax:CartPole-v1", env_or_name="Pendulum-v1")


@pytest.mark.parametrize(
    "name, key, value",
    [
        ("TabularMDP-v0", "num_states", 0),
        ("TabularMDP-v0", "horizon", 2.5),
        ("BernoulliBandit-v0", "num_arms", 0),
        ("GaussianBandit-v0", "sigma", -1.0),
        ("CartPolePhysics-v0", "horizon", -1),
        ("PointHalfCircle-v0", "horizon", True),
        ("PointNavigation-v0", "horizon", 1.0),
    ],
)
def test_impossible_values(name, key, value):
    make(name, **{key: 1})
    with pytest.raises(ValueError, match=f"{key} must be .*at least .*, got {value}"):
        make(name, **{key: value})  # True and 1.0 are not served from the cache of 1


def test_register(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    register("Own-v0", "metarl_jax.envs.bandit:bernoulli_bandit", "a test")
    register("Own-v0", "metarl_jax.envs.bandit:bernoulli_bandit", "the notebook cell again")
    env, tasks = make("Own-v0", num_arms=4)
    assert env.action_space(env.default_params).n == 4 and tasks.horizon == 1
    assert registered()["Own-v0"] == "the notebook cell again"
    with pytest.raises(ValueError, match="'Own-v0' is already taken"):
        register("Own-v0", "module:function", "again")
    with pytest.raises(ValueError, match="module:function"):
        register("Other-v0", "module.function", "no colon")


def test_listing_the_names_imports_no_jax():
    code = "import sys; from metarl_jax.envs import registered; registered(); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


NAMES = [
    *sorted(registry._OURS_NAMES),  # other tests register names of their own
    *("gymnax:CartPole-v1", "Delayed:PointNavigation-v0", "MetaWorld:ML1-reach", "MinAtar:Breakout"),
]


@pytest.mark.parametrize("value", [[1], {"a": 1}, [[1, 2], [3]]])
@pytest.mark.parametrize("name", NAMES)
def test_an_option_of_another_kind_is_named(name, value):
    for option in registry.options_of(name):
        if option in ("ranges", "goals", "reward_levels", "rules"):
            continue  # lists and mappings are what they take; their own tests say what is refused
        with pytest.raises(ValueError, match=f"{option}'? must be .*got {re.escape(repr(value))}$"):
            registry.make(name, **{option: value})


@pytest.mark.parametrize("value", ["abc", "false", 0, 2, 1.5, float("nan"), None])
def test_a_switch_is_true_or_false(value):
    with pytest.raises(ValueError, match=f"^normalize_actions must be true or false, got {re.escape(repr(value))}$"):
        registry.make("PointNavigation-v0", normalize_actions=value)


@pytest.mark.parametrize("value", ["abc", True, float("nan"), float("inf"), 1e39, 10**40, None])
def test_a_number_is_finite_in_float32(value):
    with pytest.raises(ValueError, match="^goal_limit must be a finite number, got"):
        registry.make("PointNavigation-v0", goal_limit=value)


def test_numbers_of_numpy_are_numbers():
    made = registry.make("PointNavigation-v0", goal_limit=np.float32(0.5), horizon=np.int64(7))
    assert made[1].horizon == 7


def test_a_factory_of_ones_own_makes_constants_of_jax_while_a_program_is_traced():
    env, tasks = registry.make("PointNavigation-v0", horizon=4)

    def factory(scale=1.0):
        goals = scale * jnp.linspace(-0.4, 0.4, 20).reshape(10, 2)
        return env, mrl.TaskDistribution.from_members(jax.vmap(env.params)(goals), 4)

    mrl.register("OwnGoals-v0", factory)

    @jax.jit
    def program(key):
        _, own = registry.make("OwnGoals-v0", scale=2.0)
        train, _ = own.split(0)
        return train.sample(key).goal

    assert float(jnp.abs(program(jax.random.key(0))).max()) <= 0.8 + 1e-6
