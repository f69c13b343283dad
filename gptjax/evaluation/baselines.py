"""What a loss stands beside: the lines to beat, the parts of a split, the counted table.

In: an ``Experiment`` and parameters. Out: figures in nats per token, for the verb ``compare``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from typing import Any

import jax
import numpy as np

from gptjax.data import batching as batches
from gptjax.evaluation import count_models as counts
from gptjax.evaluation.run_table import Blocks
from gptjax.models import loss as losses
from gptjax.training.experiment import Experiment

N_BLOCKS = 100  # parts of a split whose losses say how sure the mean is


def baselines(exp: Experiment) -> dict[str, float]:
    """The lines to beat on val, nats per token: knowing nothing, single tokens, pairs."""
    V, first, val = exp.tokenizer.vocab_size, exp.rows["train"].counted, exp.rows["val"].counted
    return {
        "uniform": math.log(V),
        "unigram": counts.unigram_nats(first, val, V),
        "count bigram": counts.count_bigram(first, V).nats(val),
    }


def table_against_counts(exp: Experiment, params: Any) -> tuple[float, float]:
    """How far a bigram table's softmax is from the counts, in total variation.

    Args:
      exp: the experiment of a bigram.
      params: its table.

    Returns:
      The mean over the tokens of the training split, and the largest of any token that occurs.
    """
    table = np.asarray(params["token_embedding_table"]["embedding"])
    counted = dataclasses.replace(exp.config.model, kind="ngram", block_size=1)
    counted = dataclasses.replace(exp.config, model=counted)
    counted = dataclasses.replace(exp, config=counted).counted_params()
    apart = counts.total_variation(table, counted["token_embedding_table"]["embedding"])
    n = np.bincount(exp.rows["train"].tokens, minlength=len(table))
    return float(np.sum(apart * n) / n.sum()), float(apart[n > 0].max())


@functools.partial(jax.jit, static_argnums=0)
def _row_nats(model: Any, params: Any, batch: batches.Batch) -> jax.Array:
    """Sum of nats of each row, dropout off: (K, B) for batches (K, B, T)."""

    def one(part):
        logits = model.apply({"params": params}, part.x, train=False)
        row = jax.vmap(lambda *r: losses.cross_entropy(*(a[None] for a in r))[0])
        return row(logits, part.y, part.w)

    return jax.lax.map(one, batch)


def block_losses(exp: Experiment, params: Any, split: str = "val") -> Blocks:
    """The exact loss over a split, in ``N_BLOCKS`` parts of about equal length.

    Args:
      exp: the experiment.
      params: the model's.
      split: "train", "val" or (items) "test".

    Returns:
      Nats and predictions of each part.
    """
    rows, train_config = exp.rows[split], exp.config.train
    part = rows.first * N_BLOCKS // len(rows.tokens)
    nats, done = np.zeros(N_BLOCKS), 0
    for batch in batches.whole_split(rows, train_config.batch_size, train_config.eval_iters):
        found = np.asarray(_row_nats(exp.model, params, batch), np.float64).reshape(-1)
        here = part[done : done + len(found)]
        nats += np.bincount(here, weights=found[: len(here)], minlength=N_BLOCKS)
        done += len(here)
    count = np.bincount(part, weights=rows.count, minlength=N_BLOCKS)
    asked = hashlib.sha256(json.dumps(exp.tokenizer.to_json()).encode())
    for name in ("train", split):  # the lines to beat are counted in the one, asked of the other
        asked.update(np.ascontiguousarray(exp.rows[name].counted).tobytes())
    return Blocks(asked.hexdigest(), nats[count > 0], count[count > 0])
