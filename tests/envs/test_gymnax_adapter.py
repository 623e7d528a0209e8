import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs import from_gymnax, make

RANGES = {"gravity": (8.0, 12.0), "masscart": (0.5, 2.0), "masspole": (0.05, 0.2), "length": (0.25, 1.0)}


def sample(tasks, num, seed=0):
    return jax.jit(jax.vmap(tasks.sample))(jax.random.split(jax.random.key(seed), num))


@pytest.mark.parametrize("name", ["CartPolePhysics-v0", "gymnax:CartPole-v1"])
def test_cartpole_masses_are_recomputed(name):
    _, tasks = make(name, **({} if name.startswith("CartPolePhysics") else {"ranges": RANGES}))
    params = sample(tasks, 50)
    np.testing.assert_allclose(params.total_mass, params.masscart + params.masspole, rtol=1e-6)
    np.testing.assert_allclose(params.polemass_length, params.masspole * params.length, rtol=1e-6)
    assert params.masspole.std() > 0.01


def test_cartpole_physics_follow_the_task():
    env, tasks = make("CartPolePhysics-v0", horizon=50)
    assert tasks.horizon == 50 and np.unique(sample(tasks, 3).max_steps_in_episode) == [50]
    params = tasks.sample(jax.random.key(0))
    _, state = env.reset(jax.random.key(0), params)
    weak, strong = (
        env.step_env(jax.random.key(0), state, 1, params.replace(force_mag=jnp.asarray(force)))[1].x_dot
        for force in (5.0, 15.0)
    )
    assert strong > weak
    moved = make("CartPolePhysics-v0", gravity=(1.0, 1.1))[1]
    assert 1.0 <= float(moved.sample(jax.random.key(0)).gravity) <= 1.1
    with pytest.raises(ValueError, match="computed from other fields"):
        from_gymnax("CartPole-v1", {"total_mass": (1.0, 2.0)})


def test_draws_are_uniform_within_their_ranges():
    _, tasks = from_gymnax("Pendulum-v1", {"m": (0.5, 1.5), "l": (1.0, 2.0)})
    params = sample(tasks, 3000)
    for values, low, high in ((params.m, 0.5, 1.5), (params.l, 1.0, 2.0)):
        assert low <= values.min() and values.max() <= high
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.02)
        assert float(values.std()) == pytest.approx((high - low) / np.sqrt(12), rel=0.05)
    assert abs(np.corrcoef(params.m, params.l)[0, 1]) < 0.06
    np.testing.assert_array_equal(params.g, 10.0)


def test_order_of_the_ranges_does_not_matter():
    one = from_gymnax("Pendulum-v1", {"m": (0.5, 1.5), "l": (1.0, 2.0)})[1].sample(jax.random.key(0))
    two = from_gymnax("Pendulum-v1", {"l": (1.0, 2.0), "m": (0.5, 1.5)})[1].sample(jax.random.key(0))
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, one, two))


def test_array_fields_get_one_draw_per_entry():
    _, tasks = from_gymnax("Acrobot-v1", {"available_torque": ([-2.0, -0.5, 0.5], [-1.0, 0.5, 2.0])})
    torque = np.asarray(sample(tasks, 200).available_torque)
    assert torque.shape == (200, 3)
    assert (torque >= [-2, -0.5, 0.5]).all() and (torque <= [-1, 0.5, 2]).all()
    assert abs(np.corrcoef(torque[:, 0], torque[:, 2])[0, 1]) < 0.25


def test_without_ranges_there_is_one_task():
    env, tasks = from_gymnax("MountainCar-v0", {})
    assert not tasks.held_out and tasks.members.gravity.shape == (1,) and tasks.horizon == 200
    params = tasks.sample(jax.random.key(3))
    default = env.default_params
    assert all(isinstance(leaf, jax.Array) and not leaf.weak_type for leaf in jax.tree.leaves(params))
    np.testing.assert_allclose(jax.tree.leaves(params), jax.tree.leaves(default), rtol=1e-6)


def test_an_instance_and_a_user_derive():
    own = gymnax.make("Pendulum-v1")[0]
    env, tasks = from_gymnax(own, {"m": (1.0, 2.0)}, derive=lambda params: params.replace(l=2 * params.m), horizon=9)
    params = sample(tasks, 5)
    assert env is own and tasks.horizon == 9
    np.testing.assert_allclose(params.l, 2 * params.m)


@pytest.mark.parametrize("name", ["CartPole-v1", "Catch-bsuite", "BernoulliBandit-misc"])
def test_batched_tasks_step_and_keep_their_parameters_across_auto_resets(name):
    env, tasks = make("gymnax:" + name, horizon=2)
    params = sample(tasks, 3)
    keys = jax.random.split(jax.random.key(0), 3)
    obs, state = jax.jit(jax.vmap(env.reset))(keys, params)
    action = jax.vmap(env.action_space(env.default_params).sample)(keys)
    step = jax.jit(jax.vmap(env.step))
    for _ in range(3):
        obs, state, reward, terminated, truncated, _ = step(keys, state, action, params)
    assert reward.shape == terminated.shape == truncated.shape == (3,)


def test_errors_name_the_fault_and_the_fix():
    with pytest.raises(ValueError, match="no parameter 'masspol'; did you mean masspole"):
        from_gymnax("CartPole-v1", {"masspol": (0.1, 0.2)})
    for limits in ((2.0, 1.0), (1.0, 1.0), (0.0, float("inf")), (1.0,), 3.0, ("a", "b")):
        with pytest.raises(ValueError, match="range of 'length'"):
            from_gymnax("CartPole-v1", {"length": limits})
    with pytest.raises(ValueError, match="only float fields can vary"):
        from_gymnax("FourRooms-misc", {"resample_goal_pos": (0.0, 1.0)})
    with pytest.raises(ValueError, match="episode length is static"):
        from_gymnax("Catch-bsuite", {"max_steps_in_episode": (1, 2)})
    with pytest.raises(ValueError, match="did you mean .*CartPole-v1"):
        from_gymnax("CartPole-v2")
    with pytest.raises(ValueError, match="horizon must be an integer of at least 1, got 0"):
        from_gymnax("CartPole-v1", horizon=0)
