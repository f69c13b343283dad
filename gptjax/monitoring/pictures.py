"""How every picture looks, and how it becomes a file: colours, empty figures, titles, PNG and SVG.

With ``plots`` and ``interpret/figures.py`` the only file that knows matplotlib, imported where it
is used; without it there is a note and no picture.
"""

import functools
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptjax.errors import harmless
from gptjax.processes import cluster
from gptjax.runtime.atomic_files import write_whole

# Okabe and Ito's palette: told apart by the colour-blind, and in grey.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#8C510A")
INK, GREY, LIGHT = "#222222", "#666666", "#E6E6E6"
BESIDE = {"textcoords": "offset points", "parse_math": False}  # of a text beside a point


def blank(width: float, height: float) -> Any:
    """An empty figure, inches at 150 dpi; a notebook shows it as a PNG."""
    size = (width, height)
    return _figure_class()(figsize=size, dpi=150, layout="constrained", facecolor="white")


@functools.cache
def _figure_class() -> type:
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            return drawn(self, "png")

    return Picture


def bare(axes: Any) -> Any:
    """Axes without a frame, and what is drawn in them above their grid."""
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=GREY)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return axes


def heading(axes: Any, title: str, what: str) -> Any:
    """Write what the picture is of, and below it in small what is shown; returns the latter."""
    style = {"loc": "left", "parse_math": False}
    axes.set_title(harmless(title), color=INK, fontweight="bold", pad=22, **style)
    return axes.annotate(
        harmless(what), (0, 1), (0, 8), "axes fraction", color=GREY, fontsize=9, **BESIDE
    )


def write(path: Path, draw: Callable[[], Any]) -> str:
    """Write the figure that ``draw`` makes, an SVG if ``path`` ends so, else a PNG.

    Returns "", or why there is no picture.
    """
    if not cluster.is_first():
        return ""
    try:
        data = drawn(draw(), "svg" if path.suffix.lower() == ".svg" else "png")
    except ImportError:
        return f"no {path.name}: matplotlib is not installed (pip install matplotlib)"
    try:
        write_whole(path, data)
    except OSError as error:
        return f"no {path.name}: {path} cannot be written ({error.strerror})"
    return ""


def drawn(figure: Any, form: str) -> bytes:
    """The bytes of a figure as a "png" or "svg": the same each time, of the same figure."""
    import matplotlib

    file, none = io.BytesIO(), {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    quiet = warnings.catch_warnings(action="ignore")  # a text in a script that the font lacks
    with quiet, matplotlib.rc_context({"svg.hashsalt": "gptjax"}):
        figure.savefig(file, format=form, metadata=none[form])
    return file.getvalue()
