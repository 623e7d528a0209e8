"""Is your estimator of the meta-gradient right? Hold it against the exact value on a small tabular MDP.

MAML's meta-gradient of one step is (I + lr Hess V) grad V(theta'). With trajectories in place of V the Hessian is that
of a surrogate, and surrogates with the same gradient have different Hessians. Write yours where `mine` stands.
"""

import jax
import jax.numpy as jnp
import numpy as np

import metarl_jax as mrl

INNER_LR = 3.0


def mine(log_prob, batch):
    """DiCE (Foerster et al. 2018) with the baseline of the step's own reward-to-go, written out. Time is axis 0."""
    past_and_now = jnp.cumsum(log_prob, axis=0)
    magic = jnp.exp(past_and_now - jax.lax.stop_gradient(past_and_now))
    own = jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))
    return -jnp.mean(magic * batch.discounted_reward + (1 - own) * batch.discounted_value)


def random_mdp(seed, num_states=3, num_actions=2, horizon=4):
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.ones(num_states), size=(num_states, num_actions))
    rewards, start = rng.normal(size=(num_states, num_actions)), rng.dirichlet(np.ones(num_states))
    return mrl.exact.MDP(transitions, rewards, start, 0.9, horizon=horizon), rng.normal(size=(num_states, num_actions))


def estimator(mdp, paths, baseline, surrogate, num_trajectories):
    """estimate(logits, key) -> [S, A], from as many trajectories before and after the inner step."""

    def sample(logits, key):
        probability = paths.probability(jax.lax.stop_gradient(logits))
        chosen = jax.random.choice(key, len(probability), (num_trajectories,), p=probability)
        return jnp.asarray(paths.states)[chosen], jnp.asarray(paths.actions)[chosen]

    def objective(logits, held, data):  # -H loss: losses are means over steps, the return is a sum
        batch = mrl.exact.trajectory_batch(mdp, jax.lax.stop_gradient(held), *data, baseline)
        return -mdp.horizon * surrogate(jax.nn.log_softmax(logits)[batch.observation, batch.action], batch)

    def estimate(logits, key):
        before_key, after_key = jax.random.split(key)
        before = sample(logits, before_key)
        adapt = lambda x: x + INNER_LR * jax.grad(objective)(x, logits, before)  # noqa: E731
        after = sample(adapt(logits), after_key)
        return jax.grad(lambda x: objective(adapt(x), adapt(logits), after))(logits)

    return estimate


def main(num_estimates=2000, num_trajectories=200, seed=0):
    """Returns: {name: (bias, its standard error, standard deviation)}, each relative to the exact gradient's norm."""
    mdp, logits = random_mdp(seed)
    exact = mrl.exact.meta_gradient(mdp, logits, inner_lr=INNER_LR).gradient
    paths, baseline = mrl.exact.enumerate_trajectories(mdp), mrl.exact.evaluate(mdp, logits).value
    surrogates = {"mine": mine, **{name: mrl.losses.surrogate(name) for name in ("dice", "lvc", "vpg")}}
    keys, found = jax.random.split(jax.random.key(seed), num_estimates), {}
    print(f"{num_estimates} estimates, each from {num_trajectories} trajectories before and after the inner step")
    print("share of |exact meta-gradient|\nsurrogate    bias  +- s.e.  standard deviation")
    for name, surrogate in surrogates.items():
        estimate = estimator(mdp, paths, baseline, surrogate, num_trajectories)
        values = np.asarray(jax.jit(lambda k, f=estimate: jax.lax.map(lambda x: f(logits, x), k, batch_size=50))(keys))
        size, spread = np.linalg.norm(exact), np.sqrt(values.var(axis=0).sum())
        bias = np.linalg.norm(values.mean(axis=0) - exact) / size
        found[name] = (bias, spread / size / np.sqrt(num_estimates), spread / size)
        print("{:9}  {:6.3f}  {:7.3f}  {:18.2f}".format(name, *found[name]))
    print("Look at the bias: that of lvc and vpg is their Hessian's, and stays however many the trajectories.")
    return found


if __name__ == "__main__":
    main()
