"""The text panel's data: they are what interpret gives, as much as a page has room for."""

import base64
import json

import numpy as np
import pytest
from random_runs import NAMES, TEXT, random_run

from gptjax.data import dataset
from gptjax.errors import UserError
from gptjax.evaluation.count_models import count_bigram
from gptjax.interpret import capture, lens, text
from gptjax.web import arrays, text_data
from gptjax.web.context import Context

DTYPES = {"unit": "<u2", "u16": "<u2", "u32": "<u4", "float": "<f4"}


def unpack(packed):
    raw = np.frombuffer(base64.b64decode(packed["base64"]), DTYPES[packed["kind"]])
    scale = arrays.UNIT_STEPS if packed["kind"] == "unit" else 1
    return (raw / scale if scale > 1 else raw).reshape(packed["shape"])


@pytest.fixture(scope="module")
def context_of(tmp_path_factory):
    """A function of a run and a text: the context of a page, its train the text itself."""

    def make(run, shown, **more):
        tok, window = run.tokenizer, run.config.window(run.items)
        train = dataset.build({"train": shown}, tok, run.model, run.items, window)
        return Context(tmp_path_factory.mktemp("run"), shown, "val", splits=train, **more)

    return make


@pytest.fixture(scope="module")
def gpt(random_params, context_of):
    run = random_run(random_params, "gpt")
    context = context_of(run, TEXT)
    return run, context, text_data.text_data(run, context)


def test_each_tokens_numbers_are_those_of_interpret(gpt):
    run, context, data = gpt
    json.dumps(data)
    cut = text.rows(run, TEXT, 999)
    found = text.read(run, cut)
    np.testing.assert_array_equal(unpack(data["ids"]), cut.ids)
    assert (data["first"], data["count"]) == (cut.first_R.tolist(), cut.count_R.tolist())
    assert len(data["first"]) > 3 and data["n_predicted"] == len(cut.ids) - 1
    for name, kept in found._asdict().items():
        np.testing.assert_allclose(unpack(data[name]), kept, rtol=1e-6, atol=1e-5)
    bigram = count_bigram(cut.ids[:-1], cut.ids[1:], run.tokenizer.vocab_size)
    np.testing.assert_allclose(unpack(data["bigram_nats"]), text.bigram_nats(cut, bigram), 1e-6)


def test_the_triangles_are_the_attention_of_each_row(gpt):
    run, context, data = gpt
    cut = text.rows(run, TEXT, 999)
    weights = unpack(data["attention"]["weights"])
    assert weights.shape[:2] == (3, 2) and data["attention"]["places"] == data["count"]
    begin = 0
    for x_S, count in zip(cut.x_RxS, cut.count_R, strict=True):
        wei = capture.capture(run.model, run.params, x_S[None]).attention_NxBxHxTxS[:, 0]
        for t in range(count):
            found = weights[:, :, begin : begin + t + 1]
            np.testing.assert_allclose(found, wei[:, :, t, : t + 1], atol=1e-5)
            np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-4)
            begin += t + 1
    assert begin == weights.shape[2]


def test_the_lens_ends_in_the_models_own_guess(gpt):
    run, context, data = gpt
    cut = text.rows(run, TEXT, 999)
    assert data["lens"]["places"] == data["count"]
    nats = unpack(data["lens"]["nats"])
    assert nats.shape == (run.model.n_layer + 1, data["n_predicted"])
    np.testing.assert_array_equal(nats[-1], unpack(data["nats"]))
    np.testing.assert_array_equal(
        unpack(data["lens"]["top_ids"])[-1], unpack(data["top_ids"])[:, : lens.TOP]
    )
    second = lens.lens(run, list(text.captures(run, cut))[1], cut.y_RxT[1])
    begin, n = cut.count_R[:2]
    np.testing.assert_allclose(nats[:, begin : begin + n], second.nats[:, :n], rtol=1e-6)


def test_a_page_of_many_checkpoints_shows_less_of_each(gpt, context_of, monkeypatch):
    run, _, whole = gpt
    monkeypatch.setattr(text_data, "ATTENTION_BYTES", 1_000)
    monkeypatch.setattr(text_data, "LENS_BYTES", 3_000)
    data = text_data.text_data(run, context_of(run, TEXT, n_checkpoints=3))
    kept = data["attention"]["weights"]
    assert 0 < 3 * len(kept["base64"]) <= 1_000
    places, counts = data["attention"]["places"], data["count"]
    assert places[0] < counts[0] and set(places[1:]) == {0}
    t = places[0]
    whole_weights = unpack(whole["attention"]["weights"])
    np.testing.assert_array_equal(unpack(kept), whole_weights[:, :, : t * (t + 1) // 2])
    assert 0 < sum(data["lens"]["places"]) < sum(counts)
    seen = unpack(data["lens"]["nats"])
    assert seen.shape[1] == sum(data["lens"]["places"])
    np.testing.assert_array_equal(seen, unpack(whole["lens"]["nats"])[:, : seen.shape[1]])


def test_all_parts_of_the_default_page_together_fit():
    class Of:  # of the default run: 4 layers, 4 heads, block 64
        attention_NxBxHxTxS = np.zeros((4, 1, 4, 64, 64))

    cut = text.Rows(None, None, np.array([64] * 4), None, None, 256)
    n = sum(t * (t + 1) // 2 for t in text_data.attention_places(Of, cut, 7))
    assert 7 * 16 * n * text_data.VALUE_BYTES < 360_000 < 7 * 16 * 64 * 65 // 2 * 8 / 3
    assert text_data.attention_places(Of, cut, 1) == [64] * 4


def test_the_lens_of_a_large_vocabulary_is_of_fewer_places(gpt, monkeypatch):
    run, *_ = gpt
    cut = text.rows(run, TEXT, 999)
    per_place = (run.model.n_layer + 1) * run.model.vocab_size
    monkeypatch.setattr(text_data, "LENS_LOGITS", 10.5 * per_place)
    places = text_data.lens_places(run, cut, 1)
    assert places[:2] == [7, 3] and set(places[2:]) == {0}


@pytest.mark.parametrize("kind, corpus", [("mlp", NAMES), ("bigram", TEXT), ("multihead", TEXT)])
def test_every_kind_of_model_shows_what_it_has(kind, corpus, random_params, context_of):
    run = random_run(random_params, kind, corpus)
    data = text_data.text_data(run, context_of(run, corpus))
    assert data["lens"] is None
    assert (data["attention"] is not None) == (kind == "multihead")
    assert unpack(data["nats"]).shape == (data["n_predicted"],)


def test_a_run_of_neighbours_has_no_text(random_params, context_of):
    run = random_run(random_params, "bigram_embed", tokens="word", neighbours=2)
    assert text_data.text_data(run, Context(None, "", "val")) is None


def test_parameters_that_are_no_numbers_are_said(gpt):
    run, context, _ = gpt
    bad = {**run.params, "ln_f": {"scale": run.params["ln_f"]["scale"] * np.nan}}
    bad["ln_f"]["bias"] = run.params["ln_f"]["bias"]
    damaged = run.__class__(run.config, run.tokenizer, run.model, bad, step=1)
    data = text_data.text_data(damaged, context)
    assert data["finite"] is False and "nats" not in data and len(data["first"]) > 3


def test_a_typed_text_gives_the_same_and_counts_the_bigram_once(gpt, monkeypatch):
    run, context, data = gpt
    monkeypatch.setattr(text_data, "count_bigram", None)  # it has been counted
    typed = text_data.inspect(run, context, TEXT)
    assert typed.pop("from") == "user"
    assert typed == {name: value for name, value in data.items() if name != "from"}
    with pytest.raises(UserError, match="the first is not predicted"):
        text_data.inspect(run, context, "s")
    without = text_data.inspect(run, Context(context.workdir, "", "val"), TEXT)
    assert without["bigram_nats"] is None
