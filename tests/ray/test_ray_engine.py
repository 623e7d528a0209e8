"""`--engine ray` on a cluster of two nodes of this machine: the same bits, lost nodes, full memory, resumption."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from metarl_jax.cli.main import main
from metarl_jax.options import ConfigError
from metarl_jax.runs import config, train
from metarl_jax.runs.termination import Terminated
from metarl_jax.sweeps import engines, lanes, run, units

ray = pytest.importorskip("ray", reason="needs Ray: make test-ray")

BASE = {
    "algorithm": "ppo", "env": "BernoulliBandit-v0", "env_options": {"num_arms": 3}, "num_iterations": 6,
    "checkpoint_every": 2, "iterations_per_call": 2, "num_envs": 4, "num_steps": 8, "num_minibatches": 1,
    "num_epochs": 1, "hidden": [4], "anneal_lr": False, "num_seeds": 2,
}  # fmt: skip
TRAIN = units.train


def quiet(_):
    pass


def asked(method="random", num_trials=3, overrides=("lr=log(1e-3,1e-1)",), lanes_at_a_time=2, **changes):
    chosen = config.validate({**BASE, **changes})
    options = {"method": method, "num_trials": num_trials, "lanes_at_a_time": lanes_at_a_time}
    return run.make(chosen, list(overrides), **options, **({"interval": 1} if method == "pbt" else {}))


@pytest.fixture(scope="module")
def nodes():
    """Two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    two.add_node(num_cpus=1)
    yield two
    two.shutdown()


@pytest.fixture(scope="module")
def cluster(nodes):
    with engines.opened("ray", nodes.address) as found:
        assert found.workers == 2 and found.describe() == "2 CPUs of 2 nodes"
        yield found


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """What the local engine makes of `asked()`."""
    directory = tmp_path_factory.mktemp("here")
    run.run(asked(), directory, report=quiet)
    return directory


def same_files(one, other, *arrays):
    assert (one / "table.csv").read_bytes() == (other / "table.csv").read_bytes()
    for name in arrays or ("curves.npz",):
        with np.load(one / name) as ours, np.load(other / name) as theirs:
            assert ours.files == theirs.files
            assert all(np.array_equal(ours[key], theirs[key], equal_nan=True) for key in ours.files)


# --- results --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, options",
    [
        ("halving", {"num_trials": 9, "num_iterations": 18, "lanes_at_a_time": 4}),
        ("random", {"num_trials": 5, "overrides": ("lr=log(1e-3,1e-1)", "num_epochs=[1,2]"), "lanes_at_a_time": None}),
        ("pbt", {"num_trials": 5, "num_seeds": 3, "lanes_at_a_time": 4}),
    ],
)
def test_the_bits_are_those_of_the_local_engine(method, options, cluster, tmp_path):
    made, said = asked(method, **options), []
    run.run(made, tmp_path / "ray", report=said.append, cluster=cluster)
    run.run(made, tmp_path / "local", report=quiet)
    names = ("curves.npz", "schedule.npz") if method == "pbt" else ("curves.npz",)
    same_files(tmp_path / "ray", tmp_path / "local", *names)
    assert not list((tmp_path / "ray").rglob("units"))  # the checkpoints are those of the local engine
    assert any("2 CPUs of 2 nodes" in line for line in said)
    run.run(made, tmp_path / "ray", resume=True, report=quiet)
    same_files(tmp_path / "ray", tmp_path / "local", *names)


# --- what goes wrong ------------------------------------------------------------------------------------


def test_a_node_that_is_killed_costs_its_unit_only(nodes, cluster, here, tmp_path, monkeypatch):
    victim = nodes.add_node(num_cpus=1)
    marker, killed = tmp_path / "reached", str(victim.node_id)

    def slow_there(unit):
        if ray.get_runtime_context().get_node_id() == killed:
            marker.touch()
            time.sleep(600)
        return TRAIN(unit)

    def kill():
        while not marker.exists():
            time.sleep(0.1)
        nodes.remove_node(victim, allow_graceful=False)

    monkeypatch.setattr(lanes.units, "train", slow_there)
    thread, said = threading.Thread(target=kill), []
    thread.start()
    run.run(asked(), tmp_path / "ray", report=said.append, cluster=cluster)
    thread.join()
    assert any("a worker or its node died" in line and "will be run again" in line for line in said), said
    same_files(tmp_path / "ray", here)


def test_a_worker_that_always_dies_is_one_line(cluster, monkeypatch):
    monkeypatch.setattr(engines, "RETRIES", 1)

    def die(unit):
        os._exit(1)

    with pytest.raises(train.RunFailed) as error:
        list(cluster.run(die, [1], split=lambda unit: [], report=quiet, name=lambda unit: f"unit {unit}"))
    assert "a worker died 2 times while it ran unit 1" in str(error.value) and "\n" not in str(error.value)


def test_what_does_not_fit_into_memory_is_split(cluster, here, tmp_path, monkeypatch):
    def small(unit):
        if len(unit.seeds) > 1:
            raise MemoryError
        return TRAIN(unit)

    monkeypatch.setattr(lanes.units, "train", small)
    said = []
    run.run(asked(), tmp_path / "ray", report=said.append, cluster=cluster)
    assert any("lanes 1 to 2 will be run as" in line and "lane 1, " in line for line in said), said
    ours, theirs = (np.load(d / "curves.npz")["score"] for d in (tmp_path / "ray", here))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)  # lanes alone may round differently

    def never(unit):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.")

    monkeypatch.setattr(lanes.units, "train", never)
    with pytest.raises(train.RunFailed, match=r"^out of memory: a worker cannot hold program 1/1, lane \d, nor less$"):
        run.run(asked(), tmp_path / "none", report=quiet, cluster=cluster)


def test_ray_killing_a_worker_for_memory_counts_as_full_memory(cluster):
    assert cluster._fault(ray.exceptions.OutOfMemoryError("the node runs low"), "unit") == "memory"
    assert cluster._fault(ray.exceptions.WorkerCrashedError(), "unit") == "death"


@pytest.mark.parametrize("name", ["jax", "metarl_jax"])
def test_a_worker_of_another_version_is_refused(name, cluster, tmp_path, monkeypatch):
    monkeypatch.setitem(cluster.versions, name, "0.0.1")
    with pytest.raises(ConfigError, match=f"a worker refuses program 1/1, .*: {name} is .* there and 0.0.1 here"):
        run.run(asked(), tmp_path / "ray", report=quiet, cluster=cluster)


def test_a_failure_of_a_users_own_code_is_one_line(cluster):
    def broken(unit):
        raise ZeroDivisionError("of a unit")

    with pytest.raises(train.RunFailed, match=r"^ZeroDivisionError: of a unit \(test_ray_engine.py:\d+\)$"):
        list(cluster.run(broken, [1], split=lambda unit: [], report=quiet, name=str))


# --- going on -------------------------------------------------------------------------------------------


def test_what_has_ended_is_not_run_again_by_either_engine(cluster, here, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(line):
        if "/6  lanes" in line:
            raise Stop

    count = tmp_path / "count"
    count.mkdir()

    def counted(unit):
        (count / "-".join(map(str, unit.piece.lanes))).touch()
        return TRAIN(unit)

    monkeypatch.setattr("metarl_jax.runs.progress.EVERY_S", 0.0)
    with pytest.raises(Stop):
        run.run(asked(), tmp_path / "ray", report=stop, cluster=cluster)
    kept = [path.name for path in tmp_path.rglob("units/*")]
    assert len(kept) == 1
    monkeypatch.setattr(lanes.units, "train", counted)
    run.run(asked(), tmp_path / "ray", resume=True, report=quiet, cluster=cluster)
    assert len(list(count.iterdir())) == len(units.cut(6, 1, 2)) - 1
    same_files(tmp_path / "ray", here)

    with pytest.raises(Stop):  # begun by Ray, ended here
        run.run(asked(), tmp_path / "both", report=stop, cluster=cluster)
    run.run(asked(), tmp_path / "both", resume=True, report=quiet)
    same_files(tmp_path / "both", here)

    def stop_here(line):
        if "2/6 " in line:
            raise Stop

    with pytest.raises(Stop):  # begun here, ended by Ray
        run.run(asked(), tmp_path / "back", report=stop_here)
    run.run(asked(), tmp_path / "back", resume=True, report=quiet, cluster=cluster)
    same_files(tmp_path / "back", here)


def test_sigterm_ends_it_with_what_is_kept(cluster):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Terminated, match="--resume goes on"):
        list(cluster.run(time.sleep, [30.0], split=lambda unit: [], report=quiet, name=str))


# --- the command ----------------------------------------------------------------------------------------

OWN = """
import metarl_jax as mrl


def make(num_arms=3):
    return mrl.make("BernoulliBandit-v0", num_arms=num_arms)
"""


def test_the_command_finds_a_users_own_environment_and_says_little(nodes, tmp_path):
    (tmp_path / "my_bandit.py").write_text(OWN)
    (tmp_path / "c.yaml").write_text(
        "".join(f"{k}: {json.dumps(v)}\n" for k, v in {**BASE, "env": "my_bandit:make"}.items())
    )
    words = [sys.executable, "-m", "metarl_jax.cli", "sweep", "c.yaml", "lr=log(1e-3,1e-1)", "--trials", "3"]
    words += ["--seeds", "1", "--run-dir"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300}
    options["env"] = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}  # whose bits it has
    assert subprocess.run([*words, "local"], **options).returncode == 0
    done = subprocess.run([*words, "s", "--engine", "ray", "--address", nodes.address], **options)
    assert done.returncode == 0, done.stderr
    same_files(tmp_path / "s", tmp_path / "local")
    assert done.stdout.splitlines()[0].split()[:2] == ["trial", "lr"] and done.stdout.splitlines()[-1] == "s"
    lines = done.stderr.splitlines()
    assert len(lines) <= 6 and all("ray" not in line.lower() for line in lines), done.stderr


def test_a_cluster_that_does_not_answer_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "REACH_S", 6.0)
    words = ["sweep", "ppo_cartpole", "lr=log(1e-3,1e-1)", "--trials", "2", "--engine", "ray", "--address"]
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:  # something else that listens
        for port in (1, other.getsockname()[1]):
            began = time.perf_counter()
            assert main([*words, f"127.0.0.1:{port}", "--run-dir", "s"]) == 2
            assert time.perf_counter() - began < 30
            said = capsys.readouterr().err.strip().splitlines()
            assert said[-1].startswith(f"error: address = 127.0.0.1:{port}: no Ray cluster answers there"), said
    assert not (tmp_path / "s").exists()
