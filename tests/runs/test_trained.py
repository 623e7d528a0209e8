"""A finished run in Python: what it learned is there, agents adapt and act, a sweep's best member is a run."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.meta import evaluation
from metarl_jax.options import ConfigError
from metarl_jax.runs import evaluate, listing, train, trained
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate

POINT = {"env": "PointNavigation-v0", "env_options": {"horizon": 5}, "num_iterations": 2, "checkpoint_every": 1}
CONFIGS = {
    "maml": {"meta_batch_size": 2, "episodes_per_task": 3, "hidden": [4], "num_seeds": 2, "eval_updates": 2},
    "ppo": {"num_envs": 2, "num_steps": 8, "num_minibatches": 2, "hidden": [4]},
    "rl2": {"num_episodes": 3, "meta_batch_size": 4, "num_minibatches": 2, "size": 4},
    "rl2-transformer": {
        "num_episodes": 2, "meta_batch_size": 4, "num_minibatches": 2, "size": 4, "network": "transformer",
        "num_layers": 1, "num_heads": 2,
    },
    "varibad": {"num_episodes": 2, "meta_batch_size": 4, "num_minibatches": 2, "hidden": [4], "encoder_size": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = {}

    def of(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("trained") / name
            config = validate({"algorithm": name.partition("-")[0], **POINT, **CONFIGS[name]})
            train.train(build(config), made[name], report=lambda _: None)
        return made[name]

    return of


def likeliest(run, observation):
    """The actions of whole episodes at once."""
    return jax.jit(lambda params, x: run.policy.apply(params, x).mode())(run.agent().params, observation)


@pytest.mark.parametrize("name", ["maml", "rl2", "rl2-transformer", "varibad"])
def test_an_agent_acts_in_a_loop_of_one_s_own_as_it_does_in_a_rollout(runs, name):
    run = mrl.load_run(runs(name))
    assert run.iteration == 2 and run.config.algorithm == name.partition("-")[0]
    task, agent = run.held_out(1)[0], run.agent()
    data = jax.jit(run.rollout, static_argnames="num_episodes")(agent, task, jax.random.key(1), num_episodes=2)
    assert data.reward.shape[1] == 2 and np.isfinite(data.reward).all()
    observation, expected = np.asarray(data.observation), np.asarray(likeliest(run, data.observation))
    act = jax.jit(run.act)
    for t in range(data.reward.shape[0]):
        action, agent = act(agent, observation[t, 0])
        np.testing.assert_allclose(action, expected[t, 0], rtol=1e-4, atol=1e-5)
    sampled, _ = act(run.agent(), observation[0, 0], jax.random.key(2))
    assert sampled.shape == action.shape and not np.array_equal(sampled, expected[0, 0])


def test_adapting_is_what_evaluation_does(runs):
    run = mrl.load_run(runs("maml"))
    task, key = run.held_out(1)[0], jax.random.key(3)
    agent = jax.jit(run.adapt)(task, key)

    @jax.jit
    def adapt(params, task, key):
        trial, _ = run.job.algorithm.collect(params, key, task, num_updates=2)
        return run.job.algorithm.adapt(params, trial).params

    expected = adapt(run.agent().params, task, key)
    for a, b in zip(jax.tree.leaves(agent.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    one = run.adapt(task, key, num_updates=1, seed=1)
    assert not np.allclose(jax.tree.leaves(one.params)[0], jax.tree.leaves(agent.params)[0])
    many = jax.vmap(lambda k: run.adapt(task, k))(jax.random.split(key, 3))
    assert jax.tree.leaves(many.params)[0].shape[0] == 3


@pytest.mark.parametrize("name", ["rl2-transformer", "varibad"])
def test_agents_that_learn_by_acting_remember_all_episodes_but_the_last(runs, name):
    run = mrl.load_run(runs(name))
    task, key = run.held_out(1)[0], jax.random.key(4)
    agent, params = jax.jit(run.adapt)(task, key), run.agent().params
    reset_key, key = jax.random.split(key)
    observation, state = jax.jit(run.env.reset_env)(reset_key, task)
    memory, steps = run.policy.remember(1), run.env.num_steps * (run.env.num_episodes - 1) // run.env.num_episodes

    @jax.jit
    def act(memory, observation, state, key):
        act_key, env_key = jax.random.split(key)
        memory, distribution = run.policy.step(params, memory, observation[None])
        action = distribution.sample(seed=act_key)[0]
        return memory, *run.env.step_env(env_key, state, action, task)[:2]

    keys = jax.random.split(key, run.env.num_steps)
    for i in range(steps):  # five steps an episode, none ends early
        memory, observation, state = act(memory, observation, state, keys[i])
    for a, b in zip(jax.tree.leaves(agent.memory), jax.tree.leaves(memory), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_an_episode_begins_with_what_the_agent_remembers(request):
    """After `adapt` it earns what the last episode of a trial does, before it what the first does."""
    run = mrl.load_run(request.config.rootpath / "examples" / "trained" / "rl2_bandit")
    tasks = run.job.evaluation_tasks(300)

    def play(task, key):
        data, returns = run.trials(task, key)
        agents = run.agent(), run.adapt(task, key)
        alone = [run.rollout(agent, task, key, num_episodes=2) for agent in agents]
        assert [x.reward.shape for x in alone] == [(1, 2)] * 2, "one pull is an episode"
        return returns[:, 0], data.reward.sum(), jnp.stack([x.episode_return[-1].mean() for x in alone])

    returns, whole, alone = jax.jit(jax.vmap(play))(tasks, jax.random.split(jax.random.key(0), 300))
    np.testing.assert_allclose(returns.sum(axis=1), whole, rtol=1e-6)
    before, after = alone.mean(axis=0)
    assert abs(before - 0.5) < 0.09 and abs(after - returns[:, -1].mean()) < 0.09 and after - before > 0.1


def test_an_algorithm_without_trials_says_so(runs):
    run = mrl.load_run(runs("maml"))
    with pytest.raises(ConfigError, match="^algorithm = maml: has no trials; adapt, then rollout$"):
        run.trials(run.held_out(1)[0], jax.random.key(0))


def test_scores_of_agents_are_those_of_evaluation(runs):
    """On average: the mean return of many rollouts of the adapted policy, and of `metarl evaluate`."""
    run = mrl.load_run(runs("ppo"))
    task = run.held_out(1)[0]
    data = run.rollout(run.agent(), task, jax.random.key(0), num_episodes=400)
    act = run.policy.apply
    tasks = run.job.evaluation_tasks(1)
    returns = jax.jit(
        lambda params, key: evaluation.policy_returns(
            run.env, act, params, key, tasks, num_steps=run.job.horizon, num_episodes=400
        )
    )
    expected = np.asarray(returns(run.agent().params, jax.random.key(1)))
    ours = np.sum(np.asarray(data.reward) * data.mask, axis=0)
    assert abs(float(ours.mean() - expected.mean())) < 4 * float(ours.std()) / 400**0.5 + 1e-3


@pytest.mark.parametrize("name", ["maml", "rl2"])
def test_what_is_exported_is_read_without_the_library(runs, name, tmp_path, capsys):
    """The weights, and a compiled policy that does what the run's does, in a process that cannot import metarl_jax."""
    from metarl_jax.cli.main import main

    run, place = mrl.load_run(runs(name)), tmp_path / "export"
    assert main(["export", str(runs(name)), "--output", str(place)]) == 0
    assert capsys.readouterr().out.split() == [
        str(place / x) for x in ("params.safetensors", "config.yaml", "policy.jax")
    ]
    observation = np.asarray(
        run.rollout(run.agent(), run.held_out(1)[0], jax.random.key(0), num_episodes=3).observation
    )
    np.save(tmp_path / "seen.npy", observation)
    code = """
import sys, numpy as np
sys.modules["metarl_jax"] = None
import jax, jax.export, jax.numpy as jnp, safetensors, safetensors.numpy
place, seen = sys.argv[1], np.load(sys.argv[2])
arrays = safetensors.numpy.load_file(place + "/params.safetensors")
with safetensors.safe_open(place + "/params.safetensors", "np") as file:
    assert file.metadata()["iteration"] == "2" and "algorithm:" in file.metadata()["configuration"]
act = jax.export.deserialize(bytearray(open(place + "/policy.jax", "rb").read()))
tree = jax.tree.unflatten(act.in_tree, act.in_avals)[0][2:]
memory = jax.tree.map(lambda x: jnp.zeros((seen.shape[1], *x.shape[1:]), x.dtype), tree)
found = []
for x in seen:
    drawn, likeliest, *memory = act.call(x, jax.random.key_data(jax.random.key(0)), *memory)
    assert drawn.shape == likeliest.shape
    found.append(likeliest)
np.savez(sys.argv[3], actions=np.stack(found), **arrays)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(place), str(tmp_path / "seen.npy"), str(tmp_path / "found.npz")],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(np.load(tmp_path / "found.npz"))
    expected = likeliest(run, observation)
    np.testing.assert_allclose(found.pop("actions"), expected, rtol=1e-4, atol=1e-5)
    assert found.keys() == trained.parameters(run).keys()
    assert all(np.array_equal(found[k], x) for k, x in trained.parameters(run).items())


def test_checkpoints_and_seeds_are_chosen_and_what_is_not_there_is_one_line(runs, tmp_path):
    run = mrl.load_run(str(runs("maml")), iteration=1)
    assert run.iteration == 1
    first, second = (trained.parameters(run, seed) for seed in (0, 1))
    assert first.keys() == second.keys() and not np.array_equal(*(next(iter(x.values())) for x in (first, second)))
    for call, expected in (
        (lambda: mrl.load_run(tmp_path / "no"), "is not a run directory"),
        (lambda: mrl.load_run(runs("maml"), iteration=7), "checkpoint 7: this run has 1, 2"),
        (lambda: run.agent(2), "seed = 2: this run has 2, counted from 0"),
        (lambda: mrl.load_run(runs("ppo")).adapt(None, jax.random.key(0)), "do not adapt to a task"),
    ):
        with pytest.raises(ConfigError, match=expected):
            call()


@pytest.mark.parametrize("method", ["halving", "pbt"])
def test_a_sweep_keeps_its_best_member_as_a_run(tmp_path, method, capsys):
    from metarl_jax.cli.main import main

    sizes = [
        "num_envs=2",
        "num_steps=8",
        "num_minibatches=2",
        "hidden=[4]",
        "iterations_per_call=2",
    ]
    ranges = {"halving": ["num_iterations=6", "lr=log(1e-4,1e-1)", "hidden=[[4],[6]]", "--trials", "4"],
              "pbt": ["num_iterations=9", "lr=log(1e-4,1e-1)", "--trials", "3", "--interval", "3"]}[method]  # fmt: skip
    place = tmp_path / "sweep"
    command = ["sweep", "ppo_cartpole", "--method", method, *sizes, *ranges, "--run-dir", str(place)]
    with pytest.raises(ConfigError, match="has kept no best member yet"):
        place.mkdir()
        (place / "sweep.json").write_text("{}")
        listing.run_of(place)
    (place / "sweep.json").unlink()
    assert main([*command, "--seeds", "2"]) == 0
    run = mrl.load_run(place)
    text = (place / "table.csv").read_text().splitlines()
    best = dict(zip(text[0].split(","), text[1].split(","), strict=False))
    assert run.config.lr == pytest.approx(float(best["lr"])) and run.iteration == int(best["iterations"])
    assert (place / "best.yaml").read_text() == (place / "best" / "config.yaml").read_text()
    data = run.rollout(run.agent(), run.held_out(1)[0], jax.random.key(0))
    assert np.isfinite(data.reward).all()
    capsys.readouterr()
    assert main(["evaluate", str(place), "--no-baselines", "--num-episodes", "2"]) == 0
    assert "trained policy" in capsys.readouterr().out
    rows = (place / "best" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == run.iteration
    assert main([*command, "--seeds", "2", "--resume"]) == 0


def test_the_best_member_is_what_its_configuration_trains(tmp_path):
    """Trained alone, the same numbers to the last places."""
    from metarl_jax.cli.main import main

    sizes = [
        "num_envs=2",
        "num_steps=8",
        "num_minibatches=2",
        "hidden=[4]",
        "num_iterations=6",
        "iterations_per_call=2",
    ]
    place = tmp_path / "sweep"
    assert main(["sweep", "ppo_cartpole", *sizes, "lr=[1e-3,1e-2]", "--method", "grid", "--run-dir", str(place)]) == 0
    assert main(["train", str(place / "best.yaml"), "--run-dir", str(tmp_path / "alone")]) == 0
    kept, alone = mrl.load_run(place), mrl.load_run(tmp_path / "alone")
    for name, x in trained.parameters(kept).items():
        np.testing.assert_allclose(x, trained.parameters(alone)[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert evaluate.open_run(place / "best").config == alone.config


def test_held_out_scores_while_training_are_those_of_evaluation_and_survive_a_resume(tmp_path):
    import json
    import shutil

    config = {"algorithm": "maml", **POINT, **CONFIGS["maml"], "num_iterations": 4, "eval_every": 2, "eval_tasks": 3}
    place, without = tmp_path / "run", tmp_path / "without"
    train.train(build(validate(config)), place, report=lambda _: None)
    train.train(build(validate({**config, "eval_every": None})), without, report=lambda _: None)
    assert (place / "metrics.jsonl").read_bytes() == (without / "metrics.jsonl").read_bytes(), "training is not touched"
    text = (place / "held_out.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["iteration"] for row in rows] == [2, 4]
    _, scores = evaluate.assess(place, baselines=False, report=lambda _: None)
    found = np.array([rows[-1][f"score_{u}"] for u in range(3)])
    np.testing.assert_allclose(found, scores["run"].mean(axis=(1, 3)).T, rtol=1e-5)
    shutil.rmtree(place / "checkpoints" / "4")
    train.train(build(validate(config)), place, resume=True, report=lambda _: None)
    assert (place / "held_out.jsonl").read_text() == text
