"""Texts are cut so that nothing is lost and nothing leaks, and wrong ones are explained."""

import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax.data import splits as corpus
from gptjax.data.splits import DataConfig
from gptjax.errors import UserError

LINES = st.lists(st.text(st.sampled_from("abé \t\r\u2028\x0c"), max_size=4), max_size=40)


@pytest.fixture
def write(tmp_path):
    def to_file(data, name="some text.txt"):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
        return str(path)

    return to_file


@given(text=st.text(min_size=2, max_size=50))
def test_the_two_parts_of_a_stream_are_the_whole_cut_at_nine_tenths(text):
    splits = corpus.split_stream(text)
    assert list(splits) == ["train", "val"]
    assert splits["train"] + splits["val"] == text
    assert len(splits["train"]) == int(0.9 * len(text)) > 0 < len(splits["val"])


@given(lines=LINES, seed=st.integers(0, 2**32))
def test_items_are_dealt_out_once_each_and_none_is_lost(lines, seed):
    kept = [line.rstrip() for line in lines if line.rstrip()]
    distinct = set(kept)
    if len(distinct) < 3:
        with pytest.raises(UserError, match=f"{len(distinct)} distinct items"):
            corpus.split_items("\n".join(lines), seed)
        return
    splits, n_duplicates = corpus.split_items("\n".join(lines), seed)
    assert list(splits) == ["train", "val", "test"]
    assert all(splits.values())
    assert Counter(item for part in splits.values() for item in part) == Counter(distinct)
    assert n_duplicates == len(kept) - len(distinct)
    assert splits == corpus.split_items("\n".join(lines), seed)[0]


def test_items_are_split_eighty_ten_ten_in_an_order_that_only_the_seed_sets():
    text = "\n".join(map(str, range(57)))
    splits = [corpus.split_items(text, seed)[0] for seed in (3, 4)]
    assert [len(part) for part in splits[0].values()] == [47, 5, 5]
    assert splits[0]["test"] != splits[1]["test"]
    assert splits[0]["train"] != sorted(splits[0]["train"], key=int)
    # The same on every numpy and machine, for ever: a checkpoint's validation split stays unseen.
    assert splits[0]["val"] == ["6", "51", "11", "9", "8"]
    assert splits[0]["test"] == ["37", "4", "3", "24", "36"]


@pytest.mark.parametrize("split", [corpus.split_items, corpus.split_as_makemore])
def test_a_negative_seed_is_refused(split):
    with pytest.raises(UserError, match="seed=-1"):
        split("a\nb\nc", -1)


@pytest.mark.parametrize("n", [3, 4, 5, 9, 10, 57])
def test_makemores_split_keeps_what_stands_twice(n):
    lines = [str(i % (n - 1) if n > 3 else i) for i in range(n)]
    splits, n_duplicates = corpus.split_as_makemore("\n".join(lines), 5)
    assert n_duplicates == 0 and all(splits.values())
    assert sorted(sum(splits.values(), [])) == sorted(lines)
    if n >= 10:
        assert [len(part) for part in splits.values()] == [
            int(0.8 * n),
            int(0.9 * n) - int(0.8 * n),
            n - int(0.9 * n),
        ]


def test_makemores_split_is_a_word_in_the_config(published):
    name = "names" if published else "indian_names"
    text = corpus.load(DataConfig(name, split="makemore"), 42)
    whole = corpus.load(DataConfig(name, kind="stream"), 42)
    assert text.sha256 == whole.sha256 and sorted(text.text) == sorted(f"{whole.text.rstrip()}\n")
    if published:
        # Part 2 prints the examples of each split; an example is a letter or the end of a name.
        assert [len(part) for part in text.splits.values()] == [182_625, 22_655, 22_866]


def test_a_file_of_your_own_is_a_stream_and_wins_over_a_name(write):
    path = write("To be, or not to be.\n")
    read = corpus.load(DataConfig(name="no such corpus", path=path), seed=1)
    assert (read.name, read.kind, read.n_items) == ("some text.txt", "stream", None)
    assert read.text == "To be, or not to be.\n"
    assert read.splits["val"] == "e.\n"
    assert path in read.source
    assert read.sha256 == "3db74bcc6cca69db7cf6843ca28644aa93a26c1332de16d6a4f30a5f711c591c"


def test_a_file_of_your_own_can_be_items(write):
    path = write("b\na\n\nb  \n c\nd")
    read = corpus.load(DataConfig(path=path, kind="items"), seed=1)
    assert read.n_items == {"train": 2, "val": 1, "test": 1}
    assert sorted(read.text.split("\n")) == ["", " c", "a", "b", "d"]
    assert all(split.endswith("\n") for split in read.splits.values())
    facts = json.loads(json.dumps(read.facts()))
    assert facts["duplicates"] == 1
    assert facts["items_per_split"] == read.n_items
    assert facts["characters"] == len(read.text) == sum(facts["characters_per_split"].values())


def test_windows_files_read_as_the_same_text(write):
    plain = corpus.load(DataConfig(path=write("naïve\nold\nlines\n")), seed=1)
    for data in (
        b"\xef\xbb\xbf" + "naïve\r\nold\r\nlines\r\n".encode(),
        "naïve\rold\rlines\r".encode(),
    ):
        windows = corpus.load(DataConfig(path=write(data)), seed=1)
        assert (windows.splits, windows.sha256) == (plain.splits, plain.sha256)


def test_a_stream_of_one_character_is_refused(write):
    with pytest.raises(UserError, match="1 character"):
        corpus.load(DataConfig(path=write("a")), seed=1)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "shakespear"}, "did you mean 'shakespeare'"),
        ({"name": "my.txt"}, "data.path"),
        ({"name": None}, "data.name=None"),
        ({"kind": "lines"}, "data.kind='lines' is none of auto, stream, items"),
        ({"path": 7}, "data.path=7"),
    ],
)
def test_a_wrong_setting_is_named(fields, says):
    with pytest.raises(UserError, match=says) as error:
        DataConfig(**fields)
    assert "\n" not in str(error.value)


def test_a_split_must_hold_one_window_and_its_target():
    corpus.check_length("val", n_tokens=9, block_size=8)
    with pytest.raises(UserError) as error:
        corpus.check_length("val", n_tokens=8, block_size=8)
    message = str(error.value)
    for part in ("val split has 8 tokens", "model.block_size=8 needs 9", "at most 7"):
        assert part in message
    with pytest.raises(UserError, match=r"1 tokens.*give more text$"):
        corpus.check_length("test", n_tokens=1, block_size=3)


def test_reading_a_corpus_does_not_load_jax():
    code = "import sys, gptjax.data.splits; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
