"""What type checkers and editors see of the names that `__init__.py` resolves on first use; a test compares the two."""

from metarl_jax import envs as envs
from metarl_jax import gradient as gradient
from metarl_jax import networks as networks
from metarl_jax import reference as _reference
from metarl_jax import reference as reference
from metarl_jax import tree as tree
from metarl_jax import types as types
from metarl_jax.algorithms.anil import anil as anil
from metarl_jax.algorithms.boil import boil as boil
from metarl_jax.algorithms.cavia import cavia as cavia
from metarl_jax.algorithms.e_maml import e_maml as e_maml
from metarl_jax.algorithms.imaml import imaml as imaml
from metarl_jax.algorithms.lirpg import lirpg as lirpg
from metarl_jax.algorithms.lpg import lpg as lpg
from metarl_jax.algorithms.lpo import lpo as lpo
from metarl_jax.algorithms.maml import maml as maml
from metarl_jax.algorithms.maml_trpo import maml_trpo as maml_trpo
from metarl_jax.algorithms.meta_gradient_rl import meta_gradient_rl as meta_gradient_rl
from metarl_jax.algorithms.meta_sgd import meta_sgd as meta_sgd
from metarl_jax.algorithms.ppo import ppo as ppo
from metarl_jax.algorithms.promp import promp as promp
from metarl_jax.algorithms.reptile import reptile as reptile
from metarl_jax.algorithms.rl2 import rl2 as rl2
from metarl_jax.algorithms.supervised_maml import supervised_maml as supervised_maml
from metarl_jax.algorithms.varibad import varibad as varibad
from metarl_jax.envs import TaskDistribution as TaskDistribution
from metarl_jax.envs import from_gymnax as from_gymnax
from metarl_jax.envs import make as make
from metarl_jax.envs import register as register
from metarl_jax.envs import registered as registered
from metarl_jax.meta import adaptation as _adaptation
from metarl_jax.meta import evaluation as evaluation
from metarl_jax.meta import meta_gradient as meta_gradient
from metarl_jax.meta import meta_learner as meta_learner
from metarl_jax.meta import outer_update as _outer_update
from metarl_jax.reference import exact as exact
from metarl_jax.rl import learners as _learners
from metarl_jax.rl import learners as learners
from metarl_jax.rl import losses as losses
from metarl_jax.rl import returns as returns
from metarl_jax.rl import rollout as rollout
from metarl_jax.rl import trials as _trials
from metarl_jax.runs.trained import load_run as load_run
from metarl_jax.update_rules import lifetimes as _lifetimes
from metarl_jax.update_rules.by_evolution import evolve_rule as evolve_rule
from metarl_jax.update_rules.by_gradient import learn_rule as learn_rule

__version__: str
__all__: list[str]
adapt = _adaptation
baselines = _reference
inner = _learners
lifetime = _lifetimes
outer = _outer_update
trial_rollout = _trials
