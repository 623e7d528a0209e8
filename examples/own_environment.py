"""An environment and tasks of your own, trained by a shipped algorithm.

A trolley on a rail is to be brought to 0. Its motor may be wired the wrong way round, which the agent is not told: the
sign is the task, and it gets one policy-gradient step on its own experience to find out. An environment is any object
with the functions below (docs/how-to/own-environment.md); it need not inherit from anything.
"""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces

import metarl_jax as mrl

HORIZON = 20


@struct.dataclass
class Motor:
    """The task, a pytree: metres that the trolley moves at full power; negative where the wires are swapped."""

    gain: jax.Array


@struct.dataclass
class State:
    position: jax.Array  # [] metres
    time: jax.Array  # [] steps


class Trolley:
    """Observation [1]: the position. Action [1] in [-1, 1]: the power. Reward: -|position|."""

    name, default_params = "Trolley", Motor(0.2)

    def reset_env(self, key, task):
        state = State(jax.random.uniform(key, minval=-1.0, maxval=1.0), jnp.zeros((), int))
        return state.position[None], state

    def step_env(self, key, state, action, task):
        state = State(state.position + task.gain * jnp.clip(action[0], -1.0, 1.0), state.time + 1)
        return state.position[None], state, -jnp.abs(state.position), jnp.zeros((), bool), {}

    def is_truncated(self, state, task):
        return state.time >= HORIZON

    def observation_space(self, task):
        return spaces.Box(-jnp.inf, jnp.inf, (1,))

    def action_space(self, task):
        return spaces.Box(-1.0, 1.0, (1,))


def trolley():
    """What `mrl.register` takes: a factory of the environment and its tasks."""
    gains = jnp.concatenate([jnp.linspace(-0.3, -0.1, 20), jnp.linspace(0.1, 0.3, 20)])
    return Trolley(), mrl.TaskDistribution.from_members(Motor(gains), HORIZON)


def main(num_iterations=150, seed=0):
    """Returns: mean return [task, update] on held-out motors, and their gains."""
    mrl.register("Trolley-v0", trolley)
    env, tasks = mrl.make("Trolley-v0")  # checked here, once: what is missing or misshapen is one line
    train_tasks, _ = tasks.split(seed=0)  # a fifth of the motors is held out
    policy = mrl.networks.mlp_policy(env, hidden=(32, 32), init_std=0.5)
    inner = mrl.inner.policy_gradient(policy, lr=0.1)
    algo = mrl.promp(env, train_tasks, policy, inner, meta_batch_size=20, episodes_per_task=10, outer_lr=1e-3)
    keys = jax.random.split(jax.random.key(seed), num_iterations + 2)
    state, _ = jax.jit(lambda state, keys: jax.lax.scan(algo.step, state, keys))(algo.init(keys[0]), keys[2:])
    held_out = tasks.evaluation_tasks(8)
    scores = mrl.evaluation.adaptation_curve(algo, state.params, keys[1], held_out, num_updates=1).mean(axis=-1)
    print("mean return on held-out motors\n  gain  before  after one update")
    for gain, (before, after) in zip(held_out.gain, scores, strict=True):
        print(f"{gain:6.2f}  {before:6.1f}  {after:16.1f}")
    print("Look at both signs of the gain: after one update the policy serves either.")
    return scores, held_out.gain


if __name__ == "__main__":
    main()
