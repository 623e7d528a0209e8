"""`metarl export`: what a run has learned, for other programs. A directory holds

  params.safetensors   the parameters of one seed, {dotted name: array}; the configuration as its metadata
  config.yaml          the configuration, every key resolved
  policy.jax           the policy with these parameters as one compiled function, by `jax.export`

Read them with

    arrays = safetensors.numpy.load_file("params.safetensors")
    act = jax.export.deserialize(bytearray(Path("policy.jax").read_bytes()))
    action, likeliest = act.call(observation, key)                    # observation [B, *obs]
    action, likeliest, memory = act.call(observation, key, memory)    # of a policy with a memory, at first zeros

Neither needs metarl_jax. `key` draws `action`, `jax.random.key_data(jax.random.key(0))`; a memory has the shapes of
`act.in_avals`.
"""

from pathlib import Path
from typing import Any

import jax
import jax.export

from metarl_jax.envs.packages import package
from metarl_jax.runs import files
from metarl_jax.runs.config import dump
from metarl_jax.runs.trained import TrainedRun, parameters

PLATFORMS = ("cpu", "cuda", "tpu")


def export(run: TrainedRun, directory: Path, seed: int = 0) -> list[Path]:
    """Write the three files (two where there is no policy); returns their paths.

    Raises: ConfigError for a directory that cannot be written to, a seed that is not there, a missing package.
    """
    numpy = package("safetensors.numpy", "export", "metarl export")
    package("flatbuffers", "export", "metarl export")
    files.make_directory(directory, "output")
    about = {"configuration": dump(run.config), "iteration": str(run.iteration), "seed": str(seed)}
    weights, config, policy = (directory / name for name in ("params.safetensors", "config.yaml", "policy.jax"))
    files.write_bytes(weights, numpy.save(parameters(run, seed), metadata=about))
    files.write_whole(config, dump(run.config))
    if run.job.policy is None:
        return [weights, config]
    files.write_bytes(policy, compiled_policy(run, seed).serialize())
    return [weights, config, policy]


def compiled_policy(run: TrainedRun, seed: int = 0) -> Any:
    """The policy of one seed as a `jax.export.Exported`, for any number of observations at a time, on any platform."""
    params, policy = run.agent(seed).params, run.policy
    batch, *_ = jax.export.symbolic_shape("b")
    space = run.env.observation_space(run.env.default_params)
    observation = jax.ShapeDtypeStruct((batch, *space.shape), space.dtype)
    key_data = jax.random.key_data(jax.random.key(0))
    key = jax.ShapeDtypeStruct(key_data.shape, key_data.dtype)

    def act(observation: jax.Array, key: jax.Array, *memory: Any) -> Any:
        if policy.step is None:
            distribution = policy.apply(params, observation)
        else:
            after, distribution = policy.step(params, memory[0], observation)
            memory = (after,)
        drawn = distribution.sample(seed=jax.random.wrap_key_data(key))
        return drawn, distribution.mode(), *memory

    shapes: tuple[Any, ...] = (observation, key)
    if policy.remember is not None:
        one = jax.eval_shape(lambda: policy.remember(1))  # type: ignore[misc]
        shapes += (jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), one),)
    return jax.export.export(jax.jit(act), platforms=PLATFORMS)(*shapes)
