"""What a loss is compared with: simpler models, the parts of a split, the counted table.

In: splits, and a model with its parameters. Out: nats of predictions, by block of a split.
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
from gptjax.runtime.pace import Busy

# Parts of a split whose losses say how sure the mean is. Long ones: scenes and plays differ, so
# short parts are not independent. A GPT's error on the 505,719 characters of Shakespeare's val is
# 0.003 by 8,000 parts, 0.009 by 100, 0.013 by 20 and 0.017 by 10, of which few could say it well.
N_BLOCKS = 20
_ROWS, _PART = 2**16, 2**22  # rows, and tokens, looked at a time: a text need not fit in memory
NAMES = ("uniform", "unigram", "count bigram")


def baselines(splits: Mapping[str, Split], V: int, text: str = "") -> dict[str, Blocks]:
    """Losses on val, in blocks: of knowing nothing, of single tokens, of pairs; by ``NAMES``."""
    split, counts = splits["val"], count_models.token_counts(splits["train"].tokens, V)
    bigram = count_models.count_bigram(*splits["train"].pairs(), V)
    row_nats: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    done = 0  # of the pairs
    # The pairs stand in the order of the rows that predict them.
    for begin in range(0, split.n_rows, _ROWS):
        _, count, _ = split.rows(np.arange(begin, min(begin + _ROWS, split.n_rows)))
        begins = np.cumsum(count) - count
        end = done + int(count.sum())
        first, second = (np.asarray(tokens[done:end]) for tokens in split.pairs())
        each = np.full(len(second), math.log(V)), count_models.unigram_nats(counts, second)
        for name, nats in zip(NAMES, (*each, bigram.each(first, second)), strict=True):
            row_nats[name].append(np.add.reduceat(nats, begins))
        done = end
    return {n: in_blocks(split, np.concatenate(nats), text) for n, nats in row_nats.items()}


def table_against_counts(
    params: Any, split: Split, vocab_size: int, add: float
) -> tuple[float, float]:
    """How far a bigram table's softmax is from the counts of a split, in total variation.

    First the mean over the tokens of the split, then the largest of any token that occurs.
    """
    counted = count_models.fit_ngram(NGramLanguageModel(vocab_size, 1), split, add)
    tables = [np.asarray(p["token_embedding_table"]["embedding"]) for p in (params, counted)]
    apart = count_models.total_variation(*tables)
    n = count_models.token_counts(split.tokens, vocab_size)
    return float(np.sum(apart * n) / n.sum()), float(apart[n > 0].max())


def block_losses(
    evaluator: Evaluator, params: Any, split: Split, busy: Busy = None, text: str = ""
) -> Blocks:
    """The exact loss over a split, in blocks; ``busy`` is told of rows done, of how many.

    ``text``: of ``text_hash``, where the blocks are to be held against others.
    """
    return in_blocks(split, np.concatenate(list(evaluator.row_losses(params, split, busy))), text)


def in_blocks(split: Split, row_nats: np.ndarray, text: str = "") -> Blocks:
    """The sums of a split's rows, nats, as those of ``N_BLOCKS`` parts of about equal length."""
    first, count, _ = split.rows(np.arange(split.n_rows))
    part = first * N_BLOCKS // len(split.tokens)
    nats, count = (np.bincount(part, of_rows, N_BLOCKS) for of_rows in (row_nats, count))
    return Blocks(text, nats[count > 0], count[count > 0])


def text_hash(splits: Mapping[str, Split], tok: Tokenizer) -> str:
    """What two runs have in common that learnt from the same tokens and are asked for the same."""
    asked = hashlib.sha256(json.dumps(tok.to_json()).encode())
    for known in ("train", "val"):
        tokens = splits[known].tokens
        asked.update(f"{known} {tokens.dtype} {len(tokens)}".encode())
        for begin in range(0, len(tokens), _PART):
            asked.update(np.ascontiguousarray(tokens[begin : begin + _PART]))
    return asked.hexdigest()
