"""metarl_jax: meta-reinforcement learning as pure functions, compiled as one program.

The public names are imported on first use, so that `import metarl_jax` costs milliseconds.
"""

import importlib
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


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
