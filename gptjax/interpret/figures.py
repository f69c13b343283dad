"""Figures of what is inside a model, as a paper would print them: the values of this wing, drawn.

    from gptjax.interpret import figures
    figures.attention(run, "To be, or not to be")                      # a notebook shows it
    figures.lens(run, "To be, or not to be").savefig("lens.svg")

In: a run and a text, or the values that were found of it. Out: matplotlib figures, made without
pyplot. Blues and oranges grow darker with the value; what lies on both sides of zero goes from
purple to orange: the colour-blind, and grey prints, tell them apart.

T places, N layers, H heads, L layers of a lens, P predictions.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptjax.checkpoints import run as runs
from gptjax.checkpoints.run import Run
from gptjax.data.dataset import Split
from gptjax.errors import UserError, harmless
from gptjax.evaluation.count_models import CountBigram
from gptjax.interpret import lens as lenses
from gptjax.interpret import tables
from gptjax.interpret import text as texts
from gptjax.interpret.lens import Attention, Lens, names
from gptjax.interpret.tables import Followers
from gptjax.interpret.text import Guesses, Rows
from gptjax.monitoring import metrics, plots
from gptjax.monitoring.pictures import GREY, INK, LIGHT, PALETTE, bare, blank

MOST_PREDICTIONS = 1500  # of a text that is coloured by its loss
IN_PICTURE = 32  # tokens of a table of pairs
PROBABILITY, LOSS, DIFFERENCE = "Blues", "Oranges", "PuOr_r"  # colour maps
_LEGIBLE = 5.0  # points: where tokens would be smaller, places are numbered instead
_POINT = 1 / 72  # inches
_CELL = 0.25  # inches: the height of a cell of a lens, and of a line of text
_COLUMN, _COLUMNS = 0.095, 84  # inches, of a character of a text; how many a line has
MOST_BANDS = 8  # of places of a lens, below each other
_LENS_WIDTH, _TOKEN = 7.6, 8  # inches of the cells of a lens; characters of a token in a cell
_FUTURE = "#EFEFEF"  # what the mask hides, and tokens without a number
_LEAST_LINES = 7  # of a text: as high as its scale
_TITLE_COLUMN = 0.072  # inches, of a character of what stands below a title
_MONO = {"family": "DejaVu Sans Mono", "parse_math": False}  # it comes with matplotlib


def attention(run: Run, text: str, layer: int | None = None, head: int | None = None) -> Any:
    """What each head looks at in a text: a row of matrices per layer, in each a row per place.

    ``layer``, ``head``: of which alone, from 1. UserError as ``lens.attention``.
    """
    return draw_attention(run, lenses.attention(run, text, layer, head))


def lens(run: Run, text: str) -> Any:
    """The likeliest next token after the embedding and after every block, at each place of a text.

    UserError as ``lens.look_through``.
    """
    return draw_lens(run, lenses.look_through(run, text))


def loss(run: Run, text: str, bigram: CountBigram | None = None) -> Any:
    """A text, at most its first ``MOST_PREDICTIONS`` tokens, each coloured by its loss.

    ``bigram``: what the losses are compared with, in a second part. UserError as ``text.rows``.
    """
    cut = texts.rows(run, text, MOST_PREDICTIONS)
    return draw_loss(run, cut, texts.read(run, cut), bigram)


def table(run: Run, splits: Mapping[str, Split] | None = None, words: Sequence[str] = ()) -> Any:
    """What the model expects after one token, beside the counts of train, and their difference.

    ``splits``: of ``web.context.of_run(run)``; None: the model alone. ``words``: after which
    tokens; after the most frequent ones without. UserError as ``tables.followers``.
    """
    return draw_table(run, tables.followers(run, splits, words, IN_PICTURE))


def curves(run: Run, lines: Mapping[str, float | None] | None = None) -> Any:
    """The losses of a training, and below them its learning rate and gradient norm.

    ``lines``: losses to compare with, nats per token by name; None: ln V, and the count bigram's of
    summary.json. UserError: a run without a folder, or one that recorded nothing.
    """
    records = metrics.read(run.folder / runs.METRICS) if run.folder else []
    figures = runs.summary(run.folder) if run.folder else None
    losses = plots.curves_of(records, plots.exact_of(figures) if figures else {})
    if not losses:
        raise UserError("nothing was recorded of this run's training: it has no curves")
    if lines is None:
        counted = (figures or {}).get("count_bigram_val_nats")
        lines = {"ln V": math.log(run.tokenizer.vocab_size), "count bigram": counted}
    return draw_curves(run, losses, lines, records)


def draw_attention(run: Run, found: Attention) -> Any:
    """The figure of ``attention``."""
    N, H, T = found.wei_NxHxTxT.shape[:3]
    one = N * H == 1
    side = max(0.15 * T, 3.2) if one else max(0.11 * T, 1.4)  # inches
    side = min(side, max(1.4, 9 / max(N, H)))
    # Room for the names of the tokens, the title of each matrix and the scale.
    figure = blank(max(5.4, side * H + 1.8), (side + 0.26) * N + 1.4)
    what = "what a place looks at, itself and those before it, adds up to 1"
    _title(figure, f"{_of(run)}: attention", what, found.ids_T, found.n_read)
    grid = figure.subplots(N, H, squeeze=False, sharex=True, sharey=True)
    labels, future = names(run, found.ids_T), np.triu(np.ones((T, T), bool), 1)
    for n, layer in enumerate(found.layers):
        for h, head in enumerate(found.heads):
            axes, seen = grid[n, h], np.ma.array(found.wei_NxHxTxT[n, h], mask=future)
            image = axes.imshow(seen, PROBABILITY, vmin=0, vmax=1, interpolation="none")
            axes.set_facecolor(_FUTURE)
            axes.set_title(f"layer {layer}, head {head}", color=INK, fontsize=9, pad=4)
            _plain(axes)
            _name_places(axes, labels, labels, side / T)
    number = "" if _has_room(side / T) else ": place"
    for row in grid[:, 0]:
        row.set_ylabel(f"looks{number}", color=GREY, fontsize=9)
    for column in grid[-1]:
        column.set_xlabel(f"looked at{number}", color=GREY, fontsize=9)
    _scale(figure, image, grid, "attention weight")
    return figure


def draw_lens(run: Run, found: Lens) -> Any:
    """The figure of ``lens``: as many places side by side as have room, the others below."""
    labels = list(map(_short, names(run, found.ids_T)))
    guessed_LxT = [list(map(_short, names(run, ids))) for ids in found.guesses.top_ids[..., 0]]
    p_LxT, hit_LxT = found.guesses.top_p[..., 0], found.guesses.rank == 1
    L, T = p_LxT.shape
    width = 0.16 + 0.075 * max(map(len, [*labels, *sum(guessed_LxT, [])]))  # inches of a cell
    n = min(T, int(_LENS_WIDTH / width))
    bands = min(-(-T // n), MOST_BANDS)
    begin = max(0, T - bands * n)
    figure = blank(max(6.4, n * width + 2.6), max(2.8, bands * (L + 2.6) * _CELL + 0.9))
    what = "framed: it is what came. raw: the head was trained to read the last layer alone"
    _title(
        figure, f"{_of(run)}: the guess after every block", what, found.ids_T[begin:], found.n_read
    )
    grid = figure.subplots(bands, 1, squeeze=False)[:, 0]
    for axes, first in zip(grid, range(begin, T, n), strict=True):
        here = slice(first, first + n)
        image = _band(axes, p_LxT[:, here], n)
        came = [*labels, ""][first + 1 : first + n + 1]
        for y, row in enumerate([labels[here], *(row[here] for row in guessed_LxT), came]):
            for x, cell in enumerate(row):
                p = p_LxT[y - 1, first + x] if 0 < y <= L else None
                color = GREY if p is None else _ink_on(image, p)
                _write(axes, x, y, cell, color, 8)
                if p is not None and first + x < T - 1 and hit_LxT[y - 1, first + x]:
                    _frame(axes, x, y)
        rows = ["reads", *lenses.layer_names(L), "came next"]
        axes.set_yticks(range(L + 2), rows, fontsize=8, color=INK)
    _scale(figure, image, grid, "probability of the guess")
    return figure


def draw_loss(run: Run, cut: Rows, found: Guesses, bigram: CountBigram | None = None) -> Any:
    """The figure of ``loss``, of the predictions ``found`` of a text ``cut`` into rows."""
    most, mean = math.log(run.tokenizer.vocab_size), float(found.nats.mean())
    labels, parts = names(run, cut.ids), [(found.nats, LOSS, 0.0, most, "loss, nats per token")]
    said = f"mean {mean:.4f} nats per token"
    if bigram is not None:
        pairs = texts.bigram_nats(cut, bigram)
        less = found.nats - pairs
        parts.append(
            (less, DIFFERENCE, -most / 2, most / 2, "loss minus the\ncount bigram's, nats")
        )
        said += f", the count bigram's {pairs.mean():.4f}"
    places, n_lines = _set_lines(labels)
    columns = max(40, max(column + width for _, column, width in places))
    n_lines = max(n_lines, _LEAST_LINES)
    figure = blank(columns * _COLUMN + 1.6, (n_lines * _CELL + 0.35) * len(parts) + 0.9)
    n = f"the first {len(found.nats):,} of {cut.n_predicted:,} predictions; "
    what = (n if len(found.nats) < cut.n_predicted else "") + said
    ends = "; the scale ends at ln V, of knowing nothing"
    _title(figure, f"{_of(run)}: each token's loss", what + ends)
    for axes, part in zip(figure.subplots(len(parts), 1, squeeze=False)[:, 0], parts, strict=True):
        nats, colors, low, high, label = part
        image = _boxes(axes, places, nats, colors, low, high)
        for i, (line, column, width) in enumerate(places):
            color = GREY if i == 0 else _ink_on(image, nats[i - 1])
            _write(axes, column + width / 2, line, labels[i], color, 9)
        axes.set(xlim=(0, columns), ylim=(n_lines - 0.5, -0.5))
        axes.set_axis_off()
        _scale(figure, image, axes, label, "max" if low == 0 else "both")
    return figure


def draw_table(run: Run, found: Followers) -> Any:
    """The figure of ``table``."""
    R, K = found.p_RxK.shape
    kind = run.config.model.kind
    parts = [(kind, found.p_RxK, PROBABILITY)]
    if found.counted_RxK is not None:
        parts.append(("counted in train", found.counted_RxK, PROBABILITY))
        parts.append((f"{kind} minus counted", found.p_RxK - found.counted_RxK, DIFFERENCE))
    cell, n = 0.11, len(parts)  # inches
    down = 2 * R < K  # few rows: the parts stand below each other
    side, high = max(2.0, cell * K), max(0.4, cell * R)
    rows, columns = (n, 1) if down else (1, n)
    figure = blank(max(6.4, (side + 0.9) * columns + 0.9), (high + 0.9) * rows + 0.9)
    V = run.tokenizer.vocab_size
    what = f"probability of the next token (column) after one token (row): {K:,} of {V:,} tokens"
    _title(figure, f"{_of(run)}: what follows what", what)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    top = max(float(p.max()) for _, p, _ in parts[:2])
    for i, (axes, (name, p, colors)) in enumerate(zip(grid, parts, strict=True)):
        low, high = (0, top) if colors == PROBABILITY else (-np.abs(p).max(), np.abs(p).max())
        image = axes.imshow(p, colors, vmin=low, vmax=high, interpolation="none")
        axes.set_title(name, color=INK, fontsize=9, pad=4, parse_math=False)
        _plain(axes)
        _name_places(axes, names(run, found.ids_K), names(run, found.ids_R), cell)
        if colors == DIFFERENCE:
            _scale(figure, image, axes, "difference")
        elif down or i == n - 1 or i == 1:  # side by side, model and counts share one
            _scale(figure, image, axes, "probability")
    return figure


def draw_curves(
    run: Run,
    losses: Sequence[plots.Curve],
    lines: Mapping[str, float | None],
    records: Sequence[Mapping[str, Any]],
) -> Any:
    """The figure of ``curves``."""
    names_of = {"learning_rate": "learning rate", "grad_norm": "gradient norm"}
    below = {
        label: [(r["step"], r[name]) for r in records if isinstance(r.get(name), int | float)]
        for name, label in names_of.items()
    }
    below = {label: points for label, points in below.items() if points}
    heights = [4.4, *(1.1 for _ in below)]
    figure = blank(8, sum(heights) + 0.3)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    layout = {"height_ratios": heights, "squeeze": False, "sharex": True}
    first, *others = figure.subplots(len(heights), 1, **layout)[:, 0]
    known = {name: nats for name, nats in lines.items() if nats is not None}
    plots.draw_losses(first, losses, known, f"{run.config.name}: loss while training")
    for axes, (label, points) in zip(others, below.items(), strict=True):
        bare(axes)
        axes.plot(*zip(*points, strict=True), color=PALETTE[0], linewidth=1.2)
        axes.set_ylabel(label.replace(" ", "\n"), color=GREY, rotation=0, ha="right", va="center")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=LIGHT, linewidth=0.8)
    figure.align_ylabels(others)
    plots.steps_axis([first, *others][-1], max(1, *(max(curve.steps) for curve in losses)))
    return figure


def _set_lines(labels: Sequence[str]) -> tuple[list[tuple[int, int, int]], int]:
    """Where each token stands in a text set in lines: (line, column, width), and how many lines.

    A character is one column wide, longer tokens have room between them.
    """
    gap = 1 if max(map(len, labels)) > 1 else 0
    places, line, column = [], 0, 0
    for label in labels:
        width = len(label) + gap
        if column and column + width > _COLUMNS:
            line, column = line + 1, 0
        places.append((line, column, width))
        column += width
        if label.endswith("⏎"):
            line, column = line + 1, 0
    return places, places[-1][0] + 1


def _boxes(axes: Any, places: Sequence, nats: np.ndarray, colors: str, low: float, high: float):
    """The background of each token, the first without a colour, for nothing predicted it."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    boxes = [Rectangle((column, line - 0.42), width, 0.84) for line, column, width in places]
    axes.add_patch(boxes[0]).set(facecolor=_FUTURE, linewidth=0)
    found = PatchCollection(boxes[1:], cmap=colors, linewidth=0.5, edgecolor="white")
    found.set_array(nats)
    found.set_clim(low, high)
    return axes.add_collection(found)


def _band(axes: Any, p_LxT: np.ndarray, n: int) -> Any:
    """Places of a lens, side by side, with an uncoloured row above and below: n have room."""
    rows = np.full((len(p_LxT) + 2, n), np.nan)
    rows[1:-1, : p_LxT.shape[1]] = p_LxT
    image = axes.imshow(rows, PROBABILITY, vmin=0, vmax=1, interpolation="none", aspect="auto")
    _plain(axes)
    axes.set_xticks([])
    return image


def _frame(axes: Any, x: float, y: float) -> None:
    """A frame around a cell."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor=INK, lw=1))


def _name_places(axes: Any, across: Sequence[str], down: Sequence[str], cell: float) -> None:
    """Name the places along both axes by their tokens, or by numbers where these have no room."""
    if _has_room(cell):
        style = {"fontsize": min(9.0, 0.8 * cell / _POINT), "color": INK, **_MONO}
        turned = 90 if max(map(len, across)) > 1 else 0
        axes.set_xticks(range(len(across)), map(_short, across), rotation=turned, **style)
        axes.set_yticks(range(len(down)), map(_short, down), **style)
    else:
        axes.locator_params(nbins=5, steps=[1, 2, 4, 5, 8, 10], integer=True)


def _has_room(cell: float) -> bool:
    """Whether the name of a token can be read in a cell of so many inches."""
    return 0.8 * cell / _POINT >= _LEGIBLE


def _scale(figure: Any, image: Any, axes: Any, label: str, extend: str = "neither") -> None:
    """What the colours mean, to the right of the axes."""
    height = figure.get_figheight()
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 3.5 / height), aspect=24, extend=extend)
    bar.set_label(label, color=GREY, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, colors=GREY, labelsize=8)


def _title(figure: Any, title: str, what: str, ids: Sequence[int] = (), n_read: int = 0) -> None:
    """Write what the figure is of at its top, and below it in small what is shown."""
    width, height = figure.get_size_inches()
    if len(ids) < n_read:
        what = f"the last {len(ids):,} of {n_read:,} tokens; {what}"
    lines = textwrap.wrap(harmless(what), max(20, int((width - 0.3) / _TITLE_COLUMN)))
    top = 1 - (0.45 + 0.15 * len(lines)) / height
    figure.get_layout_engine().set(rect=(0, 0, 1, top), w_pad=0.08, h_pad=0.08)
    style = {"va": "top", "parse_math": False}
    figure.text(0.1 / width, 1 - 0.1 / height, harmless(title), color=INK, weight="bold", **style)
    low = 1 - 0.36 / height
    figure.text(0.1 / width, low, "\n".join(lines), color=GREY, fontsize=9, **style)


def _plain(axes: Any) -> None:
    """Axes without ticks, in a thin frame."""
    axes.tick_params(length=0, colors=GREY, labelsize=7)
    for spine in axes.spines.values():
        spine.set(color=_FUTURE)


def _write(axes: Any, x: float, y: float, text: str, color: str, size: float) -> None:
    style = {"ha": "center", "va": "center_baseline", "fontsize": size, **_MONO}
    axes.text(x, y, harmless(text), color=color, **style)


def _ink_on(image: Any, value: float) -> str:
    """Dark or white, whichever has the larger contrast with the colour of a value (WCAG)."""
    red, green, blue = (part**2.2 for part in image.to_rgba(value)[:3])
    return INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.21 else "white"


def _short(text: str) -> str:
    return text if len(text) <= _TOKEN else f"{text[: _TOKEN - 1]}…"


def _of(run: Run) -> str:
    return f"{run.config.name}, step {run.step:,}"
