"""What a run tells a person: a line redrawn in place on a terminal, plain and few lines elsewhere.

In: the numbers and short texts of a run. Out: lines on stdout. The only file that knows rich.
"""

import codecs
import contextlib
import itertools
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptjax.errors import harmless
from gptjax.monitoring.param_table import ParamRow, fold
from gptjax.processes import cluster

_ASCII = str.maketrans({"…": "...", "–": "-", "×": "x", "━": "=", "─": "-", "│": "|", "␣": "_"})


def _replace(error: UnicodeEncodeError) -> tuple[str, int]:
    """What stdout shows for characters that its encoding (cp1252, ascii) lacks."""
    text = error.object[error.start : error.end].translate(_ASCII)
    return re.sub(r"[^\x00-\x7f]", "?", text), error.end


codecs.register_error("gptjax", _replace)


QUIET_S = 1.0  # after which a terminal shows how long the work at hand has taken so far
LOG_S = 10.0  # between two lines of progress elsewhere


class Terminal(contextlib.AbstractContextManager):
    """A context manager: leaving it, by an exception too, leaves the cursor on a fresh line.

    Inside it no long work is silent: a thread says what is being done, and for how long.
    """

    def __init__(self, stream: TextIO | None = None, live: bool | None = None):
        """Write to ``stream`` (stdout); ``live`` None looks: a terminal, not dumb, and no CI."""
        stream, warnings = stream or sys.stdout, sys.stderr
        if not cluster.is_first():  # of several processes one speaks, and each of its own mistakes
            stream = warnings = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="gptjax")
        if live is None:
            simple = os.environ.get("TERM") == "dumb" or os.environ.get("CI")
            live = stream.isatty() and not simple
        self._live = live
        self._out = _console(stream, live)
        self._err = _console(warnings, live and warnings.isatty())
        self._drawn = 0  # columns of the progress line that stands before the cursor
        self._passed = -math.inf if live else time.monotonic()  # when the last one was shown, s
        # What is done, which part of it, since when: the last line of progress, and around it what
        # cannot say how far it is.
        self._work: tuple[str, float, float] | None = None
        self._around: list[tuple[str, float, float]] = []
        self._busy = "", 0.0  # which work says how far it is, and since when
        self._mark, self._written = "", math.inf  # of a text at the cursor: see ``write``
        self._lock, self._left = threading.RLock(), threading.Event()

    def __enter__(self) -> "Terminal":
        threading.Thread(target=self._watch, name="progress", daemon=True).start()
        return self

    def title(self, text: str) -> None:
        """Print what follows is about."""
        self._say(Text(harmless(text), "bold"))

    def header(self, lines: Mapping[str, str], model_rows: Sequence[ParamRow]) -> None:
        """Print the run's title page: its facts by label, and the model as a table."""
        facts, model = Table.grid(padding=(0, 2, 0, 0)), Table.grid(padding=(0, 2, 0, 0))
        for label, fact in lines.items():
            facts.add_row(Text(f"  {harmless(label)}", "cyan"), Text(harmless(fact)))
        for justify in ("left", "left", "right", "right"):
            model.add_column(justify=justify, no_wrap=True)
        model.add_row("  model", "shapes", "each", "parameters", style="cyan")
        for name, shapes, each, total in fold(model_rows):
            label = Text(f"  {name}", "dim" if name.startswith(" ") else "")
            model.add_row(label, Text(shapes, "dim"), Text(each, "dim"), total)
        model.add_row("  total", "", "", f"{sum(n for *_, n in model_rows):,}", style="bold")
        for part in (facts, model, ""):
            self._say(part)

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """A ``with`` around work that cannot say how far it is, such as compiling."""
        self._around.append((harmless(what), 0.0, time.monotonic()))
        self._work = None  # what was done before is over
        try:
            yield
        finally:
            self._around.pop()

    def write(self, text: str) -> None:
        """Add to the text at the cursor; while more is awaited a mark is shown there."""
        with self._lock:
            self._out.file.write((" \b" if self._mark else "") + text)
            self._out.file.flush()
            self._mark, self._written = "", time.monotonic()

    def progress(
        self, step: int, steps: int, loss_nats: float, tokens_per_second: float, seconds_left: float
    ) -> None:
        """Show how far the training is; elsewhere than on a terminal every 10 s and at the end."""
        total = f"{steps:,}"
        left = f"{duration(seconds_left)} left" if step < steps else "done"
        text = f"step {step:>{len(total)},}/{total}  loss {loss_nats:.3f} nats  "
        text += f"{tokens_per_second:,.0f} tokens/s  {left}"
        self._pass(text, step / max(steps, 1), last=step >= steps)

    def busy(self, label: str, done: float, total: float) -> None:
        """Show ``done`` of ``total`` of some other long work on the same line."""
        now, part = time.monotonic(), done / max(total, 1)
        if self._busy[0] != label or not done:
            self._busy = label, now
        text, spent = f"{harmless(label)}: {part:.0%}", now - self._busy[1]
        if 0 < part < 1 and spent > QUIET_S:
            text += f", {duration(spent / part - spent)} left"
        self._pass(text, part)

    def evaluation(
        self, step: int, train_nats: float, val_nats: float, best: bool, bigram_nats: float | None
    ) -> None:
        """Print an evaluation, and how far val is below the count bigram, the baseline.

        A step is ``best`` when it learnt something: at step 0 there is nothing to be better than.
        """
        text = Text(f"step {step:>7,}   train {train_nats:.4f}   val ")
        text.append(f"{val_nats:.4f}", "bold").append(" nats ")
        text.append("* best" if best and step else "      ", "green")
        if bigram_nats is not None and math.isfinite(val_nats):
            gap = bigram_nats - val_nats
            side = "below" if gap >= 0 else "above"
            text.append(f"   {abs(gap):.4f} {side} the count bigram's {bigram_nats:.4f}", "dim")
        text.rstrip()
        self._say(text)

    def sample(self, text: str) -> None:
        """Print a sample beside a bar, its control characters as escapes."""
        for line in harmless(text).split("\n"):
            pieces = Text(line).wrap(self._out, self._out.width - 4) if self._live else [Text(line)]
            for piece in pieces:
                self._say(Text.assemble(("  │ ", "dim"), piece))

    def note(self, text: str) -> None:
        """Print one plain line."""
        self._say(Text(harmless(text)))

    def warn(self, text: str) -> None:
        """Print one line on stderr."""
        with self._lock:
            self._erase()
            self._err.print(Text.assemble(("warning: ", "yellow"), harmless(text)), soft_wrap=True)

    def verdict(self, text: str, ok: bool | None) -> None:
        """Print the verdict: green when ``ok``, red when not, plain when there is none."""
        self._say(Text(harmless(text), {True: "bold green", False: "bold red", None: "bold"}[ok]))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._left.set()
        with self._lock:
            if self._mark:
                self.write("")
            if kind and self._drawn:  # what it said last stays; the next text starts afresh
                self._out.print()
                self._drawn = 0
            self._erase()

    def _erase(self) -> None:
        with self._lock:
            if self._drawn:
                # Spaces: notebooks know the carriage return, but not the codes that erase a line.
                self._out.file.write("\r" + " " * self._drawn + "\r")
                self._out.file.flush()
                self._drawn, self._passed = 0, -math.inf

    def _say(self, what: Any) -> None:
        with self._lock:
            self._erase()
            self._work = None
            self._out.print(what, soft_wrap=isinstance(what, Text))

    def _pass(self, text: str, fraction: float, last: bool = False) -> None:
        """Show a line of progress, unless one has just been shown."""
        with self._lock:
            self._work = (text, fraction, time.monotonic())
            if last or time.monotonic() - self._passed >= (0.1 if self._live else LOG_S):
                self._draw(text, fraction)

    def _draw(self, text: str, fraction: float) -> None:
        line = Text(text)
        if not self._live:
            self._out.print(line, soft_wrap=True)
        else:
            width = self._out.width - 1  # a full line would wrap on some terminals
            bar = min(24, width - len(text) - 2)
            done = round(bar * min(max(fraction, 0.0), 1.0))
            if bar >= 6:
                line = Text.assemble(("━" * done, "cyan"), ("─" * (bar - done), "dim"), "  ", text)
            line.truncate(width, overflow="ellipsis")
            self._erase()
            self._out.print(line, end="", soft_wrap=True)
            self._drawn = line.cell_len
        self._passed = time.monotonic()

    def _watch(self) -> None:
        """Until the end: where nothing new was said of the work at hand, how long it has taken."""
        while not self._left.wait(QUIET_S / 2):
            try:
                self._show_waiting()
            except (OSError, ValueError):  # the reader has gone: the main thread will find out
                return

    def _show_waiting(self) -> None:
        with self._lock:
            if self._live and time.monotonic() - self._written >= QUIET_S:
                self._mark = "·" if self._mark == "…" else "…"
                self._out.file.write(f"{self._mark}\b")
                self._out.file.flush()
            work = self._work or (self._around[-1] if self._around else None)
            if work is None or self._left.is_set():
                return
            (text, fraction, since), now = work, time.monotonic()
            quiet = QUIET_S if self._live else LOG_S
            if now - since >= quiet and now - self._passed >= quiet:
                self._draw(f"{text} ({duration(now - since)})", fraction)


def duration(seconds: float) -> str:
    """Say a time: 3.2 s, 45 s, 2 min 05 s, 1 h 02 min, 3 d 04 h."""
    if not math.isfinite(seconds):
        return "? s"
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole, units = round(seconds), {"d": 86_400, "h": 3_600, "min": 60, "s": 1}
    for (large, size), (small, part) in itertools.pairwise(units.items()):
        if whole >= size:
            return f"{whole // size} {large} {whole % size // part:02} {small}"
    return f"{whole} s"


class _Console(Console):
    """rich's, but for a reader that has gone: ``cli/main.py`` knows the exit code of that."""

    def on_broken_pipe(self) -> None:
        raise  # rich calls this while it handles the BrokenPipeError


def _console(stream: TextIO, live: bool) -> Console:
    # rich would guess from the environment, and wrap a log at 80 columns.
    fixed = {"force_terminal": live, "force_jupyter": False, "highlight": False}
    color, width = ("auto", None) if live else (None, 100)
    return _Console(file=stream, color_system=color, width=width, **fixed)


def padded(texts: Sequence[str], left: bool = True) -> list[str]:
    """Texts of one width on a terminal, where many characters (CJK) are two columns wide."""
    width = max(map(cell_len, texts))
    spaces = (" " * (width - cell_len(text)) for text in texts)
    return [text + pad if left else pad + text for text, pad in zip(texts, spaces, strict=True)]


def shown(text: str) -> str:
    """A text as stdout may have it: as it is in a pipe or a file, harmless on a terminal."""
    return harmless(text) if sys.stdout.isatty() else text
