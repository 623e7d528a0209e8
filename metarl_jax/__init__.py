"""metarl_jax: meta-reinforcement learning as pure functions, compiled as one program.

The public names are imported on first use, so that `import metarl_jax` costs milliseconds.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "make": "metarl_jax.envs",
    "register": "metarl_jax.envs",
    "registered": "metarl_jax.envs",
    "TaskDistribution": "metarl_jax.envs",
    "from_gymnax": "metarl_jax.envs",
    "maml": "metarl_jax.algorithms.maml",
    "maml_trpo": "metarl_jax.algorithms.maml_trpo",
    "promp": "metarl_jax.algorithms.promp",
    "e_maml": "metarl_jax.algorithms.e_maml",
    "reptile": "metarl_jax.algorithms.reptile",
    "anil": "metarl_jax.algorithms.anil",
    "meta_sgd": "metarl_jax.algorithms.meta_sgd",
    "cavia": "metarl_jax.algorithms.cavia",
    "imaml": "metarl_jax.algorithms.imaml",
    "ppo": "metarl_jax.algorithms.ppo",
    "meta_gradient_rl": "metarl_jax.algorithms.meta_gradient_rl",
    "lirpg": "metarl_jax.algorithms.lirpg",
    "lpg": "metarl_jax.algorithms.lpg",
    "lpo": "metarl_jax.algorithms.lpo",
    "evolve_rule": "metarl_jax.update_rules.by_evolution",
    "learn_rule": "metarl_jax.update_rules.by_gradient",
    "rl2": "metarl_jax.algorithms.rl2",
    "varibad": "metarl_jax.algorithms.varibad",
    "supervised_maml": "metarl_jax.algorithms.supervised_maml",
}
_MODULES = {
    "adapt": "meta.adaptation",
    "baselines": "reference",
    "envs": "envs",
    "evaluation": "meta.evaluation",
    "exact": "reference.exact",
    "gradient": "gradient",
    "inner": "rl.learners",
    "lifetime": "update_rules.lifetimes",
    "losses": "rl.losses",
    "meta_gradient": "meta.differentiation",
    "meta_learner": "meta.meta_learner",
    "networks": "networks",
    "outer": "meta.outer",
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
