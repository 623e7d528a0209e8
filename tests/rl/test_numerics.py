"""Numbers where formulas break: NaN behind a mask, equal numbers, ratios that overflow; float32 and float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import environment, spaces

from metarl_jax import tree
from metarl_jax.algorithms import lpo
from metarl_jax.networks import mlp_policy
from metarl_jax.reference.q_learning import Transitions, q_update
from metarl_jax.rl import learners, losses, returns
from metarl_jax.rl.rollout import NEVER, faulty_steps, rollout
from metarl_jax.types import Batch

FLOATS = ("float32", "float64")


@pytest.fixture(params=FLOATS)
def floats(request):
    """The same test in single and in double precision."""
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


def is_clean(x):
    return all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(x))


# --- behind the mask --------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Clock:
    time: jax.Array


class Brittle(environment.Environment):
    """Rewards 1, 2, 4, then the end; a step from beyond it gives NaN. `fault` spoils one step (0: the reset)."""

    def __init__(self, fault=None, continuous=False):
        super().__init__()
        self.fault, self.continuous = fault, continuous

    name = "Brittle"

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=100)

    def _spoiled(self, what, time, x):
        return jnp.where(time == self.fault[1], jnp.nan, x) if self.fault and self.fault[0] == what else x

    def _observation(self, time):
        return self._spoiled("observation", time, jnp.stack([time.astype(float), jnp.ones((), float)]))

    def reset_env(self, key, params):
        time = jnp.zeros((), int)
        return self._observation(time), Clock(time)

    def step_env(self, key, state, action, params):
        time, beyond = state.time + 1, state.time >= 3
        reward = jnp.where(beyond, jnp.nan, 2.0 ** state.time.astype(float))
        if self.continuous:
            reward = reward + 0.0 * jnp.sum(action)
        observation = jnp.where(beyond, jnp.nan, self._observation(time))
        return observation, Clock(time), self._spoiled("reward", time, reward), time >= 3, {}

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def observation_space(self, params=None):
        return spaces.Box(-1.0, 1e6, (2,), jnp.float32)

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (1,), jnp.float32) if self.continuous else spaces.Discrete(2)


def played(critic=False, num_steps=6, env=None, **options):
    env = env or Brittle()
    policy = mlp_policy(env, (4,), critic=critic)
    options = {"num_steps": num_steps, "num_envs": 2, **options}

    @jax.jit
    def play():
        params = jax.tree.map(lambda x: x.astype(float), policy.init(jax.random.key(0)))
        return params, rollout(env, policy.apply, params, jax.random.key(1), env.default_params, **options)[0]

    return policy, *play()


def poisoned(data, mask):
    """Every float (and what is [T, B, ...] of it) behind the mask is NaN."""

    def one(x):
        if not jnp.issubdtype(x.dtype, jnp.floating) or x is mask:
            return x
        return np.where(np.reshape(mask, (*mask.shape, *[1] * (x.ndim - 2))) > 0, x, np.nan)

    return dataclasses.replace(jax.tree.map(one, data), mask=mask)


def test_beyond_the_end_a_rollout_keeps_the_last_observation(floats):
    data = jax.tree.map(np.asarray, played()[2])
    assert data.mask[:, 0].tolist() == [1, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(data.observation[:, 0, 0], [0, 1, 2, 3, 3, 3])
    np.testing.assert_array_equal(data.next_observation[:, 0, 0], [1, 2, 3, 3, 3, 3])
    np.testing.assert_array_equal(data.reward[:, 0], [1, 2, 4, 0, 0, 0])
    assert is_clean(data)


@pytest.mark.parametrize("spoil", [False, True])
def test_advantages_of_an_episode_that_ends_early(floats, spoil):
    """No baseline, gamma = .5, lambda = .5: A_3 = 4, A_2 = 2 + .25 A_3 = 3, A_1 = 1 + .25 A_2 = 1.75."""
    policy, params, data = played()
    if spoil:
        data = poisoned(data, data.mask)
    learner = learners.ppo(policy, baseline="zero", gamma=0.5, gae_lambda=0.5, normalize_advantage=False)
    batch = jax.jit(lambda params, data: learner.prepare(learner.init(params), data))(params, data)
    np.testing.assert_allclose(np.asarray(batch.advantage)[:, 0], [1.75, 3.0, 4.0, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(batch.discounted_reward)[:, 0], [1.0, 1.0, 1.0, 0, 0, 0], rtol=1e-6)

    def total(gamma):  # d/dgamma: A_3' = 0, A_2' = 2, A_1' = .5 * 3 + .25 * 2 = 2
        made = learners.ppo(policy, baseline="zero", gamma=gamma, gae_lambda=0.5, normalize_advantage=False)
        return jnp.sum(made.prepare(made.init(params), data).advantage[:, 0])

    np.testing.assert_allclose(jax.jit(jax.grad(total))(jnp.asarray(0.5)), 4.0, rtol=1e-6)


@pytest.mark.parametrize("baseline", ["critic", "linear", "zero"])
@pytest.mark.parametrize("continuous", [False, True])
def test_an_update_does_not_see_what_stands_behind_the_mask(floats, baseline, continuous):
    policy, params, data = played(baseline == "critic", env=Brittle(continuous=continuous))
    every = baseline == "zero" and not continuous  # they see no actions, only their log-probabilities
    names = ("vpg", "ppo", "lvc", "dpo", "smooth_ppo", "loaded_dice") if every else ("ppo",)
    for surrogate in names:
        options = {"num_epochs": 1, "num_minibatches": 1, "baseline": baseline, "surrogate": surrogate}
        learner = learners.ppo(policy, 0.1, entropy_coef=0.01, **options)
        state, prepare, update = jax.jit(learner.init)(params), jax.jit(learner.prepare), jax.jit(learner.update)
        clean = update(state, jax.random.key(2), prepare(state, data))[0].params
        assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (clean, params)), strict=True))
        dirty = poisoned(data, data.mask)
        prepared = prepare(state, dirty)
        for seen in (prepared, poisoned(prepared, data.mask)):
            after = update(state, jax.random.key(2), seen)[0].params
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after, clean)


def test_gae_stops_at_the_end_of_an_episode(floats):
    nan = np.nan
    reward, value = np.array([1.0, 2.0, nan], floats), np.array([0.5, 0.5, nan], floats)
    terminated = np.array([False, True, False])
    mask = np.array([1.0, 1.0, 0.0], floats)

    @jax.jit
    def advantage(gamma, lam, reward, value):
        following, ended, live = jnp.concatenate([value[1:], jnp.array([nan])]), jnp.array(terminated), jnp.array(mask)
        return returns.gae(reward, value, following, ended, ~ended & False, gamma, lam, live)

    got = advantage(0.5, 0.5, reward, value)  # 2 - .5 = 1.5; 1 + .25 - .5 + .25 * 1.5 = 1.125
    np.testing.assert_allclose(got, [1.125, 1.5, 0.0])
    slopes = jax.jit(jax.grad(lambda *x: jnp.sum(advantage(*x)), (0, 1, 2, 3)))(0.5, 0.5, reward, value)
    assert is_clean(slopes)
    np.testing.assert_allclose(slopes[0], 0.5 + 0.5 * 1.5)
    np.testing.assert_allclose(slopes[2], [1.0, 1.25, 0.0])
    whole = jax.jit(lambda *x: returns.discounted_returns(*x[:2], 0.5, mask=x[2]))(reward, terminated, mask)
    np.testing.assert_allclose(whole, [2.0, 2.0, 0.0])


def test_masked_means_and_targets(floats):
    mask = np.array([1.0, 1.0, 0.0, 0.0], floats)
    x = np.array([1.0, 3.0, np.nan, np.inf], floats)
    np.testing.assert_allclose(jax.jit(losses.masked_mean)(x, mask), 2.0)
    np.testing.assert_allclose(jax.jit(jax.grad(losses.masked_mean))(x, mask), [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(jax.jit(losses.masked_mean)(x, 0 * mask), 0.0)
    value, slope = jax.jit(jax.value_and_grad(losses.value_loss))(x, np.zeros(4, floats), mask, x, 0.1)
    np.testing.assert_allclose(value, 0.5 * (1 + 9) / 2)
    np.testing.assert_allclose(slope, [0.5, 1.5, 0, 0])
    np.testing.assert_allclose(jax.jit(returns.standardize)(x, mask), [-1.0, 1.0, 0, 0], rtol=1e-6)
    assert is_clean(jax.jit(jax.jacrev(returns.standardize))(x, mask))
    # sqrt has an infinite slope at 0: what goes in is masked, not only what comes out
    assert is_clean(jax.jit(jax.grad(lambda x: jnp.sum(jnp.sqrt(tree.masked(x, mask) + 1))))(x))


def test_a_distribution_behind_the_mask(floats):
    import distrax

    mask = jnp.array([1.0, 0.0])

    def both(mean, std):
        old = (jnp.array([0.0, jnp.nan]), jnp.array([1.0, 0.0]))
        new = distrax.Normal(mean, std)
        return losses.entropy(new, mask) + losses.kl_divergence(old, new, mask)

    value, slopes = jax.jit(jax.value_and_grad(both, (0, 1)))(jnp.array([1.0, jnp.nan]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(value, 0.5 * np.log(2 * np.pi * np.e) + 0.5, rtol=1e-6)  # KL(N(0, 1) || N(1, 1)) = .5
    np.testing.assert_allclose(slopes, [[1.0, 0.0], [1.0 - 1.0, 0.0]], atol=1e-6)


def test_a_skipped_transition_is_not_learned_from(floats):
    steps = Transitions(
        state=jnp.array([0, 1]), action=jnp.array([0, 0]), reward=jnp.array([1.0, jnp.nan]),
        next_state=jnp.array([1, 0]), terminated=jnp.array([True, False]), mask=jnp.array([1.0, 0.0]),
    )  # fmt: skip

    def total(q, reward, lr, gamma):
        return jnp.sum(q_update(q, dataclasses.replace(steps, reward=reward), lr=lr, gamma=gamma))

    args = (np.zeros((2, 1), floats), steps.reward, 0.5, 0.9)
    np.testing.assert_allclose(jax.jit(total)(*args), 0.5)
    slopes = jax.jit(jax.grad(total, (1, 2, 3)))(*args)
    np.testing.assert_allclose(slopes[0], [0.5, 0.0])
    np.testing.assert_allclose(slopes[1:], [1.0, 0.0])


# --- equal numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 10), (100, 20), (7,)])
def test_equal_numbers_are_standardised_to_zero(floats, shape):
    mask = np.ones(shape, floats)
    place = np.arange(mask.size, dtype=floats).reshape(shape)
    standardize = jax.jit(returns.standardize)
    slope = jax.jit(jax.grad(lambda x, mask: jnp.sum(returns.standardize(x, mask) * (1 + place))))
    for number in (0.1, 1000.1, -3.3, 0.0, 1e-6, 12345.678):
        x = np.full(shape, number, floats)
        for some in (mask, np.where(place == 0, 0, mask)):
            np.testing.assert_array_equal(standardize(x, some), 0.0)
        np.testing.assert_array_equal(slope(x, mask), 0.0)
        rounded = x * (1 + 2 * np.finfo(floats).eps * (place % 2))
        assert rounded.dtype == floats and (number == 0 or len(np.unique(rounded)) == 2)
        np.testing.assert_array_equal(standardize(rounded, mask), 0.0)


def test_numbers_that_differ_are_standardised(floats):
    both = np.ones(2, floats)
    standardize = jax.jit(lambda *x: returns.standardize(*x, eps=0.0))
    for x in ([1000.0, 1000.02], [1e-5, 3e-5], [-1e4, 1e4]):
        np.testing.assert_allclose(standardize(np.array(x, floats), both), [-1.0, 1.0], rtol=1e-3)
    assert not np.isfinite(jax.jit(returns.standardize)(np.array([1.0, np.nan], floats), both)).any()


# --- ratios -----------------------------------------------------------------------------------------------

SURROGATES = {
    "lvc": losses.lvc,
    "ppo": lambda *x: losses.ppo_clip(*x, 0.2),
    "smooth_ppo": lambda *x: losses.smooth_ppo(*x, 0.2),
    "dpo": losses.dpo,
}


def far(floats):
    return 200.0 if floats == jnp.float32 else 2000.0


def batch_of(log_prob_old, advantage, mask):
    names = {f.name: None for f in dataclasses.fields(Batch)}
    return Batch(**{**names, "log_prob": log_prob_old, "advantage": advantage, "mask": mask})


def drifting(log_prob, old, advantage, mask):
    eta = lpo.init_drift(jax.random.key(0), 4, scale=0.0)
    return lpo.surrogate(eta, 0.2)(log_prob, batch_of(old, advantage, mask))


@pytest.mark.parametrize("name", [*SURROGATES, "lpo"])
def test_a_ratio_that_overflows(floats, name):
    loss = {**SURROGATES, "lpo": drifting}[name]
    x, old, one = (np.full(1, number, floats) for number in (0, -far(floats), 1))
    both = jax.jit(jax.value_and_grad(loss))
    for advantage, mask in ((0 * one, one), (one, 0 * one), (-one, 0 * one)):
        value, slope = both(x, old, advantage, mask)
        np.testing.assert_allclose(value, 0.0, atol=2e-4)  # lpo: its margin
        np.testing.assert_array_equal(slope, 0.0)
    value, slope = both(x, old, one, one)  # far above: nothing more is to be gained, but for lvc
    expected = {"ppo": -1.2, "smooth_ppo": -1.2, "dpo": -3.0, "lpo": -1.2001}
    if name in expected:
        np.testing.assert_allclose(value, expected[name], rtol=1e-5)
        np.testing.assert_array_equal(slope, 0.0)
    else:
        assert np.isfinite(value) and float(value) < -1e10 and float(slope[0]) < -1e10
    value, slope = both(x, old, -one, one)  # far too likely: a finite pull back
    assert is_clean((value, slope)) and float(value) > 1e10 and float(slope[0]) > 1e10
    assert is_clean(jax.jit(jax.hessian(loss))(x, old, one, one))
    value, slope = both(old, x, one, one)  # and far below: 0
    np.testing.assert_allclose(value, 0.0, atol=2e-4)
    np.testing.assert_allclose(slope, 0.0, atol=1e-30)


@pytest.mark.parametrize("name", ["lvc", "ppo"])
def test_ordinary_ratios_keep_their_bits(floats, name):
    rng = np.random.default_rng(0)
    x, old, advantage = (jnp.asarray(rng.normal(0, s, 50), floats) for s in (5.0, 5.0, 1.0))
    one = jnp.asarray(np.ones(50), floats)

    def plain(x):
        ratio = jnp.exp(x - old)
        clipped = jnp.clip(ratio, 0.8, 1.2) if name == "ppo" else ratio
        return -jnp.sum(jnp.minimum(ratio * advantage, clipped * advantage)) / 50

    ours = jax.jit(jax.value_and_grad(lambda x: SURROGATES[name](x, old, advantage, one)))(x)
    jax.tree.map(np.testing.assert_array_equal, ours, jax.jit(jax.value_and_grad(plain))(x))


@pytest.mark.parametrize("name", ["vpg", "dice", "loaded_dice", "tmaml"])
def test_surrogates_without_a_ratio_behind_the_mask(floats, name):
    mask, nan = np.array([[1.0], [1.0], [0.0]], floats), np.nan
    names = ("advantage", "discounted_reward", "discounted_value")
    numbers = {n: np.array([[1.0], [2.0], [nan]], floats) for n in names}
    batch = batch_of(np.zeros((3, 1), floats), None, mask).replace(**numbers)
    short = jax.tree.map(lambda x: x[:2], batch)
    loss = losses.surrogate(name, dice_lambda=1.0)
    x = np.array([[-1.0], [-0.5], [-np.inf]], floats)
    for f in (jax.jit(loss), jax.jit(jax.grad(loss))):
        np.testing.assert_allclose(np.ravel(f(x, batch))[:2], np.ravel(f(x[:2], short)), rtol=1e-6)
    assert is_clean(jax.jit(jax.hessian(loss))(x, batch))


# --- what the environment gives ---------------------------------------------------------------------------


@pytest.mark.parametrize("what, steps", [("observation", (0, 2, 3)), ("reward", (2, 3))])  # a reset gives no reward
@pytest.mark.parametrize("auto_reset", [False, True])
def test_a_live_step_that_is_not_finite_is_found(what, steps, auto_reset):
    other = {"observation": "reward", "reward": "observation"}[what]
    find = jax.jit(lambda step: faulty_steps(played(env=Brittle((what, step)), auto_reset=auto_reset)[2]))
    for step in steps:
        found = find(step)
        assert (int(found[what]), int(found[other])) == (step, NEVER)


def test_an_agent_that_is_not_finite_is_not_the_environments_fault():
    env = Brittle(continuous=True)
    policy = mlp_policy(env, (4,))

    @jax.jit
    def play():
        params = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), policy.init(jax.random.key(0)))
        data, _ = rollout(env, policy.apply, params, jax.random.key(1), env.default_params, num_steps=6, num_envs=2)
        return data.reward, faulty_steps(data)

    reward, faults = play()
    assert not np.isfinite(reward).all()
    assert {int(x) for x in faults.values()} == {NEVER}
    assert {int(x) for x in jax.jit(lambda: faulty_steps(played()[2]))().values()} == {NEVER}


# --- discounts, means over nothing ------------------------------------------------------------------------


def test_powers_of_the_discount(floats):
    time = jnp.array([0, 1, 2, 5])
    discounts = jax.jit(lambda gamma: returns.discounts(gamma, time, floats))
    np.testing.assert_allclose(discounts(0.9), 0.9 ** np.arange(6)[[0, 1, 2, 5]], rtol=1e-6)
    slope = jax.jit(jax.grad(lambda gamma: jnp.sum(returns.discounts(gamma, time, floats))))
    np.testing.assert_allclose(slope(0.0), 1.0)
    np.testing.assert_allclose(slope(0.5), 1 + 1 + 5 * 0.5**4)


def test_a_mean_over_nothing_is_infinite_and_never_nan(floats):
    with jax.debug_nans(True):
        mean = jax.jit(tree.mean_or_nothing)
        assert float(mean(jnp.asarray(0.0), jnp.asarray(0))) == np.inf
        assert float(mean(jnp.asarray(6.0), jnp.asarray(4))) == 1.5
        found = jax.jit(lambda x: tree.finite_mean(x, axis=1))(jnp.array([[1.0, jnp.inf, 3.0], [jnp.inf] * 3]))
    np.testing.assert_array_equal(found, [2.0, np.inf])
