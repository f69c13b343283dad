"""The data of the panels of tables and layers: what is there, how large it is, without a corpus."""

import base64
import json

import numpy as np
import pytest
from random_runs import NAMES, TEXT, random_run

from gptjax.data import dataset
from gptjax.evaluation import probe
from gptjax.interpret import layers, tables
from gptjax.monitoring.metrics import plain
from gptjax.web import embeddings_data, layers_data
from gptjax.web.context import Context

DTYPES = {"unit": "<u2", "u16": "<u2", "u32": "<u4", "float": "<f4"}


def unpacked(packed):
    array = np.frombuffer(base64.b64decode(packed["base64"]), DTYPES[packed["kind"]])
    array = array / 65535 if packed["kind"] == "unit" else array
    return array.reshape(packed["shape"])


def context_of(run, text, tmp_path, corpus=True):
    texts = {"train": text, "val": text}
    how = run.tokenizer, run.model, run.items, 0, run.config.train.neighbours
    return Context(tmp_path, text, "val", splits=dataset.build(texts, *how) if corpus else None)


def test_what_is_sent_is_what_was_computed(random_params, tmp_path):
    run = random_run(random_params, "bigram_embed", block_size=5)
    ctx = context_of(run, TEXT, tmp_path)
    facts = embeddings_data.embeddings_facts(run, ctx)
    made = embeddings_data.embeddings_data(run, ctx)
    ids = unpacked(facts["ids"])
    points, kept = tables.plane(run, ids)
    np.testing.assert_allclose(unpacked(made["plane"]["points"]), points, rtol=1e-6, atol=1e-6)
    assert made["plane"]["kept"] == kept and facts["of"] == run.tokenizer.vocab_size
    near = tables.nearest(run, ids)
    np.testing.assert_array_equal(unpacked(made["plane"]["near"]), near.ids)
    np.testing.assert_allclose(unpacked(made["plane"]["cosines"]), near.cosines, rtol=1e-6)
    cosines = 2 * unpacked(made["places"]["cosines"]) - 1
    np.testing.assert_allclose(cosines, tables.positions(run)[1], atol=2e-5)
    paired = unpacked(facts["paired"])
    after = tables.after_each(run, paired)
    np.testing.assert_allclose(unpacked(made["after"]), after, atol=1e-5)
    counts = tables.counts(ctx.splits, run.tokenizer.vocab_size, paired)
    np.testing.assert_array_equal(unpacked(facts["counts"]["pairs"]), counts.pairs)
    assert made["window"] is None and facts["window"] is None


@pytest.mark.parametrize("kind, block", [("mlp", 3), ("ngram", 2)])
def test_a_window_goes_whole_or_not_at_all(kind, block, random_params, tmp_path, monkeypatch):
    run = random_run(random_params, kind, NAMES, block_size=block)
    ctx = context_of(run, NAMES, tmp_path)
    facts = embeddings_data.embeddings_facts(run, ctx)["window"]
    told = {"block_size": block, "start": run.tokenizer.start_id, "kind": kind}
    assert facts == told | {"too_large": False}
    made = embeddings_data.embeddings_data(run, ctx)
    assert sum(unpacked(part).size for part in made["window"].values()) == run.n_parameters
    assert made["after"] is None and made["places"] is None
    assert (made["plane"] is None) == (kind == "ngram")
    monkeypatch.setattr(tables, "LARGEST_WINDOW", 3)
    assert embeddings_data.embeddings_facts(run, ctx)["window"]["too_large"]
    assert embeddings_data.embeddings_data(run, ctx)["window"] is None


def test_without_a_corpus_the_tables_have_no_counts_and_the_text_is_measured(
    random_params, tmp_path
):
    run = random_run(random_params, "bigram_embed", block_size=5)
    ctx = context_of(run, TEXT, tmp_path, corpus=False)
    assert embeddings_data.embeddings_facts(run, ctx)["counts"] is None
    facts, made = (part(run, ctx) for part in (layers_data.layers_facts, layers_data.layers_data))
    assert facts["from"] == "text" and facts["tokens"] == len(TEXT) - 1
    assert "not trained here" in made["no_updates"] and made["learning_rate"] is None
    _, p_SxV = probe.next_tokens(run, TEXT[:5])  # of one row
    nats = -np.log(p_SxV[np.arange(5), run.tokenizer.encode(TEXT[1:6])])
    row = layers.Batch(*(part[:1] for part in layers.of_text(run, TEXT)))
    assert layers.measure(run.model, run.params, row).nats == pytest.approx(nats.mean(), rel=1e-4)


def test_what_learnt_no_gradients_or_has_no_text_has_no_layers(random_params, tmp_path):
    counted = random_run(random_params, "ngram", block_size=1)
    ctx = context_of(counted, TEXT, tmp_path)
    assert layers_data.layers_facts(counted, ctx) is None
    words = random_run(random_params, "bigram_embed", tokens="word", neighbours=2, block_size=1)
    ctx = Context(tmp_path, "", "val")
    assert layers_data.layers_data(words, ctx) is None


def test_a_checkpoint_of_the_default_size_is_small(random_params, tmp_path):
    letters = "".join(map(chr, range(256, 256 + 84)))  # as many tokens as Shakespeare has
    sizes = {"n_embd": 128, "n_head": 4, "n_layer": 4, "block_size": 64}
    run = random_run(random_params, "gpt", letters * 3, **sizes)
    ctx = context_of(run, letters * 3, tmp_path)
    facts, made = embeddings_data.embeddings_facts(run, ctx), None
    made = embeddings_data.embeddings_data(run, ctx)
    assert made["plane"]["points"]["shape"] == [84, 2] and facts["of"] == 84
    sizes = [len(json.dumps(plain(part))) for part in (facts, made)]
    assert 10_000 < sizes[0] < 45_000 and 30_000 < sizes[1] < 45_000  # bytes
