"""Tokenizers give every text back, survive JSON, and explain what they cannot encode."""

import contextlib
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax.config.schema import TOKENIZERS, TokenizerConfig
from gptjax.data import plain_tokenizers, tokenizers
from gptjax.data.tokenizers import ByteTokenizer, CharTokenizer, WordTokenizer
from gptjax.errors import UserError

# Any text that UTF-8 can express: all of Unicode but lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def build(kind, text, min_count=1):
    return tokenizers.build(TokenizerConfig(kind, min_count), text)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=TEXT)
def test_decode_gives_back_what_encode_was_given_also_after_json(kind, text):
    tok = build(kind, text)
    again = tokenizers.from_json(json.loads(json.dumps(tok.to_json())))
    ids_T = tok.encode(text)
    assert ids_T.dtype == np.int32 and ids_T.ndim == 1
    assert ids_T.min() >= 0 and ids_T.max() < tok.vocab_size
    assert tok.decode(ids_T) == text
    assert again == tok
    assert again.decode(again.encode(text).tolist()) == text


@given(text=TEXT, other=TEXT)
def test_words_outside_the_vocabulary_become_unk_and_never_fail(text, other):
    tok = build("word", text)
    ids_T = tok.encode(other)
    shown = [tok.token_text(id) for id in ids_T]
    assert tok.token_text(0) == "<unk>"
    assert ("<unk>" in shown) == (tok.decode(ids_T) != other)


@given(ids=st.lists(st.integers(0, 255), max_size=9))
def test_any_bytes_decode_even_when_they_are_no_utf8(ids):
    assert ByteTokenizer().decode(ids) == bytes(ids).decode("utf-8", errors="replace")


def test_the_char_vocabulary_is_sorted_as_in_the_notes():
    tok = build("char", "hello\nworld")
    assert tok.vocabulary == "\ndehlorw"
    assert tok.encode("hold").tolist() == [3, 5, 4, 1]
    assert tok.start_id == 0


def test_words_are_whole_also_with_apostrophes_and_indic_marks():
    text = "Don't stop,  नमस्ते—world_2!"
    tok = build("word", text)
    shown = [tok.token_text(id) for id in tok.encode(text)]
    assert shown == ["Don't", " ", "stop", ",", " ", " ", "नमस्ते", "—", "world_2", "!"]
    assert tok.pieces == tuple(sorted(set(shown)))


def test_min_count_keeps_exactly_the_words_that_are_frequent_enough():
    tok = build("word", "a a a b b c", min_count=2)
    assert tok.pieces == (" ", "a", "b")
    assert tok.decode(tok.encode("c a")) == "<unk> a"


@pytest.mark.parametrize(
    ("kind", "text", "start"),
    [
        *(("char", "ab\n!", 0), ("char", "b\t\na", 1), ("char", "ba", 0)),
        *(("word", "b\t\na", 2), ("word", "ba", 0), ("byte", "ba", 10)),
    ],
)
def test_the_start_token_is_the_new_line_where_there_is_one(kind, text, start):
    assert build(kind, text).start_id == start


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", ["ab c\n", "ab c"])
def test_the_token_that_ends_an_item_begins_the_next(kind, text):
    tok = build(kind, text)
    assert tok.end_id == tok.start_id
    if kind == "bpe":
        assert tok.token_text(tok.end_id) == "<|endoftext|>"
    elif "\n" in text:
        assert tok.encode("\n").tolist() == [tok.end_id]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_only_words_have_a_token_for_all_the_unknown_ones(kind):
    tok = build(kind, "ab c\n")
    assert tok.has_words == (kind == "word")
    if kind == "word":
        assert tok.unknown_id == 0 and tok.encode("ab zz c").tolist().count(tok.unknown_id) == 1
        assert tok.token_text(tok.unknown_id) == "<unk>"
    else:
        assert tok.unknown_id is None


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("word", "Don't stop, नमस्ते 7_ _x!\n", {"Don't", "stop", "नमस्ते", "7_"}),
        ("char", "aé7, _\n", {"a", "é", "7"}),
        ("byte", "", set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")),
    ],
)
def test_a_word_begins_with_a_letter_or_a_digit(kind, text, words):
    tok = ByteTokenizer() if kind == "byte" else build(kind, text)
    found = {tok.token_text(id) for id in range(tok.vocab_size) if tok.is_word(id)}
    assert found == words  # so neither <unk> nor white space nor a mark is one


def test_a_space_is_closed_up_only_where_it_is_no_token():
    assert build("char", "abi\n").close_up(" a b\ni ") == "ab\ni"
    for kind, text in (("char", "a b"), ("word", "ab"), ("word", "a b"), ("byte", "ab")):
        assert build(kind, text).close_up(" a b\ni ") == " a b\ni "


def test_an_unknown_character_is_named_with_its_place_and_the_vocabulary():
    with pytest.raises(UserError) as error:
        build("char", "abc\n").encode("ab€")
    message = str(error.value)
    for part in ("'€'", "U+20AC", "position 2", r"'\nabc'", "tokenizer.kind='byte'"):
        assert part in message
    assert "\n" not in message


@given(known=TEXT, text=st.text(st.characters(), max_size=9))
def test_the_first_unknown_character_is_refused_wherever_its_code_lies(known, text):
    tok = build("char", known)
    unknown = [i for i, char in enumerate(text) if char not in known]
    if not unknown:
        assert tok.decode(tok.encode(text)) == text
        return
    with pytest.raises(UserError, match=f"position {unknown[0]} ") as error:
        tok.encode(text)
    assert f"U+{ord(text[unknown[0]]):04X}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("code", [0x61 + 0xEB, 0x61 + 2**8, 0x61 + 2**16, 0x10FFFF])
def test_an_unknown_code_never_passes_for_a_known_one(code):
    assert len(build("char", "aé")._id_of_code) == 0xEB
    with pytest.raises(UserError, match=f"U\\+{code:04X}"):
        build("char", "aé").encode("é" + chr(code))


def test_a_large_vocabulary_is_shortened_in_the_message():
    with pytest.raises(UserError) as error:
        build("char", "".join(map(chr, range(0x4E00, 0x5200)))).encode("a")
    assert "1024 characters" in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_half_a_character_is_refused_and_empty_text_too(kind):
    with pytest.raises(UserError, match="surrogate"):
        build(kind, "ab\ud800")
    with pytest.raises(UserError, match="empty"):
        build(kind, "")


def test_bytes_of_half_a_character_are_refused():
    with pytest.raises(UserError, match=r"'\\udfff', at position 1"):
        ByteTokenizer().encode("a\udfff")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_empty_text_and_no_ids_are_each_others_image(kind):
    tok = build(kind, "xyz")
    assert tok.encode("").tolist() == [] and tok.encode("").dtype == np.int32
    assert tok.decode([]) == ""


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("id", [-1, 257, 10**6])
def test_an_id_outside_the_vocabulary_is_refused(kind, id):
    with pytest.raises(UserError, match=f"token id {id} is outside"):
        build(kind, "xyz").decode([1, id])


def test_one_token_is_shown_on_one_line():
    assert build("char", "a\n").token_text(0) == r"\n"
    assert build("word", "a\n é").token_text(1) == r"\n"
    shown = [ByteTokenizer().token_text(id) for id in (10, 65, 127, 128, 226)]
    assert shown == [r"\n", "A", r"\x7f", r"\x80", r"\xe2"]


def test_a_min_count_that_leaves_no_word_says_how_frequent_words_are():
    with pytest.raises(UserError, match="occurs 3 times"):
        build("word", "a,a,a", min_count=4)


@pytest.mark.parametrize(
    "data",
    [
        *(
            None,
            7,
            "char",
            [],
            {},
            {"kind": "bpe"},
            {"kind": "bpe", "tokenizer_json": {}},
            {"kind": ["char"]},
            {1: 2},
        ),
        *({"kind": "char"}, {"kind": "byte", "vocabulary": ["a"]}),
        {"kind": "char", "vocabulary": ["a"], "code": "import os"},
        *({"kind": "char", "vocabulary": v} for v in ("ab", {}, [], [7], [""], ["ab"], ["a", "a"])),
        *({"kind": "char", "vocabulary": v} for v in (["\ud800"], ["a", None], [["a"]])),
        *({"kind": "word", "vocabulary": v} for v in ([""], [None], ["ab", "ab"], ["a\udc00"])),
    ],
)
def test_a_saved_tokenizer_that_is_none_is_refused_in_one_line(data):
    with pytest.raises(UserError) as error:
        tokenizers.from_json(data)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_saved_vocabulary_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(tokenizers, "MAX_VOCABULARY", 3)
    assert tokenizers.from_json({"kind": "char", "vocabulary": list("abc")}) == CharTokenizer("abc")
    with pytest.raises(UserError, match="1 to 3"):
        tokenizers.from_json({"kind": "char", "vocabulary": list("abcd")})


@given(data=JSON | st.fixed_dictionaries({"kind": st.sampled_from(TOKENIZERS)}))
def test_no_json_value_makes_from_json_fail_otherwise_than_by_user_error(data):
    with contextlib.suppress(UserError):
        assert tokenizers.from_json(data) == ByteTokenizer()


@given(
    kind=st.sampled_from(["char", "word"]),
    entries=st.lists(st.text(max_size=3) | JSON, max_size=5),
)
def test_whatever_vocabulary_is_accepted_can_be_used(kind, entries):
    try:
        tok = tokenizers.from_json({"kind": kind, "vocabulary": entries})
    except UserError:
        return
    assert isinstance(tok, CharTokenizer | WordTokenizer)
    assert tok.to_json()["vocabulary"] == entries
    every_V = np.arange(tok.vocab_size)
    assert tok.decode(every_V).endswith("".join(entries))
    if kind == "char":
        assert tok.encode("".join(entries)).tolist() == every_V.tolist()


def test_a_long_text_is_cut_into_the_words_of_a_short_one(monkeypatch):
    text = "Who's there?\n\nNay, answer me: stand, and unfold yourself.\n" * 7 + "don't"
    whole = tokenizers.build(TokenizerConfig("word"), text)
    ids, pieces = whole.encode(text), list(plain_tokenizers.word_parts(text))
    monkeypatch.setattr(plain_tokenizers, "_PART", 9)
    parts = list(plain_tokenizers.word_parts(text))
    assert len(pieces) == 1 and len(parts) > 7 and sum(parts, []) == pieces[0]
    assert tokenizers.build(TokenizerConfig("word"), text) == whole
    np.testing.assert_array_equal(whole.encode(text), ids)


PADDED = tokenizers.PaddedTokenizer(CharTokenizer("\nab "), 7)


def test_a_padded_tokenizer_is_the_one_inside_but_for_the_rows_left_over():
    assert (PADDED.vocab_size, PADDED.kind, PADDED.start_id) == (7, "char", 0)
    assert PADDED.encode("ab a").tolist() == [1, 2, 3, 1]
    assert PADDED.decode([1, 4, 2, 6]) == "ab" and PADDED.decode([]) == ""
    decode = PADDED.decoder()
    assert [decode(np.array(ids), last) for ids, last in (([5, 1], False), ([6], True))] == [
        "a",
        "",
    ]
    assert [PADDED.token_text(id) for id in (0, 4)] == ["\\n", "<no token 4>"]
    assert PADDED.vocabulary[:2] == ("\\n", "a") and len(set(PADDED.vocabulary)) == 7
    assert PADDED.is_word(1) and not PADDED.is_word(4)
    assert (PADDED.token_bytes(2), PADDED.token_bytes(5)) == (b"b", b"")
    with pytest.raises(UserError, match="token id 7 is outside the model's 0 to 6"):
        PADDED.decode([7])
    assert pickle.loads(pickle.dumps(PADDED)) == PADDED
    assert tokenizers.unpadded(PADDED) is PADDED.inner is tokenizers.unpadded(PADDED.inner)


def test_a_padded_tokenizer_goes_through_json_and_nothing_else_does():
    said = PADDED.to_json()
    assert tokenizers.from_json(json.loads(json.dumps(said))) == PADDED
    for changes in (
        {"vocab_size": 4},  # no row is left over
        {"vocab_size": 2**20 + 1},
        {"vocab_size": 7.0},
        {"tokenizer": said},
        {"tokenizer": None},
        {"tokenizer": {"kind": "char", "vocabulary": "abc"}},
        {"more": 1},
    ):
        with pytest.raises(UserError, match="the saved"):
            tokenizers.from_json(said | changes)
