"""Runs side by side: how sure a loss is, what each gained over the one before, and the table.

In: the nats of runs on blocks of one split. Out: ``Line``s; the table as text, Markdown or CSV.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Annotated, get_type_hints

import numpy as np


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Nats and predictions of each block of a split; ``text`` says of which text."""

    text: str
    nats: np.ndarray
    count: np.ndarray


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the table: values, their headings and how they are written; None is nothing."""

    name: Annotated[str, "run", ""]
    val_nats: Annotated[float, "val loss (nats/token)", ".4f"]
    error: Annotated[float | None, "standard error", ".4f"] = None
    gained: Annotated[float | None, "gained", "+.4f"] = None
    gained_error: Annotated[float | None, "standard error of it", ".4f"] = None
    parameters: Annotated[int | None, "parameters", ","] = None
    flops: Annotated[float | None, "FLOPs/token (training)", ",.0f"] = None
    seconds: Annotated[float | None, "training (s)", ".1f"] = None
    sample: Annotated[str, "sample", ""] = ""

    def cells(self) -> list[str]:
        """The line as text, in the order of ``HEADINGS``."""
        values = zip(dataclasses.astuple(self), HEADINGS.values(), strict=True)
        return ["" if value is None else format(value, form) for value, form in values]


HEADINGS = dict(hint.__metadata__ for hint in get_type_hints(Line, include_extras=True).values())


def mean_and_error(nats: np.ndarray, count: np.ndarray) -> tuple[float, float]:
    """The mean Σ nats / Σ count, nats per token, and its standard error from how n blocks differ.

    It is sqrt(n / (n - 1) · Σ (nats - mean · count)²) / Σ count, 0 for one block. Neighbouring
    tokens are not independent, as blocks of some thousand nearly are: theirs would be too small.
    """
    mean, n = nats.sum() / count.sum(), len(nats)
    squares = np.sum((nats - mean * count) ** 2)
    return float(mean), float(np.sqrt(squares * n / max(n - 1, 1)) / count.sum())


def gain(before: Blocks, after: Blocks) -> tuple[float, float] | None:
    """By how much the loss fell, and its standard error, nats per token; None: other blocks.

    What makes a block hard cancels: the error is far smaller than that of either loss.
    """
    if before.text != after.text or len(before.nats) != len(after.nats):
        return None
    per_token = before.nats / before.count - after.nats / after.count
    return mean_and_error(per_token * after.count, after.count)


def text_table(lines: Sequence[Line]) -> str:
    """The table for a terminal, all but the samples, which stand below it, a line each."""
    rows = [[name.replace(" (nats/token)", ", nats").replace(" (s)", ", s") for name in HEADINGS]]
    for line in lines:
        cells = line.cells()
        for value in (1, 3):
            if cells[value + 1]:
                cells[value] += f" ± {cells[value + 1]}"
        rows.append(cells)
    columns = [[row[i] for row in rows] for i in (0, 1, 3, 5, 6, 7)]
    # A figure without its error stands as if it had one: the decimal points meet.
    for i, column in enumerate(columns):
        pad = str.ljust if i < 3 else str.rjust
        columns[i] = [pad(cell, max(map(len, column))) for cell in column]
    table = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    table.insert(1, "-" * max(map(len, table)))
    named = zip(columns[0][1:], lines, strict=True)
    samples = [f"{name}  {line.sample}" for name, line in named if line.sample]
    return "\n".join([*table, *(["", "samples:"] if samples else []), *samples])


def markdown_table(lines: Sequence[Line]) -> str:
    """The table for a README."""

    def row(cells):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---"] + ["---:"] * (len(HEADINGS) - 2) + ["---"]
    code = [[*line.cells()[:-1], f"`{line.sample}`" if line.sample else ""] for line in lines]
    return "\n".join([row(HEADINGS), row(rule), *map(row, code)])


def csv_table(lines: Sequence[Line]) -> str:
    """The table for a program: a heading, then plain numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Line))
    writer.writerows(map(dataclasses.astuple, lines))
    return out.getvalue()


def sample_line(text: str, length: int = 64) -> str:
    """A text of several lines as one of at most ``length`` characters; line ends become " / "."""
    parts = filter(None, map(str.strip, text.split("\n")))
    line = " / ".join(parts).replace("`", "'")
    return line if len(line) <= length else line[: length - 1] + "…"
