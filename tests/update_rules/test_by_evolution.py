"""Learned rules: by evolution, from the command line, handed to new agents in a comparison."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe, stream_tasks
from problems import is_finite

import metarl_jax as mrl
from metarl_jax.cli.main import main
from metarl_jax.networks import mlp_policy
from metarl_jax.options import ConfigError
from metarl_jax.reproductions import learned_rules
from metarl_jax.rl import learners
from metarl_jax.runs.build import build
from metarl_jax.runs.config import validate
from metarl_jax.update_rules.lifetimes import Rule


def scored(score, size=2, **options):
    """Evolution of a vector whose lives are scored by `score(eta, task)`, without any life."""
    env = Probe()
    options = {"population_size": 16, "sigma": 0.1, "num_agents": 2, "lifetime": 1, "num_stages": 1, **options}
    policy = mlp_policy(env, (), critic=True)
    learner = learners.ppo(policy, num_epochs=1, num_minibatches=1)

    def of(eta):
        def update(state, key, batch, differentiation="reverse"):
            bias = jnp.asarray([0.0, 1.0]) * score(eta)
            actor = {"MLP_0": {"output": {"bias": bias, "kernel": jnp.zeros((2, 2))}}}
            return state.replace(params={**state.params, "actor": actor}), {"loss": jnp.zeros(())}

        return learner._replace(update=update)

    rule = Rule(lambda key: jnp.zeros(size), of, policy)
    return mrl.evolve_rule(
        env, stream_tasks(by_match=0.0, by_action=1.0), rule, num_episodes=64, num_envs=2, num_steps=5, **options
    )


def test_evolution_climbs():
    """The score is how often an agent goes right, whose log-odds the rule sets: -|eta - (1, -1)|^2."""
    algo = scored(lambda eta: -jnp.sum(jnp.square(eta - jnp.array([1.0, -1.0]))), outer_lr=0.1)
    state = jax.jit(algo.init)(jax.random.key(0))
    state, metrics = jax.jit(lambda s: jax.lax.scan(algo.step, s, jax.random.split(jax.random.key(1), 40)))(state)
    np.testing.assert_allclose(state.params, [1.0, -1.0], atol=0.4)
    assert float(metrics["fitness_mean"][-1]) > float(metrics["fitness_mean"][0]) + 1.0
    assert is_finite(metrics) and int(metrics["num_diverged"].sum()) == 0


def test_a_life_that_diverges_is_the_worst_and_is_counted():
    algo = scored(lambda eta: jnp.where(eta[0] > 0, jnp.nan, 0.0 * eta[0]), outer_lr=0.1)
    state = jax.jit(algo.init)(jax.random.key(0))
    after, metrics = jax.jit(algo.step)(state, jax.random.key(1))
    assert is_finite(after.params) and int(metrics["num_diverged"]) == 16, "half of the 16 rules, each in 2 tasks"


def test_evolution_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="population_size = 3: must be even"):
        scored(lambda eta: eta[0], population_size=3)
    with pytest.raises(ValueError, match="lifetime = 5: must be a multiple of num_stages = 2"):
        scored(lambda eta: eta[0], lifetime=5, num_stages=2)


# --- the command line -----------------------------------------------------------------------------------

SMALL = {"env": "BernoulliBandit-v0", "num_iterations": 2, "num_agents": 2, "lifetime": 4, "hidden": [4], "num_envs": 2}
SMALL |= {"num_steps": 4, "num_inner_steps": 2, "eval_tasks": 2, "eval_episodes": 2, "eval_updates": 2}
OWN = {
    "lpg": {"width": 4},
    "lpo": {"width": 4, "outer": "evolution", "population_size": 2},
    "lirpg": {"reward_hidden": [4]},
}


@pytest.mark.parametrize("name", ["lpg", pytest.param("lirpg", marks=pytest.mark.slow)])
def test_train_evaluate(name, tmp_path, capsys):
    """The comparison below trains and scores lpo."""
    config, whole = tmp_path / "config.yaml", tmp_path / "whole"
    config.write_text(json.dumps({"algorithm": name, **SMALL, **OWN[name], "iterations_per_call": 1}))
    assert main(["train", str(config), "--run-dir", str(whole)]) == 0
    assert main(["evaluate", str(whole)]) == 0
    table = json.loads((whole / "evaluation.json").read_text())
    assert len(table["adaptation"]) == 3
    rival = "A2C, same updates" if name == "lpg" else "PPO, same updates"
    assert {rival, "random policy", "random initialisation, same updates"} <= set(table["baselines"])
    assert len(table["baselines"][rival]) == 3
    assert rival in capsys.readouterr().out
    assert main(["evaluate", str(whole), "--num-updates", "3"]) == 2
    assert "num-updates = 3: stages, which must divide the life of 4 updates" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, change, said",
    [
        ("lpg", {"lifetime": 5}, "eval_updates = 2: must divide eval_lifetime"),
        ("lpg", {"lifetime": None}, "eval_lifetime is missing"),
        ("lpg", {"eval_updates": 3}, "eval_updates = 3: must divide eval_lifetime"),
        ("lpg", {"num_epochs": 2}, "num_epochs = 2: not a key of algorithm lpg"),
        ("lpg", {"num_inner_steps": 3}, "lifetime = 4: must be a multiple of num_inner_steps = 3"),
        ("lpg", {"env": "PointNavigation-v0"}, "must be one discrete number; use lpo"),
        ("lpo", {"eval_updates": 3, "eval_lifetime": 6}, "lifetime = 4: must be a multiple of eval_updates = 3"),
        ("lpo", {"population_size": 3}, "population_size = 3: must be even"),
        ("lpo", {"lifetime": None, "eval_lifetime": 4}, "lifetime = null: evolution judges whole lives"),
        ("lpo", {"num_epochs": 1, "num_minibatches": 1}, "the ratio is 1 and the drift 0"),
        ("lirpg", {"surrogate": "vpg", "num_epochs": 2}, "num_epochs = 2: must be 1 with surrogate = vpg"),
        ("lirpg", {"num_minibatches": 3}, "num_minibatches = 3: must divide num_envs . num_steps = 8; try 2"),
    ],
)
def test_bad_configurations_are_refused(name, change, said):
    with pytest.raises(ConfigError, match=said):
        build(validate({"algorithm": name, **SMALL, **OWN[name], **change}))


def test_the_comparison_hands_rules_over_and_chooses_the_rival_s_step_size(tmp_path, monkeypatch):
    small = {"algorithm": "lpo", **SMALL, **OWN["lpo"], "lr": 0.1, "eval_episodes": 8}
    (tmp_path / "small.yaml").write_text(json.dumps(small))
    monkeypatch.setattr(learned_rules, "shipped_config", lambda name: tmp_path / f"{name}.yaml")
    places = [learned_rules.Place("home"), learned_rules.Place("away", {"env": "gymnax:Catch-bsuite"})]
    monkeypatch.setattr(learned_rules, "CASES", {"lpo": ("small", places)})
    for name, value in {"NUM_SEEDS": 2, "NUM_TASKS": 3, "TRAINING_TASKS": 3, "FACTORS": (0.0, 1.0)}.items():
        monkeypatch.setattr(learned_rules, name, value)
    claims = learned_rules.run(tmp_path / "kept", lambda _: None, ("lpo",))
    named = {c.what: c for c in claims}
    assert list(named) == [f"{p}: {w}" for p in ("home", "away") for w in ("LPO", "PPO", "LPO - PPO")]
    for place in ("home", "away"):
        ours, theirs, difference = (named[f"{place}: {w}"] for w in ("LPO", "PPO", "LPO - PPO"))
        assert difference.ours == pytest.approx(ours.ours - theirs.ours, abs=1e-5)
        assert difference.rule == (">= 0" if place == "home" else "none")
    home = named["home: LPO - PPO"]
    assert home.passed == (home.ours >= 0)
    kept = np.load(tmp_path / "kept" / "lpo-home.npy")
    assert kept.shape == (2, 3) and np.load(tmp_path / "kept" / "lpo-away-PPO.npy").shape == (3,)
    assert learned_rules.run(tmp_path / "kept", lambda _: None, ("lpo",)) == claims, "read, not made again"
