"""Encoders: what networks make of images, options and grids, for every kind of learner."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import metarl_jax as mrl
from metarl_jax.envs.observations import features_of
from metarl_jax.envs.spaces import Joint, MultiDiscrete
from metarl_jax.networks.encoder import Convolution, Embedding, encoder_of
from metarl_jax.options import ConfigError
from metarl_jax.rl.rollout import rollout
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate


class Shows:
    """Only an observation space."""

    name, default_params = "Shows", None

    def __init__(self, space):
        self.space = space

    def observation_space(self, params=None):
        return self.space


IMAGE = spaces.Box(0.0, 1.0, (5, 4, 2))
PIXELS = spaces.Box(0, 255, (5, 4, 1), jnp.uint8)
CELLS = MultiDiscrete(np.broadcast_to([3, 2], (4, 3, 2)))
INTEGERS = spaces.Box(0, 2, (4, 3, 2), jnp.int32)
ALL = Joint([IMAGE, spaces.Discrete(3), MultiDiscrete([2, 4]), CELLS, spaces.Box(-9.0, 9.0, (2,)), INTEGERS, PIXELS])


def read(space, x, params=None, **options):
    """(features, parameters) of an encoder of one observation, drawn if they are not given."""
    reads = encoder_of(Shows(space), **options)
    if params is None:
        params = jax.jit(reads.init)(jax.random.key(0), x).get("params", {})
    return jax.jit(reads.apply)({"params": params}, x), params


def drawn(space, num):
    """Observations of a space, [num, ...]."""
    return jax.jit(lambda key: jax.vmap(space.sample)(jax.random.split(key, num)))(jax.random.key(0))


@pytest.mark.parametrize("size, stride, shape", [(3, 1, (5, 4)), (2, 2, (5, 7)), (1, 3, (4, 4)), (4, 1, (4, 4))])
def test_a_convolution_is_that_of_flax(x64, size, stride, shape):
    ours = Convolution(6, size, stride)
    x = np.random.default_rng(0).normal(size=(2, 3, *shape, 5))
    dense = jax.tree.map(np.asarray, jax.jit(ours.init)(jax.random.key(1), x)["params"]["Dense_0"])
    theirs = nn.Conv(6, (size, size), stride, padding="VALID", param_dtype=float)
    same = {"kernel": dense["kernel"].reshape(size, size, 5, 6), "bias": dense["bias"] + 0.5}
    params = {"Dense_0": {**dense, "bias": same["bias"]}}
    expected = jax.jit(theirs.apply)({"params": same}, x.reshape(6, *shape, 5))
    got = jax.jit(ours.apply)({"params": params}, x)
    np.testing.assert_allclose(got.reshape(expected.shape), expected, atol=1e-12)


def test_an_embedding_looks_each_number_up_in_its_own_table():
    table = Embedding((3, 2), 4)
    x = np.array([[0, 1], [2, 0], [-1, 5]])  # the last are no options
    params = jax.jit(table.init)(jax.random.key(0), x)["params"]
    got = jax.jit(table.apply)({"params": params}, x)
    first, second = (np.asarray(params[f"table_{i}"]) for i in (0, 1))
    none = np.zeros(4)
    expected = [[*first[0], *second[1]], [*first[2], *second[0]], [*none, *none]]
    np.testing.assert_array_equal(got, expected)


def test_without_options_nothing_is_learned_and_features_are_the_numbers_and_one_hots():
    sample = drawn(ALL, 3)
    got, params = read(ALL, sample)
    assert not params
    np.testing.assert_array_equal(got, jax.jit(features_of(ALL)[1])(sample))


def test_each_part_has_an_encoding_of_its_own():
    """All parts at once, against convolutions and lookups in NumPy with the same parameters."""
    sample = drawn(ALL, 2)
    got, params = read(ALL, sample, channels=[6], kernel_size=2, embedding_size=3)
    image, kind, several, cells, vector, integers, pixels = (np.asarray(x) for x in jax.jit(ALL.split)(sample))
    params = jax.tree.map(np.asarray, params)

    def convolved(x, name):
        dense = params[name]["Dense_0"]
        kernel, (rows, columns) = dense["kernel"].reshape(2, 2, x.shape[-1], 6), np.subtract(x.shape[1:3], 1)
        out = np.zeros((len(x), rows, columns, 6)) + dense["bias"]
        for i, j in np.ndindex(rows, columns):
            out[:, i, j] += np.einsum("bxyc,xycf->bf", x[:, i : i + 2, j : j + 2], kernel)
        return np.maximum(out, 0).reshape(len(x), -1)

    def looked_up(x, name):
        numbers = np.moveaxis(x.astype(int), -1, 0)
        return np.concatenate([params[name][f"table_{i}"][n] for i, n in enumerate(numbers)], -1)

    expected = [
        convolved(image, "Convolution_0"),
        looked_up(kind[:, None], "Embedding_0"),
        looked_up(several, "Embedding_1"),
        convolved(looked_up(cells, "Embedding_2"), "Convolution_1"),
        vector,
        convolved(looked_up(integers, "Embedding_3"), "Convolution_2"),
        convolved(pixels / 255, "Convolution_3"),
    ]
    np.testing.assert_allclose(got, np.concatenate(expected, -1), atol=1e-5)
    assert [x.shape for x in params["Embedding_3"].values()] == [(3, 3), (3, 3)], "0, 1 and 2 in each of two numbers"


def test_images_alone_keep_the_axes_before_them():
    for lead in ((), (7,), (2, 3)):
        got, params = read(IMAGE, np.ones((*lead, 5, 4, 2)), channels=[3, 2], kernel_size=2, stride=1)
        assert got.shape == (*lead, 3 * 2 * 2)
        kernel = params["Convolution_1"]["Dense_0"]["kernel"]
        assert kernel.shape == (2 * 2 * 3, 2)


def test_grids_without_convolutions_or_without_embeddings():
    cells = np.asarray(drawn(CELLS, 1))[0]
    looked, params = jax.tree.map(np.asarray, read(CELLS, cells, embedding_size=2))
    np.testing.assert_array_equal(looked.reshape(4, 3, 2, 2)[1, 2, 1], params["Embedding_0"]["table_1"][cells[1, 2, 1]])
    convolved, params = jax.tree.map(np.asarray, read(CELLS, cells, channels=[2], kernel_size=1))
    hot = np.concatenate([np.eye(3)[cells[1, 2, 0]], np.eye(2)[cells[1, 2, 1]]])
    expected = np.maximum(hot @ params["Convolution_0"]["Dense_0"]["kernel"], 0)
    np.testing.assert_allclose(convolved.reshape(4, 3, 2)[1, 2], expected, rtol=1e-6)
    uneven = np.full((4, 3, 2), 3)
    uneven[0, 0, 0] = 2  # not a grid: its cells have other options
    space = MultiDiscrete(uneven)
    looked, params = jax.eval_shape(lambda: read(space, jnp.zeros((4, 3, 2), int), embedding_size=2))
    assert looked.shape == (4 * 3 * 2 * 2,) and len(params["Embedding_0"]) == 24
    with pytest.raises(ValueError, match=r"channels = \[2\]: no part of the observations of Shows is an image"):
        encoder_of(Shows(space), channels=[2])


@pytest.mark.parametrize(
    "space, options, line",
    [
        (spaces.Box(0.0, 1.0, (3,)), {"channels": [4]}, "no part of the observations of Shows is an image [height"),
        (IMAGE, {"channels": [4, 4]}, "an image of 5 x 4 in Shows is too small for 2 convolutions of kernel_size = 3"),
        (IMAGE, {"channels": [4, 4]}, "; at most 1 fit"),
        (IMAGE, {"kernel_size": 2}, "kernel_size = 2: is for convolutions, and channels is empty"),
        (IMAGE, {"stride": 2}, "stride = 2: is for convolutions, and channels is empty"),
        (IMAGE, {"embedding_size": 2}, "embedding_size = 2: no part of the observations of Shows is discrete"),
        (IMAGE, {"channels": [0]}, "channels = [0]: must be greater than or equal to 1"),
        (IMAGE, {"chanels": [4]}, "encoder_of() has no option 'chanels'; did you mean channels?"),
    ],
)
def test_a_mistake_is_one_line(space, options, line):
    with pytest.raises((ValueError, TypeError), match=re.escape(line)):
        encoder_of(Shows(space), **options)


def test_a_configuration_says_what_cannot_be_encoded():
    data = {"algorithm": "ppo", "num_iterations": 2, "num_envs": 4, "num_steps": 8}
    with pytest.raises(
        ConfigError, match=r"an image of 2 x 2 in Office is too small for 1 convolutions of kernel_size"
    ):
        build(validate({**data, "env": "offices:office", "channels": [4]}))
    with pytest.raises(ConfigError, match=r"channels = \[4\]: no part of the observations of .* is an image"):
        build(validate({**data, "env": "gymnax:CartPole-v1", "channels": [4]}))


def test_the_agents_of_a_learned_rule_convolve():
    """LPG: policy and prediction have an encoder each, and an update moves all of both."""
    env, tasks = mrl.make("MinAtar:Breakout")
    rule = mrl.lpg(env, lr=0.1, hidden=(4,), outcomes=2, width=4, channels=[8], kernel_size=4, stride=3)

    @jax.jit
    def update():
        params, task = rule.policy.init(jax.random.key(0)), tasks.sample(jax.random.key(1))
        eta = rule.init(jax.random.key(4))
        data, _ = rollout(env, rule.policy.apply, params, jax.random.key(2), task, num_steps=8, num_envs=4)
        learner = rule.learner(eta)
        state = learner.init(params)
        return params, learner.update(state, jax.random.key(3), learner.prepare(state, data))[0].params

    params, after = update()
    assert [set(after[part]) for part in ("actor", "prediction")] == [{"MLP_0", "encoder"}] * 2
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), params, after)
    assert all(jax.tree.leaves(moved)), moved
