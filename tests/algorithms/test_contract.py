"""What every algorithm promises: a pure, jittable, vmappable `step` on a state of arrays, the same for a key."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import gradient_family, is_finite, of_family, point, point_maml

import metarl_jax as mrl
from metarl_jax import tree
from metarl_jax.algorithms.varibad import condition_size
from metarl_jax.envs.trial import trials
from metarl_jax.meta.hyperparameters import Tuned
from metarl_jax.meta.meta_gradient import evolution, truncated
from metarl_jax.networks import belief_network, feature_policy, mlp_policy, recurrent_policy, transformer_policy
from metarl_jax.rl import learners
from metarl_jax.rl.normalize import normalized
from metarl_jax.update_rules.by_evolution import evolve_rule
from metarl_jax.update_rules.by_gradient import learn_rule
from metarl_jax.update_rules.lifetimes import with_outer_critic


def ppo(num_tasks_at_a_time):
    env, tasks, policy = point(critic=True, hidden=(4,), horizon=4)
    return mrl.ppo(
        env, tasks.sample(jax.random.key(0)), policy, num_envs=2, num_steps=4, num_epochs=2, num_minibatches=2
    )


def ppo_normalized(num_tasks_at_a_time):
    env, tasks, _ = point(horizon=4)
    policy = mlp_policy(env, (4,), critic=True, squash=True)
    policy = normalized(policy, env, normalize_observations=True, normalize_rewards=True)
    options = {"num_envs": 2, "num_steps": 4, "num_epochs": 2, "num_minibatches": 2}
    return mrl.ppo(env, tasks.sample(jax.random.key(0)), policy, **options)


def meta_gradient_rl(num_tasks_at_a_time):
    env, tasks, policy = point(critic=True, hidden=(4,), horizon=4)
    policy, critic = with_outer_critic(policy, policy)
    tuned = {"gamma": Tuned(0.9), "lr": Tuned(0.01, high=None)}
    options = {"num_inner_steps": 2, "num_envs": 2, "num_steps": 4, "objective": "bootstrapped", "outer_critic": critic}
    return mrl.meta_gradient_rl(env, tasks.sample(jax.random.key(0)), policy, tuned, **options)


def maml(critic=False, num_inner_steps=1, **inner_options):
    inner_options = {"num_epochs": 1, "num_minibatches": 1, **inner_options}

    def make(num_tasks_at_a_time):
        problem = point(critic=critic, hidden=(4,), horizon=4)
        options = {"tasks_per_batch": num_tasks_at_a_time, "num_inner_steps": num_inner_steps, "episodes_per_task": 2}
        return point_maml(problem, 0.1, inner_options=inner_options, **options)

    return make


def family(algorithm, statistics=False, **own):
    """An algorithm on tiny point navigation, by name or as a function; `own` are its own options."""

    def make(num_tasks_at_a_time):
        env, tasks, _ = point(hidden=(4,), horizon=4)
        policy = mlp_policy(env, hidden=(4,), context_size=2 if algorithm == "cavia" else 0, squash=statistics)
        policy = normalized(policy, env, normalize_observations=statistics, normalize_rewards=statistics)
        options = {"tasks_per_batch": num_tasks_at_a_time, "meta_batch_size": 2, "episodes_per_task": 2, **own}
        if callable(algorithm):
            return algorithm(env, tasks, policy, **options)
        return of_family(algorithm, env, tasks, policy, **options)

    return make


def supervised_maml(num_tasks_at_a_time):
    regression = pytest.importorskip("metarl_jax.envs.regression")
    examples, tasks = regression.sinusoid()
    options = {"meta_batch_size": 2, "hidden": (8,), "tasks_per_batch": num_tasks_at_a_time}
    return mrl.supervised_maml(examples, tasks, **options)


def on_trials(algorithm):
    def make(_):
        env, tasks = mrl.make("BernoulliBandit-v0", num_arms=2)
        return algorithm(trials(env, tasks, 3), tasks)

    return make


def rl2_normalized(env, tasks):
    policy = normalized(recurrent_policy(env, 4), env, normalize_observations=True, normalize_rewards=True)
    return mrl.rl2(env, tasks, policy, meta_batch_size=8)


def rl2_transformer(env, tasks):
    return mrl.rl2(env, tasks, transformer_policy(env, 2, 8, num_layers=1, num_heads=2), meta_batch_size=8)


def varibad(env, tasks):
    policy = feature_policy(env, 2 * 2, (4,))
    belief = belief_network(env, condition_size(env, "state_action"), latent_size=2, hidden_size=4, step_size=4)
    options = {"condition": "state_action", "meta_batch_size": 4, "num_minibatches": 2, "num_elbo_terms": 2}
    return mrl.varibad(env, tasks, policy, belief, **options)


def rule(outer, make):
    """A learned rule, by meta-gradients or by evolution."""

    def algorithm(num_at_a_time):
        env, tasks = mrl.make("BernoulliBandit-v0", num_arms=2)
        policy = mlp_policy(env, (), critic=True)
        sizes = {"num_envs": 2, "num_steps": 4, "lifetime": 4, "agents_per_batch": num_at_a_time, "num_agents": 2}
        if outer == "evolution":
            options = {"population_size": 4, "num_stages": 2, "num_episodes": 16, "sigma": 1.0}
            return evolve_rule(env, tasks, make(env, policy), **options, **sizes)
        return learn_rule(env, tasks, make(env, policy), policy, num_inner_steps=2, **sizes)

    return algorithm


ALGORITHMS = {
    "ppo": ppo,
    "ppo-normalized": ppo_normalized,
    "maml-vpg": maml(surrogate="vpg"),
    "maml-lvc": maml(surrogate="lvc"),
    "maml-dice": maml(surrogate="dice", gae_lambda=1.0),
    "maml-loaded_dice": maml(surrogate="loaded_dice", dice_lambda=0.5),
    "maml-ppo": maml(surrogate="ppo", num_epochs=2, num_minibatches=2, critic=True),
    "maml-tmaml": maml(surrogate="tmaml", gae_lambda=1.0),
    "maml-reverse": family(
        lambda *a, **o: mrl.maml(*a[:3], learners.policy_gradient(a[2]), differentiation="reverse", **o)
    ),
    "maml-explores": family(
        lambda *a, **o: mrl.maml(*a[:3], learners.policy_gradient(a[2]), exploration_coef=0.5, **o)
    ),
    "maml-truncated": family(
        lambda *a, **o: mrl.maml(*a[:3], learners.policy_gradient(a[2]), differentiation=truncated(1), **o),
        num_inner_steps=2,
    ),
    "maml-evolution": family(
        lambda *a, **o: mrl.maml(*a[:3], learners.policy_gradient(a[2]), differentiation=evolution(4), **o)
    ),
    "fomaml": family(
        lambda *a, **o: mrl.maml(*a[:3], learners.policy_gradient(a[2]), differentiation="first_order", **o)
    ),
    **{name: family(name) for name in gradient_family() if name not in ("maml", "maml_trpo", "promp", "reptile")},
    # 16 samples do not determine 40 parameters: without damping a rounding error decides where the rest goes.
    "maml_trpo": family("maml_trpo", cg_damping=0.1),
    "promp": family("promp", num_inner_steps=2, kl_target=0.01),
    "promp-normalized": family("promp", statistics=True),
    "reptile": family("reptile", num_inner_steps=2),
    "rl2-gru": on_trials(lambda env, tasks: mrl.rl2(env, tasks, recurrent_policy(env, 4), meta_batch_size=8)),
    "rl2-normalized": on_trials(rl2_normalized),
    "rl2-transformer": on_trials(rl2_transformer),
    "varibad": on_trials(varibad),
    "supervised_maml": supervised_maml,
    "meta_gradient_rl": meta_gradient_rl,
    "lpg": rule("gradient", lambda env, policy: mrl.lpg(env, hidden=(), width=4, outcomes=3)),
    "lpo-evolution": rule("evolution", lambda env, policy: mrl.lpo(policy, 0.5, width=4)),
}


# These differ from another in a loss, in what adapts, in a gradient or in statistics: seeds and tasks are batched by
# the same code.
BATCHED_AS_ANOTHER = (
    "maml-vpg", "maml-lvc", "maml-dice", "maml-loaded_dice", "maml-tmaml", "maml-reverse", "maml-truncated", "fomaml",
    "e_maml", "anil", "boil", "meta_sgd", "cavia", "ppo-normalized", "rl2-normalized",
    "rl2-transformer",
)  # fmt: skip


# These are surrogates and derivatives inside MAML whose gradients are proved elsewhere (tests/meta, test_gradient.py).
SLOW = ("maml-lvc", "maml-dice", "maml-loaded_dice", "maml-reverse")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in ALGORITHMS])
def test_contract(name):
    make = ALGORITHMS[name]
    keys = jax.random.split(jax.random.key(0), 2)

    def train(algo, key):
        init_key, *step_keys = jax.random.split(key, 3)
        start = algo.init(init_key)
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(start)), "the state holds arrays only"
        assert not any(x.weak_type for x in jax.tree.leaves(start)), "a step in a loop would be compiled twice"
        return start, *jax.lax.scan(algo.step, start, jnp.stack(step_keys))

    algo = make(2)
    many = jax.jit(jax.vmap(lambda key: train(algo, key)))
    before, states, metrics = many(keys)
    chex.assert_trees_all_equal_shapes_and_dtypes(states, before)
    assert is_finite(states)
    flags = jax.tree.leaves(metrics["finite"])
    assert flags and all(np.all(x) for x in flags)
    assert metrics["loss"].shape == (2, 2)  # seeds, steps: scalars in every step
    assert is_finite(metrics["loss"])
    chex.assert_trees_all_equal((states, metrics), many(keys)[1:])
    losses = np.asarray(metrics["loss"])
    assert losses[0, 0] != losses[1, 0]
    if name in gradient_family():
        moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != b)), before.params, states.params)
        still = [x for x, there in zip(tree.leaf_names(moved), jax.tree.leaves(moved), strict=True) if not there]
        assert not still, f"{still} did not move"

    # One seed without vmap, the tasks one at a time: the same numbers.
    if name in BATCHED_AS_ANOTHER:
        return
    alone = jax.jit(lambda key: train(make(1), key)[1:])(keys[1])
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: np.asarray(x)[1], (states, metrics)), alone, rtol=2e-3, atol=1e-5
    )
