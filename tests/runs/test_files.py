"""Files beside a checkpoint: written whole or not at all; whatever stands there instead is one line."""

import errno
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from metarl_jax.options import ConfigError
from metarl_jax.runs import files

ROOT = os.geteuid() == 0 if hasattr(os, "geteuid") else False


def one_line(call, *args):
    with pytest.raises(ConfigError) as error:
        call(*args)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    files.write_whole(path, "old")
    with pytest.raises(RuntimeError), files._replacing(path) as part:
        part.write_text("half of the n")
        raise RuntimeError("the disk is full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    files.write_arrays(tmp_path / "a.npz", {"x": np.arange(3)})
    assert files.read_arrays(tmp_path / "a.npz", "arrays", "x")["x"].tolist() == [0, 1, 2]


def test_the_system_s_errors_are_worded(tmp_path):
    (tmp_path / "file").write_text("")
    assert "something on the way to it is a file" in one_line(files.make_directory, tmp_path / "file" / "run", "run")
    assert "the name is too long" in one_line(files.make_directory, tmp_path / ("a" * 300), "run")
    assert "is a directory" in one_line(files.read_text, tmp_path, "config")
    assert "there is no such file" in one_line(files.read_text, tmp_path / "no", "config")
    assert files.reason(OSError(errno.ENOSPC, "No space left on device")) == "no space is left on the device"
    assert files.reason(OSError("something else\nin two lines")) == "something else"


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_to_is_refused_before_anything_is_computed(tmp_path):
    tmp_path.chmod(0o500)
    assert "permission denied" in one_line(files.check_writable, tmp_path, "run")
    tmp_path.chmod(0o700)


DAMAGED_JSON = [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"[" * 100_000, b'{"a": 1} {"b": 2}', b"null", b"nan"]


@pytest.mark.parametrize("content", DAMAGED_JSON, ids=range(len(DAMAGED_JSON)))
def test_what_is_not_json_of_the_kind_is_one_line(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_bytes(content)
    assert "is damaged" in one_line(files.read_json, path, "evaluation")


GOOD = '{"iteration": 1, "loss": 0.5, "return": [1.0, null]}\n'
DAMAGED_ROWS = {
    "{": 1,
    GOOD + "\n": 2,
    GOOD + "[]\n": 2,
    '{"loss": 1}\n': 1,
    '{"iteration": "one"}\n': 1,
    GOOD + '{"iteration": 2, "loss": "low", "return": [1.0, 2.0]}\n': 2,
    GOOD + '{"iteration": 2, "loss": 0.5, "return": [1.0]}\n': 2,
    GOOD + '{"iteration": 2, "loss": {"a": 1}}\n': 2,
    GOOD + '{"iteration": 2, "late": [1.0]}\n{"iteration": 3, "late": [1.0, 2.0]}\n': 3,
    '{"iteration": 1, "loss": []}\n': 1,
    '{"iteration": 1%s}\n' % ("0" * 400): 1,
}


@pytest.mark.parametrize("text", DAMAGED_ROWS)
def test_the_line_that_is_not_a_row_is_named(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text if text.endswith("\n") else text + "\n")
    assert f"line {DAMAGED_ROWS[text]}: is damaged" in one_line(files.read_rows, path)


def test_columns_have_nan_where_a_row_lacks_a_number():
    rows = [{"iteration": 1}, {"iteration": 2, "return": [1.0, None], "loss": 3}]
    np.testing.assert_array_equal(files.column(rows, "return"), [[np.nan, np.nan], [1.0, np.nan]])
    np.testing.assert_array_equal(files.column(rows, "loss"), [[np.nan], [3.0]])
    assert files.column(rows, "nothing").shape == (2, 1) and files.column([], "loss").shape == (0, 1)


def test_a_line_that_a_kill_cut_short_is_no_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(GOOD + GOOD[:20])
    assert files.read_rows(path) == [json.loads(GOOD)]


def test_arrays_are_never_unpickled_and_never_larger_than_allowed(tmp_path, monkeypatch):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "scores.npz"
    np.savez(path, x=np.array([Harm()], object), allow_pickle=True)
    (tmp_path / "owned").rmdir() if (tmp_path / "owned").exists() else None
    assert "is damaged" in one_line(files.read_arrays, path, "scores")
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Harm()))
    assert "is damaged" in one_line(files.read_arrays, tmp_path / "bare.npz", "scores")
    assert not (tmp_path / "owned").exists()
    for content in (b"", b"PK\x03\x04 and no more", b"\x93NUMPY"):
        for name in ("cut.npz", "cut.npy"):
            (tmp_path / name).write_bytes(content)
            assert "is damaged" in one_line(files.read_arrays, tmp_path / name, "scores")
    np.savez(tmp_path / "other.npz", y=np.zeros(3))
    assert "is damaged" in one_line(files.read_arrays, tmp_path / "other.npz", "scores", "x")
    monkeypatch.setattr(files, "MAX_ARRAYS", 100)
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(10_000))
    assert "are larger than" in one_line(files.read_arrays, tmp_path / "bomb.npz", "scores")


def test_an_array_that_claims_more_than_its_file_holds_is_damaged(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(tmp_path / "scores.npz", "w") as file:
        file.writestr("x.npy", header.getvalue())
    (tmp_path / "scores.npy").write_bytes(header.getvalue())
    for name in ("scores.npz", "scores.npy"):
        one_line(files.read_arrays, tmp_path / name, "scores")


def test_long_files_are_read_line_by_line(tmp_path, monkeypatch):
    """A run of a million iterations leaves half a gigabyte of metrics, and goes on."""
    monkeypatch.setattr(files, "MAX_JSON", 1000)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"iteration": i, "loss": [0.5, i]}) + "\n" for i in range(1, 2001)))
    assert len(files.read_rows(path)) == 2000 and files.last_row(path) == {"iteration": 2000, "loss": [0.5, 2000]}
    files.keep_rows(path, 1500)
    assert files.last_row(path)["iteration"] == 1500 and len(files.read_rows(path)) == 1500
    monkeypatch.setattr(files, "MAX_LINE", 100)
    with path.open("a") as file:
        file.write("9" * 200 + "\n")
    assert "line 1501: is damaged (longer than 100 bytes)" in one_line(files.read_rows, path)
    before = path.read_bytes()
    assert "move it away" in one_line(files.keep_rows, path, 10)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
