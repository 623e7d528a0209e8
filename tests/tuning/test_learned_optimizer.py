"""The protocol that the learned optimiser is judged by: who passes it, and what it must keep apart."""

import numpy as np
import pytest

from metarl_jax.reproductions import learned_optimizer as protocol
from metarl_jax.tuning import landscapes
from metarl_jax.tuning.landscape_families import FAMILIES


def scores_of(gain):
    rng = np.random.default_rng(0)
    moments = {(m, t): 0.5 + 0.05 * rng.standard_normal(20) for m, ts in protocol.MOMENTS.items() for t in ts}
    moments |= {("best fixed", 1): 0.5 + 0.05 * rng.standard_normal(20), ("PBT", 16): np.full(20, 0.4)}
    moments["meta-gradients", 1] = moments["best fixed", 1] + 0.03
    moments["learned", 16] = moments["learned", 16] + gain
    return {name: dict(moments) for name in protocol.HELD_OUT}


@pytest.mark.parametrize("gain, passes", [(0.2, True), (-0.2, False)])
def test_the_protocol_passes_only_an_optimiser_that_is_better(gain, passes):
    found = {c.what: c for c in protocol.claims(scores_of(gain))}
    assert found["learned - random, 16 trials"].passed is passes
    assert found["learned, 16 trials - best fixed"].passed is passes
    assert found["learned - random, 16 trials"].ours == pytest.approx(gain, abs=0.05)
    assert found["meta-gradients - best fixed, 1 trial"].ours == pytest.approx(0.03)


def test_meta_gradients_take_the_steps_of_one_trial(monkeypatch):
    """As many scores as searches, no two alike: agents with seeds of their own that all learned something."""
    monkeypatch.setattr(protocol, "SEARCHES", 2)
    config = landscapes.tuned_config(
        FAMILIES["tabular"], num_iterations=4, num_envs=2, num_steps=20, iterations_per_call=1, checkpoint_every=1
    )
    scores = protocol._meta_gradient(config, np.full(7, 0.4))
    assert scores.shape == (2,) and np.isfinite(scores).all() and scores[0] != scores[1]


def test_held_out_families_are_not_learned_from():
    assert len(protocol.HELD_OUT) >= 4 and not set(protocol.HELD_OUT) & set(protocol.TRAINING)
    assert protocol.NEW_TASK not in landscapes.TASKS and protocol.SEARCHES >= 20
