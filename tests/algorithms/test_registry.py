"""One option, one place: what a constructor says of an option is what its configuration says."""

import inspect

import pytest
import yaml

import metarl_jax as mrl
from metarl_jax.algorithms import registry
from metarl_jax.algorithms.interface import Entry, RunOptions
from metarl_jax.options import ConfigError, Part, options_of
from metarl_jax.runs.config import describe, validate

# Where a configuration begins at another value than the function that reads it, each with its reason.
OTHERWISE = {
    ("meta_gradient_rl", "outer_critic"): "in Python it is an OuterCritic",
    ("maml", "inner_surrogate"): "as a configuration it is MAML-PPO",
    ("e_maml", "inner_surrogate"): "any other would count the sampling twice",
    ("lpg", "outer_entropy_coef"): "b0 of the paper",
}


def parts_of(name):
    """Every `Part` that an algorithm's file (and what it builds on) makes keys of, by reading its closure."""
    entry = registry.entry(name)
    seen, found, todo = set(), [], [entry.build]
    while todo:
        x = todo.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, Part):
            found.append(x)
        elif inspect.isfunction(x):
            x = inspect.unwrap(x)
            todo += [cell.cell_contents for cell in x.__closure__ or () if cell.cell_contents is not x]
            todo += [x.__globals__[n] for n in x.__code__.co_names if isinstance(x.__globals__.get(n), Part)]
            helpers = (x.__globals__.get(n) for n in x.__code__.co_names)
            todo += [h for h in helpers if inspect.isfunction(h) and h.__module__ == x.__module__]
    return found


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_constructor_and_configuration_agree(name):
    """Default, range and sentence of every key that is an option of a function."""
    fields = registry.entry(name).options.model_fields
    compared = 0
    for part in parts_of(name):
        for option, key in part.keys.items():
            said = options_of(part.function)[option]
            if key not in fields or (name, key) in OTHERWISE or said.default is inspect.Parameter.empty:
                continue
            default = list(said.default) if isinstance(said.default, tuple) else said.default
            assert fields[key].default == default or key in ("truncation_window", "baseline", "clip_eps"), key
            compared += 1
    assert compared > 10


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_own_options_of_the_public_constructor(name):
    """`inspect.signature(mrl.NAME)` shows every option; those that are keys have the configuration's default."""
    signature = inspect.signature(getattr(mrl, name))
    fields = registry.entry(name).options.model_fields
    shown = [p for p in signature.parameters.values() if p.name in fields and p.name not in ("num_iterations", "env")]
    for p in shown:
        default = list(p.default) if isinstance(p.default, tuple) else p.default
        field = fields[p.name]
        if (name, p.name) not in OTHERWISE and not field.is_required() and p.default is not inspect.Parameter.empty:
            assert field.default == default, p.name
    assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    assert shown or name in ("lpg",)


# One value out of range for each kind of number, refused in the same words by the constructor and the configuration.
BAD = [
    (lambda: mrl.inner.ppo(None, num_epochs=0), {"algorithm": "ppo", "num_epochs": 0}, "num_epochs = 0: must be"),
    (lambda: mrl.inner.ppo(None, gamma=1.5), {"algorithm": "ppo", "gamma": 1.5}, "gamma = 1.5: must be"),
    (lambda: mrl.inner.ppo(None, clip_eps=-1.0), {"algorithm": "ppo", "clip_eps": -1.0}, "clip_eps = -1.0: must be"),
    (lambda: mrl.inner.ppo(None, gamma="x"), {"algorithm": "ppo", "gamma": "x"}, "gamma = 'x': must be a number"),
    (
        lambda: mrl.inner.ppo(None, surrogate="dpoo"),
        {"algorithm": "ppo", "surrogate": "dpoo"},
        "surrogate = 'dpoo': not known; did you mean dpo",
    ),
    (
        lambda: mrl.networks.mlp_policy(None, activation="tahn"),
        {"algorithm": "ppo", "activation": "tahn"},
        "activation = 'tahn': must be .*did you mean tanh",
    ),
]


@pytest.mark.parametrize(("call", "data", "words"), BAD, ids=lambda x: x if isinstance(x, str) else "")
def test_both_refuse_in_the_same_words(call, data, words):
    with pytest.raises(ValueError, match=words):
        call()
    with pytest.raises(ConfigError, match=words):
        validate({"env": "gymnax:CartPole-v1", "num_iterations": 1, **data})


def test_an_unknown_option_has_a_near_one():
    with pytest.raises(TypeError, match=r"maml\(\) has no option 'outer_lrr'; did you mean outer_lr\?"):
        mrl.maml(None, None, None, None, outer_lrr=1.0)


def test_numbers_of_numpy_are_numbers():
    import numpy as np

    from metarl_jax.meta.meta_gradient import truncated

    assert truncated(np.int64(1)).name == truncated(1).name
    with pytest.raises(ValueError, match="gae_lambda"):
        mrl.inner.policy_gradient(None, surrogate="dice", gae_lambda=np.float32(0.95))


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_the_registry_says_what_the_file_says(name):
    entry, (_, about) = registry.entry(name), registry.ALGORITHMS[name]
    assert isinstance(entry, Entry) and issubclass(entry.options, RunOptions)
    assert (entry.options.__doc__ or "").splitlines()[0] == about
    for key, _, _, sentence in describe(name):
        assert len(sentence) > 5, key


def test_show_says_what_is_allowed():
    said = {key: (default, values) for key, default, values, _ in describe("maml")}
    assert said["gamma"] == ("0.99", "0 to 1") and said["inner_lr"] == ("0.1", "> 0")
    assert said["max_grad_norm"] == ("null", "> 0 or null") and said["num_inner_steps"] == ("1", ">= 0")
    assert said["baseline"][1] == "linear | critic | zero" and said["normalize_advantage"][1] == "true | false"


def test_a_registered_algorithm_is_known_everywhere():
    registry.register("my_maml", "metarl_jax.algorithms.maml:ENTRY", "for a test")
    registry.register("my_maml", "metarl_jax.algorithms.maml:ENTRY", "the cell run again")
    try:
        data = yaml.safe_load("{algorithm: my_maml, env: PointNavigation-v0, num_iterations: 1}")
        assert validate(data).algorithm == "my_maml" and "my_maml" in registry.names()
        with pytest.raises(ValueError, match="already taken"):
            registry.register("my_maml", "metarl_jax.algorithms.promp:ENTRY")
        with pytest.raises(ValueError, match="already taken"):
            registry.register("maml", "metarl_jax.algorithms.promp:ENTRY")
    finally:
        registry._registered.clear()
    registry.register("broken", "no_such_package.x:ENTRY")
    try:
        with pytest.raises(ConfigError, match="no_such_package.x cannot be imported"):
            validate({**data, "algorithm": "broken"})
    finally:
        registry._registered.clear()
