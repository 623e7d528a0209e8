"""Films: drawn where there is an OpenGL, refused in one line where there is none."""

import numpy as np
import pytest

pytest.importorskip("mujoco")

from metarl_jax.cli.main import main  # noqa: E402
from metarl_jax.envs import make  # noqa: E402
from metarl_jax.envs.physics import film  # noqa: E402

OVERRIDES = ["num_iterations=1", "meta_batch_size=2", "episodes_per_task=2", "horizon=6", "eval_tasks=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("film") / "run"
    assert main(["train", "promp_halfcheetah_dir", *OVERRIDES, "--run-dir", str(directory)]) == 0
    return directory


def test_a_film_of_a_run(run, capsys):
    from PIL import Image

    status = main(["film", str(run), "--task", "1", "--every", "2"])
    if status:
        pytest.skip(capsys.readouterr().err)
    gif = Image.open(run / "film.gif")
    assert gif.n_frames == 3 and gif.size == (640, 240)
    picture = np.asarray(gif.convert("RGB"), float)
    assert picture[60:].std() > 10  # something is drawn


def test_frames_show_the_state_and_the_patch():
    env, _ = make("HopperRandParams-v0")
    model = env.physics.model
    start = np.array(model.start)
    high = np.array(model.with_part(env.physics.init(*(model.part(start, p) for p in ("QPOS", "QVEL"))), "QPOS",
                                    model.part(start, "QPOS") + np.array([0, 1.0, 0, 0, 0, 0])))  # fmt: skip
    try:
        low_picture, high_picture = film.frames(model, np.stack([start, high]), None, camera=None)
    except film.NoRenderer as error:
        pytest.skip(str(error))
    assert np.abs(low_picture.astype(float) - high_picture).mean() > 1


def test_a_film_looks_through_the_camera_that_the_environment_names():
    env, tasks = make("HalfCheetahDir-v0")
    model, patch = env.physics.model, env.default_params.patch
    start = np.array(model.start)[None]
    try:
        far, near = (
            film.frames(model, start, patch, camera={"lookat": (0, 0, 0.5), "distance": distance, "azimuth": 90})
            for distance in (20.0, 2.0)
        )
    except film.NoRenderer as error:
        pytest.skip(str(error))
    assert np.abs(near.astype(float) - far).mean() > 1
    with pytest.raises(ValueError, match=r"camera = trak: .* has track; did you mean track\?"):
        film.frames(model, start, patch, camera="trak")
    with pytest.raises(ValueError, match="camera: distanc is none of lookat, .*; did you mean distance"):
        film.frames(model, start, patch, camera={"distanc": 2.0})
    for wrong in ({"distance": "far"}, {"lookat": (0, 0)}):
        with pytest.raises(ValueError, match="camera: .*must be numbers, three for lookat"):
            film.frames(model, start, patch, camera=wrong)


@pytest.mark.parametrize(
    "words,message",
    [(["--every", "0"], "--every = 0: must be at least 1"), (["--task", "-1"], "--task = -1: must be at least 0")],
)
def test_bad_options_are_one_line(run, words, message, capsys):
    assert main(["film", str(run), *words]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_task_that_is_not_there_and_a_file_that_cannot_be_written_are_one_line(run, tmp_path, capsys):
    assert main(["film", str(run), "--task", "2"]) == 2
    assert capsys.readouterr().err == "error: task = 2: must be below eval_tasks = 2\n"
    (tmp_path / "file").write_text("")
    assert main(["film", str(run), "--output", str(tmp_path / "file" / "film.gif")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: output {tmp_path}") or "cannot draw" in last


def test_an_agent_that_does_not_adapt_is_refused(tmp_path, capsys):
    small = ["env=HalfCheetahDir-v0", "num_iterations=1", "num_envs=2", "num_steps=8", "hidden=[4]"]
    directory = str(tmp_path / "run")
    assert main(["train", "ppo_cartpole", *small, "--run-dir", directory]) == 0
    capsys.readouterr()
    assert main(["film", directory]) == 2
    assert "algorithm = ppo: has no policy before and after adaptation to film" in capsys.readouterr().err


def test_no_renderer_is_one_line(run, monkeypatch, capsys):
    monkeypatch.setattr(film, "_renderer", lambda *x: (_ for _ in ()).throw(film.NoRenderer("no OpenGL")))
    assert main(["film", str(run)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: no OpenGL"


def test_runs_without_a_robot_are_refused(tmp_path, capsys):
    directory = tmp_path / "run"
    small = ["num_iterations=1", "meta_batch_size=2", "episodes_per_task=2", "horizon=5"]
    assert main(["train", "maml_vpg_point", *small, "--run-dir", str(directory)]) == 0
    capsys.readouterr()
    assert main(["film", str(directory)]) == 2
    assert "has nothing to film" in capsys.readouterr().err
