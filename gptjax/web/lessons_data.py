"""The lessons as JSON: q and k of a head, the logits after a few tokens, the noise of three draws.

In: a run and its ``Context``. Out: what js/panels/lessons.js computes with, per checkpoint.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gptjax.checkpoints.run import Run
from gptjax.evaluation.loss_eval import softmax
from gptjax.interpret import lessons
from gptjax.web.arrays import pack
from gptjax.web.context import Context

# Logits of a checkpoint that are sent: all of a vocabulary of characters, or the largest.
MOST_WHOLE, LARGEST = 2048, 512


def lessons_data(run: Run, ctx: Context) -> dict[str, Any] | None:
    """What the lessons need of a checkpoint; None of a run that does not learn what comes next.

    "tokens": whose logits are sent, likeliest first; "rest": the probability of all others.
    """
    if not run.config.predicts_next:
        return None
    found = lessons.lesson(run, ctx.text)
    logits, V = found.logits_V, len(found.logits_V)
    tokens = np.argsort(-logits, kind="stable")[: V if V <= MOST_WHOLE else LARGEST]
    return {
        "ids": found.ids_T.tolist(),
        "of": V,
        "tokens": pack(tokens, "int"),
        "logits": pack(logits[tokens], "float"),
        "rest": max(0.0, 1 - float(softmax(logits)[tokens].sum())),
        "seeds": list(lessons.SEEDS),
        "noise": pack(found.noise_SxV[:, tokens], "float"),
        "head": _head(run, found),
    }


def _head(run: Run, found: lessons.Lesson) -> dict[str, Any] | None:
    if found.q_TxK is None:
        return None
    return {
        "layer": lessons.LAYER + 1,
        "head": lessons.HEAD + 1,
        "n_embd": run.model.n_embd,
        "q": pack(found.q_TxK, "float"),
        "k": pack(found.k_TxK, "float"),
    }
