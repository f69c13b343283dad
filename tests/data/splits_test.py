"""Texts are cut so that nothing is lost and nothing leaks from one split into another."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax.data.splits import split_as_makemore, split_items, split_stream
from gptjax.errors import UserError

LINES = st.lists(st.text(st.sampled_from("abé \t\r\u2028\x0c"), max_size=4), max_size=40)


@given(text=st.text(min_size=2, max_size=50))
def test_the_two_parts_of_a_stream_are_the_whole_cut_at_nine_tenths(text):
    splits = split_stream(text)
    assert list(splits) == ["train", "val"]
    assert splits["train"] + splits["val"] == text
    assert len(splits["train"]) == int(0.9 * len(text)) > 0 < len(splits["val"])


@given(lines=LINES, seed=st.integers(0, 2**32))
def test_items_are_dealt_out_once_each_and_none_is_lost(lines, seed):
    kept = [line.rstrip() for line in lines if line.rstrip()]
    distinct = set(kept)
    if len(distinct) < 3:
        with pytest.raises(UserError, match=f"{len(distinct)} distinct items"):
            split_items("\n".join(lines), seed)
        return
    splits, n_duplicates = split_items("\n".join(lines), seed)
    assert list(splits) == ["train", "val", "test"]
    assert all(splits.values())
    assert Counter(item for part in splits.values() for item in part) == Counter(distinct)
    assert n_duplicates == len(kept) - len(distinct)
    assert splits == split_items("\n".join(lines), seed)[0]


def test_items_are_split_eighty_ten_ten_in_an_order_that_only_the_seed_sets():
    text = "\n".join(map(str, range(57)))
    splits = [split_items(text, seed)[0] for seed in (3, 4)]
    assert [len(part) for part in splits[0].values()] == [47, 5, 5]
    assert splits[0]["test"] != splits[1]["test"]
    assert splits[0]["train"] != sorted(splits[0]["train"], key=int)
    # The same on every numpy and machine, for ever: a checkpoint's validation split stays unseen.
    assert splits[0]["val"] == ["6", "51", "11", "9", "8"]
    assert splits[0]["test"] == ["37", "4", "3", "24", "36"]


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_too_short_to_be_split_is_refused(text):
    with pytest.raises(UserError, match=f"the text has {len(text)} character"):
        split_stream(text)


@pytest.mark.parametrize("split", [split_items, split_as_makemore])
def test_a_negative_seed_is_refused(split):
    with pytest.raises(UserError, match="seed=-1"):
        split("a\nb\nc", -1)


@pytest.mark.parametrize("n", [3, 4, 5, 9, 10, 57])
def test_makemores_split_keeps_what_stands_twice(n):
    lines = [str(i % (n - 1) if n > 3 else i) for i in range(n)]
    splits, n_duplicates = split_as_makemore("\n".join(lines), 5)
    assert n_duplicates == 0 and all(splits.values())
    assert sorted(sum(splits.values(), [])) == sorted(lines)
    if n >= 10:
        assert [len(part) for part in splits.values()] == [
            int(0.8 * n),
            int(0.9 * n) - int(0.8 * n),
            n - int(0.9 * n),
        ]
