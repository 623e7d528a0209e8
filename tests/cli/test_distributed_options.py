"""The options of several processes: what does not fit together is one line, before anything starts."""

import io

import pytest

from metarl_jax.cli import distributed
from metarl_jax.cli.main import main

SEVERAL = {"--coordinator": "node1:12345", "--num-processes": "2", "--process-id": "1"}


def words(change):
    given = {**SEVERAL, "--run-dir": "x", **change}
    return ["train", "maml_ppo_point", "--distributed", *(y for x in given.items() if x[1] is not None for y in x)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"--run-dir": None}, "--distributed: needs --run-dir, a directory on a file system that all processes share"),
        ({"--process-id": None}, "--distributed: --coordinator and --num-processes need --process-id beside it"),
        ({"--num-processes": "0"}, "--num-processes 0: must be at least 1"),
        ({"--process-id": "2"}, "--process-id 2: must be from 0 to 1, as there are 2 processes"),
        ({"--coordinator": "node1"}, "--coordinator node1: must be HOST:PORT of process 0, such as node1:12345"),
        ({"--coordinator": "node1:99999"}, "--coordinator node1:99999: must be HOST:PORT"),
        ({"--start-timeout": "0"}, "--start-timeout 0: must be at least 1 second"),
    ],
)
def test_a_mistake_is_one_line(capsys, tmp_path, monkeypatch, change, expected):
    monkeypatch.chdir(tmp_path)
    assert main(words(change)) == 2
    messages = capsys.readouterr().err
    assert messages.startswith(f"error: {expected}") and messages.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_options_without_the_switch(capsys):
    assert main(["train", "maml_ppo_point", "--process-id", "0"]) == 2
    assert capsys.readouterr().err == "error: --process-id: is for --distributed, which is not given\n"


def test_what_people_read_is_passed_on_and_what_cpp_writes_is_not(capsys):
    heard = distributed._Heard()
    heard.listen(
        io.StringIO(
            "\x1eplace 1 4\n"
            "[Gloo] Rank 0 is connected to 1 peer ranks. Expected number of connected peer ranks is : 1\n"
            "compiled in 2.0 s\n"
            "W1127 22:22:15.734121    6816 preemption_sync_manager.cc:147] Failed to retrieve\n"
            "Additional GRPC error information from remote target coordination_service\n"
            ":UNKNOWN:Error received from peer\n"
            "1/8  episode_return\n"
            "E1127 22:22:13.660912    6628 coordination_service.cc:1549] Use error polling:\n"
            "1\n"
            "The tasks have crashed. Check the task logs\n"
            "F1127 22:22:13.661586    6639 client.h:80] Terminating process because the JAX distributed service\n"
            "*** Check failure stack trace: ***\n"
            "    @     0x7f808b540634  absl\n"
        )
    )
    assert capsys.readouterr().err == "compiled in 2.0 s\n1/8  episode_return\n"
    assert heard.why(-6) == "process 1 of 4 has lost another one, which has ended or cannot be reached"
