"""Films of driving: geometry against closed forms, colours against costs, and the command that writes a GIF."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.cli.main import main
from metarl_jax.envs import make
from metarl_jax.envs.driving import picture
from metarl_jax.runs import film


@pytest.fixture(scope="module")
def env():
    return make("Driving-v0", horizon=20)[0]


def _state(env, offset=0.0, bends=(0.0, 0.0), side=-1):
    """(state after a reset with the car at `offset`, the town)."""
    town = env.params(side)
    _, state = env.reset_env(jax.random.key(0), town)
    return state.replace(car=state.car._replace(offset=jnp.asarray(offset)), bends=jnp.asarray(bends)), town


def _frame(env, state, town):
    return env.frames(jax.tree.map(lambda x: x[None], state), town)[0]


def _coloured(frame, colour):
    """Rows and columns of pixels of about this colour."""
    return np.nonzero((np.abs(frame.astype(int) - colour) < 12).all(axis=-1))


def test_the_centre_line_is_that_of_its_curvature():
    state, _ = _state(make("Driving-v0")[0], bends=(0.012, 0.0))
    places, direction = picture.centre_line(state)
    fine = np.linspace(0.0, 60.0, 60001)
    wave, phase = 2 * np.pi / 127.0, float(state.phases[0])
    angle = 0.012 / wave * (np.cos(phase) - np.cos(wave * (fine + float(state.car.along)) + phase))
    x, y = (np.trapezoid(f(angle), fine) for f in (np.cos, np.sin))
    at = np.searchsorted(picture.SHOWN, 60.0)
    np.testing.assert_allclose(places[at], [x, y], atol=0.05)
    np.testing.assert_allclose(direction[at], angle[-1], atol=2e-3)


@pytest.mark.parametrize("offset", (-1.75, 0.0, 1.75))
def test_the_car_is_drawn_where_it_is_and_left_is_up(env, offset):
    state, town = _state(env, offset)
    rows, columns = _coloured(_frame(env, state, town), picture.PAYING if offset > 0 else picture.AGENT)
    assert rows.mean() == pytest.approx(picture.SIZE[1] / 2 - picture.SCALE * offset, abs=1.0)
    assert columns.mean() == pytest.approx(picture.BEHIND * picture.SCALE, abs=1.0)
    assert np.ptp(columns) == pytest.approx(4.5 * picture.SCALE, abs=2)


def test_the_car_is_red_where_it_pays(env):
    for side in (1, -1):
        state, town = _state(env, 1.0, side=side)
        frame = _frame(env, state, town)
        pays = bool((env.costs(state.car, state.traffic, town) > 0).any())
        assert pays == (side < 0)
        assert (len(_coloured(frame, picture.PAYING)[0]) > 50) == pays
        assert (len(_coloured(frame, picture.AGENT)[0]) > 50) != pays


def test_a_road_to_the_left_bends_up(env):
    straight, left = (_state(env, bends=(bend, 0.0)) for bend in (0.0, 0.014))
    state = left[0].replace(phases=jnp.asarray([0.3, 0.0]))
    ends = [_coloured(_frame(env, s, left[1])[:150, -30:], picture.ASPHALT)[0].mean() for s in (straight[0], state)]
    assert ends[1] < ends[0] - 20


def test_rows_of_films_hold_the_last_picture_of_those_that_are_over():
    from PIL import Image

    def images(values):
        return [Image.fromarray(np.full((4, 6, 3), v, np.uint8)) for v in values]

    whole = film.in_rows([[images([1, 2, 3]), images([9])], [images([4, 5]), images([7, 8])]])
    found = [[int(np.asarray(w)[y, x, 0]) for y, x in ((0, 0), (0, 6), (4, 0), (4, 6))] for w in whole]
    assert found == [[1, 9, 4, 7], [2, 9, 5, 8], [3, 9, 5, 8]] and whole[0].size == (12, 8)


@pytest.mark.parametrize("name, sizes", [("promp", ["episodes_per_task=2", "hidden=[4]"]),
                                         ("rl2", ["size=4", "num_minibatches=1", "num_epochs=1"])])  # fmt: skip
def test_the_command_films_three_towns(tmp_path, capsys, name, sizes):
    from PIL import Image

    small = ["num_seeds=1", "num_iterations=1", "iterations_per_call=1", "meta_batch_size=2", "eval_tasks=3"]
    overrides = [*small, *sizes, "env_options={horizon: 6}"]
    assert main(["train", f"{name}_driving", *overrides, "--run-dir", str(tmp_path / "run")]) == 0
    words = ["film", str(tmp_path / "run"), "--every", "3", "--task"]
    assert main([*words, "0", "2", "1"]) == 0
    with Image.open(tmp_path / "run" / "film.gif") as gif:
        assert gif.n_frames == 2 and gif.size == (2 * picture.SIZE[0], 3 * picture.SIZE[1])
        assert gif.info["duration"] == 300
    capsys.readouterr()
    assert main([*words, "0", "3"]) == 2
    assert capsys.readouterr().err == "error: task = 3: must be below eval_tasks = 3\n"
