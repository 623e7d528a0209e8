"""Optimisers without a second derivative, options that another one replaces, NumPy's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import point

import metarl_jax as mrl
from metarl_jax import gradient, options, tree
from metarl_jax.envs.tasks import check_count, check_positive
from metarl_jax.meta import outer_update
from metarl_jax.meta.hyperparameters import Tuned
from metarl_jax.meta.meta_gradient import evolution, truncated
from metarl_jax.rl import learners
from metarl_jax.update_rules.lifetimes import acting, init_agent, live, replay

UNSAFE = {
    "adam": lambda: optax.adam(0.1),
    "clip": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
}
SAFE = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
    "ours": lambda: learners.adam(0.1),
    "clip": lambda: optax.chain(tree.clip_by_global_norm(1.0), learners.adam(0.1)),
}


def made(optimizer, **options):
    env, tasks, policy = point(hidden=(2,), horizon=3)
    inner = learners.policy_gradient(policy, optimizer=optimizer)
    return mrl.maml(env, tasks, policy, inner, meta_batch_size=1, episodes_per_task=2, **options)


@pytest.mark.parametrize("name", UNSAFE)
def test_an_optimiser_without_a_second_derivative_is_refused(name):
    for mode in ("reverse", "mixed", truncated(1)):
        with pytest.raises(ValueError, match=r"mrl\.inner\.adam.*mrl\.tree\.clip_by_global_norm") as error:
            made(UNSAFE[name](), differentiation=mode)
        assert "\n" not in str(error.value)
    for mode in ("first_order", truncated(0), evolution(2)):
        made(UNSAFE[name](), differentiation=mode)
    made(UNSAFE[name](), num_inner_steps=0)
    _, _, policy = point(critic=True)
    learners.ppo(policy, optimizer=UNSAFE[name]())  # nothing is differentiated there


@pytest.mark.parametrize("name", SAFE)
def test_an_optimiser_with_one_is_not(name):
    made(SAFE[name]())
    gradient.check_differentiable(SAFE[name]())
    jax.jit(lambda lr: (gradient.check_differentiable(optax.adam(lr)), lr)[1])(0.1)  # traced: only training can tell


def test_rules_and_tuned_hyperparameters_check_it_too():
    env, tasks, policy = point(critic=True, hidden=(2,), horizon=3)
    with pytest.raises(ValueError, match=r"mrl\.inner\.adam"):
        task = tasks.sample(jax.random.key(0))
        mrl.meta_gradient_rl(env, task, policy, {"gamma": Tuned(0.9)}, optimizer=optax.adam)
    rule = mrl.lpo(policy, 0.1, width=2, optimizer=optax.adam, num_epochs=2, num_minibatches=1)

    def lived(eta):
        learner = rule.learner(eta)
        task = tasks.sample(jax.random.key(0))
        agent = init_agent(env, task, policy, learner, None, jax.random.key(1), 2)
        keys = jax.random.split(jax.random.key(2), (2, 1))
        segment, _, _ = live(acting(env, policy, task, 2, 2), learner, None, agent, (keys[0], keys[1]))
        return replay(learner, segment)[0]

    with pytest.raises(ValueError, match=r"mrl\.inner\.adam"):
        jax.eval_shape(lived, jax.eval_shape(rule.init, jax.random.key(0)))


def test_an_option_that_another_replaces_is_refused():
    env, tasks, policy = point(hidden=(2,), horizon=3)
    inner = learners.policy_gradient(policy)
    steps = outer_update.gradient_steps(optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"outer_lr, max_grad_norm: .*outer"):
        mrl.maml(env, tasks, policy, inner, outer=steps, outer_lr=1e-9, max_grad_norm=1e-9)
    with pytest.raises(ValueError, match="num_outer_epochs"):
        mrl.maml(env, tasks, policy, inner, outer=steps, num_outer_epochs=3)
    with pytest.raises(TypeError, match="no option 'outer_lr'"):
        mrl.maml_trpo(env, tasks, policy, inner, outer_lr=0.1)
    with pytest.raises(ValueError, match="outer_lr = 0.5"):
        mrl.reptile(env, tasks, policy, inner, outer_lr=0.5, optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match="kl_coef"):
        outer_update.gradient_steps(optax.sgd(0.1), kl_target=0.01)
    mrl.maml(env, tasks, policy, inner, outer=steps)


def test_numpy_numbers_are_numbers():
    _, _, policy = point(hidden=(2,))
    for one in (1, np.int64(1), np.int32(1), np.uint8(1)):
        assert truncated(one).name == "truncated(1)" and check_count("n", one) == 1
        evolution(one)
    for wrong in (True, np.bool_(True), 1.0, np.float32(1), "1"):
        for refused in (truncated, evolution, lambda x: check_count("n", x)):
            with pytest.raises(ValueError):
                refused(wrong)
    assert check_positive("x", np.float32(0.5)) == 0.5
    with pytest.raises(ValueError):
        check_positive("x", np.bool_(True))
    for lam in (0.95, np.float32(0.95), np.float64(0.95), np.asarray(0.95)):
        with pytest.raises(ValueError, match="gae_lambda"):
            learners.policy_gradient(policy, surrogate="dice", gae_lambda=lam)
    for lam in (1, 1.0, np.float32(1), np.int64(1)):
        learners.policy_gradient(policy, surrogate="dice", gae_lambda=lam)
    assert [options.known_value(x) for x in (np.float32(0), 0, jnp.zeros(()))] == [0.0, 0.0, None]
