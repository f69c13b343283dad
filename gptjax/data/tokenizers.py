"""The tokenizer that a config names, made of a text, or that a checkpoint carries.

In: a ``TokenizerConfig`` and a text, or what ``to_json`` gave. Out: a ``Tokenizer``. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gptjax.config.schema import BPE_VOCABULARY, TOKENIZERS, TokenizerConfig
from gptjax.data import bpe
from gptjax.data.plain_tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    Decoder,
    Tokenizer,
    WordTokenizer,
    as_utf8,
    word_parts,
)
from gptjax.errors import UserError, did_you_mean
from gptjax.runtime.pace import Busy

MAX_VOCABULARY = 10_000_000  # entries accepted from JSON


def build(config: TokenizerConfig, text: str, busy: Busy = None) -> Tokenizer:
    """Make the tokenizer of a text: the vocabulary is `sorted(set(text))`, or of its pieces.

    `text` is the whole corpus, all splits, so that no split meets an unknown character; for byte
    pairs, which can express any, the training split. UserError: it is empty, has a lone surrogate,
    or no word as often as min_count. ``busy`` is told of characters that pairs were learnt from.
    Source: the notes, page 3.
    """
    if not text:
        raise UserError("there is no text to make a vocabulary of: the corpus is empty")
    as_utf8(text)
    if config.kind == "bpe":
        return learn(config, bpe.parts(text), len(text), busy)
    return of_pieces(config, count_pieces(config.kind, text))


def learn(
    config: TokenizerConfig, texts: Iterable[str], total: int, busy: Busy = None
) -> Tokenizer:
    """Learn byte pairs of a text of ``total`` characters in parts; ``busy`` as in ``build``."""

    def told() -> Iterator[str]:
        done = 0
        for text in texts:
            yield text
            done += len(text)
            if busy:
                busy(done, total)

    return bpe.train(told(), config.vocab_size or BPE_VOCABULARY)


def count_pieces(kind: str, text: str) -> Counter[str]:
    """What a vocabulary is made of: how often each word stands in a text, or that a character does.

    Nothing for bytes. The counts of two texts that are cut after white space add up to theirs.
    """
    if kind == "char":
        return Counter(dict.fromkeys(set(text), 1))
    count: Counter[str] = Counter()
    for part in word_parts(text) if kind == "word" else ():
        count.update(part)
    return count


def of_pieces(config: TokenizerConfig, count: Counter[str]) -> Tokenizer:
    """Make the tokenizer of a text with these ``count_pieces``; UserError as ``build``."""
    if config.kind == "byte":
        return ByteTokenizer()
    if config.kind == "char":
        return CharTokenizer("".join(sorted(count)))
    pieces = tuple(sorted(piece for piece, n in count.items() if n >= config.min_count))
    if not pieces:
        raise UserError(
            f"tokenizer.min_count={config.min_count} leaves no word: the most frequent piece "
            f"occurs {max(count.values())} times; use a smaller tokenizer.min_count"
        )
    return WordTokenizer(pieces)


def from_json(data: Any) -> Tokenizer:
    """Make the tokenizer that `to_json` described; UserError for anything else in `data`."""
    if not isinstance(data, dict):
        raise UserError(f"the saved tokenizer is a {type(data).__name__}, not a JSON object")
    kind = data.get("kind")
    if kind == PaddedTokenizer.padded and sorted(data) == ["kind", "tokenizer", "vocab_size"]:
        return _padded_from_json(data["tokenizer"], data["vocab_size"])
    if kind not in TOKENIZERS:
        known = ", ".join(TOKENIZERS) + did_you_mean(str(kind), TOKENIZERS, repr)
        raise UserError(f"the saved tokenizer's kind={kind!r:.60} is none of {known}")
    fields = {"byte": ["kind"], "bpe": ["kind", "tokenizer_json"]}.get(kind, ["kind", "vocabulary"])
    if sorted(map(str, data)) != fields:
        raise UserError(f"the saved {kind} tokenizer has fields {list(data)!r:.99}, not {fields}")
    if kind == "byte":
        return ByteTokenizer()
    if kind == "bpe":
        return bpe.of_json(data["tokenizer_json"])
    entries = data["vocabulary"]
    longest, what = (1, "single characters") if kind == "char" else (None, "pieces of text")
    is_list = isinstance(entries, list) and 1 <= len(entries) <= MAX_VOCABULARY
    if not is_list or not all(isinstance(e, str) and e and e == e[:longest] for e in entries):
        raise UserError(f"the saved vocabulary is not a list of 1 to {MAX_VOCABULARY} {what}")
    if len(set(entries)) < len(entries):
        twice = max(entries, key=Counter(entries).__getitem__)
        raise UserError(f"the saved vocabulary holds {twice!r:.60} more than once")
    as_utf8("".join(entries))
    return CharTokenizer("".join(entries)) if kind == "char" else WordTokenizer(tuple(entries))


@dataclass(frozen=True)
class PaddedTokenizer:
    """A tokenizer beside a model whose table has more rows than it has tokens, as to be even.

    Ids of the rows that are left over stand for no text; all else is that of ``inner``.
    """

    inner: Tokenizer
    vocab_size: int
    padded = "padded"  # in JSON

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # before there is one, as when it is unpickled
            raise AttributeError(name)
        return getattr(self.inner, name)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        return tuple(map(self.token_text, range(self.vocab_size)))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of those ids that have one."""
        ids_T = np.asarray(ids, np.int64)
        if len(wrong := ids_T[(ids_T < 0) | (ids_T >= self.vocab_size)]):
            raise UserError(
                f"token id {wrong[0]} is outside the model's 0 to {self.vocab_size - 1}"
            )
        return self.inner.decode(ids_T[ids_T < self.inner.vocab_size])

    def decoder(self) -> Decoder:
        inner = self.inner.decoder()
        return lambda ids, last: inner(ids[ids < self.inner.vocab_size], last)

    def token_bytes(self, id: int) -> bytes:
        return self.inner.token_bytes(id) if id < self.inner.vocab_size else b""

    def token_text(self, id: int) -> str:
        return self.inner.token_text(id) if id < self.inner.vocab_size else f"<no token {id}>"

    def is_word(self, id: int) -> bool:
        return id < self.inner.vocab_size and self.inner.is_word(id)

    def to_json(self) -> dict[str, Any]:
        inner = self.inner.to_json()
        return {"kind": self.padded, "tokenizer": inner, "vocab_size": self.vocab_size}


def unpadded(tok: Tokenizer) -> Tokenizer:
    """The tokenizer without what pads it to its model's table."""
    return tok.inner if isinstance(tok, PaddedTokenizer) else tok


def _padded_from_json(inner: Any, vocab_size: Any) -> Any:
    is_one = isinstance(inner, dict) and inner.get("kind") != PaddedTokenizer.padded
    tok = from_json(inner) if is_one else None
    if tok is None or type(vocab_size) is not int or not tok.vocab_size < vocab_size <= 2**20:
        raise UserError(f"the saved tokenizer is padded to {vocab_size!r:.60} tokens: none is so")
    return PaddedTokenizer(tok, vocab_size)
