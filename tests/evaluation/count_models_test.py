"""Counting is what counting one by one gives, and what others published."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax.config.schema import DataConfig
from gptjax.data import corpora, dataset
from gptjax.data.tokenizers import CharTokenizer
from gptjax.evaluation import count_models
from gptjax.evaluation.loss_eval import Evaluator
from gptjax.models.ngram import NGramLanguageModel

TEXT = "the cat sat on the mat; a rat ate the fat hat that sat there.\n" * 40


def by_hand(train, tokens, vocab_size, add):
    """Mean -ln((n[i, j] + add) / (n[i] + add V)), a pair at a time."""
    pairs = Counter(zip(train[:-1], train[1:], strict=True))
    firsts = Counter(train[:-1])
    total = 0.0
    for pair in zip(tokens[:-1], tokens[1:], strict=True):
        seen = pairs[pair] + add
        if not seen:
            return math.inf
        total -= math.log(seen / (firsts[pair[0]] + add * vocab_size))
    return total / (len(tokens) - 1)


def nats(train, tokens, vocab_size, add):
    train, tokens = np.array(train, np.int32), np.array(tokens, np.int32)
    counted = count_models.count_bigram(train[:-1], train[1:], vocab_size, add)
    return counted.nats(tokens[:-1], tokens[1:])


TOKENS = st.lists(st.integers(0, 4), min_size=2, max_size=30)


@given(train=TOKENS, tokens=TOKENS, add=st.sampled_from([0.0, 0.5, 1.0]))
def test_it_is_the_count_pair_by_pair(train, tokens, add):
    np.testing.assert_allclose(
        nats(train, tokens, 7, add), by_hand(train, tokens, 7, add), rtol=1e-12
    )


@given(train=TOKENS, tokens=TOKENS)
def test_the_nats_of_each_pair_have_the_mean(train, tokens):
    train, tokens = np.array(train, np.int32), np.array(tokens, np.int32)
    counted = count_models.count_bigram(train[:-1], train[1:], 7)
    each = counted.each(tokens[:-1], tokens[1:])
    assert each.shape == (len(tokens) - 1,)
    np.testing.assert_allclose(each.mean(), by_hand(train, tokens, 7, 1.0), rtol=1e-12)
    last = counted.each(tokens[-2:-1], tokens[-1:])
    np.testing.assert_allclose(each[-1:], last, rtol=1e-12)  # each has its own place


def test_a_pair_that_training_never_saw_is_impossible_unless_counted_up():
    train = [0, 1, 0, 1]
    assert nats(train, [1, 1], 3, add=0) == math.inf
    assert nats(train, [2, 0], 3, add=0) == math.inf  # not even the first of the two was seen
    np.testing.assert_allclose(nats(train, [1, 1], 3, add=1), math.log(4))  # 0 + 1 of 1 + 3
    np.testing.assert_allclose(nats(train, [2, 0], 3, add=1), math.log(3))  # a uniform guess


def test_adding_one_is_the_default():
    train = np.array([0, 1, 0, 1])
    assert count_models.count_bigram(train[:-1], train[1:], 3).add == 1


def test_a_large_vocabulary_needs_no_table_and_does_not_overflow():
    # As a table it would take 80 GB; in int32 the pairs (0, 5) and (42949, 67301) would be one,
    # because 42,949 x 100,000 + 67,301 is 2**32 + 5.
    V, train = 100_000, [0, 5, 0, 7, 42_949, 67_301, 42_949, 67_301, 0, 5]
    np.testing.assert_allclose(nats(train, train, V, 0), by_hand(train, train, V, 0), rtol=1e-12)


def test_every_split_is_asked_of_the_pairs_of_train():
    splits = {"train": dataset.cut_stream(np.array([0, 1, 0, 1, 2]), 3)}
    splits["val"] = dataset.cut_stream(np.array([1, 0, 2]), 2)
    splits["test"] = dataset.skip_gram(np.array([0, 1, 2]), neighbours=1)
    found = count_models.count_bigram_nats(splits, vocab_size=3)
    p = np.array([[1, 3, 1], [2, 1, 2], [1, 1, 1]]) / [[5], [5], [3]]  # one more than was counted
    np.testing.assert_allclose(found["train"], -np.log(p[[0, 1, 0, 1], [1, 0, 1, 2]]).mean())
    np.testing.assert_allclose(found["val"], -np.log(p[[1, 0], [0, 2]]).mean())
    np.testing.assert_allclose(found["test"], -np.log(p[[0, 1, 1, 2], [1, 2, 0, 1]]).mean())


def test_baselines_of_a_corpus(published):
    name = "tinyshakespeare" if published else "indian_names"
    text = corpora.load(DataConfig(name, kind="stream"), seed=0)
    tok = CharTokenizer("".join(sorted(set(text.text))))
    train, val = (tok.encode(text.splits[split]) for split in ("train", "val"))
    best = nats(train, train, tok.vocab_size, 0)
    add_one = nats(train, train, tok.vocab_size, 1)
    held_out = nats(train, val, tok.vocab_size, 1)
    if published:
        assert tok.vocab_size == 65
        np.testing.assert_allclose([best, add_one, held_out], [2.4519, 2.4546, 2.4819], atol=5e-5)
    lists, V = [t.tolist() for t in (train, val)], tok.vocab_size
    expected = [by_hand(lists[0], lists[i], V, add) for i, add in ((0, 0), (0, 1), (1, 1))]
    np.testing.assert_allclose([best, add_one, held_out], expected, rtol=1e-10)


def test_baselines_of_the_names(published):
    text = corpora.known_text("names" if published else "indian_names")[0]
    text = "\n" + text.rstrip("\n") + "\n"
    tok = CharTokenizer("".join(sorted(set(text))))
    tokens, V = tok.encode(text), tok.vocab_size
    both = [nats(tokens, tokens, V, add) for add in (0, 1)]
    listed = tokens.tolist()
    np.testing.assert_allclose(both, [by_hand(listed, listed, V, add) for add in (0, 1)], rtol=1e-9)
    if published:
        assert (V, len(tokens) - 1) == (27, 228_146)
        np.testing.assert_allclose(both, [2.4540, 2.4546], atol=5.1e-5)


# ---- n-grams ------------------------------------------------------------------------------------


def test_the_table_is_the_share_of_each_continuation():
    contexts, nexts = np.array([0, 0, 0, 2]), np.array([1, 1, 4, 3])
    p = np.exp(count_models.count_ngram([(contexts, nexts)], 5, n_contexts=3, add=0.5))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(p[0], np.array([0.5, 2.5, 0.5, 0.5, 1.5]) / 5.5, rtol=1e-6)
    np.testing.assert_allclose(p[1], 1 / 5, rtol=1e-6)  # never seen: a uniform guess
    np.testing.assert_allclose(p[2, 3], 1.5 / 3.5, rtol=1e-6)


def ngram_by_hand(text, tokens, block, V, add, start):
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


def fitted(texts, block, add, items=False):
    """An n-gram counted in the train part of texts: model, parameters, splits, tokenizer."""
    tok = CharTokenizer("".join(sorted(set("".join(texts.values())))))
    model = NGramLanguageModel(tok.vocab_size, block, tok.start_id)
    splits = dataset.build(texts, tok, model, items, window=0 if items else 9)
    return model, count_models.fit_ngram(model, splits["train"], add), splits, tok


@pytest.mark.parametrize("block, add", [(1, 1.0), (2, 0.25)])
def test_the_exact_loss_is_that_of_counting_by_hand(block, add):
    texts = {"train": TEXT[:270], "val": TEXT[270:300]}
    model, params, splits, tok = fitted(texts, block, add)
    both = {name: splits[name].tokens.tolist() for name in ("train", "val")}
    for name, tokens in both.items():
        expected = ngram_by_hand(both["train"], tokens, block, tok.vocab_size, add, tok.start_id)
        found = Evaluator(model, batch_size=5, n_batches=3).exact_loss(params, splits[name])
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_items_are_counted_from_their_own_beginning():
    names = [a + b + c for a, b, c in itertools.product("ab", "cde", "fg")]
    _, params, _, tok = fitted({"train": "\n".join(names) + "\n"}, block=2, add=1.0, items=True)
    table, V, start = params["token_embedding_table"]["embedding"], tok.vocab_size, tok.start_id
    firsts = np.exp(table[start * V + start])  # nothing but the start has been seen
    letters = tok.encode("ab")
    np.testing.assert_allclose(
        firsts[letters].sum(), (len(names) + 2) / (len(names) + V), rtol=1e-6
    )
    # No context holds the end of one name and the beginning of the next.
    f = int(tok.encode("f")[0])
    np.testing.assert_allclose(np.exp(table[f * V + start]), 1 / V, rtol=1e-6)


def test_total_variation_is_half_the_distance_of_the_probabilities():
    a, b = (
        np.log([[0.5, 0.5, 1e-30], [0.2, 0.3, 0.5]]),
        np.log([[1e-30, 0.5, 0.5], [0.2, 0.3, 0.5]]),
    )
    np.testing.assert_allclose(count_models.total_variation(a + 3, b), [0.5, 0], atol=1e-12)


def test_single_tokens_by_counting():
    train_tokens, tokens = np.array([0, 0, 1]), np.array([0, 2])
    counts = count_models.token_counts(train_tokens, 3)
    expected = [-math.log(3 / 6), -math.log(1 / 6)]
    np.testing.assert_allclose(count_models.unigram_nats(counts, tokens), expected)


@pytest.mark.parametrize("part", [7, 2**22])
def test_pairs_are_counted_in_a_table_as_by_sorting(part, monkeypatch):
    monkeypatch.setattr(count_models, "_PART", part)
    rng = np.random.default_rng(5)
    for V in (3, 11, 400):  # the last: most pairs never occur, and some in several parts
        first, second = rng.integers(0, V, (2, 150)) if V < 400 else rng.integers(0, 20, (2, 150))
        pairs, n = count_models._count_pairs(first, second, V)
        expected = np.unique(first * V + second, return_counts=True)
        np.testing.assert_array_equal(pairs, expected[0])
        np.testing.assert_array_equal(n, expected[1])
