"""Runs side by side: how sure a loss is, what a run gained, what seeds differ by, and the table.

In: the nats of runs on blocks of one split. Out: ``Line``s, and a ``Table`` of them as text,
Markdown, CSV or JSON.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

FEWEST_BLOCKS = 10  # of fewer, no error is told: it would itself be wrong by a quarter and more
ERROR_MEANS = (
    "standard error of the choice of validation text: how much the mean would differ, for this "
    "model, on another text of this length; what another seed would change is not in it"
)
MEANS = {
    "±": f"{ERROR_MEANS}. Of a gain it is that of the difference on the same text.",
    "sd": "sample standard deviation over the seeds: it holds what a seed changes",
    "bits per byte": "the val loss per byte of text (UTF-8), which compares runs with other tokens",
    "training, s": "seconds of all steps, without compiling, evaluating and saving",
}


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Nats and predictions of each block of a split; ``text`` says of which texts, train and val.

    Two of one ``text`` were asked for the same tokens and could learn from the same.
    """

    text: str
    nats: np.ndarray
    count: np.ndarray


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the table: a run, the mean of several seeds, or a baseline; None is nothing."""

    kind: str  # run, seeds or baseline
    name: str
    val_nats: float
    error: float | None = None  # of the choice of text, as is gained_error
    bits_per_byte: float | None = None  # of val, the same loss
    deviation: float | None = None  # over the seeds, of a line of seeds, as is gained_deviation
    gained: float | None = None
    gained_error: float | None = None
    gained_deviation: float | None = None
    folder: str = ""
    seed: int | None = None
    steps: int | None = None  # that it was trained
    best_step: int | None = None
    step: int | None = None  # of the checkpoint that was measured
    parameters: int | None = None
    flops: float | None = None  # of training, per token
    seconds: float | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # that differ, by path
    sample: str = ""


def mean_and_error(blocks: Blocks) -> tuple[float, float | None]:
    """The mean Σ nats / Σ count, nats per token, and its standard error from how n blocks differ.

    It is sqrt(n / (n - 1) · Σ (nats - mean · count)²) / Σ count; None of less than FEWEST_BLOCKS.
    """
    nats, count, n = blocks.nats, blocks.count, len(blocks.nats)
    mean = nats.sum() / count.sum()
    if n < FEWEST_BLOCKS:
        return float(mean), None
    squares = np.sum((nats - mean * count) ** 2)
    error = float(np.sqrt(squares * n / (n - 1)) / count.sum())
    return float(mean), error if error > 1e-12 else 0.0  # of what is the same everywhere


def gain(before: Blocks, after: Blocks) -> tuple[float, float | None] | None:
    """By how much the loss fell, and its standard error, nats per token.

    What makes a block hard for both cancels, so the error is mostly smaller than that of either
    loss. None where the two learnt from other tokens, or were asked for others.
    """
    if before.text != after.text or len(before.nats) != len(after.nats):
        return None
    per_token = before.nats / before.count - after.nats / after.count
    _, error = mean_and_error(Blocks(after.text, per_token * after.count, after.count))
    # Rows of other lengths put other places into a block: the blocks' mean is nearly the gain's.
    return mean_and_error(before)[0] - mean_and_error(after)[0], error


def mean_of_seeds(name: str, lines: Sequence[Line]) -> Line:
    """The mean of runs that differ in the seed alone, with sample standard deviations."""

    def mean_and_deviation(values: Iterable[float | None]) -> tuple[float | None, float | None]:
        known = [value for value in values if value is not None]
        if len(known) < len(lines):
            return None, None
        return float(np.mean(known)), float(np.std(known, ddof=1))

    val, deviation = mean_and_deviation(line.val_nats for line in lines)
    bits, _ = mean_and_deviation(line.bits_per_byte for line in lines)
    gained, gained_deviation = mean_and_deviation(line.gained for line in lines)
    seconds, _ = mean_and_deviation(line.seconds for line in lines)
    one = lines[0]
    return Line(
        "seeds",
        f"{name}: mean of {len(lines)} seeds",
        val,
        deviation=deviation,
        bits_per_byte=bits,
        gained=gained,
        gained_deviation=gained_deviation,
        steps=one.steps,
        parameters=one.parameters,
        flops=one.flops,
        seconds=seconds,
        settings=one.settings,
    )


@dataclasses.dataclass(frozen=True)
class Table:
    """Lines with what is said of them all: the checkpoints' name, what a gain is measured against.

    ``gained_over``: a run's name or a baseline's; "" where nothing was gained over anything.
    """

    lines: Sequence[Line]
    gained_over: str = ""
    checkpoint: str = "best"
    notes: Sequence[str] = ()

    def text(self) -> str:
        """For a terminal: the table, what its figures mean, settings that differ, samples."""
        rows = self._rows()
        parts = [_aligned(rows, left=3), "\n".join(_wrapped(self.meanings()))]
        if paths := self.differing():
            settings = [["settings\nthat differ", *(path.replace(".", ".\n") for path in paths)]]
            settings += [[ln.name, *self._values(ln)] for ln in self.lines if ln.settings]
            parts.append(_aligned(settings, left=len(settings[0])))
        if samples := [[line.name, line.sample] for line in self.lines if line.sample]:
            parts.append(_aligned([["sample", ""], *samples], left=2))
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """For a README: all in one table, and below it what its figures mean."""
        heading, *rows = self._rows()
        heading = [" ".join(name.split("\n")) for name in heading]
        heading = [*heading, *(f"`{path}`" for path in self.differing()), "sample"]
        samples = [f"`{line.sample}`" if line.sample else "" for line in self.lines]
        lines = zip(rows, self.lines, samples, strict=True)
        rows = [[*row, *self._values(line), sample] for row, line, sample in lines]
        rule = ["---", *["---:"] * (len(heading) - 2), "---"]
        table = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in (heading, rule, *rows)
        ]
        return "\n".join([*table, "", *(f"- {line}" for line in [*self.meanings(), *self.notes])])

    def csv(self) -> str:
        """For a program: plain numbers below a heading, without the samples."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        names = [name for name in _fields() if name not in ("settings", "sample")]
        writer.writerow([*names, *self.differing()])
        for line in self.lines:
            settings = [line.settings.get(path) for path in self.differing()]
            writer.writerow([*(getattr(line, name) for name in names), *settings])
        return out.getvalue()

    def json(self) -> dict[str, Any]:
        """For a program: everything, with what the figures mean."""
        sd = f"nats per token; {MEANS['sd']}"
        means = {"deviation": sd, "gained_deviation": sd, "seconds": MEANS["training, s"]}
        means["bits_per_byte"] = MEANS["bits per byte"]
        means |= {"error": MEANS["±"], "gained_error": MEANS["±"]}
        lines = [{name: getattr(line, name) for name in _fields()} for line in self.lines]
        said = {"checkpoint": self.checkpoint, "gained_over": self.gained_over}
        return said | {"notes": list(self.notes), "means": means, "lines": lines}

    def meanings(self) -> list[str]:
        """What the table's figures mean, those of it that it has."""
        of = "each run's best checkpoint by its estimates"
        if self.checkpoint != "best":
            of = f"each run's checkpoint of {self.checkpoint}"
        said = [f"val loss: exact, over the whole val split, of {of}"]
        if any(line.error is not None for line in self.lines):
            said.append(f"±: {MEANS['±']}")
        if any(line.bits_per_byte is not None for line in self.lines):
            said.append(f"bits per byte: {MEANS['bits per byte']}")
        if any(line.deviation is not None for line in self.lines):
            said.append(f"sd: {MEANS['sd']}")
        if any(line.seconds is not None for line in self.lines):
            said.append(f"training, s: {MEANS['training, s']}")
        return said

    def differing(self) -> list[str]:
        """The paths of the settings in which the runs differ."""
        return list(dict.fromkeys(path for line in self.lines for path in line.settings))

    def _values(self, line: Line) -> list[str]:
        return [str(line.settings.get(path, "")) for path in self.differing()]

    def _rows(self) -> list[list[str]]:
        """The heading, of two lines, and each line as text; no column without a figure."""
        columns: list[tuple[str, Callable[[Line], str]]] = [
            ("run", lambda line: line.name),
            ("val loss,\nnats/token", lambda line: _figure(line.val_nats, line, "")),
            ("bits per\nbyte", lambda line: _number(line.bits_per_byte, ".4f")),
            (f"gained over\n{self.gained_over}", lambda ln: _figure(ln.gained, ln, "gained_")),
            ("seed", lambda line: _number(line.seed, "")),
            ("steps", lambda line: _number(line.steps, ",")),
            ("best\nstep", lambda line: _number(line.best_step, ",")),
            ("parameters", lambda line: _number(line.parameters, ",")),
            ("FLOPs\nper token", lambda line: _number(line.flops, ",.0f")),
            ("training,\ns", lambda line: _number(line.seconds, ".2f")),
        ]
        cells = [(heading, [cell(line) for line in self.lines]) for heading, cell in columns]
        kept = [[heading, *column] for heading, column in cells if any(column)]
        return [list(row) for row in zip(*kept, strict=True)]


def sample_line(text: str, length: int = 64) -> str:
    """A text of several lines as one of at most ``length`` characters; line ends become " / "."""
    parts = filter(None, map(str.strip, text.split("\n")))
    line = " / ".join(parts).replace("`", "'")
    return line if len(line) <= length else line[: length - 1] + "…"


def _fields() -> list[str]:
    return [field.name for field in dataclasses.fields(Line)]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _figure(value: float | None, line: Line, which: str) -> str:
    """A loss or a gain with its error, or its deviation: what follows it says which."""
    if value is None:
        return ""
    shown = format(value, "+.4f" if which else ".4f")
    error, deviation = (getattr(line, which + name) for name in ("error", "deviation"))
    if error:  # not of knowing nothing, which is as bad on any text
        shown += f" ± {error:.4f}"
    return shown + (f", sd {deviation:.4f}" if deviation is not None else "")


def _aligned(rows: Sequence[Sequence[str]], left: int) -> str:
    """Rows of cells as lines of text, a rule below the first; ``left`` columns are padded right."""
    heading = [name.split("\n") for name in rows[0]]
    n = max(map(len, heading))
    above = [[cell[i] if i < len(cell) else "" for cell in heading] for i in range(n)]
    columns = list(map(list, zip(*above, *rows[1:], strict=True)))
    for i, column in enumerate(columns):
        pad = str.ljust if i < left else str.rjust
        columns[i] = [pad(cell, max(map(len, column))) for cell in column]
    table = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    table.insert(n, "-" * max(map(len, table)))
    return "\n".join(table)


def _wrapped(lines: Iterable[str]) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, 98, subsequent_indent="  ")]
