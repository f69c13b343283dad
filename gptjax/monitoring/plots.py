"""Pictures: the loss curves of runs beside the lines to beat, and embeddings on a plane.

In: the records of ``metrics.jsonl``; points. Out: first the values, then a PNG of them. The only
file that knows matplotlib, imported where it is used; without it there is a note and no picture.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BATCHES, TRAIN, VAL = "batches", "train", "val"

# Okabe and Ito's palette: told apart by the colour-blind, and in grey.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#8C510A")
_KNOWN = {BATCHES: "#7FB8D8", TRAIN: _PALETTE[0], VAL: _PALETTE[1]}
_INK, _GREY, _LIGHT = "#222222", "#666666", "#E6E6E6"


@dataclass(frozen=True)
class Curve:
    """A loss over the steps of a run: ``nats[i]``, per token, was measured at ``steps[i]``."""

    label: str
    steps: Sequence[int]
    nats: Sequence[float]


def curves_of(records: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Collect the curves of one run.

    Args:
      records: of ``metrics.jsonl``: {"step", "loss_nats"} of training, {"step", "train_nats",
        "val_nats"} of evaluations; what is null (NaN, infinity) is left out.

    Returns:
      The batches, train and val, in this order; a curve without points is left out.
    """
    curves = []
    for label, name in ((BATCHES, "loss_nats"), (TRAIN, "train_nats"), (VAL, "val_nats")):
        points = [(r["step"], r[name]) for r in records if _finite(r.get(name))]
        if points:
            steps, nats = zip(*sorted(points), strict=True)
            curves.append(Curve(label, steps, nats))
    return curves


def smooth(nats: Sequence[float], width: int) -> np.ndarray:
    """Average each value with up to ``width // 2`` neighbours on each side: (n,) nats."""
    at, sums = np.arange(len(nats)), np.concatenate([[0.0], np.cumsum(nats)])
    first, end = np.maximum(at - width // 2, 0), np.minimum(at + width // 2 + 1, len(nats))
    return (sums[end] - sums[first]) / (end - first)


def limits(curves: Sequence[Curve], lines: Mapping[str, float]) -> tuple[float, float]:
    """Choose the range of the loss axis: all lines and all that was learnt, not the first fall.

    Args:
      curves: what is drawn.
      lines: label -> nats per token.

    Returns:
      (low, high) nats. A curve's highest tenth may leave at the top, as may outliers.
    """
    lows, highs = list(lines.values()), list(lines.values())
    for curve in curves:
        lows.append(float(np.quantile(curve.nats, 0.01 if curve.label == BATCHES else 0.0)))
        highs.append(float(np.quantile(curve.nats, 0.9)))
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Move numbers apart, least gap ``gap``, keeping their order: where labels can stand."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    # Runs of labels that touch: [members, mean of what each asks for].
    runs: list[list[int]] = []

    def start(run: list[int]) -> float:
        return sum(values[i] - k * gap for k, i in enumerate(run)) / len(run)

    for i in order:
        runs.append([i])
        while len(runs) > 1 and start(runs[-2]) + len(runs[-2]) * gap > start(runs[-1]):
            runs[-2:] = [runs[-2] + runs[-1]]
    placed = {i: start(run) + k * gap for run in runs for k, i in enumerate(run)}
    return [placed[i] for i in range(len(values))]


def figure_of(curves: Sequence[Curve], lines: Mapping[str, float], title: str) -> Figure:
    """Draw the curves, each named where it ends, and the lines to beat, dashed.

    Args:
      curves: of ``curves_of``, or one a run; at least one.
      lines: label -> nats per token, such as {"count bigram": 2.48}.
      title: one line over the picture.

    Returns:
      A matplotlib figure of 8 x 4.8 inches (1200 x 720 pixels at 150 dpi).

    Raises:
      ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    low, high = limits(curves, lines)
    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # inches
    axes = figure.add_subplot()
    labels = []  # (nats, text, colour)
    for label, nats in lines.items():
        axes.axhline(nats, color=_GREY, linewidth=1.2, dashes=(5, 3), zorder=1)
        labels.append((nats, f"{label} {nats:.2f}", _GREY))
    for i, curve in enumerate(curves):
        color = _KNOWN.get(curve.label, _PALETTE[i % len(_PALETTE)])
        last = _draw_curve(axes, curve, color)
        labels.append((last, f"{curve.label} {last:.2f}", color))
    # The labels stand in the right margin; 5.5 % of the height is a line of text.
    places = spread([min(nats, high) for nats, *_ in labels], 0.055 * (high - low))
    for (_, text, color), place in zip(labels, places, strict=True):
        axes.annotate(
            text,
            (1, place),
            (7, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=color,
            va="center",
            parse_math=False,
        )
    steps = max(1, *(max(curve.steps) for curve in curves))
    axes.set_xlim(-0.01 * steps, 1.01 * steps)  # the points at both ends stay whole
    axes.set_ylim(low, high)
    axes.set_xlabel("step", color=_GREY)
    axes.set_ylabel("loss, nats per token", color=_GREY)
    axes.set_title(title, loc="left", color=_INK, fontweight="bold", parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", color=_LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_GREY)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GREY)
    return figure


def loss_curves(path: Path, curves: Sequence[Curve], lines: Mapping[str, float], title: str) -> str:
    """Write the picture of ``figure_of`` as a PNG of 1200 x 720 pixels, whole or not at all.

    Args:
      path: the PNG.
      curves, lines, title: see ``figure_of``.

    Returns:
      "", or why there is no picture.
    """
    if not curves:
        return f"no {path.name}: no losses were recorded"
    return _write(path, lambda: figure_of(curves, lines, title))


def plane_of(points_Nx2: np.ndarray, labels: Sequence[str], title: str) -> Figure:
    """Draw tokens as points of a plane, each beside its name: 8 x 8 inches.

    Args:
      points_Nx2: where each stands.
      labels: what each is called.
      title: one line over the picture.

    Returns:
      A matplotlib figure (1200 x 1200 pixels at 150 dpi).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.scatter(points_Nx2[:, 0], points_Nx2[:, 1], s=10, color=_PALETTE[0], linewidths=0)
    size = 11 if len(labels) <= 40 else 8  # points
    for label, point in zip(labels, points_Nx2, strict=True):
        offset = {"xytext": (3, 2), "textcoords": "offset points"}
        axes.annotate(label, point, **offset, color=_INK, fontsize=size, parse_math=False)
    axes.margins(0.08)
    axes.set_title(title, loc="left", color=_INK, fontweight="bold", parse_math=False)
    axes.grid(color=_LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_GREY)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return figure


def plane(path: Path, points_Nx2: np.ndarray, labels: Sequence[str], title: str) -> str:
    """Write the picture of ``plane_of`` as a PNG, whole or not at all.

    Returns:
      "", or why there is no picture.
    """
    return _write(path, lambda: plane_of(points_Nx2, labels, title))


def _write(path: Path, draw: Callable[[], Figure]) -> str:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        return f"no {path.name}: matplotlib is not installed (pip install matplotlib)"
    part = path.with_name(path.name + ".tmp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a title in a script that the font lacks
        FigureCanvasAgg(draw()).print_png(part, metadata={"Software": None})
    try:
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        return f"no {path.name}: {path} cannot be written ({error.strerror})"
    return ""


def _draw_curve(axes: Axes, curve: Curve, color: str) -> float:
    """Draw one curve; returns the loss at its end, nats."""
    if curve.label == BATCHES:
        smoothed = smooth(curve.nats, len(curve.nats) // 40 + 1)
        axes.plot(curve.steps, curve.nats, color=color, linewidth=0.6, alpha=0.45)
        axes.plot(curve.steps, smoothed, color=color, linewidth=1.4)
        return float(smoothed[-1])
    marker = "o" if len(curve.steps) <= 60 else ""
    axes.plot(curve.steps, curve.nats, color=color, linewidth=2, marker=marker, markersize=3.5)
    best = int(np.argmin(curve.nats))
    if curve.label == VAL and best < len(curve.nats) - 1:
        point = (curve.steps[best], curve.nats[best])
        axes.plot(*point, "o", color="white", markeredgecolor=color, markersize=8, zorder=4)
        offset = {"xytext": (0, 9), "textcoords": "offset points"}
        axes.annotate(f"best {point[1]:.2f}", point, **offset, color=color, ha="center")
    return float(curve.nats[-1])


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
