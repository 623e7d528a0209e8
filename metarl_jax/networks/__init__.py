"""Policies and regressors: flax modules that return distrax distributions, bundled as pure functions."""

from metarl_jax.envs.observations import flattener
from metarl_jax.networks.belief import belief_network, feature_policy
from metarl_jax.networks.encoder import ENCODING, Encoder, encoder_of
from metarl_jax.networks.mlp import MLP, Actor, Categorical, mlp_policy, orthogonal
from metarl_jax.networks.recurrent import recurrent_policy
from metarl_jax.networks.registry import build_policy, network_part, register
from metarl_jax.networks.transformer import transformer_policy

__all__ = [
    "ENCODING",
    "MLP",
    "Actor",
    "Categorical",
    "Encoder",
    "belief_network",
    "build_policy",
    "encoder_of",
    "feature_policy",
    "flattener",
    "mlp_policy",
    "network_part",
    "orthogonal",
    "recurrent_policy",
    "register",
    "transformer_policy",
]
