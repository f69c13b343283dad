"""Models by counting: the closed form of what a table learns, and the losses to compare with.

In: the pairs (or contexts) of a split. Out: a ``CountBigram``, an n-gram's table, losses in nats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from flax import linen as nn

from gptjax.data.batching import whole_split
from gptjax.data.dataset import Split
from gptjax.models import ngram

_PART = 2**22  # pairs counted at a time: in between a signal is heard


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
    n_first = np.bincount(first, minlength=vocab_size)
    return CountBigram(vocab_size, pairs, n_pairs, n_first, add)


def count_bigram_nats(splits: Mapping[str, Split], vocab_size: int) -> dict[str, float]:
    """The baseline of every run: the add-one count bigram's loss on each split, nats per token."""
    bigram = count_bigram(*splits["train"].pairs(), vocab_size)
    return {name: bigram.nats(*split.pairs()) for name, split in splits.items()}


def count_ngram(
    contexts: np.ndarray, nexts: np.ndarray, vocab_size: int, n_contexts: int, add: float = 1.0
) -> np.ndarray:
    """The n-gram's table: log P(j | context), P = (n[context, j] + add) / (n[context] + add · V).

    ``contexts``, ``nexts``: the number of each prediction's context and the token that came, ints
    (N,). ``add`` is above 0; a context never seen gets a uniform row. The table, (n_contexts, V)
    float32 nats, is one of logits that softmax leaves as they are.
    """
    cells = _cells(contexts, nexts, vocab_size)
    n = np.bincount(cells, minlength=n_contexts * vocab_size).reshape(n_contexts, vocab_size)
    log_n = np.log(n.sum(axis=1, keepdims=True) + add * vocab_size)
    return (np.log(n + add) - log_n).astype(np.float32)


def fit_ngram(model: nn.Module, split: Split, add: float) -> dict[str, dict[str, np.ndarray]]:
    """The parameters of an ``NGramLanguageModel``, counted in a split."""
    (batch,) = whole_split(split, len(split.first), 1)
    V, block = model.vocab_size, model.block_size
    contexts = np.asarray(ngram.contexts(batch.x[0], V, block, model.start_id))
    counts = batch.w[0] > 0
    table = count_ngram(contexts[counts], batch.y[0][counts], V, V**block, add)
    return {"token_embedding_table": {"embedding": table}}


def unigram_nats(train: np.ndarray, tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """-ln of the (add-one) share that each of ``tokens`` (N,) has in ``train``: nats, (N,)."""
    n = np.bincount(train, minlength=vocab_size) + 1
    return (np.log(n.sum()) - np.log(n))[tokens]


def total_variation(logits_NxV: np.ndarray, log_p_NxV: np.ndarray) -> np.ndarray:
    """½ Σ_j |softmax(a)_j - softmax(b)_j|, (N,): the probability that would have to move."""

    def softmax(table):
        p = np.exp(np.asarray(table, np.float64) - table.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    return np.abs(softmax(logits_NxV) - softmax(log_p_NxV)).sum(axis=1) / 2


def _count_pairs(
    first: np.ndarray, second: np.ndarray, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that occur, as i · V + j, sorted, and how often each does."""
    n_cells = vocab_size**2
    if n_cells > len(first) + _PART:  # a table of all pairs would be mostly empty, or too large
        return np.unique(_cells(first, second, vocab_size), return_counts=True)
    n = np.zeros(n_cells, np.int64)
    for begin in range(0, len(first), _PART):  # several times quicker than sorting
        part = slice(begin, begin + _PART)
        n += np.bincount(_cells(first[part], second[part], vocab_size), minlength=n_cells)
    pairs = np.flatnonzero(n)
    return pairs, n[pairs]


def _cells(first: np.ndarray, second: np.ndarray, vocab_size: int) -> np.ndarray:
    """first · V + second: the place of each pair in a table with V columns."""
    return first.astype(np.int64) * vocab_size + second
