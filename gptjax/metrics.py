"""What a run tells the world: the terminal, ``metrics.jsonl``, TensorBoard, ``summary.json``.

In: the numbers and short texts of a run. Out: lines on stdout, one JSON object a line, event files.
The only file that knows rich and tensorboardX; without the latter ``TensorBoard`` does nothing.
"""

from __future__ import annotations

import codecs
import itertools
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = tuple[str, tuple[int, ...], int]  # dotted path, shape, number of parameters

_ASCII = str.maketrans({"…": "...", "–": "-", "×": "x", "━": "=", "─": "-", "│": "|"})


def _replace(error: UnicodeError) -> tuple[str, int]:
    """What stdout shows for characters that its encoding (cp1252, ascii) lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ASCII)
    return re.sub(r"[^\x00-\x7f]", "?", text), error.end


codecs.register_error("gptjax", _replace)


class Terminal:
    """What a person sees: a line redrawn in place on a terminal, plain and few lines elsewhere.

    A context manager: leaving it, by an exception too, leaves the cursor on a fresh line.
    """

    def __init__(self, stream: TextIO | None = None, live: bool | None = None):
        """Write to ``stream`` (stdout); ``live`` None looks: a terminal, not dumb, and no CI."""
        stream = stream or sys.stdout
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="gptjax")
        if live is None:
            dumb = os.environ.get("TERM") == "dumb" or os.environ.get("CI")
            live = stream.isatty() and not dumb
        self._live = live
        self._out = _console(stream, live)
        self._err = _console(sys.stderr, live and sys.stderr.isatty())
        self._drawn = 0  # columns of the passing line that stands before the cursor
        self._passed = -math.inf if live else time.monotonic()  # when the last one was shown, s

    def header(self, *, title: str, lines: Mapping[str, str], model_rows: Sequence[Row]) -> None:
        """Print the run's title page: its name, its facts, and the model as a table.

        Args:
          title: the config's name.
          lines: label -> fact (why this size, device, data, ...).
          model_rows: of ``model_rows``.
        """
        facts, model = Table.grid(padding=(0, 2, 0, 0)), Table.grid(padding=(0, 2, 0, 0))
        for label, fact in lines.items():
            facts.add_row(Text(f"  {_safe(label)}", "cyan"), Text(_safe(fact)))
        for justify in ("left", "left", "right", "right"):
            model.add_column(justify=justify, no_wrap=True)
        model.add_row("  model", "shapes", "each", "parameters", style="cyan")
        for name, *cells in fold(model_rows):
            inner = "dim" if name.startswith(" ") else ""
            model.add_row(
                Text(f"  {name}", inner), *(Text(c, inner or "dim") for c in cells[:2]), cells[2]
            )
        total = f"{sum(count for *_, count in model_rows):,}"
        model.add_row(Text("  total", "bold"), "", "", Text(total, "bold"))
        for part in (Text(_safe(title), "bold"), facts, model, ""):
            self._say(part)

    def progress(
        self,
        *,
        step: int,
        steps: int,
        loss_nats: float,
        tokens_per_second: float,
        seconds_left: float,
    ) -> None:
        """Show how far the training is; elsewhere than on a terminal every 10 s and at the end."""
        total = f"{steps:,}"
        left = f"{duration(seconds_left)} left" if step < steps else "done"
        text = (
            f"step {step:>{len(total)},}/{total}  loss {loss_nats:.3f} nats  "
            f"{tokens_per_second:,.0f} tokens/s  {left}"
        )
        self._pass(text, step / max(steps, 1), last=step >= steps)

    def busy(self, label: str, done: int, total: int) -> None:
        """Show ``done`` of ``total`` of some other long work on the same line."""
        self._pass(f"{_safe(label)}: {done / max(total, 1):.0%}", done / max(total, 1))

    def evaluation(
        self,
        *,
        step: int,
        train_nats: float,
        val_nats: float,
        best: bool,
        bigram_nats: float | None,
    ) -> None:
        """Print an evaluation, and how far val is below the count bigram, the line to beat."""
        text = Text(f"step {step:>7,}   train {train_nats:.4f}   val ")
        text.append(f"{val_nats:.4f}", "bold").append(" nats ")
        text.append("* best" if best else "      ", "green")
        if bigram_nats is not None and math.isfinite(val_nats):
            gap = bigram_nats - val_nats
            side = "below" if gap >= 0 else "above"
            text.append(f"   {abs(gap):.4f} {side} the count bigram's {bigram_nats:.4f}", "dim")
        text.rstrip()
        self._say(text)

    def sample(self, text: str) -> None:
        """Print a sample beside a bar, its control characters as escapes."""
        for line in _safe(text).split("\n"):
            pieces = Text(line).wrap(self._out, self._out.width - 4) if self._live else [Text(line)]
            for piece in pieces:
                self._say(Text.assemble(("  │ ", "dim"), piece))

    def note(self, text: str) -> None:
        """Print one plain line."""
        self._say(Text(_safe(text)))

    def warn(self, text: str) -> None:
        """Print one line on stderr."""
        self._erase()
        self._err.print(Text.assemble(("warning: ", "yellow"), _safe(text)), soft_wrap=True)

    def verdict(self, text: str, ok: bool | None) -> None:
        """Print the verdict: green when ``ok``, red when not, plain when there is none."""
        self._say(Text(_safe(text), {True: "bold green", False: "bold red", None: "bold"}[ok]))

    def close(self, keep: bool = False) -> None:
        """Remove the passing line, or with ``keep`` end it so that the next text starts afresh."""
        if self._drawn and keep:
            self._out.print()
            self._drawn = 0
        self._erase()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(keep=kind is not None)

    def _erase(self) -> None:
        if self._drawn:
            # Spaces: notebooks know the carriage return, but not the codes that erase a line.
            self._out.file.write("\r" + " " * self._drawn + "\r")
            self._out.file.flush()
            self._drawn, self._passed = 0, -math.inf

    def _say(self, what: Any) -> None:
        self._erase()
        self._out.print(what, soft_wrap=isinstance(what, Text))

    def _pass(self, text: str, fraction: float, last: bool = False) -> None:
        now = time.monotonic()
        if now - self._passed < (0.1 if self._live else 10.0) and not last:
            return
        if not self._live:
            self._say(Text(text))
        else:
            width = self._out.width - 1  # a full line would wrap on some terminals
            bar = min(24, width - len(text) - 2)
            done = round(bar * min(max(fraction, 0.0), 1.0))
            line = Text(text)
            if bar >= 6:
                line = Text.assemble(("━" * done, "cyan"), ("─" * (bar - done), "dim"), "  ", text)
            line.truncate(width, overflow="ellipsis")
            self._erase()
            self._out.print(line, end="", soft_wrap=True)
            self._drawn = line.cell_len
        self._passed = now


def model_rows(params: Mapping[str, Any]) -> list[Row]:
    """List the parameters in the order in which one reads a model.

    Args:
      params: nested dict of arrays or ShapeDtypeStructs.

    Returns:
      (dotted path, shape, number of parameters) for each array.
    """
    rows: list[Row] = []
    for name in sorted(params, key=_reading_order):
        value = params[name]
        if isinstance(value, Mapping):
            rows += [(f"{name}.{path}", shape, n) for path, shape, n in model_rows(value)]
        else:
            rows.append((name, tuple(value.shape), math.prod(value.shape)))
    return rows


def fold(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Make of the rows a table for people: neighbours of one shape fold into one line.

    Args:
      rows: of ``model_rows``.

    Returns:
      Cells (name, shapes, parameters of each, of all): a line per top-level module, and for one
      with modules inside an indented line per inner module, whose numbers are for one of it.
    """
    table = []
    for names, leaves in _alike(rows, lambda path: path.partition(".")[0]):
        each, times = sum(n for *_, n in leaves), len(names)
        total = f"{each * times:,}"
        if not any("." in path for path, *_ in leaves):
            table.append((_join(names), _shapes(leaves, times), "", total))
            continue
        table.append((_join(names), "", f"{times} × {each:,}" if times > 1 else "", total))
        for inner, parts in _alike(leaves, lambda path: path.rpartition(".")[0] or path):
            count = len(inner) * sum(n for *_, n in parts)
            table.append(("  " + _join(inner), _shapes(parts, len(inner)), f"{count:,}", ""))
    return table


def duration(seconds: float) -> str:
    """Say a time: 3.2 s, 45 s, 2 min 05 s, 1 h 02 min, 3 d 04 h."""
    if not math.isfinite(seconds):
        return "? s"
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if not minutes:
        return f"{s} s"
    if not hours:
        return f"{m} min {s:02} s"
    return f"{days} d {h:02} h" if days else f"{h} h {m:02} min"


def _console(stream: TextIO, live: bool) -> Console:
    # rich would guess from the environment and wrap a log at 80; a sample's [b] and :x: are text.
    return Console(
        file=stream,
        force_terminal=live,
        force_jupyter=False,
        color_system="auto" if live else None,
        width=None if live else 100,
        highlight=False,
        markup=False,
        emoji=False,
    )


def _safe(text: str) -> str:
    """Escape what could move the cursor or turn the writing round; keep joiners and wide spaces."""
    harmless = "\n\xa0\u3000\u200c\u200d"
    return "".join(
        c if c.isprintable() or c in harmless else repr(c)[1:-1] for c in text.expandtabs(4)
    )


def _alike(rows: Sequence[Row], module: Callable[[str], str]) -> Iterator[tuple[list, list]]:
    """Group rows by module, then neighbouring modules with one parent and the same leaves."""
    modules = [
        (name, [(path[len(name) + 1 :], shape, n) for path, shape, n in group])
        for name, group in itertools.groupby(rows, lambda row: module(row[0]))
    ]
    same = itertools.groupby(modules, lambda item: (item[0].rpartition(".")[0], item[1]))
    for (_, leaves), group in same:
        yield [name for name, _ in group], leaves


def _join(names: Sequence[str]) -> str:
    parent = names[0].rpartition(".")[0]
    if len(names) > 3:
        return f"{names[0]} … {names[-1]}"
    return ", ".join([names[0], *(n.removeprefix(parent + ".") for n in names[1:])])


def _shapes(leaves: Sequence[Row], times: int) -> str:
    shapes = " + ".join("×".join(map(str, shape)) or "1" for _, shape, _ in leaves)
    return shapes if times == 1 else f"{times} × ({shapes})"


def _reading_order(name: str) -> tuple[int, list]:
    first = ("token_embedding_table", "position_embedding_table", "sa", "kernel", "scale")
    last = {"ln_f": len(first) + 1, "lm_head": len(first) + 2}
    rank = first.index(name) if name in first else last.get(name, len(first))
    # blocks_2 before blocks_10: digits count as numbers.
    return rank, [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]


class JsonLines:
    """``metrics.jsonl``: one JSON object a line, each with its "step"; what is written stays.

    Write the lines of step k before the checkpoint of step k: a run killed at any moment and
    continued from a checkpoint then has every line exactly once.
    """

    def __init__(self, path: Path, resume_step: int | None):
        """Start a new file (None), or keep the whole lines up to and with ``resume_step``."""
        kept = [] if resume_step is None else list(_lines(path))
        _write_whole(path, b"".join(raw for raw, r in kept if r["step"] <= resume_step))
        # Unbuffered: what a killed process wrote is already the system's.
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))

    def write(self, record: Mapping[str, float | int | str]) -> None:
        """Append one line, whole or not at all; NaN and infinities become null.

        Args:
          record: "step" and what was measured there, under names that end in their unit.

        Raises:
          KeyError: no "step".
          OSError: the disk is full; the file then ends with the line before.
        """
        data = _json(dict(record, step=int(record["step"])))
        end = os.fstat(self._file).st_size
        try:
            while data:  # a disk nearly full takes only a part
                data = data[os.write(self._file, data) :]
        except OSError:
            os.ftruncate(self._file, end)
            raise

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; [] without a file, and torn lines are left out."""
    return [record for _, record in _lines(path)]


class TensorBoard:
    """Event files for TensorBoard; does nothing when tensorboardX is absent (``note`` says so)."""

    def __init__(self, folder: Path, resume_step: int | None):
        """Write to ``folder``; continuing at ``resume_step`` hides the later events of before."""
        self._writer, self.note = None, ""
        try:
            from tensorboardX import SummaryWriter
        except (ImportError, TypeError):  # TypeError: its protobuf code is older than protobuf
            self.note = (
                "no TensorBoard files: tensorboardX is not installed (pip install tensorboardX)"
            )
            return
        purge = None if resume_step is None else resume_step + 1
        # Its thread writes every 5 s: what a killed run loses of the view, metrics.jsonl still has.
        self._writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=5)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record values by tag."""
        if self._writer:
            for tag, value in values.items():
                self._writer.add_scalar(tag, float(value), step)

    def text(self, step: int, tag: str, text: str) -> None:
        """Record a text, shown as it is."""
        if self._writer:
            self._writer.add_text(tag, "    " + text.replace("\n", "\n    "), step)  # Markdown code

    def close(self) -> None:
        """Flush and close the files."""
        if self._writer:
            self._writer.close()


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write ``summary.json`` or its like: the old file or the new one, never a half."""
    _write_whole(path, _json(data, indent=2))


def verdict(
    val_nats: float, band: tuple[float, float] | None, why_none: str = ""
) -> tuple[str, bool | None]:
    """Answer "is this loss normal?".

    Args:
      val_nats: exact loss over the validation split, nats per token.
      band: (low, high) that the config expects on this corpus, or None.
      why_none: why there is no band.

    Returns:
      One line, and whether the loss is as good as expected (None: nobody knows).
    """
    if band is None:
        return f"val {val_nats:.2f}: nothing to compare with ({why_none or 'no band'})", None
    low, high = band
    if not math.isfinite(val_nats):
        return f"val {val_nats}: the training diverged, lower optim.learning_rate", False
    # Two decimals, unless the band has more or they put the loss on the other side of its edge.
    same = (low <= round(val_nats, 2) <= high) == (low <= val_nats <= high)
    digits = 2 if same and all(x == round(x, 2) for x in band) else 4
    loss, expected = f"{val_nats:.{digits}f}", f"{low:.{digits}f}–{high:.{digits}f}"
    if low <= val_nats <= high:
        return f"val {loss}: as expected, {expected} nats per token", True
    if val_nats < low:
        return f"val {loss}: better than expected ({expected} nats per token)", True
    hint = "if the curve still falls, raise train.steps, else try another optim.learning_rate"
    return f"val {loss}: higher than expected ({expected} nats per token): {hint}", False


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for raw in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError):  # torn, not UTF-8, or not ours
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield raw + b"\n", record


def _json(data: Mapping[str, Any], indent: int | None = None) -> bytes:
    text = json.dumps(_plain(data), ensure_ascii=False, indent=indent) + "\n"
    return text.encode(errors="backslashreplace")  # a lone surrogate: \udc80, as JSON writes it


def _plain(value: Any) -> Any:
    """JSON's own types: arrays and their scalars become Python's, NaN and infinities null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".tmp")
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
