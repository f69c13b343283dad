"""The doors of a run: its lines on the terminal, metrics.jsonl, event files and JSON."""

import errno
import io
import json
import math
import os
import re
import struct
import sys

import jax
import numpy as np
import pytest

from gptjax import metrics

BLOCK = {
    "ffwd": {"fc": {"bias": (24,), "kernel": (6, 24)}, "proj": {"bias": (6,), "kernel": (24, 6)}},
    "ln1": {"bias": (6,), "scale": (6,)},
    "ln2": {"bias": (6,), "scale": (6,)},
    "sa": {
        "heads": {name: {"kernel": (2, 6, 3)} for name in ("key", "query", "value")},
        "proj": {"bias": (6,), "kernel": (6, 6)},
    },
}
TOTAL = 11 * 6 + 5 * 6 + 12 + (6 * 11 + 11)  # without blocks
PER_BLOCK = 24 + 144 + 6 + 144 + 4 * 6 + 3 * 36 + 6 + 36


def gpt(blocks):
    """The parameters of a GPT, alphabetical as jax leaves them."""
    tree = {f"blocks_{i}": BLOCK for i in range(blocks)} | {
        "lm_head": {"bias": (11,), "kernel": (6, 11)},
        "ln_f": {"bias": (6,), "scale": (6,)},
        "position_embedding_table": {"embedding": (5, 6)},
        "token_embedding_table": {"embedding": (11, 6)},
    }
    tree = dict(sorted(tree.items()))
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
        tree,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def strict(line):
    """Parse JSON as other programs do: NaN and Infinity are errors."""
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def screen(output):
    """The rows that remain after carriage returns, without colours."""
    rows = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", output).split("\n"):
        row = ""
        for part in line.split("\r"):
            row = part + row[len(part) :]
        rows.append(row.rstrip())
    return rows


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets: clock.now, seconds."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(metrics.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def no_color(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")


# metrics.jsonl


def test_resuming_after_any_cut_leaves_each_line_once_and_none_torn(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records = []
    for step in range(1, 7):
        records.append({"step": step, "loss_nats": 4 - step / 7})
        if step % 2 == 0:
            records.append({"step": step, "val_nats": 4.5 - step / 7, "text": "naïve …\n"})
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
        for checkpoint in (k for k, end in ends.items() if end <= cut):
            path.write_bytes(whole[:cut])
            log = metrics.JsonLines(path, checkpoint)
            assert path.read_bytes() == whole[: ends[checkpoint]]
            if checkpoint == max(k for k, end in ends.items() if end <= cut):
                for record in records:
                    if record["step"] > checkpoint:
                        log.write(record)
                assert path.read_bytes() == whole
            log.close()
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
    assert 21 in [e.step for e in starts]  # TensorBoard forgets what had step >= 21 before this
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


def test_rows_add_up_and_read_from_the_embedding_to_the_head():
    rows = metrics.model_rows(gpt(12))
    assert sum(count for *_, count in rows) == TOTAL + 12 * PER_BLOCK
    assert rows[0] == ("token_embedding_table.embedding", (11, 6), 66)
    assert [path for path, *_ in rows[-2:]] == ["lm_head.kernel", "lm_head.bias"]
    blocks = list(dict.fromkeys(p.split(".")[0] for p, *_ in rows if p.startswith("blocks")))
    assert blocks == [f"blocks_{i}" for i in range(12)]
    assert metrics.model_rows({"w": np.zeros(())}) == [("w", (), 1)]
    assert len({path for path, *_ in rows}) == len(jax.tree.leaves(gpt(12)))


def test_equal_neighbours_fold_into_one_line_and_the_column_still_adds_up():
    table = metrics.fold(metrics.model_rows(gpt(12)))
    assert ("blocks_0 … blocks_11", "", f"12 × {PER_BLOCK}", f"{12 * PER_BLOCK:,}") in table
    assert ("  sa.heads.key, query, value", "3 × (2×6×3)", "108", "") in table
    number = [
        [int(c.replace(",", "")) for c in col if c.isdigit() or "," in c]
        for col in ([row[3] for row in table], [row[2] for row in table if row[0].startswith(" ")])
    ]
    assert sum(number[0]) == TOTAL + 12 * PER_BLOCK
    assert sum(number[1]) == PER_BLOCK


def test_neighbours_that_differ_do_not_fold():
    params = {f"hidden_{i}": {"kernel": np.zeros((3 if i else 7, 3))} for i in range(3)}
    names = [row[0] for row in metrics.fold(metrics.model_rows(params))]
    assert names == ["hidden_0", "hidden_1, hidden_2"]


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.31, "0.3 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (86399.9, "1 d 00 h"),
        (-2, "0.0 s"),
        (math.inf, "? s"),
    ],
)
def test_duration(seconds, text):
    assert metrics.duration(seconds) == text


# Terminal


def show(terminal, clock, steps=200):
    """A run with everything in it."""
    facts = {f"fact {i}": "value" for i in range(8)} | {"path": "a\x1b[2Jb"}
    terminal.header(title="gpt-small", lines=facts, model_rows=metrics.model_rows(gpt(4)))
    for step in range(1, steps + 1):
        clock.now += 0.5
        terminal.progress(
            step=step, steps=steps, loss_nats=3.25, tokens_per_second=20_000.4, seconds_left=65
        )
    clock.now += 0.5
    terminal.busy("exact loss over train", 9, 20)
    terminal.evaluation(step=200, train_nats=1.5, val_nats=2.0, best=True, bigram_nats=2.4819)
    terminal.evaluation(step=250, train_nats=1.5, val_nats=2.5, best=False, bigram_nats=2.4819)
    terminal.evaluation(step=300, train_nats=1.5, val_nats=2.5, best=False, bigram_nats=None)
    terminal.sample("To be,\tor\x07 [b]not[/b] :x: \x1b[31mto\r\u202e be\n\nthat " + "is " * 60)
    terminal.warn("careful \x1b")
    terminal.note("a [note] " * 20)
    terminal.verdict("as expected", True)


def test_plain_lines_are_few_and_without_control_characters(clock, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with metrics.Terminal() as terminal:
        show(terminal, clock)
    out, err = capsys.readouterr()
    assert all(c == "\n" or c.isprintable() for c in out + err)
    lines = out.splitlines()
    steps = [line for line in lines if line.startswith("step") and "tokens/s" in line]
    assert len(steps) == 10  # 100 s: one every 10 s, the last of them the end
    assert "step 200/200  loss 3.250 nats  20,000 tokens/s  done" in steps[-1]
    assert any(
        "1.5000   val 2.0000 nats * best   0.4819 below the count bigram's 2.4819" in line
        for line in lines
    )
    assert any(
        "val 2.5000 nats          0.0181 above the count bigram's 2.4819" in line for line in lines
    )
    assert any(line.endswith("val 2.5000 nats") for line in lines)
    assert "To be,  or\\x07 [b]not[/b] :x: \\x1b[31mto\\r\\u202e be" in out
    assert "a [note] " * 20 in out  # not wrapped
    assert err == "warning: careful \\x1b\n"


def test_the_header_of_a_gpt_fits_a_screen(clock, capsys):
    with metrics.Terminal() as terminal:
        facts = {f"fact {i}": "value" for i in range(10)}
        terminal.header(title="gpt", lines=facts, model_rows=metrics.model_rows(gpt(4)))
    out = capsys.readouterr().out
    assert len(out.rstrip("\n").splitlines()) <= 25
    assert f"{TOTAL + 4 * PER_BLOCK:,}" in out.rstrip().splitlines()[-1]


def test_a_live_line_is_redrawn_in_place_and_gone_at_the_end(clock, no_color, capsys):
    stream = io.StringIO()
    with metrics.Terminal(stream, live=True) as terminal:
        show(terminal, clock)
        clock.now += 1
        terminal.busy("sampling", 1, 3)
        during = screen(stream.getvalue())
    rows = screen(stream.getvalue())
    assert "sampling: 33%" in during[-1] and "━" in during[-1] and rows[-1] == ""
    assert not any("tokens/s" in row or "sampling" in row or "exact" in row for row in rows)
    assert any("below the count bigram's" in row for row in rows)
    assert any(row.endswith("as expected") for row in rows)
    assert all(len(row) < 100 for row in during if "│" in row or "━" in row)


def test_live_redraws_are_limited_and_fit_a_narrow_terminal(clock, no_color, monkeypatch):
    monkeypatch.setenv("COLUMNS", "41")
    stream = io.StringIO()
    with metrics.Terminal(stream, live=True) as terminal:
        for done in range(1000):
            clock.now += 0.001
            terminal.busy("exact loss over a split with a long name", done, 1000)
        assert len(screen(stream.getvalue())) == 1
        assert len(screen(stream.getvalue())[0]) <= 40
    assert stream.getvalue().count("exact") <= 11


def test_an_exception_keeps_the_line_and_starts_a_fresh_one(clock, no_color):
    stream = io.StringIO()
    with pytest.raises(ZeroDivisionError), metrics.Terminal(stream, live=True) as terminal:
        terminal.progress(
            step=7, steps=9, loss_nats=1.0, tokens_per_second=5.0, seconds_left=math.inf
        )
        raise ZeroDivisionError
    rows = screen(stream.getvalue())
    assert "step 7/9" in rows[0] and "? s left" in rows[0] and rows[1:] == [""]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("live", [False, True])
def test_no_encoding_of_stdout_stops_a_run(clock, encoding, live):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    with metrics.Terminal(stream, live=live) as terminal:
        show(terminal, clock)
        terminal.sample("कविता 🎭")
    text = raw.getvalue().decode(encoding)
    assert ("blocks_0 ... blocks_3" if encoding == "ascii" else "blocks_0 … blocks_3") in text


@pytest.mark.parametrize("name, value", [("CI", "true"), ("TERM", "dumb")])
def test_ci_and_dumb_terminals_get_plain_lines(clock, monkeypatch, name, value):
    class Tty(io.StringIO):
        def isatty(self):
            return True

    for other in ("CI", "NO_COLOR"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream, plain = Tty(), Tty()
    show(metrics.Terminal(stream), clock)
    monkeypatch.setenv(name, value)
    show(metrics.Terminal(plain), clock)
    assert "\r" in stream.getvalue() and "\x1b" in stream.getvalue()
    assert "\r" not in plain.getvalue() and "\x1b" not in plain.getvalue()
