"""The oracle itself: against plain sums over trajectories in NumPy, finite differences in float64, and by hand."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from metarl_jax.envs.tabular import TabularMDP
from metarl_jax.reference import exact
from metarl_jax.rl import losses

S, A, H = 3, 2, 4
LR = 0.7
MDPS = range(3)
VPG, LVC, DICE = (losses.surrogate(name) for name in ("vpg", "lvc", "dice"))


def problem(seed, num_states=S, num_actions=A, horizon=H, gamma=0.9):
    """A random MDP with a random start, and logits."""
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.ones(num_states), size=(num_states, num_actions))
    rewards = rng.normal(size=(num_states, num_actions))
    start = rng.dirichlet(np.ones(num_states))
    mdp = exact.MDP(transitions, rewards, start, gamma, horizon=horizon)
    return mdp, rng.normal(size=(num_states, num_actions))


def expected_return(mdp, logits):
    return exact.evaluate(mdp, logits).expected_return


def adapted_return(mdp, logits, **options):
    return exact.meta_gradient(mdp, logits, **options).objective


def differences(f, x, eps=1e-5):
    """Central differences of f (an array) by every entry of x: [*f.shape, *x.shape]."""
    x = np.asarray(x, float)
    columns = []
    for i in range(x.size):
        step = np.zeros(x.size)
        step[i] = eps
        step = step.reshape(x.shape)
        columns.append((f(x + step) - f(x - step)) / (2 * eps))
    return np.moveaxis(np.reshape(columns, x.shape + np.shape(columns[0])), range(x.ndim), range(-x.ndim, 0))


def softmax(logits):
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def brute_force(mdp, logits):
    """[(states, actions, probability)] of every trajectory, by loops."""
    pi = softmax(logits)
    num_states, num_actions = mdp.rewards.shape
    for states in itertools.product(range(num_states), repeat=mdp.horizon):
        for actions in itertools.product(range(num_actions), repeat=mdp.horizon):
            p = mdp.start[states[0]]
            for t, (s, a) in enumerate(zip(states, actions, strict=True)):
                p *= pi[s, a] * (mdp.transitions[s, a, states[t + 1]] if t + 1 < mdp.horizon else 1.0)
            yield states, actions, p


# --- one policy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_evaluation_is_the_sum_over_trajectories(gamma):
    mdp, logits = problem(0, gamma=gamma)
    total, visits, to_go = 0.0, np.zeros((H, S)), np.zeros((H, S, A, 2))
    for states, actions, p in brute_force(mdp, logits):
        rewards = [mdp.rewards[s, a] for s, a in zip(states, actions, strict=True)]
        total += p * sum(gamma**t * r for t, r in enumerate(rewards))
        for t, (s, a) in enumerate(zip(states, actions, strict=True)):
            visits[t, s] += p
            to_go[t, s, a] += p * np.array([sum(gamma**u * r for u, r in enumerate(rewards[t:])), 1.0])
    found = exact.evaluate(mdp, logits)
    np.testing.assert_allclose(found.expected_return, total, rtol=1e-12)
    np.testing.assert_allclose(found.state_distribution, visits, rtol=1e-12)
    np.testing.assert_allclose(found.action_value, to_go[..., 0] / to_go[..., 1], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.value, (softmax(logits) * found.action_value).sum(axis=-1), rtol=1e-12)


@pytest.mark.parametrize("seed", MDPS)
def test_gradient_and_hessian_are_those_of_the_return(seed):
    mdp, logits = problem(seed)
    gradient, hessian = exact.policy_gradient(mdp, logits), exact.hessian(mdp, logits)
    np.testing.assert_allclose(gradient, differences(lambda x: expected_return(mdp, x), logits), atol=1e-9)
    np.testing.assert_allclose(hessian, differences(lambda x: exact.policy_gradient(mdp, x), logits), atol=1e-9)


def test_lvc_and_vpg_curvature_by_their_formulas():
    """sum_t gamma^t d_t(s) pi(a|s) A_t(s, a) (Hess log pi + [lvc] grad log pi grad log pi^T), written out."""
    mdp, logits = problem(1)
    pi, found = softmax(logits), exact.evaluate(mdp, logits)
    expected = {"lvc": np.zeros((S, A, S, A)), "vpg": np.zeros((S, A, S, A))}
    for t, s, a in itertools.product(range(H), range(S), range(A)):
        advantage = found.action_value[t, s, a] - found.value[t, s]
        weight = mdp.gamma**t * found.state_distribution[t, s] * pi[s, a] * advantage
        score, curve = np.eye(A)[a] - pi[s], np.outer(pi[s], pi[s]) - np.diag(pi[s])
        expected["vpg"][s, :, s] += weight * curve
        expected["lvc"][s, :, s] += weight * (curve + np.outer(score, score))
    for name, value in expected.items():
        np.testing.assert_allclose(exact.hessian(mdp, logits, name), value, atol=1e-14)
    assert np.abs(exact.hessian(mdp, logits, "vpg")).max() < 1e-14


def test_a_bandit_has_one_step():
    """H = 1: V = pi . r, grad V = pi (r - V), and LVC is exact, for there is no state that theta could move."""
    mdp, logits = problem(2, num_states=1, num_actions=3, horizon=1)
    pi, r = softmax(logits)[0], mdp.rewards[0]
    np.testing.assert_allclose(exact.evaluate(mdp, logits).expected_return, pi @ r, rtol=1e-14)
    np.testing.assert_allclose(exact.policy_gradient(mdp, logits)[0], pi * (r - pi @ r), rtol=1e-12)
    np.testing.assert_allclose(exact.hessian(mdp, logits, "lvc"), exact.hessian(mdp, logits), atol=1e-15)


# --- adaptation by exact gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("seed", MDPS)
def test_maml_is_the_derivative_of_the_adapted_return(seed, num_steps):
    mdp, logits = problem(seed)
    options = {"inner_lr": LR, "num_steps": num_steps, "inner_gamma": 0.8}
    theta = logits
    for _ in range(num_steps):
        theta = theta + LR * exact.policy_gradient(dataclasses.replace(mdp, gamma=0.8), theta)
    found = exact.meta_gradient(mdp, logits, **options)
    np.testing.assert_allclose(found.adapted, theta, rtol=1e-12)
    np.testing.assert_allclose(found.objective, expected_return(mdp, theta), rtol=1e-12)
    by = {
        "gradient": differences(lambda x: adapted_return(mdp, x, **options), logits),
        "inner_lr": differences(lambda x: adapted_return(mdp, logits, **{**options, "inner_lr": x}), LR),
        "inner_gamma": differences(lambda x: adapted_return(mdp, logits, **{**options, "inner_gamma": x}), 0.8),
    }
    for name, expected in by.items():
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-9, err_msg=name)
        assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize("method, curvature", [("maml", "exact"), ("lvc", "lvc"), ("vpg", "vpg"), ("fomaml", None)])
def test_meta_gradient_is_the_product_of_jacobians(method, curvature, num_steps):
    mdp, logits = problem(0)
    thetas = [exact.meta_gradient(mdp, logits, inner_lr=LR, num_steps=k).adapted for k in range(num_steps + 1)]
    product = last = exact.policy_gradient(mdp, thetas[-1])
    by_lr = 0.0
    for theta in thetas[-2::-1]:
        by_lr += np.sum(product * exact.policy_gradient(mdp, theta))
        if curvature:
            product = product + LR * np.tensordot(product, exact.hessian(mdp, theta, curvature), 2)
    found = exact.meta_gradient(mdp, logits, inner_lr=LR, num_steps=num_steps, method=method)
    np.testing.assert_allclose(found.gradient, product, atol=1e-13)
    np.testing.assert_allclose(found.inner_lr, by_lr, atol=1e-13)
    if method == "fomaml":
        np.testing.assert_array_equal(product, last)


def test_nothing_to_adapt():
    """K = 0 and inner_lr = 0 leave the policy gradient, whatever the method; reptile then has nowhere to go."""
    mdp, logits = problem(0)
    for options in ({"inner_lr": LR, "num_steps": 0}, {"inner_lr": 0.0, "num_steps": 2}):
        for method in exact.METHODS:
            found = exact.meta_gradient(mdp, logits, method=method, **options)
            expected = 0 * logits if method == "reptile" else exact.policy_gradient(mdp, logits)
            np.testing.assert_allclose(found.gradient, expected, atol=1e-15)
            np.testing.assert_array_equal(found.adapted, logits)


def test_first_order_is_exact_where_there_is_no_curvature():
    """A bandit of two equally likely arms sits where the sigmoid is straight; elsewhere it does not."""
    mdp, _ = problem(0, num_states=1, horizon=1)
    for logits, same in ((np.zeros((1, 2)), True), (np.array([[0.0, 1.0]]), False)):
        maml, fomaml = (exact.meta_gradient(mdp, logits, inner_lr=LR, method=m) for m in ("maml", "fomaml"))
        assert np.linalg.norm(maml.adapted - logits) > 1e-2
        assert np.allclose(maml.gradient, fomaml.gradient, rtol=1e-12, atol=1e-15) == same


def test_reptile_goes_to_the_adapted_policy():
    mdp, logits = problem(0)
    found = exact.meta_gradient(mdp, logits, inner_lr=LR, num_steps=1, method="reptile")
    np.testing.assert_allclose(found.gradient, LR * exact.policy_gradient(mdp, logits), rtol=1e-12)


# --- sums over sampled data --------------------------------------------------------------------------------


def test_trajectories_are_all_there_once(x64):
    mdp, logits = problem(0, horizon=3)
    mdp.transitions[0, 0] = [0.0, 0.25, 0.75]  # what cannot happen is left out
    expected = {(s, a): p for s, a, p in brute_force(mdp, logits) if p > 0}
    found = exact.enumerate_trajectories(mdp)
    probability = np.asarray(found.probability(logits))
    assert len(found.chance) == len(expected)
    for states, actions, p in zip(found.states, found.actions, probability, strict=True):
        np.testing.assert_allclose(p, expected[tuple(states), tuple(actions)], rtol=1e-12)
    returns = exact.trajectory_batch(mdp, logits, found.states, found.actions).discounted_reward.sum(axis=0)
    score = jax.grad(lambda x: found.probability(x) @ returns)(logits)
    np.testing.assert_allclose(score, exact.policy_gradient(mdp, logits), atol=1e-14)


def test_trajectory_batch_by_hand(x64):
    mdp, logits = problem(0)
    states, actions = np.array([[0, 1, 2, 1], [2, 2, 0, 1]]), np.array([[0, 1, 1, 0], [1, 0, 0, 1]])
    baseline = np.random.default_rng(0).normal(size=(H, S))
    batch = exact.trajectory_batch(mdp, logits, states, actions, baseline)
    for n, t in itertools.product(range(2), range(H)):
        to_go = sum(0.9**u * mdp.rewards[states[n, u], actions[n, u]] for u in range(t, H))  # gamma^t G_t
        value = baseline[t, states[n, t]]
        np.testing.assert_allclose(batch.advantage[t, n], to_go - 0.9**t * value, rtol=1e-12)
        np.testing.assert_allclose(batch.target[t, n], to_go / 0.9**t, rtol=1e-12)
        np.testing.assert_allclose(batch.discounted_value[t, n], 0.9**t * batch.value[t, n], rtol=1e-12)
        np.testing.assert_allclose(batch.log_prob[t, n], np.log(softmax(logits)[states[n, t], actions[n, t]]))


def test_surrogate_moments_are_those_of_one_trajectory():
    """By hand for vpg: g = sum_t A_t grad log pi(a_t|s_t), so E|g - E g|^2 needs no derivative."""
    mdp, logits = problem(0, horizon=2)
    baseline = exact.evaluate(mdp, logits).value
    mean, square = np.zeros((S, A)), 0.0
    for states, actions, p in brute_force(mdp, logits):
        r = [mdp.rewards[s, a] for s, a in zip(states, actions, strict=True)]
        advantage = [r[0] + 0.9 * r[1] - baseline[0, states[0]], 0.9 * (r[1] - baseline[1, states[1]])]
        g = np.zeros((S, A))
        for t, (s, a) in enumerate(zip(states, actions, strict=True)):
            g[s] += advantage[t] * (np.eye(A)[a] - softmax(logits)[s])
        mean, square = mean + p * g, square + p * np.sum(g * g)
    found = exact.surrogate_moments(mdp, logits, losses.surrogate("vpg"), baseline)
    np.testing.assert_allclose(found.gradient, mean, atol=1e-14)
    np.testing.assert_allclose(found.gradient_variance, square - np.sum(mean * mean), rtol=1e-12)


SAMPLED = [(1, 1, 3), (2, 1, 2), (1, 2, 2), (2, 2, 2), (1, 3, 2)]  # N, K, horizon of a two-state MDP


@pytest.mark.parametrize("n, k, horizon", SAMPLED)
def test_total_gradient_is_that_of_the_sampled_objective(n, k, horizon):
    mdp, logits = problem(0, num_states=2, horizon=horizon)
    mdp = mdp.replace(start=np.array([1.0, 0.0]))
    baseline = exact.evaluate(mdp, logits).value
    options = {"inner_lr": LR, "num_trajectories": n, "num_steps": k, "inner_gamma": 0.8, "baseline": baseline}

    def sampled(x, surrogate=VPG):
        return exact.sampled_meta_gradient(mdp, x, surrogate, **options)

    found = sampled(logits)
    eps = 1e-4 if n * k > 3 else 1e-5
    directions = np.eye(4).reshape(4, 2, 2)[: 1 if n * k > 3 else 4]  # finite differences take two sums each
    for d in directions:
        slope = (sampled(logits + eps * d).objective - sampled(logits - eps * d).objective) / (2 * eps)
        np.testing.assert_allclose(np.sum(found.total * d), slope, atol=1e-8)
    np.testing.assert_allclose(found.fixed_data + found.sampling, found.total, atol=1e-12)  # E-MAML with vpg
    for surrogate in (DICE, LVC):  # one gradient, one objective, one total; other Hessians
        other = sampled(logits, surrogate)
        np.testing.assert_allclose(other.objective, found.objective, rtol=1e-12)
        np.testing.assert_allclose(other.total, found.total, atol=1e-12)
        assert np.abs(other.fixed_data - found.fixed_data).max() > 1e-4


def test_sampled_objective_by_brute_force():
    """N = 1, K = 1: sum_tau p(tau) V(theta + lr g(tau)), by loops."""
    mdp, logits = problem(1, num_states=2, horizon=2)
    expected = 0.0
    for states, actions, p in brute_force(mdp, logits):
        r = [mdp.rewards[s, a] for s, a in zip(states, actions, strict=True)]
        g = np.zeros((2, A))
        for s, a, weight in zip(states, actions, (r[0] + 0.9 * r[1], 0.9 * r[1]), strict=True):
            g[s] += weight * (np.eye(A)[a] - softmax(logits)[s])
        expected += p * expected_return(mdp, logits + LR * g)
    np.testing.assert_allclose(exact.sampled_meta_gradient(mdp, logits, LVC, inner_lr=LR).objective, expected)


def test_more_data_brings_sampled_adaptation_to_exact():
    """Both the total and MAML-DiCE are off by O(1/N); double counting, E-MAML plus DiCE, stays wrong."""
    mdp, logits = problem(0, num_states=2, horizon=2)
    mdp = mdp.replace(start=np.array([1.0, 0.0]))
    target = exact.meta_gradient(mdp, logits, inner_lr=LR).gradient
    found = [exact.sampled_meta_gradient(mdp, logits, DICE, inner_lr=LR, num_trajectories=n) for n in (1, 2, 4)]
    for errors in ([x.total - target for x in found], [x.fixed_data - target for x in found]):
        sizes = [np.linalg.norm(e) for e in errors]
        assert 1.5 < sizes[0] / sizes[1] < 3 and 1.5 < sizes[1] / sizes[2] < 3
    assert np.linalg.norm(found[-1].fixed_data + found[-1].sampling - target) > 5 * sizes[-1]


def test_sampled_adaptation_without_steps_is_the_policy_gradient():
    mdp, logits = problem(0, num_states=2, horizon=2)
    for options in ({"num_steps": 0, "inner_lr": LR}, {"num_steps": 1, "inner_lr": 0.0}):
        found = exact.sampled_meta_gradient(mdp, logits, DICE, **options)
        for x in (found.total, found.fixed_data):
            np.testing.assert_allclose(x, exact.policy_gradient(mdp, logits), atol=1e-14)
        np.testing.assert_allclose(found.sampling, 0.0, atol=1e-14)


# --- what goes in and what comes out -----------------------------------------------------------------------


def test_float32_in_float64_out():
    mdp, logits = problem(0, horizon=2)
    half = exact.MDP(*(np.float32(x) for x in (mdp.transitions, mdp.rewards, mdp.start)), gamma=0.9, horizon=2)
    calls = [
        lambda m, x: exact.evaluate(m, x),
        lambda m, x: exact.policy_gradient(m, x),
        lambda m, x: exact.hessian(m, x),
        lambda m, x: exact.meta_gradient(m, x, inner_lr=LR),
        lambda m, x: exact.surrogate_moments(m, x, DICE),
        lambda m, x: exact.sampled_meta_gradient(m, x, DICE, inner_lr=LR),
    ]
    for call in calls:
        precise, rounded = call(mdp, logits), call(half, jax.numpy.float32(logits))
        for a, b in zip(jax.tree.leaves(precise), jax.tree.leaves(rounded), strict=True):
            assert isinstance(b, np.ndarray) and b.dtype == np.float64
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
    assert exact.evaluate(half, logits).state_distribution.sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-15)


def test_from_a_tabular_task():
    mdp, logits = problem(0)
    task = TabularMDP(S, A, H, reward_std=0.0).params(mdp.transitions, mdp.rewards)
    expected = expected_return(mdp.replace(start=np.array([1.0, 0.0, 0.0])), logits)
    assert expected_return(exact.MDP.from_task(task, gamma=0.9), logits) == pytest.approx(expected, rel=1e-6)


BAD = {
    "transitions": (np.full((S, A, S), 0.3), r"transitions\[0, 0\] = \[0.3, 0.3, 0.3\]: must be of sum 1"),
    "transitions ": (np.full((S, S, S), 1 / 3), r"transitions.shape = \(3, 3, 3\): must be \(3, 2, 3\)"),
    "rewards": (np.zeros(S), r"rewards.shape = \(3,\): must be \[S, A\]"),
    "rewards ": (np.full((S, A), np.nan), r"rewards = [^:]*: must be finite"),
    "start": (np.array([1.5, -0.5, 0.0]), r"start = .*: must be finite, in \[0, inf\]"),
    "start ": (np.array([0.5, 0.0, 0.0]), r"start = \[0.5, 0.0, 0.0\]: must be of sum 1"),
    "gamma": (1.5, r"gamma = 1.5: must be finite, in \[0, 1\]"),
    "gamma ": (-0.1, r"gamma = -0.1: must be finite, in \[0, 1\]"),
    "horizon": (0, "horizon = 0: must be an integer of at least 1"),
    "horizon ": (2.5, "horizon = 2.5: must be an integer of at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_mdp_is_named(name):
    mdp, logits = problem(0)
    value, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        exact.evaluate(mdp.replace(**{name.strip(): value}), logits)


def test_bad_arguments_are_named():
    mdp, logits = problem(0)
    calls = [
        (r"logits.shape = \(2, 3\): must be \(3, 2\)", lambda: exact.policy_gradient(mdp, logits.T)),
        ("curvature = 'dice': must be one of exact, lvc, vpg", lambda: exact.hessian(mdp, logits, "dice")),
        ("method = 'pearl': must be one of", lambda: exact.meta_gradient(mdp, logits, inner_lr=1, method="pearl")),
        ("inner_lr = nan: must be finite", lambda: exact.meta_gradient(mdp, logits, inner_lr=np.nan)),
        ("inner_gamma = 2: must be", lambda: exact.meta_gradient(mdp, logits, inner_lr=1, inner_gamma=2)),
        ("num_steps = -1: must be", lambda: exact.meta_gradient(mdp, logits, inner_lr=1, num_steps=-1)),
        (r"baseline.shape = \(3, 4\)", lambda: exact.surrogate_moments(mdp, logits, DICE, np.zeros((S, H)))),
        (
            "num_trajectories = 0: must",
            lambda: exact.sampled_meta_gradient(mdp, logits, DICE, inner_lr=1, num_trajectories=0),
        ),
        (
            r"\(num_steps, num_trajectories\) = \(3, 1\): must be smaller: 2.18e\+09 tuples of 1296 trajectories",
            lambda: exact.sampled_meta_gradient(mdp, logits, DICE, inner_lr=1, num_steps=3),
        ),
        (
            "horizon = 40: must be smaller: .* trajectories",
            lambda: exact.enumerate_trajectories(mdp.replace(horizon=40)),
        ),
    ]
    for message, call in calls:
        with pytest.raises(ValueError, match=message):
            call()
