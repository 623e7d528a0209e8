"""An environment of dictionaries and tuples, with several actions at once, as a user would write it."""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metarl_jax.envs.spaces import MultiDiscrete
from metarl_jax.envs.tasks import TaskDistribution

LEARNERS = {
    "ppo": {"num_envs": 4, "num_steps": 8, "hidden": [8], "num_minibatches": 2},
    "rl2": {"num_episodes": 2, "meta_batch_size": 4, "num_minibatches": 2, "size": 8},
    "transformer": {
        "network": "transformer",
        "num_episodes": 2,
        "meta_batch_size": 4,
        "num_minibatches": 2,
        "size": 8,
        "num_heads": 2,
    },
    "varibad": {"num_episodes": 2, "meta_batch_size": 4, "num_minibatches": 2, "hidden": [8], "encoder_size": 8},
    "lirpg": {
        "num_agents": 2,
        "num_envs": 2,
        "num_steps": 4,
        "hidden": [8],
        "num_inner_steps": 2,
        "lifetime": 4,
        "eval_updates": 2,
    },
}


@struct.dataclass
class Room(environment.EnvParams):
    wanted: jax.Array = struct.field(default_factory=lambda: jnp.array([1, 2]))


@struct.dataclass
class Seen(environment.EnvState):
    shown: jax.Array
    time: jax.Array


class Office(environment.Environment):
    """Shows a picture, a place, a kind and two switches; pays for the wanted ones of the actions taken."""

    name, num_actions = "Office", 0

    def __init__(self, actions):
        super().__init__()
        self.actions = actions

    @property
    def default_params(self):
        return Room()

    def reset_env(self, key, params):
        state = Seen(jax.random.randint(key, (), 0, 3), jnp.zeros((), int))
        return self.look(state), state

    def look(self, state):
        place = jnp.stack([state.time * 0.1, 1.0 - state.time])
        inside = {"kind": state.shown, "switches": jnp.stack([state.shown % 2, state.shown])}
        return {"picture": jnp.full((2, 2, 1), state.shown, float), "rest": (place, inside)}

    def step_env(self, key, state, action, params):
        if self.actions == "several":
            chosen, turned = action, 0.0
        else:
            assert set(action) == {"turn", "choose"}, action
            chosen, turned = action["choose"][0], action["turn"]
            assert turned.shape == (2, 1) and jnp.issubdtype(chosen.dtype, jnp.integer)
        reward = jnp.mean((chosen == params.wanted).astype(float)) - 0.1 * jnp.sum(jnp.square(turned))
        state = Seen(jax.random.randint(key, (), 0, 3), state.time + 1)
        return self.look(state), state, reward, jnp.zeros((), bool), {}

    def is_terminated(self, state, params):
        return jnp.zeros((), bool)

    def is_truncated(self, state, params):
        return state.time >= 4

    def action_space(self, params=None):
        chosen = MultiDiscrete([2, 3])
        if self.actions == "several":
            return chosen
        return spaces.Dict({"turn": spaces.Box(-1.0, 1.0, (2, 1)), "choose": spaces.Tuple([chosen])})

    def observation_space(self, params=None):
        inside = spaces.Dict({"kind": spaces.Discrete(3), "switches": MultiDiscrete([2, 3])})
        rest = spaces.Tuple([spaces.Box(-9.0, 9.0, (2,)), inside])
        return spaces.Dict({"picture": spaces.Box(0.0, 1.0, (2, 2, 1)), "rest": rest})


def office(actions="several"):
    def sample(key):
        return Room(wanted=jnp.stack([jax.random.randint(key, (), 0, 2), jax.random.randint(key, (), 0, 3)]))

    return Office(actions), TaskDistribution(sample=sample, horizon=4)


def broken():
    """One with a part that is no space."""
    env, tasks = office()
    env.observation_space = lambda params=None: spaces.Dict({"a": object()})
    return env, tasks


def uneven():
    """One whose tasks differ in the number of actions."""
    env, tasks = office()
    env.action_space = lambda params=None: spaces.Discrete(2 if params is None else params.wanted[0] + 2)
    return env, tasks
