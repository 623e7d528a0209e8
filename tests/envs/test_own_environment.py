"""What is said of an environment of one's own that is not one yet, before anything is compiled."""

import jax
import jax.numpy as jnp
import pytest
from flax import struct
from gymnax.environments import spaces

from metarl_jax.envs.protocol import check_environment
from metarl_jax.envs.tasks import TaskDistribution
from metarl_jax.options import ConfigError


@struct.dataclass
class State:
    time: jax.Array


class Boat:
    """One number in, one out; subclasses get something wrong."""

    name, default_params, space = "Boat", jnp.zeros(()), spaces.Box(-1.0, 1.0, (1,))

    def reset_env(self, key, task):
        return jnp.zeros(1), State(jnp.zeros((), int))

    def step_env(self, key, state, action, task):
        return action, State(state.time + 1), -task, jnp.zeros((), bool), {}

    def is_truncated(self, state, task):
        return state.time >= 5

    def observation_space(self, task):
        return self.space

    def action_space(self, task):
        return self.space


class Branches(Boat):
    def step_env(self, key, state, action, task):
        if action[0] > 0:
            return super().step_env(key, state, action, task)


class TupleOfBounds(Boat):
    space = (-1.0, 1.0)

    def step_env(self, key, state, action, task):
        return jnp.zeros(1), State(state.time + 1), -task, jnp.zeros((), bool), {}


class NoClock(Boat):
    is_truncated = property()


TASKS = TaskDistribution(lambda key: jax.random.uniform(key), 5)


def test_one_that_is_right_is_taken():
    env, tasks = check_environment("boat:boat", (Boat(), TASKS))
    assert isinstance(env, Boat) and tasks is TASKS


@pytest.mark.parametrize(
    "made, said",
    [
        ((Branches(), TASKS), r"boolean conversion .*\(test_own_environment.py:\d+\); in compiled code `if` is jnp"),
        ((TupleOfBounds(), TASKS), "a tuple, not a space such as gymnax's spaces.Box"),
        ((NoClock(), TASKS), "NoClock has no is_truncated; an environment needs default_params, reset_env"),
        ((Boat(), 3), "its tasks have no sample; return a TaskDistribution"),
        (Boat(), r"its factory must return \(environment, tasks\), not Boat"),
    ],
    ids=lambda x: "" if isinstance(x, str) else None,
)  # fmt: skip
def test_what_is_missing_or_wrong_is_one_line(made, said):
    with pytest.raises(ConfigError, match=said) as caught:
        check_environment("boat:boat", made)
    assert str(caught.value).startswith("env = boat:boat: ") and "\n" not in str(caught.value)
