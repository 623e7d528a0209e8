"""A transformer that learns in context (RL2, Duan et al. 2016): in a task its weights stay as they are.

A trial is ten pulls of a bandit with five arms whose probabilities it does not know. It reads what it pulled and what
it got; PPO trains it on the reward of whole trials.
"""

import jax
import jax.numpy as jnp

import metarl_jax as mrl
from metarl_jax.envs.trial import trials

NUM_ARMS, NUM_PULLS = 5, 10


def strategy_rewards(bandit, strategy, key, tasks):
    """Mean reward of each pull [pull] of a strategy that is not learned."""
    play = lambda key, task: mrl.baselines.play(bandit, strategy, key, task, num_episodes=NUM_PULLS)[:, 0]  # noqa: E731
    return jax.jit(jax.vmap(play))(jax.random.split(key, tasks.probs.shape[0]), tasks).mean(axis=0)


def main(num_iterations=100, meta_batch_size=1024, seed=0):
    """Returns: {name: mean reward of each pull [pull]}, and the most that any learner can get in a trial."""
    bandit, bandits = mrl.make("BernoulliBandit-v0", num_arms=NUM_ARMS)
    train_tasks, _ = bandits.split(seed=0)
    env = trials(bandit, bandits, num_episodes=NUM_PULLS)  # an episode of a bandit is one pull
    policy = mrl.networks.transformer_policy(env, context=env.num_steps, size=32, num_layers=1, num_heads=2)
    sizes = {"meta_batch_size": meta_batch_size, "num_iterations": num_iterations}
    algo = mrl.rl2(env, train_tasks, policy, lr=2e-3, **sizes)
    init_key, train_key, test_key = jax.random.split(jax.random.key(seed), 3)
    train = jax.jit(lambda state, keys: jax.lax.scan(algo.step, state, keys))
    state, metrics = train(algo.init(init_key), jax.random.split(train_key, num_iterations))
    print("reward of a trial while it trains\niteration  reward")
    for i in range(0, num_iterations, num_iterations // 5):
        print(f"{i:9d}  {metrics['trial_return'][i]:6.2f}")

    held_out = bandits.evaluation_tasks(4000)
    scores = mrl.evaluation.adaptation_curve(algo, state.params, test_key, held_out, num_updates=NUM_PULLS - 1)
    found = {
        "random": strategy_rewards(bandit, mrl.baselines.random_arms(NUM_ARMS), test_key, held_out),
        "Thompson": strategy_rewards(bandit, mrl.baselines.thompson_sampling(NUM_ARMS), test_key, held_out),
        "RL2": scores.mean(axis=(0, 2)),
        "best arm": jnp.full(NUM_PULLS, held_out.probs.max(axis=1).mean()),
    }
    best = mrl.baselines.bayes_optimal_value(num_arms=NUM_ARMS, num_pulls=NUM_PULLS)
    print("\nmean reward of each pull on 4,000 held-out bandits\npull  " + "  ".join(f"{name:>8}" for name in found))
    for pull in range(NUM_PULLS):
        print(f"{pull + 1:4d}  " + "  ".join(f"{rewards[pull]:8.2f}" for rewards in found.values()))
    print(" sum  " + "  ".join(f"{rewards.sum():8.2f}" for rewards in found.values()))
    print(f"The most that a learner can expect is {best:.2f} (exact); only who knows the best arm gets more.")
    print("Look down the column of RL2: its first pull is a guess, its last ones know the arms.")
    return found, float(best)


if __name__ == "__main__":
    main()
