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
        observation=jnp.asarray(np.zeros((T, B, 1))),
        action=jnp.asarray(np.zeros((T, B), int)),
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
    slope = jax.jit(jax.grad(lambda log_prob: surrogate(log_prob, batch)))
    return slope(batch.log_prob if log_prob is None else log_prob)


def by_numpy(batch):
    return jax.tree.map(np.asarray, batch)


def test_masked_mean():
    x, mask, mean = np.array([1.0, 3.0, 100.0]), np.array([1.0, 1.0, 0.0]), jax.jit(losses.masked_mean)
    assert float(mean(x, mask)) == 2.0
    assert float(mean(x, 0 * mask)) == 0.0


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
    seen = by_numpy(batch)
    expected = -seen.advantage * seen.mask / seen.mask.sum()
    np.testing.assert_allclose(gradient(name, batch, **options), expected, atol=1e-14)


def test_dice_gradient_is_the_reward_to_go_minus_the_baseline(x64, batch):
    seen = by_numpy(batch)
    to_go = np.cumsum(seen.discounted_reward[::-1], axis=0)[::-1]
    expected = -(to_go - seen.discounted_value) * seen.mask / seen.mask.sum()
    np.testing.assert_allclose(gradient("dice", batch), expected, atol=1e-14)


@pytest.mark.parametrize("name", losses.SURROGATES)
def test_masked_steps_do_not_matter(x64, batch, name):
    options = {"clip_eps": 0.2, "dice_lambda": 0.7}
    shifted = np.asarray(batch.log_prob) + 0.1
    junk = np.where(np.asarray(batch.mask) > 0, shifted, shifted - 1.0)
    slope = jax.jit(lambda log_prob: gradient(name, batch, log_prob, **options))
    hessian = jax.jit(jax.hessian(lambda log_prob: losses.surrogate(name, **options)(log_prob, batch)))
    np.testing.assert_array_equal(slope(shifted) * (1 - np.asarray(batch.mask)), 0)
    np.testing.assert_allclose(slope(shifted), slope(junk), atol=1e-14)
    np.testing.assert_allclose(hessian(shifted), hessian(junk), atol=1e-14)


def test_lvc_divides_by_the_stored_probability(x64, batch):
    seen = by_numpy(batch)
    log_prob = seen.log_prob + 0.3
    value = jax.jit(losses.surrogate("lvc"))(log_prob, batch)
    expected = -np.exp(0.3) * np.sum(seen.advantage * seen.mask) / np.sum(seen.mask)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    expected = -np.exp(0.3) * seen.advantage * seen.mask / seen.mask.sum()
    np.testing.assert_allclose(gradient("lvc", batch, log_prob), expected, atol=1e-14)


clipped = jax.jit(
    jax.value_and_grad(lambda log_prob, advantage: losses.ppo_clip(log_prob, 0 * log_prob, advantage, jnp.ones(1), 0.2))
)


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
    found = clipped(np.log([ratio]), np.array([advantage]))
    assert float(found[0]) == pytest.approx(value)
    assert float(found[1][0]) == pytest.approx(slope)


def in_the_ratio(loss):
    """(value, slope, curvature) of a loss of one step, by its ratio: of (ratio, advantage, further arguments)."""

    def one(ratio, advantage, *more):
        return loss(jnp.log(ratio)[None], jnp.zeros(1), advantage[None], jnp.ones(1), *more)

    def all_three(*x):
        return one(*x), jax.grad(one)(*x), jax.grad(jax.grad(one))(*x)

    compiled = jax.jit(all_three)
    return lambda *x: [float(y) for y in compiled(*map(float, x))]


smooth, ppo, dpo = map(in_the_ratio, (losses.smooth_ppo, losses.ppo_clip, losses.dpo))


@pytest.mark.parametrize("advantage, far", [(2.0, 3.0), (-2.0, 0.01)])
def test_smooth_ppo_is_ppo_near_1_and_flat_far_out(x64, advantage, far):
    """The same value, slope and curvature at rho = 1; no pull where rho is far on the wrong side; eps is felt."""
    assert smooth(1, advantage, 0.2) == pytest.approx(ppo(1, advantage, 0.2), abs=1e-12)
    value, slope, _ = smooth(far, advantage, 0.2)
    assert value == pytest.approx(ppo(far, advantage, 0.2)[0], rel=1e-3)
    assert slope == pytest.approx(0, abs=1e-3)
    assert smooth(1 / far, advantage, 0.2)[1] == pytest.approx(ppo(1 / far, advantage, 0.2)[1], rel=1e-9)
    near = 1.1 if advantage > 0 else 0.9
    slopes = [abs(smooth(near, advantage, eps)[1]) for eps in (0.1, 0.2, 0.4)]
    assert slopes == sorted(slopes), "a wider clip pulls harder"
    assert slopes[0] < 0.5 * slopes[2]


@pytest.mark.parametrize("ratio", [0.2, 0.7, 1.0, 1.3, 4.0])
@pytest.mark.parametrize("advantage", [-1.5, 2.0])
def test_dpo_is_its_two_formulas(x64, ratio, advantage):
    """Lu et al. 2022: a drift in (rho - 1) A or in A log rho, whichever side the advantage is on."""
    value, by_ratio, _ = dpo(ratio, advantage)
    x, a = ((ratio - 1) * advantage, 2.0) if advantage >= 0 else (np.log(ratio) * advantage, 0.6)
    drift = max(x - a * np.tanh(x / a), 0.0)
    assert value == pytest.approx(-(ratio * advantage - drift), rel=1e-12)
    slope = advantage if advantage >= 0 else advantage / ratio
    expected = -(advantage - slope * np.tanh(x / a) ** 2 * (x > 0))
    assert by_ratio == pytest.approx(expected, rel=1e-9)
    assert dpo(1, advantage)[2] == pytest.approx(0, abs=1e-12)  # in rho, as for lvc


def test_ppo_clip_is_differentiable_in_eps():
    loss = lambda eps: losses.ppo_clip(  # noqa: E731
        jnp.log(jnp.array([1.5])), jnp.zeros(1), jnp.array([2.0]), jnp.ones(1), eps
    )
    assert float(jax.jit(jax.grad(loss))(0.2)) == pytest.approx(-2.0)


def test_loaded_dice_by_hand(x64):
    """T = 2, lambda = .5: d2/dlp_0 dlp_1 of -mean[(e^w0 - 1) A_0 + (e^w1 - e^v1) A_1] is -.5 A_1 / 2."""
    batch_advantage = jnp.array([3.0, 5.0])
    hessian = jax.jit(jax.hessian(lambda lp: losses.loaded_dice(lp, batch_advantage, jnp.ones(2), 0.5)))(np.zeros(2))
    np.testing.assert_allclose(hessian, [[-1.5, -1.25], [-1.25, -2.5]], atol=1e-14)


def test_dice_by_hand(x64):
    """T = 2: each reward carries the product of the past, each baseline its own step with the other sign."""
    reward, value = jnp.array([3.0, 5.0]), jnp.array([1.0, 2.0])
    hessian = jax.jit(jax.hessian(lambda lp: losses.dice(lp, reward, value, jnp.ones(2))))(np.zeros(2))
    np.testing.assert_allclose(hessian, -np.array([[3 + 5 - 1, 5], [5, 5 - 2]]) / 2, atol=1e-14)


def test_magic_box_is_one_with_the_derivative_of_its_argument():
    assert float(losses.magic_box(jnp.array(7.0))) == 1.0
    assert float(jax.grad(lambda x: losses.magic_box(3 * x))(7.0)) == 3.0
    assert float(jax.grad(jax.grad(lambda x: losses.magic_box(3 * x)))(7.0)) == 9.0


def test_value_loss():
    value, target, mask = jnp.array([1.0, 2.0, 9.0]), jnp.array([0.0, 4.0, 0.0]), jnp.array([1.0, 1.0, 0.0])
    loss, slope = jax.jit(jax.value_and_grad(losses.value_loss))(value, target, mask)
    assert float(loss) == pytest.approx((1 + 4) / 4)
    np.testing.assert_allclose(slope, [0.5, -1.0, 0.0])


def test_value_loss_clipped_is_pessimistic():
    one = jnp.array([1.0])
    loss = jax.jit(jax.value_and_grad(lambda v: losses.value_loss(v * one, 0 * one, one, 2 * one, 0.5)))
    value, slope = loss(1.0)
    assert float(value) == pytest.approx(1.5**2 / 2)  # V moved too far from 2: held at 1.5
    assert float(slope) == 0.0
    assert float(loss(1.8)[0]) == pytest.approx(1.8**2 / 2)


def gaussian(mean, scale):
    return distrax.Independent(distrax.Normal(jnp.asarray(mean), jnp.asarray(scale)), 1)


def test_entropy_sums_over_action_dimensions():
    scale = np.array([[1.0, 2.0], [3.0, 0.5], [7.0, 7.0]])
    got = jax.jit(lambda mask: losses.entropy(gaussian(np.zeros((3, 2)), scale), mask))(np.array([1.0, 1.0, 0.0]))
    expected = np.sum(0.5 * np.log(2 * np.pi * np.e * scale[:2] ** 2)) / 2
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_kl_divergence_is_from_old_to_new():
    @jax.jit
    def divergence(mask):
        old, new = gaussian([[0.0, 1.0]], [[1.0, 2.0]]), gaussian([[1.0, 0.0]], [[2.0, 1.0]])
        return losses.kl_divergence(old, new, mask)

    kl = lambda m, s, n, r: np.log(r / s) + (s**2 + (m - n) ** 2) / (2 * r**2) - 0.5  # noqa: E731
    expected = kl(0.0, 1.0, 1.0, 2.0) + kl(1.0, 2.0, 0.0, 1.0)
    assert float(divergence(np.ones(1))) == pytest.approx(expected, rel=1e-5)


def test_surrogate_by_name_or_function(batch):
    with pytest.raises(ValueError, match="surrogate = 'pppo'"):
        losses.surrogate("pppo")
    own = lambda log_prob, batch: jnp.sum(log_prob)  # noqa: E731
    assert losses.surrogate(own) is own
    both = losses.surrogate("ppo", clip_eps=10.0, dice_lambda=0.0), losses.surrogate("lvc")
    loose, plain = jax.jit(lambda batch: [f(batch.log_prob + 1, batch) for f in both])(batch)
    assert float(loose) == pytest.approx(float(plain), rel=1e-5)


def test_towards_a_target_every_weight_is_what_the_return_falls_short_by(x64, batch):
    """Two episodes of 5 and 3 steps: what a batch holds behind the end of an episode does not count."""
    seen, towards = by_numpy(batch), jax.jit(losses.towards_target)
    returns = [float(seen.discounted_reward[:, 0].sum()), float(seen.discounted_reward[:3, 1].sum())]
    missing = (2.0 - sum(returns) / B) / T
    behind = np.where(seen.mask == 0, 7.0, seen.discounted_reward)
    aimed = towards(batch.replace(discounted_reward=behind), 2.0)
    for name in ("vpg", "lvc", "dice", "tmaml", "loaded_dice", "ppo"):
        options = {"clip_eps": 0.2, "dice_lambda": 1.0}
        np.testing.assert_allclose(
            gradient(name, aimed, **options), missing * np.asarray(gradient(name, batch, **options)), atol=1e-14
        )
    assert np.abs(towards(batch, sum(returns) / B).advantage).max() < 1e-15
    np.testing.assert_array_equal(aimed.target, batch.target)
