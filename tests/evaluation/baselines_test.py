"""What a loss is compared with: counted models, a counted table, the parts of a split."""

import math
import tracemalloc
from collections import Counter

import jax
import numpy as np
import pytest

from gptjax.checkpoints import run as runs
from gptjax.config import files, parse
from gptjax.data.dataset import cut_stream
from gptjax.data.tokenizers import ByteTokenizer, CharTokenizer
from gptjax.evaluation import baselines, count_models, run_table
from gptjax.evaluation.loss_eval import Evaluator
from gptjax.models.bigram import BigramLanguageModel
from gptjax.monitoring.console import Terminal
from gptjax.training import experiment
from gptjax.training.trainer import fit

TEXT = "the cat sat on the mat; a rat ate the fat hat that sat there.\n" * 40


def settings(tmp_path, text=TEXT, name="count_bigram", **fields):
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    config = files.load(name)
    config.data.path = str(path)
    config.train.update(window=9, batch_size=5, eval_iters=3)
    for field, value in fields.items():
        part, _, leaf = field.partition("__")
        config[part][leaf] = value
    return parse.from_dict(config)


def test_it_is_a_run_like_any_other(tmp_path, capsys):
    with Terminal() as terminal:
        summary = fit(settings(tmp_path), tmp_path / "run", terminal)
    np.testing.assert_allclose(
        summary["final_val_nats"], summary["count_bigram_val_nats"], rtol=1e-5
    )
    run = runs.open_run(tmp_path / "run")
    assert run.config.model.kind == "ngram" and run.step == 0
    assert (tmp_path / "run/loss.png").exists()
    assert "sample" in capsys.readouterr().out


def test_the_trained_table_approaches_the_counts(tmp_path):
    """Total variation between softmax(table) and the counts falls from far to near."""
    add = 0.01
    exp = experiment.build(
        settings(
            tmp_path,
            name="bigram",
            model__add_count=add,
            train__steps=400,
            train__batch_size=32,
            train__chunk_steps=400,
            optim__learning_rate=0.05,
            optim__weight_decay=0.0,
        )
    )

    def distance(state):
        split, V = exp.splits["train"], exp.tokenizer.vocab_size
        return baselines.table_against_counts(jax.device_get(state.params), split, V, add)

    state = exp.init_state()
    before, _ = distance(state)
    state, _ = exp.train_chunk(state, *exp.chunk_inputs(0, 400), 400, exp.dropout_key)
    after, most = distance(state)
    assert before > 0.4 and after < 0.05 and after < most < 0.5


def test_a_distance_from_the_counts_weighs_each_token_as_often_as_it_occurs():
    # 0 occurs 6 times, 1 twice, and 2 once, at the end, where nothing follows.
    split = cut_stream(np.array([0, 1, 0, 1, 0, 0, 0, 0, 2]), window=4)
    p = np.array([[0.4, 0.4, 0.2], [0.5, 0.25, 0.25], [1 / 3] * 3])
    params = {"token_embedding_table": {"embedding": np.log(p).astype(np.float32)}}
    counts = np.array([[3, 2, 1], [2, 0, 0], [0, 0, 0]])
    counted = (counts + 1) / (counts + 1).sum(axis=1, keepdims=True)
    apart = np.abs(p - counted).sum(axis=1) / 2
    mean, most = baselines.table_against_counts(params, split, vocab_size=3, add=1.0)
    np.testing.assert_allclose(mean, (6 * apart[0] + 2 * apart[1] + 1 * apart[2]) / 9, rtol=1e-5)
    np.testing.assert_allclose(most, apart.max(), rtol=1e-5)


def add_one_by_hand(train, val, n, V):
    """Mean -ln((count of n + 1 tokens + 1) / (count of the first n + V)), a token at a time."""

    def grams(tokens):
        return zip(*(tokens[i:] for i in range(n + 1)), strict=False)

    whole = Counter(grams(train))
    firsts = Counter(gram[:-1] for gram in whole.elements())
    chances = [(whole[gram] + 1) / (firsts[gram[:-1]] + V) for gram in grams(val)]
    return -sum(map(math.log, chances)) / len(chances)


@pytest.mark.parametrize("block, expected", [(1, 2.4819), (2, 2.0684)])
def test_baselines_of_a_text(published, block, expected):
    config = files.load("count_bigram")
    config.data.update(name="tinyshakespeare" if published else "indian_names", kind="stream")
    config.model.block_size = block
    exp = experiment.build(parse.from_dict(config))
    val = exp.evaluator.exact_loss(exp.init_state().params, exp.splits["val"])
    tok, before = exp.tokenizer, [exp.tokenizer.start_id] * (block - 1)
    both = [before + tok.encode(exp.corpus.splits[s]).tolist() for s in ("train", "val")]
    np.testing.assert_allclose(val, add_one_by_hand(*both, block, tok.vocab_size), rtol=1e-6)
    found = baselines.baselines(exp.splits, tok.vocab_size)
    assert list(found) == ["uniform", "unigram", "count bigram"]
    means = [run_table.mean_and_error(blocks)[0] for blocks in found.values()]
    np.testing.assert_allclose(means[2], exp.bigram_nats["val"], rtol=1e-12)
    if published:
        np.testing.assert_allclose(val, expected, atol=6e-5)
        np.testing.assert_allclose(means, [4.1744, 3.3473, 2.4819], atol=6e-5)


def test_blocks_are_sums_of_the_rows_and_know_their_text(random_params):
    V, tokens = 7, np.random.default_rng(0).integers(0, 7, 1201)
    model = BigramLanguageModel(V)
    params = random_params(model, np.zeros((1, 1), np.int32))
    splits = {"train": cut_stream(tokens[:600], 4), "val": cut_stream(tokens, 4)}
    ours = Evaluator(model, batch_size=3, n_batches=2), params
    text = baselines.text_hash(splits, CharTokenizer("abcdefg"))
    blocks = baselines.block_losses(*ours, splits["val"], text=text)
    log_p = np.asarray(jax.nn.log_softmax(params["token_embedding_table"]["embedding"]))
    row_nats = -log_p[tokens[:-1], tokens[1:]].reshape(300, 4).sum(axis=1)
    # A row counts for the twentieth part of the text in which it begins.
    parts = [np.arange(0, 1200, 4) * 20 // 1201 == i for i in range(20)]
    assert blocks.count.tolist() == [4 * part.sum() for part in parts]
    np.testing.assert_allclose(blocks.nats, [row_nats[part].sum() for part in parts], rtol=1e-5)
    assert blocks.text == baselines.text_hash(splits, CharTokenizer("abcdefg")) != ""
    told = []
    baselines.block_losses(*ours, splits["val"], lambda *of: told.append(of))
    assert told[-1] == (300, 300) and told == sorted(told) and len(told) > 10


@pytest.mark.parametrize("train, val", [(600, 1201), (599, 1201), (601, 1201), (600, 1200)])
def test_another_training_split_is_another_text(train, val):
    tokens, tok = np.random.default_rng(0).integers(0, 7, 2000), CharTokenizer("abcdefg")

    def text(train, begin, end, tok=tok):
        splits = {"train": cut_stream(tokens[:train], 4), "val": cut_stream(tokens[begin:end], 4)}
        return baselines.text_hash(splits, tok)

    assert text(600, 600, 1201) == text(600, 600, 1201) != text(600, 600, 1201, ByteTokenizer())
    same = (train, val) == (600, 1201)
    assert (text(train, 600, val) == text(600, 600, 1201)) == same
    # Nor is it the same text when the cut between the two lies elsewhere.
    assert (text(train, train, 1201) == text(600, 600, 1201)) == (train == 600)


@pytest.mark.parametrize("kind", ["stream", "items", "neighbours"])
def test_the_baselines_blocks_are_those_of_a_model_that_counts(kind, tmp_path):
    """The count bigram's blocks, from pairs, and a counted table's, from rows of any width."""
    lines = "\n".join("ab"[i % 2] + "cde"[i % 3] * (i % 7) for i in range(400))
    fields = {"stream": {}, "items": {"data__kind": "items"}}.get(kind)
    if fields is None:
        fields = {"tokenizer__kind": "word", "train__neighbours": 2}
    text = lines if kind == "items" else TEXT
    exp = experiment.build(settings(tmp_path, text, **fields))
    ours = (exp.evaluator, exp.init_state().params)
    text = baselines.text_hash(exp.splits, exp.tokenizer)
    counted = baselines.block_losses(*ours, exp.splits["val"], text=text)
    found = baselines.baselines(exp.splits, exp.tokenizer.vocab_size, text)["count bigram"]
    assert found.text == counted.text and found.count.tolist() == counted.count.tolist()
    np.testing.assert_allclose(found.nats, counted.nats, rtol=1e-4)


@pytest.mark.parametrize("name, fields", [("bigram", {}), ("ladder:head", {"model__n_embd": 8})])
def test_the_blocks_add_up_to_the_exact_loss(name, fields, tmp_path):
    exp = experiment.build(settings(tmp_path, name=name, train__window=0, **fields))
    params = jax.device_get(exp.init_state().params)
    blocks = baselines.block_losses(exp.evaluator, params, exp.splits["val"])
    assert len(blocks.nats) >= 10 and blocks.count.sum() == exp.splits["val"].n_predicted
    exact = exp.evaluator.exact_loss(params, exp.splits["val"])
    np.testing.assert_allclose(blocks.nats.sum() / blocks.count.sum(), exact, rtol=1e-5)


def test_a_large_vocabulary_is_never_squared():
    V, n = 50_257, 3_001  # a table of all pairs would have 20 GB
    ids = np.random.default_rng(2).integers(0, V, n)
    splits = {name: cut_stream(ids, 7) for name in ("train", "val")}
    tracemalloc.start()
    found = baselines.baselines(splits, V)
    nats = count_models.count_bigram_nats(splits, V)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20 * 8 * V, "a few arrays of one number a token"
    assert run_table.mean_and_error(found["count bigram"])[0] == pytest.approx(nats["val"])
    assert run_table.mean_and_error(found["uniform"])[0] == pytest.approx(math.log(V))
