"""Supervised MAML (Finn et al. 2017, section 5.1): few-shot regression through the same core."""

import zlib
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from pydantic import Field

from metarl_jax.algorithms.interface import RANDOM_INIT, Entry, Evaluation, Job, RunOptions
from metarl_jax.gradient import MODES
from metarl_jax.meta import evaluation as scoring
from metarl_jax.meta.meta_learner import Objective, meta_learner
from metarl_jax.meta.outer_update import gradient_steps
from metarl_jax.networks import MLP
from metarl_jax.networks.mlp import Activation
from metarl_jax.options import Count, Part, Positive, Rate, Widths, configuration, one_of, takes_options
from metarl_jax.rl import learners
from metarl_jax.types import LearnerState, MetaLearner, Params


@struct.dataclass
class FewShotTask:
    """A task and its support set: the examples that every inner step learns from."""

    task: Any
    support: dict[str, jax.Array]  # x [shots, D], y [shots, 1]


def few_shot(examples: Callable, sample_task: Callable, shots: int) -> Callable[[jax.Array], FewShotTask]:
    """key -> a task with `shots` labelled examples of it."""

    def sample(key: jax.Array) -> FewShotTask:
        task_key, support_key = jax.random.split(key)
        task = sample_task(task_key)
        return FewShotTask(task, examples(support_key, task, shots))

    return sample


def truncated_normal(key: jax.Array, params: Params, std: Any) -> Params:
    """`params` with every kernel drawn anew from N(0, std^2), redrawn beyond two std; the rest as it was."""

    def fill(path: Any, x: jax.Array) -> jax.Array:
        if path[-1].key != "kernel":
            return x
        layer = zlib.crc32(jax.tree_util.keystr(path).encode())
        return std * jax.random.truncated_normal(jax.random.fold_in(key, layer), -2.0, 2.0, x.shape, x.dtype)

    return jax.tree_util.tree_map_with_path(fill, params)


@takes_options()
def supervised_maml(
    examples: Callable,
    tasks: Any,
    *,
    hidden: Annotated[Widths, "hidden layer widths"] = (40, 40),
    activation: Annotated[Activation, "activation function"] = "relu",
    init_std: Annotated[
        Rate | None, "initial standard deviation of the weights; null: by layer width (LeCun normal)"
    ] = None,
    shots: Annotated[Positive, "labelled examples that adaptation sees"] = 10,
    queries: Annotated[Positive, "labelled examples of the meta-loss"] = 10,
    inner_lr: Annotated[Rate, "inner step size"] = 0.01,
    outer_lr: Annotated[Rate, "Adam step size of the outer update"] = 1e-3,
    num_inner_steps: Annotated[Count, "gradient steps on the shots"] = 1,
    meta_batch_size: Annotated[Positive, "tasks an iteration"] = 25,
    differentiation: Annotated[
        Any, one_of(lambda: MODES), "how the meta-gradient gets through the inner steps; first_order is FOMAML"
    ] = "reverse",
    tasks_per_batch: Annotated[Positive | None, "tasks processed at a time; null: all"] = None,
) -> MetaLearner:
    r"""Few-shot regression with MAML.

    .. math::

        \min_\theta \; \frac{1}{N} \sum_i \text{MSE}(\theta'_i; \text{queries}_i), \quad \theta'_i =
          \theta - \alpha \nabla_\theta \text{MSE}(\theta; \text{support}_i)

    Initial weights from which gradient steps on `shots` examples fit a task.

    min_theta mean_i MSE(theta'_i; queries_i), theta' = theta - inner_lr * grad MSE(theta; support).

    Args:
        examples: (key, task, num) -> {"x": [num, D], "y": [num, 1]}.
        tasks: has `sample(key)`.
        hidden: layer widths.
        init_std: initial standard deviation of every weight, cut off at two of them (the authors' code: 0.01);
            None is flax's LeCun normal. Biases start at zero.
        tasks_per_batch: tasks at a time; None is all of them, since these networks are small.
    Step metrics: loss, grad_norm, mse_k on the query set after k inner steps.
    """
    network = MLP(tuple(hidden), 1, activation)
    example = jax.eval_shape(lambda k: examples(k, tasks.sample(k), shots), jax.random.key(0))

    def apply(params: Params, x: jax.Array) -> jax.Array:
        out: Any = network.apply(params, x)
        return out

    def init(key: jax.Array) -> Params:
        params = network.init(key, jnp.zeros(example["x"].shape))
        return params if init_std is None else truncated_normal(key, params, init_std)

    def sample(params: Params, key: jax.Array, few: FewShotTask) -> tuple[dict, jax.Array]:
        query = examples(key, few.task, queries)
        error = jnp.square(apply(params, query["x"]) - query["y"])[:, 0]
        return {"support": few.support, "query": query}, error

    regression = learners.regression(apply, inner_lr)

    def on_support(state: LearnerState, key: jax.Array, data: dict, differentiation: str = "reverse") -> Any:
        return regression.update(state, key, data["support"], differentiation)

    learner = regression._replace(update=on_support)

    return meta_learner(
        few_shot(examples, tasks.sample, shots),
        sample,
        learner,
        Objective(lambda params, data: (learners.squared_error(apply, params, data["query"]), {})),
        init,
        num_inner_steps=num_inner_steps,
        meta_batch_size=meta_batch_size,
        outer=gradient_steps(optax.adam(outer_lr)),
        differentiation=differentiation,
        tasks_per_batch=meta_batch_size if tasks_per_batch is None else tasks_per_batch,
        score_name="mse",
    )


# --- as a configuration ---------------------------------------------------------------------------------

OPTIONS = Part(supervised_maml)


class SupervisedOptions(RunOptions):
    """Keys of a run on labelled examples."""

    eval_tasks: Positive = Field(1000, description="held-out tasks")
    eval_episodes: Positive = Field(100, description="query examples a task")
    eval_updates: Count = Field(3, description="gradient steps at evaluation")


def build(c: Any, examples: Any, tasks: Any, evaluation: bool) -> Job:
    """Supervised MAML of a configuration."""
    train, _ = tasks.split(c.task_seed)
    algorithm = OPTIONS(c, examples, train, **({"queries": c.eval_episodes} if evaluation else {}))

    def few_shot_tasks(num_tasks: int) -> FewShotTask:
        held = tasks.evaluation_tasks(num_tasks, c.task_seed)
        keys = jax.random.split(jax.random.key(c.task_seed), num_tasks)
        return jax.vmap(lambda key, task: few_shot(examples, lambda _: task, c.shots)(key))(keys, held)

    def scores(params: Params, key: jax.Array, some: Any, num_updates: int) -> jax.Array:
        return scoring.adaptation_curve(algorithm, params, key, some, num_updates)

    return Job(
        c,
        algorithm,
        examples,
        tasks,
        horizon=1,
        work_per_iteration=c.meta_batch_size * (c.shots + c.queries),
        score=f"mse_{c.num_inner_steps}",
        evaluation=Evaluation(few_shot_tasks, scores, num_updates=c.eval_updates, untrained=RANDOM_INIT),
        unit="examples",
        higher_is_better=False,
    )


ENTRY = Entry(
    configuration("supervised_maml_options", "Few-shot regression with MAML.", SupervisedOptions, OPTIONS),
    build,
    needs="examples",
)
