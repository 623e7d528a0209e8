"""What an algorithm's file gives to runs and sweeps: the keys of its configuration, and what a configuration comes to.

A file ends in `ENTRY = Entry(options, build)`. `build(config, env, tasks, evaluation)` returns a `Job`. Whoever
trains or evaluates asks the job, and never which algorithm it is of.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from pydantic import Field

from metarl_jax import tree
from metarl_jax.envs.protocol import references
from metarl_jax.meta import evaluation
from metarl_jax.options import ConfigError, Options, Positive, Seed
from metarl_jax.rl import losses
from metarl_jax.types import Params, Task
from metarl_jax.user_code import place, said

# Keys of a run that change nothing of what one of its iterations computes, nor of the memory that it takes.
AROUND_ITERATIONS = ("num_iterations", "iterations_per_call", "log_every", "log_to", "checkpoint_every")
RANDOM_INIT = "random initialisation, same updates"
RANDOM_POLICY = "random policy"
ORACLE = "oracle"


class RunOptions(Options):
    """What every run has."""

    algorithm: str = Field(description="what trains; `metarl list` names them")
    env: str = Field(description="environment: a name of `metarl list`, gymnax:<id>, or my_package.my_module:name")
    env_options: dict[str, Any] = Field({}, description="options of that environment, such as num_arms: 10")
    seed: Seed = Field(0, description="seed of the first training seed; the others count up from it")
    num_seeds: Positive = Field(1, description="independent trainings, in one program")
    seeds_per_batch: Positive | None = Field(
        None, description="seeds trained at a time; null: one on a CPU, all on an accelerator"
    )
    num_iterations: Positive = Field(description="training iterations")
    iterations_per_call: Positive = Field(1, description="iterations in one compiled call, or a divisor that fits")
    log_every: Positive = Field(1, description="iterations between rows of metrics; the last one always has one")
    log_to: list[str] = Field(
        [], description="where rows of metrics go too: wandb, or my_package.my_module:function of a row"
    )
    checkpoint_every: Positive = Field(50, description="iterations between checkpoints; the last always has one")
    task_seed: Seed = Field(0, description="names the held-out tasks; the same for all runs to be compared")
    eval_tasks: Positive = Field(40, description="held-out tasks")
    eval_episodes: Positive | None = Field(None, description="episodes a task and update; null: as at training")
    eval_every: Positive | None = Field(
        None, description="iterations between scores on held-out tasks while it trains; null: none"
    )
    init_from: str | None = Field(
        None, description="a run whose parameters training starts from, of the same policy; null: random ones"
    )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a job is scored on tasks, and what stands beside it in the table.

    Scores are [task, update + 1, episode]: before adapting and after each update (or episode, or stage of a life). They
    may come in a pair with rates of what the environment reports, {name: [task, update + 1]}.
    """

    tasks: Callable[[int], Task]  # number -> the fixed held-out tasks, stacked
    scores: Callable[[Params, jax.Array, Task, int], Any]  # (params, key, tasks, num_updates) -> scores
    num_updates: int = 0  # updates unless a caller asks for another number
    stage: str = "update"  # what scores follow: "update", "episode" or "stage"
    held_out: bool = True  # whether training leaves these tasks alone
    check: Callable[[int, int], None] = lambda num_tasks, num_updates: None  # raises ConfigError
    # {row of the table: (key, task, number of updates) -> scores as those of one task}
    references: Mapping[str, Callable[[jax.Array, Task, int], jax.Array]] = dataclasses.field(default_factory=dict)
    untrained: str | None = None  # the row of the same learner before training, if it belongs in the table
    without_adaptation: dict[str, Any] | None = None  # configuration of a policy for all tasks, to be trained beside it


@dataclasses.dataclass(frozen=True)
class Job:
    """What a configuration comes to."""

    config: Any  # the configuration, with every key
    algorithm: Any  # Algorithm or MetaLearner
    env: Any  # what agents act in
    tasks: Any  # the TaskDistribution; its halves are for training and for evaluation
    horizon: int  # steps of an episode
    work_per_iteration: int  # environment steps, or labelled examples
    score: str  # the metric to watch
    evaluation: Evaluation  # how it is scored on tasks
    unit: str = "steps"  # of work_per_iteration
    higher_is_better: bool = True  # whether a larger score is
    policy: Any = None  # Policy, for reinforcement learning
    learned: Callable[[Any], Params] = lambda state: state.params  # training state -> what was learned
    parts: Any = None  # what else the algorithm's file wants to hand out, such as VariBAD's belief

    def params(self, state: Any) -> Params:
        """What was learned, out of a training state (Meta-SGD: with its step sizes)."""
        return self.learned(state)

    def evaluation_tasks(self, num_tasks: int) -> Any:
        """The fixed held-out tasks that `task_seed` names, stacked; for PPO, the task that it trains on."""
        return self.evaluation.tasks(num_tasks)


class Entry(NamedTuple):
    """An algorithm, for runs."""

    options: type[Any]  # the pydantic model of its configuration
    build: Callable[[Any, Any, Any, bool], Job]  # (config, env, tasks, whether for evaluation) -> job
    needs: str = "rl"  # "rl": an environment to act in; "examples": labelled examples


def held_out(config: Any, tasks: Any) -> Callable[[int], Task]:
    """The evaluation half of a task distribution."""
    return lambda num_tasks: tasks.evaluation_tasks(num_tasks, config.task_seed)


def common_references(
    env: Any, tasks: Any, horizon: int, num_episodes: int, episode: int | None = None
) -> dict[str, Callable[[jax.Array, Task, int], jax.Array]]:
    """A random policy, the oracle where the task distribution has one, and what the environment brings itself.

    The last two only for episodes of the environment's own length. Its own references play a whole trial where `env` is
    one (`episode`: the steps of each of its episodes), otherwise single episodes, without a memory of those before.
    """

    def random(key: jax.Array, task: Task, num_updates: int) -> jax.Array:
        act = evaluation.uniform_policy(env)
        sizes = {"num_steps": horizon, "num_episodes": num_episodes}
        return evaluation.policy_returns(env, act, {}, key, task, **sizes)[:, None]

    def oracle(key: jax.Array, task: Task, num_updates: int) -> jax.Array:
        return evaluation.oracle_returns(tasks.oracle, task)[:, None, None]

    def own(name: str, play: Callable) -> Callable[[jax.Array, Task, int], jax.Array]:
        def scores(key: jax.Array, task: Task, num_updates: int) -> jax.Array:
            def one(x: tuple[jax.Array, Task]) -> jax.Array:
                keys = jax.random.split(jax.random.fold_in(key, x[0]), num_episodes)
                length = 1 if episode is None else num_updates + 1
                try:
                    found = jax.vmap(lambda k: play(k, x[1], length), out_axes=1)(keys)
                except Exception as error:  # whatever a user's function raises
                    raise ConfigError(f"reference {name} of {env.name}: {said(error)}{place(error)}") from error
                if found.shape != (length, num_episodes):
                    shape = [found.shape[0], *found.shape[2:]]
                    raise ConfigError(f"reference {name} of {env.name}: must return [{length}] returns, not {shape}")
                return found

            return tree.chunked_map(one, (jnp.arange(jax.tree.leaves(task)[0].shape[0]), task))

        return scores

    if (episode or horizon) != tasks.horizon:
        return {RANDOM_POLICY: random}
    known = {} if tasks.oracle is None else {ORACLE: oracle}
    return {RANDOM_POLICY: random, **known, **{name: own(name, play) for name, play in references(env).items()}}


# Key of a configuration -> the option of a surrogate that it is, and the keys that name a surrogate which may read it.
OF_SURROGATES = {
    "clip_eps": ("clip_eps", ("surrogate",)),
    "inner_clip_eps": ("clip_eps", ("inner_surrogate",)),
    "outer_clip_eps": ("clip_eps", ("outer_surrogate",)),
    "dice_lambda": ("dice_lambda", ("inner_surrogate", "outer_surrogate")),
}


def check_surrogates_read(config: Any) -> None:
    """Refuse an option that was given and that no surrogate of `config` reads.

    Raises: ConfigError with the surrogates that read it.
    """
    fields = type(config).model_fields
    for key, (option, named_by) in OF_SURROGATES.items():
        chosen = {name: getattr(config, name) for name in named_by if name in fields}
        value = getattr(config, key, None)
        if not chosen or not isinstance(value, int | float) or value == fields[key].default:
            continue
        if not any(option in losses.spec_of(surrogate).options for surrogate in chosen.values()):
            readers = " or ".join(name for name, spec in losses.SURROGATES.items() if option in spec.options)
            given = ", ".join(f"{name} = {surrogate}" for name, surrogate in chosen.items())
            raise ConfigError(f"{key} = {value}: is for {' or '.join(chosen)} = {readers}, not {given}")


def no_more_than_one_task(num_tasks: int, num_updates: int) -> None:
    """The check of a run that has one task and does not adapt."""
    if num_tasks != 1:
        raise ConfigError(f"num-tasks = {num_tasks}: this run is evaluated on the task it trained on, so it must be 1")
    if num_updates:
        raise ConfigError(f"num-updates = {num_updates}: this run does not adapt, so it must be 0")
