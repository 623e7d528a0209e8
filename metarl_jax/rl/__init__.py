"""One agent in one task: rollouts, advantages, losses, the one PPO, trials of several episodes."""
