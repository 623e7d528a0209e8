"""Every mistake in a configuration is one line that names the key, the value, what is allowed, the nearest."""

from pathlib import Path

import pytest
import yaml

from metarl_jax.algorithms import registry
from metarl_jax.options import ConfigError
from metarl_jax.runs.build import build
from metarl_jax.runs.config import describe, dump, load, validate

CONFIGS = Path(__file__).parents[2] / "configs"
MAML = {"algorithm": "maml", "env": "PointNavigation-v0", "num_iterations": 10}
PPO = {"algorithm": "ppo", "env": "gymnax:CartPole-v1", "num_iterations": 10}


@pytest.mark.parametrize(
    ("base", "change", "expected"),
    [
        (MAML, {"inner_lrr": 0.1}, ["inner_lrr", "0.1", "did you mean inner_lr"]),
        (MAML, {"inner_lr": -0.1}, ["inner_lr", "-0.1", "greater than 0"]),
        (MAML, {"inner_lr": "fast"}, ["inner_lr", "'fast'", "must be a number"]),
        (MAML, {"inner_lr": float("nan")}, ["inner_lr", "nan", "finite"]),
        (MAML, {"inner_lr": True}, ["inner_lr", "True", "must be a number"]),
        (MAML, {"horizon": 0}, ["horizon", "0", "greater than or equal to 1"]),
        (MAML, {"meta_batch_size": 2.5}, ["meta_batch_size", "2.5", "must be a whole number"]),
        (MAML, {"gamma": 1.5}, ["gamma", "1.5", "less than or equal to 1"]),
        (MAML, {"inner_surrogate": "diec"}, ["inner_surrogate", "'diec'", "did you mean dice"]),
        (
            MAML,
            {"horizon": 10, "episodes_per_task": 3, "inner_minibatches": 4},
            ["inner_minibatches = 4", "= 30", "try 3"],
        ),
        (
            MAML,
            {"inner_surrogate": "dice", "inner_minibatches": 2, "outer_epochs": 1},
            ["inner_minibatches = 2", "must be 1", "dice"],
        ),
        (MAML, {"differentiation": "implicit"}, ["differentiation = implicit", "use algorithm imaml"]),
        (MAML, {"differentiation": "truncated"}, ["truncation_window is missing"]),
        (
            MAML,
            {"differentiation": "truncated", "truncation_window": 3, "num_inner_steps": 2},
            ["truncation_window = 3", "longer than the inner loop", "mixed"],
        ),
        (
            MAML,
            {"inner_surrogate": "dice", "gae_lambda": 0.9, "outer_epochs": 1},
            ["gae_lambda = 0.9", "must be 1", "use loaded_dice"],
        ),
        (MAML, {"truncation_window": 1}, ["truncation_window = 1", "is for differentiation = truncated, not mixed"]),
        (
            MAML,
            {"inner_surrogate": "lvc", "inner_clip_eps": 0.1},
            ["inner_clip_eps = 0.1", "is for inner_surrogate = ppo or smooth_ppo, not inner_surrogate = lvc"],
        ),
        (MAML, {"outer_surrogate": "vpg", "outer_clip_eps": 0.1}, ["outer_clip_eps = 0.1", "ppo or smooth_ppo"]),
        (MAML, {"dice_lambda": 0.5}, ["dice_lambda = 0.5", "is for inner_surrogate or outer_surrogate = loaded_dice"]),
        (PPO, {"surrogate": "lvc", "clip_eps": 0.1}, ["clip_eps = 0.1", "not surrogate = lvc"]),
        (MAML, {"evolution_sigma": 0.5}, ["evolution_sigma = 0.5", "is for differentiation = evolution"]),
        (
            {**MAML, "algorithm": "imaml"},
            {"differentiation": "reverse", "cg_steps": 9, "outer_epochs": 1},
            ["cg_steps = 9", "is for differentiation = implicit, not reverse"],
        ),
        ({**MAML, "algorithm": "maml_trpo"}, {"evolution_sigma": 0.5}, ["is for differentiation = evolution"]),
        (MAML, {"inner_microbatches": 3}, ["inner_microbatches = 3", "episodes_per_task = 20", "try 2"]),
        ({**MAML, "algorithm": "maml_trpo"}, {"differentiation": "evolution"}, ["no Fisher matrix", "use mixed"]),
        (
            {**MAML, "algorithm": "reptile"},
            {"exploration_coef": 1.0},
            ["exploration_coef = 1.0", "not a key of algorithm reptile"],
        ),
        ({**MAML, "algorithm": "promp"}, {"inner_surrogate": "vpg"}, ["inner_surrogate = vpg", "lvc"]),
        (
            MAML,
            {"outer_surrogate": "dice"},
            ["outer_epochs = 5", "must be 1", "outer_surrogate = dice", "use lvc or ppo"],
        ),
        (MAML, {"outer_epochs": 1, "inner_epochs": 2, "inner_surrogate": "vpg"}, ["inner_epochs = 2", "must be 1"]),
        (MAML, {"seed": 10**11}, ["seed", "less than or equal to"]),
        (MAML, {"algorithm": "mamll"}, ["algorithm", "'mamll'", "did you mean maml"]),
        (MAML, {"hidden": 64}, ["hidden", "64", "must be a list"]),
        (MAML, {"num_iterations": None}, ["num_iterations", "None", "whole number"]),
        (
            {"algorithm": "rl2", "env": "BernoulliBandit-v0", "num_iterations": 1, "num_episodes": 2},
            {"num_layers": 3},
            ["num_layers = 3", "is for network = transformer, not gru"],
        ),
        (PPO, {"num_minibatches": 3}, ["num_minibatches = 3", "num_envs * num_steps = 512", "try 2"]),
        (PPO, {"inner_lr": 0.1}, ["inner_lr", "not a key of algorithm ppo"]),
    ],
)
def test_a_mistake_is_one_clear_line(base, change, expected):
    with pytest.raises(ConfigError) as error:
        build(validate({**base, **change}))
    message = str(error.value)
    assert "\n" not in message and len(message) < 250
    for part in expected:
        assert part in message, message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gamma": 7, "lam": 1, "lrr": 2}, "^lam = 1: not a key .* \\(also wrong: lrr, gamma\\)$"),
        ({"gamma": 7, "inner_lr": "x", "outer_lr": -1}, "^inner_lr = 'x': .* \\(also wrong: gamma, outer_lr\\)$"),
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, "^a = 1: .* \\(also wrong: b, c, d and 1 more\\)$"),
        ({"num_iteratons": 3, "num_iterations": None}, "^num_iteratons = 3: .*num_iterations\\? \\(also wrong"),
        ({"gamma": 7}, "\\(discount\\)$"),
    ],
)
def test_other_mistakes_are_named_with_the_first(change, expected):
    with pytest.raises(ConfigError, match=expected):
        validate({**MAML, **change})


def test_options_of_the_trust_region_are_not_taken_for_those_of_implicit_gradients():
    assert build(validate({**MAML, "algorithm": "maml_trpo", "cg_steps": 3, "cg_damping": 0.1})).config.cg_steps == 3


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match="^num_iterations is missing"):
        validate({"algorithm": "maml", "env": "PointNavigation-v0"})
    with pytest.raises(ConfigError, match="^algorithm is missing: must be one of"):
        validate({"env": "PointNavigation-v0"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("algorithm: [maml", "not valid YAML"),
        ("- a\n- b\n", "must be a list of `key: value` lines"),
        ("algorithm: maml\nalgorithm: ppo\n", "algorithm is given twice"),
        ("algorithm: !!python/object/apply:os.system ['touch owned']\n", "not valid YAML"),
        ("seed: !!int abc\n", r"line 1: not valid YAML \(the tag"),
        ("seed: &a [*a]\n", r"not valid YAML \(an alias"),
        ("seed: 010\n", r"\(010 would be read as 8; write it as a plain number, or in quotes\)"),
        ("seed: 1:30\n", r"\(1:30 would be read as 90"),
        ("seed: " + "9" * 5000, r"\(5000 characters\) has more than 40 digits"),
        ("hidden: " + "[" * 1500 + "]" * 1500, "nested deeper than 50"),
        ("seed: a\x00b", "not valid YAML"),
        ("algorithm: maml\nenv: PointNavigation-v0\nnum_iterations: 2020-99-99\n", "'2020-99-99': must be a whole"),
        ("algorithm: maml\nenv: PointNavigation-v0\nnum_iterations: 99999999999\n", "less than or equal to 2147483647"),
        (
            "algorithm: maml\nenv: PointNavigation-v0\nnum_iterations: 1\nenv_options: {a: {b: 99999999999}}\n",
            r"env_options.a.b = 99999999999: must be at most 2147483647",
        ),
        ("a" * (2**20 + 1), "is longer than 1048576 characters"),
    ],
)
def test_a_bad_file_is_one_clear_line_and_runs_no_code(tmp_path, monkeypatch, text, expected):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "owned").exists()


def test_dotted_keys_reach_into_the_options_of_an_environment(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("algorithm: maml\nenv: CartPolePhysics-v0\nnum_iterations: 1\n")
    found = load(path, ["env_options.ranges.gravity=[9,10]", "env_options.horizon=20"])
    assert found.env_options == {"ranges": {"gravity": [9, 10]}, "horizon": 20}
    with pytest.raises(ConfigError, match="ranges = 5: must be a mapping to hold gravity"):
        load(path, ["env_options.ranges=5", "env_options.ranges.gravity=[9,10]"])


def test_a_missing_file_is_one_clear_line(tmp_path):
    (tmp_path / "maml.yaml").write_text("")
    with pytest.raises(ConfigError, match="no such file.*did you mean .*maml.yaml"):
        load(tmp_path / "mamll.yaml")
    with pytest.raises(ConfigError, match="is a directory"):
        load(tmp_path)


def test_overrides_and_exponents(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(MAML) + "outer_lr: 1e-4\n")
    config = load(path, ["inner_lr=5e-1", "hidden=[8]", "env_options.goal_limit=2.0", "max_grad_norm=null"])
    assert config.outer_lr == 1e-4 and config.inner_lr == 0.5
    assert config.hidden == [8] and config.env_options == {"goal_limit": 2.0} and config.max_grad_norm is None
    with pytest.raises(ConfigError, match="must be key=value"):
        load(path, ["inner_lr"])


@pytest.mark.parametrize(
    "key, meant",
    [
        ("inner_learning_rate", "inner_lr"),
        ("discount", "gamma"),
        ("n_inner_steps", "num_inner_steps"),
        ("meta_b", "meta_batch_size"),
    ],
)
def test_other_names_of_keys_are_understood(key, meant):
    with pytest.raises(ConfigError, match=f"not a key of algorithm maml; did you mean {meant}"):
        validate({**MAML, key: 0.5})


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_loads_and_survives_a_round_trip(path):
    config = load(path)
    assert validate(yaml.safe_load(dump(config))) == config
    assert path.read_text().startswith("# "), "the first line says what it is, for `metarl list`"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_builds(path):
    """Algorithms, environments and their options fit together; nothing is compiled."""
    try:
        job = build(load(path))
    except ConfigError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))
    assert callable(job.algorithm.step) and job.work_per_iteration > 0


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_every_key_is_described(name):
    for key, _, _, description in describe(name):
        assert key == "algorithm" or len(description) > 5, key
