"""What a program needs of memory is read off its jaxpr; what does not fit is refused before anything is compiled."""

import jax
import jax.numpy as jnp
import pytest

from metarl_jax.options import ConfigError
from metarl_jax.runs import memory, train, training_loop
from metarl_jax.runs.build import build
from metarl_jax.runs.config import load, shipped_config, validate

MIB = 2**20


def needed(function, *shapes):
    return memory.peak(jax.jit(function).trace(*shapes).jaxpr)


def matrix(n=512):
    return jax.ShapeDtypeStruct((n, n), jnp.float32)


def test_a_product_needs_its_result_and_arithmetic_on_it_nothing_more():
    assert needed(lambda x: x @ x, matrix()) == MIB
    assert needed(lambda x: jnp.sum(jnp.tanh(x @ x) * 2.0), matrix()) < MIB + 64
    assert needed(lambda x: (x @ x) @ x, matrix()) == 2 * MIB
    assert needed(lambda x: x.reshape(-1).reshape(x.shape) @ x, matrix()) == MIB


def test_a_buffer_lives_until_it_is_read_for_the_last_time():
    def early(x):
        a = x @ x
        b = a @ a
        return b @ b

    def late(x):
        a = x @ x
        b = a @ a
        return (b @ b) @ a

    assert needed(early, matrix()) == 2 * MIB
    assert needed(late, matrix()) == 3 * MIB


def test_a_loop_needs_what_it_stacks_and_one_turn():
    def stacked(x):
        return jax.lax.scan(lambda c, _: (c, (c @ c).sum(axis=0)), x, None, length=512)[1]

    def carried(x):
        return jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=512)[0]

    assert 2 * MIB <= needed(stacked, matrix()) <= 3.1 * MIB
    assert needed(carried, matrix()) <= 3 * MIB
    whole = needed(lambda x: jax.vmap(lambda y: y @ x)(jnp.broadcast_to(x, (8, *x.shape))), matrix())
    assert 8 * MIB <= whole <= 17 * MIB


def test_branches_take_turns_and_calls_are_looked_into():
    def branches(x):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: (x @ x) @ x)

    assert 2 * MIB <= needed(branches, matrix()) <= 3 * MIB
    assert needed(lambda x: jax.jit(lambda y: y @ y)(x), matrix()) == MIB
    gradient = jax.grad(jax.checkpoint(lambda x: jnp.sum(jnp.tanh(x @ x))))
    assert MIB <= needed(gradient, matrix()) <= 5 * MIB


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("maml_ppo_point", {"meta_batch_size": 8, "episodes_per_task": 500, "tasks_per_batch": 8}),
        ("ppo_cartpole", {"num_envs": 1024, "num_steps": 256}),
        ("rl2_bandit", {"meta_batch_size": 8000}),
    ],
)
def test_what_is_computed_with_is_within_a_factor_of_what_xla_plans(name, sizes):
    config = validate({**load(shipped_config(name)).model_dump(), **sizes})
    job = build(config)
    seeds = train.seeds_of(job)
    states = training_loop.make_init(config).eval_shape({}, seeds)
    call = training_loop.make_call(config, 1, 1, training_loop.everything)
    traced = call.trace(states, {}, seeds, jax.ShapeDtypeStruct((), int))
    planned = traced.lower().compile().memory_analysis().temp_size_in_bytes
    assert planned / 1.7 < memory.peak(traced.jaxpr) < 1.7 * planned


@pytest.mark.parametrize(
    ("key", "value"),
    [("meta_batch_size", 10**9), ("hidden", [100_000, 100_000]), ("horizon", 2**31 - 1), ("num_seeds", 10**9)],
)
def test_what_cannot_fit_is_refused_with_the_key(key, value, monkeypatch):
    job = build(validate({**load(shipped_config("maml_ppo_point")).model_dump(), key: value}))
    with pytest.raises(ConfigError, match=rf"memory: needs about .* free; make {key} = \d+ smaller"):
        memory.check(job, print)


def test_what_may_not_fit_is_reported(monkeypatch):
    job = build(load(shipped_config("ppo_cartpole")))
    said = []
    needs = memory.estimate(job).total
    monkeypatch.setattr(memory, "available", lambda: needs - 1)
    memory.check(job, said.append)
    assert len(said) == 1 and said[0].endswith("it may not fit")
    monkeypatch.setattr(memory, "available", lambda: needs + 1)
    memory.check(job, said.append)
    assert len(said) == 1


def test_the_least_of_the_limits_counts():
    room = memory.available()
    assert room is not None and 2**20 < room < 2**44


def test_bytes_in_words():
    words = {0: "0 bytes", 999: "999 bytes", 4096: "4.0 KiB", 1.5 * 2**30: "1.5 GiB", 2**50: "1,048,576 GiB"}
    assert {size: memory.worded(size) for size in words} == words
