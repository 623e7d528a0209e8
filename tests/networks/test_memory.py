"""Policies with a memory: acting step by step and reading whole trials give the same numbers, and none sees ahead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import relative_error, shaken

import metarl_jax as mrl
from metarl_jax.envs.trial import trials
from metarl_jax.networks import recurrent_policy, transformer_policy

T, B = 13, 3
MAKERS = {
    "gru": lambda env: recurrent_policy(env, 8),
    "lstm": lambda env: recurrent_policy(env, 8, cell="lstm"),
    "gru, chunks": lambda env: recurrent_policy(env, 8, chunk=5),
    "gru, truncated": lambda env: recurrent_policy(env, 8, chunk=5, truncate=True),
    "transformer": lambda env: transformer_policy(env, T, 16, num_heads=2),
}


def bandit_trials(num_episodes=T, name="BernoulliBandit-v0", **options):
    env, tasks = mrl.make(name, **options)
    return trials(env, tasks, num_episodes)


def some_params(policy):
    return shaken(policy.init(jax.random.key(0)), jax.random.key(1))


def observations(env, length=T, seed=5):
    return jax.random.normal(jax.random.key(seed), (length, B, *env.observation_space().shape))


def step_by_step(policy, params, observation):
    def one(memory, x):
        memory, distribution = policy.step(params, memory, x)
        return memory, jax.tree.leaves(distribution)

    return jax.lax.scan(one, policy.remember(observation.shape[1]), observation)[1]


# Of networks that remember in different ways, and of both kinds of actions.
AGREEING = [(name, "BernoulliBandit-v0") for name in MAKERS] + [
    (n, "PointNavigation-v0") for n in ("gru", "transformer")
]


@pytest.mark.parametrize("name, env_name", AGREEING)
def test_acting_and_reading_agree(name, env_name):
    env = bandit_trials(1 if env_name == "PointNavigation-v0" else T, env_name)
    policy = MAKERS[name](env)
    params, x = some_params(policy), observations(env)

    @jax.jit
    def compute(p):
        acted, (read, value) = step_by_step(policy, p, x), policy.joint(p, x)
        return acted, jax.tree.leaves(read), value, jax.tree.leaves(policy.apply(p, x)), policy.value(p, x)

    acted, read, value, alone, value_alone = compute(params)
    assert float(jnp.std(read[0])) > 0.1
    for a, b in zip(acted, read, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    np.testing.assert_allclose(value, value_alone, atol=1e-4)
    np.testing.assert_allclose(read[0], alone[0], atol=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_is_seen_ahead_and_the_past_is_remembered(name):
    policy = MAKERS[name](bandit_trials())
    params, x = some_params(policy), observations(bandit_trials())
    logits = jax.jit(lambda x: policy.apply(params, x).logits)
    changed = np.abs(np.asarray(logits(x.at[6].add(1.0)) - logits(x))).max(axis=(1, 2))
    assert (changed[:6] < 1e-6).all(), "a later observation changes an earlier action"
    assert (changed[6:9] > 1e-4).all(), "an earlier observation is forgotten at once"


def test_chunks_change_no_gradient():
    env = bandit_trials()
    x = observations(env)
    plain, chunked = recurrent_policy(env, 8), recurrent_policy(env, 8, chunk=5)
    params = some_params(plain)

    def gradient(policy):
        return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(policy.apply(p, x).logits))))(params)

    assert relative_error(gradient(chunked), gradient(plain)) < 1e-5


def test_truncation_stops_gradients_at_the_chunks_only():
    env = bandit_trials()
    policy = recurrent_policy(env, 8, chunk=5, truncate=True)
    params, x = some_params(policy), observations(env)

    @jax.jit
    def influence(t):
        return jnp.abs(jax.grad(lambda x: jnp.sum(policy.value(params, x)[t]))(x)).max(axis=(1, 2))

    assert (influence(9)[:5] == 0).all() and (influence(9)[5:10] > 0).all()
    assert (influence(12)[:10] == 0).all() and (influence(12)[10:] > 0).all()


def test_chunks_need_less_memory():
    env = bandit_trials(400)
    x = observations(env, 400)

    def bytes_for(policy):
        params = policy.init(jax.random.key(0))
        grad = jax.jit(jax.grad(lambda p: jnp.sum(policy.value(p, x) ** 2)))
        return grad.lower(params).compile().memory_analysis().temp_size_in_bytes

    assert bytes_for(recurrent_policy(env, 32, chunk=20)) < 0.35 * bytes_for(recurrent_policy(env, 32))


def test_the_acting_cost_of_a_transformer_is_linear_in_its_context():
    def flops(context):
        env = bandit_trials(context)
        policy = transformer_policy(env, context, 16, num_heads=2)
        params = policy.init(jax.random.key(0))
        memory = policy.remember(1)
        x = jnp.zeros((1, *env.observation_space().shape))
        compiled = jax.jit(lambda p, m: policy.step(p, m, x)).lower(params, memory).compile()
        return compiled.cost_analysis()["flops"]

    a, b, c = flops(64), flops(128), flops(256)
    assert c - b < 2.3 * (b - a), "twice the context costs more than twice as much"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda env: recurrent_policy(env, 8, cell="rnn"), "cell = 'rnn': must be one of gru, lstm"),
        (lambda env: recurrent_policy(env, 8, chunk=0), "chunk = 0: must be greater than or equal to 1"),
        (lambda env: recurrent_policy(env, 8, truncate=True), "truncate = True: needs chunk"),
        (lambda env: transformer_policy(env, 5, 10, num_heads=4), "num_heads = 4: must divide size = 10"),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make(bandit_trials())


def test_a_policy_with_a_memory_reads_flat_observations():
    env, _ = mrl.make("gymnax:Catch-bsuite")
    with pytest.raises(ValueError, match="reads flat vectors"):
        recurrent_policy(env, 8)
