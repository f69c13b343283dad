"""Text to token ids and back: by character, by word or by byte.

In: a str. Out: int32 ids and, from ids, the str again; a tokenizer itself goes to and from plain
JSON, so that a checkpoint can carry it. Pure: nothing here touches a file.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gptjax.config.schema import TOKENIZERS, TokenizerConfig
from gptjax.errors import UserError, did_you_mean

MAX_VOCABULARY = 10_000_000  # entries accepted from JSON
_PART = 2**20  # characters
UNKNOWN = "<unk>"  # never a piece of a text: it would be cut into "<", "unk" and ">"

# `\w` leaves out the marks that Indic scripts and diacritics write inside a word: they are added.
_LETTER = r"[\w\u0300-\u036f\u0900-\u0963\u0966-\u0dff\u200c\u200d]"
# A word ("don't" is one), or one character of white space or of anything else: nothing is lost.
_PIECE = re.compile(rf"{_LETTER}+(?:['\u2019]{_LETTER}+)*|\s|\S")


class Tokenizer:
    """What all tokenizers have in common; V is `vocab_size`, ids are 0 .. V-1."""

    kind = ""  # in a config
    unit = ""  # what one token is, in a sentence
    unknown_id: int | None = None  # of all that the vocabulary lacks; None: that is refused
    has_words = False  # whether words are tokens among others (marks, white space)
    vocabulary: Sequence[str]  # what each id stands for

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    @property
    def start_id(self) -> int:
        """The token that stands before a beginning: a new line, or 0 where there is none."""
        return self.vocabulary.index("\n") if "\n" in self.vocabulary else 0

    @property
    def end_id(self) -> int:
        """The token that ends an item, and so begins the next."""
        return self.start_id

    def encode(self, text: str) -> np.ndarray:
        """Turn text into int32 ids (T,); UserError where the text cannot be expressed."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Turn ids (T,) into text; UserError for an id outside 0 .. V-1."""
        ids_T, V = np.asarray(ids, np.int64), self.vocab_size
        if len(wrong := ids_T[(ids_T < 0) | (ids_T >= V)]):
            raise UserError(f"token id {wrong[0]} is outside this tokenizer's 0 to {V - 1}")
        return self._join(ids_T)

    def _join(self, ids_T: np.ndarray) -> str:
        return "".join(map(self.vocabulary.__getitem__, ids_T.tolist()))

    def token_text(self, id: int) -> str:
        """What to show for one token, on one line: a new line is shown as backslash and n."""
        text = self.vocabulary[id]
        return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")

    def is_word(self, id: int) -> bool:
        """Whether a token is a word (a letter, a digit), and not a mark or white space."""
        return self.token_text(id)[0].isalnum()

    def close_up(self, text: str) -> str:
        """A text as the model may read it: "a b i" is "abi" where a space is no token."""
        return text if self.has_words or " " in self.vocabulary else text.replace(" ", "")

    def to_json(self) -> dict[str, Any]:
        """The tokenizer as plain JSON types; `from_json` gives it back."""
        return {"kind": self.kind, "vocabulary": list(self.vocabulary)}


@dataclass(frozen=True)
class CharTokenizer(Tokenizer):
    """One token per character; `vocabulary[i]` is the character of id i."""

    vocabulary: str
    kind, unit = "char", "character"

    @cached_property
    def _id_of_code(self) -> np.ndarray:
        # One entry per code point up to the highest known; the last stands for all that follow.
        codes_V = np.array([ord(char) for char in self.vocabulary])
        table = np.full(int(codes_V.max()) + 2, -1, np.int32)
        table[codes_V] = np.arange(self.vocab_size, dtype=np.int32)
        return table

    def encode(self, text: str) -> np.ndarray:
        table = self._id_of_code
        codes_T = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        ids_T = table[np.minimum(codes_T, len(table) - 1)]
        if (ids_T < 0).any():
            position = int(ids_T.argmin())  # the first -1
            char, known = text[position], self.vocabulary
            shown = known if len(known) <= 100 else known[:100] + "…"
            raise UserError(
                f"the character {char!r} (U+{ord(char):04X}) at position {position} is not in the "
                f"vocabulary, whose {len(known)} characters are {shown!r}: leave it out, or "
                "train on a text that has it, or with tokenizer.kind='byte'"
            )
        return ids_T

    def _join(self, ids_T: np.ndarray) -> str:
        codes_V = np.frombuffer(self.vocabulary.encode("utf-32-le"), "<u4")
        return codes_V[ids_T].tobytes().decode("utf-32-le")


@dataclass(frozen=True)
class WordTokenizer(Tokenizer):
    """One token per word, mark or white-space character: `pieces[i]` is id i + 1, id 0 the rest."""

    pieces: tuple[str, ...]
    kind = unit = "word"
    unknown_id, has_words = 0, True

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        return (UNKNOWN, *self.pieces)

    @cached_property
    def _id_of_piece(self) -> dict[str, int]:
        return {piece: id for id, piece in enumerate(self.pieces, start=1)}

    def encode(self, text: str) -> np.ndarray:
        known, unknown = self._id_of_piece, self.unknown_id
        found = [np.array([known.get(p, unknown) for p in part], np.int32) for part in _parts(text)]
        return np.concatenate(found) if found else np.zeros(0, np.int32)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "vocabulary": list(self.pieces)}


@dataclass(frozen=True)
class ByteTokenizer(Tokenizer):
    """One token per byte of the text's UTF-8; ids cut in mid-character decode to U+FFFD."""

    kind = unit = "byte"
    vocabulary = tuple(chr(id) if id < 128 else f"\\x{id:02x}" for id in range(256))

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(_utf8(text), np.uint8).astype(np.int32)

    def _join(self, ids_T: np.ndarray) -> str:
        return ids_T.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}


def build(config: TokenizerConfig, text: str) -> Tokenizer:
    """Make the tokenizer of a text: the vocabulary is `sorted(set(text))`, or of its pieces.

    `text` is the whole corpus, all splits, so that no split meets an unknown character. UserError:
    it is empty, has a lone surrogate, or no word as often as min_count. Source: the notes, page 3.
    """
    if not text:
        raise UserError("there is no text to make a vocabulary of: the corpus is empty")
    _utf8(text)
    return of_pieces(config, count_pieces(config.kind, text))


def count_pieces(kind: str, text: str) -> Counter[str]:
    """What a vocabulary is made of: how often each word stands in a text, or that a character does.

    Nothing for bytes. The counts of two texts that are cut after white space add up to theirs.
    """
    if kind == "char":
        return Counter(dict.fromkeys(set(text), 1))
    count: Counter[str] = Counter()
    for part in _parts(text) if kind == "word" else ():
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
    fields = ["kind"] if kind == "byte" else ["kind", "vocabulary"]
    if sorted(map(str, data)) != fields:
        raise UserError(f"the saved {kind} tokenizer has fields {list(data)!r:.99}, not {fields}")
    if kind == "byte":
        return ByteTokenizer()
    entries = data["vocabulary"]
    longest, what = (1, "single characters") if kind == "char" else (None, "pieces of text")
    is_list = isinstance(entries, list) and 1 <= len(entries) <= MAX_VOCABULARY
    if not is_list or not all(isinstance(e, str) and e and e == e[:longest] for e in entries):
        raise UserError(f"the saved vocabulary is not a list of 1 to {MAX_VOCABULARY} {what}")
    if len(set(entries)) < len(entries):
        twice = max(entries, key=Counter(entries).__getitem__)
        raise UserError(f"the saved vocabulary holds {twice!r:.60} more than once")
    _utf8("".join(entries))
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


def _padded_from_json(inner: Any, vocab_size: Any) -> Tokenizer:
    is_one = isinstance(inner, dict) and inner.get("kind") != PaddedTokenizer.padded
    tok = from_json(inner) if is_one else None
    if tok is None or type(vocab_size) is not int or not tok.vocab_size < vocab_size <= 2**20:
        raise UserError(f"the saved tokenizer is padded to {vocab_size!r:.60} tokens: none is so")
    return PaddedTokenizer(tok, vocab_size)


def _parts(text: str) -> Iterator[list[str]]:
    """The pieces of a text, about a million characters at a time: in between a signal is heard."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin + _PART) + 1 or len(text)  # no piece goes over a line's end
        yield _PIECE.findall(text, begin, end)
        begin = end


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds half a character, {text[error.start]!r}, at position {error.start} "
            "(a lone surrogate, which UTF-8 cannot express): leave it out"
        ) from None
