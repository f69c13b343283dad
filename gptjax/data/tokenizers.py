"""Text to token ids and back: by character, by word or by byte.

In: a str. Out: int32 ids and, from ids, the str again; a tokenizer itself goes to and from plain
JSON, so that a checkpoint can carry it. Pure: nothing here touches a file.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Protocol

import numpy as np

from gptjax.errors import UserError

KINDS = ("char", "word", "byte")
MAX_VOCABULARY = 10_000_000  # entries accepted from JSON
# Of every unknown word; never a piece of a text: it would be cut into "<", "unk" and ">".
UNKNOWN, UNKNOWN_ID = "<unk>", 0

# `\w` leaves out the marks that Indic scripts and diacritics write inside a word: they are added.
_LETTER = r"[\w\u0300-\u036f\u0900-\u0963\u0966-\u0dff\u200c\u200d]"
# A word ("don't" is one), or one character of white space or of anything else: nothing is lost.
_PIECE = re.compile(rf"{_LETTER}+(?:['\u2019]{_LETTER}+)*|\s|\S")


@dataclass(frozen=True)
class TokenizerConfig:
    """How a text is cut into tokens."""

    kind: Annotated[str, "what one token is: char, word or byte"] = "char"
    min_count: Annotated[int, "word only: rarer words become the unknown token (occurrences)"] = 1

    def __post_init__(self) -> None:
        _check_kind(self.kind, "tokenizer.kind")
        whole = type(self.min_count) is int and self.min_count >= 1
        if not whole or (self.min_count > 1 and self.kind != "word"):
            raise UserError(
                f"tokenizer.min_count={self.min_count!r} must be a whole number of at least 1, "
                "and above 1 only with tokenizer.kind='word'"
            )


class Tokenizer(Protocol):
    """What the three tokenizers have in common; V is `vocab_size`, ids are 0 .. V-1."""

    @property
    def vocab_size(self) -> int:
        """The number of different tokens, V."""

    @property
    def start_id(self) -> int:
        """The id of a new line, else 0: it stands before a beginning, and it ends an item."""

    def encode(self, text: str) -> np.ndarray:
        """Turns text into int32 ids (T,); UserError where the text cannot be expressed."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Turns ids (T,) into text; UserError for an id outside 0 .. V-1."""

    def token_text(self, id: int) -> str:
        """What to show for one token, on one line: a new line is shown as backslash and n."""

    def to_json(self) -> dict[str, Any]:
        """The tokenizer as plain JSON types; `from_json` gives it back."""


@dataclass(frozen=True)
class CharTokenizer:
    """One token per character; `chars[i]` is the character of id i."""

    chars: str

    @property
    def vocab_size(self) -> int:
        return len(self.chars)

    @property
    def start_id(self) -> int:
        return max(self.chars.find("\n"), 0)

    @cached_property
    def _codes_V(self) -> np.ndarray:
        return _codes(self.chars)

    @cached_property
    def _id_of_code(self) -> np.ndarray:
        # One entry per code point up to the highest known; the last stands for all that follow.
        table = np.full(int(self._codes_V.max()) + 2, -1, np.int32)
        table[self._codes_V] = np.arange(self.vocab_size, dtype=np.int32)
        return table

    def encode(self, text: str) -> np.ndarray:
        table = self._id_of_code
        ids_T = table[np.minimum(_codes(text), len(table) - 1)]
        unknown_T = ids_T < 0
        if unknown_T.any():
            position = int(unknown_T.argmax())
            char = text[position]
            shown = self.chars if len(self.chars) <= 100 else self.chars[:100] + "…"
            raise UserError(
                f"the character {char!r} (U+{ord(char):04X}) at position {position} is not in the "
                f"vocabulary, whose {self.vocab_size} characters are {shown!r}: leave it out, or "
                "train on a text that has it, or with tokenizer.kind='byte'"
            )
        return ids_T

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._codes_V[_checked_ids(ids, self.vocab_size)].tobytes().decode("utf-32-le")

    def token_text(self, id: int) -> str:
        return _one_line(self.chars[id])

    def to_json(self) -> dict[str, Any]:
        return {"kind": "char", "vocabulary": list(self.chars)}


@dataclass(frozen=True)
class WordTokenizer:
    """One token per word, punctuation mark or white-space character; id 0 is all the unknown ones.

    `pieces[i]` is the text of id i + 1.
    """

    pieces: tuple[str, ...]

    @property
    def vocab_size(self) -> int:
        return 1 + len(self.pieces)

    @property
    def start_id(self) -> int:
        return self._id_of_piece.get("\n", 0)

    @cached_property
    def _vocabulary(self) -> tuple[str, ...]:
        return (UNKNOWN, *self.pieces)

    @cached_property
    def _id_of_piece(self) -> dict[str, int]:
        return {piece: id for id, piece in enumerate(self.pieces, start=1)}

    def encode(self, text: str) -> np.ndarray:
        known = self._id_of_piece
        return np.array([known.get(piece, UNKNOWN_ID) for piece in _PIECE.findall(text)], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        ids_T = _checked_ids(ids, self.vocab_size)
        return "".join(self._vocabulary[id] for id in ids_T.tolist())

    def token_text(self, id: int) -> str:
        return _one_line(self._vocabulary[id])

    def to_json(self) -> dict[str, Any]:
        return {"kind": "word", "vocabulary": list(self.pieces)}


@dataclass(frozen=True)
class ByteTokenizer:
    """One token per byte of the text's UTF-8; ids cut in mid-character decode to U+FFFD."""

    vocab_size = 256
    start_id = ord("\n")

    def encode(self, text: str) -> np.ndarray:
        _refuse_surrogates(text)
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        ids_T = _checked_ids(ids, self.vocab_size)
        return ids_T.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def token_text(self, id: int) -> str:
        return _one_line(chr(id)) if id < 128 else f"\\x{id:02x}"

    def to_json(self) -> dict[str, Any]:
        return {"kind": "byte"}


def build(config: TokenizerConfig, text: str) -> Tokenizer:
    """Makes the tokenizer of a text: the vocabulary is `sorted(set(text))`, or of its pieces.

    Args:
      config: the kind of token, and for words how often one must occur to be known.
      text: the whole corpus, all splits, so that no split meets an unknown character.

    Raises:
      UserError: an empty text, a lone surrogate, or a min_count that leaves no word.

    Source: the notes, page 3 (`chars = sorted(list(set(text)))`).
    """
    if not text:
        raise UserError("there is no text to make a vocabulary of: the corpus is empty")
    _refuse_surrogates(text)
    if config.kind == "byte":
        return ByteTokenizer()
    if config.kind == "char":
        return CharTokenizer("".join(sorted(set(text))))
    count = Counter(_PIECE.findall(text))
    pieces = tuple(sorted(piece for piece, n in count.items() if n >= config.min_count))
    if not pieces:
        raise UserError(
            f"tokenizer.min_count={config.min_count} leaves no word: the most frequent piece "
            f"occurs {max(count.values())} times; use a smaller tokenizer.min_count"
        )
    return WordTokenizer(pieces)


def from_json(data: Any) -> Tokenizer:
    """Makes the tokenizer that `to_json` described; UserError for anything else in `data`."""
    if not isinstance(data, dict):
        raise UserError(f"the saved tokenizer is a {type(data).__name__}, not a JSON object")
    kind = data.get("kind")
    _check_kind(kind, "the saved tokenizer's kind")
    fields = ["kind"] if kind == "byte" else ["kind", "vocabulary"]
    if sorted(map(str, data)) != fields:
        raise UserError(f"the saved {kind} tokenizer has fields {list(data)!r:.99}, not {fields}")
    if kind == "byte":
        return ByteTokenizer()
    entries = data["vocabulary"]
    most = 1 if kind == "char" else None  # characters of an entry
    is_list = isinstance(entries, list) and 1 <= len(entries) <= MAX_VOCABULARY
    if not is_list or not all(isinstance(e, str) and e and e == e[:most] for e in entries):
        what = "single characters" if kind == "char" else "pieces of text"
        raise UserError(f"the saved vocabulary is not a list of 1 to {MAX_VOCABULARY} {what}")
    if len(set(entries)) < len(entries):
        twice, _ = Counter(entries).most_common(1)[0]
        raise UserError(f"the saved vocabulary holds {twice!r:.60} more than once")
    _refuse_surrogates("".join(entries))
    return CharTokenizer("".join(entries)) if kind == "char" else WordTokenizer(tuple(entries))


def _check_kind(kind: Any, field: str) -> None:
    if kind not in KINDS:
        nearest = difflib.get_close_matches(str(kind), KINDS, n=1, cutoff=0.0) or ["char"]
        known = ", ".join(KINDS)
        raise UserError(f"{field}={kind!r:.60} is none of {known}; did you mean {nearest[0]!r}?")


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds half a character, {text[error.start]!r}, at position {error.start} "
            "(a lone surrogate, which UTF-8 cannot express): leave it out"
        ) from None


def _checked_ids(ids: Sequence[int] | np.ndarray, vocab_size: int) -> np.ndarray:
    ids_T = np.asarray(ids, np.int64)
    wrong_T = (ids_T < 0) | (ids_T >= vocab_size)
    if wrong_T.any():
        raise UserError(
            f"token id {ids_T[wrong_T.argmax()]} is outside this tokenizer's 0 to {vocab_size - 1}"
        )
    return ids_T


def _one_line(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
