"""Losses of a trained model: the one forward pass for all who ask.

In: a model, its parameters, batches or a whole split. Out: nats per batch, per row or per token,
with dropout off; every prediction of a split is made once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.data.batching import Batch, whole_split
from gptjax.data.dataset import Split
from gptjax.errors import UserError
from gptjax.evaluation.flops import forward_flops_per_token
from gptjax.models.loss import cross_entropy, logits_of, token_nats
from gptjax.runtime.mesh_rules import Placement
from gptjax.runtime.pace import Busy

# Of one call: half a second of two CPU cores. Whoever runs it sees to signals in between.
CALL_FLOPS, ACCELERATOR_CALL_FLOPS = 5e10, 1e13


@functools.partial(jax.jit, static_argnums=(0, 1))
def forward(model: nn.Module, what: Callable, params: Any, batches: Batch) -> Any:
    """``what(logits_BxTxV, batch)`` of each of K batches (K, B, T), dropout off."""

    def one(batch):
        return what(logits_of(model, params, batch), batch)

    return jax.lax.map(one, batches)


def row_sums(logits_BxTxV: jax.Array, batch: Batch) -> jax.Array:
    """Of each row: the sum of nats, (B,)."""
    row = jax.vmap(lambda *row: cross_entropy(*(a[None] for a in row))[0])
    return row(logits_BxTxV, batch.y, batch.w)


def token_scores(logits_BxTxV: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Of each place: nats, and the rank of the token that came (1: likeliest), (B, T)."""
    logits_BxTxV = logits_BxTxV.astype(jnp.float32)
    right_BxT = jnp.take_along_axis(logits_BxTxV, batch.y[..., None], axis=-1)
    return token_nats(logits_BxTxV, batch.y), 1 + (logits_BxTxV > right_BxT).sum(axis=-1)


def all_logits(logits_BxTxV: jax.Array, batch: Batch) -> jax.Array:
    """The logits themselves."""
    return logits_BxTxV


class Scores(NamedTuple):
    """Of each predicted token: its id, its -ln P (nats), its rank (1: likeliest) and its row."""

    ids: np.ndarray
    nats: np.ndarray
    rank: np.ndarray
    row: np.ndarray


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A model, asked about up to ``n_batches`` of ``batch_size`` rows per call.

    ``placement`` deals the rows out to its devices; None: the default one. A call of more than
    ``call_flops`` is done in parts: of fewer batches, or of batches with fewer rows. That depends
    on sizes alone and not on a clock.
    """

    model: nn.Module
    batch_size: int = 16
    n_batches: int = 1
    placement: Placement | None = None
    call_flops: float = CALL_FLOPS

    @functools.cached_property
    def _flops_per_token(self) -> float:
        # A table has no product: its softmax over the vocabulary counts.
        return forward_flops_per_token(self.model) + 20 * self.model.vocab_size

    def call_shape(self, T: int) -> tuple[int, int]:
        """How many batches of how many rows of T tokens a call has."""
        B, row_flops = self.batch_size, T * self._flops_per_token
        parts = self.placement.row_parts if self.placement else 1
        fit = [n for n in range(parts, B + 1, parts) if B % n == 0]
        rows = max((n for n in fit if n * row_flops <= self.call_flops), default=fit[0])
        n = int(self.call_flops / (rows * row_flops))
        return max(1, min(n, self.n_batches * B // rows)), rows

    def batches_of_a_call(self, split: Split) -> int:
        """How many whole batches of a split are one call; 1 where a batch needs several."""
        n, rows = self.call_shape(split.lookback + split.window)
        return max(1, n * rows // self.batch_size)

    def batch_sums(
        self, params: Any, batches: Batch, busy: Busy = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sums of nats and counts, (K,) float64 each, of batches (K, B, T), B a ``batch_size``.

        ``busy`` is told (done, total) batches, parts of one too.
        """
        K, B, T = batches.x.shape
        n, rows = self.call_shape(T)
        parts = [array.reshape(K * B // rows, rows, -1) for array in batches]
        nats = np.zeros(parts[0].shape[:2])
        for begin in range(0, len(nats), n):
            # The last call has as many as the others: it begins anew where there are no more.
            at = np.arange(begin, begin + n) % len(nats)
            nats[at] = self._ask(params, Batch(*(part[at] for part in parts)))
            if busy:
                busy(min(begin + n, len(nats)) * rows / B, K)
        return nats.reshape(K, B).sum(axis=1), batches.w.sum(axis=(1, 2), dtype=np.float64)

    def exact_loss(self, params: Any, split: Split, busy: Busy = None) -> float:
        """The mean over every prediction of a split, nats per token."""
        return float(sum(map(np.sum, self.row_losses(params, split, busy))) / split.n_predicted)

    def row_losses(self, params: Any, split: Split, busy: Busy = None) -> Iterator[np.ndarray]:
        """The sum of nats of each row of a split, in order, some rows at a time, float64."""
        left = n_rows = split.n_rows
        n, rows = self.call_shape(split.lookback + split.window)
        for batches in whole_split(split, rows, n):
            nats = self._ask(params, batches).reshape(-1)[:left]
            yield nats
            left -= len(nats)
            if busy:
                busy(n_rows - left, n_rows)

    def score(self, params: Any, split: Split, busy: Busy = None) -> Scores:
        """Every predicted token of a split, in order; UserError: logits that are not finite."""
        found, done = [], 0
        n, rows = self.call_shape(split.lookback + split.window)
        for batches in whole_split(split, min(rows, split.n_rows), n):
            seen = self._seen(token_scores, params, batches)
            found.append([part[batches.w > 0] for part in (batches.y, *seen)])
            done += len(found[-1][0])
            if busy:
                busy(done, split.n_predicted)
        ids, nats, rank = map(np.concatenate, zip(*found, strict=True))
        if not np.isfinite(nats).all():
            at = int(np.argmin(np.isfinite(nats)))
            raise UserError(
                f"the logits of prediction {at} are not finite: the parameters are damaged, or "
                "training diverged; try --checkpoint=best or an earlier step"
            )
        index = np.arange(split.n_rows)
        row = np.repeat(index, split.rows(index)[1])
        return Scores(ids, nats.astype(np.float64), rank, row)

    def _ask(self, params: Any, batches: Batch) -> np.ndarray:
        """The sum of nats of each row of K batches, (K, B) float64."""
        return self._seen(row_sums, params, batches).astype(np.float64)

    def _seen(self, what: Callable, params: Any, batches: Batch) -> Any:
        """``forward`` on the devices of ``placement``, its results on the host."""
        if not (place := self.placement):
            return jax.device_get(forward(self.model, what, params, batches))
        with place.shown():
            return place.fetch(forward(self.model, what, params, place.put_batch(batches)))


def probabilities(
    model: nn.Module, params: Any, ids_T: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a model expects after every place of a context, as the notes have it: all at once.

    The part of the context that it looked at, (S,), and softmax(logits), (S, V) float64.
    """
    seen = ids_T if model.slides else ids_T[-model.block_size :]
    x = seen[None, None].astype(np.int32)
    return seen, softmax(np.asarray(forward(model, all_logits, params, Batch(x, x, x)))[0, 0])


def softmax(logits: np.ndarray) -> np.ndarray:
    """p of each token, over the last axis, float64; of a logit of -inf it is 0."""
    p = np.exp(np.asarray(logits, np.float64) - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def figures(nats_per_token: float, split: Split) -> dict[str, float | int]:
    """A loss, the mean over the predictions of a split, in nats and bits, perplexity per token.

    It is given per character and byte too, unless the split does not say how many they stand for.
    """
    tokens = split.n_predicted
    found = {"nats_per_token": nats_per_token, "bits_per_token": nats_per_token / math.log(2)}
    if split.characters:
        found["nats_per_character"] = nats_per_token * tokens / split.characters
        found["bits_per_character"] = bits_per(split.characters, nats_per_token, split)
    if split.n_bytes:
        found["bits_per_byte"] = bits_per(split.n_bytes, nats_per_token, split)
    found["perplexity"] = math.exp(nats_per_token) if nats_per_token < 700 else math.inf
    sizes = {"tokens": tokens, "characters": split.characters, "bytes": split.n_bytes}
    return found | {name: n for name, n in sizes.items() if n}


def bits_per(n: int, nats_per_token: float, split: Split) -> float | None:
    """A split's loss in bits per each of the ``n`` characters or bytes it stands for; None of 0.

    Unlike a loss per token it compares runs whose tokens differ.
    """
    return nats_per_token * split.n_predicted / n / math.log(2) if n else None
