"""How does the return after a PPO update depend on its hyperparameters? A derivative, checked by finite differences.

A policy of a tabular MDP acts once. A PPO update of 4 epochs learns from what it saw; the return of the new policy is
computed exactly, by dynamic programming. All of it is one function of the hyperparameters, in float64.
"""

import jax
import jax.numpy as jnp

import metarl_jax as mrl

HYPERPARAMETERS = {"lr": 1.0, "gamma": 0.9, "clip_eps": 0.2}


def exact_return(policy, params, task, horizon):
    """E[sum of rewards] of the policy from state 0."""
    num_states = task.reward_mean.shape[0]
    pi = jax.nn.softmax(policy.apply(params, jnp.eye(num_states)).logits)  # [S, A]

    def back(value, _):
        return (pi * (task.reward_mean + task.transitions @ value)).sum(axis=1), None

    return jax.lax.scan(back, jnp.zeros(num_states), length=horizon)[0][0]


def differentiate(f, at, eps=1e-5):
    """[(name, derivative by jax.grad, by central differences)]."""
    gradient = jax.grad(f)(at)
    up, down = ({name: {**at, name: at[name] + sign * eps} for name in at} for sign in (1, -1))
    return [(name, float(gradient[name]), float((f(up[name]) - f(down[name])) / (2 * eps))) for name in at]


def main(seed=0):
    """Returns: {surrogate: [(name, by jax.grad, by differences)]}, and the returns before, after and after tuning."""
    with jax.enable_x64(True):
        env, tasks = mrl.make("TabularMDP-v0", num_states=5, num_actions=3)
        keys = jax.random.split(jax.random.key(seed), 4)
        task = tasks.sample(keys[0])
        policy = mrl.networks.mlp_policy(env, hidden=())
        params = policy.init(keys[1])
        sizes = {"num_steps": tasks.horizon, "num_envs": 64}
        data, _ = mrl.rollout.rollout(env, policy.apply, params, keys[2], task, **sizes)

        def after_update(hyperparameters, surrogate):
            # No baseline: one that is fitted to the data would depend on gamma, and is not differentiated.
            options = {"surrogate": surrogate, "num_minibatches": 1, "baseline": "zero", **hyperparameters}
            learner = mrl.inner.ppo(policy, **options)
            state = learner.init(params)
            state, _ = learner.update(state, keys[3], learner.prepare(state, data))
            return exact_return(policy, state.params, task, tasks.horizon)

        found, returns = {}, [exact_return(policy, params, task, tasks.horizon)]
        print("d(return after the update) / d(hyperparameter)\nsurrogate   hyperparameter  jax.grad  differences")
        for surrogate in ("ppo", "smooth_ppo"):
            f = jax.jit(lambda h, s=surrogate: after_update(h, s))
            found[surrogate] = differentiate(f, HYPERPARAMETERS)
            for name, exact, differences in found[surrogate]:
                print(f"{surrogate:10}  {name:14}  {exact:8.5f}  {differences:11.5f}")
        returns.append(f(HYPERPARAMETERS))
        tuned = HYPERPARAMETERS
        for _ in range(20):  # gradient ascent on the hyperparameters of this very update
            step = jax.grad(f)(tuned)
            tuned = {name: max(1e-3, value + 0.05 * float(step[name])) for name, value in tuned.items()}
            tuned["gamma"] = min(tuned["gamma"], 1.0)
        returns.append(f(tuned))
        print("return: {:.2f} before, {:.2f} after the update, {:.2f} with these hyperparameters:".format(*returns))
        print(", ".join(f"{name} {value:.2f}" for name, value in tuned.items()))
        print("Look at clip_eps: PPO's hard clip gives it no gradient at all, a smooth clip does.")
        return found, [float(x) for x in returns]


if __name__ == "__main__":
    main()
