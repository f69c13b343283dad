"""What a run writes down: ``metrics.jsonl``, ``timing.jsonl``, JSON files such as ``summary.json``.

In: the numbers and short texts of a run. Out: one JSON object a line; JSON files. Of several
processes one writes.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gptjax.processes import cluster
from gptjax.runtime.atomic_files import parse_json, read_small, write_whole

LINES_LIMIT = 2**31  # bytes of a metrics.jsonl that are read


class JsonLines:
    """``metrics.jsonl``: one JSON object a line, each with its "step"; what is written stays.

    Write the lines of step k before the checkpoint of step k, and ``n_lines`` into it: a run killed
    at any moment and continued from a checkpoint then has every line exactly once.
    """

    def __init__(self, path: Path, resume_step: int | None, n_lines: int | None = None):
        """Start a new file, or keep the lines up to ``resume_step``, and at most ``n_lines``."""
        kept = [] if resume_step is None else list(_lines(path))
        lines = [raw for raw, record in kept if record["step"] <= resume_step][:n_lines]
        self.n_lines = len(lines)
        self._file = -1
        if cluster.is_first():
            write_whole(path, b"".join(lines))
            # Unbuffered: what a killed process wrote is already the system's.
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))

    def write(self, record: Mapping[str, float | int | str]) -> None:
        """Append one line, whole or not at all; NaN and infinities become null.

        Raises:
          KeyError: no "step".
          OSError: the disk is full; the file then ends with the line before.
        """
        data = to_json(dict(record, step=int(record["step"])))
        if self._file >= 0:
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


class TimingLines(JsonLines):
    """``timing.jsonl``, beside a ``metrics.jsonl`` whose bytes no clock may change.

    Its lines hold sums since step 0: "tokens" predicted, "train_seconds" of the steps, of which at
    most "gather_seconds" went by before the device had its batches, and "evaluation_seconds" and
    "checkpoint_seconds" for which the steps waited. "compiled" is whether a start's first steps,
    with their compiling, are among those since the line before. Points of ``metrics.jsonl`` between
    two lines are found by interpolation over "step". What cannot be written is lost without a word:
    no run ends for it.
    """

    def __init__(self, path: Path, resume_step: int | None):
        """As ``JsonLines``; ``last_step``: of the last line, 0 without one."""
        self._file, self.n_lines, self.last_step = -1, 0, 0
        with contextlib.suppress(OSError):
            super().__init__(path, resume_step)
            self.last_step = max((record["step"] for record in read(path)), default=0)

    def write(self, record: Mapping[str, float | int | str]) -> None:
        """Append one line if there is room for it; seconds to the microsecond."""
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in record.items()}
        with contextlib.suppress(OSError):
            super().write(rounded)
        self.last_step = int(record["step"])


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; [] without a file, and torn lines are left out."""
    return [record for _, record in _lines(path)]


def last_sample(records: Iterable[Mapping[str, Any]]) -> str:
    """The text that a run wrote last, "" where it wrote none."""
    texts = [record["sample"] for record in records if isinstance(record.get("sample"), str)]
    return next((text for text in reversed(texts) if text), "")


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write ``summary.json`` or its like: the old file or the new one, never a half."""
    if cluster.is_first():
        write_whole(path, to_json(data, indent=2))


def to_json(data: Mapping[str, Any], indent: int | None = None) -> bytes:
    """A line of JSON in UTF-8; a lone surrogate becomes \\udc80, as JSON writes it."""
    text = json.dumps(plain(data), ensure_ascii=False, indent=indent) + "\n"
    return text.encode(errors="backslashreplace")


def plain(value: Any) -> Any:
    """JSON's own types: arrays and their scalars become Python's, NaN and infinities null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for raw in read_small(path, LINES_LIMIT).split(b"\n") if path.exists() else []:
        try:
            record = parse_json(raw)
        except ValueError:  # torn, not UTF-8, or not ours
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield raw + b"\n", record
