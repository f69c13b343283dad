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

from gptjax.monitoring import pictures, plots
from gptjax.processes import cluster

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
    np.testing.assert_allclose(plots.smooth([9.0, 3.0, 1.0, 1.0], 99), [9, 13 / 3, 3.5, 3.5])


def test_the_loss_axis_holds_the_first_losses_but_no_outlier():
    curves = plots.curves_of(records() + [{"step": 205, "loss_nats": 900.0}])
    low, high = plots.limits(curves, [2.4819])
    first = max(curve.nats[0] for curve in curves)
    assert low <= min(min(curve.nats) for curve in curves) and first <= high < 5
    assert plots.limits(curves, [7.0])[1] == 7
    exact = [plots.Curve("val", (0, 9), (3.0, 2.0), [(9, 1.9)])]
    assert plots.limits(exact, []) == (1.9, 3.0) and plots.limits([], []) == (0, 1)


def test_the_loss_axis_shows_all_and_has_room_for_what_is_learnt_late():
    axes = plots.loss_figure(plots.curves_of(records()), LINES, "x").axes[0]
    bottom, top = axes.get_ylim()
    first = plots.curves_of(records())[0].nats[0]
    assert bottom < 1.5 and first < top

    def height(nats):
        return axes.transAxes.inverted().transform(axes.transData.transform((0, nats)))[1]

    assert height(2.0) > 0.3 > (2.0 - bottom) / (top - bottom)  # by more than on an even axis
    heights = [height(nats) for nats in axes.get_yticks()]
    assert len(heights) >= 5 and min(np.diff(heights)) > 0.05


@pytest.mark.parametrize("low, high", [(1.5, 4.4), (2.1, 27.0), (4.7, 4.9), (2.496, 2.542)])
def test_ticks_are_round_and_stand_apart(low, high):
    def place(nats):
        return math.log((nats - low + 0.3) / 0.3) / math.log((high - low + 0.3) / 0.3)

    found = plots.ticks(low, high, place, 0.06)
    assert found == sorted(found) and low <= found[0] and found[-1] <= high
    assert 4 <= len(found) <= 17 and min(np.diff([place(tick) for tick in found])) >= 0.06 - 1e-9


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(0.01, 2))
def test_labels_stand_apart_in_the_order_of_their_values(values, gap):
    places = plots.spread(values, gap)
    order = sorted(range(len(values)), key=lambda i: values[i])
    for a, b in zip(order, order[1:], strict=False):
        assert places[b] - places[a] >= gap - 1e-6
    assert np.isclose(np.mean(places), np.mean(values), atol=1e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=18))
def test_labels_stay_within_the_height_that_they_have(values):
    places = plots.spread(values, 1 / 18, 0, 1)
    assert min(places) >= -1e-9 and max(places) <= 1 + 1e-9
    assert len(places) == 1 or min(np.diff(sorted(places))) >= 1 / 18 - 1e-9


def test_labels_with_room_stay_where_their_values_are():
    assert plots.spread([3.0, 1.0, 2.0], 0.5) == [3.0, 1.0, 2.0]


EXACT = {"train": [(400, 1.5123)], "val": [(150, 1.7234), (400, 1.9345)]}


def test_every_curve_and_line_is_named_in_the_figure_with_its_exact_loss():
    curves = plots.curves_of(records(), EXACT)
    figure = plots.loss_figure(curves, {**LINES, "unigram": 3.3473}, "run $x^$")
    found = texts(figure)
    for text in ("count bigram 2.4819", "unigram 3.3473", "train 1.5123", "val 1.9345", "run $x^$"):
        assert text in found
    assert "best checkpoint 1.7234" in found and "step" in found and "batches" in found
    assert any("estimates while training" in text and "exact" in text for text in found)
    lines = figure.axes[0].lines
    heights = [list(line.get_ydata()) for line in lines if len(line.get_xdata()) == 2]
    assert [2.4819, 2.4819] in heights
    diamonds = [
        (*line.get_xdata(), *line.get_ydata()) for line in lines if line.get_marker() == "D"
    ]
    assert sorted(diamonds) == [(150, 1.7234), (400, 1.5123), (400, 1.9345)]


def test_a_number_that_is_an_estimate_is_called_one():
    found = texts(plots.loss_figure(plots.curves_of(records()), LINES, "x"))
    assert any(text.startswith("val (estimate) 1.9") for text in found)
    other = plots.Curve("a-run", (0, 9), (3.0, 2.0), [(5, 1.7)])
    assert "a-run 1.7000 of step 5" in texts(plots.loss_figure([other], {}, "x"))


def test_there_is_a_point_at_every_evaluation_of_a_long_run_too():
    for n in (3, 60, 500):
        curve = plots.Curve("val", range(n), [3 - i / n for i in range(n)])
        (line,) = plots.loss_figure([curve], {}, "x").axes[0].lines
        assert line.get_marker() == "o" and line.get_markersize() > 1


def test_a_label_that_moved_is_led_to_its_curve():
    curves = [plots.Curve(f"run {i}", (0, 9), (3.0, 2.0 + i / 1e4)) for i in range(3)]
    labels = plots.loss_figure(curves, {"count bigram": 2.8}, "x").axes[0].texts
    led = {text.get_text().split(" (")[0]: text.arrow_patch is not None for text in labels}
    assert led["run 0"] and led["run 2"] and not led["run 1"] and not led["count bigram 2.8000"]


def test_what_each_idea_bought_is_drawn_below_the_curves():
    curves = [plots.Curve(n, (0, 9), (4.0, 2.5), [(9, 2.5)]) for n in ("a", "b", "c")]
    bought = {"a": 2.5, "b": 2.38, "c": 2.41}
    figure = plots.loss_figure(curves, {"uniform": 9.0}, "x", bought)
    below = figure.axes[1]
    assert {"−0.1200", "+0.0300", "2.5000", "2.3800"} <= {text.get_text() for text in below.texts}
    assert [label.get_text() for label in below.get_xticklabels()] == list(bought)
    assert below.get_ylim()[1] < 3  # what lies far above does not stretch it


def test_a_picture_of_several_runs_leaves_out_baselines_that_none_comes_near(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "loss_figure", lambda *given: drawn.append(given))
    monkeypatch.setattr(pictures, "write", lambda path, draw: draw() or "")
    curves = [plots.Curve("a", (0, 9), (3.0, 2.5), [(9, 2.5)])]
    lines = {"uniform": 4.2, "unigram": 2.9, "count bigram": 2.45}
    plots.compare_curves(tmp_path / "x.png", curves, lines, {})
    assert list(drawn[0][1]) == ["unigram", "count bigram"] and drawn[0][2] == "Val loss of 1 run"
    assert "no losses" in plots.compare_curves(tmp_path / "x.png", [], lines, {})


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
    monkeypatch.setattr(cluster, "is_first", lambda: False)

    def draw():
        pytest.fail("it was drawn")

    assert pictures.write(tmp_path / "loss.png", draw) == ""
    assert plots.loss_curves(tmp_path / "loss.png", plots.curves_of(records()), LINES, "x") == ""
    assert os.listdir(tmp_path) == []


def test_a_plane_is_a_png_of_1200_by_1200_with_every_name(tmp_path):
    points, names = np.array([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]]), ["a", "$b^$", "ß"]
    figure, named = plots.plane_figure(points, names, "neighbours", "3 of 9 tokens")
    assert {*names, "neighbours", "3 of 9 tokens"} <= set(texts(figure)) and named == ""
    path = tmp_path / "plane.png"
    assert plots.plane(path, points, names, "neighbours", "3 of 9 tokens") == ("", "")
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (1200, 1200)


def test_names_on_a_plane_overprint_nothing_and_how_many_are_shown_is_said():
    rng = np.random.default_rng(0)
    points, names = rng.normal(size=(150, 2)) ** 3, [f"token{i}" for i in range(150)]
    figure, named = plots.plane_figure(points, names, "x", "150 tokens")
    shown = [text for text in figure.axes[0].texts if text.get_text().startswith("token")]
    assert named == f"{len(shown)} are named, where there is room" and 40 < len(shown) < 150
    assert f"150 tokens; {named}" in texts(figure)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in shown]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert names[0] in [text.get_text() for text in shown]  # the first come first


def test_a_title_that_no_font_or_encoding_has_is_drawn(tmp_path):
    path, name = tmp_path / "loss.png", "a\udcff\x1b[2J"
    curves = [plots.Curve(name, (0, 9), (3.0, 2.0))]
    assert plots.loss_curves(path, curves, LINES, name) == ""
    assert plots.plane(path, np.zeros((1, 2)), [name], name, name)[0] == ""


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
