"""Float hyperparameters may be tracers: a population trains in one program, from one trace."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import point, point_maml

import metarl_jax as mrl
from metarl_jax import devices, tree
from metarl_jax.options import ConfigError
from metarl_jax.rl import learners
from metarl_jax.runs import training_loop as population


def make_maml(h):
    """Names that begin with outer_ are options of `maml`, the others of the PPO inside."""
    own = {k: v for k, v in h.items() if k.startswith("outer_")}
    own |= {k: own.pop(f"outer_{k}") for k in ("max_grad_norm", "value_coef")}
    inside = {k: v for k, v in h.items() if not k.startswith("outer_")}
    problem = point(critic=True, hidden=(4,), horizon=4)
    options = {"num_inner_steps": 1, "episodes_per_task": 2, "num_outer_epochs": 2, **own}
    return point_maml(problem, inside.pop("lr"), inner_options=inside, **options)


def make_ppo(h):
    env, tasks, policy = point(critic=True, hidden=(4,), horizon=4)
    task = tasks.sample(jax.random.key(0))
    return mrl.ppo(env, task, policy, num_envs=2, num_steps=6, num_epochs=3, num_minibatches=2, **h)


RANGES = {
    "gamma": (0.5, 1.0),
    "gae_lambda": (0.5, 1.0),
    "clip_eps": (0.001, 0.05),
    "value_coef": (0.1, 1.0),
    "value_clip_eps": (0.01, 0.1),
    "entropy_coef": (0.01, 0.1),
    "max_grad_norm": (0.05, 0.5),
}
OUTER_RANGES = {
    "outer_lr": (1e-3, 1e-1),
    "outer_clip_eps": (1e-4, 1e-1),
    "outer_entropy_coef": (0.01, 0.1),
    "outer_value_coef": (0.1, 1.0),
    "outer_max_grad_norm": (0.05, 0.5),
}
FAMILIES = {
    "maml": (make_maml, {"lr": (1e-2, 1.0), **RANGES, **OUTER_RANGES}),
    "ppo": (make_ppo, {"lr": (1e-2, 1e-1), **RANGES}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_population_is_one_trace_and_the_same_as_separate_runs(name):
    """64 settings x 2 seeds, every float hyperparameter different in each."""
    make, ranges = FAMILIES[name]
    num = 64
    traces = []

    def two_steps(h, keys):
        traces.append(h)
        algo = make(h)
        return jax.lax.scan(algo.step, algo.init(keys[0]), keys[1:])

    settings = {
        k: jnp.geomspace(a, b, num)[(7 * i + 5 * jnp.arange(num)) % num] for i, (k, (a, b)) in enumerate(ranges.items())
    }
    seeds = jnp.stack([jax.random.split(jax.random.key(s), 3) for s in range(2)])
    population = jax.jit(jax.vmap(jax.vmap(two_steps, (None, 0)), (0, None)))
    states, metrics = population(settings, seeds)
    population(jax.tree.map(lambda x: 0.9 * x, settings), seeds)
    assert len(traces) == 1 and population._cache_size() == 1

    alone = jax.jit(two_steps)
    for lane, seed in [(0, 0), (17, 1), (63, 0)]:
        h = jax.tree.map(lambda x, i=lane: float(x[i]), settings)
        of_lane = jax.tree.map(lambda x, i=lane, s=seed: x[i, s], (states, metrics))
        chex.assert_trees_all_close(of_lane, alone(h, seeds[seed]), rtol=2e-3, atol=1e-5)
    finals = np.asarray(jax.tree.leaves(states)[0]).reshape(2 * num, -1)
    assert len(np.unique(finals, axis=0)) == 2 * num

    middle = {k: float(jnp.sqrt(a * b)) for k, (a, b) in ranges.items()}
    reference = alone(middle, seeds[0])[0]
    for k, ends in ranges.items():
        finals = [alone({**middle, k: end}, seeds[0])[0] for end in ends]
        pairs = [p for final in finals for p in zip(*map(jax.tree.leaves, (final, reference)), strict=True)]
        assert any(bool(jnp.any(a != b)) for a, b in pairs), f"{k} has no effect"
    assert len(traces) == 2, "Python floats and arrays share the program of one setting"


def test_annealed_ppo_with_a_traced_rate():
    """`num_iterations` anneals to 0: after that nothing moves, whatever the rate."""
    env, tasks, policy = point(critic=True, hidden=(), horizon=4)
    task = tasks.sample(jax.random.key(0))

    @jax.jit
    @jax.vmap
    def train(lr):
        options = dict(num_envs=2, num_steps=4, num_epochs=1, num_minibatches=2, num_iterations=2)
        algo = mrl.ppo(env, task, policy, lr=lr, **options)
        start = algo.init(jax.random.key(0))
        _, params = jax.lax.scan(
            lambda s, k: (lambda new: (new, new.learner.params))(algo.step(s, k)[0]),
            start,
            jax.random.split(jax.random.key(1), 3),
        )
        return jax.tree.map(lambda x: jnp.max(jnp.abs(x[1:] - x[:-1]), axis=tuple(range(1, x.ndim))), params)

    moves = jax.tree.leaves(train(jnp.array([1e-3, 1e-1])))  # each [2, 2]: rate, iteration 2 and 3
    assert all(bool(jnp.all(m[:, 1] == 0)) for m in moves)
    largest = jnp.max(jnp.stack([m[:, 0] for m in moves]), axis=0)
    assert 0 < largest[0] < largest[1]


def test_state_outlives_the_vmap_that_made_it():
    """Only arrays in the state: an optimiser captured in it would leak the tracer of its learning rate."""
    problem = point(hidden=())
    make = lambda lr: learners.ppo(problem[2], lr, baseline="linear")  # noqa: E731
    params = problem[2].init(jax.random.key(0))
    states = jax.vmap(lambda lr: make(lr).init(params))(jnp.array([0.1, 0.2]))
    assert all(isinstance(x, jax.Array) and x.shape[0] == 2 for x in jax.tree.leaves(states.params))


def test_as_many_lanes_at_a_time_as_fit_into_memory(monkeypatch):
    """The measured need of the compiled program decides; a size that was asked for is left alone."""
    asked = []

    def make(size):
        def lane(x):  # sorting needs its 40 kB beside the result
            return jnp.sort(jnp.sin(x * jnp.arange(10_000.0)))[::5000]

        asked.append(size)
        return jax.jit(lambda xs: tree.chunked_map(lane, xs, size or 16))  # all of them, as on an accelerator

    xs = jnp.arange(16.0)
    want = make(1)(xs)
    needed = {n: make(n).lower(xs).compile().memory_analysis().temp_size_in_bytes for n in (1, 4, 16)}
    assert needed[16] > 3 * needed[4] > 9 * needed[1] / 2
    for memory, sizes in ((None, [None]), (1e9, [None]), (1.2 * needed[4] / population.MEMORY_SHARE, [None, 4])):
        asked.clear()
        monkeypatch.setattr(devices, "memory", lambda memory=memory: memory)
        compiled = population.compile_to_fit(make, (xs,), 16)
        assert asked == sizes or (asked[0] is None and 2 <= asked[-1] <= 4 and sizes[-1] == 4), asked
        np.testing.assert_array_equal(compiled(xs), want)
    asked.clear()
    population.compile_to_fit(make, (xs,), 16, batch_size=16)
    assert asked == [16]
    monkeypatch.setattr(devices, "memory", lambda: 1000)
    least = "16 lanes, 1 lane at a time, need .* GiB of the device's .*: train fewer"
    with pytest.raises(ConfigError, match=least):
        population.compile_to_fit(make, (xs,), 16)
