"""A text as rows that a model can be asked about: a stream, a list of items, or skip-gram pairs.

In: texts by split, a tokenizer, and what the model can read. Out: a ``Split`` for each text: its
tokens, and where its rows begin. Every predicted token stands in exactly one row. Items (names)
stand in one long array too, each after an end token: a row is an item, from that to its own end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from gptjax.data.splits import item_lines
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError

# A model that slides takes rows of any length; longer items than this are done in parts.
LONGEST_SLIDING_ROW = 64
_PART = 2**20  # characters


@dataclass(frozen=True)
class Encoded:
    """A text as the tokens (N,) of one that was encoded before, and how long that is.

    ``n_bytes``: in UTF-8; 0 where it is not known.
    """

    tokens: Any
    characters: int
    n_bytes: int = 0

    def __len__(self) -> int:
        return self.characters


@dataclass(frozen=True)
class Split:
    """A stream's tokens (N,) and where its rows begin, each where the one before it ends.

    ``window``: the most predictions of a row, after ``lookback`` places that show the past and do
    not count: T = lookback + window. ``characters``, ``n_bytes``: how much text the predictions
    stand for, 0 where it is not known. Where rows begin is computed as it is asked for: the tokens
    may be more than memory takes.
    """

    tokens: Any
    window: int
    lookback: int
    characters: int = field(default=0, kw_only=True)
    n_bytes: int = field(default=0, kw_only=True)
    anywhere: ClassVar[bool] = True  # whether a training row may begin at any token

    @property
    def n_predicted(self) -> int:
        """How many tokens the split asks for, each once."""
        return len(self.tokens) - 1

    @property
    def n_rows(self) -> int:
        """How many rows make up the whole split."""
        return -(-self.n_predicted // self.window)

    def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``first``, ``count``, ``began`` of rows: they predict ``count`` tokens after ``first``.

        They may look back as far as the token ``began``. All have the shape of ``index``.
        """
        first = index * self.window
        count = np.minimum(self.window, self.n_predicted - first)
        return first, count, np.zeros_like(first)

    def pairs(self) -> tuple[Any, Any]:
        """Every token but the last, and what follows it: what a bigram counts, (N,) each."""
        return self.tokens[:-1], self.tokens[1:]

    def sample(self, n: int) -> "Split":
        """``n`` of its rows, evenly spread over it; all of them where there are no more."""
        if n >= self.n_rows:
            return self
        rows = self.rows(np.arange(n) * self.n_rows // n)
        return ItemSplit(self.tokens, self.window, self.lookback, *rows)


@dataclass(frozen=True)
class ItemSplit(Split):
    """Rows that stand in arrays: those of items, of which none goes on into the next."""

    first: np.ndarray
    count: np.ndarray
    began: np.ndarray
    anywhere = False

    @property
    def n_predicted(self) -> int:
        return int(self.count.sum())

    @property
    def n_rows(self) -> int:
        return len(self.first)

    def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.first[index], self.count[index], self.began[index]


class SkipGramSplit(ItemSplit):
    """Rows of one prediction: a word, and one of its neighbours; no text is made of these."""

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Every word and its neighbour, (N,) each."""
        return self.tokens[::2], self.tokens[1::2]


def build(
    texts: Mapping[str, str | Encoded],
    tok: Tokenizer,
    model: Any,
    items: bool,
    window: int = 0,
    neighbours: int = 0,
) -> dict[str, Split]:
    """Cut texts (streams, or items one a line) into rows of one common width, encoded if need be.

    ``model`` says ``block_size``, ``lookback`` and ``slides``. ``window``: predictions of a row; 0
    is block_size, or an item as far as the model can take it. ``neighbours`` above 0 makes pairs
    (skip-gram) of words at most so far apart. UserError: a character that ``tok`` lacks; pairs of
    words of an ``Encoded`` text.
    """
    if neighbours and any(isinstance(text, Encoded) for text in texts.values()):
        raise UserError(
            f"train.neighbours={neighbours} makes its pairs in memory, and data.path names the "
            "tokens of a text that need not fit there: give the text itself"
        )
    encoded = {
        name: text if isinstance(text, Encoded) else encode(text, tok, items)
        for name, text in texts.items()
    }
    tokens = {name: text.tokens for name, text in encoded.items()}
    end_id, splits = tok.end_id if items else None, {}
    if neighbours:
        return _pairs_of_words(tokens, tok, neighbours, end_id)
    for name, split in cut(tokens, end_id, model, window).items():
        characters, n_bytes = encoded[name].characters, encoded[name].n_bytes
        if not items:  # the first token is not predicted
            first = np.asarray(tokens[name][:1])
            characters -= len(tok.decode(first))
            n_bytes -= sum(len(tok.token_bytes(id)) for id in first.tolist())
        splits[name] = replace(split, characters=characters, n_bytes=max(0, n_bytes))
    return splits


def encode(text: str, tok: Tokenizer, items: bool, ids: np.ndarray | None = None) -> Encoded:
    """The ids of a stream, or of items with an end before and after each, which is a character.

    ``ids``: those of a stream, where they are known.
    """
    if not items:
        return Encoded(tok.encode(text) if ids is None else ids, len(text), _n_bytes(text))
    lines = item_lines(text)
    try:
        ids, more = tok.encode_items(lines), len(lines)
        return Encoded(ids, sum(map(len, lines)) + more, sum(map(_n_bytes, lines)) + more)
    except UserError:
        for number, line in enumerate(text.split("\n"), start=1):  # which one is it?
            try:
                tok.encode(line.rstrip())
            except UserError as error:
                raise UserError(f"line {number}: {error}") from error
        raise


def _n_bytes(text: str) -> int:
    """The length of a text in UTF-8, without a copy of all of it."""
    if text.isascii():
        return len(text)
    parts = (text[begin : begin + _PART] for begin in range(0, len(text), _PART))
    return sum(len(part.encode("utf-8", "surrogatepass")) for part in parts)


def cut(
    tokens: Mapping[str, np.ndarray], end_id: int | None, model: Any, window: int = 0
) -> dict[str, Split]:
    """Cut the ids (N,) of every split into rows, as ``build`` does; a stream has no ``end_id``."""
    if end_id is None:
        window = window or model.block_size
        return {name: cut_stream(ids, window, model.lookback) for name, ids in tokens.items()}
    longest = max(int(np.diff(np.flatnonzero(ids == end_id)).max()) for ids in tokens.values())
    limit = window or (LONGEST_SLIDING_ROW if model.slides else model.block_size)
    # Where every item fits into one row, no row needs places that show its past.
    lookback = model.lookback if longest > limit else 0
    window = min(longest, limit)
    return {name: cut_items(ids, end_id, window, lookback) for name, ids in tokens.items()}


def cut_stream(tokens: Any, window: int, lookback: int = 0) -> Split:
    """Cut a stream into rows of ``window`` predictions; the last may have fewer."""
    return Split(tokens, window, lookback)


def cut_items(tokens: np.ndarray, end_id: int, window: int, lookback: int = 0) -> ItemSplit:
    """Find the items of a split; one longer than ``window`` continues in a further row.

    ``tokens``: ``end_id``, then each item followed by ``end_id``, ints (N,). A row that continues
    an item shows ``lookback`` tokens in front of it.
    """
    ends = np.flatnonzero(tokens == end_id)
    starts, lengths = ends[:-1], np.diff(ends)  # an item begins at the end before it
    n_parts = -(-lengths // window)
    item = np.repeat(np.arange(len(starts)), n_parts)
    part = np.arange(len(item)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    first = starts[item] + part * window
    count = np.minimum(window, lengths[item] - part * window)
    return ItemSplit(tokens, window, lookback, first, count, starts[item])


def skip_gram(tokens: np.ndarray, neighbours: int, end_id: int | None = None) -> SkipGramSplit:
    """Make a row of every word and each of its neighbours: x is the word, y the neighbour.

    A neighbour stands at most ``neighbours`` tokens away, on either side. ``end_id``: None for a
    stream; for items the token that ends one: no pair holds or spans it. Source: Mikolov et al.
    2013, "Efficient estimation of word representations in vector space".
    """
    end_id = -1 if end_id is None else end_id  # which is no token: a stream is one item
    item = np.cumsum(tokens == end_id)
    pairs = []
    for far in range(1, min(neighbours, len(tokens) - 1) + 1):
        left, right = tokens[:-far], tokens[far:]
        keep = (item[:-far] == item[far:]) & (left != end_id)
        pairs += [np.stack(sides, axis=1)[keep] for sides in ((left, right), (right, left))]
    flat = np.concatenate(pairs).reshape(-1) if pairs else tokens[:0]
    first = np.arange(0, len(flat), 2)
    return SkipGramSplit(flat, 1, 0, first, np.ones_like(first), first)


def _pairs_of_words(
    tokens: Mapping[str, np.ndarray], tok: Tokenizer, neighbours: int, end_id: int | None
) -> dict[str, Split]:
    """The pairs of every split; white space, marks and unknown words are passed over."""
    kept_V = np.array([tok.is_word(id) or id == end_id for id in range(tok.vocab_size)])
    splits: dict[str, Split] = {}
    for name, ids in tokens.items():
        splits[name] = skip_gram(ids[kept_V[ids]], neighbours, end_id)
        if not splits[name].n_predicted:
            raise UserError(
                f"the {name} split has no two words within train.neighbours={neighbours}: give "
                "more text, or raise train.neighbours"
            )
    return splits


def check_lengths(splits: Mapping[str, Split]) -> None:
    """Refuse, by ``UserError``, a stream with fewer tokens than a row and the one to predict."""
    for name, split in sorted(splits.items(), key=lambda named: len(named[1].tokens)):
        n_tokens, width = len(split.tokens), split.lookback + split.window
        if split.anywhere and n_tokens < width + 1:
            smaller = f", or set model.block_size to at most {n_tokens - 1}"
            raise UserError(
                f"the {name} split has {n_tokens} tokens, and model.block_size={width} needs "
                f"{width + 1}: give more text{smaller if n_tokens > 1 else ''}"
            )
