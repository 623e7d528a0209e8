"""Several processes train what one trains; one that is lost ends the run in one line, and it goes on from there."""

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from problems import relative_error
from processes import METARL, ends, environment, start

import metarl_jax as mrl

PPO = {
    "algorithm": "ppo", "env": "BernoulliBandit-v0", "num_iterations": 6, "num_envs": 2, "num_steps": 8, "hidden": [8],
    "num_seeds": 8, "anneal_lr": False, "num_epochs": 2, "num_minibatches": 2, "checkpoint_every": 1, "eval_every": 3,
    "iterations_per_call": 1,
}  # fmt: skip
PROMP = {
    "algorithm": "promp", "env": "PointNavigation-v0", "num_iterations": 1, "meta_batch_size": 8, "horizon": 5,
    "episodes_per_task": 4, "hidden": [8], "outer_epochs": 2,
}  # fmt: skip
LONG = {**PPO, "num_iterations": 100_000, "eval_every": None}


def written(folder, data):
    path = folder / "config.yaml"
    path.write_text(json.dumps(data))
    return path


def digest_of(run):
    newest = max((p for p in (run / "checkpoints").iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
    return json.loads((newest / "digest" / "metadata").read_text())["sha256"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of `PPO` by one process with one device."""
    folder = tmp_path_factory.mktemp("alone")
    command = [*METARL, "train", written(folder, PPO), "--run-dir", folder / "run"]
    subprocess.run(command, check=True, env=environment(1), capture_output=True)
    return folder / "run"


def same_run(one, other):
    for name in ("metrics.jsonl", "held_out.jsonl"):
        assert (one / name).read_text() == (other / name).read_text(), name
    assert digest_of(one) == digest_of(other)


@pytest.mark.parametrize("number", [2, 4])
def test_processes_train_what_one_does(alone, tmp_path, number):
    run = tmp_path / "run"
    found = ends(start([[written(tmp_path, PPO), "--run-dir", run]] * number))
    assert [status for status, _ in found] == [0] * number, found
    assert found[0][1][0] == f"{run}\n"
    assert (run / "learning_curve.png").exists()
    assert f"{2 * number} devices of {number} processes" in found[0][1][1]
    for _, (output, messages) in found[1:]:
        assert (output, messages) == ("", "")
    same_run(alone, run)


def slurm(place):
    told = {"JOB_ID": os.getpid(), "STEP_NODELIST": "localhost", "NTASKS": 2, "PROCID": place, "LOCALID": place}
    return {f"SLURM_{name}": str(value) for name, value in told.items()}


def open_mpi(place):
    uri = f"{os.getpid() * 2**12}.0;tcp://127.0.0.1:1"
    told = {"COMM_WORLD_SIZE": 2, "COMM_WORLD_RANK": place, "COMM_WORLD_LOCAL_RANK": place, "MCA_orte_hnp_uri": uri}
    return {f"OMPI_{name}": str(value) for name, value in told.items()}


@pytest.mark.parametrize("cluster", [slurm, open_mpi])
def test_what_a_cluster_tells_is_found(tmp_path, cluster):
    config = written(tmp_path, {**PPO, "num_iterations": 1, "eval_every": None})
    found = ends(start([[config, "--run-dir", tmp_path / "run"]] * 2, [cluster(0), cluster(1)]))
    assert [status for status, _ in found] == [0, 0], found
    assert "4 devices of 2 processes" in found[0][1][1] and (tmp_path / "run" / "learning_curve.png").exists()


def test_the_commands_of_the_page_run(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "how-to" / "many-hosts.md"
    (block,) = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), flags=re.S | re.M)
    small = " ".join(f"{key}={value}" for key, value in PROMP.items() if isinstance(value, int))
    assert block.count("metarl train promp_point") == 1
    command = block.replace("metarl train promp_point", f"{shlex.join(METARL)} train promp_point {small}")
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment(2), capture_output=True, text=True)
    assert done.stdout == "runs/two\n", done.stderr
    assert (tmp_path / "runs" / "two" / "learning_curve.png").exists()


def test_tasks_are_shared_by_processes(x64, tmp_path):
    """In double precision nothing but the order of sums is left between them."""
    config = written(tmp_path, PROMP)
    double = {"JAX_ENABLE_X64": "1"}
    command = [*METARL, "train", config, "--run-dir", tmp_path / "one"]
    subprocess.run(command, check=True, env=environment(1, **double), capture_output=True)
    found = ends(start([[config, "--run-dir", tmp_path / "two"]] * 2, **double))
    assert [status for status, _ in found] == [0, 0], found
    one, two = (mrl.load_run(tmp_path / name).params for name in ("one", "two"))
    assert {x.dtype for x in jax.tree.leaves(one)} == {np.dtype("float64")}
    assert relative_error(two, one) < 1e-10


def worker_of(process):
    end = time.monotonic() + 60
    while True:
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True).stdout.split()
        if found:
            return int(found[0])
        assert time.monotonic() < end
        time.sleep(0.1)


def is_running(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for_checkpoint(run, processes):
    end = time.monotonic() + 300
    while not any(p.name.isdecimal() for p in run.glob("checkpoints/*")):
        assert time.monotonic() < end and all(p.poll() is None for p in processes), ends(processes)
        time.sleep(0.2)


KILLER = """
import os, time
from pathlib import Path

def tell(row):
    target = Path("target")
    if row["iteration"] == 4 and not Path("done").exists():
        while not target.exists():
            time.sleep(0.1)
        Path("done").touch()
        os.kill(int(target.read_text()), 9)
"""


@pytest.mark.parametrize("who", ["worker 0", "worker 1", "parent 1"])
def test_a_process_that_is_killed_ends_the_run_and_it_goes_on(alone, tmp_path, monkeypatch, who):
    """After the metrics of iteration 4 are written, before its checkpoint; one process goes on to the same metrics."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "killer.py").write_text(KILLER)
    run, config = tmp_path / "run", written(tmp_path, {**PPO, "log_to": ["killer:tell"]})
    processes = start([[config, "--run-dir", run]] * 2)
    kind, place = who.split()
    workers = [worker_of(p) for p in processes]
    (tmp_path / "whole").write_text(str(processes[int(place)].pid if kind == "parent" else workers[int(place)]))
    (tmp_path / "whole").rename(tmp_path / "target")
    processes[0].wait(timeout=300)
    found = ends(processes, within=60)
    for i, (status, (_, messages)) in enumerate(found):
        if kind == "parent" and i == int(place):
            continue
        assert status == 1
        last = messages.splitlines()[-1]
        what = "was ended by SIGKILL" if i == int(place) else "has lost another one"
        assert last.startswith(f"error: process {i} of 2 {what}"), messages
        assert last.endswith("with --resume go on from the checkpoint of iteration 3")
        assert messages.count("error:") == 1 and "Traceback" not in messages and "coordination" not in messages
    end = time.monotonic() + 20
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.2)
    if who != "worker 0":
        return  # what is left is as it is there
    command = [*METARL, "train", config, "--run-dir", run, "--resume"]
    one = subprocess.run(command, env=environment(1), capture_output=True, text=True)
    assert one.returncode == 0 and "resuming after iteration 3 of 6" in one.stderr, one.stderr
    same_run(alone, run)


def test_termination_of_one_process_saves_all(tmp_path):
    run = tmp_path / "run"
    processes = start([[written(tmp_path, LONG), "--run-dir", run]] * 2)
    wait_for_checkpoint(run, processes)
    processes[1].terminate()
    for status, (_, messages) in ends(processes, within=60):
        assert status == 143
        assert messages.splitlines()[-1].startswith("terminated; --resume goes on from the checkpoint of iteration")


def test_processes_that_do_not_come_are_one_line(tmp_path):
    first = start([[written(tmp_path, PPO), "--run-dir", tmp_path / "run", "--start-timeout", "5"]] * 2)
    first[1].kill()
    status, (_, messages) = ends(first[:1], within=60)[0]
    assert status == 1
    assert messages.splitlines() == [
        "error: the other processes did not come in time; start all of them, with the same --coordinator; "
        "no checkpoint had been written"
    ]


def test_processes_of_different_configurations_are_refused(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    configs = written(tmp_path, PPO), written(other, LONG)
    found = ends(start([[config, "--run-dir", tmp_path / "run"] for config in configs]), within=120)
    assert found[0][0] == 2 and found[1][0] in (1, 2)
    assert "error: the processes do not train the same" in found[0][1][1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", [(0, 1), (1,)], ids=["in both", "in one"])
def test_a_mistake_ends_all_processes(tmp_path, wrong):
    """Each says it in one line; one that has made none says that another has."""
    other = tmp_path / "other"
    other.mkdir()
    configs = [written(tmp_path, PPO), written(other, {**PPO, "lr": -1})]
    words = [[configs[i in wrong], "--run-dir", tmp_path / "run"] for i in range(2)]
    for i, (status, (_, messages)) in enumerate(ends(start(words), within=60)):
        expected = "error: lr = -1" if i in wrong else "error: another process has refused to begin; it says why"
        assert status == 2 and messages.startswith(expected) and len(messages.splitlines()) == 1, messages
    assert not (tmp_path / "run").exists()
