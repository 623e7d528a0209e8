"""Devices that share one training find what one device finds: a vmap stands in for them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import BOTH, acted_in_one_task, flat, make_varibad, on_devices, relative_error, vector

import metarl_jax as mrl
from metarl_jax import sharing
from metarl_jax.envs.trial import trials
from metarl_jax.networks import recurrent_policy
from metarl_jax.rl import learners
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate


@pytest.mark.parametrize("num_parts", [2, 3, 8])
@pytest.mark.parametrize("n", [2, 3, 7, 8])
def test_any_number_of_tasks_is_shared(num_parts, n):
    """What the parts have, put together, is the whole in its order; each task counts in one of them."""
    xs = jnp.arange(n * 3.0).reshape(n, 3) + 1

    def on_one():
        shares = sharing.shares_of(n)
        part = shares.part(xs)
        there = shares.whole(part), shares.whole(jnp.swapaxes(part, 0, 1), 1)
        return part.shape[0] + 0 * xs[0, 0], there, shares.counts().sum(), shares.mean(lambda x: x * x, part)

    sizes, (rows, columns), counts, means = on_devices(on_one, num_parts)
    assert set(np.asarray(sizes).tolist()) == {-(-n // num_parts)} and int(counts.sum()) == n
    for i in range(num_parts):
        np.testing.assert_array_equal(rows[i], xs)
        np.testing.assert_array_equal(columns[i], xs.T)
        np.testing.assert_allclose(means[i], (xs * xs).mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda env, tasks: mrl.rl2(
            env, tasks, recurrent_policy(env, 4), meta_batch_size=4, trials_per_task=2, num_minibatches=2, lr=0.1
        ),
        lambda env, tasks: make_varibad(env, tasks, decoder="table", trials_per_task=2, lr=0.1, vae_lr=0.1),
    ],
    ids=["rl2", "varibad"],
)
def test_devices_that_share_the_trials_take_the_step_of_one(x64, make):
    """Acting, PPO and the ELBO: in float64 nothing but the order of sums is left; 3 do not divide the 8 trials."""
    env, tasks = mrl.make("TabularMDP-v0", num_states=3, num_actions=2, horizon=3)
    env = trials(env, tasks, 2)
    algo = make(env, tasks)
    state = jax.jit(algo.init)(jax.random.key(0))
    alone, metrics = jax.jit(algo.step)(state, jax.random.key(1))
    moved = np.linalg.norm(vector(alone.params) - vector(state.params))
    assert moved > 0.1
    for num_parts in (4, 3):
        each, seen = on_devices(lambda: algo.step(state, jax.random.key(1)), num_parts)
        for place in range(num_parts):
            own = jax.tree.map(lambda x: np.asarray(x)[place], each.params)  # noqa: B023
            assert np.linalg.norm(vector(own) - vector(alone.params)) < 1e-7 * moved
        for name in metrics.keys() - {"finite", "faulty_step"}:
            np.testing.assert_allclose(seen[name], np.full(num_parts, metrics[name]), rtol=1e-7, err_msg=name)


SIZES = {
    "rl2": {"num_episodes": 2, "meta_batch_size": 4, "num_minibatches": 2, "size": 4},
    "varibad": {"num_episodes": 2, "meta_batch_size": 4, "num_minibatches": 2, "hidden": [4], "encoder_size": 4},
    "promp": {"meta_batch_size": 2, "episodes_per_task": 3, "hidden": [4]},
}


@pytest.mark.parametrize("algorithm", SIZES)
def test_devices_that_share_a_training_keep_the_same_statistics(algorithm):
    problem = {"env": "PointNavigation-v0", "env_options": {"horizon": 5}, "num_iterations": 3}
    job = build(validate({"algorithm": algorithm, **problem, **SIZES[algorithm], **BOTH}))
    state = jax.jit(job.algorithm.init)(jax.random.key(0))

    def step():
        params = job.algorithm.step(state, jax.random.key(1))[0].params
        return params.get("policy", params)["normalizer"]

    alone, each = jax.jit(step)(), on_devices(step, 2)
    for place in range(2):
        own = jax.tree.map(lambda x: np.asarray(x)[place], each)  # noqa: B023
        chex.assert_trees_all_close(own, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("critic", [False, True], ids=["linear", "critic"])
def test_devices_that_share_the_columns_of_a_gradient_make_the_same_step(x64, critic):
    """Of episodes of different lengths, and of single steps; some numbers divide neither."""
    policy, params, out = acted_in_one_task(critic)
    own = {"baseline": "critic" if critic else "linear", "gamma": 0.9, "gae_lambda": 0.8}
    double = lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
    params, out = jax.tree.map(double, (params, out))
    assert len(set(np.asarray(out.mask.sum(axis=0)).tolist())) > 1, "the parts weigh differently"

    def step(share_columns, num_minibatches):
        more = {
            "share_columns": share_columns,
            "num_minibatches": num_minibatches,
            "num_epochs": 2,
            "entropy_coef": 0.1,
        }
        learner = learners.ppo(policy, 0.3, **own, **more)
        state = learner.init(params)
        return flat(learner.update(state, jax.random.key(0), learner.prepare(state, out))[0].params)

    for num_minibatches in (1, 3):
        alone = jax.jit(lambda n=num_minibatches: step(False, n))()
        assert np.linalg.norm(alone - vector(params)) > 1e-3
        for num_parts in (2, 5) if num_minibatches == 1 else (3, 4):
            for found in np.asarray(on_devices(lambda n=num_minibatches: step(True, n), num_parts)):
                assert relative_error(found, alone) < 1e-13


POINT = {"env": "PointNavigation-v0", "horizon": 4, "num_iterations": 3, "meta_batch_size": 4, "episodes_per_task": 3}
FAMILY = {
    "maml": {"algorithm": "maml", "outer_epochs": 2},
    "promp": {"algorithm": "promp", "outer_epochs": 2, "normalize_observations": True},
    "e_maml": {"algorithm": "e_maml"},
    # More steps of conjugate gradients make of the last digit, in which sums differ, the first.
    "maml_trpo": {"algorithm": "maml_trpo", "cg_steps": 4},
    "maml_trpo, fewer tasks": {"algorithm": "maml_trpo", "cg_steps": 4, "fisher_tasks": 3},
    "imaml": {"algorithm": "imaml"},
    "reptile": {"algorithm": "reptile"},
}


@pytest.mark.parametrize("name", FAMILY)
def test_devices_that_share_the_tasks_take_the_outer_step_of_one(x64, name):
    """Gradients, conjugate gradients, line searches and statistics; 3 devices do not divide the 4 tasks."""
    job = build(validate({**POINT, "hidden": [4], **FAMILY[name]}))
    state = jax.jit(job.algorithm.init)(jax.random.key(0))
    alone, metrics = jax.jit(job.algorithm.step)(state, jax.random.key(1))
    moved = np.linalg.norm(vector(alone.params) - vector(state.params))
    assert moved > 1e-4
    for num_parts in (2, 3) if name in ("promp", "maml_trpo") else (3,):
        each, seen = on_devices(lambda: job.algorithm.step(state, jax.random.key(1)), num_parts)
        for place in range(num_parts):
            own = jax.tree.map(lambda x: np.asarray(x)[place], each.params)  # noqa: B023
            assert np.linalg.norm(vector(own) - vector(alone.params)) < 1e-10 * moved
        if "grad_norm" in metrics:
            np.testing.assert_allclose(seen["grad_norm"], np.full(num_parts, metrics["grad_norm"]), rtol=1e-12)
        for key in metrics.keys() - {"finite", "faulty_step"}:
            wanted = np.full(num_parts, metrics[key])
            np.testing.assert_allclose(seen[key], wanted, rtol=1e-7, atol=1e-12, err_msg=key)
