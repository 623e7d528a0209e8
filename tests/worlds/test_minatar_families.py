"""MinAtar's games as families: without rules gymnax's own, and each rule by itself."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.envs.minatar import OTHERS, OWN, RAMPS, STICK

GAMES = tuple(OTHERS)


def all_rules(game):
    clocks = ["speeds"] if OTHERS[game] or game in OWN else []
    return ["sticky", "channels", "actions", *(["ramping"] if game in RAMPS else []), *clocks]


def walked(env, task, key, length=150):
    """(observations, rewards, ends, what was done) of random actions, from the start again at every end."""
    seen, fresh = env.reset_env(key, task)
    fresh = jax.tree.map(jnp.asarray, fresh)

    def one(state, key):
        act_key, step_key = jax.random.split(key)
        action = jax.random.randint(act_key, (), 0, env.num_actions)
        seen, after, reward, terminated, _ = env.step_env(step_key, state, action, task)
        done = getattr(after, "action", action)
        over = terminated | env.is_truncated(after, task)
        return jax.tree.map(lambda x, y: jnp.where(over, x, y), fresh, after), (seen, reward, terminated, action, done)

    return seen, jax.lax.scan(one, fresh, jax.random.split(key, length))[1]


class Own:
    """gymnax's game, with states of fixed types."""

    def __init__(self, game):
        self.env, self.params = gymnax.make(f"{game}-MinAtar")
        self.num_actions = self.env.num_actions

    def reset_env(self, key, task):
        seen, state = self.env.reset_env(key, self.params)
        self.types = jax.tree.map(lambda x: jnp.asarray(x).dtype, state)
        return seen, state

    def step_env(self, key, state, action, task):
        seen, after, *rest = self.env.step_env(key, state, action, self.params)
        return seen, jax.tree.map(jnp.asarray, after, self.types), *rest

    def is_truncated(self, state, task):
        return self.env.is_truncated(state, self.params)


@pytest.mark.parametrize("game", GAMES)
def test_without_rules_it_is_the_game(game):
    env, tasks = mrl.make(f"MinAtar:{game}", rules=[])
    assert not tasks.held_out and tasks.horizon == (2500 if game == "Freeway" else 1000)
    task = tasks.sample(jax.random.key(0))
    run = jax.jit(lambda key: (walked(env, task, key), walked(Own(game), None, key)))
    (first, ours), (their_first, theirs) = run(jax.random.key(3))
    np.testing.assert_array_equal(first, their_first)
    for a, b in zip(ours[:3], theirs[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert game == "Freeway" or ours[2].sum() > 0


@pytest.mark.parametrize("game", GAMES)
def test_rules_are_drawn_with_the_task(game):
    rules = all_rules(game)
    env, tasks = mrl.make(f"MinAtar:{game}", rules=rules, sticky=0.5, difficulty=1.0, horizon=100)
    many = jax.jit(jax.vmap(tasks.sample))(jax.random.split(jax.random.key(0), 400))
    assert 0 <= many.sticky.min() < 0.05 and 0.45 < many.sticky.max() <= 0.5
    for name in ("channels", "actions"):
        drawn = np.asarray(getattr(many, name))
        assert np.all(np.sort(drawn, axis=1) == np.arange(drawn.shape[1]))
        assert len({tuple(x) for x in drawn.tolist()}) > 5
    if "ramping" in rules:
        assert 0.4 < many.ramping.mean() < 0.6
        if hasattr(many.game, "ramping"):
            np.testing.assert_array_equal(many.game.ramping, many.ramping)
    default = env.default_params.game
    for name in OTHERS[game]:
        own, least = int(getattr(default, name)), 4 if (game, name) == ("Asterix", "init_spawn_speed") else None
        assert sorted(set(getattr(many.game, name).tolist())) == list(range(least or round(own / 2), own + 1))
    for name in OWN.get(game, ()):
        own = int(getattr(default, name))
        assert sorted(set(getattr(many.game, name).tolist())) == list(range(own, 2 * own + 1))


@pytest.mark.parametrize("game", GAMES)
def test_types_do_not_change_with_a_step_nor_with_double_precision(game):
    def use(env, tasks, key):
        task = tasks.sample(key)
        seen, state = env.reset_env(key, task)
        return task, (seen, state), env.step_env(key, state, jnp.zeros((), jnp.int32), task)

    for x64 in (False, True):
        with jax.enable_x64(x64):
            env, tasks = mrl.make(f"MinAtar:{game}", rules=all_rules(game))
            made = jax.eval_shape(lambda key, env=env, tasks=tasks: use(env, tasks, key), jax.random.key(0))
            _, first, (seen, state, reward, terminated, _) = made
            assert seen.dtype == reward.dtype == jnp.result_type(float) and terminated.dtype == bool
            assert seen.shape == env.observation_space(env.default_params).shape
            same = jax.tree.map(lambda a, b: a.dtype == b.dtype and a.shape == b.shape, first, (seen, state))
            assert jax.tree.all(same) and not any(leaf.weak_type for leaf in jax.tree.leaves(made))


def test_the_game_in_double_precision_is_that_in_single():
    def run(x64):
        with jax.enable_x64(x64):
            env, tasks = mrl.make("MinAtar:Breakout", rules=[])
            task, keys = tasks.sample(jax.random.key(0)), jax.random.split(jax.random.key(1), 40)

            def one(state, key):
                seen, state, reward, terminated, _ = env.step_env(key, state, jnp.ones((), int), task)
                return state, (seen, reward, terminated)

            return jax.jit(lambda: jax.lax.scan(one, env.reset_env(jax.random.key(2), task)[1], keys)[1])()

    single, double = run(False), run(True)
    assert double[0].dtype == double[1].dtype == jnp.float64 and double[2].any()
    for a, b in zip(single, double, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_sticks_does_not_depend_on_what_a_game_draws():
    keys = jax.random.split(jax.random.key(0), 4000)
    stick = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, STICK)))(keys)
    for parts in (2, 3):  # as the games split theirs
        for part in range(parts):
            drawn = jax.vmap(lambda key, n=parts, i=part: jax.random.uniform(jax.random.split(key, n)[i]))(keys)
            assert abs(np.corrcoef(stick, drawn)[0, 1]) < 0.06, (parts, part)


@pytest.mark.parametrize("difficulty", [0.5, 1.0, 4.0])
def test_asterix_never_stops_moving(difficulty):
    """gymnax's ramp, by itself: the interval between moves falls every other time, as long as either is above 1."""
    _, tasks = mrl.make("MinAtar:Asterix", rules=["speeds"], difficulty=difficulty)
    many = jax.jit(jax.vmap(tasks.sample))(jax.random.split(jax.random.key(0), 300)).game
    pairs = np.unique(np.stack([many.init_spawn_speed, many.init_move_interval], 1), axis=0)
    for spawn, move in pairs.tolist():
        index = 0
        while spawn > 1 or move > 1:
            spawn, move, index = spawn - (spawn > 1), move - (index % 2), index + 1
        assert move == 1, pairs


def test_rules_that_make_few_tasks_hold_none_out():
    for rules, held in ((["channels"], False), (["actions", "channels"], False), (["sticky"], True)):
        tasks = mrl.make("MinAtar:Breakout", rules=rules)[1]
        halves = tasks.split(0)
        assert [half.held_out for half in (tasks, *halves)] == [held] * 3
        few = jax.vmap(halves[1].sample)(jax.random.split(jax.random.key(0), 4))
        again = jax.vmap(halves[0].sample)(jax.random.split(jax.random.key(0), 4))
        assert bool(jnp.all(few.channels == again.channels) & jnp.all(few.sticky == again.sticky)) != held


def test_channels_are_permuted():
    env, _ = mrl.make("MinAtar:Breakout")
    tasks = [env.default_params.replace(channels=jnp.array(x)) for x in ([0, 1, 2, 3], [2, 0, 3, 1])]
    run = jax.jit(lambda channels, key: walked(env, tasks[0].replace(channels=channels), key)[1][0])
    plain, permuted = (run(task.channels, jax.random.key(1)) for task in tasks)
    np.testing.assert_array_equal(permuted, np.asarray(plain)[..., [2, 0, 3, 1]])


def test_an_action_sticks_as_often_as_it_is_said_and_is_permuted():
    env, _ = mrl.make("MinAtar:Breakout")
    task = env.default_params.replace(sticky=jnp.asarray(0.4), actions=jnp.array([2, 0, 1]))
    *_, ended, action, done = jax.jit(lambda key: walked(env, task, key, 6000)[1])(jax.random.key(0))
    own = np.asarray(task.actions)[np.asarray(action)]
    done, within = np.asarray(done), ~np.asarray(ended)[:-1]
    stuck, told = done[1:] == done[:-1], own[1:] == done[:-1]
    assert abs(np.mean(stuck[within & ~told]) - 0.4) < 0.03, "of those that were told another"
    assert np.all((done[1:] == own[1:]) | stuck | ~within)


def test_the_horizon_ends_an_episode():
    env, tasks = mrl.make("MinAtar:Breakout", horizon=3)
    task = tasks.sample(jax.random.key(0))
    state = env.reset_env(jax.random.key(0), task)[1]
    step = jax.jit(lambda state: env.step_env(jax.random.key(0), state, 0, task)[1])
    ends = []
    for _ in range(3):
        state = step(state)
        ends.append(bool(env.is_truncated(state, task)))
    assert tasks.horizon == 3 and ends == [False, False, True]


def test_ramping_can_be_switched_off():
    env, _ = mrl.make("MinAtar:SpaceInvaders")

    @jax.jit
    def after_a_wave(ramping):
        task = env.default_params.replace(ramping=ramping)
        state = env.reset_env(jax.random.key(0), task)[1]
        state = state.replace(game=state.game.replace(alien_map=jnp.zeros((10, 10))))
        return env.step_env(jax.random.key(0), state, 0, task)[1].game.enemy_move_interval

    assert [int(after_a_wave(jnp.asarray(ramping))) for ramping in (True, False)] == [11, 12]


@pytest.mark.parametrize(
    "name, options, line",
    [
        ("Breakot", {}, "MinAtar has no game 'Breakot'; did you mean Breakout?"),
        ("Breakout", {"rules": ["stick"]}, "rules has 'stick', which is no rule; did you mean sticky?"),
        ("Breakout", {"rules": "sticky"}, r"rules must be a list such as \[sticky, actions\], got 'sticky'"),
        ("Breakout", {"rules": ["speeds"]}, "rules has speeds, which Breakout does not have"),
        ("Freeway", {"rules": ["ramping"]}, "rules has ramping, which Freeway does not have"),
        ("Asterix", {"sticky": 1.5}, "sticky must be a probability, got 1.5"),
        ("Asterix", {"difficulty": -1.0}, "difficulty must be a finite number of at least 0, got -1.0"),
        ("Asterix", {"horizon": 0}, "horizon must be an integer of at least 1, got 0"),
    ],
)
def test_a_mistake_is_one_line(name, options, line):
    with pytest.raises(ValueError, match=line):
        mrl.make(f"MinAtar:{name}", **options)
