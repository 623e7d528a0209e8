"""RL2 and VariBAD: what their learners are fed, who gets which gradient, and that they learn to learn."""

import dataclasses
import functools
from types import SimpleNamespace

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import flat, make_varibad, random_directions, relative_error, shaken

import metarl_jax as mrl
from metarl_jax import tree
from metarl_jax.algorithms import varibad as varibad_module
from metarl_jax.algorithms.varibad import condition_size
from metarl_jax.envs.trial import trials
from metarl_jax.meta import evaluation
from metarl_jax.networks import belief_network, mlp_policy, recurrent_policy, transformer_policy
from metarl_jax.rl import returns


def bandit(num_episodes=5, num_arms=2):
    env, tasks = mrl.make("BernoulliBandit-v0", num_arms=num_arms)
    return trials(env, tasks, num_episodes), tasks


def collected(algo, init, tasks):
    """(parameters, a trial of theirs in one task)."""

    @jax.jit
    def collect():
        params = init(jax.random.key(0))
        return params, algo.collect(params, jax.random.key(1), tasks.sample(jax.random.key(2)))[0]

    return collect()


def test_advantages_run_across_the_episodes_of_a_trial():
    env, tasks = bandit()
    policy = recurrent_policy(env, 4)
    algo = mrl.rl2(env, tasks, policy, normalize_advantage=False, gamma=0.9, gae_lambda=0.8, trials_per_task=3)
    params, trial = collected(algo, policy.init, tasks)
    value = np.asarray(jax.jit(policy.value)(params, trial.outer.observation))
    reward = np.asarray(trial.outer.discounted_reward) / 0.9 ** np.arange(5, dtype=np.float32)[:, None]
    following = np.concatenate([value[1:], np.zeros((1, 3), np.float32)])
    never, at_the_end = np.zeros((5, 3), bool), np.repeat(np.arange(5)[:, None] == 4, 3, axis=1)
    want = jax.jit(returns.gae)(reward, value, following, at_the_end, never, 0.9, 0.8)
    np.testing.assert_allclose(trial.outer.advantage, want, rtol=1e-4, atol=1e-5)


def test_the_scale_of_rewards_changes_what_is_learned_from_not_what_is_scored():
    env, tasks = bandit()
    policy = recurrent_policy(env, 4)
    task = env.env.params(jnp.ones(2))
    algo = mrl.rl2(env, tasks, policy, reward_scale=0.1, gamma=1.0)
    trial, scores = jax.jit(lambda key: algo.collect(policy.init(key), jax.random.key(1), task))(jax.random.key(0))
    np.testing.assert_array_equal(scores, np.ones((5, 1)))
    np.testing.assert_allclose(trial.outer.discounted_reward, 0.1)


def test_centred_rewards_say_only_how_a_trial_differs_from_the_others():
    env, _ = bandit()
    tasks = SimpleNamespace(sample=lambda key: env.env.params(jnp.ones(2)))  # every pull pays: nothing to learn
    policy = recurrent_policy(env, 4)
    options = {"meta_batch_size": 8, "gae_lambda": 1.0, "gamma": 1.0, "value_coef": 1.0}
    state = jax.jit(mrl.rl2(env, tasks, policy).init)(jax.random.key(0))
    losses = []
    for center in (False, True):
        algo = mrl.rl2(env, tasks, policy, center_rewards=center, **options)
        losses.append(jax.jit(algo.step)(state, jax.random.key(1))[1]["value_loss"])
    assert losses[0] > 2 and losses[1] < 0.5  # targets are 5, 4, 3, 2, 1, or 0 each


def test_the_entropy_bonus_falls_to_nothing():
    env, tasks = bandit()
    policy = recurrent_policy(env, 4)
    options = {"meta_batch_size": 8, "num_epochs": 1, "num_minibatches": 1}
    annealed = mrl.rl2(
        env, tasks, policy, entropy_coef=0.5, num_iterations=2, anneal_lr=False, anneal_entropy=True, **options
    )

    @jax.jit
    def constant(state, key, coef):
        return mrl.rl2(env, tasks, policy, entropy_coef=coef, **options).step(state, key)

    step, state = jax.jit(annealed.step), jax.jit(annealed.init)(jax.random.key(0))
    for i, coef in enumerate((0.5, 0.25, 0.0, 0.0)):
        want, _ = constant(state, jax.random.key(i), coef)
        state, _ = step(state, jax.random.key(i))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, want.params)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_long_memory_starts_by_remembering(cell):
    env, _ = bandit()

    def kept(max_memory):
        policy = recurrent_policy(env, 64, cell=cell, max_memory=max_memory)

        @jax.jit
        def after(num_steps):
            params = policy.init(jax.random.key(0))
            memory = jax.tree.map(jnp.ones_like, policy.remember(1))
            observation = env.reset_env(jax.random.key(0), env.default_params)[0][None]  # nothing done, nothing paid
            return jax.lax.fori_loop(0, num_steps, lambda _, m: policy.step(params, m, observation)[0], memory)

        return np.linalg.norm(jax.tree.leaves(after(20))[0])

    assert kept(100) > 10 * kept(None)


def test_adapt_ends_in_the_memory_that_acting_ended_in():
    env, tasks = bandit()
    policy = recurrent_policy(env, 4)
    algo = mrl.rl2(env, tasks, policy, trials_per_task=2)
    params, trial = collected(algo, policy.init, tasks)
    memory, step = policy.remember(2), jax.jit(policy.step)
    for x in np.asarray(trial.outer.observation):
        memory, _ = step(params, memory, x)
    np.testing.assert_allclose(jax.jit(algo.adapt)(params, trial).memory, memory, atol=1e-6)


def one_arm_pays(num_episodes):
    """Trials on two arms of which one always pays and the other never: one pull tells which."""
    env, tasks = mrl.make("BernoulliBandit-v0", num_arms=2)

    class Tasks:
        sample = staticmethod(lambda key: env.params(jnp.roll(jnp.array([0.0, 1.0]), jax.random.bernoulli(key))))

    return trials(env, tasks, num_episodes), Tasks


def varibad_in_float64():
    env, tasks = bandit(3)
    return make_varibad(env, tasks, "state_action", trials_per_task=2), tasks


def varibad_table_in_float64(condition):
    env, tasks = mrl.make("TabularMDP-v0", num_states=3, num_actions=2, horizon=3)
    env = trials(env, tasks, 2)
    return make_varibad(env, tasks, condition, "table", trials_per_task=2), tasks


def rl2_in_float64(make_policy):
    env, tasks = bandit(7)
    return mrl.rl2(env, tasks, make_policy(env), trials_per_task=2), tasks


def gru_in_float64():
    return rl2_in_float64(lambda env: recurrent_policy(env, 4))


class Stored:
    """An algorithm at parameters far from the start, and a trial of theirs."""

    def __init__(self, make):
        self.algo, tasks = make()
        start = lambda key: shaken(self.algo.init(key).params, jax.random.key(3))  # noqa: E731
        self.params, self.trial = collected(self.algo, start, tasks)
        self.meta_gradient = jax.jit(self.algo.meta_gradient)


store_once = functools.cache(Stored)


@pytest.mark.parametrize(
    ("make", "dead"),
    [
        (gru_in_float64, ()),
        (lambda: rl2_in_float64(lambda env: recurrent_policy(env, 4, cell="lstm", chunk=3)), ()),
        (lambda: rl2_in_float64(lambda env: transformer_policy(env, 3, 8, num_heads=2)), ()),
        (varibad_in_float64, ("policy.",)),  # the ELBO is not the policy's
        (lambda: varibad_table_in_float64("next_state"), ("policy.",)),
        (lambda: varibad_table_in_float64("state_action"), ("policy.",)),
    ],
    ids=["gru", "lstm in chunks", "transformer", "varibad", "varibad, states", "varibad, states and actions"],
)
def test_meta_gradients_are_those_of_finite_differences(x64, make, dead):
    stored = store_once(make)
    params, value_and_grad = stored.params, lambda params: stored.meta_gradient(params, stored.trial)
    _, gradient = value_and_grad(params)
    directions, unravel = random_directions(jax.random.key(4), params, 3)
    theta, slope = np.asarray(flat(params)), np.asarray(flat(gradient))
    for direction in np.asarray(directions):
        up, down = (float(value_and_grad(unravel(theta + h * direction))[0]) for h in (1e-6, -1e-6))
        np.testing.assert_allclose(slope @ direction, (up - down) / 2e-6, rtol=1e-5, atol=1e-8)
    for name, leaf in zip(tree.leaf_names(gradient), jax.tree.leaves(gradient), strict=True):
        still = any(part in name for part in dead)
        assert (np.abs(leaf).max() < 1e-9) == still, name


@pytest.mark.parametrize("make", [gru_in_float64, varibad_in_float64], ids=["rl2", "varibad"])
def test_the_meta_gradient_is_that_of_the_meta_loss(x64, make):
    stored = store_once(make)
    loss, _ = stored.meta_gradient(stored.params, stored.trial)
    np.testing.assert_allclose(loss, jax.jit(stored.algo.meta_loss)(stored.params, stored.trial))


@pytest.mark.parametrize("network", ["gru", pytest.param("transformer", marks=pytest.mark.slow)])
def test_rl2_learns_to_learn(network):
    """Two arms, one of which always pays: after the first pull everything is known, so a trial of 4 is worth 3.5."""
    trial, tasks = one_arm_pays(4)
    policy = recurrent_policy(trial, 16) if network == "gru" else transformer_policy(trial, 4, 16, num_heads=2)
    algo = mrl.rl2(trial, tasks, policy, meta_batch_size=128, lr=5e-3, num_minibatches=4, gamma=0.9, gae_lambda=0.9)

    @jax.jit
    def train(key):
        state, _ = jax.lax.scan(algo.step, algo.init(key), jax.random.split(key, 40))
        drawn = jax.vmap(tasks.sample)(jax.random.split(jax.random.key(7), 64))
        return evaluation.adaptation_curve(algo, state.params, jax.random.key(8), drawn, 3, 64)

    per_episode = np.mean(train(jax.random.key(0)), axis=(0, 2))
    assert per_episode[0] < 0.7, "nothing is known before the first pull"
    assert per_episode[1:].min() > 0.95, per_episode


def test_rl2_refuses_what_it_cannot_do():
    env, tasks = bandit()
    with pytest.raises(ValueError, match="policy: has no memory"):
        mrl.rl2(env, tasks, mlp_policy(env, critic=True))
    with pytest.raises(ValueError, match="num_minibatches = 3: must divide .* = 256; try 2"):
        mrl.rl2(env, tasks, recurrent_policy(env, 4), num_minibatches=3)
    algo = mrl.rl2(env, tasks, recurrent_policy(env, 4))
    with pytest.raises(ValueError, match="num_updates = 9: a trial of 5 episodes has 4 after the first"):
        algo.collect(None, jax.random.key(0), None, num_updates=9)


# --- VariBAD ---------------------------------------------------------------------------------------------


def test_sequential_kl_is_that_of_gaussians():
    mean, log_var = np.random.default_rng(0).normal(size=(2, 6, 2, 3)).astype(np.float32)

    @jax.jit
    def divergence(before, now):
        p, q = (distrax.MultivariateNormalDiag(mean, jnp.exp(log_var / 2)) for mean, log_var in (before, now))
        return q.kl_divergence(p)

    start = np.zeros((1, 2, 3), np.float32)
    moments = [(np.concatenate([start, mean])[t], np.concatenate([start, log_var])[t]) for t in range(7)]
    want = [divergence(*moments[t : t + 2]) for t in range(6)]
    np.testing.assert_allclose(jax.jit(varibad_module._sequential_kl)(mean, log_var), want, rtol=1e-4)


def test_ppo_does_not_move_the_encoder_and_the_elbo_does_not_move_the_policy():
    env, tasks = bandit()

    @jax.jit
    def step(state, lr, vae_lr):
        return make_varibad(env, tasks, "state_action", lr=lr, vae_lr=vae_lr).step(state, jax.random.key(1))

    state = jax.jit(make_varibad(env, tasks, "state_action").init)(jax.random.key(0))
    after, _ = step(state, 7e-4, 0.0)
    assert relative_error(after.params["belief"], state.params["belief"]) == 0
    assert relative_error(after.params["policy"], state.params["policy"]) > 0
    after, metrics = step(state, 0.0, 1e-3)
    assert relative_error(after.params["policy"], state.params["policy"]) == 0
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), after.params["belief"], state.params["belief"])
    assert min(jax.tree.leaves(moved)) > 0, "every leaf of encoder and decoder trains"
    assert np.isfinite(float(metrics["elbo"]))


@pytest.mark.parametrize("decoder", ["mlp", "table"])
@pytest.mark.parametrize("condition", ["next_state", "state_action"])
def test_every_belief_foretells_the_whole_trial(condition, decoder):
    """A reward of the last step changes the loss through the belief at the first step, and the reverse."""
    env, tasks = mrl.make("TabularMDP-v0", num_states=3, num_actions=2, horizon=3)
    trial_env = trials(env, tasks, 2)
    algo = make_varibad(trial_env, tasks, condition, decoder)
    params, trial = collected(algo, lambda key: algo.init(key).params, tasks)

    def loss(reward):
        data = dataclasses.replace(trial.outer, reward=reward)
        return algo.meta_loss(params, dataclasses.replace(trial, outer=data))

    influence = np.abs(np.asarray(jax.jit(jax.grad(loss))(trial.outer.reward)))[:, 0]
    counted = influence > 0
    last = [2, 5]  # the last step of an episode leads to a reset, so "next_state" cannot say what it was paid for
    assert counted[[0, 1, 3, 4]].all()
    assert counted[last].all() == (condition == "state_action")


def test_beliefs_learn_what_the_task_is():
    """One arm pays in every task: after training, the decoder knows which from a belief that has seen one pull."""
    trial, tasks = one_arm_pays(4)
    algo = make_varibad(
        trial, tasks, "state_action", meta_batch_size=64, vae_lr=5e-3, reward_levels=(0.0, 1.0), lr=5e-3, clip_eps=0.2,
        num_vae_updates=4,
    )  # fmt: skip

    @jax.jit
    def train(key):
        return jax.lax.scan(algo.step, algo.init(key), jax.random.split(key, 120))

    state, metrics = train(jax.random.key(0))
    elbo = np.asarray(metrics["elbo"])
    assert elbo[-10:].mean() > -1.2, "4 rewards, of which a quarter of the beliefs know nothing: at best -.7"
    assert elbo[:5].mean() < -2.4
    assert np.mean(metrics["trial_return"][-10:]) > 3.2


@pytest.mark.parametrize("condition", ["next_state", "state_action"])
def test_a_table_is_read_where_the_one_hot_condition_points(condition):
    """All pairs of a belief and a step at once are as each of them alone; entry i is read at state (and action) i."""
    env, tasks = mrl.make("TabularMDP-v0", num_states=3, num_actions=2, horizon=3)
    env = trials(env, tasks, 2)
    belief = belief_network(env, condition_size(env, condition), latent_size=3, decoder="table")
    params = jax.jit(belief.init)(jax.random.key(0))
    entries, rng, reward = np.eye(3), np.random.default_rng(0), jax.jit(belief.reward)
    if condition == "state_action":
        entries = np.stack([np.concatenate([s, a]) for s in np.eye(3) for a in np.eye(2)])
    kernel = params["decoder"]["Dense_2"]["kernel"]
    assert kernel.shape[1] == len(entries), "one head for each"
    z = rng.normal(size=(2, 2, 3))  # [E, B, Z]
    told = entries[rng.integers(0, len(entries), (3, 2))]  # [T, B, C]
    together = reward(params, z[:, None], told[None])
    alone = [[[reward(params, z[e, b], told[t, b]) for b in range(2)] for t in range(3)] for e in range(2)]
    np.testing.assert_allclose(together, np.asarray(alone), rtol=1e-4, atol=1e-5)
    bias = np.arange(float(len(entries)))
    decoder = {**params["decoder"], "Dense_2": {"kernel": np.zeros(kernel.shape), "bias": bias}}
    np.testing.assert_array_equal(reward({**params, "decoder": decoder}, z[0, 0], entries), bias)


def test_both_step_sizes_are_annealed():
    """Past the last iteration nothing moves; without `num_iterations` everything does."""
    env, tasks = bandit()
    for num_iterations, still in ((1, True), (None, False)):
        algo = make_varibad(env, tasks, "state_action", num_iterations=num_iterations)
        step = jax.jit(algo.step)
        first, _ = step(jax.jit(algo.init)(jax.random.key(0)), jax.random.key(1))
        second, _ = step(first, jax.random.key(2))
        for part in ("policy", "belief"):
            assert (relative_error(second.params[part], first.params[part]) == 0) == still


def test_the_weight_of_the_entropy_is_annealed():
    """The first of two iterations has all of it, the second half, and what is left after them none."""
    env, tasks = bandit()
    annealed = make_varibad(
        env, tasks, "state_action", entropy_coef=0.5, num_iterations=2, anneal_lr=False, anneal_entropy=True
    )

    @jax.jit
    def constant(state, weight):
        algo = make_varibad(env, tasks, "state_action", entropy_coef=weight)
        return algo.step(state, jax.random.key(1))[0].params["policy"]

    step, state = jax.jit(annealed.step), jax.jit(annealed.init)(jax.random.key(0))
    for weight in (0.5, 0.25, 0.0):
        want, other = constant(state, weight), constant(state, weight + 0.25)
        state, _ = step(state, jax.random.key(1))
        assert relative_error(state.params["policy"], want) < 1e-2 * relative_error(other, want)


def test_a_table_needs_one_hot_states_and_actions(monkeypatch):
    env, tasks = mrl.make("GridNavi-v0", observation="scaled")
    env = trials(env, tasks, 2)
    with pytest.raises(ValueError, match="decoder = 'lookup': must be 'mlp' or 'table'"):
        belief_network(env, 2, decoder="lookup")
    with pytest.raises(ValueError, match="decoder = 'table': must be 'mlp', as the observations are not one-hot in T"):
        belief_network(env, 2, decoder="table")
    env, tasks = mrl.make("GridNavi-v0", observation="one_hot", size=3)
    env = trials(env, tasks, 2)
    monkeypatch.setattr(env, "num_options", None)  # as with box actions
    belief_network(env, condition_size(env, "next_state"), decoder="table")
    with pytest.raises(ValueError, match="decoder = 'table': must be 'mlp', as the actions are not one-hot in T"):
        belief_network(env, condition_size(env, "state_action"), decoder="table")


def test_varibad_refuses_what_it_cannot_do():
    env, tasks = bandit()
    with pytest.raises(ValueError, match="condition = 'reward': must be one of next_state, state_action"):
        condition_size(env, "reward")
    with pytest.raises(ValueError, match="condition = 'next_state': every step ends an episode"):
        make_varibad(env, tasks)
    with pytest.raises(ValueError, match="num_elbo_terms = 6: must be at most the 5 steps"):
        make_varibad(env, tasks, "state_action", num_elbo_terms=6)
    with pytest.raises(ValueError, match="vae_batch_size = 5: must be at most the 4 trials"):
        make_varibad(env, tasks, "state_action", vae_batch_size=5)
    with pytest.raises(ValueError, match="num_minibatches = 3: must divide .* = 20; try 2"):
        make_varibad(env, tasks, "state_action", num_minibatches=3)
