"""The loss curves: as values first, then as a picture."""

import math
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax.monitoring import plots
from gptjax.runtime import devices

LINES = {"count bigram": 2.4819}


def records(steps=400):
    """A run whose first losses are huge, and whose val turns up again."""
    found = []
    for step in range(0, steps + 1, 5):
        fall = math.exp(-step / 40)
        found.append({"step": step, "loss_nats": 1.5 + 2.7 * fall + 0.05 * math.sin(step)})
        if step % 50 == 0:
            rise = 0.3 * (step / steps) ** 2
            found.append(
                {"step": step, "train_nats": 1.5 + 2.7 * fall, "val_nats": 1.6 + 2.7 * fall + rise}
            )
    return found


def texts(figure):
    from matplotlib.text import Text

    return [item.get_text() for item in figure.findobj(Text) if item.get_text()]


def test_curves_are_the_recorded_values_in_the_order_of_the_steps():
    curves = plots.curves_of(
        [
            {"step": 20, "loss_nats": 3.0, "tokens_per_second": 7.0},
            {"step": 10, "loss_nats": 4.0},
            {"step": 20, "train_nats": 2.5, "val_nats": None},
            {"step": 30, "loss_nats": math.nan},
            {"step": 40, "val_nats": "inf"},
        ]
    )
    assert curves == [
        plots.Curve(plots.BATCHES, (10, 20), (4.0, 3.0)),
        plots.Curve(plots.TRAIN, (20,), (2.5,)),
    ]
    assert plots.curves_of([]) == []


def test_smoothing_keeps_length_and_constants_and_quietens():
    noise = np.random.default_rng(0).normal(size=101)
    assert plots.smooth(noise, 7).shape == (101,)
    assert plots.smooth(noise, 7).std() < 0.6 * noise.std()
    np.testing.assert_allclose(plots.smooth([2.5] * 9, 4), 2.5)
    np.testing.assert_allclose(plots.smooth([1.0, 3.0], 99), [2, 2])


def test_the_loss_axis_holds_the_lines_and_the_learnt_part_but_no_outlier():
    curves = plots.curves_of(records() + [{"step": 5, "loss_nats": 900.0}])
    low, high = plots.limits(curves, LINES)
    assert low < 1.5 and 2.4819 < high < 3.5
    assert plots.limits(curves, {"uniform": 4.1744})[1] > 4.1744
    low, high = plots.limits([plots.Curve("val", (0,), (2.0,))], {})
    assert low < 2.0 < high


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(0.01, 2))
def test_labels_stand_apart_in_the_order_of_their_values(values, gap):
    places = plots.spread(values, gap)
    order = sorted(range(len(values)), key=lambda i: values[i])
    for a, b in zip(order, order[1:], strict=False):
        assert places[b] - places[a] >= gap - 1e-6
    assert np.isclose(np.mean(places), np.mean(values), atol=1e-6)


def test_labels_with_room_stay_where_their_values_are():
    assert plots.spread([3.0, 1.0, 2.0], 0.5) == [3.0, 1.0, 2.0]


def test_every_curve_and_line_is_named_in_the_figure():
    figure = plots.loss_figure(plots.curves_of(records()), {**LINES, "unigram": 3.3473}, "run $x^$")
    found = texts(figure)
    for text in ("count bigram 2.48", "unigram 3.35", "train 1.50", "val 1.90", "run $x^$", "step"):
        assert text in found
    assert any(text == "best 1.69" for text in found)
    assert any("nats" in text for text in found)
    heights = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert [2.4819, 2.4819] in [list(y) for y in heights]


@pytest.mark.parametrize(
    "rows", [records(), [{"step": 0, "train_nats": 4.2, "val_nats": 4.3}]], ids=["run", "one point"]
)
def test_the_picture_is_a_png_of_1200_by_720_and_the_same_each_time(tmp_path, rows):
    path = tmp_path / "loss.png"
    assert plots.loss_curves(path, plots.curves_of(rows), LINES, "कविता 🎭 $x^$") == ""
    first = path.read_bytes()
    assert first[:8] == b"\x89PNG\r\n\x1a\n" and first[-8:-4] == b"IEND"
    assert struct.unpack(">II", first[16:24]) == (1200, 720)
    plots.loss_curves(path, plots.curves_of(rows), LINES, "कविता 🎭 $x^$")
    assert path.read_bytes() == first
    assert plots.loss_curves(path, [plots.Curve("$y^$", (1,), (2.0,))], {"$z^$": 3.0}, "") == ""
    assert os.listdir(tmp_path) == ["loss.png"]


def test_no_losses_and_no_matplotlib_give_a_note_and_no_file(tmp_path, monkeypatch):
    path = tmp_path / "loss.png"
    assert "no losses" in plots.loss_curves(path, [], LINES, "x")
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install matplotlib" in plots.loss_curves(
        path, plots.curves_of(records()), LINES, "x"
    )
    assert os.listdir(tmp_path) == []


def test_only_the_first_of_several_processes_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "is_writer", lambda: False)

    def draw():
        pytest.fail("it was drawn")

    assert plots.write_png(tmp_path / "loss.png", draw) == ""
    assert plots.loss_curves(tmp_path / "loss.png", plots.curves_of(records()), LINES, "x") == ""
    assert os.listdir(tmp_path) == []


def test_a_plane_is_a_png_of_1200_by_1200_with_every_name(tmp_path):
    points, names = np.array([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]]), ["a", "$b^$", "ß"]
    figure = plots.plane_figure(points, names, "neighbours")
    assert {*names, "neighbours"} <= set(texts(figure))
    path = tmp_path / "plane.png"
    assert plots.write_png(path, lambda: plots.plane_figure(points, names, "neighbours")) == ""
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (1200, 1200)


def test_a_picture_that_cannot_be_written_is_a_note(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    note = plots.loss_curves(tmp_path / "file" / "loss.png", plots.curves_of(records()), LINES, "x")
    assert note.startswith("no loss.png: ") and "cannot be written" in note and "\n" not in note


def test_importing_plots_does_not_import_matplotlib_and_drawing_not_pyplot():
    code = (
        "import sys; from gptjax.monitoring import plots; assert 'matplotlib' not in sys.modules; "
        "plots.loss_figure([plots.Curve('val', (1, 2), (3.0, 2.0))], {}, 'x'); "
        "assert 'matplotlib.figure' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
