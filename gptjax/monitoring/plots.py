"""Pictures: the loss curves of runs beside their baselines, and embeddings on a plane.

In: the records of ``metrics.jsonl``; points. Out: figures, and PNG files of them. The only file
that knows matplotlib, imported where it is used; without it there is a note and no picture.
"""

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.runtime import devices
from gptjax.runtime.atomic_files import write_whole

BATCHES, TRAIN, VAL = "batches", "train", "val"
# Okabe and Ito's palette: told apart by the colour-blind, and in grey.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#8C510A")
_KNOWN = {BATCHES: "#7FB8D8", TRAIN: _PALETTE[0], VAL: _PALETTE[1]}
_INK, _GREY, _LIGHT = "#222222", "#666666", "#E6E6E6"
_BESIDE = {"textcoords": "offset points", "parse_math": False}  # of a text beside a point


@dataclass(frozen=True)
class Curve:
    """A loss over the steps of a run: ``nats[i]``, per token, was measured at ``steps[i]``."""

    label: str
    steps: Sequence[int]
    nats: Sequence[float]


def curves_of(records: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The curves of a run's records: batches, train and val; what is null there is left out."""
    curves = []
    for label, name in ((BATCHES, "loss_nats"), (TRAIN, "train_nats"), (VAL, "val_nats")):
        numbers = [(r["step"], r[name]) for r in records if isinstance(r.get(name), (int, float))]
        if points := sorted(point for point in numbers if math.isfinite(point[1])):
            curves.append(Curve(label, *zip(*points, strict=True)))
    return curves


def smooth(nats: Sequence[float], width: int) -> np.ndarray:
    """Average each value with up to ``width // 2`` neighbours on each side: (n,) nats."""
    at, sums = np.arange(len(nats)), np.concatenate([[0.0], np.cumsum(nats)])
    first, end = np.maximum(at - width // 2, 0), np.minimum(at + width // 2 + 1, len(nats))
    return (sums[end] - sums[first]) / (end - first)


def limits(curves: Sequence[Curve], lines: Mapping[str, float]) -> tuple[float, float]:
    """The loss axis' (low, high), nats: all lines and all that was learnt, not the first fall."""
    lows, highs = list(lines.values()), list(lines.values())
    for curve in curves:  # its highest tenth may leave at the top, as may outliers
        lows.append(float(np.quantile(curve.nats, 0.01 if curve.label == BATCHES else 0.0)))
        highs.append(float(np.quantile(curve.nats, 0.9)))
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Move numbers apart, least gap ``gap``, keeping their order: where labels can stand."""
    runs: list[tuple[float, int]] = []  # of labels that touch: where the first stands, how many
    for start in sorted(values):
        count = 1
        while runs and runs[-1][0] + runs[-1][1] * gap > start:
            first, n = runs.pop()  # joined, they stand where their labels ask for on average
            start, count = (n * first + count * (start - n * gap)) / (n + count), n + count
        runs.append((start, count))
    places = [start + k * gap for start, count in runs for k in range(count)]
    return [places[rank] for rank in np.argsort(np.argsort(values, kind="stable"))]


def loss_figure(curves: Sequence[Curve], lines: Mapping[str, float], title: str) -> Any:
    """Draw at least one curve, each named where it ends, and the baselines, dashed.

    ``lines`` are nats per token by label, such as {"count bigram": 2.48}. Returns a matplotlib
    figure of 8 x 4.8 inches (1200 x 720 pixels); ImportError where matplotlib is not installed.
    """
    low, high = limits(curves, lines)
    figure, axes = _page(4.8, title)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # inches
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
        units = ("axes fraction", "data")  # of the point; _BESIDE has those of the distance to it
        axes.annotate(text, (1, place), (7, 0), units, color=color, va="center", **_BESIDE)
    steps = max(1, *(max(curve.steps) for curve in curves))
    # Beyond 0 and the last step, so that the points at both ends stay whole.
    axes.set(xlim=(-0.01 * steps, 1.01 * steps), ylim=(low, high))
    axes.set_xlabel("step", color=_GREY)
    axes.set_ylabel("loss, nats per token", color=_GREY)
    axes.locator_params("x", nbins=10, steps=[1, 2, 2.5, 5, 10], integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", color=_LIGHT, linewidth=0.8)
    axes.spines["bottom"].set(visible=True, color=_GREY)
    return figure


def plane_figure(points_Nx2: np.ndarray, labels: Sequence[str], title: str) -> Any:
    """Draw tokens as points of a plane, each beside its name: 8 x 8 inches (1200 x 1200 pixels)."""
    figure, axes = _page(8, title)
    axes.scatter(points_Nx2[:, 0], points_Nx2[:, 1], s=10, color=_PALETTE[0], linewidths=0)
    size = 11 if len(labels) <= 40 else 8  # points
    for label, point in zip(labels, points_Nx2, strict=True):
        axes.annotate(label, point, (3, 2), color=_INK, fontsize=size, **_BESIDE)
    axes.margins(0.08)
    axes.grid(color=_LIGHT, linewidth=0.8)
    return figure


def write_png(path: Path, draw: Callable[[], Any]) -> str:
    """Write the figure that ``draw`` makes as a PNG; returns "", or why there is no picture."""
    if not devices.is_writer():
        return ""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        return f"no {path.name}: matplotlib is not installed (pip install matplotlib)"
    png = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # a title in a script that the font lacks
        FigureCanvasAgg(draw()).print_png(png, metadata={"Software": None})
    try:
        write_whole(path, png.getvalue())
    except OSError as error:
        return f"no {path.name}: {path} cannot be written ({error.strerror})"
    return ""


def loss_curves(path: Path, curves: Sequence[Curve], lines: Mapping[str, float], title: str) -> str:
    """Write the picture of ``loss_figure``; returns "", or why there is no picture."""
    if not curves:
        return f"no {path.name}: no losses were recorded"
    return write_png(path, lambda: loss_figure(curves, lines, title))


def _page(height: float, title: str) -> tuple[Any, Any]:
    """An empty figure, 8 inches wide at 150 dpi, and its axes without a frame."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color=_INK, fontweight="bold", parse_math=False)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_GREY)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return figure, axes


def _draw_curve(axes: Any, curve: Curve, color: str) -> float:
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
        axes.annotate(f"best {point[1]:.2f}", point, (0, 9), color=color, ha="center", **_BESIDE)
    return float(curve.nats[-1])
