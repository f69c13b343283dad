"""What a model makes of a text, token by token: how surprised it was, and what it had expected.

In: a run and a text. Out: the text's rows, as ``evaluate --per_token`` cuts it, and of each
predicted token its loss, its rank and the likeliest others. Computed by ``capture``, in float32.

R rows, S places of a row with what it looks back on, T predictions of a row, P predictions of the
text, K likeliest tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gptjax.checkpoints.run import Run
from gptjax.data.batching import whole_split
from gptjax.data.dataset import LONGEST_SLIDING_ROW
from gptjax.evaluation import probe
from gptjax.evaluation.count_models import CountBigram
from gptjax.interpret import capture
from gptjax.interpret.capture import Captured

TOP = 8  # likeliest tokens that are told of each place


class Rows(NamedTuple):
    """The beginning of a text as rows: row r predicts ``count_R[r]`` tokens after ``first_R[r]``.

    ``ids``: the text's tokens (P + 1,), of which ``first_R`` are indices. ``x_RxS`` is what the
    model is shown, its last T places those that predict ``y_RxT``; of these the first ``count_R``
    are the text's. ``n_predicted``: of the whole text, P of which are here.
    """

    ids: np.ndarray
    first_R: np.ndarray
    count_R: np.ndarray
    x_RxS: np.ndarray
    y_RxT: np.ndarray
    n_predicted: int

    @property
    def lookback(self) -> int:
        """Places of a row that only show the past."""
        return self.x_RxS.shape[1] - self.y_RxT.shape[1]


class Guesses(NamedTuple):
    """At each of some places: -ln P (nats) and rank (1: likeliest) of the token that came, and
    the K likeliest tokens with their probabilities, (..., K)."""

    nats: np.ndarray
    rank: np.ndarray
    top_ids: np.ndarray
    top_p: np.ndarray


def rows(run: Run, text: str, most: int) -> Rows:
    """The first ``most`` predictions of a text, cut as ``evaluate`` cuts it.

    All texts of a run have rows of one shape, so that they share a program. Raises:
      UserError: a character that the tokenizer lacks, or nothing to predict.
    """
    split = probe.text_split(run, text)
    model, window, begin = run.model, split.window, split.lookback
    if run.items:  # as wide as the longest item of a text, and another text has another one
        window = max(window, LONGEST_SLIDING_ROW if model.slides else model.block_size)
    width = min(most, window)
    first, count, x, y, left = [], [], [], [], most
    for n, batch in enumerate(whole_split(split, 1, 1)):
        if not left:
            break
        at, of_row, _ = (int(a) for a in split.rows(np.array(n)))
        first.append(at)
        count.append(min(of_row, left))
        left -= count[-1]
        x.append(_of_length(batch.x[0, 0], begin + width))
        y.append(_of_length(batch.y[0, 0], width))
    first_R, count_R = np.array(first), np.array(count)
    ids = np.asarray(split.tokens[first[0] : first[-1] + count[-1] + 1], np.int32)
    return Rows(ids, first_R - first[0], count_R, np.stack(x), np.stack(y), split.n_predicted)


def _of_length(row: np.ndarray, n: int) -> np.ndarray:
    """A row cut, or filled up with token 0, which no place before it can see."""
    return np.pad(row[:n], (0, max(0, n - len(row))))


def captures(run: Run, cut: Rows) -> Iterator[Captured]:
    """What the model goes through on each row, a batch of one, without what it looked back on."""
    for x_S in cut.x_RxS:
        found = capture.capture(run.model, run.params, x_S[None])
        yield found._replace(logits_BxTxV=found.logits_BxTxV[:, cut.lookback :])


def guesses(logits_TxV: np.ndarray, y_T: np.ndarray, k: int = TOP) -> Guesses:
    """What logits (T or more, V) say of the tokens y (T,) that came; K = min(k, V).

    On the host: a program that sorts takes longer to compile than this does.
    """
    logits = logits_TxV[: len(y_T)]
    k, most = min(k, logits.shape[1]), logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - most).sum(axis=1, keepdims=True, dtype=np.float64))

    def log_p(ids: np.ndarray) -> np.ndarray:
        chosen = np.take_along_axis(logits, ids, axis=1)
        return chosen.astype(np.float64) - most - log_sum

    # By id, then by probability: of equals the lower id comes first.
    top = np.sort(np.argpartition(-logits, k - 1, axis=1)[:, :k], axis=1)
    top = np.take_along_axis(top, np.argsort(-log_p(top), axis=1, kind="stable"), axis=1)
    came = y_T[:, None]
    rank = 1 + (logits > np.take_along_axis(logits, came, axis=1)).sum(axis=1)
    return Guesses(-log_p(came)[:, 0], rank, top, np.exp(log_p(top)))


def read(run: Run, cut: Rows) -> Guesses:
    """Of every prediction of a text, in order: (P,), (P, K)."""
    return joined(
        [
            guesses(found.logits_BxTxV[0], y_T[:n])
            for found, y_T, n in zip(captures(run, cut), cut.y_RxT, cut.count_R, strict=True)
        ]
    )


def joined(found: list[Guesses]) -> Guesses:
    """Those of several rows, one after the other."""
    return Guesses(*map(np.concatenate, zip(*found, strict=True)))


def bigram_nats(cut: Rows, bigram: CountBigram) -> np.ndarray:
    """What counting pairs makes of the same predictions: -ln P, nats, (P,)."""
    return bigram.each(cut.ids[:-1], cut.ids[1:])
