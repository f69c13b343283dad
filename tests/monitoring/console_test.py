"""What a person sees: plain lines elsewhere, a line redrawn in place on a terminal."""

import io
import math
import re
import threading
import time

import pytest
from gpt_tree import PER_BLOCK, TOTAL, gpt

from gptjax.monitoring import console
from gptjax.monitoring.console import Terminal
from gptjax.monitoring.param_table import model_rows


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

    monkeypatch.setattr(console.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def no_color(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")


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
    assert console.duration(seconds) == text


# Terminal


def show(terminal, clock, steps=203):
    """A run with everything in it."""
    facts = {f"fact {i}": "value" for i in range(8)} | {"path": "a\x1b[2Jb"}
    terminal.title("gpt-small")
    terminal.header(lines=facts, model_rows=model_rows(gpt(4)))
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
    with Terminal() as terminal:
        show(terminal, clock)
    out, err = capsys.readouterr()
    assert all(c == "\n" or c.isprintable() for c in out + err)
    lines = out.splitlines()
    steps = [line for line in lines if line.startswith("step") and "tokens/s" in line]
    assert len(steps) == 11  # 101.5 s: one every 10 s, and the end
    assert "step 203/203  loss 3.250 nats  20,000 tokens/s  done" in steps[-1]
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


def test_of_several_processes_the_first_alone_speaks(monkeypatch, capsys):
    monkeypatch.setattr(console.cluster, "is_first", lambda: False)
    with Terminal() as quiet:
        quiet.note("a note")
        quiet.warn("a warning")
    assert capsys.readouterr() == ("", "")


def test_best_is_said_of_a_step_that_was_better_than_another(capsys):
    with Terminal() as terminal:
        for step, val in ((0, 4.4), (10, 4.0), (20, 2.0)):
            terminal.evaluation(
                step=step, train_nats=4.4, val_nats=val, best=True, bigram_nats=2.4819
            )
    first, above, below = capsys.readouterr().out.splitlines()
    assert "best" not in first and "1.9181 above the count bigram's" in first
    assert "nats * best   1.5181 above" in above and "nats * best   0.4819 below" in below
    assert first.index("1.9181") == above.index("1.5181")


def test_the_header_of_a_gpt_fits_a_screen(clock, capsys):
    with Terminal() as terminal:
        facts = {f"fact {i}": "value" for i in range(10)}
        terminal.title("gpt")
        terminal.header(lines=facts, model_rows=model_rows(gpt(4)))
    out = capsys.readouterr().out
    assert len(out.rstrip("\n").splitlines()) <= 25
    assert f"{TOTAL + 4 * PER_BLOCK:,}" in out.rstrip().splitlines()[-1]


def test_a_live_line_is_redrawn_in_place_and_gone_at_the_end(clock, no_color, capsys):
    stream = io.StringIO()
    with Terminal(stream, live=True) as terminal:
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
    with Terminal(stream, live=True) as terminal:
        for done in range(1000):
            clock.now += 0.001
            terminal.busy("exact loss over a split with a long name", done, 1000)
        assert len(screen(stream.getvalue())) == 1
        assert len(screen(stream.getvalue())[0]) <= 40
    assert stream.getvalue().count("exact") <= 11
    monkeypatch.setenv("COLUMNS", "75")  # the bar gives way to the text
    with Terminal(stream, live=True) as terminal:
        terminal.progress(step=7, steps=900, loss_nats=1.0, tokens_per_second=5e4, seconds_left=125)
        assert screen(stream.getvalue())[-1].endswith("2 min 05 s left")


def test_an_exception_keeps_the_line_and_starts_a_fresh_one(clock, no_color):
    stream = io.StringIO()
    with pytest.raises(ZeroDivisionError), Terminal(stream, live=True) as terminal:
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
    with Terminal(stream, live=live) as terminal:
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
    show(Terminal(stream), clock)
    monkeypatch.setenv(name, value)
    show(Terminal(plain), clock)
    assert "\r" in stream.getvalue() and "\x1b" in stream.getvalue()
    assert "\r" not in plain.getvalue() and "\x1b" not in plain.getvalue()


@pytest.mark.parametrize("live, first, next_", [(True, 1, 1), (False, 10, 10)])
def test_long_work_says_what_it_is_and_for_how_long(live, first, next_, clock, no_color):
    stream = io.StringIO()
    terminal = Terminal(stream, live)  # without its thread: the test asks in its place

    def shown_after(seconds):
        clock.now += seconds
        before = stream.tell()
        terminal._show_waiting()
        return screen(stream.getvalue())[-1 if live else -2] if stream.tell() > before else ""

    assert shown_after(99) == ""  # nothing is being done
    with terminal.doing("compiling"):
        assert shown_after(first - 0.1) == ""
        assert shown_after(0.2).endswith(f"compiling ({console.duration(first + 0.1)})")
        assert shown_after(next_ - 0.1) == ""
        assert shown_after(0.2).endswith(f"compiling ({console.duration(first + next_ + 0.2)})")
        terminal.busy("exact loss", 1, 4)  # says how far it is
        assert shown_after(2 * first).endswith(f"exact loss: 25% ({console.duration(2 * first)})")
        terminal.note("a line")
        assert "compiling" in shown_after(2 * next_)
    terminal.note("done")
    assert shown_after(99) == ""


def test_work_that_says_how_far_it_is_is_told_how_long_it_will_take(clock, no_color):
    stream = io.StringIO()
    terminal = Terminal(stream, live=True)
    for done, seconds, said in (
        (0, 0, "exact loss: 0%"),
        (1, 0.5, "exact loss: 2%"),  # too early to tell
        (10, 9.5, "exact loss: 20%, 40 s left"),
        (50, 9, "exact loss: 100%"),
    ):
        clock.now += seconds
        terminal.busy("exact loss", done, 50)
        assert screen(stream.getvalue())[-1].endswith(said)
    clock.now += 30
    terminal.busy("drawing", 1, 4)  # another work, which begins now
    assert screen(stream.getvalue())[-1].endswith("drawing: 25%")


def test_a_text_at_the_cursor_shows_that_more_is_awaited(clock, no_color):
    stream = io.StringIO()
    terminal = Terminal(stream, live=True)
    terminal._show_waiting()
    assert stream.getvalue() == ""
    terminal.write("To be")
    for _ in range(3):
        clock.now += 1.1
        terminal._show_waiting()
    terminal.write(", or")
    assert stream.getvalue() == "To be…\b·\b…\b \b, or"
    quiet = io.StringIO()
    piped = Terminal(quiet, live=False)
    piped.write("To be")
    clock.now += 60
    piped._show_waiting()
    piped.write(", or")
    assert quiet.getvalue() == "To be, or"


def test_the_thread_that_says_so_ends_with_the_terminal(no_color, monkeypatch):
    monkeypatch.setattr(console, "QUIET_S", 0.02)
    stream = io.StringIO()
    with Terminal(stream, live=True) as terminal, terminal.doing("compiling"):
        deadline = time.monotonic() + 10
        while "compiling (0.0 s)" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "compiling (0.0 s)" in stream.getvalue()
    for thread in threading.enumerate():
        if thread.name == "progress":
            thread.join(5)
            assert not thread.is_alive()
    assert screen(stream.getvalue())[-1] == ""  # gone at the end


def test_texts_are_padded_by_the_columns_they_take():
    assert console.padded(["漢字", "a", ""]) == ["漢字", "a   ", "    "]
    assert console.padded(["a", "␣漢"], left=False) == ["  a", "␣漢"]
