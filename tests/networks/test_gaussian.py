"""The squashed Gaussian against integrals and differences of its distribution function, and in every algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import of_family, store_trial
from scipy.stats import norm

import metarl_jax as mrl
from metarl_jax import tree
from metarl_jax.envs.trial import trials
from metarl_jax.networks import mlp_policy, recurrent_policy, transformer_policy
from metarl_jax.networks.gaussian import Box, gaussian
from metarl_jax.rl import losses
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate

BOX = Box((-2.0, 1.0), (2.0, 4.0))
CASES = [(0.0, 1.0), (0.7, 0.3), (-1.5, 2.0)]


def squashed(mean, std, box=BOX, dim=2):
    mean = jnp.full(dim, mean, float)
    return gaussian(mean, jnp.log(jnp.full(dim, std, float)), 1e-6, box)


def one_dimension(mean, std):
    """The first dimension alone."""
    return gaussian(
        jnp.full((1, 1), mean, float), jnp.log(jnp.full(1, std, float)), 0.0, Box(BOX.low[:1], BOX.high[:1])
    )


def integral(f):
    """Of f(action [N, 1]) -> [N] over the first dimension of the box, on points that crowd near its bounds."""
    action = 2 * np.tanh(np.linspace(-14, 14, 100_001))
    return np.trapezoid(f(action[:, None]), action)


log_prob_of_one = jax.jit(lambda mean, std, action: one_dimension(mean, std).log_prob(action))


@pytest.mark.parametrize(("mean", "std"), CASES)
def test_the_density_integrates_to_one(x64, mean, std):
    np.testing.assert_allclose(integral(lambda action: np.exp(log_prob_of_one(mean, std, action))), 1.0, rtol=1e-6)


log_prob_of_both = jax.jit(lambda mean, std, action: squashed(mean, std).log_prob(action))


@pytest.mark.parametrize(("mean", "std"), CASES)
def test_the_density_is_the_slope_of_the_distribution_function(x64, mean, std):
    low, high = (np.asarray(x) for x in BOX)

    def cdf(action):  # P(a_i <= action_i), from u alone
        return norm.cdf(np.arctanh((2 * action - low - high) / (high - low)), mean, std)

    action, h = low + (high - low) * np.linspace(0.01, 0.99, 21)[:, None], 1e-6
    expected = np.sum(np.log((cdf(action + h) - cdf(action - h)) / (2 * h)), axis=-1)
    np.testing.assert_allclose(log_prob_of_both(mean, std, action), expected, rtol=1e-6, atol=1e-6)


@jax.jit
def slopes(mean, log_std, action):
    """Of the summed log-probabilities, in all three."""
    return jax.value_and_grad(lambda *x: gaussian(*x[:2], 1e-6, BOX).log_prob(x[2]).sum(), (0, 1, 2))(
        mean, log_std, action
    )


@pytest.mark.parametrize("std", [1e-3, 0.5, 3.0, 20.0])
def test_value_and_gradients_are_finite_at_and_next_to_the_bounds(std):
    low, high = (np.asarray(x, np.float32) for x in BOX)
    inside = [np.nextafter(low, high), np.nextafter(high, low)]
    action = np.stack([low, high, *inside, high + 1, low - 1])
    found = slopes(np.zeros((6, 2)), np.full(2, np.log(std)), action)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@jax.jit
def from_the_gaussian(distribution, key):
    """u as it is drawn, and the log-probability of its action."""
    u = distribution.normal.sample(seed=key)
    return u, distribution.normal.log_prob(u) - distribution._log_slope(u).sum(-1)


@pytest.mark.parametrize(("mean", "std"), [*CASES, (0.0, 30.0), (50.0, 1.0)])
def test_samples_lie_in_the_box_and_come_with_their_own_log_probability(mean, std):
    distribution, key = gaussian(np.full((4096, 2), mean, np.float32), np.log([std, std]), 1e-6, BOX), jax.random.key(0)
    action, log_prob = distribution.sample_and_log_prob(seed=key)  # not compiled as a whole: the same to the last bit
    np.testing.assert_array_equal(log_prob, distribution.log_prob(action))
    np.testing.assert_array_equal(action, distribution.sample(seed=key))
    action, log_prob = np.asarray(action), np.asarray(log_prob)
    assert ((action >= np.asarray(BOX.low)) & (action <= np.asarray(BOX.high))).all()
    if std <= 2:  # that of the u which was drawn, up to the rounding of the action
        u, from_u = (np.asarray(x) for x in from_the_gaussian(distribution, key))
        inside = (np.abs(u) < 3).all(axis=-1)
        np.testing.assert_allclose(log_prob[inside], from_u[inside], rtol=2e-3, atol=2e-3)


@jax.jit
def entropy_and_integrand(mean, std, u):
    one = one_dimension(mean, std)
    return one.entropy()[0], one.normal.log_prob(u), one._log_slope(u)[:, 0]


slope_of_entropy = jax.jit(jax.grad(lambda mean: gaussian(mean, jnp.zeros(2), 0.0, BOX).entropy()))


@pytest.mark.parametrize(("mean", "std", "error"), [*[(*case, 1e-4) for case in CASES], (0.0, 3.0, 4e-3)])
def test_entropy_is_the_integral(x64, mean, std, error):
    """-integral p log p, over u, where it is smooth."""
    u = np.linspace(mean - 12 * std, mean + 12 * std, 200_001)[:, None]
    entropy, log_prob, log_slope = (np.asarray(x) for x in entropy_and_integrand(mean, std, u))
    expected = -np.sum(np.exp(log_prob) * (log_prob - log_slope)) * (u[1, 0] - u[0, 0])
    np.testing.assert_allclose(entropy, expected, atol=error)
    assert (np.asarray(slope_of_entropy(np.full(2, 0.7))) < 0).all(), "the entropy falls away from the middle"


def test_kl_is_that_of_the_gaussians(x64):
    p, q = (0.3, 0.5), (-0.2, 0.8)
    expected = np.log(0.8 / 0.5) + (0.5**2 + 0.5**2) / (2 * 0.8**2) - 0.5

    @jax.jit
    def both():
        old, new = squashed(*p), squashed(*q)
        stored = tuple(jax.tree.leaves(old))  # as a rollout keeps it
        return old.kl_divergence(new), losses.kl_divergence(stored, new, jnp.ones(()))

    np.testing.assert_allclose(both(), 2 * expected, rtol=1e-12)

    def integrand(action):
        log_p, log_q = (np.asarray(log_prob_of_one(*x, action)) for x in (p, q))
        return np.exp(log_p) * (log_p - log_q)

    np.testing.assert_allclose(integral(integrand), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="the boxes differ"):
        squashed(*p).kl_divergence(squashed(0.0, 1.0, Box((-1.0, -1.0), (1.0, 1.0))))


def test_what_cannot_be_squashed_is_refused():
    bandit, _ = mrl.make("BernoulliBandit-v0", num_arms=3)
    with pytest.raises(ValueError, match="squash = True: needs box actions"):
        mlp_policy(bandit, squash=True)
    env, _ = mrl.make("PointNavigation-v0")

    class Unbounded:
        name, default_params, observation_space = "Unbounded", env.default_params, env.observation_space

        def action_space(self, params):
            from gymnax.environments import spaces

            return spaces.Box(-jnp.inf, jnp.inf, (2,), jnp.float32)

    for make in (mlp_policy, recurrent_policy, lambda e, **o: transformer_policy(e, 4, **o)):
        with pytest.raises(ValueError, match="squash = True: needs finite bounds, and the actions of Unbounded"):
            make(Unbounded(), squash=True)


def test_memory_policies_have_a_floor_too():
    env, tasks = mrl.make("PointNavigation-v0", horizon=3)
    on_trials = trials(env, tasks, 2)
    for policy in (recurrent_policy(on_trials, 4, min_std=0.1), transformer_policy(on_trials, 6, 8, min_std=0.1)):
        params = jax.jit(policy.init)(jax.random.key(0))
        params["heads"]["log_std"] = np.array([-50.0, 0.0])
        std = jax.jit(lambda params, policy=policy: policy.apply(params, jnp.zeros((6, 1, 6))).stddev())(params)
        np.testing.assert_allclose(std[0, 0], [0.1, 1.0], rtol=1e-6)


# --- every algorithm with a Gaussian policy ---------------------------------------------------------------

CONFIGS = {  # test_statistics trains the others with these keys
    "maml": {"hidden": [4], "meta_batch_size": 2, "episodes_per_task": 4},
    "rl2-transformer": {"num_episodes": 2, "meta_batch_size": 4, "num_minibatches": 2, "size": 4,
                        "network": "transformer", "num_layers": 1, "num_heads": 2},
}  # fmt: skip


def config(name, **more):
    run = {"algorithm": name.partition("-")[0], "env": "PointNavigation-v0", "num_iterations": 3}
    return validate({**run, **CONFIGS[name], **more})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_takes_the_keys_and_trains_every_parameter(name):
    """One step under jit: finite, and every leaf of what acts moves, the deviation included."""
    job = build(config(name, squash=True, min_std=1e-3, env_options={"horizon": 4}))
    state = jax.jit(job.algorithm.init)(jax.random.key(0))
    after, metrics = jax.jit(job.algorithm.step)(state, jax.random.key(1))
    assert all(np.all(x) for x in jax.tree.leaves(metrics["finite"]))
    before, now = job.params(state), job.params(after)
    for leaf, a, b in zip(tree.leaf_names(before), jax.tree.leaves(before), jax.tree.leaves(now), strict=True):
        assert not np.array_equal(a, b) or "encoder" in leaf or "decoder" in leaf, leaf


@pytest.mark.parametrize("name", ["promp", "maml_trpo"])
def test_the_meta_gradient_is_nonzero_in_every_leaf_and_the_ratio_one_on_replay(name):
    env, tasks = mrl.make("PointNavigation-v0", horizon=4)
    policy = mlp_policy(env, (4,), init_std=2.0, squash=True)
    options = {"meta_batch_size": 2, "episodes_per_task": 3}
    algo = of_family(name, env, tasks, policy, **options)
    params, trial = store_trial(algo, (env, tasks, policy))
    first = jax.tree.map(lambda x: np.asarray(x)[0], trial.inner)
    again = jax.jit(lambda *x: policy.apply(params, x[0]).log_prob(x[1]))(first.observation, first.action)
    np.testing.assert_allclose(np.exp(again - first.log_prob), 1.0, atol=1e-5)
    assert (np.abs(first.action) > 0.0999).any(), "some actions are next to the bounds"
    _, grads = jax.jit(algo.meta_gradient)(params, trial)
    assert all(np.any(np.asarray(g) != 0) and np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_options_of_ours_beside_a_network_with_a_memory_of_ones_own_are_refused():
    """They would have no part, as they have none beside a network that acts on one observation."""
    from metarl_jax import networks
    from metarl_jax.options import ConfigError

    networks.register("own_memory_of_this_test", lambda env: mrl.networks.recurrent_policy(env, 4))
    run = {"algorithm": "rl2", "env": "PointNavigation-v0", "num_iterations": 1, "num_episodes": 2,
           "network": "own_memory_of_this_test"}  # fmt: skip
    assert build(validate(run)).policy.step is not None
    for key, value in (("squash", True), ("min_std", 0.1), ("size", 8), ("num_heads", 2)):
        with pytest.raises(ConfigError, match=f"{key} = {value}: is of network = gru or lstm or transformer"):
            build(validate({**run, key: value}))
