"""JAX's strict flags, its NaN check and old-style keys: every algorithm passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import STREAM, Probe, probe
from test_contract import ALGORITHMS

import metarl_jax as mrl
from metarl_jax.envs.tabular import tabular_mdp
from metarl_jax.meta.hyperparameters import Tuned
from metarl_jax.networks import mlp_policy
from metarl_jax.reference.q_learning import q_learning
from metarl_jax.reference.strategy import play


@pytest.mark.parametrize("name", ALGORITHMS)
def test_strict_promotion_and_old_keys(name):
    """Shapes only: promotion and the shapes of keys are questions of tracing. New keys are those of the contract."""
    key = jax.random.PRNGKey(0)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        algo = ALGORITHMS[name](2)
        state = jax.eval_shape(algo.init, key)
        after, _ = jax.eval_shape(algo.step, state, key)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_strategies_take_old_keys():
    env, tasks = tabular_mdp(num_states=3, num_actions=2, horizon=4)
    strategy = q_learning(3, 2, lr=0.1, gamma=0.9, epsilon=0.1)
    task = tasks.sample(jax.random.key(0))
    rewards = [
        play(env, strategy, key, task, num_episodes=2, horizon=4) for key in (jax.random.key(1), jax.random.PRNGKey(1))
    ]
    np.testing.assert_array_equal(*rewards)


@pytest.mark.parametrize("name", ["ppo", "meta_gradient_rl"])
def test_no_nan_where_no_episode_ends(name):
    """Episodes of 5 steps, seen 2 steps at a time."""
    env, task = Probe(), probe(**STREAM)
    policy = mlp_policy(env, (4,), critic=True)
    if name == "ppo":
        algo = mrl.ppo(env, task, policy, num_envs=2, num_steps=2, num_minibatches=1)
    else:
        algo = mrl.meta_gradient_rl(env, task, policy, {"gamma": Tuned(0.9)}, num_envs=2, num_steps=2)
    with jax.debug_nans(True):
        state, metrics = jax.jit(algo.step)(algo.init(jax.random.key(0)), jax.random.key(1))
        assert int(metrics["num_episodes"]) == 0 and float(metrics["episode_return"]) == np.inf
        assert all(bool(jnp.all(x)) for x in jax.tree.leaves(metrics["finite"]))
