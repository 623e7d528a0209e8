"""Records of cells: what is read is what was written, a table is judged by all of them, a damaged one is one line."""

import json

import numpy as np
import pytest

from metarl_jax.options import ConfigError
from metarl_jax.reproductions import NO_RULE, REPRODUCTIONS, Claim, records

CLAIMS = [Claim("a: gain", 1.5, (1.0, 2.0), "interval > 0", True), Claim("a: return", 3.0, None, NO_RULE, True)]
OTHER = [Claim("b: gain", -1.0, (-2.0, 0.5), "interval > 0", False, 3.0, 4.0)]
STEPS = np.arange(1, 251) * 1000
VALUES = np.random.default_rng(0).normal(size=(250, 3, 2))


def test_what_is_read_is_what_was_written(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "timing.jsonl").write_text("".join(f'{{"iteration": {i}, "seconds": 1.5}}\n' for i in (1, 2)))
    values = VALUES.copy()
    values[0, 1, 0] = np.nan
    records.write(tmp_path, "a", CLAIMS, (STEPS, values), run)
    found = records.read(tmp_path, ("b", "a"))
    assert list(found) == ["a"] and found["a"].claims == CLAIMS
    steps, kept = found["a"].curve
    assert len(steps) == records.POINTS and (steps[0], steps[-1]) == (STEPS[0], STEPS[-1])
    np.testing.assert_allclose(kept, values[np.searchsorted(STEPS, steps)], rtol=1e-5)
    assert found["a"].about["training_seconds"] == 3 and "jax" in found["a"].about["versions"]


def test_a_table_takes_the_records_of_other_machines(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    records.write(there, "a", CLAIMS, (STEPS, VALUES))
    records.write(there, "b", CLAIMS)
    records.write(here, "b", OTHER)
    records.bring(there / records.FOLDER, here / records.FOLDER)
    found = records.read(here, ("a", "b", "c"))
    assert records.claims_of(found) == CLAIMS + OTHER, "what is found here stands"
    assert list(records.curves_of(found, ("a", "c"))) == ["a"]
    assert records.curves_of(found, ("a", "b")) == {}, "a picture without the curve of b would miss it"
    records.bring(here / records.FOLDER, there / records.FOLDER, anew=True)
    assert records.claims_of(records.read(there, ("b",))) == OTHER
    records.bring(tmp_path / "nowhere", here / records.FOLDER)


@pytest.mark.parametrize("text", ["{}", '{"claims": [{}], "curve": null, "about": {}}', "[]", "{", '{"claims": 3}'])
def test_a_damaged_record_is_one_line(text, tmp_path):
    (tmp_path / records.FOLDER).mkdir()
    (tmp_path / records.FOLDER / "a.json").write_text(text)
    with pytest.raises(ConfigError, match="^record .*a.json: ") as error:
        records.read(tmp_path, ("a",))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["halfcheetah-dir", "meta-world-ml1"])
def test_the_records_in_docs_are_those_of_the_results(name, request):
    docs = request.config.rootpath / "docs" / "reproductions"
    claims = [c for path in sorted((docs / name).glob("*.json")) for c in json.loads(path.read_text())["claims"]]
    result = json.loads((docs / f"{name}.json").read_text())
    assert sorted(c["what"] for c in claims) == sorted(c["what"] for c in result["claims"])
    assert {p.stem for p in (docs / name).glob("*.json")} <= set(REPRODUCTIONS[name].cells)
