"""Lanes: one algorithm, many hyperparameters and seeds, as one compiled program. A run is lanes without varied values.

A *lane* is one setting with one seed. What differs between lanes are arrays: hyperparameters [lane] and keys.
Lanes are computed a batch at a time, to fit memory and caches, and shared out over the devices there are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import devices, tree
from metarl_jax.options import ConfigError
from metarl_jax.runs.build import Job, build
from metarl_jax.types import Metrics

LANES_AT_A_TIME = 8  # on a CPU, where more fall out of cache
MEMORY_SHARE = 0.9  # of an accelerator's memory that a program may need
MOST_PARTS = 64  # that a gradient is added up over to save memory
# For what runs once: half of the compile time, and the same bits. Level 0 would be quicker still, and rounds otherwise.
LITTLE_OPTIMISED: dict[str, Any] = {"xla_backend_optimization_level": 1}
if jax.__version_info__ < (0, 11):  # later ones always use these emitters
    LITTLE_OPTIMISED["xla_cpu_use_fusion_emitters"] = False
Values = dict[str, jax.Array]
Keep = Callable[[Job, Metrics], tuple]


def with_values(config: Any, values: dict[str, Any]) -> Job:
    """The job of `config` with these hyperparameters, which may be tracers."""
    return build(config.model_copy(update=values) if values else config)


def is_traceable(config: Any, name: str) -> bool:
    """Whether the hyperparameter can differ between the lanes of one program: a number that no Python code reads."""
    if not is_number(getattr(config, name)):
        return False

    def step(value: jax.Array, key: jax.Array) -> Any:
        algorithm = with_values(config, {name: value}).algorithm
        return algorithm.step(algorithm.init(key), key)

    try:
        jax.eval_shape(step, jnp.asarray(getattr(config, name)), jax.random.key(0))
    except (jax.errors.ConcretizationTypeError, TypeError, ValueError):
        return False
    return True


def is_number(value: Any) -> bool:
    """A number, and no switch: bool is an int to Python."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def lane_key(seed: jax.Array, iteration: jax.Array | int) -> jax.Array:
    """The key of iteration i of a seed, fold_in(fold_in(key(seed), 1), i), whatever the size of the calls.

    So a resumed run repeats what an uninterrupted one does, and a lane repeats the run that it stands for.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), iteration)


def make_init(config: Any) -> Any:
    """(values [lane], seeds [lane]) -> states [lane, ...]. It runs once, so on a CPU it is little optimised."""

    def one(x: tuple[Values, jax.Array]) -> Any:
        values, seed = x
        return with_values(config, values).algorithm.init(jax.random.fold_in(jax.random.key(seed), 0))

    options = LITTLE_OPTIMISED if jax.default_backend() == "cpu" else None
    return jax.jit(lambda values, seeds: jax.lax.map(one, (values, seeds)), compiler_options=options)


def score_and_finite(job: Job, metrics: Metrics) -> tuple[jax.Array, jax.Array]:
    """What a sweep keeps of an iteration: the score [], and whether all numbers were finite []."""
    finite = jnp.stack([jnp.all(leaf) for leaf in jax.tree.leaves(metrics["finite"])])
    return metrics[job.score], jnp.all(finite)


def everything(job: Job, metrics: Metrics) -> tuple[Metrics]:
    """What a run keeps of an iteration."""
    return (metrics,)


def make_call(config: Any, num_iterations: int, batch_size: int | None = None, keep: Keep = score_and_finite) -> Any:
    """`train_lanes`, compiled; the states handed in are used up."""
    return jax.jit(train_lanes(config, num_iterations, batch_size, keep), donate_argnums=0)


def train_lanes(
    config: Any, num_iterations: int, batch_size: int | None = None, keep: Keep = score_and_finite
) -> Callable[..., Any]:
    """The one training loop: (states, values [lane], seeds [lane], start) -> (states, *kept [lane, iteration]).

    One program for any values. A lane whose numbers have become NaN or infinite goes on alone: lanes share nothing.

    Args:
        batch_size: lanes computed at a time on each device (None: `LANES_AT_A_TIME` on a CPU, all on an accelerator);
            the devices share the lanes.
        keep: (job, metrics of an iteration) -> what is kept of them, a tuple.
    """

    def one(x: tuple[Any, Values, jax.Array, jax.Array]) -> tuple[Any, ...]:
        state, values, seed, start = x
        job = with_values(config, values)

        def iteration(state: Any, i: jax.Array) -> tuple[Any, Any]:
            state, metrics = job.algorithm.step(devices.in_parts(state), lane_key(seed, i))
            return devices.in_parts(state), keep(job, metrics)

        state, kept = jax.lax.scan(iteration, state, start + jnp.arange(num_iterations))
        return state, *kept

    def call(states: Any, values: Values, seeds: jax.Array, start: jax.Array) -> tuple[Any, ...]:
        lanes = seeds.shape[0]
        size = batch_size or (LANES_AT_A_TIME if jax.default_backend() == "cpu" else lanes)
        return tree.chunked_map(one, (states, values, seeds, jnp.full(lanes, start)), min(size, lanes))

    return devices.over_lanes(call)


class TracedCall(NamedTuple):
    """A run's call of some length, traced for states of these shapes."""

    length: int
    states: Any
    traced: Any


def call_length(config: Any, start: int = 0) -> int:
    """Iterations in a compiled call of a run that goes on after `start`: calls end where something is kept."""
    every = config.eval_every or config.checkpoint_every
    return math.gcd(config.iterations_per_call, config.num_iterations, config.checkpoint_every, every, start)


def trace_call(config: Any, length: int | None = None, states: Any = None) -> TracedCall:
    """The call of a run, traced: of `call_length` iterations, for initial states, unless others are given."""
    length = call_length(config) if length is None else length
    seeds = jax.ShapeDtypeStruct((config.num_seeds,), jnp.result_type(int))
    states = make_init(config).eval_shape({}, seeds) if states is None else states
    size = config.seeds_per_batch or tree.default_batch_size(config.num_seeds)
    call = make_call(config, length, size, everything)
    return TracedCall(length, states, call.trace(states, {}, seeds, jax.ShapeDtypeStruct((), jnp.result_type(int))))


class Fit(NamedTuple):
    """How much of a program is computed at a time, and what it needs of each device's memory."""

    lanes: int | None  # None: as many as the program takes by itself
    limits: tree.Limits
    needed: int = 0  # bytes

    def worded(self) -> str:
        """What is limited, in words; "" where nothing is."""
        found = [] if self.lanes is None else [f"{self.lanes} lane{'s' * (self.lanes > 1)} at a time"]
        found += [] if self.limits.batch is None else [f"tasks {self.limits.batch} at a time"]
        found += [] if self.limits.parts == 1 else [f"gradients added up over {self.limits.parts} parts"]
        return ", ".join(found)


def fit(
    make: Callable[[int | None], Any],
    args: tuple,
    lanes: int,
    batch_size: int | None = None,
    begin: Fit | None = None,
) -> tuple[Any, Fit]:
    """(`make(lanes at a time)`, a jitted function, compiled for `args`; how much of it is computed at a time).

    What a compiled program needs is known before it runs: arguments, results and temporaries. Where that is more than
    `MEMORY_SHARE` of what an accelerator has, less is computed at a time, by the share that would fit, half of it at
    most: first fewer of the `lanes`, then fewer tasks (or agents) of a lane, then a gradient in more parts. A
    `batch_size` of lanes that was asked for is kept, and so are numbers of tasks that the configuration names.

    Args: begin: where to begin, such as what an earlier call came to; by default nothing is limited.
    Raises: ConfigError where the least does not fit, with what it needs.
    """
    size, limits = (batch_size, tree.Limits()) if begin is None else (begin.lanes, begin.limits)
    room = devices.memory()
    while True:
        with tree.limited(limits) as held:
            compiled = make(size).lower(*args).compile()
        found = compiled.memory_analysis() if room is not None else None
        if found is None or room is None:
            return compiled, Fit(size, limits)
        fixed = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        needed = fixed + found.temp_size_in_bytes
        if needed <= MEMORY_SHARE * room:
            return compiled, Fit(size, limits, needed)
        share = (MEMORY_SHARE * room - fixed) / max(found.temp_size_in_bytes, 1)

        def fewer(n: int, share: float = share) -> int:
            return max(1, min(n // 2, int(n * share)))

        at_once = size or -(-lanes // devices.for_lanes())
        tasks = limits.batch or max(held.tasks, default=1)
        if at_once > 1 and batch_size is None:
            size = fewer(at_once)
        elif tasks > 1:
            limits = limits._replace(batch=fewer(tasks))
        elif limits.parts < min(MOST_PARTS, max(held.columns, default=1)):
            limits = limits._replace(parts=2 * limits.parts)
        elif batch_size is not None:  # as it was asked for
            return compiled, Fit(size, limits, needed)
        else:
            raise ConfigError(
                f"{lanes} lane{'s' * (lanes > 1)}, {Fit(size or 1, limits).worded()}, need {needed / 2**30:.1f} GiB of "
                f"the device's {room / 2**30:.1f}: train fewer, or make a lane smaller (num_envs, num_steps)"
            )


def compile_to_fit(make: Callable[[int | None], Any], args: tuple, lanes: int, batch_size: int | None = None) -> Any:
    """The program of `fit`."""
    return fit(make, args, lanes, batch_size)[0]


def lanes(settings: Sequence[dict[str, Any]], names: Sequence[str], seeds: Sequence[int]) -> tuple[Values, jax.Array]:
    """(values [lane], seeds [lane]): every setting with every seed, the seeds of a setting next to each other."""
    values = {name: jnp.repeat(jnp.asarray([s[name] for s in settings]), len(seeds)) for name in names}
    return values, jnp.asarray(np.tile(np.asarray(seeds), len(settings)))
