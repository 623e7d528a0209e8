"""The accelerator benchmark at tiny sizes on a CPU: its record, its budget, its counts on known loops."""

import json
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import accelerator, accelerator_counts, accelerator_rows, accelerator_session, unrolling
from metarl_jax import tree
from metarl_jax.rl.returns import gae


def run(tmp_path, *words):
    path = tmp_path / "found.json"
    accelerator.main(["--small", "--repeats", "1", "--output", str(path), *words])
    return json.loads(path.read_text())


def test_every_part_has_rows_and_a_failure_does_not_end_the_others(tmp_path, monkeypatch, capsys):
    rl2 = accelerator_rows.rl2

    def fails(session, network, *rest):
        if network == "transformer":
            raise RuntimeError("RESOURCE_EXHAUSTED: no room\nand much more")
        return rl2(session, network, *rest)

    monkeypatch.setattr(accelerator_rows, "rl2", fails)
    found = run(tmp_path)
    rows = found["rows"]
    assert {row["part"] for row in rows} == set(accelerator.PARTS)
    assert found["versions"]["jax"] == jax.__version__ and found["command"].endswith("--small")
    assert not [row for row in rows if "skipped" in row]
    assert [row["failed"] for row in rows if "failed" in row] == ["RuntimeError: RESOURCE_EXHAUSTED: no room"]
    for row in rows:
        assert row["device"] == "cpu" and row["versions"]["jax"] == jax.__version__
        if row["part"] in "abcde" and "failed" not in row and "missing" not in row:
            assert row["compile_s"] > 0 and row["run_s"] > 0 and row["needed_mb"] > 0 and row["at_a_time"] >= 1
        if row["part"] in "abd" and "run_s" in row:
            assert row["env_steps_per_s"] == pytest.approx(row["env_steps"] / row["run_s"])
    by_work = {row["work"]: row for row in rows}
    assert by_work["meta-gradient, 1 inner step, mixed"]["times_less_memory"] > 1
    wide = by_work["meta-gradient, mixed, 1 inner steps, float64"]["differences"]
    assert 1e-9 < wide["default"]["relative"] < 1e-4 and wide["default"]["cosine"] == pytest.approx(1)
    top = by_work["kernels of ProMP, 2"]["top"]
    assert len(top) == 10 and top[0]["ms"] >= top[-1]["ms"] > 0
    reached = by_work["rates of ProMP, 2"]
    assert reached["flops"] > 0 and reached["matmul_share"] > 0 and reached["loops_counted_once"] == 0
    assert "NAVIX" in capsys.readouterr().out


def test_rows_to_beat_are_set_beside_ours(tmp_path, monkeypatch):
    times = iter([10.0, 30.0])
    ours = lambda *_: SimpleNamespace(facts=dict(run_s=1.0, runs=1, iterations=5, iteration_ms=next(times)))  # noqa: E731
    monkeypatch.setattr(accelerator_rows, "ppo", ours)
    peer = {"available": True, "run_wall_s": 2.0, "compile_s": 1.0, "env_steps": 5120}
    asked = []
    monkeypatch.setattr(accelerator_rows.peers, "rejax_ppo", lambda *x, **_: asked.append(x) or peer)
    monkeypatch.setattr(accelerator_rows.importlib.metadata, "version", lambda _: "0")
    session = accelerator_session.Session(tmp_path / "a.json", 60, 1)
    accelerator.part_a(session, accelerator_rows.Sizes(members=(1, 64)), {})
    assert [row.get("times_one") for row in session.rows] == [1.0, 1.0, 3.0, 1.0]
    assert asked == [(1, 5 * 512), (64, 5 * 512)]
    table = accelerator.report(session, "a")
    assert "668,700,000" in table and "2,560" in table


def test_without_time_everything_is_skipped(tmp_path):
    found = run(tmp_path, "--minutes", "0")
    assert {row["part"] for row in found["rows"]} == set(accelerator.PARTS)
    assert all(row["skipped"] == f"needs about {row['skipped'].split()[2]} s, 0 s left" for row in found["rows"])


def test_the_budget(tmp_path):
    """Estimates grow with the size, a large one is skipped, and the file is whole at every row."""
    path = tmp_path / "b.json"
    session = accelerator_session.Session(path, minutes=1, repeats=3)
    session.row("b", "small", lambda: {"run_s": 0.5, "runs": 3}, group="g", size=2)
    assert session.needs("g", 20, 0) == pytest.approx(20, abs=1)
    assert session.needs("another", 20, 7) == 7
    assert "a row may take 15 s" in session.row("b", "large", dict, group="g", size=20)["skipped"]
    assert "s left" in session.row("b", "huge", dict, group="g", size=2000)["skipped"]
    session.row("b", "reads", lambda: {"seen": [r["work"] for r in json.loads(path.read_text())["rows"]]})
    assert session.rows[-1]["seen"] == ["small", "large", "huge"]
    session.deadline = time.perf_counter()
    assert len(session.timed(lambda: None, ())["run_s_all"]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]


def test_as_many_at_a_time_as_the_memory_holds(monkeypatch):
    x = jnp.ones((64, 1000))

    def make(size):
        return lambda x: jax.lax.map(lambda row: jnp.sort(jnp.sin(row))[::-1], x, batch_size=size).sum()

    def fixed_and_temporary(size):
        return accelerator_session.needed(jax.jit(make(size)).lower(x).compile())

    assert accelerator_session.compile_to_fit(make, (x,), 64).at_a_time == 64
    room = sum(fixed_and_temporary(16)) / accelerator_session.MEMORY_SHARE
    assert sum(fixed_and_temporary(32)) > sum(fixed_and_temporary(16))
    monkeypatch.setattr(accelerator_session, "device_memory", lambda: room)
    program = accelerator_session.compile_to_fit(make, (x,), 64)
    assert program.at_a_time in (8, 16) and program.facts["needed_mb"] * 1e6 <= room
    monkeypatch.setattr(accelerator_session, "device_memory", lambda: 1000)
    with pytest.raises(MemoryError, match="1 at a time"):
        accelerator_session.compile_to_fit(make, (x,), 64)


def test_what_runs_out_of_memory_is_tried_smaller():
    def make(size):
        def call(x):
            if size > 2:
                raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
            return x

        return lambda x: jax.pure_callback(call, x, x)

    assert accelerator_session.compile_to_fit(make, (jnp.ones(3),), 8).at_a_time == 2
    with pytest.raises(Exception, match="RESOURCE_EXHAUSTED"):
        accelerator_session.compile_to_fit(make, (jnp.ones(3),), 8, least=4)


def test_counts_on_known_loops():
    found = accelerator_counts.check(n=64, length=7)
    assert found["flops_over_truth"] == 1
    assert found["traffic_over_truth"] == pytest.approx(1, rel=0.01)
    assert found["cost_analysis_flops_over_truth"] == pytest.approx(1 / 7, rel=0.05)  # why the counts are our own


def test_counts_agree_with_xla_where_nothing_loops():
    def loss(weights, x):
        for w in weights:
            x = jnp.tanh(x @ w)
        return (x**2).mean()

    arguments = [jnp.ones((32, 64)), jnp.ones((64, 8))], jnp.ones((1000, 32))
    compiled = jax.jit(jax.grad(loss)).lower(*arguments).compile()
    moved, unknown = accelerator_counts.traffic(compiled.as_text())
    assert moved == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=0.01) and unknown == 0
    layers = 2 * 1000 * (32 * 64 + 64 * 8)
    backward = 2 * 1000 * (32 * 64 + 2 * 64 * 8)  # no gradient in x
    assert accelerator_counts.product_flops(jax.make_jaxpr(jax.grad(loss))(*arguments)) == layers + backward


PROGRAM = """
%fused (p0: f32[7,10], p1: f32[7,10], p2: s32[]) -> f32[7,10] {
  %p0 = f32[7,10]{1,0} parameter(0)
  %p1 = f32[7,10]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %slice = f32[1,10]{1,0} dynamic-slice(%p1, %p2, %zero), dynamic_slice_sizes={1,10}
  ROOT %update = f32[7,10]{1,0} dynamic-update-slice(%p0, %slice, %p2, %zero)
}

%body (arg: (s32[], f32[7,10], f32[7,10])) -> (s32[], f32[7,10], f32[7,10]) {
  %arg = (s32[], f32[7,10]{1,0}, /*index=2*/f32[7,10]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %a = f32[7,10]{1,0} get-tuple-element(%arg), index=1
  %b = f32[7,10]{1,0} get-tuple-element(%arg), index=2
  %f = f32[7,10]{1,0} fusion(%a, %b, %i), kind=kLoop, calls=%fused
  ROOT %t = (s32[], f32[7,10]{1,0}, f32[7,10]{1,0}) tuple(%i, %f, %b)
}

%condition (arg: (s32[], f32[7,10], f32[7,10])) -> pred[] {
  %arg = (s32[], f32[7,10]{1,0}, f32[7,10]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (x: f32[7,10], y: bf16[10,10]) -> (s32[], f32[7,10], f32[7,10]) {
  %x = f32[7,10]{1,0} parameter(0)
  %y = bf16[10,10]{1,0} parameter(1)
  %start = s32[] constant(0)
  %gemm = (f32[7,10]{1,0}, s8[4096]{0}) custom-call(%x, %y), custom_call_target="__cublas$gemm"
  %product = f32[7,10]{1,0} get-tuple-element(%gemm), index=0
  %tuple = (s32[], f32[7,10]{1,0}, f32[7,10]{1,0}) tuple(%start, %x, %product)
  ROOT %loop = (s32[], f32[7,10]{1,0}, f32[7,10]{1,0}) while(%tuple), condition=%condition, body=%body, KNOWN
}
"""


def test_traffic_of_a_program_as_a_gpu_has_it():
    """A library's product without its scratch space, and a loop that copies a row at a time."""
    product, a_turn = 4 * 70 + 2 * 100 + 4 * 70, 40 + 4 + 40  # the row in, the index in, the row out
    known = PROGRAM.replace("KNOWN", 'backend_config={"known_trip_count":{"n":"7"}}')
    assert accelerator_counts.traffic(known) == (product + 7 * a_turn, 0)
    assert accelerator_counts.traffic(PROGRAM.replace(", KNOWN", "")) == (product + a_turn, 1)


def test_kernels_of_a_gpu_are_those_of_its_streams():
    event, gpu = accelerator_counts.Event, "/device:GPU:0"
    streams = [event(gpu, "Stream #13(Compute)", *x) for x in (("gemm", 300.0), ("gemm", 300.0), ("add", 200.0))]
    others = [event(gpu, "XLA Ops", "gemm", 600.0), event("/host:CPU", "tf_XLAEigen/1", "gemm", 9e9)]
    found = accelerator_counts.kernels(streams + others, "")
    assert found["kernel_ms"] == pytest.approx(0.8) and found["lines"] == "device"
    assert found["top"][0] == {"kernel": "gemm", "ms": pytest.approx(0.6), "share": 0.75, "calls": 2}
    with pytest.raises(ValueError, match="XLA Ops"):
        accelerator_counts.kernels(others, "")


def test_every_run_of_a_kernel_is_in_the_trace():
    def products(x):
        return jax.lax.scan(lambda y, _: (jnp.tanh(y @ x), None), x, None, length=300)[0]

    x = jnp.ones((64, 64))
    compiled = jax.jit(products).lower(x).compile()
    events, seconds = accelerator_counts.traced(lambda: compiled(x))
    found = accelerator_counts.kernels(events, compiled.as_text())
    assert found["top"][0]["calls"] == 300 and seconds > 0


def test_the_difference_of_two_gradients():
    found = accelerator_rows.difference(np.array([3.0, 4.0]), np.array([3.0, 0.0]))
    assert found == {"relative": pytest.approx(4 / 3), "cosine": pytest.approx(0.6)}


def test_unrolled_loops_have_the_same_results(monkeypatch, x64):
    """Whole turns and what is left of them, values and derivatives."""
    reward, value = (jax.random.normal(jax.random.key(i), (11, 3), jnp.float64) for i in range(2))
    ends = jnp.zeros((11, 3), bool)

    def total(reward):
        return (gae(reward, value, value + 1, ends, ends, 0.9, 0.8) ** 2).sum()

    plain = jax.value_and_grad(total)(reward)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "unroll=4" in str(jax.make_jaxpr(total)(reward))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(jax.value_and_grad(total)(reward)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_the_unrolling_benchmark(tmp_path, capsys):
    path = tmp_path / "u.json"
    unrolling.main(["--small", "--unroll", "1", "--output", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 4 and all(row["times_faster"] == 1 and row["unroll"] == 1 for row in rows)
    assert tree.UNROLLED_STEPS == 4 and "RL2 gru" in capsys.readouterr().out
