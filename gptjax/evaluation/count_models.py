"""Models by counting: the closed form of what a table learns, and the losses to compare with.

In: the pairs (or contexts) of a split. Out: a ``CountBigram``, an n-gram's table, losses in nats.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from gptjax.data.batching import whole_split
from gptjax.data.dataset import Split
from gptjax.evaluation.loss_eval import softmax
from gptjax.models import ngram

_PART = 2**22  # pairs counted at a time: in between a signal is heard
Counted = tuple[np.ndarray, np.ndarray]  # pairs, sorted, and how often each came


@dataclasses.dataclass(frozen=True)
class CountBigram:
    """P(j | i) = (n[i, j] + add) / (n[i] + add · V), n counted in the training tokens.

    Only the pairs that occur are kept (``pairs`` = i · V + j, sorted, with ``n_pairs``): a table
    of all pairs of a word vocabulary would not fit in memory. Source: makemore part 1.
    """

    vocab_size: int
    pairs: np.ndarray
    n_pairs: np.ndarray
    n_first: np.ndarray
    add: float

    def nats(self, first: np.ndarray, second: np.ndarray) -> float:
        """Mean -ln P(second | first), ids (N,) each, nats per token; infinite where a P is 0."""
        pairs, weight = _count_pairs(first, second, self.vocab_size)
        return float(np.sum(weight * self._nats_of(pairs)) / np.sum(weight))

    def each(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """-ln P(second | first) of every pair, (N,): those of which ``nats`` is the mean."""
        return self._nats_of(_cells(first, second, self.vocab_size))

    def _nats_of(self, pairs: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        seen = np.where(self.pairs[at] == pairs, self.n_pairs[at], 0)
        total = self.n_first[pairs // self.vocab_size] + self.add * self.vocab_size
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(seen + self.add > 0, np.log(total) - np.log(seen + self.add), np.inf)


def count_bigram(
    first: np.ndarray, second: np.ndarray, vocab_size: int, add: float = 1.0
) -> CountBigram:
    """Count which token follows which: ints (N,) each, N >= 1; ``add`` as in ``CountBigram``."""
    pairs, n_pairs = _count_pairs(first, second, vocab_size)
    n_first = np.bincount(pairs // vocab_size, n_pairs, vocab_size).astype(np.int64)
    return CountBigram(vocab_size, pairs, n_pairs, n_first, add)


def count_bigram_nats(splits: Mapping[str, Split], vocab_size: int) -> dict[str, float]:
    """The baseline of every run: the add-one count bigram's loss on each split, nats per token."""
    bigram = count_bigram(*splits["train"].pairs(), vocab_size)
    return {name: bigram.nats(*split.pairs()) for name, split in splits.items()}


def count_ngram(
    predictions: Iterable[tuple[np.ndarray, np.ndarray]],
    vocab_size: int,
    n_contexts: int,
    add: float = 1.0,
) -> np.ndarray:
    """The n-gram's table: log P(j | context), P = (n[context, j] + add) / (n[context] + add · V).

    ``predictions``: some at a time, the number of each one's context and the token that came, ints
    (N,). ``add`` is above 0; a context never seen gets a uniform row. The table, (n_contexts, V)
    float32 nats, is one of logits that softmax leaves as they are.
    """
    n = np.zeros(n_contexts * vocab_size, np.int64)
    for contexts, nexts in predictions:
        n += np.bincount(_cells(contexts, nexts, vocab_size), minlength=len(n))
    n = n.reshape(n_contexts, vocab_size)
    log_n = np.log(n.sum(axis=1, keepdims=True) + add * vocab_size)
    return (np.log(n + add) - log_n).astype(np.float32)


def fit_ngram(model: nn.Module, split: Split, add: float) -> dict[str, dict[str, np.ndarray]]:
    """The parameters of an ``NGramLanguageModel``, counted in a split."""
    V, block = model.vocab_size, model.block_size
    rows = min(split.n_rows, -(-_PART // (split.lookback + split.window)))

    def predictions() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in whole_split(split, rows, 1):
            contexts = np.asarray(ngram.contexts(batch.x[0], V, block, model.start_id))
            contexts = contexts[:, split.lookback :]
            counts = batch.w[0] > 0
            yield contexts[counts], batch.y[0][counts]

    table = count_ngram(predictions(), V, V**block, add)
    return {"token_embedding_table": {"embedding": table}}


def token_counts(tokens: Any, vocab_size: int) -> np.ndarray:
    """How often each token stands among ``tokens``, ints (N,): (V,) int64."""
    n = np.zeros(vocab_size, np.int64)
    for begin in range(0, len(tokens), _PART):
        n += np.bincount(np.asarray(tokens[begin : begin + _PART]), minlength=vocab_size)
    return n


def unigram_nats(counts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """-ln of the (add-one) share that ``tokens`` (N,) have by ``token_counts`` (V,): nats, (N,)."""
    n = counts + 1
    return (np.log(n.sum()) - np.log(n))[tokens]


def total_variation(logits_NxV: np.ndarray, log_p_NxV: np.ndarray) -> np.ndarray:
    """½ Σ_j |softmax(a)_j - softmax(b)_j|, (N,): the probability that would have to move."""
    return np.abs(softmax(logits_NxV) - softmax(log_p_NxV)).sum(axis=1) / 2


def _count_pairs(first: Any, second: Any, vocab_size: int) -> Counted:
    """The pairs that occur, as i · V + j, sorted, and how often each does."""
    n_cells = vocab_size**2
    parts = (slice(begin, begin + _PART) for begin in range(0, len(first), _PART))
    cells = (_cells(first[part], second[part], vocab_size) for part in parts)
    if n_cells > len(first) + _PART:  # a table of all pairs would be mostly empty, or too large
        found: list[Counted] = []
        for part in cells:
            found.append(np.unique(part, return_counts=True))
            # Of equal sizes, as in a merge sort: each pair is sorted again only a few times.
            while len(found) > 1 and len(found[-2][0]) <= 2 * len(found[-1][0]):
                found.append(_add(found.pop(), found.pop()))
        return functools.reduce(_add, found)
    n = np.zeros(n_cells, np.int64)
    for part in cells:  # several times quicker than sorting
        n += np.bincount(part, minlength=n_cells)
    pairs = np.flatnonzero(n)
    return pairs, n[pairs]


def _add(a: Counted, b: Counted) -> Counted:
    """The counts of two parts as those of both."""
    pairs, at = np.unique(np.concatenate([a[0], b[0]]), return_inverse=True)
    return pairs, np.bincount(at, np.concatenate([a[1], b[1]])).astype(np.int64)


def _cells(first: Any, second: Any, vocab_size: int) -> np.ndarray:
    """first · V + second: the place of each pair in a table with V columns."""
    return np.asarray(first, np.int64) * vocab_size + np.asarray(second)
