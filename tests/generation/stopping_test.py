"""One row as it grows: what is sure of its text, where it ends, and why."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gptjax.data import bpe
from gptjax.data.tokenizers import ByteTokenizer, CharTokenizer
from gptjax.generation.stopping import RowText

BYTES, CHARS = ByteTokenizer(), CharTokenizer("\nabcdé")
PAIRS = bpe.train(["aé€😀 €é a€😀é €a " * 9], 281)


def look_at(tok, text, ends, stop=(), items=False, prompt=""):
    """The pieces that became sure when so many tokens of ``text`` were there, and the sample."""
    given = tok.encode(prompt)
    ids = np.concatenate([given, tok.encode(text)])
    row = RowText(tok, prompt, given, stop, items)
    told, begin = [], len(given)
    for end in ends:
        new = slice(begin, len(given) + end)
        told.append(row.look(ids[new], np.arange(len(ids))[new] / -8, end == ends[-1]))
        begin = new.stop
    return told, row.sample()


def test_what_is_made_is_told_once_and_the_prompt_never():
    told, sample = look_at(CHARS, "abcda", (2, 2, 3, 5), prompt="dd")
    assert told == ["ab", "", "c", "da"]
    assert (sample.prompt, sample.text, sample.why) == ("dd", "abcda", "length")
    assert sample.ids == tuple(CHARS.encode("abcda"))
    assert sample.log_probs == (-0.25, -0.375, -0.5, -0.625, -0.75)


def test_a_character_half_made_is_held_back():
    assert look_at(BYTES, "aé", (1, 2, 3))[0] == ["a", "", "é"]
    assert look_at(BYTES, "aé", (2,))[0] == ["a\ufffd"]  # nothing more will come


def test_the_beginning_of_a_stop_string_is_held_back():
    told, sample = look_at(CHARS, "abcabd", (1, 2, 3, 5, 6), stop=("abd", "ca"))
    assert told == ["", "", "ab", "", ""]
    assert (sample.text, sample.why, len(sample.ids), len(sample.log_probs)) == ("ab", "stop", 2, 2)
    told, sample = look_at(CHARS, "ababc", (2, 4, 5), stop=("abd",))
    assert told == ["", "ab", "abc"] and sample.why == "length"
    # Of two beginnings of one stop string the longer is held back.
    told, sample = look_at(CHARS, "aab", (1, 2, 3), stop=("aab",))
    assert told == ["", "", ""] and (sample.text, sample.why) == ("", "stop")


def test_an_item_ends_at_its_end_token_and_a_text_does_not():
    told, sample = look_at(CHARS, "ab\n", (1, 3), items=True)
    assert told == ["a", "b"] and (sample.text, sample.why) == ("ab", "end")
    assert sample.ids == tuple(CHARS.encode("ab")) and len(sample.log_probs) == 2
    told, sample = look_at(CHARS, "ab\n", (1, 3))
    assert told == ["a", "b\n"] and (sample.text, sample.why) == ("ab\n", "length")


@pytest.mark.parametrize("items, end_id", [(True, 0), (False, None)])
def test_only_a_row_of_items_has_an_end_token(items, end_id):
    assert RowText(CHARS, "", CHARS.encode(""), (), items).end_id == end_id


def test_after_its_end_a_row_says_no_more():
    row = RowText(CHARS, "", CHARS.encode("")[:0], ("b",), False)
    ids, log_probs = CHARS.encode("abcd"), np.zeros(4)
    assert row.why == "" and row.look(ids[:2], log_probs[:2], False) == "a" and row.why == "stop"
    before = row.sample()
    assert row.look(ids[2:], log_probs[2:], True) == "" and row.sample() == before


@given(
    made=st.lists(st.sampled_from(list("aé€😀".encode()) + [0x80, 0xC3, 0xF0]), max_size=30),
    stop=st.lists(st.sampled_from(["a", "é", "a€", "é😀", "\ufffd", "\ufffda", "aé€"]), max_size=2),
    cuts=st.sets(st.integers(1, 29)),
    tok=st.sampled_from([BYTES, PAIRS]),
)
@example(made=list("aé€b".encode()), stop=["é", "aé€"], cuts={3}, tok=BYTES)
@example(made=list("aé€b".encode()), stop=["aé€", "€"], cuts={5}, tok=BYTES)
def test_whatever_bytes_come_and_whenever_one_looks_the_text_is_one(made, stop, cuts, tok):
    if tok is PAIRS:  # tokens that end, and begin, in the middle of characters
        made = [(7 * id) % PAIRS.vocab_size for id in made]

    def watch(cuts):
        ids = np.array(made, np.int32)
        row = RowText(tok, "", ids[:0], tuple(stop), items=False)
        told, begin = "", 0
        for end in sorted(c for c in cuts if c < len(made)) + [len(made)]:
            told += row.look(ids[begin:end], np.zeros(end - begin), end == len(made))
            begin = end
        return told, row.sample()

    told, sample = watch(cuts)
    whole, plain = watch(())
    assert told == sample.text == plain.text == whole
    assert tok.decode(sample.ids).startswith(sample.text)
    expected = tok.decode(made)
    complete = [(expected.find(s) + len(s), expected.find(s)) for s in stop if s in expected]
    assert sample.text == expected[: min(complete, default=(None, None))[1]]
