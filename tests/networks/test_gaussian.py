"""The squashed Gaussian against integrals and differences of its distribution function, and in every algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from problems import of_family, store_trial

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
    action = 2 * jnp.tanh(jnp.linspace(-14, 14, 100_001))
    return jnp.trapezoid(f(action[:, None]), action)


@pytest.mark.parametrize(("mean", "std"), CASES)
def test_the_density_integrates_to_one(x64, mean, std):
    one = one_dimension(mean, std)
    np.testing.assert_allclose(integral(lambda action: jnp.exp(one.log_prob(action))), 1.0, rtol=1e-6)


@pytest.mark.parametrize(("mean", "std"), CASES)
def test_the_density_is_the_slope_of_the_distribution_function(x64, mean, std):
    low, high = (jnp.asarray(x, float) for x in BOX)

    def cdf(action):  # P(a_i <= action_i), from u alone
        return norm.cdf(jnp.arctanh((2 * action - low - high) / (high - low)), mean, std)

    action, h = low + (high - low) * jnp.linspace(0.01, 0.99, 21)[:, None], 1e-6
    expected = jnp.sum(jnp.log((cdf(action + h) - cdf(action - h)) / (2 * h)), axis=-1)
    np.testing.assert_allclose(squashed(mean, std).log_prob(action), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("std", [1e-3, 0.5, 3.0, 20.0])
def test_value_and_gradients_are_finite_at_and_next_to_the_bounds(std):
    low, high = (np.asarray(x, np.float32) for x in BOX)
    inside = [np.nextafter(low, high), np.nextafter(high, low)]
    action = jnp.asarray(np.stack([low, high, *inside, high + 1, low - 1]))

    def total(mean, log_std, action):
        return gaussian(mean, log_std, 1e-6, BOX).log_prob(action).sum()

    arguments = jnp.zeros((6, 2)), jnp.full(2, jnp.log(std)), action
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(jax.value_and_grad(total, (0, 1, 2))(*arguments)))


@pytest.mark.parametrize(("mean", "std"), [*CASES, (0.0, 30.0), (50.0, 1.0)])
def test_samples_lie_in_the_box_and_come_with_their_own_log_probability(mean, std):
    distribution = gaussian(jnp.full((4096, 2), mean), jnp.log(jnp.full(2, std)), 1e-6, BOX)
    action, log_prob = distribution.sample_and_log_prob(seed=jax.random.key(0))
    assert bool(jnp.all((action >= jnp.asarray(BOX.low)) & (action <= jnp.asarray(BOX.high))))
    np.testing.assert_array_equal(log_prob, distribution.log_prob(action))
    np.testing.assert_array_equal(action, distribution.sample(seed=jax.random.key(0)))
    if std <= 2:  # that of the u which was drawn, up to the rounding of the action
        u = distribution.normal.sample(seed=jax.random.key(0))
        from_u = distribution.normal.log_prob(u) - distribution._log_slope(u).sum(-1)
        inside = jnp.all(jnp.abs(u) < 3, axis=-1)
        np.testing.assert_allclose(log_prob[inside], from_u[inside], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("mean", "std", "error"), [*[(*case, 1e-4) for case in CASES], (0.0, 3.0, 4e-3)])
def test_entropy_is_the_integral(x64, mean, std, error):
    """-integral p log p, over u, where it is smooth."""
    u = jnp.linspace(mean - 12 * std, mean + 12 * std, 200_001)[:, None]
    one = one_dimension(mean, std)
    log_p = one.normal.log_prob(u) - one._log_slope(u)[:, 0]
    expected = -jnp.sum(jnp.exp(one.normal.log_prob(u)) * log_p) * (u[1, 0] - u[0, 0])
    np.testing.assert_allclose(one.entropy()[0], expected, atol=error)
    slope = jax.grad(lambda m: gaussian(m, jnp.zeros(2), 0.0, BOX).entropy())(jnp.full(2, 0.7))
    assert bool(jnp.all(slope < 0)), "the entropy falls away from the middle"


def test_kl_is_that_of_the_gaussians(x64):
    old, new = squashed(0.3, 0.5), squashed(-0.2, 0.8)
    expected = np.log(0.8 / 0.5) + (0.5**2 + 0.5**2) / (2 * 0.8**2) - 0.5
    np.testing.assert_allclose(old.kl_divergence(new), 2 * expected, rtol=1e-12)
    stored = tuple(jax.tree.leaves(old))  # as a rollout keeps it
    np.testing.assert_allclose(losses.kl_divergence(stored, new, jnp.ones(())), 2 * expected, rtol=1e-12)
    p, q = one_dimension(0.3, 0.5), one_dimension(-0.2, 0.8)
    by_integral = integral(lambda a: jnp.exp(p.log_prob(a)) * (p.log_prob(a) - q.log_prob(a)))
    np.testing.assert_allclose(by_integral, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="the boxes differ"):
        old.kl_divergence(squashed(0.0, 1.0, Box((-1.0, -1.0), (1.0, 1.0))))


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
        params = policy.init(jax.random.key(0))
        params["heads"]["log_std"] = jnp.array([-50.0, 0.0])
        std = policy.apply(params, jnp.zeros((6, 1, 6))).stddev()
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
    assert all(bool(jnp.all(x)) for x in jax.tree.leaves(metrics["finite"]))
    before, now = job.params(state), job.params(after)
    for leaf, a, b in zip(tree.leaf_names(before), jax.tree.leaves(before), jax.tree.leaves(now), strict=True):
        assert bool(jnp.any(a != b)) or "encoder" in leaf or "decoder" in leaf, leaf


@pytest.mark.parametrize("name", ["promp", "maml_trpo"])
def test_the_meta_gradient_is_nonzero_in_every_leaf_and_the_ratio_one_on_replay(name):
    env, tasks = mrl.make("PointNavigation-v0", horizon=4)
    policy = mlp_policy(env, (4,), init_std=2.0, squash=True)
    options = {"meta_batch_size": 2, "episodes_per_task": 3}
    algo = of_family(name, env, tasks, policy, **options)
    params, trial = store_trial(algo, (env, tasks, policy))
    first = jax.tree.map(lambda x: x[0], trial.inner)
    again = policy.apply(params, first.observation).log_prob(first.action)
    np.testing.assert_allclose(jnp.exp(again - first.log_prob), 1.0, atol=1e-5)
    assert bool(jnp.any(jnp.abs(first.action) > 0.0999)), "some actions are next to the bounds"
    _, grads = jax.jit(algo.meta_gradient)(params, trial)
    assert all(bool(jnp.any(g != 0)) and bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads))


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
