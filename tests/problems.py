"""Small problems that several tests share, and the comparisons they make."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import metarl_jax as mrl
from metarl_jax import devices
from metarl_jax.algorithms import registry
from metarl_jax.algorithms.boil import body
from metarl_jax.algorithms.gradient_family import EvaluationOptions
from metarl_jax.algorithms.varibad import condition_size
from metarl_jax.networks import belief_network, feature_policy, mlp_policy
from metarl_jax.rl import learners
from metarl_jax.rl.normalize import Moments, normalized
from metarl_jax.rl.rollout import rollout


def point(critic=False, hidden=(8,), horizon=10):
    """Point navigation with a tiny policy: env, tasks, policy."""
    env, tasks = mrl.make("PointNavigation-v0", horizon=horizon)
    return env, tasks, mlp_policy(env, hidden=hidden, critic=critic)


BOTH = {"normalize_observations": True, "normalize_rewards": True}


def normalized_point(horizon=5, hidden=(4,), *, rewards=True, **options):
    """Point navigation with statistics: env, tasks, policy."""
    env, tasks = mrl.make("PointNavigation-v0", horizon=horizon)
    return env, tasks, normalized(mlp_policy(env, hidden, **options), env, **{**BOTH, "normalize_rewards": rewards})


def with_statistics(params):
    """Parameters whose statistics are those of other data."""
    observation = Moments(jnp.asarray(50.0), jnp.array([0.02, -0.03]), jnp.array([0.01, 0.04]))
    reward = Moments(jnp.asarray(50.0), jnp.asarray(-0.7), jnp.asarray(0.3))
    return {**params, "normalizer": jax.tree.map(jnp.asarray, {"observation": observation, "reward": reward})}


def acted_in_one_task(critic):
    """A policy, its parameters, and a rollout of it in one task, some columns of which end early."""
    env, tasks, policy = point(critic=critic, hidden=(4,), horizon=6)

    @jax.jit
    def act():
        params = policy.init(jax.random.key(0))
        task = tasks.sample(jax.random.key(1)).replace(tolerance=jnp.array(0.15), goal=jnp.array([0.2, 0.2]))
        return params, rollout(env, policy.apply, params, jax.random.key(2), task, num_steps=6, num_envs=8)[0]

    params, out = act()
    assert 0 < out.mask.mean() < 1
    return policy, params, out


def point_maml(problem, lr=0.1, *, inner_options=None, **options):
    """MAML on `point(...)`: PPO inside, with 2 epochs of 2 minibatches; 2 tasks of 4 episodes."""
    env, tasks, policy = problem
    baseline = "linear" if policy.value is None else "critic"
    inner_options = {"num_epochs": 2, "num_minibatches": 2, "baseline": baseline, **(inner_options or {})}
    options = {"num_inner_steps": 2, "meta_batch_size": 2, "episodes_per_task": 4, "num_outer_epochs": 1, **options}
    return mrl.maml(env, tasks, policy, learners.ppo(policy, lr, **inner_options), **options)


def gradient_family():
    """Names of the gradient-based meta-learners on episodes."""
    return [n for n in registry.ALGORITHMS if issubclass(registry.entry(n).options, EvaluationOptions)]


INNER = {  # what adapts inside the algorithms that are not MAML with any learner
    "e_maml": lambda policy, lr: learners.policy_gradient(policy, lr, surrogate="vpg"),
    "anil": learners.head,
    "boil": body,
    "meta_sgd": lambda policy, lr: learners.meta_sgd(policy),
    "cavia": learners.context,
    "imaml": lambda policy, lr: learners.proximal(policy, lr, num_steps=3),
}


def of_family(name, env, tasks, policy, lr=0.1, **options):
    """An algorithm of the gradient-based family with its own inner learner."""
    inner = INNER.get(name, learners.policy_gradient)(policy, lr)
    more = {"inner_lr": lr} if name == "meta_sgd" else {}
    return getattr(mrl, name)(env, tasks, policy, inner, **more, **options)


def make_varibad(env, tasks, condition="next_state", decoder="mlp", **options):
    """VariBAD with tiny networks."""
    policy = feature_policy(env, 2 * 3, (8,))
    sizes = {"latent_size": 3, "hidden_size": 8, "step_size": 8}
    belief = belief_network(env, condition_size(env, condition), decoder=decoder, **sizes)
    options = {"meta_batch_size": 4, "num_minibatches": 2, **options}
    return mrl.varibad(env, tasks, policy, belief, condition=condition, **options)


def store_trial(algo, problem, seed=0):
    """(params, trial) of one random task, in the current default precision (flax initialises in float32)."""
    _, tasks, policy = problem

    @jax.jit
    def start(key):
        params_key, task_key, key = jax.random.split(key, 3)
        return jax.tree.map(lambda x: x.astype(float), policy.init(params_key)), key, tasks.sample(task_key)

    params, key, task = start(jax.random.key(seed))
    return params, jax.jit(algo.collect)(params, key, task)[0]


@jax.jit
def flat(tree):
    """All leaves as one vector."""
    return ravel_pytree(tree)[0]


def vector(tree):
    """The same by NumPy, in double precision: nothing is compiled."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(float)


def relative_error(a, b):
    """|a - b| / |b| over all leaves."""
    a, b = vector(a), vector(b)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@jax.jit
def shaken(params, key):
    """Parameters far from an initialisation that is nearly uniform."""
    vector, unravel = ravel_pytree(jax.tree.map(lambda x: x.astype(float), params))
    return unravel(vector + 0.3 * jax.random.normal(key, vector.shape, float))


def on_devices(f, num_parts):
    """What each of `num_parts` devices that share one training finds, [num_parts, ...]; a vmap stands in for them."""

    def one(_):
        with devices._sharing_tasks(num_parts):
            return f()

    return jax.jit(jax.vmap(one, axis_name=devices.TASK))(jnp.arange(num_parts))


def random_directions(key, tree, num):
    """[num, P] random unit vectors for a flattened tree, and the inverse of the flattening."""
    vector, unravel = ravel_pytree(tree)

    @jax.jit
    def draw(key):
        directions = jax.random.normal(key, (num, vector.size), vector.dtype)
        return directions / jnp.linalg.norm(directions, axis=1, keepdims=True)

    return draw(key), jax.jit(unravel)


def is_finite(tree):
    """Whether every float in the tree is finite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return all(bool(np.isfinite(x).all()) for x in leaves)
