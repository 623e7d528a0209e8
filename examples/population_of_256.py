"""256 PPO agents with different step sizes, trained side by side in one compiled program.

A step size is an argument like any other: `mrl.ppo` takes a traced one, so `vmap` makes a population of a training run.
"""

import time

import jax
import jax.numpy as jnp

import metarl_jax as mrl


def main(num_agents=256, num_iterations=60, seed=0):
    """Returns: step sizes [agent], and the mean return of each agent's last ten iterations [agent]."""
    env, tasks = mrl.make("gymnax:CartPole-v1")
    policy = mrl.networks.mlp_policy(env, hidden=(32, 32), critic=True)
    task = tasks.sample(jax.random.key(seed))

    def train(lr, key):
        """One agent's training, return of an episode [iteration]; infinite where no episode ended."""
        algo = mrl.ppo(env, task, policy, lr=lr, num_envs=4, num_steps=64, num_iterations=num_iterations)
        init_key, step_key = jax.random.split(key)
        steps = jax.random.split(step_key, num_iterations)
        return jax.lax.scan(algo.step, algo.init(init_key), steps)[1]["episode_return"]

    step_sizes = jnp.logspace(-5, 0, num_agents)
    keys = jax.random.split(jax.random.key(seed), num_agents)
    start = time.perf_counter()
    program = jax.jit(jax.vmap(train)).lower(step_sizes, keys).compile()
    compiled = time.perf_counter()
    curves = jax.block_until_ready(program(step_sizes, keys))  # [agent, iteration]
    ended = time.perf_counter()

    scores = jax.vmap(mrl.tree.finite_mean)(curves[:, -10:])
    num_steps = num_agents * num_iterations * 4 * 64
    print(f"{num_agents} agents, {num_steps:,} environment steps in one program")
    print(f"trace and compile  {compiled - start:5.1f} s\nrun                {ended - compiled:5.1f} s\n")
    print("      step size        mean return   best return")
    groups = 8
    for some, their in zip(step_sizes.reshape(groups, -1), scores.reshape(groups, -1), strict=True):
        print(f"{some[0]:8.1e} - {some[-1]:8.1e}  {their.mean():9.1f}  {their.max():11.1f}")
    best = scores.argmax()
    print(f"\nbest: step size {step_sizes[best]:.1e}, return {scores[best]:.1f}")
    print("Look at both ends: too small a step learns little in this time, too large a one breaks the agent.")
    return step_sizes, scores


if __name__ == "__main__":
    main()
