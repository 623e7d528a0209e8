"""metarl_jax: meta-reinforcement learning as pure functions, compiled as one program.

The public names are imported on first use, so that `import metarl_jax` costs milliseconds.
"""

import importlib.util
import sys
import types
from typing import Any

from metarl_jax.algorithms.registry import ALGORITHMS

__version__ = "0.1.0"

_NAMES = {
    "make": "metarl_jax.envs",
    **{name: address.partition(":")[0] for name, (address, _) in ALGORITHMS.items()},
    "register": "metarl_jax.envs",
    "registered": "metarl_jax.envs",
    "TaskDistribution": "metarl_jax.envs",
    "from_gymnax": "metarl_jax.envs",
    "evolve_rule": "metarl_jax.update_rules.by_evolution",
    "learn_rule": "metarl_jax.update_rules.by_gradient",
    "load_run": "metarl_jax.runs.trained",
}
_MODULES = {
    "adapt": "meta.adaptation",
    "baselines": "reference",
    "envs": "envs",
    "evaluation": "meta.evaluation",
    "exact": "reference.exact",
    "gradient": "gradient",
    "inner": "rl.learners",
    "learners": "rl.learners",
    "lifetime": "update_rules.lifetimes",
    "losses": "rl.losses",
    "meta_gradient": "meta.meta_gradient",
    "meta_learner": "meta.meta_learner",
    "networks": "networks",
    "outer": "meta.outer_update",
    "reference": "reference",
    "returns": "rl.returns",
    "rollout": "rl.rollout",
    "tree": "tree",
    "trial_rollout": "rl.trials",
    "types": "types",
}

__all__ = ["__version__", *_NAMES, *_MODULES]


class _OnFirstUse(types.ModuleType):
    """A module that is imported when something is read of it."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute not in ("__all__", "__version__"):  # as tools ask every module
            raise AttributeError(f"module {self.__name__!r} has no attribute {attribute!r}")
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        module = importlib.import_module(self.__name__)
        self.__dict__.update(vars(module))
        return getattr(module, attribute)


def _import_on_first_use(name: str) -> None:
    found = None if name in sys.modules else importlib.util.find_spec(name)
    if found is not None:
        module = sys.modules[name] = _OnFirstUse(name)
        module.__spec__, module.__file__, module.__path__ = found, found.origin, found.submodule_search_locations or []


# gymnax imports it to draw one of its games; with pandas and scipy's statistics it is half of an import of gymnax.
_import_on_first_use("seaborn")


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
