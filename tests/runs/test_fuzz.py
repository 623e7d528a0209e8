"""Whatever is asked of the command, it ends in a run or in one line: inputs made from the options themselves.

`make test` tries 60, in this process and without compiling a training. As processes with bounds on memory and time it
tries 500 of each kind, or FUZZ_EXAMPLES: `python -m pytest -m slow tests/runs/test_fuzz.py`. They are the same at each
call, and others with FUZZ_SEED=1, 2, ...
"""

import json
import os
import shutil
import signal
import string
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from metarl_jax.algorithms import registry
from metarl_jax.cli.main import main
from metarl_jax.runs import train
from metarl_jax.runs.build import build
from metarl_jax.runs.config import load, shipped_config, validate

MANY = int(os.environ.get("FUZZ_EXAMPLES", 500))
SEED = os.environ.get("FUZZ_SEED")
SMALL = {  # an example of each algorithm, as small as it can be
    "maml": "maml_ppo_point", "maml_trpo": "maml_trpo_point", "promp": "promp_point", "e_maml": "e_maml_point",
    "reptile": "reptile_point", "anil": "anil_point", "boil": "boil_point", "meta_sgd": "meta_sgd_point",
    "cavia": "cavia_point", "imaml": "imaml_point", "ppo": "ppo_cartpole", "meta_gradient_rl": "meta_gradient_cartpole",
    "lirpg": "lirpg_cartpole", "lpg": "lpg_tabular", "lpo": "lpo_cartpole", "rl2": "rl2_bandit",
    "varibad": "varibad_grid_navi", "supervised_maml": "maml_sinusoid",
}  # fmt: skip
TINY = {
    "num_iterations": 2, "checkpoint_every": 1, "iterations_per_call": 1, "meta_batch_size": 2, "episodes_per_task": 2,
    "num_envs": 2, "num_steps": 4, "num_minibatches": 1, "num_agents": 2, "lifetime": 4, "eval_tasks": 1,
    "eval_episodes": 1, "eval_updates": 1, "num_vae_updates": 1,
}  # fmt: skip


def base(algorithm):
    found = load(shipped_config(SMALL[algorithm]))
    data = found.model_dump()
    return {**data, **{k: v for k, v in TINY.items() if k in data and not (k == "num_agents" and algorithm == "lpo")}}


BASES = {name: base(name) for name in SMALL}
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 3, 2**31 - 1, 2**31, 2**63, -(2**70), 10**9, 10**30]),
    st.sampled_from([0.0, 1.0, 0.5, -1e-9, 1e-320, 1e308, -1e308, float("inf"), float("nan")]),
    st.integers(-5, 2000),
    st.floats(allow_nan=True),
)
SCALARS = st.one_of(NUMBERS, st.booleans(), st.none(), st.text(string.printable, max_size=12), st.dates().map(str))
VALUES = st.recursive(
    SCALARS,
    lambda inside: st.one_of(
        st.lists(inside, max_size=4), st.dictionaries(st.text(string.ascii_letters, max_size=5), inside, max_size=3)
    ),
    max_leaves=8,
)


def value_of(field):
    """Something for a key: what it takes, what it nearly takes, anything."""
    near = [st.just(field.default)] if not field.is_required() else []
    choices = [x for x in getattr(field.annotation, "__args__", ()) if isinstance(x, str)]
    near += [st.sampled_from(choices)] if choices else []
    return st.one_of(*near, st.integers(1, 8), st.floats(1e-3, 1.0), st.lists(st.integers(1, 8), max_size=3), VALUES)


@st.composite
def configurations(draw):
    algorithm = draw(st.sampled_from(sorted(SMALL)))
    fields = registry.entry(algorithm).options.model_fields
    data = dict(BASES[algorithm])
    for key in draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=3, unique=True)):
        what = draw(st.integers(0, 9))
        if what == 0:
            data.pop(key, None)
        elif what == 1:
            data[draw(st.text(string.ascii_lowercase + "_.", max_size=8)) or key[1:]] = data.pop(key, 1)
        elif key == "env":
            data[key] = draw(
                st.sampled_from(["BernoulliBandit-v0", "gymnax:Acrobot-v1", "Maze-v0", "XOR-v0", "no:way", "Nope"])
            )
        else:
            data[key] = draw(value_of(fields[key]))
    return data


@st.composite
def texts(draw):
    """YAML with a few characters changed, or none at all."""
    text = yaml.safe_dump(BASES[draw(st.sampled_from(sorted(SMALL)))])
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(text))), draw(st.integers(0, 6))
        new = draw(
            st.one_of(
                st.text(max_size=5),
                st.sampled_from(["\t", ": ", "[", "{", "&a ", "*a", "!!int ", "- ", "\x00", "0", "1:30", "'"]),
            )
        )
        text = text[:at] + new + text[at + length :]
    return text


WORDS = st.one_of(
    st.sampled_from(
        [
            "--resume",
            "--seeds",
            "--run-dir",
            "--trials",
            "--json",
            "--num-tasks",
            "--cells",
            "-1",
            "0",
            "a/b",
            "x=",
            "=x",
            "",
        ]
    ),
    st.sampled_from(
        ["maml_ppo_point", "ppo_cartpole", "maml", "nothing", "papers/rl2_tabular", "lr=log(1,0)", "seed=[1]"]
    ),
    st.text(string.printable, max_size=8),
)
LOOKING = ("check", "show", "evaluate", "film", "export", "compare", "report", "runs", "list", "chekc")  # train nothing
COMMANDS = (*LOOKING, "sweep", "train", "tune", "reproduce", "learn-optimizer")


@st.composite
def command_lines(draw, commands=COMMANDS):
    words = [draw(st.sampled_from(commands)), *draw(st.lists(WORDS, max_size=4))]
    return [word for word in words if "\x00" not in word]


@st.composite
def damages(draw):
    """(command, number of a file, what becomes of it)."""
    command = draw(
        st.sampled_from([["show"], ["report"], ["evaluate", "--no-baselines"], ["train", "--resume", "--run-dir"]])
    )
    how = draw(st.sampled_from(["cut", "flip", "empty", "remove", "directory", "bytes", "text", "json"]))
    content = draw(st.one_of(st.binary(max_size=40), VALUES.map(lambda v: json.dumps(v, allow_nan=True).encode())))
    return command, draw(st.integers(0, 10**6)), how, draw(st.floats(0, 1)), content


def damage(run, number, how, where, content):
    found = sorted(p for p in run.rglob("*") if p.is_file() and "tensorboard" not in p.parts)
    path = found[number % len(found)]
    whole = path.read_bytes()
    at = int(where * max(len(whole) - 1, 0))
    path.unlink()
    if how == "directory":
        path.mkdir()
    elif how == "flip":
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] if whole else b"\xff")
    elif how != "remove":
        path.write_bytes({"cut": whole[:at], "empty": b""}.get(how, content))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("fuzz") / "run"
    train.train(build(validate(BASES["maml"])), place, report=lambda _: None)
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory to be in, where what a command makes does no harm."""
    return tmp_path_factory.mktemp("place")


def judged(status, said):
    """What a command may end in: success, or one line (after those that say what it was doing)."""
    lines = [line for line in said.splitlines() if line.strip()]
    assert "Traceback" not in said and status in (0, 1, 2), said[-2000:]
    if status:
        assert lines and lines[-1].startswith("error: ") and len(lines[-1]) < 1500, said[-2000:]
        assert sum(line.startswith("error: ") for line in lines) == 1, said[-2000:]


def here(arguments, capsys):
    try:
        status = main(arguments)
    except SystemExit as end:  # argparse
        status = end.code
    judged(status, capsys.readouterr().err)
    return status


FEW = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}


def test_configurations_end_in_a_run_or_in_one_line(place, capsys):
    path, ends = place / "c.yaml", []

    @settings(max_examples=25, **FEW)
    @given(configurations())
    def attempt(data):
        path.write_text(yaml.safe_dump(data))
        ends.append(here(["check", str(path)], capsys))

    attempt()
    assert 0 in ends and 2 in ends


def test_texts_end_in_a_run_or_in_one_line(place, capsys):
    path = place / "t.yaml"

    @settings(max_examples=14, **FEW)
    @given(texts())
    def attempt(text):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        here(["check", str(path)], capsys)

    attempt()


def test_command_lines_end_in_one_line(place, capsys, monkeypatch):
    monkeypatch.chdir(place)

    @settings(max_examples=13, **FEW)
    @given(command_lines(LOOKING))
    def attempt(arguments):
        here(arguments, capsys)

    attempt()


def test_damaged_runs_end_in_one_line(run, place, capsys):
    @settings(max_examples=8, **FEW)
    @given(damages())
    def attempt(drawn):
        command, *how = drawn
        copy = place / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        damage(copy, *how)
        here([*command, str(copy)], capsys)

    attempt()


# --- as processes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """(arguments, folder): `metarl` as a process, judged by its status and what it said."""
    said = tmp_path_factory.mktemp("said") / "stderr"
    command = [sys.executable, str(Path(__file__).with_name("zygote.py"))]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as server:

        def attempt(arguments, folder):
            line = json.dumps({"arguments": arguments, "folder": str(folder), "stderr": str(said)})
            print(line, file=server.stdin, flush=True)
            status = int(server.stdout.readline())
            if -status != signal.SIGXCPU:  # a training that takes longer than its bound is a run
                judged(status, said.read_text(errors="replace"))

        yield attempt
        server.stdin.close()


SLOW = {**FEW, "max_examples": MANY, "derandomize": not SEED}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["configurations", "texts", "command_lines", "damages"])
def test_as_processes(kind, run, process, tmp_path):
    @(seed(int(SEED)) if SEED else lambda test: test)
    @settings(**SLOW)
    @given(
        {"configurations": configurations, "texts": texts, "command_lines": command_lines, "damages": damages}[kind]()
    )
    def attempt(drawn):
        place = Path(shutil.copytree(run, tmp_path / "run", dirs_exist_ok=False)) if kind == "damages" else tmp_path
        try:
            if kind == "damages":
                command, *how = drawn
                damage(place, *how)
                process([*command, str(place)], tmp_path)
            elif kind == "command_lines":
                process(drawn, tmp_path)
            else:
                text = yaml.safe_dump(drawn) if kind == "configurations" else drawn
                (tmp_path / "c.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
                process(["train", "c.yaml", "--run-dir", "made"], tmp_path)
        finally:
            for made in ("run", "made", "runs"):
                shutil.rmtree(tmp_path / made, ignore_errors=True)

    attempt()
