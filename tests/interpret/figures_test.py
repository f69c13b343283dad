"""Figures hold the values of this wing, and nothing in them is cut off or missing."""

import dataclasses
import json
import math

import numpy as np
import pytest
from random_runs import NAMES, TEXT

from gptjax.checkpoints import run as runs
from gptjax.data import dataset
from gptjax.errors import UserError
from gptjax.evaluation import count_models
from gptjax.interpret import figures, lens, tables
from gptjax.interpret import text as texts
from gptjax.monitoring import pictures

PROMPT = "it is"


def words_of(figure):
    """Every text of a figure; nothing of it leaves the page."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()  # inches
    assert drawn.x0 >= 0 and drawn.x1 <= width and drawn.y0 >= 0 and drawn.y1 <= height
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible()]


def images(figure):
    return [image for axes in figure.axes for image in axes.images]


@pytest.mark.parametrize("flags", [{}, {"layer": 2}, {"layer": 3, "head": 1}])
def test_a_matrix_of_attention_for_every_head_that_was_asked_for(run_of, flags):
    run = run_of("gpt")
    figure, found = figures.attention(run, PROMPT, **flags), lens.attention(run, PROMPT, **flags)
    drawn = images(figure)
    assert len(drawn) == len(found.layers) * len(found.heads)
    seen = np.tril(np.ones((5, 5), bool))
    for image, wei in zip(drawn, found.wei_NxHxTxT.reshape(-1, 5, 5), strict=True):
        np.testing.assert_array_equal(image.get_array()[seen], wei[seen])
        assert image.get_array().mask[~seen].all() and image.get_clim() == (0, 1)
    words = words_of(figure)
    for layer in found.layers:
        assert f"layer {layer}, head {found.heads[0]}" in words
    assert {"i", "t", "␣", "s", "attention weight", "looks", "looked at"} <= set(words)


def test_places_are_numbered_where_their_tokens_have_no_room(run_of):
    run = run_of("gpt", block_size=60)
    many = words_of(figures.attention(run, TEXT * 2))
    assert "looked at: place" in many and "␣" not in many
    assert "␣" in words_of(figures.attention(run, TEXT, layer=1, head=1))
    assert any(f"the last 60 of {2 * len(TEXT)} tokens" in text for text in many)


def test_a_lens_shows_each_guess_and_frames_what_came(run_of):
    run, text = run_of("gpt", block_size=20, step=3), TEXT[:20]
    figure, found = figures.lens(run, text), lens.look_through(run, text)
    (image,) = images(figure)
    shown = np.asarray(image.get_array())
    np.testing.assert_array_equal(shown[1:-1], found.guesses.top_p[..., 0])
    assert np.isnan(shown[[0, -1]]).all()
    axes = figure.axes[0]
    cells = {(text.get_position()): text.get_text() for text in axes.texts}
    reads = lens.names(run, found.ids_T)
    assert [cells[t, 0] for t in range(20)] == reads
    assert [cells[t, 5] for t in range(19)] == reads[1:]
    for layer, ids_T in enumerate(found.guesses.top_ids[..., 0]):
        assert [cells[t, layer + 1] for t in range(20)] == lens.names(run, ids_T)
    framed = {(round(p.get_x() + 0.46), round(p.get_y() + 0.44) - 1) for p in axes.patches}
    hits = zip(*np.nonzero(found.guesses.rank[:, :-1] == 1), strict=True)
    assert framed == {(t, layer) for layer, t in hits} and framed
    assert "block 2 (raw)" in words_of(figure) and "block 3: output" in words_of(figure)


def test_a_long_lens_goes_on_below_and_says_where_it_begins(run_of, monkeypatch):
    run = run_of("gpt", block_size=60)
    found = lens.look_through(run, TEXT * 2)
    whole = figures.lens(run, TEXT * 2)
    bands, words = images(whole), words_of(whole)
    assert any(f"the last 60 of {2 * len(TEXT)}" in text for text in words)
    assert len(bands) == 2
    drawn = np.concatenate([np.asarray(band.get_array())[1:-1] for band in bands], axis=1)
    np.testing.assert_array_equal(drawn[:, :60], found.guesses.top_p[..., 0])
    monkeypatch.setattr(figures, "MOST_BANDS", 1)
    figure = figures.lens(run, TEXT * 2)
    n = images(figure)[0].get_array().shape[1]
    drawn = np.concatenate([np.asarray(band.get_array())[1:-1] for band in images(figure)], axis=1)
    np.testing.assert_array_equal(drawn, found.guesses.top_p[:, -n:, 0])
    assert any(f"the last {n} of {2 * len(TEXT)}" in text for text in words_of(figure))


@pytest.mark.parametrize("kind, text", [("gpt", TEXT), ("mlp", NAMES), ("bigram", TEXT)])
def test_each_token_has_the_colour_of_its_loss(run_of, kind, text):
    run = run_of(kind, text=text)
    cut = texts.rows(run, text, figures.MOST_PREDICTIONS)
    found, V = texts.read(run, cut), run.tokenizer.vocab_size
    figure = figures.loss(run, text)
    (boxes,) = figure.axes[0].collections
    np.testing.assert_array_equal(boxes.get_array(), found.nats)
    np.testing.assert_allclose(boxes.get_clim(), (0, math.log(V)))
    assert len(figure.axes[0].texts) == len(cut.ids)
    labels = lens.names(run, cut.ids)
    assert [shown.get_text() for shown in figure.axes[0].texts] == labels
    assert any(f"mean {found.nats.mean():.4f}" in said for said in words_of(figure))


def test_a_loss_is_drawn_beside_the_count_bigrams(run_of):
    run = run_of("gpt")
    ids = np.asarray(run.tokenizer.encode(TEXT))
    bigram = count_models.count_bigram(ids[:-1], ids[1:], run.tokenizer.vocab_size)
    figure = figures.loss(run, TEXT, bigram)
    nats, less = (axes.collections[0] for axes in figure.axes if axes.texts)
    np.testing.assert_allclose(nats.get_array() - less.get_array(), bigram.each(ids[:-1], ids[1:]))
    low, high = less.get_clim()
    assert low == -high
    assert "loss, nats per token" in words_of(figure)


def test_a_text_stands_in_lines_that_end_where_its_own_do():
    places, n = figures._set_lines([*"ab⏎", *"c" * (figures._COLUMNS + 2)])
    assert places[:4] == [(0, 0, 1), (0, 1, 1), (0, 2, 1), (1, 0, 1)]
    assert places[-2:] == [(2, 0, 1), (2, 1, 1)] and n == 3
    assert figures._set_lines(["to", "␣be"]) == ([(0, 0, 3), (0, 3, 4)], 1)


@pytest.mark.parametrize("words", [(), ("i", "s")])
def test_a_table_is_drawn_beside_the_counts_and_their_difference(run_of, words):
    run = run_of("bigram")
    window = run.config.window(False)
    splits = dataset.build({"train": TEXT}, run.tokenizer, run.model, False, window)
    found = tables.followers(run, splits, words, figures.IN_PICTURE)
    figure = figures.table(run, splits, words)
    model, counted, apart = (np.asarray(image.get_array()) for image in images(figure))
    np.testing.assert_array_equal(model, found.p_RxK)
    np.testing.assert_array_equal(counted, found.counted_RxK)
    np.testing.assert_array_equal(apart, model - counted)
    assert images(figure)[0].get_clim() == images(figure)[1].get_clim()
    assert {"bigram", "counted in train", "bigram minus counted"} <= set(words_of(figure))
    (alone,) = images(figures.table(run, None, words))
    np.testing.assert_array_equal(alone.get_array(), found.p_RxK)


RECORDS = [
    {"step": step, "loss_nats": 3 - step / 99, "grad_norm": 1.5, "learning_rate": step / 1e5}
    for step in range(5, 95, 10)
] + [{"step": step, "train_nats": 2.9 - step / 99, "val_nats": 3 - step / 99} for step in (0, 90)]


def test_curves_are_those_of_the_folder_of_the_run(run_of, tmp_path):
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    (tmp_path / runs.METRICS).write_text(lines, encoding="utf-8")
    run = dataclasses.replace(run_of("gpt"), folder=tmp_path)
    figure = figures.curves(run, {"unigram": 2.345, "count bigram": None})
    losses, rate, norm = figure.axes
    assert [list(line.get_ydata()) for line in norm.lines] == [[1.5] * 9]
    assert list(rate.lines[0].get_xdata()) == list(range(5, 95, 10))
    assert {"unigram 2.3450", "learning\nrate", "gradient\nnorm", "step"} <= set(words_of(figure))
    without = words_of(figures.curves(run))
    assert f"ln V {math.log(run.tokenizer.vocab_size):.4f}" in without
    assert not any("bigram" in text for text in without)


def test_a_run_without_a_folder_or_records_has_no_curves(run_of, tmp_path):
    for run in (run_of("gpt"), dataclasses.replace(run_of("gpt"), folder=tmp_path)):
        with pytest.raises(UserError, match="nothing was recorded"):
            figures.curves(run)


def test_a_figure_is_a_png_in_a_notebook_and_the_same_svg_each_time(run_of):
    run = run_of("gpt")
    assert figures.attention(run, PROMPT)._repr_png_().startswith(b"\x89PNG")
    first, second = (pictures.drawn(figures.lens(run, PROMPT), "svg") for _ in range(2))
    assert first == second and b"<svg" in first and b"<dc:date>" not in first
