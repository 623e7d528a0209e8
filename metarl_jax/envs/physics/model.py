"""A MuJoCo model with the numbers that tasks change (patches) and the positions that come back (watches)."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.envs.packages import package
from metarl_jax.envs.registry import did_you_mean
from metarl_jax.envs.tasks import check_count
from metarl_jax.user_code import said

# What a task may change, and what a row of it belongs to. Constants that MuJoCo derives from masses and inertias when
# it compiles a model (`dof_invweight0` and the like) stay as they were, on both back ends, as in the papers' own codes.
PATCHES = {
    "body_mass": "body",  # kg, [body]
    "body_inertia": "body",  # kg m^2, diagonal, [body, 3]
    "body_pos": "body",  # m, in the parent's frame, [body, 3]
    "dof_damping": "dof",  # N m s / rad or N s / m, [dof]
    "geom_friction": "geom",  # sliding, torsional (m), rolling (m), [geom, 3]
    "site_pos": "site",  # m, in the body's frame, [site, 3]
}
# What can be watched, and what a row of it belongs to.
WATCHES = {
    "xpos": "body",  # m, in the world's frame
    "xquat": "body",
    "site_xpos": "site",
    "geom_xpos": "geom",
    "cfrc_ext": "body",  # torque (N m) and force (N) that contacts and the like exert, [6]
    "sensordata": "",  # all numbers of all sensors, in one row
}
# The state: what a step reads and leaves behind, in MuJoCo's order.
STATE = ("TIME", "QPOS", "QVEL", "ACT", "WARMSTART", "MOCAP_POS", "MOCAP_QUAT")


_QUIET = threading.Lock()
_quiet: list[Any] = []  # the handler of warnings that is put aside, once for each that is at work


@contextmanager
def quiet(mj: Any) -> Iterator[None]:
    """MuJoCo prints no warnings and writes no log of them; its handler of them is one for all threads."""
    with _QUIET:
        _quiet.append(_quiet[0] if _quiet else mj.get_mju_user_warning())
        mj.set_mju_user_warning(_ignore)
    try:
        yield
    finally:
        with _QUIET:
            before = _quiet.pop()
            if not _quiet:
                mj.set_mju_user_warning(before)


def _ignore(text: str) -> None:
    del text


class Column(NamedTuple):
    """Where one named array stands in a row of numbers."""

    name: str
    field: str
    rows: np.ndarray | None  # of the model's field; None: all
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def index(self) -> Any:
        """Of its rows among those of the field."""
        return slice(None) if self.rows is None else self.rows


class Model:
    """A MuJoCo model, and how the rows that steps read and write are laid out.

    Attributes:
      mujoco: the `MjModel`.
      frame_skip: substeps of one step.
      dt: seconds of one step.
      state_size, ctrl_size, patch_size, seen_size: numbers of a state, of controls, of a patch, of what is watched.
      control_range: [ctrl_size, 2] lower and upper limit; infinite where an actuator has none.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        frame_skip: int = 1,
        patches: Mapping[str, Sequence[str] | None] | None = None,
        watch: Mapping[str, tuple[str, str | Sequence[str] | None]] | None = None,
        refresh: bool = False,
        extra: str = "robots",
    ):
        """See `physics.load`."""
        mj = package("mujoco", extra, "a robot")
        self.path, self.frame_skip, self.refresh = str(path), check_count("frame_skip", frame_skip), bool(refresh)
        if not Path(path).is_file():
            raise ValueError(f"path = {self.path}: there is no such file")
        self.mujoco = model = compiled(mj, self.path)
        # A bad state must stay one, so that it is seen: by default MuJoCo replaces it by the initial one.
        model.opt.disableflags |= int(mj.mjtDisableBit.mjDSBL_AUTORESET)
        self.dt = float(model.opt.timestep) * self.frame_skip
        bits = mj.mjtState.__members__
        for other in ("HISTORY", "PLUGIN"):
            bit = bits.get(f"mjSTATE_{other}")
            if bit is not None and mj.mj_stateSize(model, int(bit)):
                raise ValueError(f"path = {self.path}: models with a state of {other.lower()}s are not supported")
        self.state_bits = 0
        self._slices: dict[str, slice] = {}
        start = 0
        for name in STATE:
            bit = int(bits[f"mjSTATE_{name}"])
            size = mj.mj_stateSize(model, bit)
            self._slices[name], start = slice(start, start + size), start + size
            self.state_bits |= bit
        self.state_size, self.ctrl_size = start, int(model.nu)
        data = mj.MjData(model)
        mj.mj_forward(model, data)
        self.start = np.zeros(self.state_size)
        mj.mj_getState(model, data, self.start, self.state_bits)
        self.start[self._slices["WARMSTART"]] = 0  # of no step yet
        limited = model.actuator_ctrllimited.astype(bool)[:, None]
        self.control_range = np.where(limited, model.actuator_ctrlrange, np.array([-np.inf, np.inf]))
        self.patches = self._columns("patches", PATCHES, {k: (k, rows) for k, rows in (patches or {}).items()}, model)
        self.watches = self._columns("watch", WATCHES, dict(watch or {}), data)
        self.patch_size = self.patches[-1].stop if self.patches else 0
        self.seen_size = self.watches[-1].stop if self.watches else 0

    def _columns(self, option: str, known: Mapping[str, str], asked: Mapping[str, Any], holder: Any) -> list[Column]:
        found: list[Column] = []
        start = 0
        for name, (field, rows) in asked.items():
            if field not in known:
                raise ValueError(
                    f"{option} = {field}: must be one of {', '.join(known)}{did_you_mean(field, list(known))}"
                )
            whole = np.asarray(getattr(holder, field))
            if rows is None:
                index, shape = None, whole.shape
            else:
                index = np.array([self._id(option, known[field], row) for row in np.atleast_1d(rows)])
                shape = whole[index].shape[isinstance(rows, str) :]
            size = int(np.prod(shape))
            found.append(Column(name, field, index, shape, start, start + size))
            start += size
        return found

    def _id(self, option: str, kind: str, name: str) -> int:
        model = self.mujoco
        kind_of = {"dof": "jnt"}.get(kind, kind)
        if not kind:
            raise ValueError(f"{option}: this field is watched whole; give None in the place of {name!r}")
        names = [
            getattr(model, "joint" if kind == "dof" else kind)(i).name for i in range(getattr(model, f"n{kind_of}"))
        ]
        if name not in names:
            raise ValueError(f"{option} = {name}: {self.path} has no such {kind}{did_you_mean(name, names)}")
        index = names.index(name)
        if kind == "dof":
            return int(model.jnt_dofadr[index])
        return index

    def init(self, qpos: Any, qvel: Any, mocap_pos: Any = None) -> jax.Array:
        """The state [state_size] at time 0 with these positions [nq] and velocities [nv]."""
        state = jnp.asarray(self.start, float)
        state = state.at[self._slices["QPOS"]].set(qpos).at[self._slices["QVEL"]].set(qvel)
        if mocap_pos is not None:
            state = state.at[self._slices["MOCAP_POS"]].set(jnp.ravel(mocap_pos))
        return state

    def part(self, state: Any, name: str) -> Any:
        """TIME, QPOS, QVEL, ACT, WARMSTART, MOCAP_POS or MOCAP_QUAT of a state [..., state_size]."""
        return state[..., self._slices[name]]

    def with_part(self, state: jax.Array, name: str, value: Any) -> jax.Array:
        """The state [state_size] with that part replaced."""
        return state.at[self._slices[name]].set(jnp.ravel(value).astype(state.dtype))

    def default_patch(self) -> dict[str, jax.Array]:
        """The model's own numbers."""
        return {
            c.name: jnp.asarray(np.asarray(getattr(self.mujoco, c.field)[c.index]).reshape(c.shape), float)
            for c in self.patches
        }

    def check(self, ctrl: Any, patch: Mapping[str, Any] | None) -> dict[str, Any]:
        """The patch, whole. Raises: ValueError for controls or patches of another shape, and for unknown patches."""
        if jnp.shape(ctrl) != (self.ctrl_size,):
            raise ValueError(f"ctrl: must have shape [{self.ctrl_size}], one number an actuator, not {jnp.shape(ctrl)}")
        patch, names = dict(patch or {}), [c.name for c in self.patches]
        for name in patch:
            if name not in names:
                known = f"one of {', '.join(names)}" if names else "none: this model was loaded without patches"
                raise ValueError(f"patch = {name}: must be {known}{did_you_mean(name, names)}")
        for c in self.patches:
            if c.name not in patch:
                raise ValueError(f"patch: {c.name} is missing")
            if jnp.shape(patch[c.name]) != c.shape:
                raise ValueError(f"patch = {c.name}: must have shape {c.shape}, not {jnp.shape(patch[c.name])}")
        return patch

    def seen(self, row: Any) -> dict[str, Any]:
        """What is watched, by name, of a row [seen_size]."""
        return {c.name: row[c.start : c.stop].reshape(c.shape) for c in self.watches}


def compiled(mj: Any, path: str) -> Any:
    """The `MjModel` of an XML, without MuJoCo's remarks on its style. Raises: ValueError, one line."""
    with quiet(mj):
        try:
            return mj.MjModel.from_xml_path(path)
        except ValueError as error:
            raise ValueError(f"path = {path}: MuJoCo cannot read it: {said(error)}") from None
