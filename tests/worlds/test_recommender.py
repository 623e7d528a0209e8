"""The recommender: clicks against loops in numpy, the drift against its law, the best slate against all slates."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from metarl_jax.envs import make
from metarl_jax.envs.recommender import recommender
from metarl_jax.envs.spaces import MultiDiscrete
from metarl_jax.runs import train
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate
from metarl_jax.runs.states import initial_states

KEY = jax.random.key(0)
SMALL = {"num_items": 6, "num_factors": 3, "slate_size": 3, "horizon": 5}


def chances(items, taste, slate, temperature, no_click, position_bias):
    """[slate + 1] of each slot and of none, item by item."""
    shares, seen = [], set()
    for rank, item in enumerate(slate, start=1):
        score = sum(a * b for a, b in zip(items[item], taste, strict=True)) / temperature
        shares.append(0.0 if item in seen else math.exp(score) * rank**-position_bias)
        seen.add(item)
    shares.append(math.exp(no_click))
    return np.array(shares) / sum(shares)


@pytest.mark.parametrize("temperature, no_click, position_bias", [(0.5, 2.0, 1.0), (2.0, -1.0, 0.0), (0.3, 0.0, 2.5)])
def test_chances_are_those_of_the_conditional_logit(x64, temperature, no_click, position_bias):
    options = {"temperature": temperature, "no_click": no_click, "position_bias": position_bias}
    env, _ = make("Recommender-v0", **SMALL, **options)
    ours = jax.jit(lambda taste, slate: jax.nn.softmax(env.choice.logits(taste, env.choice.shown(slate))))
    rng = np.random.default_rng(0)
    for slate in ([0, 1, 2], [5, 3, 4], [2, 2, 2], [1, 4, 1], [0, 3, 3], *rng.integers(6, size=(20, 3)).tolist()):
        taste = rng.normal(size=3)
        want = chances(env.choice.items.tolist(), taste, slate, **options)
        np.testing.assert_allclose(ours(taste, jnp.asarray(slate)), want, rtol=1e-10)


@pytest.mark.parametrize("slate", [[0, 1, 2], [4, 2, 4], [3, 3, 3]])
def test_clicks_come_as_often_as_that(slate):
    env, _ = make("Recommender-v0", **SMALL)
    task = env.params(jnp.asarray([1.0, -0.5, 0.8]))
    state, draws = env.reset_env(KEY, task)[1], 20_000
    step = jax.jit(jax.vmap(lambda key: env.step_env(key, state, jnp.asarray(slate), task)))
    _, after, reward, _, _ = step(jax.random.split(KEY, draws))
    np.testing.assert_array_equal(reward, after.clicked < 3)
    counts = np.bincount(after.clicked, minlength=4)
    want = chances(env.choice.items, task.taste, slate, 0.5, 2.0, 1.0)
    possible = want > 0
    assert not counts[~possible].any(), "an item that is repeated is shown once"
    assert stats.chisquare(counts[possible], draws * want[possible]).pvalue > 1e-4
    wrong = np.roll(want[possible], 1)  # the test can tell
    assert stats.chisquare(counts[possible], draws * wrong).pvalue < 1e-4


def test_what_is_seen():
    env, _ = make("Recommender-v0", **SMALL, no_click=0.0)
    items, step = env.choice.items, jax.jit(env.step_env)
    task = env.params(jnp.asarray([0.3, 1.0, -0.2]))
    first, state = env.reset_env(KEY, task)
    np.testing.assert_array_equal(first, np.zeros(env.observation_space().shape))
    np.testing.assert_array_equal(env.reset_env(KEY, env.params(jnp.ones(3)))[0], first)
    slots = set()
    for i in range(60):
        obs, after, reward, _, _ = step(jax.random.key(i), state, jnp.asarray([4, 1, 4]), task)
        click, shown, clicked, time = np.split(obs, [4, 13, 16])
        slot = int(env.clicked_slot(obs))
        np.testing.assert_array_equal(click, np.eye(4)[slot])
        np.testing.assert_allclose(shown.reshape(3, 3), [*items[[4, 1]], np.zeros(3)], rtol=1e-6)
        np.testing.assert_allclose(clicked, [*items[[4, 1]], None, np.zeros(3)][slot], rtol=1e-6)
        assert time == pytest.approx(1 / 5) and float(reward) == (slot < 3) and after.shown.tolist() == [4, 1, -1]
        slots.add(slot)
    assert slots == {0, 1, 3}


def test_the_drift_keeps_its_law():
    """Lanes that start from N(0, I) stay there; from one taste they tend to it, at the rate that the equation gives."""
    env, _ = make("Recommender-v0", num_factors=2, num_items=3)
    delta, steps, lanes = 0.3, 12, 20_000

    def tastes(key, start, delta):
        task = env.params(start, delta)

        def step(state, key):
            state = env.step_env(key, state, jnp.zeros((), int), task)[1]
            return state, state.taste

        return jax.lax.scan(step, env.reset_env(key, task)[1], jax.random.split(key, steps))[1][-1]

    run = jax.jit(jax.vmap(tastes, (0, 0, None)))
    keys, starts = jax.random.split(KEY, lanes), jax.random.normal(jax.random.key(1), (lanes, 2))
    last = np.asarray(run(keys, starts, delta))
    rho = (1 - delta**2) ** (steps / 2)
    together = np.concatenate([starts, last], axis=1)
    want = np.block([[np.eye(2), rho * np.eye(2)], [rho * np.eye(2), np.eye(2)]])
    np.testing.assert_allclose(together.mean(axis=0), 0, atol=4.5 / lanes**0.5)
    np.testing.assert_allclose(np.cov(together.T), want, atol=4.5 * (2 / lanes) ** 0.5)
    assert (last**2).sum(axis=1).mean() == pytest.approx(2, abs=4.5 * (4 / lanes) ** 0.5)
    one = np.asarray(run(keys, jnp.broadcast_to(jnp.asarray([3.0, -1.0]), (lanes, 2)), delta))
    np.testing.assert_allclose(one.mean(axis=0), [3 * rho, -rho], atol=4.5 * ((1 - rho**2) / lanes) ** 0.5)
    np.testing.assert_allclose(one.var(axis=0), 1 - rho**2, rtol=4.5 * (2 / lanes) ** 0.5)
    np.testing.assert_array_equal(run(keys, starts, 0.0), starts)
    forgotten = np.asarray(run(keys, starts, 1.0))
    assert abs(np.corrcoef(starts[:, 0], forgotten[:, 0])[0, 1]) < 4.5 / lanes**0.5


@pytest.mark.parametrize("position_bias", [0.0, 1.0])
@pytest.mark.parametrize("slate_size", [1, 2, 3])
def test_the_best_slate_is_the_best_of_all(x64, slate_size, position_bias):
    env, _ = make("Recommender-v0", **SMALL | {"slate_size": slate_size}, position_bias=position_bias)
    best, chance = jax.jit(env.choice.best_slate), jax.jit(env.choice.best_chance)
    for taste in np.random.default_rng(1).normal(size=(10, 3)):
        every = {
            slate: 1 - chances(env.choice.items, taste, slate, 0.5, 2.0, position_bias)[-1]
            for slate in itertools.product(range(6), repeat=slate_size)
        }
        ours = tuple(np.atleast_1d(best(taste)).tolist())
        assert every[ours] == pytest.approx(max(every.values()), rel=1e-9)
        assert float(chance(taste)) == pytest.approx(max(every.values()), rel=1e-9)


@pytest.mark.parametrize("slate_size", [1, 2])
def test_the_oracle_return(slate_size):
    """Exact without drift; with it, against tastes of numpy."""
    env, tasks = make("Recommender-v0", num_factors=3, slate_size=slate_size, horizon=8)
    oracle, chance = jax.jit(tasks.oracle), jax.jit(jax.vmap(env.choice.best_chance))
    taste = np.array([0.9, -1.2, 0.1])
    assert float(oracle(env.params(taste, 0.0))) == pytest.approx(8 * float(chance(taste[None])[0]), rel=1e-5)
    rng, delta, draws = np.random.default_rng(0), 0.5, 40_000
    drifting, total = np.broadcast_to(taste, (draws, 3)), np.zeros(draws)
    for _ in range(8):
        total += np.asarray(chance(jnp.asarray(drifting)))
        drifting = (1 - delta**2) ** 0.5 * drifting + delta * rng.normal(size=(draws, 3))
    assert float(oracle(env.params(taste, delta))) == pytest.approx(total.mean(), rel=0.01)


def test_the_catalogue_is_of_the_environment_and_users_differ():
    env, tasks = make("Recommender-v0", drift=0.4)
    other, _ = make("Recommender-v0", catalogue_seed=1)
    assert make("Recommender-v0", horizon=7)[0].choice is make("Recommender-v0")[0].choice
    np.testing.assert_allclose((env.choice.items**2).sum(axis=1), 1)
    assert np.abs(env.choice.items - other.choice.items).max() > 0.1
    users = jax.jit(jax.vmap(tasks.sample))(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(users.taste.mean(axis=0), 0, atol=4.5 / 4000**0.5)
    np.testing.assert_allclose(np.cov(users.taste.T), np.eye(4), atol=0.1)
    assert 0 <= users.drift.min() < 0.01 and 0.39 < users.drift.max() <= 0.4
    assert float(users.drift.mean()) == pytest.approx(0.2, abs=4.5 * 0.4 / 12**0.5 / 4000**0.5)


@pytest.mark.parametrize("slate_size", [1, 3])
def test_sessions_are_functions_of_their_keys(slate_size):
    """Under jit, vmap and scan, and with JAX's strict types and ranks; lanes do not read one another."""
    env, tasks = make("Recommender-v0", slate_size=slate_size, horizon=6)

    def session(key):
        task = tasks.sample(key)

        def step(state, key):
            act, move = jax.random.split(key)
            obs, state, reward, terminated, _ = env.step_env(move, state, env.action_space().sample(act), task)
            return state, (obs, reward, terminated, env.is_truncated(state, task))

        return jax.lax.scan(step, env.reset_env(key, task)[1], jax.random.split(key, 6))[1]

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        sessions = jax.jit(jax.vmap(session))
        many, again = (sessions(keys) for keys in (jax.random.split(KEY, 8), jax.random.split(KEY, 8)[::-1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[::-1], rtol=1e-6), many, again)
    obs, reward, terminated, truncated = many
    assert len({x.tobytes() for x in np.asarray(obs)}) == 8, "other keys, other sessions"
    np.testing.assert_array_equal(terminated, np.arange(1, 7)[None] == np.full((8, 1), 6))
    assert not truncated.any() and set(np.unique(reward)) == {0.0, 1.0}
    space = env.observation_space()
    assert obs.shape[2:] == space.shape and space.contains(obs)


def test_slates_of_several_items_are_multi_discrete():
    env, _ = make("Recommender-v0", **SMALL)
    space = env.action_space()
    assert isinstance(space, MultiDiscrete) and space.nvec.tolist() == [6, 6, 6] and not hasattr(space, "n")
    drawn = jax.jit(jax.vmap(space.sample))(jax.random.split(KEY, 3000))
    assert jax.vmap(space.contains)(drawn).all() and not space.contains(jnp.asarray([0, 6, 0]))
    for slot in np.asarray(drawn).T:
        assert stats.chisquare(np.bincount(slot, minlength=6)).pvalue > 1e-4
    uneven = MultiDiscrete([2, 5])
    assert jax.vmap(uneven.sample)(jax.random.split(KEY, 200)).max(axis=0).tolist() == [1, 4]
    with pytest.raises(ValueError, match=r"^action must be 3 integers \(MultiDiscrete\), got float32$"):
        env.step_env(KEY, env.reset_env(KEY, env.default_params)[1], jnp.zeros(3), env.default_params)
    assert make("Recommender-v0")[0].action_space().n == 50


@pytest.mark.parametrize(
    "option, value, allowed",
    [
        *((name, 0, "an integer of at least 1") for name in ("num_items", "num_factors", "slate_size", "horizon")),
        ("horizon", 2.0, "an integer of at least 1"),
        ("slate_size", 51, "at most num_items = 50"),
        ("drift", -0.1, "a number from 0 to 1"),
        ("drift", 1.1, "a number from 0 to 1"),
        ("drift", True, "a number from 0 to 1"),
        ("temperature", 0.0, "a finite number of at least 0.001"),
        ("temperature", math.nan, "a finite number of at least 0.001"),
        ("no_click", math.inf, "a finite number"),
        ("no_click", "none", "a finite number"),
        ("position_bias", -1.0, "a finite number of at least 0"),
        ("catalogue_seed", -1, "an integer of at least 0"),
        ("catalogue_seed", 1.5, "an integer of at least 0"),
    ],
)
def test_bad_options(option, value, allowed):
    with pytest.raises(ValueError, match=f"^{option} must be {allowed}, got {value!r}$"):
        recommender(**{option: value})
    with pytest.raises(ValueError, match=f"^{option} must be .*, got {value!r}$"):
        make("Recommender-v0", **{option: value})


@pytest.mark.parametrize("slate_size", [1, 2])
def test_rl2_trains_on_it(tmp_path, slate_size):
    sizes = {"num_episodes": 2, "meta_batch_size": 4, "num_minibatches": 1, "size": 4, "eval_tasks": 2}
    small = {"num_items": 5, "horizon": 4, "slate_size": slate_size}
    config = {"algorithm": "rl2", "env": "Recommender-v0", "env_options": small, "num_iterations": 2, **sizes}
    job = build(validate(config))
    before = job.params(initial_states(job))
    states = train.train(job, tmp_path / "run", report=lambda _: None)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before, job.params(states))
    assert min(jax.tree.leaves(moved)) > 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(math.isfinite(value) for row in rows for value in row.values() if value is not None)
    rows, users = job.evaluation.references, job.evaluation_tasks(2)
    random, oracle = (rows[name](KEY, users, 1) for name in ("random policy", "oracle"))
    assert random.shape == (2, 1, 20) and oracle.shape == (2, 1, 1)
    assert (oracle[:, 0, 0] > random.mean(axis=(1, 2))).all()
