"""What a run writes down: ``metrics.jsonl``, TensorBoard, ``summary.json``, and its verdict.

In: the numbers and short texts of a run. Out: one JSON object a line, event files, JSON files. The
only file that knows tensorboardX; without it ``TensorBoard`` does nothing.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gptjax.runtime import atomic_files as files
from gptjax.runtime.atomic_files import write_whole

LINES_LIMIT = 2**31  # bytes of a metrics.jsonl that are read


class JsonLines:
    """``metrics.jsonl``: one JSON object a line, each with its "step"; what is written stays.

    Write the lines of step k before the checkpoint of step k, and ``n_lines`` into it: a run killed
    at any moment and continued from a checkpoint then has every line exactly once.
    """

    def __init__(self, path: Path, resume_step: int | None, n_lines: int | None = None):
        """Start a new file, or keep the lines that stood there when a checkpoint was made.

        Args:
          path: the file.
          resume_step: of that checkpoint; None starts anew.
          n_lines: how many lines stood there at most; None leaves it to the steps.
        """
        kept = [] if resume_step is None else list(_lines(path))
        lines = [raw for raw, record in kept if record["step"] <= resume_step][:n_lines]
        self.n_lines = len(lines)
        write_whole(path, b"".join(lines))
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
        self.n_lines += 1

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; [] without a file, and torn lines are left out."""
    return [record for _, record in _lines(path)]


def last_sample(records: Iterable[Mapping[str, Any]]) -> str:
    """The text that a run wrote last, "" where it wrote none."""
    texts = [record["sample"] for record in records if isinstance(record.get("sample"), str)]
    return next((text for text in reversed(texts) if text), "")


class TensorBoard:
    """Event files for TensorBoard; does nothing when tensorboardX is absent (``note`` says so)."""

    def __init__(self, folder: Path, resume_step: int | None):
        """Write to ``folder``; hide what an earlier start wrote after ``resume_step``."""
        self._writer, self.note = None, ""
        self._threads, self._hook = set(), threading.excepthook
        try:
            from tensorboardX import SummaryWriter
        except (ImportError, TypeError):  # TypeError: its protobuf code is older than protobuf
            self.note = (
                "no TensorBoard files: tensorboardX is not installed (pip install tensorboardX)"
            )
            return
        purge = 0 if resume_step is None else resume_step + 1
        # Its thread writes every 5 s: what a killed run loses of the view, metrics.jsonl still has.
        # The suffix keeps a start within the same second from overwriting the file before.
        before = set(threading.enumerate())
        try:
            self._writer = SummaryWriter(
                str(folder),
                purge_step=purge,
                max_queue=10_000,
                flush_secs=5,
                filename_suffix=f".from_{purge}",
            )
        except OSError as error:
            self.note = f"no TensorBoard files: {folder} cannot be written ({error.strerror})"
        self._threads = set(threading.enumerate()) - before
        self._hook = threading.excepthook
        threading.excepthook = self._thread_ended

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record values by tag."""
        if self._works():
            for tag, value in values.items():
                self._writer.add_scalar(tag, float(value), step)

    def text(self, step: int, tag: str, text: str) -> None:
        """Record a text, shown as it is."""
        if self._works():
            self._writer.add_text(tag, "    " + text.replace("\n", "\n    "), step)  # Markdown code

    def close(self) -> None:
        """Flush and close the files."""
        if self._works():
            with contextlib.suppress(OSError):  # a full disk: the view is lost, not the run
                self._writer.close()
        if threading.excepthook == self._thread_ended:
            threading.excepthook = self._hook

    def _thread_ended(self, args: threading.ExceptHookArgs) -> None:
        if args.thread not in self._threads or not isinstance(args.exc_value, OSError):
            self._hook(args)

    def _works(self) -> bool:
        """Whether the thread that writes still lives: on a full disk it dies, and a call hangs."""
        return self._writer is not None and all(thread.is_alive() for thread in self._threads)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write ``summary.json`` or its like: the old file or the new one, never a half."""
    write_whole(path, _json(data, indent=2))


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
    for raw in files.read_small(path, LINES_LIMIT).split(b"\n") if path.exists() else []:
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError):  # torn, not UTF-8, or not ours
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield raw + b"\n", record


def _json(data: Mapping[str, Any], indent: int | None = None) -> bytes:
    text = json.dumps(plain(data), ensure_ascii=False, indent=indent) + "\n"
    return text.encode(errors="backslashreplace")  # a lone surrogate: \udc80, as JSON writes it


def plain(value: Any) -> Any:
    """JSON's own types: arrays and their scalars become Python's, NaN and infinities null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
