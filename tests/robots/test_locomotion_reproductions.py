"""The reproductions on walking robots, at a size that means nothing: they train, go on, judge and draw."""

import pytest

pytest.importorskip("mujoco")

from metarl_jax.reproductions import locomotion, reproduce  # noqa: E402

TINY = {"num_seeds": 2, "eval_tasks": 2, "eval_episodes": 2, "horizon": 5}
BY_GRADIENT = {"meta_batch_size": 2, "episodes_per_task": 2}
ON_TRIALS = {"meta_batch_size": 2, "trials_per_task": 2, "num_minibatches": 2, "num_epochs": 1}


def test_cells_train_and_are_judged(tmp_path, monkeypatch):
    real = locomotion.configuration

    def small(family, method):
        sizes = ON_TRIALS if method in locomotion.LEARN_BY_ACTING else BY_GRADIENT
        return real(family, method).model_copy(update={**TINY, **sizes, "num_iterations": 2})

    monkeypatch.setattr(locomotion, "configuration", small)
    result = reproduce("halfcheetah-dir", tmp_path, lambda _: None, ("promp", "rl2", "rivals"))
    claims = [claim["what"] for claim in result["claims"]]
    of_a_method = ("return before adaptation", "return after adaptation", "gain by adapting")
    assert claims == [
        *(f"{method}: {what}" for method in ("promp", "rl2") for what in of_a_method),
        "promp: more than one policy for all tasks, fine-tuned",
        "one policy for all tasks, fine-tuned: more than random initialisation, adapted",
    ]
    assert (tmp_path / "halfcheetah-dir.png").stat().st_size > 5000
    again = reproduce("halfcheetah-dir", tmp_path, lambda _: None, ("promp",))
    assert again["claims"] == result["claims"], "the records of the others stand"
    assert {p.name for p in tmp_path.glob("*.png")} >= {"halfcheetah-dir-trials.png", "halfcheetah-dir-per-step.png"}
