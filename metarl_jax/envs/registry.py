"""Names of environments: `make(name, **overrides) -> (env, tasks)`.

Entries are "module:function" strings that are imported on use, so listing the names costs nothing.
"""

import difflib
import importlib
import importlib.metadata
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from metarl_jax.options import is_address
from metarl_jax.user_code import load_address, same_factory

GYMNAX_PREFIX = "gymnax:"
XLAND_PREFIX = "XLand-MiniGrid:"
META_WORLD_PREFIX = "MetaWorld:"
MINATAR_PREFIX = "MinAtar:"
DELAYED_PREFIX = "Delayed:"
# prefix -> (factory, whose first argument is what follows the prefix; one-line description)
_FAMILIES = {
    GYMNAX_PREFIX: (
        "metarl_jax.envs.gymnax_adapter:from_gymnax",
        "any gymnax environment; `ranges` says which parameters vary",
    ),
    XLAND_PREFIX: (
        "metarl_jax.envs.xland_adapter:xland",
        "XLand-MiniGrid, a ruleset is a task; needs metarl_jax[xland]",
    ),
    META_WORLD_PREFIX: (
        "metarl_jax.envs.metaworld:meta_world",
        "Meta-World, ML1-<task> or ML10; needs metarl_jax[metaworld]",
    ),
    MINATAR_PREFIX: (
        "metarl_jax.envs.minatar:minatar",
        "MinAtar's Asterix, Breakout, Freeway, Seaquest, SpaceInvaders by drawn `rules`",
    ),
    DELAYED_PREFIX: (
        "metarl_jax.envs.delayed:delayed",
        "any of these with its rewards saved up and paid every n steps (`every`)",
    ),
}
_POINT = "metarl_jax.envs.point"
_REGRESSION = "metarl_jax.envs.regression"
_LOCOMOTION = "metarl_jax.envs.locomotion"

# name -> (factory or "module:function", one-line description)
_ENTRIES: dict[str, tuple[str | Callable[..., Any], str]] = {
    "PointNavigation-v0": (f"{_POINT}:maml", "2D point, goals U[-.5, .5]^2, reward -distance (MAML)"),
    "PointNavigation-v2": (f"{_POINT}:promp_v2", "2D point, goals U[-2, 2]^2, reward -distance (ProMP)"),
    "PointCorner-v0": (
        f"{_POINT}:corner",
        "2D point, goal in one of 4 corners, sparse progress reward (ProMP)",
    ),
    "PointHalfCircle-v0": (
        f"{_POINT}:half_circle",
        "2D point, goals on a half-circle, sparse reward (PEARL)",
    ),
    "CartPolePhysics-v0": (
        "metarl_jax.envs.cartpole:cartpole_physics",
        "CartPole with random gravity, masses, pole length and force",
    ),
    "BernoulliBandit-v0": ("metarl_jax.envs.bandit:bernoulli_bandit", "Bernoulli bandit, p ~ U[0, 1] (RL2)"),
    "GaussianBandit-v0": (
        "metarl_jax.envs.bandit:gaussian_bandit",
        "Gaussian bandit, means ~ U[0, 1], sigma 1",
    ),
    "DependentBandit-v0": (
        "metarl_jax.envs.dependent_bandit:dependent_bandit",
        "2 arms with p and 1 - p, or 11 with one that tells which pays (Wang et al. 2016)",
    ),
    "GridNavi-v0": ("metarl_jax.envs.grid_navi:grid_navi", "5x5 grid, one of 21 hidden goals, 15 steps (VariBAD)"),
    "Recommender-v0": (
        "metarl_jax.envs.recommender:recommender",
        "a user of hidden, drifting taste, 50 items, clicks by a conditional logit (after RecSim)",
    ),
    "KrazyWorld-v0": (
        "metarl_jax.envs.krazy_world:krazy_world",
        "10x10 boards of unknown tiles, 3 goals (E-MAML, E-RL2)",
    ),
    "CraftaxClassic-v0": (
        "metarl_jax.envs.craftax_adapter:craftax_classic",
        "Craftax-Classic, a world is a task; needs metarl_jax[craftax]",
    ),
    "Maze-v0": ("metarl_jax.envs.maze:maze", "procedural 9x9 mazes, hidden goal, partial view (after MetaMaze)"),
    "Driving-v0": (
        "metarl_jax.envs.driving.town:driving",
        "two-lane road with traffic and crossings, unknown rules of the town",
    ),
    "Sinusoid-v0": (f"{_REGRESSION}:sinusoid", "few-shot sinusoid regression, labelled examples (MAML)"),
    "XOR-v0": (f"{_REGRESSION}:xor", "few-shot XOR on rotated axes, labelled examples"),
    "TwoColours-v0": (
        "metarl_jax.envs.two_colours:two_colours",
        "5x5 grid, a good and a bad colour that swap without notice (BMG)",
    ),
    "HalfCheetahDir-v0": (f"{_LOCOMOTION}:half_cheetah_dir", "half-cheetah, forwards or backwards (MAML, ProMP)"),
    "HalfCheetahVel-v0": (f"{_LOCOMOTION}:half_cheetah_vel", "half-cheetah, target velocities U[0, 3] m/s (PEARL)"),
    "AntDir-v0": (f"{_LOCOMOTION}:ant_dir", "ant, directions of the plane (PEARL)"),
    "AntGoal-v0": (f"{_LOCOMOTION}:ant_goal", "ant, goals in a disc of 3 m (PEARL)"),
    "Walker2DRandParams-v0": (
        f"{_LOCOMOTION}:walker_rand_params",
        "walker, random masses, inertias, damping and friction (ProMP)",
    ),
    "HopperRandParams-v0": (f"{_LOCOMOTION}:hopper_rand_params", "hopper, the same (ProMP)"),
    "TabularMDP-v0": ("metarl_jax.envs.tabular:tabular_mdp", "random 10-state, 5-action MDP, 10 steps (RL2)"),
}


_OURS_NAMES = (*_ENTRIES,)
GROUP = "metarl_jax.environments"  # of the entry points by which a package publishes its own


class UnknownOption(ValueError):
    """An option that an environment does not have."""


def make(name: str, **overrides: Any) -> tuple[Any, Any]:
    """Build `(env, tasks)`: a gymnax environment and the `TaskDistribution` over its `EnvParams`.

    Equal names and overrides give the *same* environment instance, so that jit caches keyed on it are reused.

    Args:
      name: a name from `registered()`, "gymnax:<id>" for any gymnax environment, "XLand-MiniGrid:<id>",
        "MetaWorld:ML1-<task>" or "MetaWorld:ML10", "MinAtar:<game>", "Delayed:<name>" for any of them with late
        rewards, or "my_package.my_module:factory" for one of your own.
      **overrides: keyword arguments of the factory, such as `horizon=50` or `num_arms=10`.

    Raises:
      ValueError: for an unknown name, an unknown override, or an impossible value.
    """
    factory, positional = _factory(name)
    _check_overrides(name, factory, overrides, num_positional=len(positional))
    if positional or name in _OURS_NAMES:
        _check_kinds(factory, overrides)
        return factory(*positional, **overrides)
    import jax

    from metarl_jax.envs.protocol import check_environment

    with jax.ensure_compile_time_eval():  # it may be called while a program is traced, and makes its constants now
        made = factory(**overrides)
    return check_environment(name, made)


def options_of(name: str) -> dict[str, Any]:
    """{option: default} of an environment, which `make` takes as keywords; `...` where one must be given.

    Raises: ValueError for an unknown name.
    """
    factory, positional = _factory(name)
    parameters = list(inspect.signature(factory).parameters.values())[len(positional) :]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: ... if p.default is p.empty else p.default for p in named}


def about(name: str) -> str:
    """The docstring of what makes an environment.

    Raises: ValueError for an unknown name.
    """
    return inspect.getdoc(_factory(name)[0]) or ""


def _factory(name: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """(what makes an environment, its first arguments)."""
    prefix = next((prefix for prefix in _FAMILIES if name.startswith(prefix)), None)
    if prefix is not None:
        return _resolve(_FAMILIES[prefix][0]), (name[len(prefix) :],)
    if name in _ENTRIES:
        return _resolve(_ENTRIES[name][0]), ()
    if is_address(name):
        return load_address(name, "env"), ()
    point = next((point for point in _published() if point.name == name), None)
    if point is None:
        beside = f"; {name}.py here is named {name}:<its factory>" if os.path.isfile(f"{name}.py") else ""
        raise ValueError(f"unknown environment {name!r}{beside or did_you_mean(name, registered())}")
    return load_address(point.value, "env"), ()


def registered() -> dict[str, str]:
    """Names that `make` understands, each with a one-line description."""
    names = {point.name: f"of {point.value.partition(':')[0]}" for point in _published()}
    names |= {name: description for name, (_, description) in _ENTRIES.items()}
    return names | {f"{prefix}<id>": description for prefix, (_, description) in _FAMILIES.items()}


def register(name: str, factory: str | Callable[..., Any], description: str = "") -> None:
    """Add an environment: `factory(**overrides) -> (env, tasks)`, or its "module:function" address.

    The same name again for the same factory is fine: a notebook cell may run twice.

    Raises:
      ValueError: if the name stands for another factory, or the address has no colon.
    """
    taken = name in _ENTRIES and (name in _OURS_NAMES or not same_factory(_ENTRIES[name][0], factory))
    if taken or name.startswith(tuple(_FAMILIES)):
        raise ValueError(f"environment name {name!r} is already taken; choose another")
    if isinstance(factory, str) and factory.count(":") != 1:
        raise ValueError(f"factory must be a function or 'module:function', got {factory!r}")
    _ENTRIES[name] = (factory, description)


def factory_of(name: str) -> str | Callable[..., Any] | None:
    """What a name was registered with by `register`; None for ours and for addresses."""
    return _ENTRIES[name][0] if name in _ENTRIES and name not in _OURS_NAMES else None


def _published() -> list[importlib.metadata.EntryPoint]:
    return list(importlib.metadata.entry_points(group=GROUP))


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """The tail of an error message: the options nearest to `name`, or all of them when none is near."""
    options = sorted(options)
    lower = {option.lower(): option for option in options}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    return f"; did you mean {', '.join(near)}?" if near else f"; known: {', '.join(options)}"


def _resolve(factory: str | Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(factory, str):
        return factory
    module, function = factory.split(":")
    return getattr(importlib.import_module(module), function)


def _check_overrides(name: str, factory: Callable[..., Any], overrides: dict[str, Any], num_positional: int) -> None:
    parameters = list(inspect.signature(factory).parameters.values())[num_positional:]
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return
    allowed = [p.name for p in parameters]
    for key in overrides:
        if key not in allowed:
            hint = did_you_mean(key, allowed)
            near = hint if "did you mean" in hint else ""
            raise UnknownOption(f"{name} has no option {key!r} (allowed: {', '.join(allowed) or 'none'}){near}")


_KINDS: dict[type, str] = {bool: "true or false", int: "an integer", float: "a finite number", str: "a text"}
_KINDS[type(None)] = "null"
_LARGEST = 3.4e38  # in float32


def _check_kinds(factory: Callable[..., Any], overrides: dict[str, Any]) -> None:
    """That what an option of ours is given is of the kind, such as bool or `float | None`, that it is annotated with.

    Annotations of other kinds, and whole numbers, of which the factory says more, are left to the factory.
    """
    hints = typing.get_type_hints(factory)
    for key, value in overrides.items():
        hint = hints.get(key)
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = set(typing.get_args(hint)) if is_union else {hint}
        if not kinds <= set(_KINDS) or (kinds == {int} and isinstance(value, Hashable)):
            continue
        if isinstance(value, bool):
            fits = bool in kinds
        elif isinstance(value, numbers.Integral):
            fits = bool({int, float} & kinds) and abs(int(value)) < _LARGEST
        elif isinstance(value, numbers.Real):
            fits = float in kinds and abs(float(value)) < _LARGEST  # false for NaN
        else:
            fits = type(value) in kinds
        if not fits:
            allowed = " or ".join(text for kind, text in _KINDS.items() if kind in kinds)
            raise ValueError(f"{key} must be {allowed}, got {value!r}")
