"""The transformer: a cache that slides acts as the whole trial is read, in every precision; what a step sees of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import relative_error, shaken

import metarl_jax as mrl
from metarl_jax.envs.trial import trials
from metarl_jax.networks import attention, transformer_policy

C, B = 7, 3  # context, streams


@functools.cache
def bandit(num_episodes=5):
    env, tasks = mrl.make("BernoulliBandit-v0")
    return trials(env, tasks, num_episodes), tasks


def make(context=C, size=16, num_heads=2, **options):
    return transformer_policy(bandit()[0], context, size, num_heads=num_heads, **options)


def some_params(policy, seed=0):
    return shaken(policy.init(jax.random.key(seed)), jax.random.key(seed + 1))


def observations(length, seed=5, streams=B):
    return jax.random.normal(jax.random.key(seed), (length, streams, *bandit()[0].observation_space().shape))


def acted(policy, params, x):
    """Log-probabilities [T, B, A] step by step, and what is remembered at the end."""

    def one(memory, seen):
        memory, distribution = policy.step(params, memory, seen)
        return memory, jax.nn.log_softmax(distribution.logits)

    memory, out = jax.lax.scan(one, policy.remember(x.shape[1]), x)
    return out, memory


def read(policy, params, x):
    return jax.nn.log_softmax(policy.apply(params, x).logits)


def both(policy, params, x):
    return jax.jit(lambda p, x: (acted(policy, p, x)[0], read(policy, p, x)))(params, x)


@pytest.mark.parametrize("length", [C - 2, C, 3 * C, 3 * C + 1])
def test_acting_is_reading_in_double_precision(x64, length):
    """Trials shorter than the context, as long, and longer: the last is read in blocks, and padded to a whole one."""
    policy = make()
    a, b = both(policy, some_params(policy), observations(length))
    assert a.dtype == b.dtype == jnp.float64 and float(a.std()) > 0.1
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_a_new_memory_knows_nothing_of_the_trial_before(x64):
    policy = make()
    params = some_params(policy)

    @jax.jit
    def one_after_another(params, first, second):
        out, memory = acted(policy, params, first)
        return acted(policy, params, second)[0] + 0 * out.sum() + 0 * memory["time"]

    found = one_after_another(params, observations(10), observations(10, seed=6))
    np.testing.assert_allclose(found, jax.jit(functools.partial(read, policy))(params, observations(10, 6)), atol=1e-12)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_the_log_probabilities_of_a_rollout_are_those_of_training(dtype, atol):
    """Of trials three times as long as the context, vmapped over seeds and over tasks."""
    env, tasks = bandit(3 * C)
    policy = make(compute_dtype=dtype)
    algo = mrl.rl2(env, tasks, policy, trials_per_task=2)

    def one(seed, key):
        params = some_params(policy, seed)
        trial, _ = algo.collect(params, key, tasks.sample(key))
        again = policy.apply(params, trial.outer.observation).log_prob(trial.outer.action)
        return trial.outer.log_prob, again, policy.value(params, trial.outer.observation)

    over_tasks = jax.vmap(one, in_axes=(None, 0))
    acting, training, value = jax.jit(jax.vmap(over_tasks, in_axes=(0, None)))(
        jnp.arange(2), jax.random.split(jax.random.key(9), 2)
    )
    assert acting.shape == (2, 2, 3 * C, 2) and float(acting.std()) > 0.3
    assert acting.dtype == training.dtype == value.dtype == jnp.float32
    np.testing.assert_allclose(jnp.exp(training - acting), 1.0, atol=atol)  # the ratio of PPO's first epoch


def test_bfloat16_is_of_matrix_products_only():
    narrow, wide = make(compute_dtype="bfloat16"), make()
    params, x = some_params(wide), observations(C)
    for a, b in zip(jax.tree.leaves(narrow.init(jax.random.key(0))), jax.tree.leaves(params), strict=True):
        assert a.dtype == jnp.float32 and a.shape == b.shape
    rings = jax.eval_shape(lambda: narrow.remember(B))["layers"]
    assert {leaf.dtype for leaf in jax.tree.leaves(rings)} == {jnp.dtype(jnp.bfloat16)}
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(narrow.value(p, x))))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    difference = jnp.abs(jax.jit(lambda p: read(narrow, p, x) - read(wide, p, x))(params)).max()
    assert 1e-4 < float(difference) < 0.2, "it is another precision, and near"


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_step_sees_as_far_back_as_its_layers_reach(num_layers):
    policy = make(4, num_layers=num_layers)
    params, x = some_params(policy), observations(12)
    influence = jax.jit(jax.grad(lambda x: jnp.sum(policy.value(params, x)[10])))(x)
    seen = np.flatnonzero(np.abs(np.asarray(influence)).max(axis=(1, 2)) > 0)
    np.testing.assert_array_equal(seen, np.arange(10 - num_layers * 3, 11))


def test_attention_in_blocks_is_attention_under_a_mask():
    """The mask is what cuDNN is told: causal, with a window that holds the step itself and the C - 1 before it."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, B, 3 * C + 2, 2, 4))

    def in_one(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=(C - 1, 0))

    def pulled_back(function):
        return jax.jit(lambda *x: (function(*x), *jax.vjp(function, *x)[1](jnp.sin(q))))(q, k, v)

    for a, b in zip(pulled_back(functools.partial(attention.causal_attention, context=C)), pulled_back(in_one)):  # noqa: B905
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("start", [0, 4096, 10**6])
def test_an_angle_between_two_steps_is_the_same_however_late_they_are(start):
    """In float32 t times a frequency is off by 1e-4 rad at step 4,096 already."""
    between = jnp.arange(300)
    (cos, sin), (cos0, sin0) = (attention.rotation(t, 64, jnp.float32) for t in (start + between, jnp.array([start])))
    turned = np.arctan2(sin * cos0 - cos * sin0, cos * cos0 + sin * sin0)[0, :, 0]
    angle = np.arange(300)[:, None] * 10_000.0 ** (-np.arange(32) / 32)
    error = np.abs(np.mod(turned - angle + np.pi, 2 * np.pi) - np.pi)
    assert error.max() < 2e-6


def test_the_score_of_two_steps_depends_on_how_far_they_are_apart_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 2, 8))

    def score(of_query, of_key):
        by = [attention.rotation(jnp.array([t]), 8, jnp.float32) for t in (of_query, of_key)]
        return jnp.sum(attention.rotate(q, by[0]) * attention.rotate(k, by[1]), axis=-1)

    np.testing.assert_allclose(score(5, 0), score(4101, 4096), atol=1e-5)
    assert float(jnp.abs(score(5, 0) - score(6, 0)).max()) > 0.1


def test_rematerialisation_changes_no_gradient_and_needs_less_memory():
    x, y = observations(C), observations(512, streams=4)

    def gradient(policy):
        return jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.sin(policy.apply(p, x).logits))))

    plain, remat = (make(512, 32, num_layers=3, remat=on) for on in (False, True))
    params = some_params(plain)
    assert relative_error(gradient(remat)(params, x), gradient(plain)(params, x)) < 1e-5
    a, b = (gradient(p).lower(params, y).compile().memory_analysis().temp_size_in_bytes for p in (plain, remat))
    assert b < 0.6 * a


def test_acting_keeps_a_context_however_long_the_trial_is():
    policy = make()
    _, memory = jax.eval_shape(functools.partial(acted, policy), some_params(policy), observations(1000))
    assert [leaf.size for leaf in jax.tree.leaves(memory["layers"])] == [B * C * 16] * 4


def test_trials_of_one_length_act_with_the_parameters_of_another_context():
    """No parameter depends on the context: one that holds the whole trial, however much longer, acts alike."""
    short, long = make(C), make(3 * C)
    params, x = some_params(short), observations(C)
    a, b = (jax.jit(functools.partial(read, p))(params, x) for p in (short, long))
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_flash_attention_is_chosen_where_the_device_takes_it(monkeypatch):
    """Lowered for a CUDA device that is not here: cuDNN's kernels, forward and backward, which are told the window."""
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    q = jnp.zeros((B, 3 * C, 2, 8), jnp.bfloat16)
    fits = functools.partial(attention.flash_fits, window=(C - 1, 0))
    assert not fits(q, q, q), "there is no such device here"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91_000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda _: False)
    assert fits(q, q, q)
    assert not fits(*[q.astype(jnp.float32)] * 3) and not fits(*[q[..., :6]] * 3)
    policy = make(compute_dtype="bfloat16")

    def loss(params, x):
        return jnp.sum(policy.value(params, x))

    gradient = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))
    arguments = some_params(policy), jnp.stack([observations(3 * C)] * 2)
    text = gradient.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__cudnn$fmhaSoftmax(") == text.count("@__cudnn$fmhaSoftmaxBackward(") == 2
    assert f"sliding_window_length\\22: {C}" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 12, "num_heads": 4}, "num_heads = 4: makes heads of odd width 3 of size = 12.*; try num_heads = 3$"),
        ({"size": 9, "num_heads": 3}, "num_heads = 3: makes heads of odd width 3 of size = 9.*; use an even size$"),
        ({"size": 10, "num_heads": 4}, "num_heads = 4: must divide size = 10; try 5"),
        ({"context": 0}, "context = 0: must be greater than or equal to 1"),
        ({"compute_dtype": "bfloat"}, "compute_dtype = 'bfloat': .*did you mean bfloat16"),
        ({"compute_dtype": "float64"}, "compute_dtype = 'float64': must be 'float32' or 'bfloat16'"),
        ({"remat": 1}, "remat = 1: must be true or false"),
    ],
)
def test_mistakes_with_a_transformer_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        make(**{"context": C, **options})
