"""The names report and the longest copied passage, against searches without a trick."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax.evaluation import memorization
from gptjax.evaluation.memorization import GRAM, longest, sort_items

SPLITS = {"train": "ann\nbea\ncleo\n", "val": "dora\n", "test": "eve\nfay\n"}


def test_items_are_sorted_by_where_they_stand():
    found = sort_items(["eve", "ann", "zoe", "dora", "bea", "an", "ann", ""], SPLITS)
    assert found == {
        "in train": ["ann", "bea", "ann"],
        "held out": ["eve", "dora"],
        "new": ["zoe", "an", ""],
    }


@given(st.text("abc", max_size=12), st.text("abc", max_size=30))
def test_the_longest_passage_is_the_longest_of_all_substrings(text, source):
    found = longest(text, source)
    passages = [text[i:j] for i in range(len(text)) for j in range(i, len(text) + 1)]
    best = max((len(p) for p in passages if p in source), default=0)
    assert len(found) == best and found in text and found in source


@given(
    st.text("ab", min_size=5 * GRAM, max_size=9 * GRAM),
    st.integers(0, 5 * GRAM),
    st.integers(GRAM - 2, 3 * GRAM),
    st.text("abc", max_size=GRAM),
    st.integers(1, 4 * GRAM),
)
def test_long_passages_are_found_wherever_a_source_is_cut(source, begin, n, other, part):
    text = f"{other}c{source[begin : begin + n]}c{other}"
    passages = [text[i:j] for i in range(len(text)) for j in range(i, len(text) + 1)]
    best = max((len(p) for p in passages if p in source), default=0)
    first = next(p for p in passages if len(p) == best and p in source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memorization, "PART", part)
        assert longest(text, source) == first


def test_of_passages_of_one_length_it_is_the_first():
    assert longest("xxab--cdyy", "cd ab") == "ab"
    assert longest("", "abc") == longest("xyz", "abc") == ""
