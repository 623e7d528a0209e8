r"""Recommendations to a user whose taste is hidden and drifts, after RecSim and SlateQ (Ie et al. 2019).

A catalogue has `num_items` items with latent factors [num_factors], the same for all users. A task is a user: a taste
u_0 ~ N(0, I) [num_factors] and a drift delta ~ U[0, `drift`]. At every step the user is shown a slate of `slate_size`
items and clicks one of them or none, by the conditional logit of `envs.slate_choice`; then the taste moves:

.. math::

    u_{t+1} = \sqrt{1 - \delta^2} \, u_t + \delta \varepsilon_t, \quad \varepsilon_t \sim N(0, I)

This is an Ornstein-Uhlenbeck process at whole steps. N(0, I) is its stationary law, so that E|u_t|^2 = num_factors at
all times, and tastes n steps apart have correlation (1 - delta^2)^(n / 2).

Reward: 1 for a click, 0 without. A session of `horizon` slates terminates: its length is part of the problem. The next
session of the same user starts from u_0 again.

The taste is not observed. Observation [(k + 1) + k d + d + 1] for slates of k and d factors: which slot was clicked,
one-hot, the last entry for none; the factors of the items shown, slot by slot, zeros for an empty one; those of the
clicked item, zeros without a click; time / horizon. All but the time are zeros before the first slate.

Actions: with `slate_size` 1 the number of an item, `Discrete(num_items)`; for larger slates [slate_size] integers,
`MultiDiscrete` with `nvec` = [num_items] * slate_size.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.slate_choice import EMPTY, SlateChoice, check_between
from metarl_jax.envs.spaces import MultiDiscrete
from metarl_jax.envs.tasks import TaskDistribution, check_count

ORACLE_DRAWS = 256  # drifted tastes a step over which `optimal_return` averages


@struct.dataclass(kw_only=True)
class RecommenderParams(environment.EnvParams):
    """One user."""

    taste: Array  # [num_factors] u_0, at the start of every session
    drift: Array  # [] delta, from 0 (never changes) to 1 (a new taste every step)
    max_steps_in_episode: Array


@struct.dataclass
class RecommenderState(environment.EnvState):
    """The user, and what happened last."""

    taste: Array  # [num_factors] u_t, hidden
    shown: Array  # [slate_size] items of the last slate, EMPTY where there was none
    clicked: Array  # [] slot that was clicked; slate_size: none; EMPTY: nothing has been shown
    time: Array  # [] slates shown in this session


class Recommender(environment.Environment[RecommenderState, RecommenderParams]):
    """The catalogue and the choice model, in `choice`; who the user is, is in the parameters."""

    references = "metarl_jax.reference.recommender:references"

    def __init__(self, choice: SlateChoice, horizon: int, drift: float):
        super().__init__()
        self.choice = choice
        self.slate_size, self.num_factors = choice.slate_size, choice.num_factors
        self.horizon = check_count("horizon", horizon)
        self.drift = check_between("drift", drift, 0, 1)  # the largest of the family

    def params(self, taste: Array, drift: float | Array | None = None) -> RecommenderParams:
        """The user with this taste [num_factors] and this drift; by default the largest of the family."""
        return RecommenderParams(
            taste=jnp.asarray(taste, float),
            drift=jnp.asarray(self.drift if drift is None else drift, float),
            max_steps_in_episode=jnp.asarray(self.horizon, int),
        )

    @property
    def default_params(self) -> RecommenderParams:
        """A user who likes the first item most."""
        return self.params(np.sqrt(self.num_factors) * self.choice.items[0])

    def reset_env(self, key: Array, params: RecommenderParams) -> tuple[Array, RecommenderState]:
        del key
        state = RecommenderState(
            taste=params.taste,
            shown=jnp.full(self.slate_size, EMPTY, int),
            clicked=jnp.full((), EMPTY, int),
            time=jnp.zeros((), int),
        )
        return self.get_obs(state, params), state

    def step_env(
        self, key: Array, state: RecommenderState, action: int | float | Array, params: RecommenderParams
    ) -> tuple[Array, RecommenderState, Array, Array, dict[Any, Any]]:
        key_click, key_drift = jax.random.split(key)
        shown = self.choice.shown(action)
        clicked = self.choice.click(key_click, state.taste, shown)
        noise = jax.random.normal(key_drift, (self.num_factors,), state.taste.dtype)
        state = RecommenderState(
            taste=jnp.sqrt(jnp.maximum(1 - params.drift**2, 0)) * state.taste + params.drift * noise,
            shown=shown,
            clicked=clicked,
            time=state.time + 1,
        )
        reward = (clicked < self.slate_size).astype(float)
        return self.get_obs(state, params), state, reward, self.is_terminated(state, params), {}

    def clicked_slot(self, observation: Array) -> Array:
        """[] the slot that was clicked, read off an observation after a step; slate_size for none."""
        return jnp.argmax(observation[: self.slate_size + 1]).astype(int)

    def is_terminated(self, state: RecommenderState, params: RecommenderParams) -> Array:
        return state.time >= params.max_steps_in_episode

    def is_truncated(self, state: RecommenderState, params: RecommenderParams) -> Array:
        return jnp.zeros((), bool)  # the number of slates is part of the problem, not a time limit

    def get_obs(
        self, state: RecommenderState, params: RecommenderParams | None = None, key: Array | None = None
    ) -> Array:
        horizon = self.horizon if params is None else params.max_steps_in_episode
        click = jax.nn.one_hot(state.clicked, self.slate_size + 1, dtype=float)  # zeros for EMPTY
        shown = self.choice.factors(state.shown)
        time = jnp.asarray(state.time, float) / jnp.asarray(horizon, float)
        return jnp.concatenate([click, shown.reshape(-1), click[:-1] @ shown, time[None]])

    @property
    def num_actions(self) -> int:
        return self.choice.num_items

    def action_space(self, params: RecommenderParams | None = None) -> spaces.Discrete | MultiDiscrete:
        """`Discrete`, or `MultiDiscrete` for slates of several items."""
        several = MultiDiscrete([self.choice.num_items] * self.slate_size)
        return several if self.slate_size > 1 else spaces.Discrete(self.choice.num_items)

    def observation_space(self, params: RecommenderParams | None = None) -> spaces.Box:
        size = self.slate_size + 1 + (self.slate_size + 1) * self.num_factors + 1
        return spaces.Box(-1.0, 1.0, (size,), jnp.float32)


def optimal_return(env: Recommender, params: RecommenderParams) -> Array:
    """Expected clicks of a session by one who knows the taste at every step: sum over t of E[best_chance(u_t)].

    No policy does better: actions do not move the taste, so the best slate of each step is the best plan. u_t is
    N((1 - delta^2)^(t / 2) u_0, (1 - (1 - delta^2)^t) I). Exact without drift. With it, each expectation is the mean of
    `ORACLE_DRAWS` tastes, in mirrored pairs and with the same noise for all users.
    """
    keep = 1 - params.drift**2

    def add(total: Array, time: Array) -> tuple[Array, None]:
        key = jax.random.fold_in(jax.random.key(0), time)
        noise = jax.random.normal(key, (ORACLE_DRAWS // 2, env.num_factors), float)
        kept = keep ** time.astype(float)
        moved = jnp.sqrt(jnp.maximum(1 - kept, 0)) * jnp.concatenate([noise, -noise])
        tastes = (jnp.sqrt(jnp.maximum(kept, 0)) * params.taste)[None] + moved
        return total + jax.vmap(env.choice.best_chance)(tastes).mean(), None

    return jax.lax.scan(add, jnp.zeros((), float), jnp.arange(env.horizon))[0]


def recommender(
    *,
    num_items: int = 50,
    num_factors: int = 4,
    slate_size: int = 1,
    horizon: int = 50,
    drift: float = 0.1,
    temperature: float = 0.5,
    no_click: float = 2.0,
    position_bias: float = 1.0,
    catalogue_seed: int = 0,
) -> tuple[Recommender, TaskDistribution]:
    """Users with taste u_0 ~ N(0, I) and drift U[0, `drift`]; clicks by a conditional logit, reward 1 for a click.

    `no_click` is the score of no click, where items have u . x / `temperature`; `position_bias` says how fast attention
    falls along a slate, 0: not at all. The oracle is `optimal_return`: exact without drift, else a mean of draws.

    Raises: ValueError for counts below 1, a `slate_size` above `num_items`, a `drift` outside [0, 1], a `temperature`
    below .001, a `no_click` that is not finite, and a negative `position_bias` or `catalogue_seed`.
    """
    choice = _choice(num_items, num_factors, slate_size, temperature, no_click, position_bias, catalogue_seed)
    env = _environment(choice, horizon, drift)

    def sample(key: Array) -> RecommenderParams:
        key_taste, key_drift = jax.random.split(key)
        taste = jax.random.normal(key_taste, (num_factors,), float)
        return env.params(taste, env.drift * jax.random.uniform(key_drift, (), float))

    oracle = functools.partial(optimal_return, env)
    description = f"users of hidden taste, {num_items} items, slates of {slate_size}, {horizon} steps"
    return env, TaskDistribution(sample, horizon, oracle=oracle, description=description)


_choice = functools.lru_cache(maxsize=None, typed=True)(SlateChoice)
_environment = functools.lru_cache(maxsize=None, typed=True)(Recommender)
