"""How likely a model finds a text it is shown: every token, with its probability and its rank.

In: a model, its parameters, and a text cut into rows as a whole split is cut for evaluation.
Out: ``Scores``, one entry per predicted token, in the order of the text. No corpus is needed.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.data import batching as batches
from gptjax.data.batching import Rows
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of each predicted token: its id, its -ln P (nats), its rank (1: likeliest) and its row."""

    ids: np.ndarray
    nats: np.ndarray
    rank: np.ndarray
    row: np.ndarray


def cut(
    text: str, tok: Tokenizer, model: nn.Module, items: bool, window: int = 0
) -> tuple[Rows, int]:
    """Encode a text and cut it as ``evaluate`` cuts a whole split.

    Args:
      text: a stream, or items one a line (blank lines and white space at a line's end fall away).
      tok: the run's tokenizer.
      model: the run's model.
      items: whether it is a list of items.
      window: predictions per row, as ``batches.make_rows`` says.

    Returns:
      The rows, and the characters that their predictions stand for.

    Raises:
      UserError: a character outside the vocabulary, or fewer than 2 tokens.
    """
    if items:
        tokens, characters = _encode_items(text, tok)
    else:
        tokens = tok.encode(text)
        if len(tokens) < 2:
            raise UserError(
                f"the text has {len(tokens)} token, and the first is not predicted: give at least 2"
            )
        characters = len(text) - len(tok.decode(tokens[:1]))
    end_id = tok.start_id if items else None
    sizes = (model.block_size, model.lookback, window, model.slides)
    return batches.make_rows({"text": tokens}, end_id, *sizes)["text"], characters


def _encode_items(text: str, tok: Tokenizer) -> tuple[np.ndarray, int]:
    end = np.array([tok.start_id], np.int32)
    parts, characters = [end], 0
    for number, line in enumerate(map(str.rstrip, text.split("\n")), start=1):
        if line:
            try:
                parts += [tok.encode(line), end]
            except UserError as error:
                raise UserError(f"line {number}: {error}") from error
            characters += len(line) + 1  # its end is predicted, too
    return np.concatenate(parts), characters


def score(model: nn.Module, params: Any, rows: Rows, batch_size: int = 16) -> Scores:
    """Ask for every predicted token of the rows once.

    Args:
      model: any of the models.
      params: its parameters.
      rows: the text, cut.
      batch_size: rows done at a time.

    Returns:
      The scores.

    Raises:
      UserError: logits that are not finite.
    """
    size, found = min(batch_size, len(rows.first)), []
    for number, batch in enumerate(batches.whole_split(rows, size, 1)):
        x, y, w = (part[0] for part in batch)
        nats, rank = jax.device_get(_look(model, params, x, y))
        counts = w > 0
        row = np.broadcast_to(number * size + np.arange(size)[:, None], y.shape)
        found.append((y[counts], nats[counts].astype(np.float64), rank[counts], row[counts]))
    scores = Scores(*(np.concatenate(column) for column in zip(*found, strict=True)))
    if not np.isfinite(scores.nats).all():
        at = int(np.argmin(np.isfinite(scores.nats)))
        raise UserError(
            f"the logits of prediction {at} are not finite: the parameters are damaged, or "
            "training diverged; try --checkpoint=best or an earlier step"
        )
    return scores


@functools.partial(jax.jit, static_argnums=0)
def _look(model: nn.Module, params: Any, x_BxT: jax.Array, y_BxT: jax.Array):
    logits_BxTxV = model.apply({"params": params}, x_BxT, train=False).astype(jnp.float32)
    right_BxT = jnp.take_along_axis(logits_BxTxV, y_BxT[..., None], axis=-1)
    rank_BxT = 1 + (logits_BxTxV > right_BxT).sum(axis=-1)
    return jax.nn.logsumexp(logits_BxTxV, axis=-1) - right_BxT[..., 0], rank_BxT


def how_cut(rows: Rows, model: nn.Module, items: bool) -> str:
    """What each token was predicted from, in one sentence for people."""
    seen = f"rows of at most {rows.window} predictions, which see nothing of the row before"
    if model.slides:
        seen = f"each token is predicted from the {model.block_size} before it"
    rest = "one item a line, its end predicted too" if items else "the first token is not predicted"
    return f"{seen}; {rest}"
