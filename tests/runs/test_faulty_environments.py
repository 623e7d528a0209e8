"""A run ends with one line that names the environment, the step and what it gave that is not finite."""

import jax.numpy as jnp
import pytest
from probes import STREAM, Probe, probe

from metarl_jax import envs
from metarl_jax.envs import TaskDistribution
from metarl_jax.runs import train
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate


class Faulty(Probe):
    """Episodes of 5 steps; step `step` gives NaN, as the reward or in the observation."""

    def __init__(self, what, step):
        super().__init__()
        self.what, self.step = what, step

    def get_obs(self, state, params, key=None):
        observation = super().get_obs(state, params)
        return jnp.where((self.what == "observation") & (state.time == self.step), jnp.nan, observation)

    def step_env(self, key, state, action, params):
        observation, state, reward, *rest = super().step_env(key, state, action, params)
        return (
            observation,
            state,
            jnp.where((self.what == "reward") & (state.time == self.step), jnp.nan, reward),
            *rest,
        )


def faulty(what: str = "reward", step: int = 3):
    return Faulty(what, step), TaskDistribution(lambda key: probe(**STREAM), 5)


envs.register("Faulty-v0", faulty, "gives NaN")
SMALL = {"env": "Faulty-v0", "num_iterations": 2, "hidden": [4]}
ALGORITHMS = {
    "ppo": {"num_envs": 2, "num_steps": 8, "num_minibatches": 1},
    "maml": {"meta_batch_size": 1, "episodes_per_task": 2, "outer_epochs": 1},
    "rl2": {"num_episodes": 2, "meta_batch_size": 2, "num_minibatches": 1, "size": 4},
    "lpg": {"num_agents": 2, "num_envs": 2, "num_steps": 5, "lifetime": 2, "num_inner_steps": 1, "eval_updates": 1},
}


@pytest.mark.parametrize("algorithm, what, step", [
    ("ppo", "reward", 3), ("ppo", "observation", 0), ("maml", "observation", 5), ("rl2", "reward", 3),
    ("lpg", "reward", 2),
])  # fmt: skip
def test_the_line_names_environment_step_and_what(tmp_path, algorithm, what, step):
    own = {k: v for k, v in SMALL.items() if algorithm != "rl2" or k != "hidden"}
    config = {"algorithm": algorithm, **own, **ALGORITHMS[algorithm], "env_options": {"what": what, "step": step}}
    with pytest.raises(train.RunFailed) as error:
        train.train(build(validate(config)), tmp_path / "run", report=lambda _: None)
    line = str(error.value)
    where = f"in step {step}" if step else "at a reset"
    thing = "a reward" if what == "reward" else "an observation"
    assert f"at iteration 1, the environment Faulty-v0 gave {thing} that is not finite {where}" in line
    assert "\n" not in line and "smaller step size" not in line
