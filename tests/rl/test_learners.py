"""The inner learner: one update against a formula written out, and what it makes of a rollout."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import acted_in_one_task, flat, is_finite, point, point_maml, relative_error, store_trial

import metarl_jax as mrl
from metarl_jax.options import ConfigError
from metarl_jax.rl import learners, losses, returns
from metarl_jax.types import LearnerState

LR, GAMMA, LAMBDA = 0.3, 0.9, 0.8


@pytest.fixture(scope="module", params=[False, True], ids=["linear", "critic"])
def acted(request):
    return acted_in_one_task(critic=request.param)


def options(policy):
    return {"baseline": "linear" if policy.value is None else "critic", "gamma": GAMMA, "gae_lambda": LAMBDA}


@pytest.mark.parametrize("name", losses.surrogate_names(needs_time=False))
def test_one_row_of_steps_has_the_loss_and_the_gradient_of_the_episodes(acted, name):
    """Masked steps, the critic's loss and the entropy included."""
    policy, params, out = acted
    batch = jax.jit(learners.ppo(policy, **options(policy)).prepare)(LearnerState(params, None), out)
    moved = jax.tree.map(
        lambda x: np.asarray(x) + 0.1 * np.cos(np.arange(x.size, dtype=x.dtype)).reshape(x.shape), params
    )

    @jax.jit
    def both(params):
        surrogate = losses.surrogate(name, clip_eps=0.2)
        made = [learners.actor_critic_loss(policy, surrogate, entropy_coef=0.1, needs_time=n) for n in (True, False)]
        return [jax.value_and_grad(loss, has_aux=True)(params, batch) for loss in made]

    episodes, row = both(moved)
    chex.assert_trees_all_close(episodes, row, rtol=1e-4, atol=1e-6)
    assert np.linalg.norm(flat(row[1])) > 1e-2


def test_an_update_is_a_gradient_step_on_the_loss_in_its_docstring(acted):
    """-mean log pi A + .7 mean (V - target)^2 / 2 - .1 mean entropy, over the steps that happened."""
    policy, params, out = acted
    learner = learners.policy_gradient(policy, LR, surrogate="vpg", value_coef=0.7, entropy_coef=0.1, **options(policy))
    state = jax.jit(learner.init)(params)
    batch = jax.jit(learner.prepare)(state, out)
    after, metrics = jax.jit(learner.update)(state, jax.random.key(0), batch)
    steps = np.asarray(out.mask) > 0  # [T, B]

    def loss(params):
        distribution = policy.apply(params, out.observation[steps])
        mean, std = distribution.mean(), distribution.stddev()
        z = (out.action[steps] - mean) / std
        log_prob = jnp.sum(-0.5 * z**2 - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi), axis=-1)
        entropy = jnp.sum(0.5 + 0.5 * jnp.log(2 * jnp.pi) + jnp.log(std), axis=-1)
        total = -jnp.mean(log_prob * batch.advantage[steps]) - 0.1 * jnp.mean(entropy)
        if policy.value is not None:
            value = policy.value(params, out.observation[steps])
            total += 0.7 * 0.5 * jnp.mean((value - batch.target[steps]) ** 2)
        return total

    value, slope = jax.jit(jax.value_and_grad(loss))(params)
    expected = jax.tree.map(lambda p, g: np.asarray(p) - LR * np.asarray(g), params, slope)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-4, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-4)


def test_prepare_makes_standardised_advantages_and_returns(acted):
    policy, params, out = acted

    @jax.jit
    def prepare(params, out):
        made = [learners.ppo(policy, normalize_advantage=n, **options(policy)) for n in (False, True)]
        return [learner.prepare(LearnerState(params, ()), out) for learner in made]

    plain, scaled, out = jax.tree.map(np.asarray, (*prepare(params, out), out))
    steps = out.mask > 0
    advantage = plain.advantage[steps]
    expected = (advantage - advantage.mean()) / advantage.std()
    np.testing.assert_allclose(scaled.advantage[steps], expected, rtol=1e-3, atol=1e-4)
    assert np.all(scaled.advantage[~steps] == 0)
    np.testing.assert_allclose(plain.target[steps], (plain.advantage + plain.value)[steps], rtol=1e-5, atol=1e-6)
    discount = GAMMA ** np.arange(6)[:, None]
    np.testing.assert_allclose(plain.discounted_reward, discount * out.reward, rtol=1e-5)
    np.testing.assert_allclose(plain.discounted_value, np.where(steps, discount * plain.value, 0), rtol=1e-5, atol=1e-7)

    value = plain.value
    follows = np.concatenate([value[1:], np.zeros_like(value[:1])]) * ~out.done
    if policy.value is not None:  # a truncation is followed by what the critic makes of the final observation
        critic = jax.jit(policy.value)
        np.testing.assert_allclose(value, critic(params, out.observation), rtol=1e-5)
        follows = np.where(out.terminated, 0, critic(params, out.next_observation))
    expected = np.zeros_like(value)
    for t in reversed(range(6)):
        delta = out.reward[t] + GAMMA * follows[t] - value[t]
        expected[t] = delta + (0 if t == 5 else GAMMA * LAMBDA * ~out.done[t] * expected[t + 1])
    np.testing.assert_allclose(plain.advantage[steps], expected[steps], rtol=1e-4, atol=1e-5)


def test_baseline_zero_with_lambda_one_is_the_return(acted):
    policy, params, out = acted
    learner = learners.ppo(policy, baseline="zero", gamma=GAMMA, gae_lambda=1.0, normalize_advantage=False)

    @jax.jit
    def both(params, out):
        batch = learner.prepare(LearnerState(params, ()), out)
        return batch, returns.discounted_returns(out.reward, out.done, GAMMA) * out.mask

    batch, expected = both(params, out)
    np.testing.assert_allclose(batch.advantage, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(batch.value, 0)


def test_prepare_carries_no_gradient_to_the_agent_but_one_to_gamma(acted):
    policy, params, out = acted

    def total(params, gamma):
        learner = learners.ppo(policy, normalize_advantage=False, **{**options(policy), "gamma": gamma})
        batch = learner.prepare(LearnerState(params, ()), out)
        return jnp.sum(batch.advantage**2) + jnp.sum(batch.target + batch.value + batch.discounted_value)

    by_params, by_gamma = jax.jit(jax.grad(total, (0, 1)))(params, GAMMA)
    assert not any(np.any(x) for x in jax.tree.leaves(by_params))
    assert is_finite(by_gamma) and float(by_gamma) != 0


@pytest.mark.parametrize("differentiation", ["reverse", "mixed"])
def test_adding_a_gradient_up_over_parts_changes_nothing(x64, differentiation):
    """Episodes of unequal length in each part, so that the parts have unequal weights: update and its derivative."""
    problem = point(hidden=(4,), horizon=5)
    params, trial = store_trial(point_maml(problem, num_inner_steps=2), problem)
    mask = np.array(trial.inner.mask)
    mask[..., 2:, 0] = mask[..., 4:, 3] = 0
    trial = trial.replace(inner=trial.inner.replace(mask=mask))

    def gradient(parts, surrogate):
        options = {"num_epochs": 1, "num_minibatches": 1, "num_microbatches": parts, "surrogate": surrogate}
        options |= {"gae_lambda": 1.0, "entropy_coef": 0.01}
        return point_maml(problem, inner_options=options, differentiation=differentiation).meta_gradient

    @jax.jit
    def both(params, trial):
        return [[gradient(n, s)(params, trial) for n in (1, 2, 4)] for s in ("lvc", "dice")]

    for whole, *parts in both(params, trial):
        for part in parts:
            assert relative_error(part, whole) < 1e-12
    with pytest.raises(ValueError, match="num_microbatches = 3: must divide episodes_per_task = 4; try 2"):
        gradient(3, "lvc")(params, trial)


@pytest.mark.parametrize("parts", [{}, {"num_minibatches": 3}, {"num_microbatches": 2}], ids=str)
def test_a_target_return_is_a_step_size_of_the_task(x64, parts):
    """theta' - theta is (R* - R) / T of the plain step, however the batch is cut; R* may be traced."""
    problem = point(hidden=(4,), horizon=6)
    params, trial = store_trial(point_maml(problem), problem)
    batch = jax.jit(lambda trial: jax.tree.map(lambda x: x[0], trial.inner))(trial)
    missing = (1.5 - float((batch.discounted_reward * batch.mask).sum()) / 4) / 6

    def step(lr, **target):
        options = {"num_epochs": 1, "num_minibatches": 1, "baseline": "linear", **parts, **target}
        learner = learners.ppo(problem[2], lr, **options)
        return learner.update(learner.init(params), jax.random.key(0), batch)[0].params

    aimed = jax.jit(lambda target: step(0.1, target_return=target))(1.5)
    before, aimed, plain = (np.asarray(flat(x)) for x in (params, aimed, jax.jit(step)(0.1 * missing)))
    moved, plain = aimed - before, plain - before
    assert np.linalg.norm(plain) > 1e-3
    assert relative_error(moved, plain) < 1e-10


def test_impossible_choices_are_named(acted):
    policy, params, out = acted
    with pytest.raises(ValueError, match="baseline = 'critics'"):
        learners.ppo(policy, baseline="critics")
    with pytest.raises(ValueError, match="num_minibatches = 2: must be 1 with surrogate = dice"):
        learners.ppo(policy, surrogate="dice", num_minibatches=2)
    learner = learners.ppo(policy, num_minibatches=5, **options(policy))
    with pytest.raises(ValueError, match="num_minibatches = 5: must divide .* = 48; try 4"):
        jax.eval_shape(lambda s: learner.update(s, jax.random.key(0), learner.prepare(s, out)), learner.init(params))
    if policy.value is None:
        with pytest.raises(ValueError, match="this policy has no critic"):
            learners.ppo(policy).prepare(LearnerState(params, ()), out)


def test_surrogates_without_a_ratio_are_refused_where_parameters_move():
    env, tasks = mrl.make("gymnax:CartPole-v1")
    policy = mrl.networks.mlp_policy(env, (4,), critic=True)
    with pytest.raises(ValueError, match="num_epochs = 2: must be 1 with surrogate = vpg"):
        mrl.inner.ppo(policy, surrogate="vpg", num_epochs=2, num_minibatches=1)
    with pytest.raises(ValueError, match="num_minibatches = 2: must be 1 with surrogate = dice"):
        mrl.inner.ppo(policy, surrogate="dice", num_epochs=1, num_minibatches=2)
    learner = mrl.inner.policy_gradient(policy, 0.1)
    with pytest.raises(ValueError, match="num_outer_epochs = 2: must be 1 with outer_surrogate = dice"):
        mrl.maml(env, tasks, policy, learner, outer_surrogate="dice", num_outer_epochs=2)
    task = tasks.sample(jax.random.key(0))
    with pytest.raises(TypeError, match="has no option 'baseline'"):
        mrl.ppo(env, task, policy, baseline="linear")
    with pytest.raises(TypeError, match="has no option 'optimizer'"):
        mrl.ppo(env, task, policy, optimizer=None)


def test_an_optimiser_is_named_given_or_addressed():
    gradient, params = np.ones(2), np.zeros(2)
    for optimizer in ("sgd", optax.sgd, "optax:sgd"):
        step = learners.optimizer_of(optimizer, 0.5)
        update = jax.jit(lambda gradient, params, step=step: step.update(gradient, step.init(params), params)[0])
        np.testing.assert_array_equal(update(gradient, params), [-0.5, -0.5])
    with pytest.raises(ConfigError, match="optax has no sdg; did you mean sgd?"):
        learners.optimizer_of("optax:sdg", 0.5)
