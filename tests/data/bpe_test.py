"""Byte pairs: learnt as the paper says, cut anywhere without a difference, refused where unsafe."""

import _thread
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptjax.config.schema import TokenizerConfig
from gptjax.data import bpe, tokenizers
from gptjax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PARAGRAPH = (
    "the wheat grew high where the weather was warm; whether the whale knew that\n"
    "is another matter, and the weaver whistled, whatever the weather, there and then\n"
) * 3
# White space of all kinds, letters of all widths, marks, what looks like an end, half of it.
AWKWARD = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\x0b",
    "\x1c",
    "\x85",
    "\xa0",
    "\u2003",
    "\u3000",
    "\u180e",
]
AWKWARD += [
    "a",
    "the",
    "I'll",
    "'s",
    "7",
    "é",
    "e\u0301",
    "€",
    "漢字",
    "😀",
    "👩‍👧",
    "\u200d",
    "\ufeff",
]
AWKWARD += ["\x00", "\x7f", "<|endoftext|>", "<|endof", "�", "Ġ", "_", "!?"]
TEXT = st.lists(st.sampled_from(AWKWARD) | st.characters(exclude_categories=["Cs"]), max_size=40)
TEXT = TEXT.map("".join)
LEARNT = bpe.train([PARAGRAPH + "é€😀漢字 " * 9], 301)


def learnt_by_hand(text, vocab_size):
    """The pairs of a text of letters, spaces and new lines, by the loop of the paper."""
    words = Counter(re.findall(r" ?[a-z]+| ?[;,]+|\s+(?!\S)|\s+", text))
    words = {tuple(word.replace(" ", "␣").replace("\n", "N")): n for word, n in words.items()}
    order = {char: i for i, char in enumerate(sorted(bpe.BYTE_OF_CHAR))}
    order |= {"␣": order["Ġ"], "N": order["Ċ"]}
    merges = []
    while len(merges) < vocab_size - 257:
        pairs = Counter()
        for word, n in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += n
        # The most frequent one; of equal ones that of the earliest tokens.
        best = min(pairs, key=lambda p: (-pairs[p], order[p[0]], order[p[1]]), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        order.setdefault("".join(best), len(order))
        joined = {}
        for word, n in words.items():
            new, i = [], 0
            while i < len(word):
                if word[i : i + 2] == best:
                    new.append("".join(best))
                    i += 2
                else:
                    new.append(word[i])
                    i += 1
            joined[tuple(new)] = joined.get(tuple(new), 0) + n
        words = joined
    return [tuple(part.replace("N", r"\n") for part in pair) for pair in merges]


@settings(max_examples=40)
@given(text=st.text("ab ;\n", min_size=1, max_size=60), n=st.integers(257, 290))
@example(text=PARAGRAPH, n=341)
def test_the_pairs_are_those_of_the_papers_loop(text, n):
    found = bpe.train([text], n)
    assert found.merges == learnt_by_hand(text, n)
    assert found.vocab_size == 257 + len(found.merges) <= n
    assert found.end_id == found.start_id == found.vocab_size - 1
    assert found.token_text(found.end_id) == "<|endoftext|>"
    assert found.decode([found.begin_id]) == "\n"


def test_few_texts_make_fewer_tokens_than_asked_for():
    assert bpe.train(["ab"], 700).vocab_size == 257
    assert 257 < bpe.train([PARAGRAPH], 7000).vocab_size < 500


@given(text=TEXT)
def test_any_text_comes_back_whatever_the_tokens_were_learnt_from(text):
    ids = LEARNT.encode(text)
    assert ids.dtype == np.int32 and LEARNT.decode(ids) == text
    assert b"".join(map(LEARNT.token_bytes, ids.tolist())) == text.encode()
    assert all("\n" not in LEARNT.token_text(id) for id in ids)


@settings(max_examples=300)
@given(
    text=TEXT, size=st.integers(1, 9), parts=st.integers(1, 4), cuts=st.lists(st.integers(0, 99))
)
def test_a_text_in_parts_has_the_tokens_of_the_whole(text, size, parts, cuts):
    whole = LEARNT._library.encode(text, add_special_tokens=False).ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "_PART", size)
        patch.setattr(bpe, "_PARTS", parts)
        assert "".join(bpe.parts(text)) == text
        assert LEARNT.encode(text).tolist() == whole
    ends = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(ends)]
    again = list(bpe.cut_again(pieces))
    assert "".join(again) == text
    assert [id for piece in again for id in LEARNT.encode(piece)] == whole


def test_a_long_text_is_really_cut(monkeypatch):
    monkeypatch.setattr(bpe, "_PART", 50)
    assert len(list(bpe.parts(PARAGRAPH))) > 5 and len(list(bpe.parts("a" * 1000))) == 1
    assert len(list(bpe.cut_again([PARAGRAPH[:100], PARAGRAPH[100:]]))) == 3
    begun = time.process_time()
    assert list(bpe.cut_again(["a" + " " * 300_000])) == ["a", " " * 300_000]
    assert time.process_time() - begun < 5, "not in the square of the length"


def test_the_same_text_gives_the_same_tokens_in_any_process_and_however_it_is_cut(monkeypatch):
    text = (ROOT / "README.md").read_text("utf-8") + "".join(map(chr, range(0x3B0, 0x600)))
    found = [bpe.train([text], 333), bpe.train([text], 333)]
    monkeypatch.setattr(bpe, "_PART", 97)
    found.append(bpe.train(bpe.parts(text), 333))
    code = (
        "import sys; from gptjax.data import bpe;"
        "sys.stdout.buffer.write(bpe.train([sys.stdin.buffer.read().decode()], 333)"
        ".tokenizer_json.encode())"
    )
    for parallel in ("false", "true"):
        env = os.environ | {"TOKENIZERS_PARALLELISM": parallel, "PYTHONHASHSEED": "7"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=text.encode(),
            env=env,
            cwd=ROOT,
            capture_output=True,
        )
        found.append(bpe.read(done.stdout.decode()))
    assert found[0].vocab_size == 333 and all(one == found[0] for one in found)


@given(ids=st.lists(st.integers(0, 300), max_size=30), cuts=st.sets(st.integers(1, 29)))
def test_any_ids_decode_in_pieces_to_what_they_are_together(ids, cuts):
    for tok, ids_T in ((LEARNT, ids), (tokenizers.ByteTokenizer(), [id % 256 for id in ids])):
        whole, decode = tok.decode(ids_T), tok.decoder()
        ends = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
        told = ""
        for a, b in itertools.pairwise(ends):
            told += decode(np.array(ids_T[a:b], np.int32), b == len(ids))
            assert whole.startswith(told), "what is told is never taken back"
        assert told == whole


def test_a_token_that_ends_in_mid_character_is_held_back_with_no_more_than_that():
    tok = bpe.train(["xé xé xé\n" * 9], 258)
    half, rest = (
        next(id for id in range(258) if tok.token_bytes(id) == data) for data in (b"x\xc3", b"\xa9")
    )
    decode = tok.decoder()
    assert [decode(np.array([id]), False) for id in (half, rest, half)] == ["x", "é", "x"]
    assert decode(np.array([half]), True) == "\ufffdx\ufffd"


@given(ids=st.lists(st.integers(0, 300), max_size=20))
def test_ids_decode_as_the_library_decodes_them(ids):
    assert LEARNT.decode(ids) == LEARNT._library.decode(ids, skip_special_tokens=False)


def test_every_byte_is_written_as_the_library_writes_it():
    from tokenizers import pre_tokenizers

    assert set(bpe.BYTE_OF_CHAR) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(bpe.BYTE_OF_CHAR.values()) == list(range(256))


def test_items_stand_between_ends_of_text():
    items = ["the weaver", "é", "then"]
    ids, end = LEARNT.encode_items(items), LEARNT.end_id
    assert [LEARNT.decode(p) for p in np.split(ids, np.flatnonzero(ids == end))] == [
        "",
        *(f"<|endoftext|>{item}" for item in items),
        "<|endoftext|>",
    ]
    assert LEARNT.encode_items([]).tolist() == [end]


def test_tokens_are_shown_on_one_line_with_their_spaces():
    tok = bpe.train(["the the the\n\n"] * 3, 270)
    shown = [tok.token_text(id) for id in tok.encode(" the\n\té\x07")]
    assert shown == ["␣the", r"\n", r"\t", r"\xc3", r"\xa9", r"\x07"]
    assert tok.as_shown(" the") == "␣the" and tok.is_word(tok.encode(" the")[0])
    assert not tok.is_word(tok.encode("\n")[0]) and tok.close_up("a b") == "a b"


def test_half_a_character_is_refused_before_anything_is_learnt_or_encoded():
    for ask in (lambda: LEARNT.encode("ab\ud800"), lambda: bpe.train(["ab\ud800"], 300)):
        with pytest.raises(UserError, match="surrogate"):
            ask()


def test_ctrl_c_is_heard_while_pairs_are_learnt():
    threading.Timer(0.3, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        bpe._heard(lambda: time.sleep(600))


# ---- tokenizer.json of others -----------------------------------------------------------------


def saved():
    return json.loads(LEARNT.tokenizer_json)


def test_a_tokenizer_json_survives_itself():
    assert bpe.read(LEARNT.tokenizer_json) == LEARNT == bpe.read(json.dumps(saved(), indent=1))
    assert tokenizers.from_json(json.loads(json.dumps(LEARNT.to_json()))) == LEARNT


def test_the_older_way_to_write_gpt2s_is_read():
    old = saved()
    del old["model"]["type"], old["pre_tokenizer"]["use_regex"]
    old["model"]["merges"] = [pair.split(" ") for pair in old["model"]["merges"]]
    old["model"] |= {"unk_token": "<|endoftext|>", "continuing_subword_prefix": "", "dropout": None}
    old["model"]["vocab"]["<|endoftext|>"] = old["added_tokens"][0]["id"]
    old["added_tokens"][0]["normalized"] = True
    old["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    old["padding"], old["truncation"] = {"strategy": "BatchLongest"}, {"max_length": 3}
    found = bpe.read(json.dumps(old))
    assert found.vocab_size == LEARNT.vocab_size and found.end_id == LEARNT.end_id
    text = PARAGRAPH + "<|endoftext|>é"
    np.testing.assert_array_equal(found.encode(text), LEARNT.encode(text))
    old["post_processor"] = {"type": "TemplateProcessing"}  # as transformers saves it
    assert bpe.read(json.dumps(old)) == found


def test_without_an_end_of_text_another_special_token_or_a_new_line_ends_one():
    other = saved()
    other["added_tokens"][0]["content"] = "</s>"
    assert bpe.read(json.dumps(other)).end_id == LEARNT.end_id
    del other["added_tokens"][0]
    tok = bpe.read(json.dumps(other))
    assert tok.encode("\n").tolist() == [tok.end_id] == [tok.start_id]


def without(path, key):
    def change(said):
        del path(said)[key]

    return change


def having(path, **values):
    return lambda said: path(said).update(values)


def a_hole(said):
    said["model"]["vocab"]["Ġthe"] = 5000


def no_byte(said):
    vocab = said["model"]["vocab"]
    vocab["ĊĊĊ"] = vocab.pop("Ċ")


MODEL, TOP = (lambda said: said["model"]), (lambda said: said)
ADDED = lambda said: said["added_tokens"][0]  # noqa: E731
HOSTILE = [
    (having(MODEL, type="WordPiece"), "'WordPiece'"),
    (without(TOP, "model"), "KeyError 'model'"),
    *((without(MODEL, name), f"KeyError '{name}'") for name in ("vocab", "merges")),
    (having(MODEL, vocab=[1, 2]), "AttributeError"),
    (having(MODEL, vocab={"a": 0}), "no token of the byte|ids are not"),
    (having(MODEL, dropout=0.1), "dropout"),
    (having(MODEL, end_of_word_suffix="</w>"), "</w>"),
    (having(MODEL, ignore_merges=True), "ignore_merges"),
    (having(MODEL, byte_fallback=True), "byte_fallback"),
    (having(MODEL, merges=["t q"]), "'t q' names 'tq', which is no token"),
    (having(MODEL, merges=["zz the"]), "names 'zz'"),
    (having(MODEL, merges=[["t", "h", "e"]]), "no token"),
    (having(MODEL, merges=[3]), "AttributeError"),
    (having(TOP, normalizer={"type": "NFC"}), "normalizer"),
    (having(TOP, pre_tokenizer={"type": "Whitespace"}), "'Whitespace'"),
    (having(TOP, pre_tokenizer=None), "pre_tokenizer"),
    (having(TOP, decoder=None), "decoder"),
    (having(lambda said: said["pre_tokenizer"], add_prefix_space=True), "adds a space"),
    (having(lambda said: said["pre_tokenizer"], use_regex=False), "does not cut"),
    (having(ADDED, id=9000), "id 300 is missing"),
    (having(ADDED, id=7), "twice"),
    (having(ADDED, id=True), "id True"),
    (having(ADDED, content="a"), "two ids"),
    (having(ADDED, content="ĠaĠa"), "as tokens of bytes are"),
    (having(ADDED, content=""), "empty"),
    (having(ADDED, content="a b"), "over a space"),
    (having(ADDED, content="x" * 2000), "too long"),
    (having(ADDED, content="\ud800"), "is none"),
    (having(ADDED, lstrip=True), "around it"),
    (having(TOP, added_tokens=[7]), "TypeError"),
    (a_hole, "missing or twice"),
    (no_byte, "byte 0x0a"),
    (having(lambda said: said["model"]["vocab"], **{"the €": 301}), "missing or twice"),
]


@pytest.mark.parametrize("change, why", HOSTILE)
def test_a_hostile_tokenizer_json_is_refused_in_one_line(change, why):
    said = saved()
    change(said)
    with pytest.raises(UserError, match=why) as error:
        bpe.read(json.dumps(said))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_tokens_that_are_no_bytes_are_refused():
    for token in ("the €", "", "x" * 1500):
        said = saved()
        vocab = said["model"]["vocab"]
        name = list(vocab)[-1]
        said["model"]["merges"] = []
        vocab[token] = vocab.pop(name)
        with pytest.raises(UserError, match="not written in bytes"):
            bpe.read(json.dumps(said))


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "7", "null", "NaN", '"a"', "[]", "1" * 9999]
)
def test_what_is_no_json_of_a_tokenizer_is_refused_in_one_line(text):
    with pytest.raises(UserError, match="this tokenizer.json"):
        bpe.read(text)


def test_a_tokenizer_json_that_is_too_large_is_refused_unread(monkeypatch):
    said = saved()
    monkeypatch.setattr(bpe, "MOST_JSON", len(LEARNT.tokenizer_json) - 1)
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(UserError, match="are the most"):
        bpe.read(LEARNT.tokenizer_json)
    with pytest.raises(UserError, match="are the most"):
        bpe.of_json(said)
    monkeypatch.setattr(bpe, "MOST_TOKENS", 300)
    with pytest.raises(UserError, match="301 tokens, and 300 are the most"):
        bpe.of_json(said)


@pytest.mark.parametrize(
    "fields, why",
    [
        (("char", 1, 300), "must be 0 unless tokenizer.kind='bpe'"),
        (("word", 1, 300), "must be 0 unless tokenizer.kind='bpe'"),
        (("bpe", 1, 256), "at least 257"),
        (("bpe", 2, 300), "tokenizer.kind='word'"),
    ],
)
def test_sizes_that_do_not_fit_the_kind_are_refused(fields, why):
    with pytest.raises(UserError, match=why):
        TokenizerConfig(*fields)


def test_without_a_size_there_are_a_thousand_tokens():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tokenizers.build(TokenizerConfig("bpe"), text).vocab_size == 1024
