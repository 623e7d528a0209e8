"""Learned rules: meta-gradients against finite differences, lives and deaths, what each rule promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from probes import STREAM, Probe, probe, stream_tasks
from problems import flat, is_finite, random_directions, relative_error

import metarl_jax as mrl
from metarl_jax.algorithms import lpo as lpo_module
from metarl_jax.meta import evaluation
from metarl_jax.networks import mlp_policy
from metarl_jax.rl import learners, losses
from metarl_jax.types import Batch
from metarl_jax.update_rules import lifetimes
from metarl_jax.update_rules.lifetimes import Rule, lives

SIZES = {"num_envs": 2, "num_steps": 8}


def agents(env):
    return mlp_policy(env, (3,), critic=True, output_gain=1.0)


SGD = {"optimizer": "sgd", "max_grad_norm": None}
RULES = {
    "lpg": lambda env, **o: mrl.lpg(env, 0.3, hidden=(3,), outcomes=3, width=4, embedding=3, **{**SGD, **o}),
    "lpg-adam": lambda env: RULES["lpg"](env, optimizer=learners.adam, max_grad_norm=0.3),
    "lpo": lambda env, eps=None: mrl.lpo(
        agents(env), 0.1, width=8, clip_eps=eps, num_epochs=2, num_minibatches=2, max_grad_norm=0.5
    ),
    "lpo-clip": lambda env: RULES["lpo"](env, 0.05)._replace(init=lambda key: lpo_module.init_drift(key, 8)),
    "lirpg": lambda env: mrl.lirpg(
        env, agents(env), 0.1, reward_hidden=(4,), intrinsic_coef=0.7, num_epochs=2, num_minibatches=1, clip_eps=0.5
    ),
}  # fmt: skip


def make(name, fields=None, **options):
    env = Probe()
    options = {"num_inner_steps": 3, "num_agents": 2, "lifetime": 6, "outer_entropy_coef": 0.05, **SIZES, **options}
    rule = RULES[name](env) if isinstance(name, str) else name
    return mrl.learn_rule(env, stream_tasks(**(fields or {})), rule, mlp_policy(env, (3,), critic=True), **options)


@jax.jit
def first(state):
    """(agent, task) of the first agent."""
    return jax.tree.map(lambda x: x[0], (state.population.agent, state.population.task))


class Compiled:
    """A rule whose parts are compiled once for all tests; a segment of its first agent, off its start; in float64."""

    def __init__(self, name):
        self.algo = make(name)
        self.state = jax.jit(self.algo.init)(jax.random.key(0))
        self.live = jax.jit(self.algo.segment)
        self.after, task = first(self.state)
        for i in range(3):
            self.segment, self.after, _ = self.live(self.state.params, self.after, jax.random.key(1 + i), task)
        self.eta, self.unravel = ravel_pytree(jax.tree.map(lambda x: np.asarray(x, float), self.state.params))
        self.value_and_grad = jax.jit(jax.value_and_grad(self.of_flat(self.algo)))
        self.step = jax.jit(self.algo.step)

    def of_flat(self, algo):
        """The meta-loss of a rule as one vector."""
        return lambda x, segment: algo.meta_loss(self.unravel(x), segment)


@pytest.fixture
def compiled(x64):
    return compile_once


compile_once = functools.cache(Compiled)


# --- the gradient ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_meta_gradient_of_every_rule(compiled, name):
    """K = 3 updates, against central differences on stored data."""
    rule = compiled(name)
    x, segment = rule.eta, rule.segment
    directions, x = np.asarray(random_directions(jax.random.key(7), x, 12)[0]), np.asarray(x)
    grads = np.asarray(rule.value_and_grad(x, segment)[1])
    up, down = ([rule.value_and_grad(x + h * d, segment)[0] for d in directions] for h in (1e-6, -1e-6))
    scale = float(np.linalg.norm(grads))
    assert scale > 1e-6
    np.testing.assert_allclose(directions @ grads, (np.array(up) - down) / 2e-6, rtol=1e-5, atol=1e-6 * scale)
    moved = jax.tree.map(lambda g: float(np.abs(g).max()), jax.jit(rule.unravel)(grads))
    assert min(jax.tree.leaves(moved)) > 0, f"every number of the rule matters: {moved}"


@pytest.mark.parametrize("name", ["lpg", "lirpg"])
def test_mixed_and_reverse_are_one_gradient(compiled, name):
    rule = compiled(name)
    _, mixed = rule.value_and_grad(rule.eta, rule.segment)
    reverse = jax.jit(jax.grad(rule.of_flat(make(name, differentiation="reverse"))))(rule.eta, rule.segment)
    assert relative_error(mixed, reverse) < 1e-10


def test_a_rule_matters_through_what_updates_do(compiled):
    """To first order there is nothing left; lpg's penalties would reach eta without passing through an update."""
    rule = compiled("lirpg")
    found = jax.jit(jax.grad(rule.of_flat(make("lirpg", differentiation="first_order"))))(rule.eta, rule.segment)
    assert np.abs(found).max() == 0


@pytest.mark.parametrize("name", ["lpg", "lpo", "lirpg"])
def test_reliving_is_what_happened(compiled, name):
    """The same shuffles, the same values: the updates that are differentiated are those that were made."""
    rule = compiled(name)
    again = jax.jit(rule.algo.adapt)(rule.state.params, rule.segment).params
    lived = dict(rule.after.learner.params)
    assert relative_error(lived.pop("outer_critic"), again["outer_critic"]) > 0, "that learned beside it"
    assert relative_error({k: again[k] for k in lived}, lived) < 1e-12


def test_nothing_flows_through_what_was_stored(compiled):
    rule = compiled("lirpg")
    agent, task = first(rule.state)

    def total(eta):
        segment, after, _ = rule.algo.segment(eta, agent, jax.random.key(1), task)
        found = jax.tree.leaves((segment.rollouts, segment.outer, after.learner.params))
        return sum(jnp.sum(x) for x in found if jnp.issubdtype(x.dtype, jnp.floating))

    assert np.abs(flat(jax.jit(jax.grad(total))(rule.state.params))).max() == 0


# --- lives ----------------------------------------------------------------------------------------------


def step_size(env):
    """The smallest of rules."""
    policy = agents(env)
    return Rule(
        lambda key: {"lr": jnp.full((), 0.1, float)}, lambda eta: learners.policy_gradient(policy, eta["lr"]), policy
    )


def test_agents_die_at_their_age_and_others_take_their_place():
    """Two agents of lifetime 6, K = 3: ages begin at 0 and 3; a birth brings new parameters and fresh streams."""
    algo = make(step_size(Probe()))
    state = jax.jit(algo.init)(jax.random.key(0))
    step = jax.jit(algo.step)
    np.testing.assert_array_equal(state.population.age, [0, 3])
    expected = [[3, 6], [6, 3], [3, 6]]
    for i, want in enumerate(expected):
        before, (state, _) = state, step(state, jax.random.key(i))
        np.testing.assert_array_equal(state.population.age, want)
        counts = np.asarray(state.population.agent.envs.episode_length).max(axis=1)
        assert (counts <= 5).all()
        for agent in range(2):
            old, new = (
                jax.tree.map(lambda x: np.asarray(x)[agent], s.population.agent.learner.params)  # noqa: B023
                for s in (before, state)
            )
            is_born = np.asarray(before.population.age)[agent] == 6
            assert (relative_error(new["actor"], old["actor"]) > 0.5) == is_born


def test_a_lifetime_without_end():
    algo = make(step_size(Probe()), lifetime=None)
    state = jax.jit(algo.init)(jax.random.key(0))
    step = jax.jit(algo.step)
    for i in range(3):
        state, metrics = step(state, jax.random.key(i))
    np.testing.assert_array_equal(state.population.age, [9, 9])
    assert float(metrics["late_return"]) == float(metrics["episode_return"])


def test_an_agent_that_diverges_is_left_out_and_replaced(compiled):
    state, step = compiled("lirpg").state, compiled("lirpg").step
    spoil = jax.tree.map(np.array, state.population.agent.learner.params)
    for x in jax.tree.leaves(spoil):
        x[0] = np.nan
    learner = state.population.agent.learner.replace(params=spoil)
    sick = state.replace(population=state.population.replace(agent=state.population.agent.replace(learner=learner)))
    after, metrics = step(sick, jax.random.key(1))
    healthy, _ = step(state, jax.random.key(1))
    assert float(metrics["num_diverged"]) == 1 and is_finite(after.params)
    assert 0 < relative_error(after.params, state.params) and is_finite(metrics["loss"])
    np.testing.assert_array_equal(after.population.age, [6, 6])
    np.testing.assert_array_equal(healthy.population.age, [3, 6])
    cured, metrics = step(after, jax.random.key(2))
    assert is_finite(cured.population.agent.learner.params) and float(metrics["num_diverged"]) == 0


def test_the_mean_is_over_agents(compiled):
    """The gradient of the population is the mean of the gradients of its agents."""
    rule = compiled("lirpg")
    key, population = jax.random.key(5), rule.state.population
    _, metrics = rule.step(rule.state, key)

    @jax.jit
    def pick(i):
        agent, task = jax.tree.map(lambda x: x[i], (population.agent, population.task))
        return agent, jax.random.split(jax.random.split(key, 2)[i])[1], task

    total = 0.0
    for i in range(2):
        segment, _, _ = rule.live(rule.state.params, *pick(i))
        total += np.asarray(rule.value_and_grad(rule.eta, segment)[1]) / 2
    assert float(metrics["grad_norm"]) == pytest.approx(float(np.linalg.norm(total)), rel=1e-5)


def test_lives_are_scored_at_birth_and_after_each_stage():
    """A2C on the matching probe: from about 0 to nearly its best return of 5, cut into any number of stages alike."""
    env, policy = Probe(), mlp_policy(Probe(), (), critic=True)
    learner = learners.ppo(policy, num_epochs=1, num_minibatches=1, surrogate="vpg", optimizer=learners.adam(0.1))
    rule = Rule(lambda key: {}, lambda eta: learner, policy)
    whole = lives(env, rule, lifetime=30, horizon=5, num_episodes=64, num_steps=10, num_envs=8)
    key = jax.random.key(0)
    scores = jax.jit(lambda: whole.collect({}, key, probe(**STREAM), 3)[1])()
    assert scores.shape == (4, 64)
    assert abs(float(scores[0].mean())) < 1.0 and float(scores[-1].mean()) > 4.5
    with pytest.raises(ValueError, match="num_updates = 4: must divide the lifetime of 30"):
        whole.collect({}, key, probe(**STREAM), 4)
    many = jax.jit(
        lambda: evaluation.adaptation_curve(whole, {}, key, jax.tree.map(lambda x: x[None], probe(**STREAM)), 3)
    )()
    assert many.shape == (1, 4, 64)


# --- what each rule promises ----------------------------------------------------------------------------


def test_a_drift_and_its_slope_are_zero_where_nothing_moved():
    eta = jax.jit(lambda: lpo_module.init_drift(jax.random.key(0), 64))()
    advantage = np.linspace(-3, 3, 13)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(lambda r, a: lpo_module.drift(eta, r, a))))(
        np.zeros(13), advantage
    )
    assert np.abs(value).max() == 0 and np.abs(slope).max() == 0
    far = jax.jit(lpo_module.drift)(eta, *np.meshgrid(np.linspace(-1, 1, 13), advantage))
    assert np.min(far) >= 0 and np.max(far) > 0


def test_without_a_drift_lpo_is_the_plain_ratio():
    shapes = jax.eval_shape(lambda: lpo_module.init_drift(jax.random.key(0), 8))
    nothing = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    old, new, advantage = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    fields = {name: None for name in Batch.__dataclass_fields__}

    @jax.jit
    def both(old, new, advantage, mask):
        batch = Batch(**{**fields, "log_prob": old, "advantage": advantage, "mask": mask})
        return lpo_module.surrogate(nothing)(new, batch), losses.lvc(new, old, advantage, mask)

    found, plain = both(old, new, advantage, np.ones(6))
    assert float(found) == pytest.approx(float(plain), rel=1e-6)


def test_lpo_with_a_clip_begins_at_ppo():
    env = Probe()
    rule, random = (mrl.lpo(agents(env), width=8, clip_eps=eps) for eps in (0.2, None))
    eta, away = jax.jit(lambda key: (rule.init(key), random.init(key)))(jax.random.key(0))
    grid = np.meshgrid(np.linspace(-1.5, 1.0, 26), np.linspace(-2, 2, 9))
    log_ratio, advantage = (jnp.asarray(x.reshape(-1)) for x in grid)
    fields = {name: None for name in Batch.__dataclass_fields__}
    old, mask = (jnp.asarray(np.full(log_ratio.shape, number, np.float32)) for number in (0, 1))
    batch = Batch(**{**fields, "log_prob": old, "advantage": advantage, "mask": mask})

    def ours(new, eta=eta, clip_eps=0.2):
        return lpo_module.surrogate(eta, clip_eps)(new, batch)

    def ppo(new):
        return losses.ppo_clip(new, old, advantage, mask, 0.2)

    (value, slope), (known, known_slope) = (jax.jit(jax.value_and_grad(f))(log_ratio) for f in (ours, ppo))
    assert float(value) == pytest.approx(float(known), abs=lpo_module.MARGIN)
    np.testing.assert_allclose(slope, known_slope, atol=1e-6)
    slopes = jax.jit(jax.grad(lambda eta: ours(log_ratio, eta)))(eta)
    assert np.abs(slopes["output"]).max() > 0, "and can leave it by gradients"
    apart = np.asarray(jax.jit(jax.grad(lambda x: ours(x, away, None)))(log_ratio)) - known_slope
    assert np.linalg.norm(apart) > 0.1 * np.linalg.norm(known_slope)


def test_an_intrinsic_reward_of_weight_zero_is_ppo():
    env, policy = Probe(), agents(Probe())
    options = {"num_epochs": 2, "num_minibatches": 1, "max_grad_norm": None, "entropy_coef": 0.0}
    rule = mrl.lirpg(env, policy, 0.1, intrinsic_coef=0.0, **options)
    plain = Rule(rule.init, lambda eta: learners.ppo(policy, optimizer=learners.adam(0.1), **options), policy)
    found, want = (make(r) for r in (rule, plain))
    state = jax.jit(found.init)(jax.random.key(0))
    agent, task = first(state)
    segment, after, _ = jax.jit(found.segment)(state.params, agent, jax.random.key(1), task)
    _, plainly, _ = jax.jit(want.segment)(state.params, agent, jax.random.key(1), task)
    assert relative_error(after.learner.params, plainly.learner.params) < 1e-6
    slope = jax.jit(jax.grad(found.meta_loss))(state.params, segment)
    assert np.abs(flat(slope)).max() == 0, "and there is nothing to learn"


def test_an_agent_follows_the_reward_it_is_given():
    """With the environment's reward at 0 to the agent, what it does is what the learned reward pays for."""
    env, policy = Probe(), mlp_policy(Probe(), (), critic=True)
    rule = mrl.lirpg(
        env, policy, 0.1, reward_hidden=(), intrinsic_coef=1.0, extrinsic_coef=0.0, num_epochs=1, num_minibatches=1
    )
    whole = lives(env, rule, lifetime=20, horizon=5, num_episodes=32, num_steps=10, num_envs=8)
    shapes = jax.eval_shape(rule.init, jax.random.key(0))
    eta = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    task = probe(by_action=1.0, length=5, show_time=True)
    collect = jax.jit(lambda eta: whole.collect(eta, jax.random.key(0), task, 1)[1])
    for sign in (1.0, -1.0):  # inputs: signal, time, left, right
        eta["output"]["kernel"] = sign * np.array([0.0, 0.0, -1.0, 1.0])[:, None]
        assert sign * np.mean(collect(eta)[-1]) > 4.5


def test_lpg_reads_nothing_of_the_next_episode():
    env = Probe()
    rule = RULES["lpg"](env)
    # As networks begin, y is the same for every observation to seven digits, and the rule hardly reads it.
    eta = jax.tree.map(lambda weights: 3 * weights, rule.init(jax.random.key(0)))
    learner = rule.learner(eta)
    params = jax.tree.map(lambda weights: 10 * weights, rule.policy.init(jax.random.key(1)))
    agent = learner.init(params)
    task = probe(**STREAM)
    act = lifetimes.acting(env, rule.policy, task, 12, 2)
    envs = jax.jit(lambda key: lifetimes.init_agent(env, task, rule.policy, learner, None, key, 2).envs)(
        jax.random.key(2)
    )
    data, _ = jax.jit(act)(agent.params, jax.random.key(3), envs)
    ends = np.flatnonzero(np.asarray(data.done[:, 0]))
    assert ends.tolist() == [4, 9]
    prepare = jax.jit(learner.prepare)
    told = prepare(agent, data)
    other = prepare(agent, data.replace(reward=data.reward.at[5:].add(1.0)))
    np.testing.assert_array_equal(told.pi_hat[:5], other.pi_hat[:5])
    assert float(jnp.abs(told.pi_hat[5:] - other.pi_hat[5:]).max(axis=1).min()) > 1e-4
    beyond = prepare(agent, data.replace(next_observation=data.next_observation.at[4].multiply(-1.0)))
    np.testing.assert_array_equal(told.pi_hat, beyond.pi_hat)  # of what follows a termination nothing counts
    before = prepare(agent, data.replace(next_observation=data.next_observation.at[3].multiply(-1.0)))
    assert float(jnp.abs(told.pi_hat[:4] - before.pi_hat[:4]).max(axis=1).min()) > 1e-4


def test_lpg_needs_discrete_actions():
    with pytest.raises(ValueError, match="must be one discrete number; use lpo"):
        mrl.lpg(mrl.make("PointNavigation-v0")[0])


def test_meta_gradients_find_a_reward_that_teaches():
    """The environment pays the agents nothing that they see; the learned reward has to come to stand for it."""
    env, policy = Probe(), mlp_policy(Probe(), (), critic=True)
    rule = mrl.lirpg(
        env, policy, 0.1, reward_hidden=(8,), intrinsic_coef=1.0, extrinsic_coef=0.0, num_epochs=1, num_minibatches=1
    )
    options = {"num_envs": 8, "num_steps": 10, "num_agents": 8, "lifetime": 12, "outer_lr": 0.03}
    algo = make(rule, outer_entropy_coef=0.0, critic_lr=0.03, **options)

    def train(key):
        init_key, key = jax.random.split(key)
        return jax.lax.scan(algo.step, algo.init(init_key), jax.random.split(key, 60))[1]["late_return"]

    late = np.asarray(jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(5), 4)))
    # Means of 4 trainings; the mean over 8 others was 3.37, and one of them has a deviation of .2.
    assert late[:, :5].mean() < 1.0 and late[:, -10:].mean() > 3.0, late


def test_a_lifetime_that_segments_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="lifetime = 7: must be a multiple of num_inner_steps = 3"):
        make("lpg", lifetime=7)
