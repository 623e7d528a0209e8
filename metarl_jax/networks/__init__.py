"""Policies and regressors: flax modules that return distrax distributions, bundled as pure functions."""

from metarl_jax.networks.mlp import MLP, Categorical, Gaussian, mlp_policy

__all__ = ["MLP", "Categorical", "Gaussian", "mlp_policy"]
