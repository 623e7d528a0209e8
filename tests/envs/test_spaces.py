"""Environments of any spaces: dictionaries of observations, several actions at once, for every kind of learner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from jax.flatten_util import ravel_pytree
from offices import LEARNERS, Room, office
from problems import flat, store_trial

import metarl_jax as mrl
from metarl_jax.envs.observations import features_of, flattener
from metarl_jax.envs.spaces import Joint, MultiDiscrete, one_array
from metarl_jax.envs.trial import trials
from metarl_jax.networks import mlp_policy
from metarl_jax.options import ConfigError
from metarl_jax.rl import learners
from metarl_jax.rl.normalize import Moments, normalize, normalized, update
from metarl_jax.rl.rollout import rollout
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate


def test_a_joint_space_holds_the_numbers_of_its_parts():
    space = Joint([spaces.Box(0.0, 1.0, (2, 1)), spaces.Discrete(3), MultiDiscrete([2, 4])])
    values = [jnp.array([[0.5], [0.25]]), jnp.array(2), jnp.array([1, 3])]
    vector, split = np.asarray(jax.jit(space.join)(values)), jax.jit(space.split)
    np.testing.assert_array_equal(vector, [0.5, 0.25, 2, 1, 3])
    for value, back in zip(values, split(vector), strict=True):
        assert back.dtype == value.dtype
        np.testing.assert_array_equal(back, value)
    batched = split(np.stack([vector, vector]))
    assert [x.shape for x in batched] == [(2, 2, 1), (2,), (2, 2)]
    size, features = features_of(space)
    np.testing.assert_array_equal(jax.jit(features)(vector), [0.5, 0.25, 0, 0, 1, 0, 1, 0, 0, 0, 1])
    assert size == 11 and space.shape == (5,) and Joint([spaces.Discrete(3)]).dtype == jnp.int32
    contains = jax.jit(jax.vmap(space.contains))
    samples = np.asarray(jax.jit(jax.vmap(space.sample))(jax.random.split(jax.random.key(0), 500)))
    assert np.all(contains(samples))
    wrong = samples.copy()
    wrong[:, 2] = 3
    assert not np.any(contains(wrong))
    for column, options in ((2, 3), (3, 2), (4, 4)):
        counts = np.bincount(samples[:, column].astype(int), minlength=options)
        assert counts.min() > 500 / options * 0.7 and counts.size == options


@pytest.mark.parametrize("actions", ["several", "mixed"])
def test_an_environment_of_one_array_is_the_one_inside(actions):
    env, tasks = office(actions)
    whole = one_array(env)
    key, task = jax.random.key(0), jax.jit(tasks.sample)(jax.random.key(1))
    (inside, state), (seen, same) = (jax.jit(e.reset_env)(key, task) for e in (env, whole))
    place, rest = inside["rest"]
    np.testing.assert_allclose(seen, [*np.ravel(inside["picture"]), *place, rest["kind"], *rest["switches"]])
    assert whole.name == "Office" and whole.observation_space().shape == seen.shape
    action = jnp.array([1, 2]) if actions == "several" else jnp.array([0.5, -0.5, 1.0, 2.0])
    nested = action if actions == "several" else {"turn": np.asarray(action)[:2, None], "choose": (jnp.array([1, 2]),)}
    ours, theirs = jax.jit(whole.step_env)(key, same, action, task), jax.jit(env.step_env)(key, state, nested, task)
    np.testing.assert_array_equal(ours[2], theirs[2])
    np.testing.assert_array_equal(np.asarray(ours[0])[:4], np.ravel(theirs[0]["picture"]))
    plain, _ = mrl.make("PointNavigation-v0")
    assert one_array(plain) is plain
    assert trials(env, tasks, 2).observation_features[0] == flattener(whole)[0] == 4 + 2 + 3 + 5


RUN = {"num_iterations": 2, "env": "offices:office"}
ENCODING = {"channels": [8], "kernel_size": 2, "embedding_size": 2}


@pytest.mark.parametrize(
    ("algorithm", "actions", "encoding"),
    [*((name, "mixed", ENCODING) for name in LEARNERS), ("rl2", "several", {})],
)
def test_every_kind_of_learner_trains_on_dictionaries_and_several_actions(algorithm, actions, encoding):
    """Also with convolutions and embeddings of its own, all of which move."""
    name = "rl2" if algorithm == "transformer" else algorithm
    data = {"algorithm": name, **RUN, "env_options": {"actions": actions}, **LEARNERS[algorithm], **encoding}
    job = build(validate(data))

    def two(key):
        state = job.algorithm.init(key)
        return state, *jax.lax.scan(job.algorithm.step, state, jax.random.split(key))

    before, after, metrics = jax.jit(two)(jax.random.key(0))
    assert all(np.all(x) for x in jax.tree.leaves(metrics["finite"]))
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), job.params(before), job.params(after))
    assert all(jax.tree.leaves(moved)), moved
    assert ("table_0" in str(jax.tree.structure(moved))) == bool(encoding)


def test_second_order_gradients_through_encoders_and_mixed_actions(x64):
    """MAML's meta-gradient against central differences of the meta-loss: every leaf, in float64."""
    env, tasks = one_array(office("mixed")[0]), office("mixed")[1]
    problem = env, tasks, mlp_policy(env, (4,), **ENCODING)
    inner = learners.policy_gradient(problem[2], 0.3)
    algo = mrl.maml(*problem, inner, meta_batch_size=2, episodes_per_task=4, num_outer_epochs=1)
    params, trial = store_trial(algo, problem)
    _, gradient = jax.jit(algo.meta_gradient)(params, trial)
    vector, unravel = ravel_pytree(params)
    assert all(np.any(x) for x in jax.tree.leaves(gradient))
    loss, slope = jax.jit(lambda vector: algo.meta_loss(unravel(vector), trial)), np.asarray(flat(gradient))
    for place, direction in enumerate(np.random.default_rng(0).normal(size=(4, vector.size))):
        up, down = (float(loss(np.asarray(vector) + sign * 1e-6 * direction)) for sign in (1, -1))
        np.testing.assert_allclose(slope @ direction, (up - down) / 2e-6, rtol=1e-5, err_msg=str(place))


def test_ppo_learns_several_actions_at_once():
    """The wanted pair of one task, from a reward that counts both: half of it is to be had by one of them."""
    env, tasks = mrl.make("offices:office", actions="mixed")
    policy = mlp_policy(env, (16,), critic=True)
    task = Room(wanted=jnp.array([1, 2]))
    algo = mrl.ppo(env, task, policy, num_envs=16, num_steps=16, lr=1e-2, num_iterations=60)

    @jax.jit
    def trained(key):
        state, _ = jax.lax.scan(algo.step, algo.init(key), jax.random.split(key, 60))
        return rollout(env, policy.apply, state.learner.params, key, task, num_steps=4, num_envs=64)[0].reward.mean()

    assert float(trained(jax.random.key(0))) > 0.7


def test_a_space_that_nothing_reads_is_one_line():
    with pytest.raises(
        ConfigError, match="env = offices:broken: a part of its observation_space is a object, not a Box"
    ):
        build(validate({"algorithm": "rl2", **RUN, "env": "offices:broken", "num_episodes": 2, "meta_batch_size": 2}))
    with pytest.raises(ConfigError, match="env = offices:uneven: its action_space depends on the task, and a program"):
        mrl.make("offices:uneven")
    with pytest.raises(ConfigError, match="lpg: reads the probabilities of actions, which must be one discrete number"):
        build(validate({"algorithm": "lpg", **RUN, "num_agents": 2, "num_envs": 2, "num_steps": 4, "eval_updates": 2}))
    with pytest.raises(ConfigError, match="squash = True: needs box actions, and those of Office are discrete"):
        build(validate({"algorithm": "ppo", **RUN, **LEARNERS["ppo"], "squash": True}))


def test_statistics_are_of_quantities_only():
    """Of the office's numbers: the picture and the place are normalised, the kind and the switches are not."""
    env = one_array(office()[0])
    policy = normalized(mlp_policy(env, (4,), **ENCODING), env, normalize_observations=True)
    params = jax.jit(policy.init)(jax.random.key(0))
    seen = np.float32([[1.0, 1, 2, 2, 0.2, -1, 2, 0, 2], [0.0, 1, 0, 1, 0.1, 0, 1, 1, 1]])
    params["normalizer"]["observation"] = jax.jit(update)(Moments.of((9,)), seen * 5 + 3, np.ones(2))
    inside = np.array(jax.jit(normalize)(params["normalizer"]["observation"], seen))
    inside[:, 6:] = seen[:, 6:]
    own, action = {name: x for name, x in params.items() if name != "normalizer"}, np.array([[1, 2], [0, 1]])
    plain = mlp_policy(env, (4,), **ENCODING)
    got = jax.jit(lambda x: policy.apply(params, x).log_prob(action))(seen)
    expected, other = (jax.jit(lambda x: plain.apply(own, x).log_prob(action))(x) for x in (inside, seen))
    np.testing.assert_array_equal(got, expected)
    assert not np.array_equal(got, other)


def test_a_trial_shows_options_by_their_numbers():
    env, tasks = office("mixed")
    trial = trials(env, tasks, 2)
    first, state = jax.tree.map(np.asarray, jax.jit(trial.reset_env)(jax.random.key(0), Room()))
    np.testing.assert_array_equal(first[9:], [0, 0, -1, -1, 0, 0])
    after = jax.jit(trial.step_env)(jax.random.key(1), state, np.array([0.5, -0.5, 1, 2]), Room())
    np.testing.assert_allclose(np.asarray(after[0])[9:], [0.5, -0.5, 1, 2, after[2], 0], rtol=1e-6)
    size, features = features_of(trial.observation_space())
    features = jax.jit(features)
    np.testing.assert_array_equal(np.asarray(features(first))[-9:], 0)  # no action is no option
    assert size == 4 + 2 + 3 + 5 + 2 + 5 + 2 and np.asarray(features(after[0]))[-7:-2].tolist() == [0, 1, 0, 0, 1]
