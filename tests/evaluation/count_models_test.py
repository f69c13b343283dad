"""The counted bigram is what counting pair by pair gives, and what others published."""

import math
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gptjax.data import corpora as texts
from gptjax.data import splits as corpus
from gptjax.data import tokenizers as tokenizer
from gptjax.data.splits import DataConfig
from gptjax.evaluation import count_models as counts


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
    return counts.count_bigram(train, vocab_size, add).nats(tokens)


TOKENS = st.lists(st.integers(0, 4), min_size=2, max_size=30)


@given(train=TOKENS, tokens=TOKENS, add=st.sampled_from([0.0, 0.5, 1.0]))
def test_it_is_the_count_pair_by_pair(train, tokens, add):
    np.testing.assert_allclose(
        nats(train, tokens, 7, add), by_hand(train, tokens, 7, add), rtol=1e-12
    )


def test_a_pair_that_training_never_saw_is_impossible_unless_counted_up():
    train = [0, 1, 0, 1]
    assert nats(train, [1, 1], 3, add=0) == math.inf
    assert nats(train, [2, 0], 3, add=0) == math.inf  # not even the first of the two was seen
    np.testing.assert_allclose(nats(train, [1, 1], 3, add=1), math.log(4))  # 0 + 1 of 1 + 3
    np.testing.assert_allclose(nats(train, [2, 0], 3, add=1), math.log(3))  # a uniform guess


def test_adding_one_is_the_default():
    train = np.array([0, 1, 0, 1])
    assert counts.count_bigram(train, 3).add == 1


def test_a_large_vocabulary_needs_no_table_and_does_not_overflow():
    # As a table it would take 80 GB; in int32 the pairs (0, 5) and (42949, 67301) would be one,
    # because 42,949 x 100,000 + 67,301 is 2**32 + 5.
    V, train = 100_000, [0, 5, 0, 7, 42_949, 67_301, 42_949, 67_301, 0, 5]
    np.testing.assert_allclose(nats(train, train, V, 0), by_hand(train, train, V, 0), rtol=1e-12)


def test_yardsticks_of_a_corpus(published):
    name = "tinyshakespeare" if published else "indian_names"
    text = corpus.load(DataConfig(name, kind="stream"), seed=0)
    tok = tokenizer.CharTokenizer("".join(sorted(set(text.text))))
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


def test_yardsticks_of_the_names(published):
    text = texts.known_text("names" if published else "indian_names")[0]
    text = "\n" + text.rstrip("\n") + "\n"
    tok = tokenizer.CharTokenizer("".join(sorted(set(text))))
    tokens, V = tok.encode(text), tok.vocab_size
    both = [nats(tokens, tokens, V, add) for add in (0, 1)]
    listed = tokens.tolist()
    np.testing.assert_allclose(both, [by_hand(listed, listed, V, add) for add in (0, 1)], rtol=1e-9)
    if published:
        assert (V, len(tokens) - 1) == (27, 228_146)
        np.testing.assert_allclose(both, [2.4540, 2.4546], atol=5.1e-5)
