"""Rollouts: what is recorded where, on environments that count; and PPO on probes with known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe, probe
from problems import point

import metarl_jax as mrl
from metarl_jax.networks import mlp_policy
from metarl_jax.rl import learners
from metarl_jax.rl.rollout import completed, episode_returns, reset, rollout

ENV = Probe()
POLICY = mlp_policy(ENV, hidden=(8,), critic=True)


@pytest.fixture(scope="module")
def params():
    return POLICY.init(jax.random.key(0))


def run(params, task, carry=None, num_steps=5, key=0, **options):
    options = {"num_steps": num_steps, "num_envs": 2, **options}
    act = jax.jit(lambda p, k, t, c: rollout(ENV, POLICY.apply, p, k, t, c, **options))
    return act(params, jax.random.key(key), task, carry)


def column(x):
    return np.asarray(x)[:, 1].tolist()


def test_episode_ends_by_termination(params):
    out, _ = run(params, probe(constant=2.0, length=3, show_time=True))
    assert column(out.mask) == [1, 1, 1, 0, 0]
    assert column(out.reward) == [2, 2, 2, 0, 0]
    assert column(out.terminated) == [False, False, True, False, False]
    assert not out.truncated.any()
    assert column(out.episode_return) == [2, 4, 6, 6, 6]
    assert column(out.episode_length) == [1, 2, 3, 3, 3]
    assert column(out.observation[..., 1])[:3] == [0, 1, 2]
    assert column(out.next_observation[..., 1])[:3] == [1, 2, 3]
    assert episode_returns(out).tolist() == [6, 6]


def test_episode_ends_by_truncation(params):
    out, _ = run(params, probe(constant=2.0, length=3, terminates=False))
    assert column(out.mask) == [1, 1, 1, 0, 0]
    assert column(out.truncated) == [False, False, True, False, False]
    assert not out.terminated.any()
    assert episode_returns(out).tolist() == [6, 6]


def test_the_end_of_the_rollout_truncates_an_episode(params):
    out, _ = run(params, probe(constant=2.0, length=9))
    assert column(out.mask) == [1] * 5
    assert column(out.truncated) == [False] * 4 + [True]
    assert not out.terminated.any()
    out, _ = run(params, probe(length=5))
    assert column(out.terminated) == [False] * 4 + [True] and not out.truncated.any()


@pytest.mark.parametrize("terminates", [True, False])
def test_auto_reset_keeps_the_task_and_goes_on_from_the_carry(params, terminates):
    task = probe(constant=2.0, length=3, terminates=terminates, show_time=True, random_signal=True)
    first, carry = run(params, task, auto_reset=True)
    second, _ = run(params, task, carry, key=1, auto_reset=True)
    out = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    assert column(out.mask) == [1] * 10
    assert column(out.reward) == [2] * 10
    ends = [False, False, True] * 3 + [False]
    assert column(out.terminated if terminates else out.truncated) == ends
    assert not (out.truncated if terminates else out.terminated).any()
    assert column(out.episode_length) == [1, 2, 3] * 3 + [1]
    assert column(out.episode_return) == [2, 4, 6] * 3 + [2]
    assert column(out.observation[..., 1]) == [0, 1, 2] * 3 + [0]
    assert column(out.next_observation[..., 1]) == [1, 2, 3] * 3 + [1], "the final observation, before the reset"
    found = completed(out)
    assert (float(found["episode_return"]), float(found["episode_length"]), int(found["num_episodes"])) == (6, 3, 6)


def test_every_reset_draws_anew(params):
    task = probe(random_signal=True, length=1)
    out, _ = run(params, task, num_steps=40, auto_reset=True)
    signal = np.asarray(out.observation[..., 0])
    assert set(signal.ravel().tolist()) == {-1.0, 1.0}
    assert 20 < (signal > 0).sum() < 60
    assert (signal[:, 0] != signal[:, 1]).any()
    assert set(np.asarray(reset(ENV, jax.random.key(0), task, 20).observation[:, 0]).tolist()) == {-1.0, 1.0}


def test_stored_log_prob_is_that_of_the_stored_action():
    env, tasks, policy = point()
    params = policy.init(jax.random.key(0))
    act = jax.jit(lambda k: rollout(env, policy.apply, params, k, tasks.sample(k), num_steps=6, num_envs=3)[0])
    out = act(jax.random.key(1))
    expected = policy.apply(params, out.observation).log_prob(out.action)
    assert out.log_prob.shape == (6, 3)
    np.testing.assert_allclose(out.log_prob, expected, rtol=1e-5)
    assert len(np.unique(np.asarray(out.action[..., 0]))) == 18, "every step of every environment has its own noise"
    moved = out.observation + jnp.clip(out.action, -0.1, 0.1)
    np.testing.assert_allclose(jnp.where(out.mask[..., None] > 0, moved - out.next_observation, 0), 0, atol=1e-6)


def test_nothing_in_a_rollout_depends_differentiably_on_the_parameters():
    """A Gaussian sample is reparameterised, so without a stop-gradient everything would."""
    env, tasks, policy = point()
    task = tasks.sample(jax.random.key(0))

    def total(params):
        out, carry = rollout(env, policy.apply, params, jax.random.key(1), task, num_steps=5, num_envs=2)
        leaves = [x for x in jax.tree.leaves((out, carry)) if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum(jnp.sum(x) for x in leaves)

    gradient = jax.jit(jax.grad(total))(policy.init(jax.random.key(2)))
    assert all(bool(jnp.all(x == 0)) for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("terminates", [True, False])
def test_only_truncations_bootstrap_from_the_final_observation(params, terminates):
    out, _ = run(params, probe(constant=1.0, length=3, terminates=terminates, show_time=True), auto_reset=True)
    learner = learners.ppo(POLICY, gamma=0.5, gae_lambda=0.0, normalize_advantage=False)
    batch = learner.prepare(learner.init(params), out)
    final = float(POLICY.value(params, jnp.array([0.0, 3.0])))
    first = float(POLICY.value(params, jnp.array([0.0, 1.0])))
    np.testing.assert_allclose(batch.target[2], 1.0 if terminates else 1.0 + 0.5 * final, rtol=1e-5)
    np.testing.assert_allclose(batch.target[0], 1.0 + 0.5 * first, rtol=1e-5)
    assert abs(final) > 0.01


def test_ppo_goes_on_where_its_environments_stand():
    """Episodes of 3 steps, seen 2 steps at a time: none ends in the first iteration."""
    algo = mrl.ppo(ENV, probe(constant=1.0, length=3), POLICY, num_envs=2, num_steps=2, num_minibatches=1)
    keys = jax.random.split(jax.random.key(0), 4)
    train = jax.jit(lambda keys: jax.lax.scan(algo.step, algo.init(keys[0]), keys[1:]))
    _, metrics = train(keys)
    assert metrics["num_episodes"].tolist() == [0, 2, 2]
    np.testing.assert_array_equal(metrics["episode_return"], [np.inf, 3, 3])
    np.testing.assert_array_equal(metrics["episode_length"], [np.inf, 3, 3])


PROBES = {
    "constant reward": probe(constant=1.0),
    "reward by observation": probe(by_observation=1.0, random_signal=True),
    "reward at the second step": probe(constant=1.0, length=2, only_at_end=True, show_time=True),
    "truncated, not terminated": probe(constant=1.0, terminates=False),
    "reward by action": probe(by_action=1.0),
    "reward by action and observation": probe(by_match=1.0, random_signal=True),
}
# name -> {observation: value}, {observation: the better action}, at gamma = .5
ANSWERS = {
    "constant reward": ({(0, 0): 1.0}, {}),
    "reward by observation": ({(1, 0): 1.0, (-1, 0): -1.0}, {}),
    "reward at the second step": ({(0, 0): 0.5, (0, 1): 1.0}, {}),
    "truncated, not terminated": ({(0, 0): 2.0}, {}),  # 1 + .5 + .25 + ...: it would go on
    "reward by action": ({(0, 0): 1.0}, {(0, 0): 1}),
    "reward by action and observation": ({(1, 0): 1.0, (-1, 0): 1.0}, {(1, 0): 1, (-1, 0): 0}),
}


@pytest.fixture(scope="module")
def learned():
    """{name: parameters} after 150 iterations of PPO on every probe at once."""

    def train(task, key):
        options = dict(lr=1e-2, gamma=0.5, num_envs=8, num_steps=8, num_epochs=4, num_minibatches=2)
        algo = mrl.ppo(ENV, task, POLICY, **options)
        init_key, key = jax.random.split(key)
        return jax.lax.scan(algo.step, algo.init(init_key), jax.random.split(key, 150))[0].learner.params

    tasks = jax.tree.map(lambda *x: jnp.stack(x), *PROBES.values())
    trained = jax.jit(jax.vmap(train))(tasks, jax.random.split(jax.random.key(0), len(PROBES)))
    return {name: jax.tree.map(lambda x, i=i: x[i], trained) for i, name in enumerate(PROBES)}


@pytest.mark.parametrize("name", PROBES)
def test_ppo_learns_the_probe(learned, name):
    values, actions = ANSWERS[name]
    for observation, value in values.items():
        got = float(POLICY.value(learned[name], jnp.asarray(observation, float)))
        assert got == pytest.approx(value, abs=0.1), f"value of {observation}"
    for observation, action in actions.items():
        probability = POLICY.apply(learned[name], jnp.asarray(observation, float)).probs[action]
        assert float(probability) > 0.95, f"probability of action {action} at {observation}"
