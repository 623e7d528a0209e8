"""MinAtar's games (Young & Tian 2019) as gymnax has them, in families by their rules: `make("MinAtar:Breakout")`.

What differs between tasks has to be found out by playing:

| rule       | what is drawn                                                            | games                 |
|------------|--------------------------------------------------------------------------|-----------------------|
| `sticky`   | the chance that an action is the one before it, U[0, sticky]             | all                   |
| `channels` | which channel of the observation shows what: a permutation               | all                   |
| `actions`  | which action does what: a permutation                                    | all                   |
| `ramping`  | whether the game becomes faster, a fair coin                             | not Breakout, Freeway |
| `speeds`   | each interval of its clocks, uniform over a range that begins at its own | not Breakout          |

Clocks: Asterix, steps from one enemy or treasure to the next (10) and from one of their moves to the next (5);
Seaquest, from one enemy to the next (20), of their moves (5), of their shots (10) and of the player's shots (5);
SpaceInvaders, steps from one move of the aliens (12), of their shots (10) and of the player's shots (5) to the next;
Freeway, steps from one move of the player to the next (3). The speeds of Freeway's cars are drawn anew in every
episode and after each crossing, by the game. With `difficulty` d an interval n of the others' clocks is drawn from
round(n / (1 + d)), ..., n, and one of the player's from n, ..., round(n (1 + d)): tasks are as hard as the game or
harder. In Asterix enemies then come at the latest after two of their moves: gymnax's ramp would bring the interval
between moves to 0 otherwise, from where nothing moves any more.

With `rules: []` there is one task, gymnax's game. Where gymnax 1.0.1 differs from MinAtar's own code, it is left:
- no sticky actions (MinAtar: 0.1). Here an action before the first of an episode is to do nothing; there it is the last
  of the episode before.
- a limit of 1,000 steps (MinAtar: none); of 2,500 in Freeway, a truncation (MinAtar: an end, after 2,501).
- Asterix does not look at one of its 8 lanes, drawn at random, when something new comes. Where that is the only empty
  one, or none is empty, what is in another lane disappears (MinAtar: it comes into the empty one, or does not come).
- Seaquest's last observation shows a full gauge of oxygen where it ends by surfacing without a diver.
"""

import functools
from collections.abc import Sequence
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from metarl_jax.envs.registry import did_you_mean
from metarl_jax.envs.tasks import TaskDistribution, as_arrays, check_count, check_positive

RULES = ("sticky", "channels", "actions", "ramping", "speeds")
OTHERS = {  # game -> its clocks: those of what the player meets, and the player's own
    "Asterix": ("init_spawn_speed", "init_move_interval"),
    "Breakout": (),
    "Freeway": (),
    "Seaquest": ("init_spawn_speed", "init_move_interval", "enemy_shot_interval"),
    "SpaceInvaders": ("enemy_move_interval", "enemy_shot_interval"),
}
OWN = {"SpaceInvaders": ("shot_cool_down",), "Seaquest": ("shot_cool_down",), "Freeway": ("player_speed",)}
RAMPS = ("Asterix", "Seaquest", "SpaceInvaders")
STICK = 0x571C  # of the key of a step; the games use its `split`, whose parts are those of small numbers


@struct.dataclass(kw_only=True)
class GameParams(environment.EnvParams):
    """One task."""

    game: Any  # gymnax's parameters of the game
    sticky: Array  # [] chance that an action is the one before it
    ramping: Array  # [] bool, whether the game becomes faster
    channels: Array  # [C] channel i of an observation is the game's channel channels[i]
    actions: Array  # [A] action i is the game's action actions[i]
    max_steps_in_episode: Array


@struct.dataclass
class GameState(environment.EnvState):
    """The game's own state, and what the rules need."""

    game: Any
    action: Array  # [] what was done last, as the game counts it
    time: Array  # [] steps taken in this episode


class Game(environment.Environment[GameState, GameParams]):
    """A game by rules that are its parameters. Observation: float [10, 10, channels].

    The game inside is computed in 32 bits, which hold all of its numbers: in 64 gymnax's Freeway fails.
    """

    def __init__(self, game: str, horizon: int | None):
        super().__init__()
        with jax.enable_x64(False), jax.ensure_compile_time_eval():  # its table of actions, an array
            self._game, self.own = gymnax.make(f"{game}-MinAtar")
        self._name = game
        self.horizon = int(self.own.max_steps_in_episode) if horizon is None else horizon
        self._channels = self._game.obs_shape[-1]

    @property
    def default_params(self) -> GameParams:
        own = self.own.replace(max_steps_in_episode=self.horizon)
        return as_arrays(
            GameParams(
                game=own,
                sticky=jnp.zeros((), float),
                ramping=jnp.ones((), bool),
                channels=jnp.arange(self._channels),
                actions=jnp.arange(self.num_actions),
                max_steps_in_episode=jnp.asarray(self.horizon, int),
            )
        )

    def reset_env(self, key: Array, params: GameParams) -> tuple[Array, GameState]:
        with jax.enable_x64(False):
            observation, game = self._game.reset_env(key, _narrow(params.game))
            game = _narrow(game)
        if hasattr(game, "ramping"):
            game = game.replace(ramping=params.ramping)
        state = GameState(game=game, action=jnp.zeros((), int), time=jnp.zeros((), int))
        return observation[..., params.channels].astype(float), state

    def step_env(
        self, key: Array, state: GameState, action: int | float | Array, params: GameParams
    ) -> tuple[Array, GameState, Array, Array, dict[Any, Any]]:
        sticks = jax.random.bernoulli(jax.random.fold_in(key, STICK), params.sticky)
        done = jnp.where(sticks, state.action, params.actions[jnp.asarray(action, int)])
        with jax.enable_x64(False):
            inside = state.game, _narrow(done), _narrow(params.game)
            observation, game, reward, terminated, _ = self._game.step_env(key, *inside)
            game = _narrow(game)
        state = GameState(game=game, action=done, time=state.time + 1)
        return observation[..., params.channels].astype(float), state, reward.astype(float), terminated, {}

    def is_terminated(self, state: GameState, params: GameParams) -> Array:
        return self._game.is_terminated(state.game, params.game)

    def is_truncated(self, state: GameState, params: GameParams) -> Array:
        return state.time >= params.max_steps_in_episode

    def board(self, game: Any) -> Array:
        """What is where in a state of the game, [10, 10, channels] in the game's own order of channels."""
        with jax.enable_x64(False):
            return self._game.get_obs(_narrow(game))

    @property
    def does(self) -> tuple[str, ...]:
        """What each of the game's actions does."""
        from metarl_jax.envs.minatar_picture import DOES

        return tuple(DOES[i] for i in self._game.action_set.tolist())

    def frames(self, states: GameState, params: GameParams) -> np.ndarray:
        """See `minatar_picture.frames`."""
        from metarl_jax.envs import minatar_picture

        return minatar_picture.frames(self, states, params)

    @property
    def name(self) -> str:
        return f"MinAtar:{self._name}"

    @property
    def num_actions(self) -> int:
        return int(self._game.num_actions)

    def action_space(self, params: GameParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: GameParams | None = None) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (10, 10, self._channels), jnp.result_type(float))


def minatar(
    game: str,
    *,
    rules: Sequence[str] = ("sticky", "actions"),
    sticky: float = 0.25,
    difficulty: float = 1.0,
    horizon: int | None = None,
) -> tuple[Game, TaskDistribution]:
    """`(env, tasks)` of one of MinAtar's games: Asterix, Breakout, Freeway, Seaquest, SpaceInvaders.

    Args:
      rules: which rules are drawn with the task; []: none, the game as it is.
        sticky: the chance that an action is the one before it. channels: which channel shows what. actions: which
        action does what. ramping: whether the game becomes faster as it is played (not of Breakout and Freeway).
        speeds: the intervals of what moves and shoots, in steps (not of Breakout).
      sticky: the largest chance that an action is the one before it; 0.1 is MinAtar's own.
      difficulty: how far the game's clocks are from its own, by `speeds`: up to 1 + difficulty times as fast.
      horizon: steps an episode; default the game's own.

    Raises: ValueError for an unknown game or rule, one that the game does not have, and numbers out of range.
    """
    if game not in OTHERS:
        raise ValueError(f"MinAtar has no game {game!r}{did_you_mean(game, OTHERS)}")
    if isinstance(rules, str) or not isinstance(rules, Sequence):
        raise ValueError(f"rules must be a list such as [sticky, actions], got {rules!r}")
    for rule in rules:
        if rule not in RULES:
            raise ValueError(f"rules has {rule!r}, which is no rule{did_you_mean(str(rule), RULES)}")
    clocks = {**dict.fromkeys(OTHERS[game], 1), **dict.fromkeys(OWN.get(game, ()), -1)}
    for rule, has in (("ramping", game in RAMPS), ("speeds", bool(clocks))):
        if rule in rules and not has:
            raise ValueError(f"rules has {rule}, which {game} does not have")
    sticky = check_positive("sticky", sticky, or_zero=True)
    if sticky > 1:
        raise ValueError(f"sticky must be a probability, got {sticky!r}")
    difficulty = check_positive("difficulty", difficulty, or_zero=True)
    if horizon is not None:
        horizon = check_count("horizon", horizon)
    env = _game(game, horizon)

    def sample(key: Array) -> GameParams:
        params = env.default_params
        of = {rule: jax.random.fold_in(key, i) for i, rule in enumerate(RULES)}
        drawn: dict[str, Any] = {}
        if "sticky" in rules:
            drawn["sticky"] = jax.random.uniform(of["sticky"], (), float, 0.0, sticky)
        for name in ("channels", "actions"):
            if name in rules:
                drawn[name] = jax.random.permutation(of[name], getattr(params, name))
        if "ramping" in rules:
            drawn["ramping"] = jax.random.bernoulli(of["ramping"])
        if "speeds" in rules:
            keys = jax.random.split(of["speeds"], len(clocks))
            intervals = {
                name: _interval(k, getattr(env.own, name), sign * difficulty)
                for k, (name, sign) in zip(keys, clocks.items(), strict=True)
            }
            if game == "Asterix":
                most = 2 * intervals["init_move_interval"]
                intervals["init_spawn_speed"] = jnp.minimum(intervals["init_spawn_speed"], most)
            drawn["game"] = params.game.replace(**intervals)
        params = params.replace(**drawn)
        if hasattr(params.game, "ramping"):
            params = params.replace(game=params.game.replace(ramping=params.ramping))
        return as_arrays(params)

    description = f"MinAtar's {game}, " + (f"drawn {', '.join(rules)}" if rules else "a single task")
    if rules:
        many = "sticky" in rules and sticky > 0  # the others are too few to hold some out
        return env, TaskDistribution(sample, env.horizon, description=description, held_out=many)
    members = jax.tree.map(lambda leaf: leaf[None], env.default_params)
    return env, TaskDistribution.from_members(members, env.horizon, description=description)


def _interval(key: Array, own: int, harder: float) -> Array:
    """Uniform over the integers from `own` to that of a clock 1 + |harder| times as fast, as slow if it is below 0."""
    other = max(round(own / (1 + harder)), 1) if harder >= 0 else round(own * (1 - harder))
    return jax.random.randint(key, (), min(own, other), max(own, other) + 1)


def _narrow(tree: Any) -> Any:
    """Every leaf as an array of at most 32 bits, with a strong dtype."""

    def narrow(x: Any) -> Array:
        name = jnp.result_type(x).name
        return jnp.asarray(x, {"int64": "int32", "float64": "float32"}.get(name, name))

    return jax.tree.map(narrow, tree)


_game = functools.lru_cache(maxsize=None, typed=True)(Game)
