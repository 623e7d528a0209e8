"""Devices and processes: the one place that knows how many there are, and shares work out over them.

Several processes, on one host or on many, have one mesh over the devices of all: each runs the same program on its own.

Work is shared along two axes. *Lanes* (seeds, settings of a sweep, members of a population) depend on nothing but
themselves: each is the same program on whichever device it runs. (XLA compiles another program for one device than for
several, and batches of lanes may round otherwise there.)
*Tasks* of one training are shared where lanes do not fill the devices; their mean is then a sum over devices, which
rounds in another order.

A model too large for one device is kept by several, which then count as one for lanes and tasks: `of_each_model`.
"""

import contextlib
import contextvars
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from metarl_jax import sharing
from metarl_jax.options import ConfigError
from metarl_jax.user_code import said

LANE, TASK, MODEL = "lane", "task", "model"  # names of mesh axes
HEARTBEAT_S = 30  # after which a process that is silent is taken for dead, and JAX ends the others
LEAST = 4096  # numbers in an array that the devices of a model share; parts of less cost more than they save
START_S = 300  # for which processes wait for each other at the start


def count() -> int:
    """Devices of all processes."""
    return jax.device_count()


def is_first_process() -> bool:
    """Whether this process writes files and messages."""
    return jax.process_index() == 0


def num_processes() -> int:
    """Processes that share this program."""
    return jax.process_count()


def join(coordinator: str | None, processes: int | None, place: int | None, start_s: int = START_S) -> None:
    """Become one of several processes with one mesh; returns once all have come. Before JAX has started.

    Args:
        coordinator: HOST:PORT of the first process, with their number and the place of this one from 0 on. All None:
            what SLURM, Open MPI, Kubernetes or a TPU pod has set, as JAX finds it.
        start_s: seconds to wait for the others. JAX aborts the process after that, from C++.
    Raises: ConfigError where no cluster is found.
    """
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            place,
            initialization_timeout=start_s,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=HEARTBEAT_S,
        )
    except Exception as error:  # whatever finding a cluster comes to: a missing package, rights, names
        if coordinator is None and isinstance(error, ValueError):
            raise ConfigError(
                "--distributed: JAX finds no cluster here (SLURM, Open MPI, Kubernetes, TPU); elsewhere give each "
                "process --coordinator HOST:PORT --num-processes N --process-id I"
            ) from None
        raise ConfigError(f"--distributed: {said(error)}") from None


def any_process(flag: bool) -> bool:
    """Whether any process says so; every process has to ask, and gets the same answer."""
    if num_processes() == 1:
        return flag
    return bool(np.any(_from_all(np.asarray([flag]))))


def same_in_all(text: str) -> bool:
    """Whether every process has the same text; every process has to ask."""
    if num_processes() == 1:
        return True
    found = _from_all(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8))
    return bool((found == found[0]).all())


def _from_all(x: np.ndarray) -> np.ndarray:
    """[process, ...]"""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x))


def whole(values: Any) -> Any:
    """Every leaf as an array of the host, also where processes share it: then every process has to ask."""

    def one(x: Any) -> np.ndarray:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(one, values)


def for_all(values: Any) -> Any:
    """What each process has computed or read whole, fit to be given to a program of all of them."""
    return values if num_processes() == 1 else whole(values)


def memory() -> int | None:
    """Bytes of one accelerator that programs may use; None on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return stats.get("bytes_limit") if stats else None


def keep_compiled_programs() -> None:
    """Keep compiled programs between runs, so that the same command compiles nothing the second time.

    In JAX_COMPILATION_CACHE_DIR, or under XDG_CACHE_HOME, or under ~/.cache; nowhere if there is no home.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        try:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        except RuntimeError:  # a container without a home: it compiles each time
            return
        jax.config.update("jax_compilation_cache_dir", str(base / "metarl_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def one_for_every_core() -> None:
    """Let each CPU core be a device; nothing changes on accelerators, or where JAX has started or was told a number."""
    if "host_platform_device_count" in os.environ.get("XLA_FLAGS", "") or os.environ.get("JAX_NUM_CPU_DEVICES"):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores)


def over_lanes(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call(*lanes, start) -> (states, *kept)`: the leading axis of all but the last argument is shared by the devices.

    The mesh is lanes x tasks x model. The third axis has the devices `of_each_model`, among which XLA shares its work.
    Of the groups that are left as many are on the first as there are lanes for (a divisor of their number), the rest on
    the second, over which each lane shares its tasks or trials. Every result has the lanes as its leading axis.
    Where the devices do not divide the lanes the last lane is computed again and dropped. One device: `call` itself.
    With several processes each gets the whole of `kept`, and its devices' part of the states.
    """
    if count() == 1:
        return call
    of_model, groups = _OF_EACH_MODEL.get(), for_lanes()

    def shared(*args: Any) -> Any:
        *by_lane, start = args
        lanes = jax.tree.leaves(by_lane)[0].shape[0]
        across = max(d for d in range(1, groups + 1) if groups % d == 0 and d <= lanes)
        spare = -lanes % across

        def pad(x: jax.Array) -> jax.Array:
            return jnp.concatenate([x, jnp.repeat(x[-1:], spare, axis=0)]) if spare else x

        shape, names = (across, groups // across, of_model), (LANE, TASK, MODEL)
        mesh = jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * 3)
        lane, whole = PartitionSpec(LANE), PartitionSpec()
        specs = (*(lane for _ in by_lane), whole)
        ours = set(names if of_model == 1 else names[:2])  # the third is XLA's
        mapped = jax.shard_map(call, mesh=mesh, in_specs=specs, out_specs=lane, axis_names=ours, check_vma=False)
        with _sharing_tasks(shape[1]):
            found = mapped(*jax.tree.map(pad, by_lane), start)
        states, *kept = jax.tree.map(lambda x: x[:lanes], found)
        if num_processes() > 1:
            everywhere = NamedSharding(mesh, PartitionSpec())
            kept = jax.lax.with_sharding_constraint(kept, everywhere)
        return states, *kept

    return shared


@contextlib.contextmanager
def _sharing_tasks(num_parts: int) -> Iterator[None]:
    """While a lane is traced: its tasks, or trials, are shared out over the devices of the mesh's second axis."""
    share = sharing.Sharing(
        num_parts,
        place=lambda: jax.lax.axis_index(TASK),
        mean=lambda parts: jax.lax.pmean(parts, TASK),
        gather=lambda parts, axis: jax.lax.all_gather(parts, TASK, axis=axis, tiled=True),
    )
    with sharing.shared(share if num_parts > 1 else None):
        yield


# --- models in parts ------------------------------------------------------------------------------------

_OF_EACH_MODEL: contextvars.ContextVar[int] = contextvars.ContextVar("devices of each model", default=1)


@contextlib.contextmanager
def of_each_model(number: int) -> Iterator[None]:
    """While programs are made: so many devices keep one training's parameters and optimiser state, a part each.

    They compute its layers together, as in Shoeybi et al. 2019 (Megatron-LM): each has columns of the matrices that
    widen what they take, and rows of those that narrow it. XLA finds what to exchange (Xu et al. 2021, GSPMD).

    Raises: ConfigError unless it divides the number of devices.
    """
    if number < 1:
        raise ConfigError(f"devices-per-model = {number}: must be at least 1")
    if count() % number:
        fit = ", ".join(str(n) for n in range(1, count() + 1) if count() % n == 0)
        there = f"the {count()} devices" if count() > 1 else "the one device"
        raise ConfigError(f"devices-per-model = {number}: must divide {there} of this training ({fit})")
    token = _OF_EACH_MODEL.set(number)
    try:
        yield
    finally:
        _OF_EACH_MODEL.reset(token)


def for_lanes() -> int:
    """Devices, or groups of them that keep a model together, which share lanes and tasks."""
    return count() // _OF_EACH_MODEL.get()


def in_parts(state: Any) -> Any:
    """A lane's state, of which each device of a model keeps a part: of every large array, along its longest axis.

    It says where arrays are, and changes nothing else: sums over such an axis are in another order.
    """
    number = _OF_EACH_MODEL.get()
    if number == 1:
        return state

    def one(x: jax.Array) -> jax.Array:
        fit = [axis for axis, n in enumerate(x.shape) if n % number == 0]
        if not fit or x.size < LEAST:
            return x
        longest = max(fit, key=lambda axis: x.shape[axis])
        return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * longest, MODEL))

    return jax.tree.map(one, state)
