"""MAML (Finn et al. 2017) on the library's building blocks: rollouts, GAE, a surrogate, two gradients.

A point has to find a goal that it cannot see. In each task it acts, takes one policy-gradient step on what it saw, and
acts again; the meta-gradient goes through that step to second order. `mrl.maml` does all of this in one call.
"""

import jax
import jax.numpy as jnp
import optax

import metarl_jax as mrl

NUM_TASKS, EPISODES, HORIZON, INNER_LR, GAMMA = 20, 10, 50, 0.1, 0.99

env, tasks = mrl.make("PointNavigation-v0")  # a gymnax environment: its EnvParams is the task
train_tasks, test_tasks = tasks.split(seed=0)
policy = mrl.networks.mlp_policy(env, hidden=(32, 32), init_std=0.3)
optimizer = optax.adam(3e-3)


def act(params, key, task):
    """Episodes [T, B] of one task, behind a stop-gradient."""
    return mrl.rollout.rollout(env, policy.apply, params, key, task, num_steps=HORIZON, num_envs=EPISODES)[0]


def advantages(data):
    """GAE with lambda = 1 on a linear baseline that is fitted to these very episodes."""
    time = data.episode_length - 1
    targets = mrl.returns.discounted_returns(data.reward, data.done, GAMMA)
    value = mrl.returns.linear_baseline(mrl.returns.baseline_features(data.observation, time), targets, data.mask)
    following = jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
    advantage = mrl.returns.gae(data.reward, value, following, data.done, data.truncated, GAMMA, 1.0, data.mask)
    return mrl.returns.standardize(advantage, data.mask)


def loss(params, data):
    """-mean of (pi / stop_gradient(pi)) A (LVC, Rothfuss et al. 2018): right in its gradient and its curvature."""
    log_prob = policy.apply(params, data.observation).log_prob(data.action)
    return mrl.losses.lvc(log_prob, data.log_prob, advantages(data), data.mask)


def adapt(params, data):
    """One step of gradient descent: theta' = theta - lr grad L(theta; data)."""
    return jax.tree.map(lambda p, g: p - INNER_LR * g, params, jax.grad(loss)(params, data))


def trial(params, key, task):
    before_key, after_key = jax.random.split(key)
    before = act(params, before_key, task)
    return before, act(adapt(params, before), after_key, task)


def meta_step(state, key):
    params, opt_state = state
    keys = jax.random.split(key, (NUM_TASKS, 2))
    before, after = jax.vmap(lambda k: trial(params, k[0], train_tasks.sample(k[1])))(keys)  # [task, T, B]
    gradient = jax.grad(lambda p: jax.vmap(lambda b, a: loss(adapt(p, b), a))(before, after).mean())(params)
    updates, opt_state = optimizer.update(gradient, opt_state)
    returns = [jax.vmap(mrl.rollout.episode_returns)(x).mean() for x in (before, after)]
    return (optax.apply_updates(params, updates), opt_state), jnp.stack(returns)


def main(num_iterations=120, seed=0):
    """Returns: the gain of one inner step in the first training iteration, and (before, after) on 40 held-out goals."""
    params_key, train_key, test_key = jax.random.split(jax.random.key(seed), 3)
    params = policy.init(params_key)
    train = jax.jit(lambda state, keys: jax.lax.scan(meta_step, state, keys))
    (params, _), curve = train((params, optimizer.init(params)), jax.random.split(train_key, num_iterations))
    print("mean return of an episode, training goals\niteration  before   after")
    for i in range(0, num_iterations, num_iterations // 4):
        print(f"{i:9d}  {curve[i, 0]:6.1f}  {curve[i, 1]:6.1f}")
    test = jax.jit(jax.vmap(lambda k: trial(params, k[0], test_tasks.sample(k[1]))))
    found = test(jax.random.split(test_key, (40, 2)))
    before, after = (float(jax.vmap(mrl.rollout.episode_returns)(x).mean()) for x in found)
    print(f" held-out  {before:6.1f}  {after:6.1f}\nLook at the gain from one step, before and after training.")
    return float(curve[0, 1] - curve[0, 0]), (before, after)


if __name__ == "__main__":
    main()
