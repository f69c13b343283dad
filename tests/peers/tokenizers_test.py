"""Tokenizers here and in transformers, which has nothing of ours: the same ids and texts."""

from __future__ import annotations

import json
import os

import hostile_texts
import numpy as np
import pytest

from gptjax.config.schema import TOKENIZERS, TokenizerConfig
from gptjax.data import tokenizers
from gptjax.data.plain_tokenizers import CharTokenizer
from gptjax.errors import UserError
from gptjax.interop import tokenizer_files

WHY = "transformers is not installed: bash launch/test.sh --peers"
transformers = pytest.importorskip("transformers", reason=WHY)

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks the hub is wrong
transformers.utils.logging.set_verbosity_error()

TEXTS = hostile_texts.texts(10_000, seed=11)
LEARNT = TEXTS[:2000]  # the rest has words, and byte pairs, that no vocabulary knows


@pytest.fixture(scope="module", params=TOKENIZERS)
def both(request, tmp_path_factory):
    """A tokenizer, its folder beside GPT-2's config.json, and what transformers makes of that."""
    kind = request.param
    config = TokenizerConfig(kind, vocab_size=1021 if kind == "bpe" else 0)
    # Of characters only the known ones can be compared; the others are refused.
    tok = tokenizers.build(config, "".join(TEXTS if kind == "char" else LEARNT))
    folder = tmp_path_factory.mktemp(kind)
    tokenizer_files.write(folder, tok, 10_007)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return tok, transformers.AutoTokenizer.from_pretrained(folder), folder


def test_10_000_hostile_texts_have_the_same_ids(both):
    tok, theirs, _ = both
    assert len(theirs) == tok.vocab_size
    encoded = theirs(TEXTS)
    assert set(encoded) == {"input_ids", "attention_mask"}  # GPT-2 would add others' vectors
    assert encoded["input_ids"] == [tok.encode(text).tolist() for text in TEXTS]
    assert theirs.model_max_length == 10_007


def test_their_ids_and_any_other_ones_decode_to_the_same_texts(both):
    tok, theirs, _ = both
    ids = [tok.encode(text).tolist() for text in TEXTS]
    ids_NT = np.random.default_rng(5).integers(tok.vocab_size, size=(3000, 13)).tolist()
    for some in (ids, ids_NT):
        assert theirs.batch_decode(some) == [tok.decode(one) for one in some]
    unknown = [tok.kind == "word" and tok.unknown_id in one for one in ids]
    texts = theirs.batch_decode(ids)
    assert all(text == TEXTS[i] for i, text in enumerate(texts) if not unknown[i])
    assert unknown.count(False) > 2000
    end = theirs.batch_decode([[tok.end_id]], skip_special_tokens=True)
    assert end == ([""] if tok.kind == "bpe" else [tok.decode([tok.end_id])])


def test_what_transformers_saves_again_is_the_same_tokenizer(both, tmp_path):
    tok, theirs, _ = both
    theirs.save_pretrained(tmp_path)
    assert tokenizer_files.read(tmp_path) == tok


def test_what_no_token_stands_for_is_refused_by_both(tmp_path):
    tok = CharTokenizer("abc \n")
    tokenizer_files.write(tmp_path, tok, 8)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("cab\n")["input_ids"] == tok.encode("cab\n").tolist()
    for text in ("abd", "ab\r\n", "\u0301"):
        with pytest.raises(UserError):
            tok.encode(text)
        with pytest.raises(Exception, match="Missing .UNK. token"):
            theirs(text)


@pytest.mark.parametrize("added", [{}, {"<pad>": 1022, "<|sep|>": 1021}])
def test_the_older_two_files_are_read_as_transformers_reads_them(added, tmp_path):
    text = "".join(LEARNT)
    tok = tokenizers.build(TokenizerConfig("bpe", vocab_size=1021), text)
    assert tok.vocab_size == 1021
    model = tok.to_json()["tokenizer_json"]["model"]
    vocab = model["vocab"] | {"<|endoftext|>": tok.end_id}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *model["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    if added:
        (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = tokenizer_files.read(tmp_path)
    texts = [f"{text}<pad> a<|sep|>" for text in TEXTS[:3000]]
    assert len(theirs) == ours.vocab_size == 1021 + len(added)
    assert theirs(texts)["input_ids"] == [ours.encode(text).tolist() for text in texts]
    # What it saves as tokenizer.json has the same ids, as well.
    theirs.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").exists()
    again = tokenizer_files.read(tmp_path / "saved")
    for text in texts[:100]:
        np.testing.assert_array_equal(again.encode(text), ours.encode(text))
