"""A robot of one's own, from an XML and a few functions: examples/arm_tasks, and what can be wrong with one."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("mujoco")

from metarl_jax.cli.main import main  # noqa: E402
from metarl_jax.envs import physics  # noqa: E402
from metarl_jax.rl.rollout import report_rates, rollout  # noqa: E402

ARM = Path(__file__).parents[2] / "examples" / "arm_tasks"
TINY = ["num_iterations=1", "meta_batch_size=2", "episodes_per_task=2", "env_options.horizon=5", "eval_tasks=2"]


@pytest.fixture
def arm(monkeypatch):
    monkeypatch.syspath_prepend(str(ARM))
    import arm

    yield arm
    sys.modules.pop("arm", None)


def test_the_example_trains_and_is_evaluated(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ARM)
    run = str(tmp_path / "run")
    assert main(["train", "maml_arm.yaml", *TINY, "--run-dir", run]) == 0
    assert main(["evaluate", run, "--no-baselines"]) == 0
    assert "success, share of episodes: update 0: " in capsys.readouterr().out


def test_masses_and_targets_are_the_tasks_and_success_is_seen(arm):
    env, tasks = arm.arm()
    task = tasks.sample(jax.random.key(0))
    assert task.goal.shape == (2,) and task.patch["body_mass"].shape == (2,)
    _, state = env.reset_env(jax.random.key(0), task)
    reached = state.seen["hand"][:2]

    def after(task):
        return env.step_env(jax.random.key(0), state, jnp.array([1.0, -1.0]), task)

    heavy = task.replace(patch={**task.patch, "body_mass": 4 * task.patch["body_mass"]})
    assert np.abs(after(task)[0] - after(heavy)[0]).max() > 1e-3
    near, far = (task.replace(goal=g) for g in (after(task)[1].seen["hand"][:2], -reached))
    assert bool(after(near)[4]["success"]) and not bool(after(far)[4]["success"])
    assert float(after(near)[2]) > float(after(far)[2])


def test_the_first_observation_has_what_is_watched(arm):
    env, tasks = arm.arm()
    observation, state = jax.vmap(env.reset_env)(
        jax.random.split(jax.random.key(0), 3), jax.vmap(tasks.sample)(jax.random.split(jax.random.key(1), 3))
    )
    np.testing.assert_allclose(state.seen["hand"][:, :2], [[0.4, 0.0]] * 3, atol=1e-6)
    np.testing.assert_allclose(observation[:, 4:], [[0.4, 0.0]] * 3, atol=1e-6)


def test_back_ends_agree_on_it(arm):
    tasks, found = arm.arm()[1], {}
    for backend in ("c", "mjx"):
        env, _ = arm.arm(backend=backend)
        task = tasks.sample(jax.random.key(3))
        _, state = env.reset_env(jax.random.key(0), task)
        for _ in range(3):
            observation, state, reward, *_ = jax.jit(env.step_env)(
                jax.random.key(0), state, jnp.array([0.5, -0.2]), task
            )
        found[backend] = np.append(observation, reward)
    np.testing.assert_allclose(found["c"], found["mjx"], atol=1e-4)


@pytest.mark.parametrize("backend", ["c", "mjx"])
def test_an_unstable_lane_ends_and_is_counted(arm, backend):
    """A mass of next to nothing: its episode ends with reward 0 and finite numbers; the others go on."""
    env, tasks = arm.arm(backend=backend)
    task = jax.vmap(tasks.sample)(jax.random.split(jax.random.key(0), 4))
    masses = task.patch["body_mass"].at[1].set(jnp.nan)
    task = task.replace(patch={**task.patch, "body_mass": masses})

    def act(params, observation):
        import distrax

        return distrax.MultivariateNormalDiag(jnp.zeros((4, 2)), jnp.ones((4, 2)))

    data, _ = jax.jit(
        lambda key: rollout(env, act, {}, key, task, num_steps=6, num_envs=4, one_task_each=True)
    )(jax.random.key(1))  # fmt: skip
    assert data.mask.sum(axis=0).tolist() == [6, 1, 6, 6] and bool(data.terminated[0, 1])
    assert report_rates(data)["unstable"] == 0.25
    assert all(np.isfinite(x).all() for x in (data.observation, data.next_observation, data.reward))


def test_bad_robots_are_one_line():
    def reward(goal, before, action, after):
        return after.qpos[0]

    for options, message in (
        ({"path": "none.xml"}, "path = none.xml: there is no such file"),
        ({"path": ARM / "arm.xml", "horizon": 0}, "horizon"),
        ({"path": ARM / "arm.xml", "action_scale": 0}, "action_scale"),
        ({"path": ARM / "arm.xml", "watch": {"hand": ("site_xpos", "hnd")}}, "watch = hnd: .*did you mean.*hand"),
        ({"path": ARM / "arm.xml", "patches": {"body_mass": None}, "tasks": lambda key: 0.0}, "tasks: with patches"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            physics.from_xml(**options, reward=reward)
        assert "\n" not in str(error.value)


def test_what_fails_on_the_host_is_one_line(monkeypatch, tmp_path, capsys):
    from metarl_jax.envs.physics import c_mujoco

    def fail(self, lanes, out):
        raise MemoryError("no room for scratch\nand more")

    monkeypatch.chdir(ARM)
    monkeypatch.setattr(c_mujoco.Host, "_step", fail)
    assert main(["train", "maml_arm.yaml", *TINY, "--run-dir", str(tmp_path / "run")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"error: the physics of {ARM / 'arm.xml'} failed: MemoryError: no room for scratch"
