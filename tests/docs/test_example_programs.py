"""The programs in examples/ do what they print: each is run, and what it returns is judged."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))


def program(name):
    """The module of that file."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_maml_from_scratch_learns_to_adapt(capsys):
    """Training makes one step gain more than twice what it gained."""
    first_gain, (before, after) = program("maml_from_scratch").main(num_iterations=80)
    assert after > -20.0 and after - before > 2 * first_gain, (first_gain, before, after)
    assert "held-out" in capsys.readouterr().out


def test_own_environment_is_adapted_to():
    """Both wirings gain, and end above what standing still earns: half a metre from 0 for 20 steps."""
    scores, gains = program("own_environment").main(num_iterations=120)
    scores, gains = np.asarray(scores), np.asarray(gains)
    assert (gains > 0).any() and (gains < 0).any()
    for sign in (gains > 0, gains < 0):
        before, after = scores[sign].mean(axis=0)
        assert after > max(before + 1.0, -7.0), scores


def test_a_hyperparameter_has_a_meta_gradient():
    found, (before, after, tuned) = program("meta_gradient_of_a_hyperparameter").main()
    for surrogate, rows in found.items():
        assert [name for name, _, _ in rows] == ["lr", "gamma", "clip_eps"]
        for name, exact, differences in rows:
            np.testing.assert_allclose(exact, differences, rtol=1e-5, atol=1e-7, err_msg=name)
            assert (abs(exact) > 1e-2) != (surrogate == "ppo" and name == "clip_eps"), rows
    assert tuned > after + 1.0 > before + 1.0


def test_a_transformer_learns_bandits_in_context():
    """More than Thompson sampling earns, and no more than the Bayes optimum but for the noise of 4,000 tasks."""
    found, best = program("rl2_transformer").main(num_iterations=50)
    reward = {name: float(np.sum(pulls)) for name, pulls in found.items()}
    assert abs(reward["random"] - 5.0) < 0.1
    assert reward["Thompson"] + 0.2 < reward["RL2"] < best + 0.15 < reward["best arm"], reward
    pulls = np.asarray(found["RL2"])
    assert abs(pulls[0] - 0.5) < 0.05 and pulls[-1] > 0.65, pulls


def test_a_population_finds_a_step_size():
    """The best is in the middle: agents at both ends learn less than a third of what it does."""
    step_sizes, scores = map(np.asarray, program("population_of_256").main(num_agents=64, num_iterations=30))
    best = scores.max()
    assert best > 150.0 and 1e-4 < step_sizes[scores.argmax()] < 0.3
    assert scores[step_sizes < 2e-5].mean() < best / 3 and scores[step_sizes > 0.5].mean() < best / 3, scores


def test_an_estimator_is_checked():
    """DiCE written out is DiCE and unbiased up to its noise; LVC and VPG have the bias of their Hessians."""
    found = program("check_your_estimator").main(num_estimates=1000)
    bias, error = ({name: row[i] for name, row in found.items()} for i in (0, 1))
    assert bias["mine"] < 4 * error["mine"] + 0.01 and error["mine"] < 0.02, found
    np.testing.assert_allclose(found["mine"], found["dice"], rtol=1e-3)
    assert bias["lvc"] > 5 * error["lvc"] and bias["vpg"] > 0.15, found


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_short_and_listed(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 80 and text.startswith('"""')
    assert f"python examples/{name}.py" in (FOLDER / "README.md").read_text()
