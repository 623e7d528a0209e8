"""Checkpoints of a training state: arrays and JSON only, written whole or not at all."""

import functools
import hashlib
import json
import logging
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import struct

from metarl_jax import devices
from metarl_jax.algorithms.interface import AROUND_ITERATIONS
from metarl_jax.options import ConfigError, shortened
from metarl_jax.runs import files
from metarl_jax.tree import leaf_names
from metarl_jax.types import LearnerState
from metarl_jax.user_code import said

KEEP = 2  # the newest, and the one before it
# Raised by every change after which the same run computes other bits. From 1 to 2: what stands behind masks, by which
# RL2, VariBAD, learned rules, meta-gradients and MAML-TRPO differ in the last places. To 3: conjugate gradients and the
# loss of LPG's prediction, losses on one row of steps, the end of annealing: all do.
NUMERICS = 3


class Checkpoints:
    """The checkpoints of one run, `directory/<iteration>`, through orbax.

    Orbax writes into a temporary directory and renames it, so a kill at any moment leaves the older
    checkpoints whole. A digest of the arrays is stored with them, so silent damage is noticed too; and what the
    states are of, so that those of another run are not taken for this one's.
    """

    def __init__(self, directory: Path, of: Mapping[str, Any] | None = None):
        """`of`: the configuration that the states are of, as plain data."""
        logging.getLogger("absl").setLevel(logging.ERROR)
        import orbax.checkpoint as ocp

        self.directory, self._of = directory, _plain(of or {})
        self._ocp = ocp
        # What orbax notes beside the arrays (when, by what) is not read: it is not needed, and may be damaged.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEEP, create=True, enable_async_checkpointing=False, lightweight_initialize=True
        )
        with files.worded(f"checkpoints {directory}"):
            self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def iterations(self) -> list[int]:
        """Iterations that have a checkpoint, ascending."""
        with files.worded(f"checkpoints {self.directory}"):
            return sorted(self._manager.all_steps())

    def save(self, iteration: int, state: Any) -> None:
        """Write the state reached after `iteration` iterations; returns once it is on disk.

        Several processes call it alike; each writes its part of what they share.
        """
        host = _stored(jax.tree.map(lambda x: x if _is_shared(x) else np.asarray(x), state))
        ocp = self._ocp
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(host),
            digest=ocp.args.JsonSave(
                {
                    "sha256": digest(host),
                    "numerics": NUMERICS,
                    "iteration": iteration,
                    "double_precision": _in_double_precision(),
                    "of": self._of,
                }
            ),
        )
        self._manager.save(iteration, args=items, force=True)
        self._manager.wait_until_finished()

    def restore(self, like: Any, iteration: int | None = None, end: int | None = None) -> tuple[int, Any]:
        """(iteration, state) of one checkpoint (default: the newest), shaped like `like`.

        Args:
            end: the iteration that training is to go on to; None: the state is only looked at.
        Raises: ConfigError naming the checkpoint, what is wrong and what to do, if it cannot be read, was
            damaged, is of another run or iteration, or holds arrays of other names, shapes or types; if training from
            it would not end in the bits that it began to end in.
        """
        available = self.iterations()
        if not available:
            raise ConfigError(f"{self.directory.parent}: has no checkpoint yet")
        if iteration is None:
            iteration = available[-1]
        elif iteration not in available:
            raise ConfigError(f"checkpoint {iteration}: this run has {', '.join(map(str, available))}")
        path = self.directory / str(iteration)
        ocp = self._ocp
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
        abstract = _stored(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract))
        _say_nothing_of_reads_under_way()
        try:
            label = self._manager.restore(iteration, args=ocp.args.Composite(digest=ocp.args.JsonRestore()))["digest"]
            stored, numerics = label["sha256"], label.get("numerics", 1)
            self._check(path, label, iteration, end)
            items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract, strict=True))
            state = self._manager.restore(iteration, args=items)["state"]
        except (ConfigError, jax.errors.JaxRuntimeError):  # which is of a process that is lost
            raise
        except Exception as error:  # whatever orbax, tensorstore or the file system say of a damaged file
            reason = textwrap.shorten(said(error), 160)
            raise self._damaged(path, iteration, available, reason) from None
        for name, want, got in zip(leaf_names(like), jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
            if want.shape != got.shape or want.dtype != got.dtype:
                raise ConfigError(
                    f"checkpoint {path}: {name} is {got.dtype}{list(got.shape)}, the configuration asks for "
                    f"{want.dtype}{list(want.shape)}"
                )
        if digest(state) != stored:
            raise self._damaged(path, iteration, available, "its contents do not match their digest")
        if end is not None and iteration < end and numerics != NUMERICS:
            raise ConfigError(
                f"checkpoint {path}: is of a version of metarl_jax that rounds differently (numerics {numerics}, here "
                f"{NUMERICS}), so the run would not end in the same bits; go on with that version, or train anew"
            )
        return iteration, _live(state)

    def _check(self, path: Path, label: dict[str, Any], iteration: int, end: int | None) -> None:
        """Whether a checkpoint is what its place says; what an older version did not store is not asked for."""
        if label.get("iteration", iteration) != iteration:
            raise ConfigError(f"checkpoint {path}: is of iteration {label['iteration']}; give it that name back")
        if end is not None and iteration > end:
            raise ConfigError(f"checkpoint {path}: is beyond the last iteration, num_iterations = {end}")
        there = label.get("of", {})
        differ = (k for k, v in self._of.items() if k in there and json.dumps(there[k]) != json.dumps(v))  # NaN too
        other = next((k for k in differ if not _may_change(k)), None)
        if other is not None:
            values = f"{other}: {shortened(str(there[other]))} there, {shortened(str(self._of[other]))} here"
            raise ConfigError(f"checkpoint {path}: is of another configuration ({values}); put back the right one")
        if label.get("double_precision") and not _in_double_precision():
            raise ConfigError(f"checkpoint {path}: is in double precision; set JAX_ENABLE_X64=1")

    @staticmethod
    def _damaged(path: Path, iteration: int, available: list[int], reason: str) -> ConfigError:
        older = [i for i in available if i < iteration]
        advice = f"move it away to go on from {older[-1]}" if older else "there is no older one to go on from"
        return ConfigError(f"checkpoint {path}: cannot be read ({reason}); {advice}")

    def close(self) -> None:
        """Wait for what is being written, and let go of the directory."""
        self._manager.close()


@functools.cache
def _say_nothing_of_reads_under_way() -> None:
    """Other reads go on when one has failed, and report to an event loop that orbax has closed: Python prints that."""
    before = sys.unraisablehook

    def hook(what: Any) -> None:
        if not (isinstance(what.exc_value, RuntimeError) and str(what.exc_value) == "Event loop is closed"):
            before(what)

    sys.unraisablehook = hook


def _may_change(key: str) -> bool:
    """Whether a key may change between the checkpoints of one run: it does not change what an iteration computes."""
    return key in AROUND_ITERATIONS or key.startswith("eval_")


def _is_shared(x: Any) -> bool:
    """Whether an array is one of several processes."""
    return isinstance(x, jax.Array) and not x.is_fully_addressable


def _in_double_precision() -> bool:
    return jax.numpy.result_type(float) == jax.numpy.float64


def _plain(data: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(data))


@struct.dataclass
class _Stored:
    """A `LearnerState` without a memory, on disk."""

    params: Any
    opt_state: Any


def _stored(state: Any) -> Any:
    """A state as it is written: what has no memory has no place for one, as before there were any."""

    def change(x: Any) -> Any:
        return _Stored(x.params, x.opt_state) if isinstance(x, LearnerState) and x.memory is None else x

    return jax.tree.map(change, state, is_leaf=lambda x: isinstance(x, LearnerState))


def _live(state: Any) -> Any:
    def change(x: Any) -> Any:
        return LearnerState(x.params, x.opt_state) if isinstance(x, _Stored) else x

    return jax.tree.map(change, state, is_leaf=lambda x: isinstance(x, _Stored))


def digest(tree: Any) -> str:
    """SHA-256 over the leaves' names, types, shapes and bytes."""
    sha = hashlib.sha256()
    for name, leaf in zip(leaf_names(tree), jax.tree.leaves(tree), strict=True):
        array = np.ascontiguousarray(devices.whole(leaf))
        sha.update(f"{name} {array.dtype} {array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
