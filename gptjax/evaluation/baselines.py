"""What a loss is compared with: simpler models, the parts of a split, the counted table.

In: splits, and a model with its parameters. Out: figures in nats per token.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gptjax.data.dataset import Split
from gptjax.data.tokenizers import Tokenizer
from gptjax.evaluation import count_models
from gptjax.evaluation.loss_eval import Evaluator
from gptjax.evaluation.run_table import Blocks
from gptjax.models.ngram import NGramLanguageModel

N_BLOCKS = 100  # parts of a split whose losses say how sure the mean is


def baselines(splits: Mapping[str, Split], vocab_size: int) -> dict[str, float]:
    """Losses on val, nats per token: of knowing nothing, of single tokens, of pairs."""
    train, val = splits["train"].tokens, splits["val"].tokens
    return {
        "uniform": math.log(vocab_size),
        "unigram": count_models.unigram_nats(train, val, vocab_size),
        "count bigram": count_models.count_bigram_nats(splits, vocab_size)["val"],
    }


def table_against_counts(
    params: Any, split: Split, vocab_size: int, add: float
) -> tuple[float, float]:
    """How far a bigram table's softmax is from the counts of a split, in total variation.

    First the mean over the tokens of the split, then the largest of any token that occurs.
    """
    counted = count_models.fit_ngram(NGramLanguageModel(vocab_size, 1), split, add)
    tables = [np.asarray(p["token_embedding_table"]["embedding"]) for p in (params, counted)]
    apart = count_models.total_variation(*tables)
    n = np.bincount(split.tokens, minlength=vocab_size)
    return float(np.sum(apart * n) / n.sum()), float(apart[n > 0].max())


def block_losses(
    evaluator: Evaluator, params: Any, splits: Mapping[str, Split], tok: Tokenizer
) -> Blocks:
    """The exact loss over val, in ``N_BLOCKS`` parts of about equal length."""
    split = splits["val"]
    part = split.first * N_BLOCKS // len(split.tokens)
    nats, done = np.zeros(N_BLOCKS), 0
    for found in evaluator.row_losses(params, split):
        nats += np.bincount(part[done : done + len(found)], found, N_BLOCKS)
        done += len(found)
    count = np.bincount(part, split.count, N_BLOCKS)
    asked = hashlib.sha256(json.dumps(tok.to_json()).encode())
    for known in ("train", "val"):  # the baselines are counted in the one, asked of the other
        asked.update(np.ascontiguousarray(splits[known].tokens).tobytes())
    return Blocks(asked.hexdigest(), nats[count > 0], count[count > 0])
