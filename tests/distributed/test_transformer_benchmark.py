"""The benchmark of policies with a memory: the FLOPs it counts are those of its products, and a tiny run is whole."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from benchmarks import accelerator_counts, context_learners, transformers
from metarl_jax.runs import config


@pytest.mark.parametrize("work", ["acting", "learning"])
def test_the_flops_counted_are_those_of_the_products(work):
    """Here every score is computed, masked or not: a step attends to the whole trial."""
    options = SimpleNamespace(size=64, num_layers=2, num_heads=4, context=64, remat=False, networks=["transformer"])
    _, policy, context, inputs = list(transformers.policies(options, 64, "float32"))[-1]
    params = jax.eval_shape(policy.init, jax.random.key(0))
    parameters = sum(x.size for x in jax.tree.leaves(params))
    x = jnp.zeros((64, 3, inputs))
    found = accelerator_counts.product_flops(jax.make_jaxpr(transformers.programs(policy)[work])(params, x))
    counted = transformers.model_flops(parameters, 2, 64, context, work == "learning") * 64 * 3
    assert found == pytest.approx(counted, rel=0.03)


def test_a_tiny_run_is_whole(tmp_path):
    words = ["--size", "4", "--length", "6", "--streams", "1", "--networks", "gru"]
    transformers.main([*words, "--matmul", "8", "--repeats", "1", "--output", str(tmp_path / "found.json")])
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert len(rows) == 1 + 2 and rows[0]["flop_per_s"] > 0
    for row in rows[1:]:
        assert row["utilisation"] == pytest.approx(row["flops_per_token"] * row["tokens_per_s"] / rows[0]["flop_per_s"])


@pytest.mark.parametrize("cell", context_learners.CELLS)
def test_every_cell_of_the_comparison_is_a_configuration_of_as_many_steps(cell):
    name, changes = context_learners.overrides(cell)
    found = config.load(config.paper_config(name), changes)
    steps = found.num_episodes * (10 if name == "rl2_tabular" else 1) * found.meta_batch_size
    assert steps * found.num_iterations == pytest.approx(context_learners.STEPS, rel=0.05)
    assert cell == f"{'tabular' if 'tabular' in name else 'bandit'}-{found.network}-{found.seed}"
