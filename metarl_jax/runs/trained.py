"""What was trained, to be used: `load_run` opens a run directory, and its agents adapt and act.

    run = mrl.load_run("runs/mine")
    task = run.held_out(1)[0]
    agent = run.adapt(task, jax.random.key(0))      # learns from episodes of the task, as in training
    action, agent = run.act(agent, observation)     # one step in an environment of your own
    data = run.rollout(agent, task, jax.random.key(1), num_episodes=10)

`adapt`, `act`, `rollout` and `trials` are pure functions of arrays, compiled at the first call of their shapes: vmap
them, or compile them into a program of your own.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.envs.trial import Trials
from metarl_jax.options import ConfigError
from metarl_jax.rl.rollout import rollout
from metarl_jax.rl.trials import trial_rollout
from metarl_jax.runs import evaluate
from metarl_jax.runs.build import Job
from metarl_jax.runs.listing import run_of
from metarl_jax.types import LearnerState, Params, Policy, Rollout, Task


def load_run(directory: str | Path, iteration: int | None = None) -> "TrainedRun":
    """Open a run, finished or not, or the best member of a sweep.

    Args: iteration: of which checkpoint; None: the newest.
    Raises: ConfigError, one line, for a directory that is no run, a checkpoint that is not there or is damaged.
    """
    place = run_of(Path(directory))
    job = evaluate.open_run(place)
    iteration, params = evaluate.restore(job, place, iteration)
    return TrainedRun(place, job, iteration, params)


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run and what its seeds have learned."""

    directory: Path  # where it lies
    job: Job  # what its configuration comes to
    iteration: int  # of the checkpoint
    params: Params  # leaves [seed, ...]

    def __repr__(self) -> str:
        c = self.config
        about = f"{c.algorithm} on {c.env}, iteration {self.iteration} of {c.num_iterations}, {c.num_seeds} seed(s)"
        return f"TrainedRun({str(self.directory)!r}: {about})"

    @property
    def config(self) -> Any:
        """The configuration, every key resolved."""
        return self.job.config

    @property
    def env(self) -> Any:
        """The environment that agents act in; of RL2 and VariBAD the trials, whose observations tell the past step."""
        return self.job.env

    @property
    def tasks(self) -> Any:
        """The task distribution."""
        return self.job.tasks

    @property
    def policy(self) -> Policy:
        """The policy as pure functions.

        Raises: ConfigError for an algorithm that has none.
        """
        if self.job.policy is None:
            raise ConfigError(f"algorithm = {self.config.algorithm}: has no policy; its model is in `job.algorithm`")
        return self.job.policy

    def held_out(self, num_tasks: int) -> list[Task]:
        """The first of the held-out tasks that evaluation uses."""
        stacked = self.job.evaluation_tasks(num_tasks)
        return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(num_tasks)]

    def agent(self, seed: int = 0) -> LearnerState:
        """The agent of one seed before it has met a task."""
        count = self.config.num_seeds
        if not -count <= seed < count:
            raise ConfigError(f"seed = {seed}: this run has {count}, counted from 0")
        params = jax.tree.map(lambda x: x[seed], self.params)
        return LearnerState(params, None, self._remember(1))

    def adapt(self, task: Task, key: jax.Array, *, num_updates: int | None = None, seed: int = 0) -> LearnerState:
        """The agent after it has learned from the task: by updates on episodes of it.

        RL2 and VariBAD learn by acting: what they remember after all episodes of a trial but the last.

        Args: num_updates: inner updates (None: those of evaluation); a trial's length is the environment's.
        Raises: ConfigError for an algorithm that does not adapt.
        """
        self.agent(seed)  # whose errors should not come out of a compilation
        if not hasattr(self.job.algorithm, "adapt") or self.job.evaluation.stage == "stage":
            raise ConfigError(f"algorithm = {self.config.algorithm}: its agents do not adapt to a task")
        return self._compiled["adapt"](task, key, num_updates=num_updates, seed=seed)

    def _adapt(self, task: Task, key: jax.Array, num_updates: int | None, seed: int) -> LearnerState:
        algorithm, params = self.job.algorithm, self.agent(seed).params
        if isinstance(self.job.env, Trials):
            return LearnerState(params, None, self._after_a_trial(params, task, key))
        updates = max(1, self.job.evaluation.num_updates) if num_updates is None else num_updates
        trial, _ = algorithm.collect(params, key, task, num_updates=updates)
        return dataclasses.replace(algorithm.adapt(params, trial), opt_state=None)

    def act(
        self, agent: LearnerState, observation: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, LearnerState]:
        """(action, the agent that has seen the observation [*obs]); without a key the likeliest action."""
        _ = self.policy  # or its error
        return self._compiled["act"](agent, observation, key)

    def _act(self, agent: LearnerState, observation: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Any]:
        policy, x = self.policy, jnp.asarray(observation)[None]
        if policy.step is None:
            memory, distribution = agent.memory, policy.apply(agent.params, x)
        else:
            memory, distribution = policy.step(agent.params, agent.memory, x)
        action = distribution.mode() if key is None else distribution.sample(seed=key)
        return action[0], dataclasses.replace(agent, memory=memory)

    def rollout(self, agent: LearnerState, task: Task, key: jax.Array, *, num_episodes: int = 1) -> Rollout:
        """`num_episodes` episodes [T, B] of the task side by side; the return of each is `episode_return[-1]`.

        Agents of RL2 and VariBAD begin each of them with what `agent` remembers: nothing, or what `adapt` has left.
        """
        _ = self.policy  # or its error
        return self._compiled["rollout"](agent, task, key, num_episodes=num_episodes)

    def _rollout(self, agent: LearnerState, task: Task, key: jax.Array, num_episodes: int) -> Rollout:
        policy, env = self.policy, self.env
        if policy.step is None or policy.remember is None:
            sizes: dict[str, Any] = {"num_steps": self.job.horizon, "num_envs": num_episodes}
            return rollout(env, policy.apply, agent.params, key, task, **sizes)[0]
        shapes = jax.eval_shape(lambda: self._remember(num_episodes))
        memory = jax.tree.map(lambda x, like: jnp.broadcast_to(x, like.shape), agent.memory, shapes)
        sizes = {"num_steps": env.horizon, "num_envs": num_episodes, "memory": memory}
        one = Trials(env.env, num_episodes=1, horizon=env.horizon)
        return dataclasses.replace(rollout(one, policy.step, agent.params, key, task, **sizes)[0], distribution=None)

    def trials(self, task: Task, key: jax.Array, *, num_trials: int = 1, seed: int = 0) -> tuple[Rollout, jax.Array]:
        """Whole trials of RL2 or VariBAD side by side: Rollout [T, trial], and returns [episode, trial].

        They begin with nothing remembered, and the agent learns inside. `episode_return` of the rollout is the trial's.

        Raises: ConfigError for an algorithm that does not learn by acting.
        """
        self.agent(seed)
        policy = self.job.policy
        if policy is None or policy.step is None or policy.remember is None:
            raise ConfigError(f"algorithm = {self.config.algorithm}: has no trials; adapt, then rollout")
        return self._compiled["trials"](task, key, num_trials=num_trials, seed=seed)

    def _trials(self, task: Task, key: jax.Array, num_trials: int, seed: int) -> tuple[Rollout, jax.Array]:
        policy = self.policy
        assert policy.step is not None and policy.remember is not None
        params = self.agent(seed).params
        return trial_rollout(self.env, policy.step, policy.remember, params, key, task, num_trials)

    @functools.cached_property
    def _compiled(self) -> dict[str, Any]:
        return {
            "adapt": jax.jit(self._adapt, static_argnames=("num_updates", "seed")),
            "act": jax.jit(self._act),
            "rollout": jax.jit(self._rollout, static_argnames="num_episodes"),
            "trials": jax.jit(self._trials, static_argnames=("num_trials", "seed")),
        }

    def _remember(self, count: int) -> Any:
        policy = self.job.policy
        return None if policy is None or policy.remember is None else policy.remember(count)

    def _after_a_trial(self, params: Params, task: Task, key: jax.Array) -> Any:
        """What is remembered after all episodes of one trial but the last."""
        policy, env = self.policy, self.env
        assert policy.step is not None and policy.remember is not None
        reset_key, key = jax.random.split(key)
        observation, state = env.reset_env(reset_key, task)

        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            observation, state, memory, episodes = carry
            seen, distribution = policy.step(params, memory, observation[None])  # type: ignore[misc]
            action_key, env_key = jax.random.split(key)
            action = distribution.sample(seed=action_key)[0]
            observation, state, _, _, info = env.step_env(env_key, state, action, task)
            learning = episodes < env.num_episodes - 1
            memory = jax.tree.map(lambda new, old: jnp.where(learning, new, old), seen, memory)
            return (observation, state, memory, episodes + info["episode_over"]), None

        start = (observation, state, policy.remember(1), jnp.zeros((), int))
        return jax.lax.scan(step, start, jax.random.split(key, env.num_steps))[0][2]


def parameters(run: TrainedRun, seed: int = 0) -> dict[str, np.ndarray]:
    """What one seed has learned as {dotted name: array}."""
    from metarl_jax.tree import leaf_names

    params = run.agent(seed).params
    return {name: np.asarray(x) for name, x in zip(leaf_names(params), jax.tree.leaves(params), strict=True)}
