"""The files of a run: metrics.jsonl and JSON, each line once and each file whole."""

import errno
import json
import math
import os

import jax
import numpy as np
import pytest

from gptjax.monitoring import metrics
from gptjax.processes import cluster


def strict(line):
    """Parse JSON as other programs do: NaN and Infinity are errors."""
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


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


def test_only_the_first_of_several_processes_writes_and_all_count_the_lines(tmp_path, monkeypatch):
    path, records = tmp_path / "m", [{"step": 1, "loss_nats": 2.5}, {"step": 2, "sample": "a"}]
    log = metrics.JsonLines(path, None)
    for record in records:
        log.write(record)
    log.close()
    before = path.read_bytes()
    monkeypatch.setattr(cluster, "is_first", lambda: False)
    log = metrics.JsonLines(path, 1)
    assert log.n_lines == 1
    log.write({"step": 2, "loss_nats": 1.5})
    log.write({"step": 3, "loss_nats": 1.25})
    assert log.n_lines == 3
    with pytest.raises(KeyError):
        log.write({"loss_nats": 1.0})
    log.close()
    assert path.read_bytes() == before
    fresh = metrics.JsonLines(tmp_path / "new", None)
    fresh.write({"step": 1})
    fresh.close()
    metrics.write_json(tmp_path / "summary.json", {"x": 1})
    assert fresh.n_lines == 1 and os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("n_lines", [None, 0, 1, 2, 9])
def test_at_most_the_lines_of_a_checkpoint_are_kept(tmp_path, n_lines):
    path = tmp_path / "m"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 2, "again": 1}\n{"step": 3}\n')
    log = metrics.JsonLines(path, 2, n_lines)
    log.close()
    kept = [{"step": 1}, {"step": 2}, {"step": 2, "again": 1}][:n_lines]
    assert metrics.read(path) == kept and log.n_lines == len(kept)


def test_the_last_sample_is_the_last_text_that_is_not_empty():
    records = [{"sample": "a"}, {"sample": "b"}, {"sample": ""}, {"sample": 3}, {"step": 4}]
    assert metrics.last_sample(records) == "b"
    assert metrics.last_sample(records[2:]) == metrics.last_sample([]) == ""


def test_timing_lines_are_short_and_what_cannot_be_written_is_lost_in_silence(
    tmp_path, monkeypatch
):
    path = tmp_path / "timing.jsonl"
    log = metrics.TimingLines(path, None)
    assert log.last_step == 0
    log.write({"step": 10, "tokens": 640, "train_seconds": 1 / 3, "compiled": True})
    log.write({"step": 20, "tokens": 1280, "train_seconds": 2 / 3, "compiled": False})
    log.close()
    first = b'{"step": 10, "tokens": 640, "train_seconds": 0.333333, "compiled": true}\n'
    assert path.read_bytes().startswith(first) and log.last_step == 20
    log = metrics.TimingLines(path, 15)
    assert log.last_step == 10 and path.read_bytes() == first

    def full(*_):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(metrics.os, "write", full)
    log.write({"step": 30, "train_seconds": 1.0})
    assert log.last_step == 30 and path.read_bytes() == first
    log.close()
    monkeypatch.setattr(metrics, "write_whole", full)
    log = metrics.TimingLines(path, 15)
    log.write({"step": 30, "train_seconds": 1.0})
    log.close()
    assert path.read_bytes() == first
