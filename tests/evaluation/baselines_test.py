"""Counting: the n-gram's table, its evaluation as any model's, and what a trained table nears."""

import itertools
import math
from collections import Counter

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax import evaluate, models, train
from gptjax.checkpoints import run as runs
from gptjax.config import files as config_file
from gptjax.config import parse as gptjax_config
from gptjax.errors import UserError
from gptjax.evaluation import baselines as yardsticks
from gptjax.evaluation import count_models as counts
from gptjax.models import ModelConfig, ngram
from gptjax.monitoring.console import Terminal
from gptjax.training import experiment

TEXT = "the cat sat on the mat; a rat ate the fat hat that sat there.\n" * 40


def settings(tmp_path, text=TEXT, name="count_bigram", **fields):
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    config = config_file.load(name)
    config.data.path = str(path)
    config.train.update(window=9, batch_size=5, eval_iters=3)
    for field, value in fields.items():
        part, _, leaf = field.partition("__")
        config[part][leaf] = value
    return gptjax_config.from_dict(config)


@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=20), n=st.integers(1, 3))
def test_contexts_number_the_last_tokens_the_newest_last(tokens, n):
    start, V = 3, 4
    found = np.asarray(ngram.contexts(np.array([tokens]), V, n, start))[0]
    for t in range(len(tokens)):
        seen = ([start] * n + tokens[: t + 1])[-n:]
        assert found[t] == sum(token * V ** (n - 1 - i) for i, token in enumerate(seen))


def test_the_table_is_the_share_of_each_continuation():
    contexts, nexts = np.array([0, 0, 0, 2]), np.array([1, 1, 4, 3])
    p = np.exp(counts.count_ngram(contexts, nexts, vocab_size=5, n_contexts=3, add=0.5))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(p[0], np.array([0.5, 2.5, 0.5, 0.5, 1.5]) / 5.5, rtol=1e-6)
    np.testing.assert_allclose(p[1], 1 / 5, rtol=1e-6)  # never seen: a uniform guess
    np.testing.assert_allclose(p[2, 3], 1.5 / 3.5, rtol=1e-6)


def by_hand(text, tokens, block, V, add, start):
    """Mean nats of an add-k n-gram, a prediction at a time, contexts padded with ``start``."""

    def predictions(tokens):
        for t in range(1, len(tokens)):
            yield tuple(([start] * block + tokens[:t])[-block:]), tokens[t]

    seen = list(predictions(text))
    total = 0.0
    for context, token in predictions(tokens):
        here = [n for c, n in seen if c == context]
        total -= math.log((here.count(token) + add) / (len(here) + add * V))
    return total / (len(tokens) - 1)


@pytest.mark.parametrize("block, add", [(1, 1.0), (2, 0.25)])
def test_the_exact_loss_is_that_of_counting_by_hand(tmp_path, block, add):
    text = TEXT[:300]
    exp = experiment.build(settings(tmp_path, text, model__block_size=block, model__add_count=add))
    params = exp.init_state().params
    splits = {name: exp.rows[name].tokens.tolist() for name in ("train", "val")}
    V, start = exp.tokenizer.vocab_size, exp.tokenizer.start_id
    for name, tokens in splits.items():
        expected = by_hand(splits["train"], tokens, block, V, add, start)
        np.testing.assert_allclose(evaluate.exact_loss(exp, params, name), expected, rtol=1e-5)


def test_items_are_counted_from_their_own_beginning(tmp_path):
    names = [a + b + c for a, b, c in itertools.product("ab", "cde", "fg")]
    exp = experiment.build(
        settings(tmp_path, "\n".join(names) + "\n", data__kind="items", model__block_size=2)
    )
    table = exp.counted_params()["token_embedding_table"]["embedding"]
    V, start = exp.tokenizer.vocab_size, exp.tokenizer.start_id
    firsts = np.exp(table[start * V + start])  # nothing but the start has been seen
    n = exp.corpus.n_items["train"]
    letters = exp.tokenizer.encode("ab")
    np.testing.assert_allclose(firsts[letters].sum(), (n + 2) / (n + V), rtol=1e-6)
    # No context holds the end of one name and the beginning of the next.
    f = int(exp.tokenizer.encode("f")[0])
    np.testing.assert_allclose(np.exp(table[f * V + start]), 1 / V, rtol=1e-6)


def test_it_is_a_run_like_any_other(tmp_path, capsys):
    with Terminal() as terminal:
        summary = train.fit(settings(tmp_path), tmp_path / "run", terminal)
    np.testing.assert_allclose(
        summary["final_val_nats"], summary["count_bigram_val_nats"], rtol=1e-5
    )
    run = runs.open_run(tmp_path / "run")
    assert run.config.model.kind == "ngram" and run.step == 0
    assert (tmp_path / "run/loss.png").exists()
    assert "sample" in capsys.readouterr().out


def test_the_trained_table_approaches_the_counts(tmp_path):
    """Total variation between softmax(table) and the counts falls from far to near."""
    exp = experiment.build(
        settings(
            tmp_path,
            name="bigram",
            model__add_count=0.01,
            train__steps=400,
            train__batch_size=32,
            optim__learning_rate=0.05,
            optim__weight_decay=0.0,
        )
    )
    state = exp.init_state()
    before, _ = yardsticks.table_against_counts(exp, jax.device_get(state.params))
    state, _ = exp.train_chunk(state, exp.train_batches(0, 400, 400), 400, exp.dropout_key)
    after, most = yardsticks.table_against_counts(exp, jax.device_get(state.params))
    assert before > 0.4 and after < 0.05 and after < most < 0.5


def test_total_variation_is_half_the_distance_of_the_probabilities():
    a, b = (
        np.log([[0.5, 0.5, 1e-30], [0.2, 0.3, 0.5]]),
        np.log([[1e-30, 0.5, 0.5], [0.2, 0.3, 0.5]]),
    )
    np.testing.assert_allclose(counts.total_variation(a + 3, b), [0.5, 0], atol=1e-12)


def test_single_tokens_by_counting():
    train_tokens, tokens = np.array([0, 0, 1]), np.array([0, 2])
    expected = -(math.log(3 / 6) + math.log(1 / 6)) / 2
    np.testing.assert_allclose(counts.unigram_nats(train_tokens, tokens, 3), expected)


def test_a_table_that_would_not_fit_and_a_count_of_nothing_are_refused():
    with pytest.raises(UserError, match=r"model.block_size=4 asks for a table of 65\^4 contexts"):
        models.build(ModelConfig("ngram", block_size=4), 65)
    with pytest.raises(UserError, match=r"model.add_count=0.0 must be .*above 0"):
        ModelConfig("ngram", add_count=0.0)


def add_one_by_hand(train, val, n, V):
    """Mean -ln((count of n + 1 tokens + 1) / (count of the first n + V)), a token at a time."""

    def grams(tokens):
        return zip(*(tokens[i:] for i in range(n + 1)), strict=False)

    whole = Counter(grams(train))
    firsts = Counter(gram[:-1] for gram in whole.elements())
    chances = [(whole[gram] + 1) / (firsts[gram[:-1]] + V) for gram in grams(val)]
    return -sum(map(math.log, chances)) / len(chances)


@pytest.mark.parametrize("block, expected", [(1, 2.4819), (2, 2.0684)])
def test_yardsticks_of_a_text(published, block, expected):
    config = config_file.load("count_bigram")
    config.data.update(name="tinyshakespeare" if published else "indian_names", kind="stream")
    config.model.block_size = block
    exp = experiment.build(gptjax_config.from_dict(config))
    val = evaluate.exact_loss(exp, exp.init_state().params, "val")
    tok, before = exp.tokenizer, [exp.tokenizer.start_id] * (block - 1)
    both = [before + tok.encode(exp.corpus.splits[s]).tolist() for s in ("train", "val")]
    np.testing.assert_allclose(val, add_one_by_hand(*both, block, tok.vocab_size), rtol=1e-6)
    if published:
        np.testing.assert_allclose(val, expected, atol=6e-5)
        beat = yardsticks.baselines(exp)
        np.testing.assert_allclose(list(beat.values()), [4.1744, 3.3473, 2.4819], atol=6e-5)
