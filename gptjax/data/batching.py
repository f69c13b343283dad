"""Batch k of a run, as a function of the seed and k alone: the notes' ``get_batch``.

In: a split cut into rows. Out: ``Batch(x, y, w)``: what the model sees, what comes next, and 1
where a place counts. Nothing is remembered from step to step. Source: pages 2 and 3.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gptjax.data.dataset import Split

# Every purpose draws from a key of its own, so that evaluation never moves a training batch.
PURPOSES = {"train": 0, "eval_train": 1, "eval_val": 2, "eval_test": 3}


class Batch(NamedTuple):
    """Inputs x (..., B, lookback + T), targets y and weights w (..., B, T): int32, int32, float32.

    A row shows ``lookback`` places of the past, as many as its split says, then T that are asked.
    """

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray


def get_batch(
    split: Split, batch_size: int, seed: int, step: int = 0, purpose: str = "train"
) -> Batch:
    """Page 3: ``batch_size`` random rows of a split, and at each place the token that follows.

    Rows of a stream begin anywhere; of items they are items. Another step, another batch (B, T);
    any number from 0. ``purpose``: which of ``PURPOSES`` asks; each has draws of its own.
    """
    batches = get_batches(split, batch_size, seed, [step], purpose)
    return Batch(*(array[0] for array in batches))


def get_batches(
    split: Split,
    batch_size: int,
    seed: int,
    steps: Iterable[int],
    purpose: str = "train",
    rows: Any = slice(None),
) -> Batch:
    """``get_batch`` of several steps, gathered at once: (n, B, T); of each the ``rows`` alone."""
    ix = np.stack([_draw(split, batch_size, seed, step, purpose)[rows] for step in steps])
    if split.anywhere:
        return _gather(split, split.lookback + ix, np.full_like(ix, split.window), ix)
    return _gather(split, *split.rows(ix))


def _draw(split: Split, batch_size: int, seed: int, step: int, purpose: str) -> np.ndarray:
    """ix: numbers of rows, or for a stream places where rows begin, (B,)."""
    # Philox is counter-based: (seed, purpose, step) is its whole state.
    bits = np.random.Philox(key=[seed, PURPOSES[purpose]], counter=[0, 0, 0, step])
    room = len(split.tokens) - split.lookback - split.window if split.anywhere else split.n_rows
    return np.random.Generator(bits).integers(0, room, batch_size)


def whole_split(split: Split, batch_size: int, n: int) -> Iterator[Batch]:
    """Yield every row once, in order, as batches (n, B, T); the end is filled with weight 0.

    All are of one shape; their weights sum to ``split.n_predicted``.
    """
    for begin in range(0, split.n_rows, n * batch_size):
        index = np.arange(begin, begin + n * batch_size).reshape(n, batch_size)
        real = index < split.n_rows
        first, count, began = split.rows(np.where(real, index, 0))
        yield _gather(split, first, count * real, began)


def _gather(split: Split, first: np.ndarray, count: np.ndarray, began: np.ndarray) -> Batch:
    """Rows that predict ``count`` tokens after ``first``: x = tokens[i], y = tokens[i + 1]."""
    first, count, began = (array[..., None] for array in (first, count, began))
    counts = np.arange(split.window) < count
    at = first + np.arange(-split.lookback, split.window)
    # A row that ends early shows its last token again: nothing that follows counts.
    at = np.minimum(at, np.maximum(first + count - 1, first))
    x = split.tokens[np.maximum(at, began)]
    x = np.where(at < began, split.start_id, x)  # what stands before a beginning
    y = split.tokens[at[..., split.lookback :] + 1]
    return Batch(x.astype(np.int32), y.astype(np.int32), counts.astype(np.float32))
