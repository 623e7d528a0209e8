"""What environments report of an episode, and the rates that algorithms make of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment, spaces

import metarl_jax as mrl
from metarl_jax import sharing
from metarl_jax.envs import TaskDistribution
from metarl_jax.envs.protocol import calls_host, has_large_step, reports, tasks_at_a_time
from metarl_jax.envs.trial import trials
from metarl_jax.rl.rollout import completed, report_rates, rollout


@struct.dataclass(kw_only=True)
class Params(environment.EnvParams):
    solved_at: jax.Array  # [] the step in which the task is solved, 0: never
    max_steps_in_episode: jax.Array


@struct.dataclass
class State(environment.EnvState):
    time: jax.Array
    reports: dict


class Clock(environment.Environment[State, Params]):
    """Solved in the step that the task names, whatever is done; the episode goes on."""

    reports = ("success",)
    calls_host = True

    @property
    def default_params(self):
        return self.params(2)

    def params(self, solved_at):
        return Params(solved_at=jnp.asarray(solved_at, int), max_steps_in_episode=jnp.asarray(4, int))

    def reset_env(self, key, params):
        state = State(time=jnp.zeros((), int), reports={"success": jnp.zeros((), bool)})
        return jnp.zeros(1), state

    def step_env(self, key, state, action, params):
        time = state.time + 1
        said = {"success": state.reports["success"] | (time == params.solved_at)}
        state = State(time=time, reports=said)
        reward = jnp.sum(action)
        return jnp.ones(1) * time, state, reward, jnp.zeros((), bool), said

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def action_space(self, params):
        return spaces.Box(-1.0, 1.0, (1,), jnp.float32)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (1,), jnp.float32)

    @property
    def name(self):
        return "Clock"


@pytest.fixture(scope="module")
def clock():
    env = Clock()
    tasks = TaskDistribution(lambda key: env.params(jax.random.randint(key, (), 0, 2) * 3), horizon=4)
    return env, tasks, mrl.networks.mlp_policy(env, (4,))


def test_traits_are_seen_through_wrappers(clock):
    env, tasks, _ = clock
    wrapped = trials(env, tasks, 2)
    for one in (env, wrapped):
        assert calls_host(one) and reports(one) == ("success",) and not has_large_step(one)
        assert tasks_at_a_time(one, 7) == 7 and tasks_at_a_time(one, 7, 2) == 2
    point, _ = mrl.make("PointNavigation-v0")
    assert not calls_host(point) and reports(point) == () and tasks_at_a_time(point, 7) is None


@pytest.mark.parametrize("solved_at,seen", [(0, 0.0), (3, 1.0), (4, 1.0), (5, 0.0)])
def test_a_report_of_an_episode(clock, solved_at, seen):
    env, _, policy = clock
    params, task = policy.init(jax.random.key(0)), env.params(solved_at)

    @jax.jit
    def both(key):
        episode, _ = rollout(env, policy.apply, params, key, task, num_steps=4, num_envs=3)
        stream, _ = rollout(env, policy.apply, params, key, task, num_steps=9, num_envs=3, auto_reset=True)
        return episode, report_rates(episode), completed(stream)

    episode, rates, streams = both(jax.random.key(1))
    assert rates == {"success": seen} and streams["success"] == seen and streams["num_episodes"] == 6
    at = np.arange(1, 5) >= solved_at if solved_at else np.zeros(4, bool)
    assert np.array_equal(episode.reports["success"], np.tile(at[:, None], 3))


def test_algorithms_report_rates(clock):
    env, tasks, policy = clock
    maml = mrl.maml(env, tasks, policy, mrl.inner.policy_gradient(policy, 0.1), meta_batch_size=12, episodes_per_task=2)
    metrics = jax.jit(lambda key: maml.step(maml.init(key), key)[1])(jax.random.key(0))
    assert 0 < metrics["success_0"] < 1 and metrics["success_0"] == metrics["success_1"]
    wrapped = trials(env, tasks, 3)
    recurrent = mrl.networks.recurrent_policy(wrapped, 4)
    rl2 = mrl.rl2(wrapped, tasks, recurrent, meta_batch_size=12, num_minibatches=2)

    @jax.jit
    def run(key):
        state = rl2.init(key)
        never, always = (rl2.collect(state.params, key, env.params(when))[0].reports for when in (0, 3))
        return rl2.step(state, key)[1], never, always

    metrics, never, always = run(jax.random.key(0))
    assert 0 < metrics["first_episode_success"] < 1
    assert metrics["first_episode_success"] == metrics["last_episode_success"]
    assert np.array_equal(never["success"], np.zeros(3)) and np.array_equal(always["success"], np.ones(3))
    ppo = mrl.ppo(env, env.params(3), mrl.networks.mlp_policy(env, (4,), critic=True), num_envs=2, num_steps=8,
                  num_minibatches=1)  # fmt: skip
    metrics = jax.jit(lambda key: ppo.step(ppo.init(key), key)[1])(jax.random.key(0))
    assert metrics["success"] == 1


def test_collection_has_its_own_batch_size(clock, monkeypatch):
    """All tasks at a time where the environment calls the host; the numbers are those of one at a time."""
    env, tasks, policy = clock
    sizes = []
    real = sharing.chunked_map
    monkeypatch.setattr(sharing, "chunked_map", lambda f, xs, size=None: (sizes.append(size), real(f, xs, size))[1])

    def returns(**options):
        inner = mrl.inner.policy_gradient(policy, 0.1)
        maml = mrl.maml(
            env, tasks, policy, inner, meta_batch_size=6, episodes_per_task=2, num_outer_epochs=1, **options
        )
        return jax.jit(lambda key: maml.step(maml.init(key), key)[1]["return_1"])(jax.random.key(0))

    all_at_once = returns()
    assert sizes[0] == 6 and sizes.count(6) == 1
    sizes.clear()
    one_by_one = returns(tasks_per_collection=1)
    assert sizes[0] == 1
    np.testing.assert_allclose(all_at_once, one_by_one, rtol=1e-4)


class DearClock(Clock):
    """Its resets count as dear, and draw numbers."""

    has_dear_reset = True

    def reset_env(self, key, params):
        observation, state = super().reset_env(key, params)
        return observation + jax.random.uniform(key, (1,)), state


class CheapClock(DearClock):
    has_dear_reset = False


@pytest.mark.parametrize("one_task_each", [False, True])
def test_dear_resets_are_made_where_needed_only_and_give_the_same_numbers(one_task_each):
    """In streams and in trials; lanes end at different steps."""
    found, calls = [], []
    for env in (CheapClock(), DearClock()):
        real = env.reset_env

        def counted(key, params, real=real):
            jax.debug.callback(lambda _: calls.append(1), jax.random.key_data(key))  # once a lane
            return real(key, params)

        env.reset_env = counted
        lengths = jnp.array([2, 3, 4, 2, 3, 4, 2, 3, 4]) if one_task_each else jnp.asarray(3)
        make = lambda n, env=env: env.params(2).replace(max_steps_in_episode=n)  # noqa: E731
        task = jax.vmap(make)(lengths) if one_task_each else make(lengths)
        tasks = TaskDistribution(lambda key, env=env: env.params(1), horizon=4)
        inside = trials(env, tasks, 2)
        policy, inner = (mrl.networks.mlp_policy(x, (4,)) for x in (env, inside))
        params, inner_params = (jax.jit(p.init)(jax.random.key(0)) for p in (policy, inner))
        sizes = {"num_envs": 9, "one_task_each": one_task_each}

        @jax.jit
        def both(
            key, env=env, inside=inside, policy=policy, inner=inner, p=params, q=inner_params, task=task, sizes=sizes
        ):
            stream = rollout(env, policy.apply, p, key, task, num_steps=7, auto_reset=True, **sizes)
            return stream, rollout(inside, inner.apply, q, key, task, num_steps=8, **sizes)

        calls.clear()
        found.append(jax.block_until_ready(both(jax.random.key(1))))
        jax.effects_barrier()
        found.append(len(calls))
    cheap, cheap_calls, dear, dear_calls = found
    for a, b in zip(jax.tree.leaves(cheap), jax.tree.leaves(dear), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # two programs, which may round differently
    assert dear_calls < cheap_calls / 2
