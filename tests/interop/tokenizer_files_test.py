"""Every tokenizer comes back from its files, and the ``tokenizers`` library reads them alike."""

from __future__ import annotations

import contextlib
import json
import sys

import hostile_texts
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Library

from gptjax.config.schema import TOKENIZERS, TokenizerConfig
from gptjax.data import tokenizers
from gptjax.data.plain_tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    WordTokenizer,
    word_parts,
)
from gptjax.errors import UserError
from gptjax.interop import tokenizer_files

TEXTS = hostile_texts.texts(1500, seed=7)
EVERY = pytest.mark.parametrize("kind", TOKENIZERS)


def build(kind):
    """A tokenizer of some of the texts; byte pairs have merges of marks, spaces and half words."""
    text = "".join(TEXTS[:150])
    if kind == "bpe":
        return tokenizers.build(TokenizerConfig(kind, vocab_size=337), text * 2)
    return tokenizers.build(TokenizerConfig(kind), text)


def written(folder, tok, block_size=37):
    tokenizer_files.write(folder, tok, block_size)
    return json.loads((folder / "tokenizer.json").read_text("utf-8"))


def refused(folder):
    """The line with which a folder is refused."""
    with pytest.raises(UserError) as error:
        tokenizer_files.read(folder)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


@EVERY
def test_a_tokenizer_comes_back_also_after_the_library_saved_it(kind, tmp_path):
    tok = build(kind)
    written(tmp_path, tok)
    assert tokenizer_files.read(tmp_path) == tok
    Library.from_file(str(tmp_path / "tokenizer.json")).save(str(tmp_path / "tokenizer.json"))
    assert tokenizer_files.read(tmp_path) == tok


@EVERY
def test_the_library_has_the_same_ids_and_texts(kind, tmp_path):
    tok = build(kind)
    written(tmp_path, tok)
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    assert library.get_vocab_size() == tok.vocab_size
    texts = TEXTS[:150] if kind == "char" else TEXTS
    ids = [encoded.ids for encoded in library.encode_batch(texts)]
    assert ids == [tok.encode(text).tolist() for text in texts]
    assert len({id for some in ids for id in some}) > 0.7 * tok.vocab_size
    ids_NT = np.random.default_rng(3).integers(tok.vocab_size, size=(1000, 11)).tolist()
    for some in (ids, ids_NT):  # of bytes and byte pairs most of the second are no UTF-8
        decoded = library.decode_batch(some, skip_special_tokens=False)
        assert decoded == [tok.decode(one) for one in some]
    if kind != "word":
        assert library.decode_batch(ids, skip_special_tokens=False) == texts


def test_words_of_a_python_that_knows_other_letters_are_read(tmp_path):
    document = written(tmp_path, WordTokenizer((" ", "ab")))
    pattern = document["pre_tokenizer"]["pattern"]
    other = pattern["Regex"].replace(r"\x{41}-\x{5A}", "").replace(r"\x{61}-", r"\x{60}-")
    assert len(pattern["Regex"]) - len(other) == 2 * len(r"\x{41}-\x{5A}")
    for regex, known in ((other, True), (other.replace("+", "*"), False), (r"\w+", False)):
        pattern["Regex"] = regex
        (tmp_path / "tokenizer.json").write_text(json.dumps(document))
        if known:
            assert tokenizer_files.read(tmp_path) == WordTokenizer((" ", "ab"))
        else:
            assert "WordLevel" in refused(tmp_path)


def test_an_unknown_character_is_refused_on_both_sides_and_an_unknown_word_is_id_0(tmp_path):
    written(tmp_path, CharTokenizer("ab \n"))
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode("b a\n").ids == [1, 2, 0, 3]
    with pytest.raises(Exception, match="UNK"):
        library.encode("a\r")
    written(tmp_path, WordTokenizer((" ", "<", "b", "unk")))
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode("<unk> b").ids == [2, 4, 0, 1, 3]


def test_the_library_cuts_words_at_every_character_of_unicode_as_python_does():
    split = pre_tokenizers.Split(Regex(tokenizer_files._piece()), "isolated")
    # All but the inner ones of long runs of letters: Han, Hangul, private ones, unassigned ones.
    codes = [*range(0x3500), *range(0x4D00, 0x4F00), *range(0x9F00, 0xAD00), *range(0xD700, 0xD800)]
    codes += [*range(0xF800, 0x1F000), *range(0x2A000, 0x32400, 17), 0xE0001, sys.maxunicode]
    text = "".join(f"a{chr(code)}b{chr(code)}'" for code in codes)
    words = [piece for part in word_parts(text) for piece in part]
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == words
    assert len(words) > len(codes)


@EVERY
def test_the_config_names_a_class_that_takes_the_file_as_it_is(kind, tmp_path):
    written(tmp_path, build(kind), block_size=23)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 23
    assert config["clean_up_tokenization_spaces"] is False
    assert "token_type_ids" not in config["model_input_names"]
    # A token named here is found within texts: of no other kind is there such a one.
    named = {name: token for name, token in config.items() if name.endswith("_token")}
    end = "<|endoftext|>"
    assert named == ({"bos_token": end, "eos_token": end} if kind == "bpe" else {})


def test_a_word_vocabulary_that_has_the_mark_of_the_unknown_ones_is_not_written(tmp_path):
    with pytest.raises(UserError, match="<unk>"):
        tokenizer_files.write(tmp_path, WordTokenizer(("a", "<unk>")), 9)
    assert list(tmp_path.iterdir()) == []


def older_files(folder, document, end_of_line="\n", header="#version: 0.2\n"):
    """The two files of GPT-2's first release in place of a ``tokenizer.json``."""
    merges = document["model"]["merges"]
    folder.mkdir(exist_ok=True)
    vocab = json.dumps(document["model"]["vocab"])
    (folder / "vocab.json").write_text(vocab, encoding="utf-8")
    text = header + "".join(f"{merge}\n" for merge in merges)
    data = text.replace("\n", end_of_line).encode("utf-8", "surrogatepass")
    (folder / "merges.txt").write_bytes(data)


@pytest.fixture
def byte_pairs(tmp_path):
    """Byte pairs that join number signs, and what their tokenizer.json holds."""
    text = "##\n##version: the cat\r\n\r\n the cats # the #\n" * 3
    tok = tokenizers.build(TokenizerConfig("bpe", vocab_size=283), text)
    document = written(tmp_path / "written", tok)
    assert "# #" in document["model"]["merges"] and tok.vocab_size > 257
    return tok, document


@pytest.mark.parametrize("end_of_line", ["\n", "\r\n"])
@pytest.mark.parametrize("header", ["#version: 0.2\n", ""])
def test_vocab_and_merges_give_what_tokenizer_json_gives(end_of_line, header, byte_pairs, tmp_path):
    tok, document = byte_pairs
    document["model"]["vocab"] |= {"<|endoftext|>": tok.end_id}  # as in GPT-2's
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    whole = tokenizer_files.read(tmp_path / "whole")
    older_files(tmp_path / "parts", document, end_of_line, header)
    assert tokenizer_files.read(tmp_path / "parts") == whole
    for text in TEXTS:
        np.testing.assert_array_equal(whole.encode(text), tok.encode(text))
    # Where both are there, tokenizer.json is the one that is read.
    (tmp_path / "parts" / "tokenizer.json").write_text("{}")
    assert "model" in refused(tmp_path / "parts") or "kind" in refused(tmp_path / "parts")


def test_tokens_that_were_added_later_keep_their_ids(byte_pairs, tmp_path):
    tok, document = byte_pairs
    document["model"]["vocab"] |= {"<|endoftext|>": tok.end_id, "<pad>": tok.end_id + 1}
    older_files(tmp_path, document)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<sep>": tok.end_id + 2}))
    config = {"pad_token": {"content": "<pad>"}, "unk_token": "<nowhere>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = tokenizer_files.read(tmp_path)
    assert (found.vocab_size, found.end_id) == (tok.end_id + 3, tok.end_id)
    ids = found.encode("the<pad> <sep><|endoftext|>cat").tolist()
    assert [id - tok.end_id for id in ids if id >= tok.end_id] == [1, 2, 0]
    assert found.decode(ids) == "the<pad> <sep><|endoftext|>cat"


def change(part, **fields):
    """Set fields of a part of a document, or of the whole where ``part`` is None."""

    def apply(document):
        (document[part] if part else document).update(fields)

    return apply


def rename(document, new):
    """Replace the last token before the added ones."""
    vocab = document["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    vocab[new] = vocab.pop(last)


def set_id(document, id):
    vocab = document["model"]["vocab"]
    vocab[max(vocab, key=vocab.__getitem__)] = id


HARM_ANY = {
    "no model": lambda d: d.pop("model"),
    "a list": change(None, model=[]),
    "Unigram": change("model", type="Unigram", vocab=[["a", -1.0]]),
    "WordPiece": change("model", type="WordPiece"),
    "a kind of 10,000 letters": change("model", type="x" * 10_000),
    "a kind that is none": change("model", type={"a": ["b"]}),
    "a list of tokens": change("model", vocab=["a", "b"]),
    "no tokens": change("model", vocab={}),
    "a hole": lambda d: set_id(d, 10_000),
    "one id twice": lambda d: set_id(d, 1),
    "a negative id": lambda d: set_id(d, -1),
    "half an id": lambda d: set_id(d, 0.5),
    "an id that is a text": lambda d: set_id(d, "7"),
    "an id that is true": lambda d: set_id(d, True),
    "half a character": lambda d: rename(d, "\ud800"),
    "lower case": change(None, normalizer={"type": "Lowercase"}),
    "no cutting": change(None, pre_tokenizer=None),
    "other cutting": change(None, pre_tokenizer={"type": "Whitespace"}),
    "no joining": change(None, decoder=None),
    "other joining": change(None, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
    "an added token without an id": change(None, added_tokens=[{"content": "<pad>"}]),
    "an added token far away": change(None, added_tokens=[{"content": "<pad>", "id": 9999}]),
    "an added token that is none": change(None, added_tokens=[7]),
}
HARM_BPE = {
    "a merge of what is not there": change("model", merges=["q zzz"]),
    "a merge of three": change("model", merges=["a b c"]),
    "a merge that is a number": change("model", merges=[7]),
    "merges that are none": change("model", merges=None),
    "dropout": change("model", dropout=0.5),
    "an ending of words": change("model", end_of_word_suffix="</w>"),
    "a space before each text": change("pre_tokenizer", add_prefix_space=True),
    "a byte without a token": lambda d: d["model"]["vocab"].pop("Ā"),
    "an added token in the writing of bytes": change(
        None, added_tokens=[{"content": "Ġa" * 2, "id": 337}]
    ),
}
HARMS = [(kind, name) for kind in TOKENIZERS for name in HARM_ANY]
HARMS += [("bpe", name) for name in HARM_BPE]


@pytest.mark.parametrize(("kind", "name"), HARMS)
def test_a_harmful_tokenizer_json_is_refused_in_one_line(kind, name, tmp_path):
    document = written(tmp_path, build_once(kind))
    (HARM_ANY | HARM_BPE)[name](document)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    refused(tmp_path)


BUILT: dict[str, Tokenizer] = {}


def build_once(kind):
    return BUILT[kind] if kind in BUILT else BUILT.setdefault(kind, build(kind))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.json"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "no JSON"),
        (b"[" * 10**6, "nested too deep"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"[]", "list"),
        (b"null", "NoneType"),
    ],
)
def test_a_file_that_is_no_object_is_named(name, data, said, byte_pairs, tmp_path):
    older_files(tmp_path, byte_pairs[1])
    (tmp_path / name).write_bytes(data)
    message = refused(tmp_path)
    assert name in message and said in message


def test_what_is_too_large_absent_or_no_file_is_named(byte_pairs, tmp_path, monkeypatch):
    assert "tokenizer.json" in refused(tmp_path) and "merges.txt" in refused(tmp_path)
    older_files(tmp_path, byte_pairs[1])
    tokenizer_files.read(tmp_path)
    (tmp_path / "merges.txt").unlink()
    assert "merges.txt" in refused(tmp_path)
    (tmp_path / "merges.txt").mkdir()
    assert "merges.txt" in refused(tmp_path)
    written(tmp_path, build_once("byte"))
    monkeypatch.setattr(tokenizer_files, "MOST_BYTES", 99)
    assert "99" in refused(tmp_path)


@pytest.mark.parametrize("line", ["a", "a b c", " ", "", "a  b", "a\tb"])
def test_a_line_that_is_no_merge_is_named(line, byte_pairs, tmp_path):
    older_files(tmp_path, byte_pairs[1], header=f"#version: 0.2\n# #\n{line}\n")
    assert "number 2" in refused(tmp_path)


@pytest.mark.parametrize("added", [{"<sep>": "7"}, {"<sep>": 10**6}, {"<sep>": None}, {"": 283}])
def test_added_tokens_that_are_none_are_refused(added, byte_pairs, tmp_path):
    older_files(tmp_path, byte_pairs[1])
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    refused(tmp_path)


def test_a_space_before_each_text_is_refused_with_the_way_out(byte_pairs, tmp_path):
    tokenizer_files.write(tmp_path, byte_pairs[0], 9)
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    assert "add_prefix_space" in refused(tmp_path) and "false" in refused(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@EVERY
@given(data=st.data())
def test_no_value_anywhere_makes_reading_fail_otherwise_than_by_one_line(kind, data):
    document = json.loads(json.dumps(tokenizer_files._document(build_once(kind))))
    place, keys = document, st.sampled_from(sorted(document))
    for _ in range(data.draw(st.integers(0, 2))):
        key = data.draw(keys)
        if not isinstance(place[key], dict) or not place[key]:
            break
        place, keys = place[key], st.sampled_from(sorted(place[key]))
    place[data.draw(keys)] = data.draw(JSON)
    with contextlib.suppress(UserError):
        tok = tokenizer_files._understand("tokenizer.json", json.dumps(document))
        assert tok.decode(tok.encode("")) == "" and len(tok.vocabulary) == tok.vocab_size


@EVERY
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused_in_one_line(kind, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    tokenizer_files.write(folder, build_once(kind), 9)
    path = folder / "tokenizer.json"
    whole = path.read_bytes()
    at, length = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 9))
    path.write_bytes(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + length :])
    with contextlib.suppress(UserError):
        assert isinstance(tokenizer_files.read(folder), Tokenizer)


@given(data=st.data())
def test_no_older_files_make_reading_fail_otherwise_than_by_one_line(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("older")
    document = tokenizer_files._document(build_once("bpe"))
    vocab, merges = document["model"]["vocab"].copy(), document["model"]["merges"].copy()
    vocab[data.draw(st.sampled_from(sorted(vocab)) | st.text(max_size=3))] = data.draw(JSON)
    merges.insert(data.draw(st.integers(0, len(merges))), data.draw(st.text(max_size=4)))
    older_files(folder, {"model": {"vocab": vocab, "merges": merges}})
    (folder / "added_tokens.json").write_text(json.dumps(data.draw(JSON)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": data.draw(JSON)}))
    with contextlib.suppress(UserError):
        tok = tokenizer_files.read(folder)
        assert tok.decode(tok.encode("the # #\n")) == "the # #\n"


def test_bytes_need_no_table_of_their_own(tmp_path):
    document = written(tmp_path, ByteTokenizer())
    assert sorted(document["model"]["vocab"].values()) == list(range(256))
    assert tokenizer_files.read(tmp_path) == ByteTokenizer()
