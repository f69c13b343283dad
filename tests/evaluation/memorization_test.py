"""The names report and the longest copied passage, against searches without a trick."""

from hypothesis import given
from hypothesis import strategies as st

from gptjax.evaluation.memorization import longest, sort_items

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


def test_of_passages_of_one_length_it_is_the_first():
    assert longest("xxab--cdyy", "cd ab") == "ab"
    assert longest("", "abc") == longest("xyz", "abc") == ""
