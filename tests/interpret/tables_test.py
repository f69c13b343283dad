"""Vectors, neighbours, places, pairs and windows of a run, each computed another way."""

from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import models
from gptjax.checkpoints.run import Run
from gptjax.config.schema import Config, DataConfig, ModelConfig, TokenizerConfig, TrainConfig
from gptjax.data import dataset, tokenizers
from gptjax.evaluation import probe
from gptjax.interpret import tables
from gptjax.models.mlp import MLPLanguageModel

TEXT = "so it is. it is so, is it not? tis so.\n"
NAMES = "abi\nbia\n"


@pytest.fixture(scope="module")
def run_of(random_params):
    """A function of a model's kind and a text: a run with random parameters, and its splits."""

    def make(kind, text=TEXT, tokens="char", neighbours=0, **sizes):
        sizes = {"block_size": 3, "n_layer": 1, "n_head": 1, "n_embd": 4, "n_hidden": 5} | sizes
        config = Config(
            data=DataConfig(kind="items" if text == NAMES else "stream"),
            tokenizer=TokenizerConfig(tokens),
            model=ModelConfig(kind, **sizes),
            train=TrainConfig(neighbours=neighbours),
        )
        tok = tokenizers.build(config.tokenizer, text)
        model = models.build(config.model, tok.vocab_size, tok.start_id)
        run = Run(config, tok, model, random_params(model, np.zeros((1, 1), np.int32)), step=0)
        texts = {"train": text, "val": text}
        return run, dataset.build(texts, tok, model, text == NAMES, neighbours=neighbours)

    return make


@pytest.mark.parametrize("tokens, kind", [("char", "gpt"), ("word", "bigram_embed")])
def test_the_plane_and_the_neighbours_are_those_of_look(tokens, kind, run_of):
    run, splits = run_of(kind, tokens=tokens)
    ids, names = tables.shown(run, splits), probe.names(run)
    words = [i for i in range(run.tokenizer.vocab_size) if run.tokenizer.is_word(i)]
    assert ids.tolist() == (words if tokens == "word" else list(range(len(names))))
    points, kept = tables.plane(run, ids)
    of_look, shown, how = probe.plane(run, [names[i] for i in ids])
    np.testing.assert_array_equal(points, of_look)
    assert shown == [names[i] for i in ids] and f"{kept:.0%}" in how and 0 < kept < 1
    near = tables.nearest(run, ids, 3)
    assert near.ids.shape == (len(ids), 3)
    for row, id in enumerate(ids):
        found, _ = probe.near(run, names[id], 3)
        assert [names[i] for i in near.ids[row]] == [name for name, _ in found]
        np.testing.assert_allclose(near.cosines[row], [cosine for _, cosine in found], rtol=1e-12)


def test_of_many_tokens_the_most_frequent_are_shown(run_of, monkeypatch):
    run, splits = run_of("bigram_embed", tokens="word")
    monkeypatch.setattr(tables, "ON_PLANE", 3)
    monkeypatch.setattr(tables, "IN_TABLE", 3)
    count = Counter(np.asarray(splits["train"].tokens).tolist())
    names = probe.names(run)
    words = sorted((i for i in count if names[i].isalpha()), key=lambda i: (-count[i], i))
    assert tables.shown(run, splits).tolist() == words[:3] != sorted(words)[:3]
    known = [i for i in range(len(names)) if names[i].isalpha()]
    assert tables.shown(run, None).tolist() == known[:3]
    everything = sorted(count, key=lambda i: (-count[i], i))
    assert tables.paired(run, splits).tolist() == sorted(everything[:3])
    assert tables.paired(run, None).tolist() == [0, 1, 2]
    others = tables.nearest(run, tables.shown(run, splits), 4).ids
    assert set(others.ravel()) - set(words[:3])  # neighbours are looked for among all words


def test_a_plane_of_a_large_table_has_fewer_tokens(run_of, monkeypatch):
    run, splits = run_of("gpt")
    V = run.tokenizer.vocab_size
    monkeypatch.setattr(tables, "FEWEST", 2)
    monkeypatch.setattr(tables, "PRODUCTS", 5 * V * 4)
    assert len(tables.shown(run, splits)) == 5 < V


def test_the_places_are_compared_by_cosine(run_of, monkeypatch):
    run, _ = run_of("gpt", block_size=7)
    places, cosines = tables.positions(run)
    table = np.asarray(run.params["position_embedding_table"]["embedding"], np.float64)
    assert places.tolist() == list(range(7))
    for i, a in enumerate(table):
        for j, b in enumerate(table):
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert cosines[i, j] == pytest.approx(cosine, abs=1e-9)
    monkeypatch.setattr(tables, "PLACES", 3)
    few, some = tables.positions(run)
    assert few.tolist() == [0, 3, 6]
    np.testing.assert_array_equal(some, cosines[np.ix_(few, few)])
    assert tables.positions(run_of("bigram")[0]) is None
    assert tables.positions(run_of("bigram_embed", block_size=1)[0]) is None


@pytest.mark.parametrize(
    "kind, block", [("bigram", 1), ("bigram_embed", 3), ("gpt", 3), ("ngram", 1)]
)
def test_what_follows_one_token_is_what_look_says(kind, block, run_of):
    run, _ = run_of(kind, block_size=block)
    ids = np.array([2, 4, 5])
    found = tables.after_each(run, ids)
    for row, id in enumerate(ids):
        seen, p_SxV = probe.next_tokens(run, run.tokenizer.decode([id]))
        assert seen.tolist() == [id]
        np.testing.assert_allclose(found[row], p_SxV[-1, ids], rtol=1e-4, atol=1e-7)
    assert (found.sum(axis=1) < 1).all()


def test_a_model_of_more_or_of_neighbours_says_nothing_after_one_token(run_of):
    ids = np.arange(3)
    assert tables.after_each(run_of("mlp")[0], ids) is None
    assert tables.after_each(run_of("ngram", block_size=2)[0], ids) is None
    of_neighbours = run_of("bigram_embed", tokens="word", neighbours=2, block_size=1)[0]
    assert tables.after_each(of_neighbours, ids) is None


def test_pairs_are_counted_in_the_training_split(run_of):
    run, splits = run_of("bigram")
    tokens, ids = np.asarray(splits["train"].tokens).tolist(), np.array([1, 3, 6, 9])
    found = tables.counts(splits, run.tokenizer.vocab_size, ids)
    count = Counter(zip(tokens[:-1], tokens[1:], strict=True))
    assert found.pairs.tolist() == [[count[a, b] for b in ids.tolist()] for a in ids.tolist()]
    assert found.first.tolist() == [tokens[:-1].count(a) for a in ids.tolist()]
    assert found.pairs.sum() > 3 and found.add == 1


def test_a_window_holds_all_that_the_model_computes_with(run_of, monkeypatch):
    run, _ = run_of("mlp", NAMES, block_size=2, n_layer=2)
    params = tables.window(run)
    assert sum(value.size for value in params.values()) == run.n_parameters
    assert isinstance(run.model, MLPLanguageModel)
    assert set(params) >= {"token_embedding_table/embedding", "hidden_1/bias", "lm_head/kernel"}
    counted, _ = run_of("ngram", NAMES, block_size=2)
    V = counted.tokenizer.vocab_size
    p = tables.window(counted)["table"]
    ids = jnp.array([[1, 3]])
    logits = np.asarray(counted.model.apply({"params": counted.params}, ids))[0, -1]
    np.testing.assert_allclose(p[1 * V + 3], np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)
    monkeypatch.setattr(tables, "LARGEST_WINDOW", run.n_parameters - 1)
    assert tables.window(run) is None and tables.has_window(run)
    assert not tables.has_window(run_of("gpt")[0])


def test_a_table_of_contexts_has_no_vectors_of_tokens(run_of):
    assert not tables.has_vectors(run_of("ngram", block_size=2)[0])
    assert tables.has_vectors(run_of("ngram", block_size=1)[0])
