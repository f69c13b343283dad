"""Models by counting: the closed form of what a table learns, and the lines to beat.

In: the tokens of a split. Out: a ``Bigram`` and its loss in nats; the table of an n-gram; how far
two tables are apart. Nothing is trained here.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Bigram:
    """P(j | i) = (n[i, j] + add) / (n[i] + add · V), n counted in the training tokens.

    Only the pairs that occur are kept (``pairs`` = i · V + j, sorted, with ``n_pairs``): a table
    of all pairs of a word vocabulary would not fit in memory. Source: makemore part 1.
    """

    vocab_size: int
    pairs: np.ndarray
    n_pairs: np.ndarray
    n_first: np.ndarray
    add: float

    def nats(self, tokens: np.ndarray) -> float:
        """Mean -ln P(next | this) over ``tokens`` (N,), or pairs (N, 2): nats per token.

        It is infinity when ``add`` is 0 and a pair occurs that training never saw.
        """
        pairs, weight = np.unique(_pairs(tokens, self.vocab_size), return_counts=True)
        at = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        seen = np.where(self.pairs[at] == pairs, self.n_pairs[at], 0)
        total = self.n_first[pairs // self.vocab_size] + self.add * self.vocab_size
        with np.errstate(divide="ignore", invalid="ignore"):
            nll = np.log(total) - np.log(seen + self.add)
        nll = np.where(seen + self.add > 0, nll, np.inf)
        return float(np.sum(weight * nll) / np.sum(weight))


def count_bigram(tokens: np.ndarray, vocab_size: int, add: float = 1.0) -> Bigram:
    """Count which token follows which.

    Args:
      tokens: the training split, ints (N,), N >= 2; or pairs (N, 2) that stand alone.
      vocab_size: V.
      add: count given to every pair, so that an unseen one is not impossible.

    Returns:
      The model.
    """
    all_pairs = _pairs(tokens, vocab_size)
    pairs, n_pairs = np.unique(all_pairs, return_counts=True)
    n_first = np.bincount(all_pairs // vocab_size, minlength=vocab_size)
    return Bigram(vocab_size, pairs, n_pairs, n_first, add)


def count_ngram(
    contexts: np.ndarray, nexts: np.ndarray, vocab_size: int, n_contexts: int, add: float = 1.0
) -> np.ndarray:
    """The n-gram's table: log P(j | context), P = (n[context, j] + add) / (n[context] + add · V).

    Args:
      contexts: the number of each prediction's context, ints (N,).
      nexts: the token that came, ints (N,).
      vocab_size: V.
      n_contexts: rows of the table.
      add: count given to every continuation, above 0; a context never seen gets a uniform row.

    Returns:
      (n_contexts, V), float32, nats: logits that softmax leaves as they are.
    """
    cells = contexts.astype(np.int64) * vocab_size + nexts
    n = np.bincount(cells, minlength=n_contexts * vocab_size).reshape(n_contexts, vocab_size)
    log_n = np.log(n.sum(axis=1, keepdims=True) + add * vocab_size)
    return (np.log(n + add) - log_n).astype(np.float32)


def unigram_nats(train: np.ndarray, tokens: np.ndarray, vocab_size: int) -> float:
    """Mean -ln of the (add-one) share that each of ``tokens`` has in ``train``: nats per token."""
    n = np.bincount(train.reshape(-1), minlength=vocab_size) + 1
    return float(np.mean(np.log(n.sum()) - np.log(n)[tokens.reshape(-1)]))


def total_variation(logits_NxV: np.ndarray, log_p_NxV: np.ndarray) -> np.ndarray:
    """How far two tables are apart, row by row: ½ Σ_j |softmax(a)_j - softmax(b)_j|, 0 to 1.

    Args:
      logits_NxV, log_p_NxV: the tables.

    Returns:
      (N,), the probability that would have to move.
    """

    def softmax(table):
        p = np.exp(np.asarray(table, np.float64) - table.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    return np.abs(softmax(logits_NxV) - softmax(log_p_NxV)).sum(axis=1) / 2


def _pairs(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    first, second = (tokens[:-1], tokens[1:]) if tokens.ndim == 1 else tokens.T
    return first.astype(np.int64) * vocab_size + second
