"""Physics as a pure function: against plain MuJoCo, one back end against the other, under JAX's transformations."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import double_precision

mujoco = pytest.importorskip("mujoco")

from metarl_jax.envs import locomotion, physics  # noqa: E402
from metarl_jax.envs.physics import c_mujoco, model  # noqa: E402

ROBOTS = {"half_cheetah.xml": 5, "ant.xml": 5, "walker2d_v5.xml": 4, "hopper.xml": 4}
PATCHES = dict.fromkeys(("body_mass", "body_inertia", "dof_damping", "geom_friction"))


@functools.cache
def robot(xml="half_cheetah.xml", backend="c", patches=False, watch=False):
    watches = {"torso": ("xpos", "torso"), "all": ("xpos", None), "feet": ("geom_xpos", ["torso"])} if watch else None
    return physics.load(
        locomotion.xml(xml),
        frame_skip=ROBOTS[xml],
        backend=backend,
        patches=PATCHES if patches else None,
        watch=watches,
    )


def start(model, seed=0, height=0.0):
    """A state a little off the XML's, the root `height` m higher."""
    rng = np.random.default_rng(seed)
    qpos = np.array(model.part(model.start, "QPOS")) + 0.02 * rng.normal(size=model.mujoco.nq)
    qpos[2 if model.mujoco.nq == model.mujoco.nv + 1 else 1] += height
    return model.init(qpos, 0.1 * rng.normal(size=model.mujoco.nv))


def controls(model, *shape, seed=0):
    return jax.random.uniform(jax.random.key(seed), (*shape, model.ctrl_size), float, -1.0, 1.0)


def trajectory(step):
    """(state, controls [T, ...], patch) -> states [T, ...]."""
    return jax.jit(lambda s, u, p=None: jax.lax.scan(lambda s, u: (step(s, u, p)[0],) * 2, s, u)[1])


def by_hand(model, state, ctrl, patch=None):
    """The same steps by `mj_step`."""
    own = mujoco.MjModel.from_xml_path(model.path)
    for name, numbers in (patch or {}).items():
        getattr(own, name)[:] = numbers
    data = mujoco.MjData(own)
    mujoco.mj_setState(own, data, np.array(state, float), model.state_bits)
    rows = []
    for u in np.asarray(ctrl, float):
        data.ctrl[:] = u
        mujoco.mj_step(own, data, model.frame_skip)
        rows.append(np.zeros(model.state_size))
        mujoco.mj_getState(own, data, rows[-1], model.state_bits)
    return np.stack(rows)


@pytest.mark.parametrize("xml", ROBOTS)
def test_c_is_a_plain_loop_to_the_bit(xml):
    p = robot(xml)
    with double_precision():
        state, u = start(p.model), controls(p.model, 60)
        assert np.array_equal(trajectory(p.step)(state, u), by_hand(p.model, state, u))


def random_patch(model, seed=0):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(np.asarray(v) * rng.uniform(0.5, 1.5, v.shape)) for k, v in model.default_patch().items()}


def test_a_patch_is_a_changed_model_to_the_bit():
    p = robot(patches=True)
    with double_precision():
        state, u, patch = start(p.model), controls(p.model, 40), random_patch(p.model)
        found = trajectory(p.step)(state, u, patch)
        assert np.array_equal(found, by_hand(p.model, state, u, patch))
        assert not np.allclose(found, by_hand(p.model, state, u))


@pytest.mark.parametrize("bits,qpos,qvel", [(32, 1e-5, 2e-3), (64, 1e-8, 1e-8)])
def test_the_back_ends_agree_before_contacts(bits, qpos, qvel):
    c, mjx = robot(patches=True), robot(backend="mjx", patches=True)
    with double_precision(bits == 64):
        state, u, patch = start(c.model, height=5.0), controls(c.model, 10), random_patch(c.model)
        a, b = (trajectory(p.step)(state, u, patch) for p in (c, mjx))
        for name, bound in (("QPOS", qpos), ("QVEL", qvel)):
            assert np.max(np.abs(c.model.part(a, name) - c.model.part(b, name))) < bound


def test_both_back_ends_watch_the_same():
    c, mjx = robot(watch=True), robot(backend="mjx", watch=True)
    with double_precision():
        state, u = start(c.model, height=5.0), controls(c.model)
        for f in (lambda p: p.step(state, u)[1], lambda p: p.look(state)):
            ours, theirs = f(c), f(mjx)
            assert ours.keys() == theirs.keys()
            for name in ours:
                np.testing.assert_allclose(ours[name], theirs[name], atol=1e-9)
        data = mujoco.MjData(c.model.mujoco)
        mujoco.mj_setState(c.model.mujoco, data, np.array(state, float), c.model.state_bits)
        mujoco.mj_forward(c.model.mujoco, data)
        seen = c.look(state)
        assert np.array_equal(seen["torso"], data.body("torso").xpos) and seen["torso"].shape == (3,)
        assert np.array_equal(seen["all"], data.xpos) and np.array_equal(seen["feet"][0], data.geom("torso").xpos)


def test_lanes_are_those_of_a_lane_alone_however_they_are_mapped():
    p = robot()
    states = jnp.stack([start(p.model, seed) for seed in range(24)])
    u = controls(p.model, 24)
    f = lambda s, u: p.step(s, u)[0]  # noqa: E731
    alone = jnp.stack([f(s, x) for s, x in zip(states, u, strict=True)])
    grid = lambda x: x.reshape(2, 3, 4, -1)  # noqa: E731
    nested = jax.jit(jax.vmap(jax.vmap(jax.vmap(f))))(grid(states), grid(u)).reshape(24, -1)
    mapped = jax.lax.map(lambda x: f(*x), (states, u), batch_size=5)
    for found in (jax.vmap(f)(states, u), nested, mapped, jax.jit(jax.vmap(jax.checkpoint(f)))(states, u)):
        assert np.array_equal(found, alone)


def test_nested_vmaps_are_one_call_a_step(monkeypatch):
    p, calls = robot(), []
    some = c_mujoco.Host._step
    monkeypatch.setattr(c_mujoco.Host, "_step", lambda self, a, b: (calls.append(len(a)), some(self, a, b))[1])
    states, u = jnp.stack([start(p.model)] * 6).reshape(2, 3, -1), controls(p.model, 5, 2, 3)
    step = jax.vmap(jax.vmap(lambda s, u: p.step(s, u)[0]))
    jax.block_until_ready(jax.jit(lambda s, u: jax.lax.scan(lambda s, u: (step(s, u), None), s, u)[0])(states, u))
    assert calls == [6] * 5


def test_steps_are_behind_a_stop_gradient():
    for backend in ("c", "mjx"):
        p = robot(backend=backend)
        state = start(p.model)
        grad = jax.grad(lambda u, p=p, s=state: jnp.sum(p.step(s, u)[0]) + jnp.sum(u**2))(jnp.ones(6))
        assert np.array_equal(grad, 2 * np.ones(6))


def test_a_skipped_lane_stands_still_and_costs_nothing(monkeypatch):
    stepped = []
    real = mujoco.mj_step
    for backend in ("c", "mjx"):
        p = robot(backend=backend)
        states, u = jnp.stack([start(p.model, seed) for seed in range(3)]), controls(p.model, 3)
        if backend == "c":
            monkeypatch.setattr(mujoco, "mj_step", lambda *x: (stepped.append(1), real(*x))[1])
        new, seen = jax.vmap(lambda s, u, k, p=p: p.step(s, u, None, k))(states, u, jnp.array([False, True, False]))
        assert np.array_equal(new[1], states[1]) and not np.array_equal(new[0], states[0])
        assert not seen["unstable"].any()
    assert len(stepped) == 2


@pytest.mark.parametrize("backend", ["c", "mjx"])
def test_an_unstable_lane_stays_where_it_was_and_spoils_no_other(backend, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo would write its warnings there
    p = robot(backend=backend)
    good = start(p.model)
    bad = p.model.with_part(good, "QVEL", jnp.full(p.model.mujoco.nv, 1e9))
    nan = p.model.with_part(good, "QPOS", jnp.full(p.model.mujoco.nq, jnp.nan))
    u = controls(p.model)
    new, seen = jax.vmap(lambda s: p.step(s, u))(jnp.stack([good, bad, nan, good]))
    assert seen["unstable"].tolist() == [False, True, True, False]
    assert np.array_equal(new[1], bad) and np.array_equal(new[0], new[3])
    np.testing.assert_allclose(new[0], p.step(good, u)[0], rtol=1e-4, atol=1e-4)
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_calls_from_several_threads_do_not_share_scratch():
    p = robot()
    states, u = jnp.stack([start(p.model, seed) for seed in range(40)]), controls(p.model, 40)
    step = jax.jit(jax.vmap(lambda s, u: p.step(s, u)[0]))
    expected, found = step(states, u), [None] * 4

    def work(i):
        found[i] = step(states, u)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(x, expected) for x in found)


def test_the_handler_of_warnings_is_given_back_whoever_ends_first():
    def handler(text):
        del text

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(handler)
    try:
        first, second = model.quiet(mujoco), model.quiet(mujoco)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert mujoco.get_mju_user_warning() is not handler
        second.__exit__(None, None, None)
        assert mujoco.get_mju_user_warning() is handler
    finally:
        mujoco.set_mju_user_warning(before)


def test_auto_chooses_by_the_device(monkeypatch):
    path = locomotion.xml("half_cheetah.xml")
    assert physics.load(path).backend == "c" and physics.load(path).calls_host
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert physics.load(path).backend == "mjx" and not physics.load(path).calls_host


def test_bad_input_is_one_line(tmp_path):
    path = locomotion.xml("half_cheetah.xml")
    broken, cylinders = tmp_path / "broken.xml", tmp_path / "cylinders.xml"
    broken.write_text("<mujoco><worldbody><body></mujoco>")
    cylinders.write_text(
        '<mujoco><worldbody><geom type="box" size="1 1 .1"/><body pos="0 0 1"><freejoint/>'
        '<geom type="cylinder" size=".1 .1"/></body></worldbody></mujoco>'
    )
    for kwargs, message in (
        ({"path": tmp_path / "none.xml"}, "there is no such file"),
        ({"path": broken}, "MuJoCo cannot read it"),
        ({"path": path, "backend": "cuda"}, "backend = cuda: must be one of auto, c, mjx"),
        ({"path": path, "frame_skip": 0}, "frame_skip"),
        (
            {"path": path, "patches": {"body_mas": None}},
            "patches = body_mas: must be one of .*; did you mean.*body_mass",
        ),
        ({"path": path, "patches": {"body_pos": ["tors"]}}, "patches = tors: .* has no such body; did you mean.*torso"),
        ({"path": path, "watch": {"x": ("xposs", None)}}, "watch = xposs: must be one of .*; did you mean.*xpos"),
        ({"path": path, "watch": {"x": ("sensordata", "a")}}, "this field is watched whole"),
        ({"path": cylinders, "backend": "mjx"}, "backend = mjx: MJX cannot load .*; use backend = c"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            physics.load(**kwargs)
        assert "\n" not in str(error.value)
    p = robot(patches=True)
    state, u, patch = start(p.model), controls(p.model), p.model.default_patch()
    for arguments, message in (
        ((state, jnp.zeros(5), patch), r"ctrl: must have shape \[6\]"),
        ((state, u, patch | {"gravity": 1}), "patch = gravity: must be one of body_mass"),
        ((state, u, {}), "patch: body_mass is missing"),
        ((state, u, patch | {"body_mass": jnp.zeros(3)}), r"patch = body_mass: must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            p.step(*arguments)
    with pytest.raises(ValueError, match="must be none: this model was loaded without patches"):
        robot().step(state, u, {"body_mass": 1})
