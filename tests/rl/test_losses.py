"""Loss terms against values and derivatives worked out by hand."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.rl import losses
from metarl_jax.types import Batch

T, B = 5, 2


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    mask = np.ones((T, B))
    mask[3:, 1] = 0.0
    draw = lambda: jnp.asarray(rng.normal(size=(T, B)) * mask)  # noqa: E731
    return Batch(
        observation=jnp.zeros((T, B, 1)),
        action=jnp.zeros((T, B), int),
        log_prob=jnp.asarray(-rng.random((T, B))),
        advantage=draw(),
        value=draw(),
        target=draw(),
        discounted_reward=draw(),
        discounted_value=draw(),
        mask=jnp.asarray(mask),
    )


def gradient(name, batch, log_prob=None, **options):
    surrogate = losses.surrogate(name, **options)
    return jax.grad(lambda lp: surrogate(lp, batch))(batch.log_prob if log_prob is None else log_prob)


def test_masked_mean():
    x, mask = jnp.array([1.0, 3.0, 100.0]), jnp.array([1.0, 1.0, 0.0])
    assert float(losses.masked_mean(x, mask)) == 2.0
    assert float(losses.masked_mean(x, 0 * mask)) == 0.0


@pytest.mark.parametrize(
    "name, options",
    [
        ("vpg", {}),
        ("lvc", {}),
        ("ppo", {"clip_eps": 0.2}),
        ("loaded_dice", {"dice_lambda": 1.0}),
        ("loaded_dice", {"dice_lambda": 0.5}),
        ("loaded_dice", {"dice_lambda": 0.0}),
    ],
)
def test_gradient_at_the_sampling_parameters_is_minus_the_advantage(x64, batch, name, options):
    expected = -batch.advantage * batch.mask / batch.mask.sum()
    np.testing.assert_allclose(gradient(name, batch, **options), expected, atol=1e-14)


def test_dice_gradient_is_the_reward_to_go_minus_the_baseline(x64, batch):
    to_go = jnp.cumsum(batch.discounted_reward[::-1], axis=0)[::-1]
    expected = -(to_go - batch.discounted_value) * batch.mask / batch.mask.sum()
    np.testing.assert_allclose(gradient("dice", batch), expected, atol=1e-14)


@pytest.mark.parametrize("name", losses.SURROGATES)
def test_masked_steps_do_not_matter(x64, batch, name):
    options = {"clip_eps": 0.2, "dice_lambda": 0.7}
    shifted = batch.log_prob + 0.1
    junk = jnp.where(batch.mask > 0, shifted, shifted - 1.0)
    slope = jax.jit(lambda log_prob: gradient(name, batch, log_prob, **options))
    hessian = jax.jit(jax.hessian(lambda log_prob: losses.surrogate(name, **options)(log_prob, batch)))
    np.testing.assert_array_equal(slope(shifted) * (1 - batch.mask), 0)
    np.testing.assert_allclose(slope(shifted), slope(junk), atol=1e-14)
    np.testing.assert_allclose(hessian(shifted), hessian(junk), atol=1e-14)


def test_lvc_divides_by_the_stored_probability(x64, batch):
    log_prob = batch.log_prob + 0.3
    value = losses.surrogate("lvc")(log_prob, batch)
    expected = -np.exp(0.3) * np.sum(batch.advantage * batch.mask) / np.sum(batch.mask)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    expected = -np.exp(0.3) * batch.advantage * batch.mask / batch.mask.sum()
    np.testing.assert_allclose(gradient("lvc", batch, log_prob), expected, atol=1e-14)


@pytest.mark.parametrize(
    "ratio, advantage, value, slope",
    [
        (1.1, 2.0, -2.2, -2.2),  # inside: -rho A, and d/dlog pi is the same
        (1.5, 2.0, -2.4, 0.0),  # too likely already
        (0.5, 2.0, -1.0, -1.0),  # less likely than it should be: no limit
        (0.5, -2.0, 1.6, 0.0),  # unlikely already
        (1.5, -2.0, 3.0, 3.0),  # more likely than it should be: no limit
    ],
)
def test_ppo_clip(x64, ratio, advantage, value, slope):
    loss = lambda lp: losses.ppo_clip(lp, jnp.zeros(1), jnp.array([advantage]), jnp.ones(1), 0.2)  # noqa: E731
    log_prob = jnp.log(jnp.array([ratio]))
    assert float(loss(log_prob)) == pytest.approx(value)
    assert float(jax.grad(loss)(log_prob)[0]) == pytest.approx(slope)


@pytest.mark.parametrize("advantage, far", [(2.0, 3.0), (-2.0, 0.01)])
def test_smooth_ppo_is_ppo_near_1_and_flat_far_out(x64, advantage, far):
    """The same value, slope and curvature at rho = 1; no pull where rho is far on the wrong side; eps is felt."""

    def loss(function, ratio, eps=0.2):
        return function(jnp.log(ratio)[None], jnp.zeros(1), jnp.array([advantage]), jnp.ones(1), eps)

    smooth, ppo = (lambda r, *e: loss(losses.smooth_ppo, r, *e)), (lambda r: loss(losses.ppo_clip, r))
    for order in (lambda f: f, jax.grad, lambda f: jax.grad(jax.grad(f))):
        assert float(order(smooth)(1.0)) == pytest.approx(float(order(ppo)(1.0)), abs=1e-12)
    assert float(smooth(far)) == pytest.approx(float(ppo(far)), rel=1e-3)
    assert float(jax.grad(smooth)(far)) == pytest.approx(0, abs=1e-3)
    assert float(jax.grad(smooth)(1 / far)) == pytest.approx(float(jax.grad(ppo)(1 / far)), rel=1e-9)
    near = 1.1 if advantage > 0 else 0.9
    slopes = [abs(float(jax.grad(smooth)(near, eps))) for eps in (0.1, 0.2, 0.4)]
    assert slopes == sorted(slopes), "a wider clip pulls harder"
    assert slopes[0] < 0.5 * slopes[2]


@pytest.mark.parametrize("ratio", [0.2, 0.7, 1.0, 1.3, 4.0])
@pytest.mark.parametrize("advantage", [-1.5, 2.0])
def test_dpo_is_its_two_formulas(x64, ratio, advantage):
    """Lu et al. 2022: a drift in (rho - 1) A or in A log rho, whichever side the advantage is on."""

    def loss(r):
        return losses.dpo(jnp.log(r)[None], jnp.zeros(1), jnp.array([advantage]), jnp.ones(1))

    x, a = ((ratio - 1) * advantage, 2.0) if advantage >= 0 else (np.log(ratio) * advantage, 0.6)
    drift = max(x - a * np.tanh(x / a), 0.0)
    assert float(loss(ratio)) == pytest.approx(-(ratio * advantage - drift), rel=1e-12)
    slope = advantage if advantage >= 0 else advantage / ratio
    expected = -(advantage - slope * np.tanh(x / a) ** 2 * (x > 0))
    assert float(jax.grad(loss)(ratio)) == pytest.approx(expected, rel=1e-9)
    assert float(jax.grad(jax.grad(loss))(1.0)) == pytest.approx(0, abs=1e-12)  # in rho, as for lvc


def test_ppo_clip_is_differentiable_in_eps():
    loss = lambda eps: losses.ppo_clip(  # noqa: E731
        jnp.log(jnp.array([1.5])), jnp.zeros(1), jnp.array([2.0]), jnp.ones(1), eps
    )
    assert float(jax.grad(loss)(0.2)) == pytest.approx(-2.0)


def test_loaded_dice_by_hand(x64):
    """T = 2, lambda = .5: d2/dlp_0 dlp_1 of -mean[(e^w0 - 1) A_0 + (e^w1 - e^v1) A_1] is -.5 A_1 / 2."""
    batch_advantage = jnp.array([3.0, 5.0])
    hessian = jax.hessian(lambda lp: losses.loaded_dice(lp, batch_advantage, jnp.ones(2), 0.5))(jnp.zeros(2))
    np.testing.assert_allclose(hessian, [[-1.5, -1.25], [-1.25, -2.5]], atol=1e-14)


def test_dice_by_hand(x64):
    """T = 2: each reward carries the product of the past, each baseline its own step with the other sign."""
    reward, value = jnp.array([3.0, 5.0]), jnp.array([1.0, 2.0])
    hessian = jax.hessian(lambda lp: losses.dice(lp, reward, value, jnp.ones(2)))(jnp.zeros(2))
    np.testing.assert_allclose(hessian, -np.array([[3 + 5 - 1, 5], [5, 5 - 2]]) / 2, atol=1e-14)


def test_magic_box_is_one_with_the_derivative_of_its_argument():
    assert float(losses.magic_box(jnp.array(7.0))) == 1.0
    assert float(jax.grad(lambda x: losses.magic_box(3 * x))(7.0)) == 3.0
    assert float(jax.grad(jax.grad(lambda x: losses.magic_box(3 * x)))(7.0)) == 9.0


def test_value_loss():
    value, target, mask = jnp.array([1.0, 2.0, 9.0]), jnp.array([0.0, 4.0, 0.0]), jnp.array([1.0, 1.0, 0.0])
    assert float(losses.value_loss(value, target, mask)) == pytest.approx((1 + 4) / 4)
    slope = jax.grad(losses.value_loss)(value, target, mask)
    np.testing.assert_allclose(slope, [0.5, -1.0, 0.0])


def test_value_loss_clipped_is_pessimistic():
    one = jnp.ones(1)
    loss = lambda v: losses.value_loss(v * one, 0 * one, one, 2 * one, 0.5)  # noqa: E731
    assert float(loss(1.0)) == pytest.approx(1.5**2 / 2)  # V moved too far from 2: held at 1.5
    assert float(jax.grad(loss)(1.0)) == 0.0
    assert float(loss(1.8)) == pytest.approx(1.8**2 / 2)


def gaussian(mean, scale):
    return distrax.Independent(distrax.Normal(jnp.asarray(mean), jnp.asarray(scale)), 1)


def test_entropy_sums_over_action_dimensions():
    scale = np.array([[1.0, 2.0], [3.0, 0.5], [7.0, 7.0]])
    got = losses.entropy(gaussian(np.zeros((3, 2)), scale), jnp.array([1.0, 1.0, 0.0]))
    expected = np.sum(0.5 * np.log(2 * np.pi * np.e * scale[:2] ** 2)) / 2
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_kl_divergence_is_from_old_to_new():
    old, new = gaussian([[0.0, 1.0]], [[1.0, 2.0]]), gaussian([[1.0, 0.0]], [[2.0, 1.0]])
    kl = lambda m, s, n, r: np.log(r / s) + (s**2 + (m - n) ** 2) / (2 * r**2) - 0.5  # noqa: E731
    expected = kl(0.0, 1.0, 1.0, 2.0) + kl(1.0, 2.0, 0.0, 1.0)
    assert float(losses.kl_divergence(old, new, jnp.ones(1))) == pytest.approx(expected, rel=1e-5)


def test_surrogate_by_name_or_function(batch):
    with pytest.raises(ValueError, match="surrogate = 'pppo'"):
        losses.surrogate("pppo")
    own = lambda log_prob, batch: jnp.sum(log_prob)  # noqa: E731
    assert losses.surrogate(own) is own
    loose = losses.surrogate("ppo", clip_eps=10.0, dice_lambda=0.0)(batch.log_prob + 1, batch)
    assert float(loose) == pytest.approx(float(losses.surrogate("lvc")(batch.log_prob + 1, batch)), rel=1e-5)


def test_towards_a_target_every_weight_is_what_the_return_falls_short_by(x64, batch):
    """Two episodes of 5 and 3 steps: what a batch holds behind the end of an episode does not count."""
    returns = [float(batch.discounted_reward[:, 0].sum()), float(batch.discounted_reward[:3, 1].sum())]
    missing = (2.0 - sum(returns) / B) / T
    behind = jax.tree.map(lambda x: jnp.where(batch.mask == 0, 7.0, x), batch.discounted_reward)
    aimed = losses.towards_target(batch.replace(discounted_reward=behind), 2.0)
    for name in ("vpg", "lvc", "dice", "tmaml", "loaded_dice", "ppo"):
        options = {"clip_eps": 0.2, "dice_lambda": 1.0}
        np.testing.assert_allclose(
            gradient(name, aimed, **options), missing * gradient(name, batch, **options), atol=1e-14
        )
    assert float(jnp.abs(losses.towards_target(batch, sum(returns) / B).advantage).max()) < 1e-15
    np.testing.assert_array_equal(aimed.target, batch.target)
