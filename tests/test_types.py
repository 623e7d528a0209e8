"""What `types` says of shapes and types holds of real rollouts and batches; what is wrong is found."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError, jaxtyped

import metarl_jax as mrl
from metarl_jax import types
from metarl_jax.networks import mlp_policy
from metarl_jax.rl import learners, losses, returns
from metarl_jax.rl.rollout import rollout


def check(data, annotated):
    """Every array of `data` is as the class says, with one size a letter."""
    with jaxtyped("context"):
        for field in dataclasses.fields(annotated):
            value = getattr(data, field.name)
            if value is not None and field.type is not types.Any:
                assert isinstance(value, field.type), (field.name, field.type, value.shape, value.dtype)


@pytest.mark.parametrize(
    "name", ["PointNavigation-v0", "BernoulliBandit-v0", "gymnax:FrozenLake-misc", "gymnax:Catch-bsuite"]
)
@pytest.mark.parametrize("auto_reset", [False, True])
def test_rollouts_and_batches(name, auto_reset):
    env, tasks = mrl.make(name)
    policy = mlp_policy(env, (4,), critic=True)

    def collect(key):
        params = policy.init(key)
        data, _ = rollout(
            env, policy.apply, params, key, tasks.sample(key), num_steps=5, num_envs=3, auto_reset=auto_reset
        )
        learner = learners.ppo(policy)
        check(data, types.Rollout)
        check(learner.prepare(learner.init(params), data), types.Batch)
        return data.reward

    assert jax.eval_shape(collect, jax.random.key(0)).shape == (5, 3)


def test_wrong_shapes_are_found():
    x, done = jnp.ones((4, 2)), jnp.zeros((4, 2), bool)
    assert returns.gae(x, x, x, done, done, 1, 0.5).shape == (4, 2)
    for wrong in (lambda: returns.gae(x, x[:, 0], x, done, done, 1.0, 0.5), lambda: losses.vpg(x, x[0], x)):
        with pytest.raises(TypeCheckError):
            wrong()
    with pytest.raises(TypeCheckError):
        returns.discounted_returns(x, x, 0.9)  # done has to be bool
