"""What all tokenizers have in common, and those that need no learning: by character, word or byte.

In: a str. Out: int32 ids and, from ids, the str again; a tokenizer itself goes to plain JSON, so
that a checkpoint can carry it. Pure: nothing here touches a file.
"""

import codecs
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gptjax.errors import UserError

Decoder = Callable[[np.ndarray, bool], str]  # more ids (T,), and whether they are the last
_PART = 2**20  # characters
UNKNOWN = "<unk>"  # never a piece of a text: it would be cut into "<", "unk" and ">"

# `\w` leaves out the marks that Indic scripts and diacritics write inside a word: they are added.
LETTER = r"[\w\u0300-\u036f\u0900-\u0963\u0966-\u0dff\u200c\u200d]"
# A word ("don't" is one), or one character of white space or of anything else: nothing is lost.
_PIECE = re.compile(rf"{LETTER}+(?:['\u2019]{LETTER}+)*|\s|\S")


class Tokenizer:
    """What all tokenizers have in common; V is `vocab_size`, ids are 0 .. V-1."""

    kind = ""  # in a config
    unit = ""  # what one token is, in a sentence
    unknown_id: int | None = None  # of all that the vocabulary lacks; None: that is refused
    is_slow = False  # whether what it has encoded is worth keeping
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
    def begin_id(self) -> int:
        """The token that a text without a prompt follows: in a stream, what a line ends with."""
        return self.start_id

    @property
    def end_id(self) -> int:
        """The token that ends an item, and so begins the next."""
        return self.start_id

    def encode(self, text: str) -> np.ndarray:
        """Turn text into int32 ids (T,); UserError where the text cannot be expressed."""
        raise NotImplementedError

    def encode_items(self, items: Sequence[str]) -> np.ndarray:
        """The ids of items, lines without their ends: an ``end_id`` before each and at the end."""
        return self.encode("\n" + "".join(f"{item}\n" for item in items))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Turn ids (T,) into text; UserError for an id outside 0 .. V-1."""
        return self._join(self._known(ids))

    def decoder(self) -> Decoder:
        """``decode`` for ids that come some at a time: what it gives, no later id can change."""
        return lambda ids, last: self.decode(ids)

    def _known(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        ids_T, V = np.asarray(ids, np.int64), self.vocab_size
        if len(wrong := ids_T[(ids_T < 0) | (ids_T >= V)]):
            raise UserError(f"token id {wrong[0]} is outside this tokenizer's 0 to {V - 1}")
        return ids_T

    def _join(self, ids_T: np.ndarray) -> str:
        return "".join(map(self.vocabulary.__getitem__, ids_T.tolist()))

    def token_bytes(self, id: int) -> bytes:
        """The UTF-8 that one token stands for, which may be a part of a character's."""
        return self.vocabulary[id].encode()

    def token_text(self, id: int) -> str:
        """What to show for one token, on one line: a new line is shown as backslash and n."""
        text = self.vocabulary[id]
        return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")

    def as_shown(self, text: str) -> str:
        """How ``token_text`` shows a token that a user has typed."""
        return text

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
        found = [
            np.array([known.get(p, unknown) for p in part], np.int32) for part in word_parts(text)
        ]
        return np.concatenate(found) if found else np.zeros(0, np.int32)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "vocabulary": list(self.pieces)}


class BytesTokenizer(Tokenizer):
    """Whose tokens are any bytes of UTF-8: ids cut in mid-character decode to U+FFFD."""

    def _bytes(self, ids_T: np.ndarray) -> bytes:
        raise NotImplementedError

    def _join(self, ids_T: np.ndarray) -> str:
        return self._bytes(ids_T).decode("utf-8", errors="replace")

    def decoder(self) -> Decoder:
        half = codecs.getincrementaldecoder("utf-8")("replace")  # holds back half a character
        return lambda ids, last: half.decode(self._bytes(self._known(ids)), last)

    def token_bytes(self, id: int) -> bytes:
        return self._bytes(np.array([id]))


@dataclass(frozen=True)
class ByteTokenizer(BytesTokenizer):
    """One token per byte of the text's UTF-8."""

    kind = unit = "byte"
    vocabulary = tuple(chr(id) if id < 128 else f"\\x{id:02x}" for id in range(256))

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(as_utf8(text), np.uint8).astype(np.int32)

    def _bytes(self, ids_T: np.ndarray) -> bytes:
        return ids_T.astype(np.uint8).tobytes()

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}


def word_parts(text: str) -> Iterator[list[str]]:
    """The pieces of a text, about a million characters at a time: in between a signal is heard."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin + _PART) + 1 or len(text)  # no piece goes over a line's end
        yield _PIECE.findall(text, begin, end)
        begin = end


def as_utf8(text: str) -> bytes:
    """The bytes of a text; UserError for half a character."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds half a character, {text[error.start]!r}, at position {error.start} "
            "(a lone surrogate, which UTF-8 cannot express): leave it out"
        ) from None
