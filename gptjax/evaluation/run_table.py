"""Runs side by side: how sure a loss is, what each gained over the one before, and the table.

In: the nats of each run on blocks of one split. Out: ``Line``s, and the table as text, Markdown or
CSV. The verb ``compare`` measures; nothing is drawn or written here.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence

import numpy as np

HEADINGS = (
    "run",
    "val loss (nats/token)",
    "standard error",
    "gained",
    "standard error of it",
    "parameters",
    "FLOPs/token (training)",
    "training (s)",
    "sample",
)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Nats and predictions of each block of a split; ``text`` says of which text."""

    text: str
    nats: np.ndarray
    count: np.ndarray


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the table; None where there is nothing to say."""

    name: str
    val_nats: float
    error: float | None = None
    gained: float | None = None
    gained_error: float | None = None
    parameters: int | None = None
    flops: float | None = None
    seconds: float | None = None
    sample: str = ""

    def cells(self) -> list[str]:
        """The line as text, in the order of ``HEADINGS``."""
        gained = "" if self.gained is None else f"{self.gained:+.4f}"
        flops = "" if self.flops is None else f"{self.flops:,.0f}"
        params = "" if self.parameters is None else f"{self.parameters:,}"
        seconds = "" if self.seconds is None else f"{self.seconds:.1f}"
        errors = ["" if e is None else f"{e:.4f}" for e in (self.error, self.gained_error)]
        loss = f"{self.val_nats:.4f}"
        return [self.name, loss, errors[0], gained, errors[1], params, flops, seconds, self.sample]


def mean_and_error(nats: np.ndarray, count: np.ndarray) -> tuple[float, float]:
    """The mean Σ nats / Σ count, and its standard error from how the blocks differ.

    Neighbouring tokens are not independent, so the error of single tokens would be too small;
    blocks of some thousand are nearly so.

    Args:
      nats: of each block, (n,).
      count: predictions of each block, (n,).

    Returns:
      Nats per token, and sqrt(n / (n - 1) · Σ (nats - mean · count)²) / Σ count (0 for one block).
    """
    mean, n = nats.sum() / count.sum(), len(nats)
    squares = np.sum((nats - mean * count) ** 2)
    return float(mean), float(np.sqrt(squares * n / max(n - 1, 1)) / count.sum())


def gain(before: Blocks, after: Blocks) -> tuple[float, float] | None:
    """By how much the loss fell between two runs, with its standard error, nats per token.

    Both were asked about the same blocks, so that what makes a block hard cancels: the error of
    the difference is far smaller than that of either loss.

    Returns:
      The gain and its error; None when the runs were not asked about the same text.
    """
    if before.text != after.text or len(before.nats) != len(after.nats):
        return None
    per_token = before.nats / before.count - after.nats / after.count
    return mean_and_error(per_token * after.count, after.count)


def text_table(lines: Sequence[Line]) -> str:
    """The table for a terminal, all but the samples, which stand below it, a line each."""
    shown = [0, 1, 3, 5, 6, 7]
    heads = [HEADINGS[i].replace(" (nats/token)", ", nats").replace(" (s)", ", s") for i in shown]
    rows = [heads]
    for line in lines:
        cells = line.cells()
        for value in (1, 3):
            if cells[value + 1]:
                cells[value] += f" ± {cells[value + 1]}"
        rows.append([cells[i] for i in shown])
    widths = [max(len(row[i]) for row in rows) for i in range(len(shown))]
    # A figure without its error stands as if it had one: the decimal points meet.
    table = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        for i, (cell, width) in enumerate(zip(row[1:], widths[1:], strict=True)):
            cells.append(cell.ljust(width) if i < 2 else cell.rjust(width))
        table.append("  ".join(cells).rstrip())
    table.insert(1, "-" * max(map(len, table)))
    samples = [f"{line.name.ljust(widths[0])}  {line.sample}" for line in lines if line.sample]
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
    fields = [field.name for field in dataclasses.fields(Line)]
    writer.writerow(fields)
    for line in lines:
        values = [getattr(line, name) for name in fields]
        writer.writerow(["" if value is None else value for value in values])
    return out.getvalue()


def sample_line(text: str, length: int = 64) -> str:
    """A text of several lines as one of at most ``length`` characters; line ends become " / "."""
    line = " / ".join(part.strip() for part in text.split("\n") if part.strip())
    line = line.replace("`", "'")
    return line if len(line) <= length else line[: length - 1] + "…"
