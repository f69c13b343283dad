"""The bigram by counting: the closed form of what the table learns, and the line to beat.

In: the tokens of a split. Out: a ``Bigram``, and its loss in nats. Nothing is trained here.
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
        """Mean -ln P(next | this) over the pairs of ``tokens`` (N,): nats per token.

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
      tokens: the training split, ints (N,), N >= 2.
      vocab_size: V.
      add: count given to every pair, so that an unseen one is not impossible.

    Returns:
      The model.
    """
    pairs, n_pairs = np.unique(_pairs(tokens, vocab_size), return_counts=True)
    n_first = np.bincount(tokens[:-1], minlength=vocab_size)
    return Bigram(vocab_size, pairs, n_pairs, n_first, add)


def _pairs(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    return tokens[:-1].astype(np.int64) * vocab_size + tokens[1:]
