"""Pictures: the loss curves of runs beside their baselines, and embeddings on a plane.

In: the records of ``metrics.jsonl``; points. Out: figures, and files of them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.errors import harmless
from gptjax.monitoring import pictures
from gptjax.monitoring.pictures import BESIDE, GREY, INK, LIGHT, PALETTE, bare, blank, heading

BATCHES, TRAIN, VAL = "batches", "train", "val"
_KNOWN = {BATCHES: "#7FB8D8", TRAIN: PALETTE[0], VAL: PALETTE[1]}
# Where a name may stand beside its point: 1/72 inch to the right and up, and its alignment.
_SIDES = [(4, 2, "left", "bottom"), (4, -2, "left", "top"), (-4, 2, "right", "bottom")]
_SIDES += [(-4, -2, "right", "top"), (0, 4, "center", "bottom"), (0, -4, "center", "top")]
_ROUND = (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_LINE_OF_TEXT = 0.055  # of the height of a loss figure
_MARGIN = ("axes fraction", "data")  # of a point in the right margin
# Nats: an axis is log(loss - floor), its floor so far below the lowest loss. What is learnt late
# has room, and the first losses are still in view.
_ABOVE_FLOOR = 0.3
_EXACT = "Lines: estimates while training. Diamonds and numbers: exact, over as much text as val"


@dataclass(frozen=True)
class Curve:
    """A loss over the steps of a run: ``nats[i]``, per token, was estimated at ``steps[i]``.

    ``exact``: the (step, nats) measured over all of val, or as much of train; the last is named.
    """

    label: str
    steps: Sequence[int]
    nats: Sequence[float]
    exact: Sequence[tuple[int, float]] = ()


def curves_of(
    records: Sequence[Mapping[str, Any]], exact: Mapping[str, Sequence[tuple[int, float]]] = {}
) -> list[Curve]:
    """The curves of a run's records: batches, train and val; what is null there is left out.

    ``exact``: by label, what the curve has as ``exact``.
    """
    curves = []
    for label, name in ((BATCHES, "loss_nats"), (TRAIN, "train_nats"), (VAL, "val_nats")):
        numbers = [(r["step"], r[name]) for r in records if isinstance(r.get(name), (int, float))]
        if points := sorted(point for point in numbers if math.isfinite(point[1])):
            curves.append(Curve(label, *zip(*points, strict=True), exact.get(label, ())))
    return curves


def exact_of(figures: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """The ``exact`` of ``curves_of``, from the figures of a summary.json."""
    exact = {name: [(figures["steps"], figures[f"final_{name}_nats"])] for name in (TRAIN, VAL)}
    if figures["best_step"] != figures["steps"]:
        exact[VAL].insert(0, (figures["best_step"], figures["best_val_nats"]))
    return exact


def smooth(nats: Sequence[float], width: int) -> np.ndarray:
    """Average each value with up to ``width // 2`` neighbours on each side: (n,) nats.

    Near the start with as many later ones as there are earlier: the first loss stays in view.
    """
    at, sums = np.arange(len(nats)), np.concatenate([[0.0], np.cumsum(nats)])
    before = np.minimum(at, width // 2)
    first, end = at - before, np.minimum(at + before + 1, len(nats))
    return (sums[end] - sums[first]) / (end - first)


def limits(curves: Sequence[Curve], lines: Sequence[float]) -> tuple[float, float]:
    """The lowest and highest loss to show, nats: the first losses too, but no batch's outlier."""
    lows, highs = list(lines), list(lines)
    for curve in curves:
        nats = np.array([*curve.nats, *(nats for _, nats in curve.exact)])
        if curve.label == BATCHES:
            first = nats[: max(1, len(nats) // 20)].min()
            nats = nats[nats <= max(first, 1.5 * np.quantile(nats, 0.9))]
        lows.append(float(nats.min()))
        highs.append(float(nats.max()))
    return min(lows, default=0.0), max(highs, default=1.0)


def ticks(low: float, high: float, place: Callable[[float], float], gap: float) -> list[float]:
    """Round numbers from ``low`` to ``high`` that stand at least ``gap`` apart, rounder first."""
    chosen: list[float] = []
    for step in _ROUND:
        for k in range(math.ceil(low / step), math.floor(high / step) + 1):
            value = round(k * step, 3)
            # Tenths only where all of them had room, and not one between two halves.
            apart = [place(value + step) - place(value)]
            apart += [abs(place(value) - place(other)) for other in chosen]
            if min(apart) >= gap:
                chosen.append(value)
    return sorted(chosen)


def spread(
    values: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf
) -> list[float]:
    """Move numbers apart, least gap ``gap``, keeping their order: where labels can stand.

    They stay between ``low`` and ``high``, if these have room for them.
    """
    runs: list[tuple[float, int]] = []  # of labels that touch: where the first stands, how many
    for start in sorted(values):
        start, count = max(low, min(start, high)), 1
        while runs and runs[-1][0] + runs[-1][1] * gap > start:
            first, n = runs.pop()  # joined, they stand where their labels ask for on average
            start, count = (n * first + count * (start - n * gap)) / (n + count), n + count
            start = max(low, min(start, high - (count - 1) * gap))
        runs.append((start, count))
    places = [start + k * gap for start, count in runs for k in range(count)]
    return [places[rank] for rank in np.argsort(np.argsort(values, kind="stable"))]


def loss_figure(
    curves: Sequence[Curve],
    lines: Mapping[str, float],
    title: str,
    bought: Mapping[str, float] | None = None,
) -> Any:
    """Draw at least one curve, each named where it ends, and the baselines, dashed.

    ``lines`` are nats per token by label, such as {"count bigram": 2.48}; ``bought``: the exact
    losses of runs of which each adds an idea to the one before, drawn as steps in a second part.
    Returns a matplotlib figure of 8 x 4.8 inches (1200 x 720 pixels), of two parts 8 x 9.6;
    ImportError where matplotlib is not installed.
    """
    figure = blank(8, 9.6 if bought else 4.8)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # inches
    axes, *below = figure.subplots(2 if bought else 1, squeeze=False)[:, 0]
    draw_losses(axes, curves, lines, title)
    steps_axis(axes, max(1, *(max(curve.steps) for curve in curves)))
    if bought:
        bare(below[0])
        _draw_steps(below[0], bought, lines)
    return figure


def draw_losses(axes: Any, curves: Sequence[Curve], lines: Mapping[str, float], title: str) -> None:
    """Draw the first part of ``loss_figure``, but for the axis of steps."""
    bare(axes)
    heading(axes, title, _EXACT if any(curve.exact for curve in curves) else "Estimates")
    place = _loss_axis(axes, *limits(curves, list(lines.values())))
    labels = []  # (nats, text, colour)
    for label, nats in lines.items():
        axes.axhline(nats, color=GREY, linewidth=1.2, dashes=(5, 3), zorder=1)
        labels.append((nats, f"{label} {nats:.4f}", GREY))
    for i, curve in enumerate(curves):
        color = _KNOWN.get(curve.label, PALETTE[i % len(PALETTE)])
        labels.append((*_draw_curve(axes, curve, color), color))
    _name_ends(axes, labels, place)


def steps_axis(axes: Any, steps: int) -> None:
    """Make the horizontal axis that of a run of so many steps."""
    # Beyond 0 and the last step, so that the points at both ends stay whole.
    axes.set_xlim(-0.01 * steps, 1.01 * steps)
    axes.set_xlabel("step", color=GREY)
    axes.locator_params("x", nbins=10, steps=[1, 2, 2.5, 5, 10], integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines["bottom"].set(visible=True, color=GREY)


def plane_figure(
    points_Nx2: np.ndarray, labels: Sequence[str], title: str, what: str
) -> tuple[Any, str]:
    """Draw tokens as points of a plane, 8 x 8 inches (1200 x 1200 pixels), with their names.

    A name stands beside its point where there is room, the first ones first; a point whose name
    would overprint another has none. ``what`` is shown stands below the title, and how many names.
    Returns the figure, and the latter: "" for all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = blank(8, 8)
    axes = bare(figure.subplots())
    below = heading(axes, title, what)
    axes.scatter(points_Nx2[:, 0], points_Nx2[:, 1], s=10, color=PALETTE[0], linewidths=0)
    axes.margins(0.08)
    axes.grid(color=LIGHT, linewidth=0.8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # the axes have their place now: what a text takes of it is known
    figure.set_layout_engine("none")
    points, page = axes.transData.transform(points_Nx2), figure.bbox
    size, taken = 11 if len(labels) <= 40 else 8, []
    for label, point in zip(labels, points_Nx2, strict=True):
        text = axes.annotate(harmless(label), point, (0, 0), color=INK, fontsize=size, **BESIDE)
        free = []  # sides where it overprints no name, and how many points it covers there
        for side in _SIDES:
            _put(text, *side)
            box = text.get_window_extent(canvas.get_renderer())
            inside = page.containsx(box.x0) and page.containsx(box.x1)
            if inside and not any(box.overlaps(other) for other in taken):
                free.append((box.count_contains(points), len(free), side, box))
        if not free:
            text.remove()
            continue
        _, _, side, box = min(free, key=lambda found: found[:2])
        _put(text, *side)
        taken.append(box)
    named = f"{len(taken):,} are named, where there is room" if len(taken) < len(labels) else ""
    below.set_text("; ".join(filter(None, (harmless(what), named))))
    return figure, named


def plane(
    path: Path, points_Nx2: np.ndarray, labels: Sequence[str], title: str, what: str
) -> tuple[str, str]:
    """Write the picture of ``plane_figure``: "", or why there is none; how many are named."""
    named = [""]

    def draw() -> Any:
        figure, named[0] = plane_figure(points_Nx2, labels, title, what)
        return figure

    return pictures.write(path, draw), named[0]


def loss_curves(path: Path, curves: Sequence[Curve], lines: Mapping[str, float], title: str) -> str:
    """Write the picture of ``loss_figure``; returns "", or why there is no picture."""
    if not curves:
        return f"no {path.name}: no losses were recorded"
    return pictures.write(path, lambda: loss_figure(curves, lines, title))


def compare_curves(
    path: Path, curves: Sequence[Curve], lines: Mapping[str, float], bought: Mapping[str, float]
) -> str:
    """Write the picture of several runs' val losses, as ``loss_curves``; ``bought``: as there.

    Baselines that none of the curves comes near are left out: they would only stretch the axis.
    """
    if not curves:
        return f"no {path.name}: no losses were recorded"
    low, high = limits(curves, [])
    near = {n: nats for n, nats in lines.items() if low - 0.2 <= nats <= high}
    title = f"Val loss of {len(curves)} run{'s' if len(curves) > 1 else ''}"
    return pictures.write(path, lambda: loss_figure(curves, near, title, bought))


def _put(text: Any, x: float, y: float, ha: str, va: str) -> None:
    text.set(position=(x, y), ha=ha, va=va)


def _loss_axis(axes: Any, low: float, high: float) -> Callable[[float], float]:
    """Make the vertical axis log(loss - floor); returns where a loss stands on it, 0 to 1."""
    floor = low - _ABOVE_FLOOR

    def forward(nats):
        return np.log(np.maximum(np.asarray(nats, float) - floor, 1e-3))

    def inverse(value):
        return np.exp(value) + floor

    axes.set_yscale("function", functions=(forward, inverse))
    margin = 0.06 * (forward(high) - forward(low)) or 0.1
    bottom, top = forward(low) - margin, forward(high) + margin
    axes.set_ylim(inverse(bottom), inverse(top))

    def place(nats: float) -> float:
        return float((forward(nats) - bottom) / (top - bottom))

    axes.set_yticks(ticks(float(inverse(bottom)), float(inverse(top)), place, 0.06))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_ylabel("loss, nats per token (low values stretched)", color=GREY)
    axes.grid(axis="y", color=LIGHT, linewidth=0.8)
    return place


def _name_ends(
    axes: Any, labels: Sequence[tuple[float, str, str]], place: Callable[[float], float]
) -> None:
    """Write (nats, text, colour) in the right margin; a line leads to what had to move."""
    gap = min(_LINE_OF_TEXT, 1 / len(labels))
    ends = [min(max(place(nats), 0.0), 1.0) for nats, *_ in labels]
    for end, at, (_, text, color) in zip(ends, spread(ends, gap, 0.0, 1.0), labels, strict=True):
        style = {"color": color, "fontsize": 10 * gap / _LINE_OF_TEXT}
        moved = abs(at - end) > gap / 4
        lead = {"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            _short(text),
            (1, end),
            (1.035, at),
            "axes fraction",
            "axes fraction",
            va="center",
            arrowprops=lead | {"relpos": (0, 0.5)} if moved else None,
            annotation_clip=False,
            parse_math=False,
            **style,
        )


def _short(text: str) -> str:
    text = harmless(text)
    return text if len(text) <= 34 else f"…{text[-33:]}"


def _draw_curve(axes: Any, curve: Curve, color: str) -> tuple[float, str]:
    """Draw one curve; returns the loss at its end, nats, and what is to be written there."""
    if curve.label == BATCHES:
        smoothed = smooth(curve.nats, len(curve.nats) // 40 + 1)
        axes.plot(curve.steps, curve.nats, color=color, linewidth=0.6, alpha=0.45)
        axes.plot(curve.steps, smoothed, color=color, linewidth=1.4)
        return float(smoothed[-1]), curve.label
    size = 4 if len(curve.steps) <= 60 else 2  # points
    axes.plot(curve.steps, curve.nats, color=color, linewidth=1.6, marker="o", markersize=size)
    for point in curve.exact:
        axes.plot(*point, "D", color=color, markeredgecolor="white", markersize=7, zorder=4)
    for best in curve.exact[:-1]:
        axes.annotate(
            f"best checkpoint {best[1]:.4f}", best, (0, 9), color=color, ha="center", **BESIDE
        )
    if not curve.exact:
        return float(curve.nats[-1]), f"{curve.label} (estimate) {curve.nats[-1]:.4f}"
    step, nats = curve.exact[-1]
    if step == curve.steps[-1]:
        return nats, f"{curve.label} {nats:.4f}"
    return float(curve.nats[-1]), f"{curve.label} {nats:.4f} of step {step:,}"


def _draw_steps(axes: Any, bought: Mapping[str, float], lines: Mapping[str, float]) -> None:
    """Draw exact losses side by side, and between two of them what the second one changed."""
    heading(axes, "What each idea bought", "Exact val loss, nats per token, and its change")
    losses = list(bought.values())
    for name, nats in lines.items():
        if min(losses) - 0.1 <= nats <= max(losses) + 0.1:
            axes.axhline(nats, color=GREY, linewidth=1.2, dashes=(5, 3), zorder=1)
            axes.annotate(f"{name} {nats:.4f}", (1, nats), (7, 0), _MARGIN, color=GREY, **BESIDE)
    for i, nats in enumerate(losses):
        color = PALETTE[i % len(PALETTE)]
        axes.plot([i - 0.36, i + 0.36], [nats, nats], color=color, linewidth=3)
        axes.annotate(f"{nats:.4f}", (i, nats), (0, 5), color=color, ha="center", **BESIDE)
    for i, (before, after) in enumerate(pairwise(losses)):
        arrow = {"arrowstyle": "->", "color": INK, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
        axes.plot([i + 0.36, i + 0.5], [before, before], color=GREY, linewidth=0.8)
        axes.annotate("", (i + 0.5, after), (i + 0.5, before), arrowprops=arrow)
        said, size = f"{after - before:+.4f}".replace("-", "−"), {"ha": "center", "va": "top"}
        axes.annotate(said, (i + 1, after), (0, -5), color=INK, **size, **BESIDE)
    axes.set_xticks(range(len(losses)), [harmless(name) for name in bought])
    axes.set_xlim(-0.6, len(losses) - 0.4)
    axes.set_ylabel("loss, nats per token", color=GREY)
    axes.margins(y=0.12)
    axes.grid(axis="y", color=LIGHT, linewidth=0.8)
