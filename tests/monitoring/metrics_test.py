"""The files of a run: metrics.jsonl, event files, JSON, and the verdict."""

import errno
import json
import math
import os
import struct
import sys

import jax
import numpy as np
import pytest

from gptjax.monitoring import metrics


def strict(line):
    """Parse JSON as other programs do: NaN and Infinity are errors."""
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


# metrics.jsonl


def test_resuming_after_any_cut_leaves_each_line_once_and_none_torn(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.os, "fsync", lambda file: None)  # slow, and of no matter here
    path = tmp_path / "metrics.jsonl"
    records = []
    for step in range(1, 5):
        records.append({"step": step, "loss_nats": 4 - step / 8})
        if step % 2 == 0:
            records.append({"step": step, "val_nats": 4.5 - step / 8, "text": "naïve …\n"})
    log = metrics.JsonLines(path, None)
    for record in records:
        log.write(record)
    log.close()
    whole = path.read_bytes()
    assert metrics.read(path) == records
    # The end of the last line of each step: a checkpoint of step k is written after it.
    ends, at = {0: 0}, 0
    for record, line in zip(records, whole.splitlines(keepends=True), strict=True):
        at += len(line)
        ends[record["step"]] = at
    for cut in range(len(whole) + 1):
        latest = max(k for k, end in ends.items() if end <= cut)
        for checkpoint in {latest, cut % (latest + 1)}:
            path.write_bytes(whole[:cut])
            log = metrics.JsonLines(path, checkpoint)
            assert path.read_bytes() == whole[: ends[checkpoint]]
            for record in records:
                if record["step"] > checkpoint:
                    log.write(record)
            log.close()
            assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_line_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    log = metrics.JsonLines(tmp_path / "m", None)
    log.write({"step": 3, "loss_nats": 1.5})
    assert (tmp_path / "m").read_bytes() == b'{"step": 3, "loss_nats": 1.5}\n'
    log.close()
    log.close()


def test_a_complete_last_line_without_its_newline_is_kept(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    metrics.JsonLines(path, 2).write({"step": 3})
    assert [r["step"] for r in metrics.read(path)] == [1, 2, 3]


@pytest.mark.parametrize(
    "junk", [b"\0\0\0", b'{"step": 1', b"[1]", b"\xff\xfe", b'{"a": 1}', b"[" * 99999, b"7"]
)
def test_what_is_not_a_record_is_left_out(tmp_path, junk):
    path = tmp_path / "m"
    path.write_bytes(b'{"step": 1}\n' + junk + b'\n{"step": 2}\n')
    assert metrics.read(path) == [{"step": 1}, {"step": 2}]
    metrics.JsonLines(path, 2).close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_reading_no_file_gives_no_records_and_a_new_run_starts_empty(tmp_path):
    path = tmp_path / "m"
    assert metrics.read(path) == []
    path.write_bytes(b'{"step": 1}\n')
    metrics.JsonLines(path, None).close()
    assert path.read_bytes() == b""


def test_numbers_of_numpy_and_jax_and_not_finite_ones_become_json(tmp_path):
    log = metrics.JsonLines(tmp_path / "m", None)
    values = {"a": np.float32(1.5), "b": math.nan, "c": jax.numpy.float32(-math.inf), "d": "\udc80"}
    log.write({"step": np.int64(2), **values})
    record = strict((tmp_path / "m").read_text(encoding="utf-8"))
    assert record == {"step": 2, "a": 1.5, "b": None, "c": None, "d": "\udc80"}
    with pytest.raises(KeyError):
        log.write({"loss_nats": 1.0})
    log.close()


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    path, write = tmp_path / "m", os.write
    log = metrics.JsonLines(path, None)
    log.write({"step": 1})

    def full(file, data):
        if len(data) < 9:
            raise OSError(errno.ENOSPC, "disk full")
        return write(file, data[:5])  # a part at a time

    monkeypatch.setattr(metrics.os, "write", full)
    with pytest.raises(OSError, match="disk full"):
        log.write({"step": 2, "loss_nats": 2.25})
    assert path.read_bytes() == b'{"step": 1}\n'
    monkeypatch.setattr(metrics.os, "write", lambda file, data: write(file, data[:5]))
    log.write({"step": 3})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 3}\n'
    log.close()


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    metrics.write_json(path, {"name": "Ünï", "x": [np.array([1.0, math.nan])], "n": np.int32(4)})
    text = path.read_text(encoding="utf-8")
    assert strict(text) == {"name": "Ünï", "x": [[1.0, None]], "n": 4}
    assert "Ünï" in text and text.count("\n") > 4
    with pytest.raises(TypeError):
        metrics.write_json(path, {"x": object()})
    monkeypatch.setattr(metrics.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        metrics.write_json(path, {"x": 2})
    assert path.read_text(encoding="utf-8") == text


# TensorBoard


def events(folder):
    """All events of a folder, read from the record files by hand."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(folder.glob("*tfevents*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_a_continued_tensorboard_run_hides_what_it_repeats(tmp_path):
    pytest.importorskip("tensorboardX")
    board = metrics.TensorBoard(tmp_path, None)
    assert board.note == ""
    for step in (10, 20, 30):
        board.scalars(step, {"loss_nats/train": np.float32(step / 10)})
    board.close()
    assert [e.step for e in events(tmp_path) if e.summary.value] == [10, 20, 30]
    again = metrics.TensorBoard(tmp_path, 20)
    again.scalars(30, {"loss_nats/train": 3.0})
    again.text(30, "sample", "a\nb")
    again.close()
    starts = [e for e in events(tmp_path) if e.HasField("session_log") and e.session_log.status]
    # TensorBoard forgets what was written before with this step or a later one.
    assert sorted(e.step for e in starts) == [0, 21]
    assert sum(len(e.summary.value) for e in events(tmp_path) if e.step == 10) == 1
    texts = [v.tensor.string_val for e in events(tmp_path) for v in e.summary.value if v.tensor]
    assert [b"    a\n    b"] in [list(t) for t in texts]


def test_without_tensorboardx_there_is_a_note_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    board = metrics.TensorBoard(tmp_path / "tb", 5)
    board.scalars(6, {"a": 1.0})
    board.text(6, "a", "b")
    board.close()
    assert "pip install tensorboardX" in board.note
    assert os.listdir(tmp_path) == []


# Verdict


@pytest.mark.parametrize(
    "nats, band, text, ok",
    [
        (1.79, (1.7, 1.9), "val 1.79: as expected, 1.70–1.90 nats per token", True),
        (1.7, (1.7, 1.9), "val 1.70: as expected, 1.70–1.90 nats per token", True),
        (2.31, (1.7, 1.9), "val 2.31: higher than expected (1.70–1.90 nats per token): ", False),
        (1.904, (1.7, 1.9), "val 1.9040: higher than expected (1.7000–1.9000 nats", False),
        (1.61, (1.7, 1.9), "val 1.61: better than expected (1.70–1.90 nats per token)", True),
        (2.455, (2.4519, 2.4619), "val 2.4550: as expected, 2.4519–2.4619 nats", True),
        (math.nan, (1.7, 1.9), "val nan: the training diverged", False),
        (math.inf, (1.7, 1.9), "val inf: the training diverged", False),
    ],
)
def test_verdict_against_the_band(nats, band, text, ok):
    said, good = metrics.verdict(nats, band)
    assert said.startswith(text) and good is ok and "\n" not in said


def test_without_a_band_the_verdict_says_why():
    said, ok = metrics.verdict(1.5, None, "my.txt is not in expected")
    assert ok is None and "1.50" in said and "my.txt is not in expected" in said


# The model's table
