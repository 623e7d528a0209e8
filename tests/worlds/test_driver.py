"""A driver who knows the town: hardly ever in the wrong, and well above one who only thinks so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs import make
from metarl_jax.envs.driving import road
from metarl_jax.envs.driving.town import LEFT, MAIN_ROAD, RIGHT, Driving
from metarl_jax.options import ConfigError
from metarl_jax.reference import driving as driver
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate

NUM_TOWNS = 256


@pytest.fixture(scope="module")
def drives():
    env, tasks = make("Driving-v0")

    def one(key):
        town = tasks.sample(key)
        return town, driver.drive(env, key, town), driver.drive(env, key, town, driver.guess(env))

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), NUM_TOWNS)))


def collided(drive):
    return drive.costs[..., -1].any(1)


def test_who_knows_the_town_breaks_no_rules(drives):
    _, told, _ = drives
    assert collided(told).mean() <= 0.01
    assert (told.costs.any(-1) & told.alive).sum() / told.alive.sum() <= 0.05
    assert told.alive.all(1).mean() >= 0.99


def test_who_knows_the_town_goes_on(drives):
    """No return exceeds that of the limit at every step by more than speeding pays, which costs more."""
    towns, told, _ = drives
    total, most = told.reward.sum(1), 300 * towns.limit / 15
    assert (total < most).all()
    assert (total / most).mean() > 0.65
    assert (total / most)[towns.priority == MAIN_ROAD].mean() > 0.85  # nobody to wait for


def test_there_is_something_to_find_out(drives):
    towns, told, guessed = drives
    assert told.reward.sum(1).mean() > guessed.reward.sum(1).mean() + 100
    for part in (towns.side == LEFT, towns.side == RIGHT, towns.limit < 12, towns.limit > 16):
        assert told.reward.sum(1)[part].mean() > guessed.reward.sum(1)[part].mean() + 15


def test_each_rule_is_worth_knowing():
    """One wrong belief each: on its own it costs return where it matters."""
    env, tasks = make("Driving-v0")

    def returns(key):
        town = tasks.sample(key)
        wrong = [
            town,
            town.replace(side=-town.side),
            town.replace(limit=jnp.asarray(14.0)),
            town.replace(priority=jnp.asarray(MAIN_ROAD)),
            town.replace(priority=-town.priority),
            town.replace(grip=jnp.asarray(0.9)),
        ]
        believed = jax.tree.map(lambda *x: jnp.stack(x), *wrong)
        return town, jax.vmap(lambda belief: driver.drive(env, key, town, belief).total)(believed)

    towns, total = jax.tree.map(np.asarray, jax.jit(jax.vmap(returns))(jax.random.split(jax.random.key(1), NUM_TOWNS)))
    told, side, limit, main_road, other, grip = total.T
    assert told.mean() > side.mean() + 200
    far = np.abs(towns.limit - 14) > 2
    assert told[far].mean() > limit[far].mean() + 8
    rules = towns.priority != MAIN_ROAD
    assert told[rules].mean() > main_road[rules].mean() + 20 and told[rules].mean() > other[rules].mean() + 20
    assert told[towns.grip < 0.5].mean() > grip[towns.grip < 0.5].mean() + 10


def test_the_steering_law_settles_in_the_lane():
    """From 3 m away, in a bend, at three speeds."""
    bends, phases = jnp.asarray([0.006, 0.0]), jnp.asarray([0.3, 0.0])
    for speed in (3.0, 10.0, 18.0):
        car = road.Car(*(jnp.asarray(x) for x in (0.0, -1.25, 0.2, speed)))

        def step(car, _):
            bend = road.curvature(car.along, bends, phases)
            steering = jnp.clip(driver.steer(car, 1.75, bend), -road.MAX_STEERING, road.MAX_STEERING)
            return road.bicycle(car, steering, jnp.zeros(()), jnp.asarray(0.9), bends, phases)

        last, slipped = jax.jit(functools.partial(jax.lax.scan, step, length=150))(car)
        assert abs(float(last.offset) - 1.75) < 0.1 and not slipped[50:].any()


def test_bends_are_not_taken_too_fast():
    env, _ = make("Driving-v0")
    for grip in (0.4, 0.9):
        town = env.params(RIGHT, 25.0, grip=grip)
        state = env.reset_env(jax.random.key(0), town)[1].replace(bends=jnp.asarray([0.012, 0.0]))
        for along in (0.0, 31.75, 60.0):
            here = state.replace(car=state.car._replace(along=jnp.asarray(along)))
            s = along + np.arange(0, 61, 10)
            bend = np.abs(0.012 * np.sin(2 * np.pi / 127 * s + float(state.phases[0])))
            hold = grip * 9.81
            expected = np.sqrt((0.7 * hold / bend + 0.9 * hold * np.arange(0, 61, 10)).min())
            assert float(driver.safe_speed(here, town)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("algorithm", ["rl2", "promp"])
def test_drivers_stand_beside_what_is_evaluated(algorithm):
    """Of trials with a return for each episode, of a gradient method for single episodes; the same towns for all."""
    sizes = {"num_episodes": 2, "num_minibatches": 1} if algorithm == "rl2" else {"episodes_per_task": 2}
    run = {"algorithm": algorithm, "env": "Driving-v0", "num_iterations": 1, "meta_batch_size": 2, "eval_episodes": 3}
    job = build(validate({**run, **sizes}))
    rows = job.evaluation.references
    assert list(rows) == ["random policy", "driver who knows the town", "driver who does not"]
    towns, updates = job.evaluation_tasks(8), job.evaluation.num_updates
    told, guessed = (jax.jit(lambda f=rows[name]: f(jax.random.key(0), towns, updates))() for name in list(rows)[1:])
    assert told.shape == guessed.shape == (8, 2 if algorithm == "rl2" else 1, 3)
    assert told.mean() > guessed.mean() + 100
    shorter = build(validate({**run, **sizes, "horizon": 20}))
    assert list(shorter.evaluation.references) == ["random policy"], "their episodes are the environment's own"


def test_a_reference_that_fails_is_one_line(monkeypatch):
    def wrong(env):
        return {"broken": lambda key, town, n: town.nothing, "long": lambda key, town, n: jnp.zeros(n + 1)}

    run = {"algorithm": "promp", "env": "Driving-v0", "num_iterations": 1, "meta_batch_size": 2}
    for made, line in (
        ("no_such_module:references", "references = no_such_module:references: "),
        (3, "references of "),
    ):
        monkeypatch.setattr(Driving, "references", made)
        with pytest.raises(ConfigError, match=line):
            build(validate(run))
    monkeypatch.setattr(Driving, "references", staticmethod(wrong))
    job = build(validate(run))
    towns = job.evaluation_tasks(2)
    for name, line in (
        ("broken", r"reference broken of Driving: .*test_driver.py:\d+"),
        ("long", r"return \[1\] returns"),
    ):
        with pytest.raises(ConfigError, match=line):
            jax.eval_shape(lambda name=name: job.evaluation.references[name](jax.random.key(0), towns, 0))
