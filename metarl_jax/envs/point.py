"""2D point navigation: p' = p + clip(a, -limit, limit), observation p; tasks differ in the hidden goal.

| name               | start        | goals            | limit | H   | reward                                |
|--------------------|--------------|------------------|-------|-----|---------------------------------------|
| PointNavigation-v0 | 0            | U[-.5, .5]^2     | .1    | 100 | -distance; ends within .01 per axis   |
| PointNavigation-v2 | 0            | U[-2, 2]^2       | .1    | 100 | the same                              |
| PointCorner-v0     | U[-.2, .2]^2 | (+-2, +-2)       | .2    | 100 | progress, if near the goal's corner   |
| PointHalfCircle-v0 | 0            | unit half-circle | .1    | 20  | 1 - distance within .2 of it, else 0  |

Deviations from the original codes. MAML's leaves the clipping of actions to a wrapper. ProMP's v2 ends within
.01 of the *origin*, which we take to be a slip: here it ends at the goal. PEARL's trains on 100 fixed goals
with the dense reward and evaluates with the sparse one; here angles are U[0, pi] and the reward is sparse.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.tasks import TaskDistribution, check_count, check_positive


@struct.dataclass(kw_only=True)
class PointParams(environment.EnvParams):
    """One task. Lengths are in the units of the plane."""

    goal: Array  # [2]
    start: Array  # [2] centre of the starting square
    start_radius: Array  # [] half-side of the starting square; read only by an env with a random start
    action_limit: Array  # [] largest displacement per axis and step
    tolerance: Array  # [] the episode ends when |dx|, |dy| < tolerance; 0 never ends it
    reward_radius: Array  # [] radius of the sparse rewards; unused by the dense one
    max_steps_in_episode: Array


@struct.dataclass
class PointState(environment.EnvState):
    """Where the point is."""

    position: Array  # [2]
    time: Array  # [] steps taken


Reward = Callable[[Array, Array, PointParams], Array]


def dense_reward(previous: Array, position: Array, params: PointParams) -> Array:
    """r = -|p' - g|_2 (Finn et al. 2017, section 5.3)."""
    del previous
    return -_distance(position, params.goal)


def corner_reward(previous: Array, position: Array, params: PointParams) -> Array:
    """r = |p - g| - |p' - g| if |p'|_1 >= radius and g is the corner nearest to p', else 0 (ProMP, 2019).

    As in the original it can be exploited: steps that end in the L1 ball cost nothing, so swinging in and out
    of it earns up to .28 every other step (14 in 100 steps), where walking to the corner earns 2.6 once.
    """
    progress = _distance(previous, params.goal) - _distance(position, params.goal)
    outside = jnp.abs(position).sum() >= params.reward_radius
    nearest = jnp.all(position * params.goal >= 0)  # corners are (+-c, +-c): the nearest shares both signs
    return jnp.where(outside & nearest, progress, 0)


def half_circle_reward(previous: Array, position: Array, params: PointParams) -> Array:
    """r = 1 - |p' - g|_2 if |p' - g|_2 <= radius, else 0 (PEARL, Rakelly et al. 2019; VariBAD, 2020)."""
    del previous
    distance = _distance(position, params.goal)
    return jnp.where(distance <= params.reward_radius, 1 - distance, 0)


class PointNavigation(environment.Environment[PointState, PointParams]):
    """The point, with a named reward; everything else that a variant changes is in the parameters.

    Deterministic but for the start: keys are used only by the reset of an env whose `start_radius` is not 0.
    """

    def __init__(
        self,
        reward: Reward = dense_reward,
        *,
        action_limit: float = 0.1,
        tolerance: float = 0.0,
        reward_radius: float = 0.0,
        start_radius: float = 0.0,
        horizon: int = 100,
        normalize_actions: bool = False,
    ):
        super().__init__()
        self.reward = reward
        self.random_start = start_radius > 0
        self.normalize_actions = normalize_actions
        self._constants = {
            "action_limit": check_positive("action_limit", action_limit),
            "tolerance": check_positive("tolerance", tolerance, or_zero=True),
            "reward_radius": check_positive("reward_radius", reward_radius, or_zero=True),
            "start_radius": check_positive("start_radius", start_radius, or_zero=True),
        }
        self._horizon = check_count("horizon", horizon)

    def params(self, goal: Array) -> PointParams:
        """The task with this goal [2]."""
        goal = jnp.asarray(goal, float)
        return PointParams(
            goal=goal,
            start=jnp.zeros_like(goal),
            max_steps_in_episode=jnp.asarray(self._horizon, int),
            **{name: jnp.asarray(value, float) for name, value in self._constants.items()},
        )

    @property
    def default_params(self) -> PointParams:
        return self.params(jnp.full(2, 0.5))

    def reset_env(self, key: Array, params: PointParams) -> tuple[Array, PointState]:
        position = params.start
        if self.random_start:
            offset = jax.random.uniform(key, (2,), position.dtype, minval=-1.0, maxval=1.0)
            position = position + params.start_radius * offset
        return position, PointState(position=position, time=jnp.zeros((), int))

    def step_env(
        self, key: Array, state: PointState, action: Array, params: PointParams
    ) -> tuple[Array, PointState, Array, Array, dict[Any, Any]]:
        del key
        action = jnp.asarray(action, state.position.dtype)
        if self.normalize_actions:
            action = action * params.action_limit
        position = state.position + jnp.clip(action, -params.action_limit, params.action_limit)
        reward = self.reward(state.position, position, params)
        state = PointState(position=position, time=state.time + 1)
        return position, state, reward, self.is_terminated(state, params), {}

    def is_terminated(self, state: PointState, params: PointParams) -> Array:
        return jnp.all(jnp.abs(state.position - params.goal) < params.tolerance)

    def is_truncated(self, state: PointState, params: PointParams) -> Array:
        return state.time >= params.max_steps_in_episode

    def get_obs(self, state: PointState, params: PointParams | None = None, key: Array | None = None) -> Array:
        return state.position

    @property
    def name(self) -> str:
        return f"PointNavigation({self.reward.__name__})"

    @property
    def num_actions(self) -> int:
        return 2

    def action_space(self, params: PointParams | None = None) -> spaces.Box:
        limit = 1.0 if self.normalize_actions else (params or self.default_params).action_limit
        return spaces.Box(-limit, limit, (2,), jnp.float32)

    def observation_space(self, params: PointParams | None = None) -> spaces.Box:
        return spaces.Box(-jnp.inf, jnp.inf, (2,), jnp.float32)


def greedy_return(env: PointNavigation, horizon: int, params: PointParams) -> Array:
    """Return of a = clip(g - p) over one episode from a fixed start: the exact optimum of two of the rewards.

    The actions form a box, so the axes are independent: |dx_t| >= max(|dx_0| - t limit, 0) for every policy,
    and greedy attains it on both axes at every t at once. So no policy is nearer at any t: greedy is optimal
    for every reward that never rises with the distance (half-circle). And none ends earlier, so it is optimal
    for the dense reward too, which is never positive.
    """
    key = jax.random.key(0)  # a fixed start reads no key
    _, state = env.reset_env(key, params)

    def step(carry: tuple[PointState, Array], _: None) -> tuple[tuple[PointState, Array], Array]:
        state, alive = carry
        action = (params.goal - state.position) / (params.action_limit if env.normalize_actions else 1.0)
        _obs, state, reward, terminated, _info = env.step_env(key, state, action, params)
        return (state, alive & ~terminated), jnp.where(alive, reward, 0)

    _, rewards = jax.lax.scan(step, (state, jnp.ones((), bool)), length=horizon)  # [H]
    return rewards.sum()


def maml(
    *,
    horizon: int = 100,
    goal_limit: float = 0.5,
    action_limit: float = 0.1,
    tolerance: float = 0.01,
    normalize_actions: bool = False,
) -> tuple[PointNavigation, TaskDistribution]:
    """Goals U[-goal_limit, goal_limit]^2, dense reward (Finn et al. 2017). Mean oracle return -.506.

    With `normalize_actions` an action of 1 is a displacement by `action_limit`, as behind the `normalize` wrapper of
    the authors' experiments: a policy's standard deviation of 1 is then .1 in the plane.
    """
    limit = check_positive("goal_limit", goal_limit)
    env = _environment(
        dense_reward,
        action_limit=action_limit,
        tolerance=tolerance,
        horizon=horizon,
        normalize_actions=normalize_actions,
    )

    def sample(key: Array) -> PointParams:
        return env.params(jax.random.uniform(key, (2,), float, minval=-limit, maxval=limit))

    oracle = functools.partial(greedy_return, env, horizon)
    return env, TaskDistribution(sample, horizon, oracle=oracle, description=f"point, goals U[-{limit:g}, {limit:g}]^2")


def promp_v2(
    *,
    horizon: int = 100,
    goal_limit: float = 2.0,
    action_limit: float = 0.1,
    tolerance: float = 0.01,
    normalize_actions: bool = False,
) -> tuple[PointNavigation, TaskDistribution]:
    """Goals U[-2, 2]^2, dense reward (Rothfuss et al. 2019). `normalize_actions` as in `maml`."""
    return maml(
        horizon=horizon,
        goal_limit=goal_limit,
        action_limit=action_limit,
        tolerance=tolerance,
        normalize_actions=normalize_actions,
    )


def corner(
    *,
    horizon: int = 100,
    action_limit: float = 0.2,
    reward_radius: float = 0.5,
    start_radius: float = 0.2,
    normalize_actions: bool = False,
) -> tuple[PointNavigation, TaskDistribution]:
    """Four corners (+-2, +-2), sparse reward, random start (Rothfuss et al. 2019). Nothing is held out.

    No oracle: the optimum exploits the border of the L1 ball (see `corner_reward`) in no closed form.
    """
    env = _environment(
        corner_reward,
        action_limit=action_limit,
        reward_radius=reward_radius,
        start_radius=start_radius,
        horizon=horizon,
        normalize_actions=normalize_actions,
    )
    members = jax.vmap(env.params)(jnp.asarray([[-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0], [2.0, 2.0]], float))
    return env, TaskDistribution.from_members(members, horizon, description="point, goal in one of 4 corners")


def half_circle(
    *, horizon: int = 20, action_limit: float = 0.1, reward_radius: float = 0.2
) -> tuple[PointNavigation, TaskDistribution]:
    """Goals (cos u, sin u), u ~ U[0, pi], sparse reward (Rakelly et al. 2019)."""
    env = _environment(half_circle_reward, action_limit=action_limit, reward_radius=reward_radius, horizon=horizon)

    def sample(key: Array) -> PointParams:
        angle = jax.random.uniform(key, (), float, maxval=jnp.pi)
        return env.params(jnp.stack([jnp.cos(angle), jnp.sin(angle)]))

    oracle = functools.partial(greedy_return, env, horizon)
    return env, TaskDistribution(sample, horizon, oracle=oracle, description="point, goals on a unit half-circle")


# Equal arguments, one instance: no second compilation. `typed`, or True would pass for a cached 1.
_environment = functools.lru_cache(maxsize=None, typed=True)(PointNavigation)


def _distance(a: Array, b: Array) -> Array:
    return jnp.linalg.norm(a - b)
