import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs import make, point

HALF_SQUARE_MEAN = (np.sqrt(2) + np.log(1 + np.sqrt(2))) / 6  # mean distance from the centre of a unit square


def returns(env, tasks, policy, num_tasks, seed=0):
    """Returns [N] of one episode each, counted until termination; policy(key, position, params) -> action."""

    def episode(key):
        key_task, key_reset, key_steps = jax.random.split(key, 3)
        params = tasks.sample(key_task)
        _, state = env.reset_env(key_reset, params)

        def step(carry, key):
            state, alive = carry
            action = policy(key, state.position, params)
            _, state, reward, terminated, _ = env.step_env(key, state, action, params)
            return (state, alive & ~terminated), jnp.where(alive, reward, 0)

        return jax.lax.scan(step, (state, jnp.asarray(True)), jax.random.split(key_steps, tasks.horizon))[1].sum()

    return np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(seed), num_tasks)))


def oracle_mean(tasks, num_tasks):
    keys = jax.random.split(jax.random.key(0), num_tasks)
    return float(jax.jit(jax.vmap(lambda key: tasks.oracle(tasks.sample(key))))(keys).mean())


def still(key, position, params):
    return jnp.zeros(2)


def uniform(key, position, params):
    return jax.random.uniform(key, (2,), minval=-0.1, maxval=0.1)


def greedy(key, position, params):
    return params.goal - position


def test_known_returns_of_the_maml_version():
    env, tasks = make("PointNavigation-v0")
    assert tasks.horizon == 100
    assert oracle_mean(tasks, 20_000) == pytest.approx(-0.506, abs=0.006)
    motionless = returns(env, tasks, still, 20_000).mean()
    assert motionless == pytest.approx(-38.1, abs=0.4)
    assert motionless == pytest.approx(-100 * HALF_SQUARE_MEAN, abs=0.4)
    assert returns(env, tasks, uniform, 4_000).mean() == pytest.approx(-61.5, abs=1.2)


@pytest.mark.parametrize("name", ["PointNavigation-v0", "PointHalfCircle-v0"])
def test_no_policy_beats_the_oracle(name):
    env, tasks = make(name)
    keys = jax.random.split(jax.random.key(1), 300)
    params = jax.jit(jax.vmap(tasks.sample))(keys)
    oracle = np.asarray(jax.jit(jax.vmap(tasks.oracle))(params))

    def rollout(params, key, noise):
        _, state = env.reset_env(key, params)

        def step(carry, key):
            state, alive = carry
            action = params.goal - state.position + noise * jax.random.normal(key, (2,))
            _, state, reward, terminated, _ = env.step_env(key, state, action, params)
            return (state, alive & ~terminated), jnp.where(alive, reward, 0)

        steps = jax.random.split(key, tasks.horizon)
        return jax.lax.scan(step, (state, jnp.asarray(True)), steps)[1].sum()

    for noise in (0.0, 0.01, 0.1, 1.0):
        achieved = np.asarray(jax.jit(jax.vmap(rollout, in_axes=(0, 0, None)))(params, keys, noise))
        assert (achieved <= oracle + 1e-4).all()
    assert np.isfinite(oracle).all()


def test_oracle_agrees_with_exhaustive_search():
    """All 25^2 plans of two actions on a grid that contains the optimum."""
    env, tasks = make("PointNavigation-v0", horizon=2)
    grid = jnp.linspace(-0.1, 0.1, 5)
    actions = jnp.stack(jnp.meshgrid(grid, grid), -1).reshape(-1, 2)  # [25, 2]
    first, second = (a.ravel() for a in jnp.meshgrid(jnp.arange(25), jnp.arange(25)))
    plans = jnp.stack([actions[first], actions[second]], 1)  # [625, 2, 2]

    def value(plan, params):
        key = jax.random.key(0)
        _, state = env.reset_env(key, params)
        _, state, reward0, ended, _ = env.step_env(key, state, plan[0], params)
        _, _, reward1, _, _ = env.step_env(key, state, plan[1], params)
        return reward0 + jnp.where(ended, 0, reward1)

    for goal in ([0.05, 0.1], [0.2, -0.15], [0.0, 0.0], [-0.1, 0.35]):  # on the grid: search is exact
        params = env.params(jnp.asarray(goal))
        best = jax.jit(jax.vmap(value, in_axes=(0, None)))(plans, params).max()
        assert tasks.oracle(params) == pytest.approx(float(best), abs=1e-5)


@pytest.mark.parametrize("name, limit", [("PointNavigation-v0", 0.5), ("PointNavigation-v2", 2.0)])
def test_goals_are_uniform(name, limit):
    _, tasks = make(name)
    goals = np.asarray(jax.jit(jax.vmap(tasks.sample))(jax.random.split(jax.random.key(0), 5000)).goal)
    assert goals.shape == (5000, 2) and np.abs(goals).max() <= limit
    np.testing.assert_allclose(goals.mean(0), 0, atol=0.05 * limit)
    np.testing.assert_allclose(goals.std(0), limit / np.sqrt(3), rtol=0.05)


def test_corner_tasks_starts_and_reward():
    env, tasks = make("PointCorner-v0")
    assert not tasks.held_out and tasks.oracle is None and tasks.members.goal.shape == (4, 2)
    _, states = jax.vmap(env.reset_env, in_axes=(0, None))(jax.random.split(jax.random.key(0), 500), env.default_params)
    start = np.asarray(states.position)
    assert np.abs(start).max() <= 0.2 and np.abs(start).max() > 0.15 and start.std() == pytest.approx(0.1155, rel=0.1)

    params = env.params(jnp.asarray([2.0, 2.0]))
    reward = lambda a, b: float(point.corner_reward(jnp.asarray(a), jnp.asarray(b), params))  # noqa: E731
    assert reward([0.1, 0.1], [0.2, 0.2]) == 0  # inside the L1 ball
    assert reward([0.3, 0.3], [0.4, 0.4]) == pytest.approx(0.1 * np.sqrt(2), abs=1e-5)
    assert reward([0.4, 0.4], [0.3, 0.3]) == pytest.approx(-0.1 * np.sqrt(2), abs=1e-5)
    assert reward([-0.4, 0.4], [-0.5, 0.5]) == 0  # another corner is nearer


def test_corner_reward_can_be_exploited():
    """The reason why there is no oracle: swinging over the border earns far more than reaching the corner."""
    env, tasks = make("PointCorner-v0")

    def swing(key, position, params):
        return jnp.where(jnp.abs(position).sum() < 0.5, 0.2, -0.2) * jnp.sign(params.goal)

    assert returns(env, tasks, greedy, 200).mean() == pytest.approx(2.6, abs=0.15)
    assert returns(env, tasks, swing, 200).mean() > 14


def test_half_circle():
    env, tasks = make("PointHalfCircle-v0")
    assert tasks.horizon == 20
    goals = np.asarray(jax.jit(jax.vmap(tasks.sample))(jax.random.split(jax.random.key(0), 2000)).goal)
    np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 1, atol=1e-5)
    assert goals[:, 1].min() > -1e-6 and np.arctan2(goals[:, 1], goals[:, 0]).mean() == pytest.approx(
        np.pi / 2, abs=0.1
    )
    params = env.params(jnp.asarray([1.0, 0.0]))
    reward = lambda p: float(point.half_circle_reward(jnp.zeros(2), jnp.asarray(p), params))  # noqa: E731
    assert reward([0.9, 0.0]) == pytest.approx(0.9) and reward([0.79, 0.0]) == 0 and reward([1.0, 0.0]) == 1
    state = point.PointState(position=params.goal, time=jnp.asarray(3))
    assert not env.is_terminated(state, params)


def test_actions_are_clipped_and_the_goal_terminates():
    env, _ = make("PointNavigation-v0")
    params = env.params(jnp.asarray([0.1, 0.05]))
    obs, state = env.reset(jax.random.key(0), params)
    np.testing.assert_array_equal(obs, 0)
    obs, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, jnp.asarray([5.0, 0.05]), params)
    np.testing.assert_allclose(obs, [0.1, 0.05], atol=1e-6)
    assert terminated and reward == pytest.approx(0, abs=1e-6) and not env.is_truncated(state, params)


def test_terminated_and_truncated_stay_apart_and_the_task_survives_auto_reset():
    env, _ = make("PointNavigation-v0", horizon=3)
    params = env.params(jnp.asarray([0.25, 0.0]))
    obs, state = env.reset(jax.random.key(0), params)
    for t in range(1, 7):  # away from the goal: two truncated episodes
        obs, state, reward, terminated, truncated, info = env.step(
            jax.random.key(t), state, jnp.asarray([-0.1, 0.0]), params
        )
        steps = (t - 1) % 3 + 1
        assert not terminated and bool(truncated) == (steps == 3)
        assert reward == pytest.approx(-(0.25 + 0.1 * steps), abs=1e-5)  # the same goal in both episodes
        np.testing.assert_allclose(info["final_observation"], [-0.1 * steps, 0], atol=1e-6)
    np.testing.assert_array_equal(obs, 0)
    _, _, _, terminated, truncated, _ = env.step(
        jax.random.key(9), state, jnp.asarray([0.1, 0.0]), env.params(jnp.asarray([0.1, 0.0]))
    )
    assert terminated and not truncated


def test_deterministic_environments_ignore_the_key():
    env, tasks = make("PointNavigation-v0")
    params = tasks.sample(jax.random.key(0))
    _, state = env.reset_env(None, params)
    env.step_env(None, state, jnp.zeros(2), params)


@pytest.mark.parametrize(
    "overrides", [{"horizon": 0}, {"action_limit": 0.0}, {"goal_limit": -1.0}, {"tolerance": float("nan")}]
)
def test_impossible_values(overrides):
    (name, value), *_ = overrides.items()
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
        make("PointNavigation-v0", **overrides)
