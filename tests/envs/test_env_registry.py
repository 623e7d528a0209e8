import os
import subprocess
import sys

import jax
import pytest

from metarl_jax.envs import make, register, registered

OWN = [name for name in registered() if "<" not in name]


@pytest.mark.parametrize("name", OWN)
def test_every_name_makes_a_working_pair_and_caches_the_environment(name):
    env, tasks = make(name)
    assert make(name)[0] is env and make(name, horizon=3)[0] is make(name, horizon=3)[0]
    assert tasks.horizon >= 1 and tasks.description and registered()[name]
    params = tasks.sample(jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(env.default_params)
    batch = tasks.evaluation_tasks(3)
    assert [leaf.shape for leaf in jax.tree.leaves(batch)] == [(3, *leaf.shape) for leaf in jax.tree.leaves(params)]
    obs, state = env.reset(jax.random.key(0), params)
    action = env.action_space(params).sample(jax.random.key(1))
    obs, state, *_ = env.step(jax.random.key(2), state, action, params)
    assert obs.shape == env.observation_space(params).shape


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
    ],
)
def test_impossible_values(name, key, value):
    with pytest.raises(ValueError, match=f"{key} must be .*at least .*, got {value}"):
        make(name, **{key: value})


def test_register():
    register("Own-v0", lambda size=1: ("env", size), "a test")
    assert make("Own-v0", size=4) == ("env", 4) and registered()["Own-v0"] == "a test"
    with pytest.raises(ValueError, match="'Own-v0' is already taken"):
        register("Own-v0", "module:function", "again")
    with pytest.raises(ValueError, match="module:function"):
        register("Other-v0", "module.function", "no colon")


def test_listing_the_names_imports_no_jax():
    code = "import sys; from metarl_jax.envs import registered; registered(); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
