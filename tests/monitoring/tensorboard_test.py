"""Event files for TensorBoard, and nothing where tensorboardX is absent."""

import os
import struct
import sys
import threading

import numpy as np
import pytest

from gptjax.monitoring.tensorboard import TensorBoard
from gptjax.processes import cluster


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
    board = TensorBoard(tmp_path, None)
    assert board.note.startswith(f"TensorBoard files: {tmp_path} (")
    for step in (10, 20, 30):
        board.scalars(step, {"loss_nats/train": np.float32(step / 10)})
    board.close()
    assert [e.step for e in events(tmp_path) if e.summary.value] == [10, 20, 30]
    again = TensorBoard(tmp_path, 20)
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
    board = TensorBoard(tmp_path / "tb", 5)
    board.scalars(6, {"a": 1.0})
    board.text(6, "a", "b")
    board.close()
    assert "pip install tensorboardX" in board.note
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("resumed", [None, 20])
def test_a_start_that_has_nothing_to_show_leaves_no_file(tmp_path, resumed):
    pytest.importorskip("tensorboardX")
    hook, threads = threading.excepthook, set(threading.enumerate())
    board = TensorBoard(tmp_path, resumed)
    board.close()
    board.scalars(21, {"a": 1.0})  # too late
    assert os.listdir(tmp_path) == [] and set(threading.enumerate()) <= threads
    board = TensorBoard(tmp_path, resumed)
    board.scalars(21, {"a": 1.0})
    board.close()
    assert len(os.listdir(tmp_path)) == 1 and threading.excepthook is hook


def test_who_wants_none_gets_no_folder_and_no_note(tmp_path):
    board = TensorBoard(tmp_path / "tb", None, wanted=False)
    board.scalars(6, {"a": 1.0})
    board.text(6, "a", "b")
    board.close()
    assert board.note == "" and os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_told_and_stops_nothing(tmp_path):
    pytest.importorskip("tensorboardX")
    (tmp_path / "tb").write_bytes(b"mine")
    board = TensorBoard(tmp_path / "tb", None)
    board.scalars(6, {"a": 1.0})
    board.close()
    assert board.note == f"no TensorBoard files: {tmp_path / 'tb'} cannot be written (File exists)"


def test_only_the_first_of_several_processes_writes(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(cluster, "is_first", lambda: False)
    board = TensorBoard(tmp_path / "tb", None)
    board.scalars(6, {"a": 1.0})
    board.text(6, "a", "b")
    board.close()
    assert board.note == "" and os.listdir(tmp_path) == []
