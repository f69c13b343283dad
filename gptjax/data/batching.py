"""Batch k of a run, as a function of the seed and k alone.

In: the tokens of a split and where its rows may begin. Out: ``Batch(x, y, w)`` of shape (B, T):
what the model sees, what comes next, and 1 where a place counts. No iterator and no generator
state exist, so a run continues, replays or splits over machines by knowing its step.

A stream's row may begin anywhere (the notes' ``get_batch``). The items of a list (names) stand
in one long array too, each behind a "\\n": a row is one item, from that "\\n" to the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

# Every purpose draws from a key of its own, so that evaluation never moves a training batch.
PURPOSES = {"train": 0, "eval_train": 1, "eval_val": 2, "eval_test": 3}


# A model that slides takes rows of any length; longer items than this are done in parts.
LONGEST_SLIDING_ROW = 64


class Batch(NamedTuple):
    """Inputs, targets and weights, (..., B, T) each: int32, int32, float32."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray


@dataclasses.dataclass(frozen=True)
class Rows:
    """A split, ready to be cut: row i predicts tokens[first[i] + 1 ... first[i] + count[i]].

    ``first`` and ``count`` together cover every predicted token exactly once; ``began`` is the
    earliest token a row may look back at. ``window`` is the most predictions of a row, behind
    ``lookback`` places that show the past and do not count, so rows are T = lookback + window
    wide. ``anywhere``: a training row may begin at any token (a stream). ``paired``: the tokens are
    (word, neighbour) pairs, one behind the other, and what follows a pair does not belong to it.
    """

    tokens: np.ndarray
    first: np.ndarray
    count: np.ndarray
    began: np.ndarray
    window: int
    lookback: int
    anywhere: bool
    paired: bool = False

    @property
    def counted(self) -> np.ndarray:
        """What a count of pairs reads: tokens in a row (N,), or pairs that stand alone (N, 2)."""
        return self.tokens.reshape(-1, 2) if self.paired else self.tokens

    @property
    def n_predicted(self) -> int:
        """How many tokens the split asks for, each once."""
        return int(self.count.sum())


def stream_rows(tokens: np.ndarray, window: int, lookback: int = 0) -> Rows:
    """Cut a stream into rows of ``window`` predictions, one behind the other.

    Args:
      tokens: the whole split, ints (N,), N > window + lookback.
      window: predictions per row.
      lookback: tokens shown in front of a row.

    Returns:
      The rows; the last may be shorter, the first have less to look back on.
    """
    first = np.arange(0, len(tokens) - 1, window)
    count = np.minimum(window, len(tokens) - 1 - first)
    return Rows(tokens, first, count, np.zeros_like(first), window, lookback, anywhere=True)


def item_rows(tokens: np.ndarray, end_id: int, window: int, lookback: int = 0) -> Rows:
    """Find the items of a split; one longer than ``window`` continues in a further row.

    Args:
      tokens: ``end_id``, then each item followed by ``end_id``, ints (N,).
      end_id: the token that ends an item, and so begins the next.
      window: the most predictions of a row.
      lookback: tokens shown in front of a row that continues an item.

    Returns:
      The rows.
    """
    starts, lengths = item_spans(tokens, end_id)
    n_parts = -(-lengths // window)
    item = np.repeat(np.arange(len(starts)), n_parts)
    part = np.arange(len(item)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    first = starts[item] + part * window
    count = np.minimum(window, lengths[item] - part * window)
    return Rows(tokens, first, count, starts[item], window, lookback, anywhere=False)


def item_spans(tokens: np.ndarray, end_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each item begins (at the ``end_id`` before it), and its predictions, end included."""
    ends = np.flatnonzero(tokens == end_id)
    return ends[:-1], np.diff(ends)


def pair_rows(tokens: np.ndarray, neighbours: int, end_id: int | None = None) -> Rows:
    """Make a row of every word and each of its neighbours: the pairs of skip-gram.

    Args:
      tokens: the split, ints (N,).
      neighbours: how far a neighbour may stand, tokens, on either side.
      end_id: None for a stream; for items the token that ends one: no pair holds or spans it.

    Returns:
      Rows of one prediction: x is the word, y the neighbour.

    Source: Mikolov et al. 2013, "Efficient estimation of word representations in vector space".
    """
    item = np.zeros_like(tokens) if end_id is None else np.cumsum(tokens == end_id)
    pairs = []
    for far in range(1, min(neighbours, len(tokens) - 1) + 1):
        left, right = tokens[:-far], tokens[far:]
        keep = item[:-far] == item[far:]
        if end_id is not None:
            keep &= left != end_id
        pairs += [np.stack(sides, axis=1)[keep] for sides in ((left, right), (right, left))]
    flat = np.concatenate(pairs).reshape(-1) if pairs else tokens[:0]
    first = np.arange(0, len(flat), 2)
    return Rows(flat, first, np.ones_like(first), first, 1, 0, anywhere=False, paired=True)


def make_rows(
    splits: Mapping[str, np.ndarray],
    end_id: int | None,
    block_size: int,
    lookback: int,
    window: int,
    slides: bool,
) -> dict[str, Rows]:
    """Cut every split into rows of one common width, so that one compiled program reads them all.

    Args:
      splits: name -> tokens (N,); for items as ``item_rows`` wants them.
      end_id: None for a stream; for items the token that ends one.
      block_size: of the model.
      lookback: of the model.
      window: predictions per row; 0 means block_size, or an item as far as the model can take it.
      slides: whether the model reads rows of any length, and not only of block_size places.

    Returns:
      name -> rows.
    """
    if end_id is None:
        window = window or block_size
        return {name: stream_rows(t, window, lookback) for name, t in splits.items()}
    longest = max(int(item_spans(t, end_id)[1].max()) for t in splits.values())
    limit = window or (LONGEST_SLIDING_ROW if slides else block_size)
    # Where every item fits into one row, no row needs places that show its past.
    lookback = lookback if longest > limit else 0
    window = min(longest, limit)
    return {name: item_rows(t, end_id, window, lookback) for name, t in splits.items()}


def get_batches(
    rows: Rows, seed: int, purpose: str, first_step: int, n: int, batch_size: int
) -> Batch:
    """Draw the batches of ``n`` steps: the notes' ``get_batch``, with nothing to remember.

    Args:
      rows: the split.
      seed: of the run.
      purpose: which of ``PURPOSES`` asks; each has draws of its own.
      first_step: k, any number from 0.
      n: how many steps, k to k + n - 1.
      batch_size: B.

    Returns:
      Batches (n, B, T); those of a step are the same in whatever company they are drawn.

    Source: page 3.
    """
    draws = []
    room = len(rows.tokens) - rows.window - rows.lookback if rows.anywhere else len(rows.first)
    for step in range(first_step, first_step + n):
        # Philox is counter-based: (seed, purpose, step) is its whole state.
        bits = np.random.Philox(key=[seed, PURPOSES[purpose]], counter=[0, 0, 0, step])
        draws.append(np.random.Generator(bits).integers(0, room, batch_size))
    draw = np.stack(draws)
    if not rows.anywhere:
        return _gather(rows, rows.first[draw], rows.count[draw], rows.began[draw])
    return _gather(rows, rows.lookback + draw, np.full_like(draw, rows.window), draw)


def whole_split(rows: Rows, batch_size: int, n: int) -> Iterator[Batch]:
    """Every row once, in order; the end is filled up with rows of weight 0.

    Args:
      rows: the split.
      batch_size: B.
      n: batches to give at a time.

    Yields:
      Batches (n, B, T), all of one shape, whose weights sum to ``rows.n_predicted``.
    """
    for begin in range(0, len(rows.first), n * batch_size):
        index = np.arange(begin, begin + n * batch_size).reshape(n, batch_size)
        real = index < len(rows.first)
        index = np.where(real, index, 0)
        yield _gather(rows, rows.first[index], rows.count[index] * real, rows.began[index])


def _gather(rows: Rows, first: np.ndarray, count: np.ndarray, began: np.ndarray) -> Batch:
    lead = np.minimum(rows.lookback, first - began)[..., None]
    place = np.arange(rows.lookback + rows.window)
    counts = (place >= lead) & (place < lead + count[..., None])
    at = first[..., None] - lead + place
    # A row that ends early shows its last token again: nothing that follows counts.
    at = np.minimum(at, np.maximum(first + count - 1, first)[..., None])
    x, y = rows.tokens[at], rows.tokens[at + 1]
    return Batch(x.astype(np.int32), y.astype(np.int32), counts.astype(np.float32))
