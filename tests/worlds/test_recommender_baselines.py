"""References for recommendations: the filter against posteriors on a grid, and strategies against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.algorithms.interface import common_references
from metarl_jax.envs import make
from metarl_jax.reference import recommender as reference
from metarl_jax.reference.strategy import play

KEY = jax.random.key(0)


def rewards(env, tasks, strategies, num_tasks, num_episodes=1, oracle=True):
    """{name: [task, episode, step]} of the same users and chance."""

    def of(world, strategy):
        def one(key):
            task_key, play_key = jax.random.split(key)
            sizes = {"num_episodes": num_episodes, "horizon": env.horizon}
            return play(world, strategy, play_key, tasks.sample(task_key), **sizes)

        return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, num_tasks)), np.float64)

    found = {name: of(env, strategy) for name, strategy in strategies.items()}
    return found | ({"oracle": of(reference.told(env), reference.oracle(env))} if oracle else {})


def interval(x):
    """Mean and four standard errors of independent numbers."""
    x = np.asarray(x, np.float64)
    return x.mean(), 4 * x.std(ddof=1) / x.size**0.5


# --- the filter -----------------------------------------------------------------------------------------


def log_posterior(env, taste, seen, none):
    """Of a taste that does not drift, up to a constant: slates and clicks one after another."""
    total = -0.5 * taste @ taste
    for slate, slot in seen:
        scores = [env.choice.items[item] @ taste / 0.5 - np.log(rank) for rank, item in enumerate(slate, start=1)]
        scores.append(none)
        total += scores[slot] - jnp.log(sum(jnp.exp(score) for score in scores))
    return total


@pytest.mark.parametrize("slate, slot", [([2], 0), ([2], 1), ([4, 1, 3], 1), ([4, 1, 3], 3)])
def test_one_click_gives_the_laplace_approximation(x64, slate, slot):
    """The mean is where the gradient of the log posterior vanishes, the covariance its inverse curvature there."""
    env, _ = make("Recommender-v0", num_items=6, num_factors=3, slate_size=len(slate))
    start = reference.prior(3)
    after = reference.learn(env, start, jnp.asarray(slate), jnp.asarray(slot), newton_steps=12)
    mean, covariance = reference.now(after)

    def target(taste):
        return log_posterior(env, taste, [(slate, slot)], 2.0)

    np.testing.assert_allclose(jax.grad(target)(mean), 0, atol=1e-6)
    np.testing.assert_allclose(covariance, np.linalg.inv(-jax.hessian(target)(mean)), atol=1e-6)
    np.testing.assert_allclose(after.mean[:3], mean, atol=1e-9)  # nothing has drifted yet: u_0 is u_t
    default = reference.now(reference.learn(env, start, jnp.asarray(slate), jnp.asarray(slot)))[0]
    np.testing.assert_allclose(default, mean, atol=0.02)


def test_many_clicks_come_close_to_the_posterior():
    """On a grid of tastes on a line, after 30 clicks without drift."""
    env, _ = make("Recommender-v0", num_items=2, num_factors=1, catalogue_seed=1, drift=0.0)
    up = float(env.choice.items[0, 0])
    clicks = np.random.default_rng(0).random(30) < 0.4
    belief = reference.prior(1)
    learn = jax.jit(lambda belief, slot: reference.learn(env, belief, jnp.zeros(1, int), slot))
    for click in clicks:
        belief = learn(belief, jnp.asarray(0 if click else 1))
    grid = np.linspace(-6, 6, 4001)
    chance = 1 / (1 + np.exp(2 - 2 * up * grid))
    density = np.exp(-(grid**2) / 2) * chance ** clicks.sum() * (1 - chance) ** (~clicks).sum()
    density /= density.sum()
    exact = density @ grid
    mean, covariance = reference.now(belief)
    assert float(mean[0]) == pytest.approx(exact, abs=0.06)
    assert float(covariance[0, 0]) == pytest.approx(density @ (grid - exact) ** 2, rel=0.2)


def test_the_drift_forgets_and_a_new_session_goes_back(x64):
    env, _ = make("Recommender-v0", num_items=6, num_factors=2)
    first = reference.learn(env, reference.prior(2), jnp.asarray([1]), jnp.asarray(0))
    moved = reference.move(first, 0.6)
    mean, covariance = reference.now(moved)
    np.testing.assert_allclose(mean, 0.8 * first.mean[2:])
    np.testing.assert_allclose(covariance, 0.64 * first.covariance[2:, 2:] + 0.36 * np.eye(2))
    np.testing.assert_allclose(moved.covariance[:2, 2:], 0.8 * first.covariance[:2, 2:])
    back = reference.begin(moved)
    np.testing.assert_allclose(back.mean, first.mean)
    np.testing.assert_allclose(back.covariance, first.covariance)
    fresh = reference.move(first, 1.0)  # a new taste: what is learned now says nothing of the start
    np.testing.assert_allclose(fresh.covariance[2:, 2:], np.eye(2))
    later = reference.learn(env, fresh, jnp.asarray([3]), jnp.asarray(1))
    np.testing.assert_allclose(later.mean[:2], first.mean[:2])
    assert np.abs(later.mean[2:]).max() > 0.01


@pytest.mark.parametrize("slate_size", [1, 3])
def test_the_belief_is_as_wide_as_its_error(slate_size):
    """(u - mean)^T covariance^-1 (u - mean) / d has mean 1 where the belief is right, after drifting clicks."""
    env, tasks = make("Recommender-v0", slate_size=slate_size, drift=0.2)
    d = env.num_factors

    def user(key):
        task = env.params(tasks.sample(key).taste, 0.2)

        def step(carry, key):
            belief, state = carry
            act, move = jax.random.split(key)
            action = env.action_space().sample(act)
            obs, state, *_ = env.step_env(move, state, action, task)
            belief = reference.learn(env, belief, env.choice.shown(action), env.clicked_slot(obs))
            return (reference.move(belief, 0.2), state), None

        start = (reference.prior(d), env.reset_env(key, task)[1])
        (belief, state), _ = jax.lax.scan(step, start, jax.random.split(key, 30))
        mean, covariance = reference.now(belief)
        error = state.taste - mean
        return error @ jnp.linalg.solve(covariance, error) / d, (error**2).mean(), jnp.trace(covariance) / d

    scaled, squared, width = (float(x.mean()) for x in jax.jit(jax.vmap(user))(jax.random.split(KEY, 2000)))
    assert scaled == pytest.approx(1, abs=0.1)
    assert squared < 0.8, "something was learned"
    assert width == pytest.approx(squared, rel=0.1)


# --- strategies -----------------------------------------------------------------------------------------


def test_strategies_come_in_their_order():
    env, tasks = make("Recommender-v0")
    strategies = {
        "random": reference.random_slates(env),
        "thompson": reference.thompson_sampling(env),
        "greedy": reference.greedy(env),
    }
    found = {name: x.sum(axis=(1, 2)) for name, x in rewards(env, tasks, strategies, 400).items()}
    for better, worse in (("thompson", "random"), ("greedy", "random"), ("oracle", "thompson"), ("oracle", "greedy")):
        mean, error = interval(found[better] - found[worse])
        assert mean > error, f"{better} against {worse}: {mean:.2f} +- {error:.2f}"
    keys = jax.vmap(lambda key: jax.random.split(key)[0])(jax.random.split(KEY, 400))
    best = np.asarray(jax.jit(jax.vmap(lambda key: tasks.oracle(tasks.sample(key))))(keys))
    mean, error = interval(found["oracle"] - best)
    assert abs(mean) < error, "the oracle earns what it should"


def test_thompson_sampling_finds_the_best_item_of_who_does_not_change():
    env, tasks = make("Recommender-v0", drift=0.0, horizon=400)
    found = rewards(env, tasks, {"thompson": reference.thompson_sampling(env)}, 150)
    early, late = (
        interval((found["oracle"] - found["thompson"])[:, 0, steps].mean(axis=1))
        for steps in (slice(25), slice(300, None))
    )
    assert early[0] - early[1] > 0.05 and late[0] < 0.03, (early, late)


def test_a_filter_that_knows_of_the_drift_does_better():
    env, tasks = make("Recommender-v0", drift=0.6, horizon=150)
    strategies = {name: reference.greedy(env, drift) for name, drift in (("knows", None), ("does not", 0.0))}
    found = rewards(env, tasks, strategies, 200, oracle=False)
    mean, error = interval((found["knows"] - found["does not"]).sum(axis=(1, 2)))
    assert mean > error


def test_the_memory_survives_the_session():
    env, tasks = make("Recommender-v0", horizon=15)
    strategies = {"thompson": reference.thompson_sampling(env)}
    found = rewards(env, tasks, strategies, 500, num_episodes=3, oracle=False)["thompson"]
    gain, error = interval(found[:, 2].sum(axis=1) - found[:, 0].sum(axis=1))
    assert gain > error


def test_slates_of_several_items():
    env, tasks = make("Recommender-v0", slate_size=3, num_items=12, horizon=30, no_click=3.0)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        rows = common_references(env, tasks, env.horizon, 6, episode=env.horizon)
        users = tasks.evaluation_tasks(40)
        rows.pop("random policy")
        found = {name: np.asarray(jax.jit(lambda f=row: f(KEY, users, 1))()) for name, row in rows.items()}
        slates = reference.random_slates(env)
        run = jax.jit(jax.vmap(lambda key, user: play(env, slates, key, user, num_episodes=12, horizon=30).sum(axis=1)))
        found["random slates"] = np.asarray(run(jax.random.split(KEY, 40), users)).reshape(40, 2, 6)
    assert found["oracle"].shape == (40, 1, 1) and found["Thompson sampling"].shape == (40, 2, 6) and len(found) == 4
    by_user = {name: x.mean(axis=(1, 2)) for name, x in found.items()}
    for better, worse in (
        ("oracle", "Thompson sampling"),
        ("Thompson sampling", "random slates"),
        ("greedy filter", "random slates"),
    ):
        mean, error = interval(by_user[better] - by_user[worse])
        assert mean > error, f"{better} against {worse}: {mean:.2f} +- {error:.2f}"
    slates = jax.vmap(lambda key: reference.random_slates(env).act(jnp.zeros(0), key, None))(jax.random.split(KEY, 300))
    assert all(len(set(slate)) == 3 for slate in slates.tolist()) and set(slates.reshape(-1).tolist()) == set(range(12))


def test_no_newton_step_is_refused():
    env, _ = make("Recommender-v0")
    with pytest.raises(ValueError, match="^newton_steps must be an integer of at least 1, got 0$"):
        reference.thompson_sampling(env, newton_steps=0)
