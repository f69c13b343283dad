"""Texts are cut into rows: each token is predicted once, and no row spans two items."""

import itertools

import numpy as np
import pytest
from item_tokens import END, items_to_tokens

from gptjax.config.schema import TokenizerConfig
from gptjax.data import dataset, tokenizers
from gptjax.data.batching import whole_split
from gptjax.data.dataset import check_lengths, cut, cut_items, cut_stream, skip_gram
from gptjax.errors import UserError


class Reader:
    """What a model says of the rows that it reads."""

    def __init__(self, block_size, lookback=0, slides=False):
        self.block_size, self.lookback, self.slides = block_size, lookback, slides


@pytest.mark.parametrize("n, rows", [(3, [0, 3, 6]), (9, [0, 1, 2, 3, 4, 5, 6, 7, 8]), (11, None)])
def test_a_sample_has_evenly_spread_rows_of_the_split_and_asks_for_no_others(n, rows):
    split = cut_items(items_to_tokens([4, 2, 5, 3, 1, 2, 4, 6, 2, 3]), END, 9)
    rows = list(range(10)) if rows is None else rows
    found = split.sample(n)
    assert found.n_predicted == int(split.count[rows].sum())
    batches, whole = (next(whole_split(s, len(s.first), 1)) for s in (found, split))
    for ours, theirs in zip(batches, whole, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0][rows])


# ---- rows of a run ----------------------------------------------------------------------------


def test_every_split_of_a_run_has_rows_of_one_width():
    tokens = {"train": items_to_tokens([3, 2, 5]), "val": items_to_tokens([7]), "test": None}
    tokens["test"] = items_to_tokens([1])
    splits = cut(tokens, END, Reader(16))
    assert {s.window for s in splits.values()} == {8}  # the longest item of any split, and its end
    assert {name: s.n_predicted for name, s in splits.items()} == {"train": 13, "val": 8, "test": 2}
    assert not any(s.anywhere for s in splits.values())


def test_a_stream_is_cut_at_the_window_or_the_block():
    tokens = {"train": np.arange(50), "val": np.arange(30)}
    for window, expected in ((0, 6), (4, 4)):
        splits = cut(tokens, None, Reader(6, lookback=5, slides=True), window)
        found = {(s.window, s.lookback, s.anywhere) for s in splits.values()}
        assert found == {(expected, 5, True)}


def test_items_longer_than_the_block_continue_in_a_further_row():
    tokens = items_to_tokens([9, 2])
    split = cut({"a": tokens}, END, Reader(4))["a"]
    assert split.window == 4
    assert (split.first.tolist(), split.count.tolist()) == ([0, 4, 8, 10], [4, 4, 2, 3])


@pytest.mark.parametrize(
    "longest, window, lookback", [(63, 64, 0), (64, 64, 2), (20, 21, 0), (200, 64, 2)]
)
def test_a_sliding_model_takes_an_item_whole_up_to_the_longest_row(longest, window, lookback):
    # An item of n tokens has n + 1 predictions; a place for the past is there only when needed.
    tokens = items_to_tokens([longest, 3])
    split = cut({"a": tokens}, END, Reader(3, lookback=2, slides=True))["a"]
    assert (split.window, split.lookback) == (window, lookback)
    assert dataset.LONGEST_SLIDING_ROW == 64


@pytest.mark.parametrize("slides, lookback", [(True, 2), (False, 0)])
def test_items_are_cut_at_a_window_that_is_asked_for(slides, lookback):
    tokens = items_to_tokens([9, 2])
    split = cut({"a": tokens}, END, Reader(3, lookback, slides), window=1)["a"]
    assert (split.window, split.lookback) == (1, lookback) and split.n_predicted == 13
    assert split.first.tolist() == list(range(13)) and (split.count == 1).all()
    batch = next(whole_split(split, batch_size=13, n=1))
    assert batch.w.sum() == 13 and (batch.w.sum(axis=2) == 1).all()
    np.testing.assert_array_equal(batch.y[batch.w > 0], tokens[1:])


def test_a_model_of_one_place_that_does_not_slide_gets_rows_of_one_place():
    tokens = items_to_tokens([9, 2])
    for slides, window in ((False, 1), (True, 10)):
        splits = cut({"a": tokens}, END, Reader(1, slides=slides))
        assert splits["a"].window == window and splits["a"].n_predicted == 13


def test_a_split_must_hold_one_window_and_its_target():
    def splits(**lengths):
        return {name: cut_stream(np.zeros(n, int), window=8) for name, n in lengths.items()}

    check_lengths(splits(train=20, val=9))
    with pytest.raises(UserError) as error:
        check_lengths(splits(train=20, val=8))
    message = str(error.value)
    for part in ("val split has 8 tokens", "model.block_size=8 needs 9", "at most 7"):
        assert part in message
    # The shortest is named: what is true of it is true of the others.
    with pytest.raises(UserError, match=r"test split has 1 tokens.*give more text$"):
        check_lengths(splits(train=5, val=3, test=1))
    lookback = {"val": cut_stream(np.zeros(9, int), window=6, lookback=3)}
    with pytest.raises(UserError, match=r"has 9 tokens, and model.block_size=9 needs 10"):
        check_lengths(lookback)
    check_lengths({"val": cut({"a": items_to_tokens([1])}, END, Reader(9))["a"]})


# ---- a text, encoded and cut ------------------------------------------------------------------


def test_a_stream_is_encoded_and_all_but_its_first_character_counts():
    tok = tokenizers.CharTokenizer("\nabc")
    texts = {"train": "abcabcab", "val": "cab"}
    splits = dataset.build(texts, tok, Reader(block_size=3), items=False)
    assert [tok.decode(split.tokens) for split in splits.values()] == list(texts.values())
    assert [split.n_predicted for split in splits.values()] == [7, 2]
    assert [split.characters for split in splits.values()] == [7, 2]
    first, count, _ = splits["train"].rows(np.arange(splits["train"].n_rows))
    assert (first.tolist(), count.tolist()) == ([0, 3, 6], [3, 3, 1]) and splits["train"].anywhere
    words = tokenizers.WordTokenizer((" ", "abc", "b"))
    split = dataset.build({"train": "abc b"}, words, Reader(2), items=False)["train"]
    assert (split.n_predicted, split.characters) == (2, len(" b"))


def test_items_are_encoded_each_after_an_end_and_every_end_counts():
    tok = tokenizers.CharTokenizer("\n abc")
    text = "ab \n\n  \n c\nabcab"  # white space at an end and blank lines fall away
    split = dataset.build({"train": text}, tok, Reader(block_size=9), items=True)["train"]
    assert tok.decode(split.tokens) == "\nab\n c\nabcab\n"
    assert (split.n_predicted, split.characters) == (12, 12)
    assert split.first.tolist() == [0, 3, 6] and split.count.tolist() == [3, 3, 6]
    assert not split.anywhere


def test_an_item_with_an_unknown_character_is_named_by_its_line():
    tok = tokenizers.CharTokenizer("\nab")
    with pytest.raises(UserError, match=r"^line 3: the character 'c' .* at position 1 "):
        dataset.build({"train": "ab\n\nac\nc"}, tok, Reader(9), items=True)
    with pytest.raises(UserError, match=r"^the character 'c' .* at position 5 "):
        dataset.build({"train": "ab\n\nac\nc"}, tok, Reader(9), items=False)


# ---- skip-gram --------------------------------------------------------------------------------


def test_pairs_are_all_neighbours_on_both_sides():
    split = skip_gram(np.array([5, 6, 7, 8]), neighbours=2)
    pairs = sorted(zip(*(side.tolist() for side in split.pairs()), strict=True))
    near = [(5, 6), (6, 7), (7, 8), (5, 7), (6, 8)]
    assert pairs == sorted(near + [(b, a) for a, b in near])
    assert split.n_predicted == 10
    (whole,) = whole_split(split, batch_size=3, n=4)
    found = zip(whole.x[whole.w > 0].tolist(), whole.y[whole.w > 0].tolist(), strict=True)
    assert sorted(found) == pairs, "what is between two pairs is no pair"


@pytest.mark.parametrize("far", [1, 3, 50])
def test_no_pair_holds_or_spans_the_end_of_an_item(far):
    tokens = np.array([0, 1, 2, 0, 3, 0, 4, 5, 6, 0])
    words, others = skip_gram(tokens, far, end_id=0).pairs()
    items = [{1, 2}, {3}, {4, 5, 6}]
    pairs = list(zip(words.tolist(), others.tolist(), strict=True))
    assert pairs and all(any({a, b} <= item for item in items) for a, b in pairs)
    assert all(a != b for a, b in pairs)


def test_a_text_of_one_word_has_no_pairs():
    for tokens in ([], [5]):
        split = skip_gram(np.array(tokens, np.int32), neighbours=2)
        assert split.n_predicted == 0 and [len(side) for side in split.pairs()] == [0, 0]


def test_what_follows_each_token_is_the_pairs_of_a_text():
    first, second = cut_stream(np.array([5, 6, 7]), window=1).pairs()
    assert first.tolist() == [5, 6] and second.tolist() == [6, 7]


@pytest.mark.parametrize("items", [True, False])
def test_white_space_marks_and_unknown_words_are_passed_over(items):
    lines = ["the king, the crown", "a king!", "(a king) ? the king"] * 10
    text = "\n".join(itertools.chain(lines, ["crown"] * 9))
    tok = tokenizers.build(TokenizerConfig("word", min_count=20), text)
    splits = dataset.build({"a": text}, tok, Reader(1), items, neighbours=3)
    seen = {tok.token_text(id) for side in splits["a"].pairs() for id in np.unique(side)}
    assert seen == {"the", "king", "a"}  # "crown" stands there 19 times
    if items:
        pairs = zip(*splits["a"].pairs(), strict=True)
        pairs = [tuple(map(tok.token_text, pair)) for pair in pairs]
        assert pairs.count(("the", "the")) == 2 * 10, "the crown between them is passed over"
        assert pairs.count(("king", "a")) == 3 * 10, "a king of one line, and two of the other"


def test_a_text_without_two_words_in_reach_is_refused():
    tok = tokenizers.WordTokenizer(("\n", " ", "!", "?", "a", "b", "word"))
    for text, items in (("! ? word ! ?\n" * 20, True), ("a !\nb !\n", True), ("! a !", False)):
        with pytest.raises(UserError, match="the val split has no two words within") as error:
            dataset.build({"train": "a b", "val": text}, tok, Reader(1), items, neighbours=3)
        assert "train.neighbours=3: give more text, or raise" in str(error.value)
