"""Online meta-gradients of hyperparameters: against finite differences and by hand, and what they leave alone."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from probes import STREAM, Probe, probe
from problems import flat, is_finite, relative_error

import metarl_jax as mrl
from metarl_jax.algorithms.meta_gradient_rl import Target
from metarl_jax.cli.main import main
from metarl_jax.meta.hyperparameters import MARGIN, Tuned, squash, unconstrained
from metarl_jax.networks import mlp_policy
from metarl_jax.options import ConfigError
from metarl_jax.rl import learners, returns
from metarl_jax.runs.build import build
from metarl_jax.runs.config import shipped_config, validate
from metarl_jax.update_rules.lifetimes import with_outer_critic

ALL = {
    "gamma": Tuned(0.9),
    "gae_lambda": Tuned(0.8),
    "lr": Tuned(0.1, high=None),
    "entropy_coef": Tuned(0.05, high=0.5),
    "value_coef": Tuned(0.5, high=None),
    "policy_coef": Tuned(1.0, high=2.0),
    "clip_eps": Tuned(0.2, 0.05, 0.5),
}
TWO = {name: ALL[name] for name in ("gamma", "lr")}

NO_STEP = jnp.zeros(())  # a number that nobody checks: an optimiser that stands still


def make(tuned=TWO, outer_critic=False, task=None, **options):
    """(algorithm, policy) on a probe whose reward depends on observation and action; tiny networks."""
    env = Probe()
    policy, critic = mlp_policy(env, (3,), critic=True, output_gain=1.0), None
    if outer_critic:
        policy, critic = with_outer_critic(policy, mlp_policy(env, (3,), critic=True), lr=0.01)
    options = {"num_envs": 2, "num_steps": 8, "outer_gamma": 0.95, "outer_critic": critic, **options}
    if "clip_eps" in tuned:
        options = {"surrogate": "smooth_ppo", "num_epochs": 2, **options}
    return mrl.meta_gradient_rl(env, task or probe(**STREAM), policy, tuned, **options), policy


def collected(algo, warmed_up=2):
    """(state, segment, state after it) once the agent has moved off its start."""
    state = jax.jit(algo.init)(jax.random.key(0))
    collect = jax.jit(algo.collect)
    for i in range(warmed_up + 1):
        before = state
        segment, state, _ = collect(before, jax.random.key(1 + i))
    return before, segment, state


# --- the gradient ---------------------------------------------------------------------------------------


class Compiled:
    """All hyperparameters at once, K = 3, with what tests share: a stored segment, and compiled parts; in float64."""

    def __init__(self, objective, outer_critic):
        self.options = {
            "num_inner_steps": 3,
            "num_minibatches": 2,
            "outer_critic": outer_critic,
            "objective": objective,
            "num_target_steps": 2,
            "optimizer": learners.sgd if outer_critic else learners.adam,
            "max_grad_norm": None if outer_critic else 0.3,
            "outer_value_coef": 0.5,
            "outer_entropy_coef": 0.02,
            "value_matching_coef": 0.3,
        }
        self.algo, self.policy = make(ALL, **self.options)
        self.state, self.segment, self.after = collected(self.algo)
        self.x, self.unravel = ravel_pytree(self.state.meta)
        self.value_and_grad = jax.jit(jax.value_and_grad(self.meta_loss(self.algo)))

    def meta_loss(self, algo):
        return lambda x, segment: algo.meta_loss(self.unravel(x), segment)


compile_once = functools.cache(Compiled)


@pytest.fixture
def compiled(x64):
    return compile_once


@pytest.mark.parametrize("outer_critic", [False, True], ids=["own_critic", "outer_critic"])
@pytest.mark.parametrize("objective", ["gradient", "bootstrapped"])
def test_meta_gradient_of_every_hyperparameter(compiled, objective, outer_critic):
    """K = 3, against central differences on stored data, BMG's target among them."""
    all_of_them = compiled(objective, outer_critic)
    x, segment, value_and_grad = all_of_them.x, all_of_them.segment, all_of_them.value_and_grad
    grads = value_and_grad(x, segment)[1]
    steps = 1e-6 * jnp.eye(x.size)
    want = jnp.stack([value_and_grad(x + e, segment)[0] - value_and_grad(x - e, segment)[0] for e in steps]) / 2e-6
    np.testing.assert_allclose(grads, want, rtol=1e-6, atol=1e-9)
    sizes = dict(zip(sorted(all_of_them.state.meta), np.abs(grads), strict=True))
    if objective == "gradient" and outer_critic:  # then nothing judges the agent's own values
        assert sizes.pop("value_coef") < 1e-14
    assert min(sizes.values()) > 1e-6, sizes


def test_meta_gradient_by_hand(x64):
    """K = 1, SGD: dL/dx = grad L_outer(theta') . lr mean(grad log pi dA/dgamma) dgamma/dx, values being constants."""
    tuned = {"gamma": Tuned(0.7, 0.5, 0.9)}
    options = {"optimizer": learners.sgd, "lr": 0.3, "entropy_coef": 0.0, "max_grad_norm": None}
    algo, policy = make(tuned, normalize_advantage=False, **options)
    state, segment, after = collected(algo)
    theta, data = segment.start.params, jax.tree.map(lambda x: x[0], segment.rollouts)
    value, following = (policy.value(theta, o) for o in (data.observation, data.next_observation))

    def advantage(gamma):
        ends = (data.terminated, data.truncated & ~data.terminated)
        return returns.gae(data.reward, value, following, *ends, gamma, 0.95)

    slope = jax.jit(jax.jacfwd(advantage))(0.7)
    pulled = jax.grad(lambda p: jnp.mean(policy.apply(p, data.observation).log_prob(data.action) * slope))
    weighted = jax.jit(pulled)(theta)
    judge = segment.outer
    outer = jax.grad(lambda p: -jnp.mean(policy.apply(p, judge.observation).log_prob(judge.action) * judge.advantage))
    share = (0.7 - 0.5) / 0.4  # dgamma/dx = (high - low) share (1 - share)
    frozen, _ = make(tuned, normalize_advantage=False, meta_lr=NO_STEP, **options)
    x = unconstrained(tuned)
    segment = segment.replace(rule=squash(x, tuned))
    moved = jax.jit(frozen.adapt)(x, segment)
    want = 0.4 * share * (1 - share) * 0.3 * jnp.vdot(flat(jax.jit(outer)(moved.params)), flat(weighted))
    np.testing.assert_allclose(jax.jit(jax.grad(frozen.meta_loss))(x, segment)["gamma"], want, rtol=1e-9)
    assert abs(float(want)) > 1e-6


def test_mixed_and_reverse_are_one_gradient(compiled):
    rule = compiled("gradient", False)
    reverse, first = (
        jax.jit(jax.grad(rule.meta_loss(make(ALL, differentiation=way, **rule.options)[0])))(rule.x, rule.segment)
        for way in ("reverse", "first_order")
    )
    assert relative_error(rule.value_and_grad(rule.x, rule.segment)[1], reverse) < 1e-10
    first = rule.unravel(first)
    assert abs(float(first["lr"])) > 0 and float(first["gamma"]) == 0, "of first order only the step size counts"


# --- where it must not flow -----------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["gradient", "bootstrapped"])
def test_nothing_flows_through_what_was_stored(compiled, objective):
    """Data, values, the outer advantages and the target are constants to the meta-parameters and the agent."""
    of_objective = compiled(objective, True)
    algo, state, segment = of_objective.algo, of_objective.state, of_objective.segment

    def total(differentiated):
        meta, params = differentiated
        moved = state.replace(meta=meta, learner=state.learner.replace(params=params))
        stored, after, _ = algo.collect(moved, jax.random.key(1))
        found = jax.tree.leaves((stored.rollouts, stored.outer, after.learner.params))
        return sum(jnp.sum(x) for x in found if jnp.issubdtype(x.dtype, jnp.floating))

    grads = jax.jit(jax.grad(total))((state.meta, state.learner.params))
    assert float(jnp.abs(flat(grads)).max()) == 0
    through_values = jax.jit(jax.grad(lambda p: algo.meta_loss(state.meta, segment.replace(params=p))))(segment.params)
    assert float(jnp.abs(flat(through_values)).max()) == 0


def test_the_target_is_reached_from_the_agent_and_does_not_pull_on_itself(compiled):
    """A target that is theta' has loss 0 and no gradient; one after further updates has both."""
    bootstrapped = compiled("bootstrapped", False)
    segment, policy = bootstrapped.segment, bootstrapped.policy
    loss, grads = bootstrapped.value_and_grad(bootstrapped.x, segment)
    assert float(loss) > 0 and float(jnp.abs(grads).max()) > 0
    params = jax.jit(bootstrapped.algo.adapt)(bootstrapped.state.meta, segment).params
    here = segment.outer.observation
    own = Target(
        here, segment.outer.mask, tuple(jax.tree.leaves(policy.apply(params, here))), policy.value(params, here)
    )
    loss, grads = bootstrapped.value_and_grad(bootstrapped.x, segment.replace(outer=own))
    assert float(loss) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(grads, 0, atol=1e-6)


def test_states_can_be_left_out_of_the_matching():
    algo, policy = make(objective="bootstrapped", matched=lambda rollout: rollout.episode_length == 1)
    state, segment, _ = collected(algo)
    starts = np.asarray(segment.outer.observation[..., 1] == 0)  # the probe shows its time
    np.testing.assert_array_equal(segment.outer.mask, starts)
    assert 0 < starts.mean() < 1
    reached = policy.apply(jax.jit(algo.adapt)(state.meta, segment).params, segment.outer.observation)
    target = jax.tree.unflatten(jax.tree.structure(reached), segment.outer.distribution)
    want = np.asarray(target.kl_divergence(reached))[starts].mean()
    np.testing.assert_allclose(jax.jit(algo.meta_loss)(state.meta, segment), want, rtol=1e-4)


# --- the agent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective, updates", [("gradient", 3), ("bootstrapped", 4)])
def test_the_agent_and_its_environments_go_on(objective, updates):
    """K updates an iteration, and L - 1 of the target's; all rollouts but the last teach it; it never restarts."""
    endless = probe(**{**STREAM, "length": 10**6})
    algo, _ = make(objective=objective, num_inner_steps=3, num_target_steps=2, task=endless)
    state = jax.jit(algo.init)(jax.random.key(0))
    step = jax.jit(algo.step)
    counts, lengths = [], []
    for i in range(2):
        before = state
        state, _ = step(state, jax.random.key(i))
        assert relative_error(state.learner.params, before.learner.params) > 0
        counts.append(int(optax.tree.get(state.learner.opt_state, "count")))
        lengths.append(np.asarray(state.envs.episode_length))
    assert counts == [updates, 2 * updates]
    np.testing.assert_array_equal(lengths, np.broadcast_to([[8 * (updates + 1)], [16 * (updates + 1)]], (2, 2)))


def test_replaying_is_what_happened(compiled):
    """The same shuffles, the same values: the update that is differentiated is the one that was made."""
    rule = compiled("gradient", False)
    assert relative_error(jax.jit(rule.algo.adapt)(rule.state.meta, rule.segment), rule.after.learner) < 1e-12


def test_the_outer_critic_learns_its_own_values_and_moves_nothing_else():
    """An endless reward of 1 is worth 1 / (1 - gamma) of the outer gamma; the agent does not notice the learning."""
    options = {"num_envs": 4, "num_inner_steps": 4, "outer_gamma": 0.9, "outer_gae_lambda": 1.0, "meta_lr": NO_STEP}
    env, task = Probe(), probe(constant=1.0, length=10**6)
    policy, critic = with_outer_critic(*[mlp_policy(env, (3,), critic=True)] * 2, lr=0.01)
    learning, still = (
        mrl.meta_gradient_rl(env, task, policy, {"gamma": Tuned(0.5)}, outer_critic=c, **options)
        for c in (critic, critic._replace(learns=()))
    )
    start = jax.jit(learning.init)(jax.random.key(0))
    step = jax.jit(learning.step)
    state, _ = step(start, jax.random.key(1))
    want, _ = jax.jit(still.step)(start.replace(critic_state=()), jax.random.key(1))
    found, other = dict(state.learner.params), dict(want.learner.params)
    outer, start_outer = found.pop("outer_critic"), other.pop("outer_critic")
    assert relative_error(found, other) < 1e-6
    assert relative_error(start_outer, start.learner.params["outer_critic"]) == 0
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), outer, start_outer)
    assert moved["output"]["bias"] > 0 and moved["output"]["kernel"] > 0
    for i in range(150):
        state, _ = step(state, jax.random.key(2 + i))
    assert float(critic.value(state.learner.params, jnp.zeros(2))) == pytest.approx(10.0, rel=0.1)


def test_nothing_tuned_is_an_actor_critic():
    algo, _ = make({}, num_inner_steps=2)
    state = algo.init(jax.random.key(0))
    after, metrics = jax.jit(algo.step)(state, jax.random.key(1))
    assert after.meta == {} and float(metrics["meta_grad_norm"]) == 0
    assert relative_error(after.learner.params, state.learner.params) > 0


def test_several_agents_with_their_own_rates_are_one_program():
    """Starts, ranges and step sizes may be traced."""

    def after(start, meta_lr, entropy):
        algo, _ = make({"gamma": Tuned(start)}, meta_lr=meta_lr, entropy_coef=entropy)
        state = algo.init(jax.random.key(0))
        return jax.lax.scan(algo.step, state, jax.random.split(jax.random.key(1), 2))[1]["tuned_gamma"]

    gamma = jax.jit(jax.vmap(after))(jnp.array([0.5, 0.9]), jnp.array([0.0, 0.5]), jnp.array([0.0, 0.1]))
    np.testing.assert_allclose(gamma[:, 0], [0.5, 0.9], rtol=1e-5)
    assert gamma[0, 1] == gamma[0, 0] and abs(gamma[1, 1] - 0.9) > 1e-3


# --- ranges, and what goes wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tuned", [Tuned(0.95, 0.9, 1.0), Tuned(0.3, 0.1, 7.0), Tuned(2.5, 1.0, None), Tuned(1e-3, high=None)]
)
def test_squashing_has_an_inverse_and_stays_in_range(tuned):
    x = unconstrained({"h": tuned})
    assert float(squash(x, {"h": tuned})["h"]) == pytest.approx(tuned.start, rel=1e-5)
    for far in (-1e4, -50.0, -3.0, 3.0, 50.0, 1e4):
        h = float(squash({"h": jnp.asarray(far)}, {"h": tuned})["h"])
        high = np.inf if tuned.high is None else np.float32(tuned.high)
        assert np.float32(tuned.low) <= h <= high
    slope = jax.grad(lambda x: squash({"h": x}, {"h": tuned})["h"])(x["h"])
    assert float(slope) > 0


def test_a_start_at_an_end_is_moved_inside():
    """logit(1) is infinite: the start is finite, and can move."""
    step = None
    for start in (0.0, 1.0):
        tuned = {"gae_lambda": Tuned(start)}
        x = unconstrained(tuned)
        assert is_finite(x)
        assert float(squash(x, tuned)["gae_lambda"]) == pytest.approx(start, abs=1.01 * MARGIN)
        algo, _ = make(tuned, meta_lr=0.1)
        step = step or jax.jit(algo.step)  # knows the range, not the start
        state, metrics = step(algo.init(jax.random.key(0)), jax.random.key(1))
        assert is_finite(state.meta) and float(metrics["meta_grad_norm"]) > 0


def test_hyperparameters_stay_in_range_whatever_the_meta_step():
    """Steps of 30 throw them from end to end; the step size has an upper end here, without one it ends in NaN."""
    algo, _ = make({**ALL, "lr": Tuned(0.1, high=1.0)}, meta_lr=30.0, num_inner_steps=2, outer_value_coef=0.5)
    state = jax.jit(algo.init)(jax.random.key(0))
    _, metrics = jax.jit(lambda s: jax.lax.scan(algo.step, s, jax.random.split(jax.random.key(1), 10)))(state)
    for name, t in ALL.items():
        h = np.asarray(metrics[f"tuned_{name}"])
        high = {"lr": 1.0, "value_coef": np.inf}.get(name, t.high)
        assert np.isfinite(h).all() and (h >= t.low - 1e-6).all() and (h <= high + 1e-6).all(), name
        assert np.ptp(h) > 0.1 * (1.0 if t.high is None else t.high - t.low), name


def test_a_nan_is_reported():
    @jax.jit
    def finite_of(constant):
        algo, _ = make({"gamma": Tuned(0.9)}, task=probe(**STREAM).replace(constant=constant))
        return algo.step(algo.init(jax.random.key(0)), jax.random.key(1))[1]["finite"]

    assert all(jax.tree.leaves(jax.tree.map(bool, finite_of(0.0))))
    finite = finite_of(jnp.nan)
    assert not any(bool(x) for x in finite["loss"].values())
    assert not bool(finite["gradient"]["gamma"]) and not bool(finite["params"]["meta"]["gamma"])
    assert not all(jax.tree.leaves(jax.tree.map(bool, finite["params"]["agent"])))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"tuned": {"horizon": Tuned(0.5)}}, "tuned = 'horizon': must be one of gamma, gae_lambda"),
        ({"gamma": 0.9}, "gamma = 0.9: is tuned"),
        ({"tuned": {"gamma": Tuned(1.5)}}, "start of gamma = 1.5: must be within its range"),
        ({"tuned": {"gamma": Tuned(0.5, 0.6, 0.6)}}, "range of gamma = .0.6, 0.6.: must be finite with low < high"),
        ({"tuned": ALL, "surrogate": "ppo"}, "tuned = clip_eps with surrogate = ppo: its derivative is 0"),
        ({"tuned": {}, "surrogate": "dice"}, "surrogate = dice: must be one of vpg, lvc"),
        ({"tuned": {}, "num_epochs": 2}, "surrogate = vpg: has no ratio"),
        ({"outer_surrogate": "ppo"}, "outer_surrogate = .ppo.: must be one of vpg, lvc"),
        ({"objective": "evolved"}, "objective = 'evolved': must be 'gradient' or 'bootstrapped'"),
        ({"baseline": "zero"}, "no option 'baseline'"),
    ],
)
def test_it_refuses_what_it_cannot_do(options, said):
    with pytest.raises((ValueError, TypeError), match=said):
        algo, _ = make(**options)
        algo.init(jax.random.key(0))


def test_it_refuses_policies_that_do_not_fit():
    remembering = mlp_policy(Probe(), (), critic=True)._replace(step=lambda *_: None)
    for policy, said in ((mlp_policy(Probe(), ()), "has no critic"), (remembering, "has a memory")):
        with pytest.raises(ValueError, match=f"policy: {said}"):
            mrl.meta_gradient_rl(Probe(), probe(), policy, {"gamma": Tuned(0.5)})


# --- the command ----------------------------------------------------------------------------------------

RUN = {"algorithm": "meta_gradient_rl", "env": "gymnax:CartPole-v1", "num_iterations": 2}


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"tune": ["horizon"]}, "tune.0 = 'horizon': must be 'gamma', 'gae_lambda'"),
        ({"tune": ["lr"], "ranges": {"gamma": [0.0, 1.0]}}, "ranges = gamma: is not in tune"),
        ({"ranges": {"gamma": [0.5]}}, "ranges.gamma = [0.5]: must be [low, high]"),
        ({"num_epochs": 2}, "surrogate = vpg: has no ratio"),
        ({"tune": ["clip_eps"], "surrogate": "ppo"}, "tuned = clip_eps with surrogate = ppo: its derivative is 0"),
        ({"gamma": 0.5, "ranges": {"gamma": [0.9, 1.0]}}, "start of gamma = 0.5: must be within its range (0.9, 1.0)"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(keys, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        algorithm = build(validate({**RUN, **keys})).algorithm
        algorithm.init(jax.random.key(0))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_by_command(tmp_path, capsys):
    """Trained with everything tuned, and evaluated on its task."""
    names = ", ".join(ALL)
    small = ["num_iterations=2", "iterations_per_call=1", "hidden=[4]", "num_envs=2", "num_steps=8", "eval_episodes=2"]
    own = [
        f"tune=[{names}]",
        "surrogate=smooth_ppo",
        "num_epochs=2",
        "objective=bootstrapped",
        "clip_eps=0.2",
        "recent=3",
    ]
    directory = str(tmp_path / "run")
    words = ["train", str(shipped_config("meta_gradient_cartpole")), *small, *own, "--run-dir", directory]
    assert main(words) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(rows[0][f"tuned_{name}"] != rows[1][f"tuned_{name}"] for name in ALL if name != "value_coef")
    assert main(["evaluate", directory]) == 0, capsys.readouterr().err
