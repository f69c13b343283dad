"""The logit lens: what a GPT would guess if it ended after each of its blocks.

In: what ``capture`` kept of a GPT. Out: ``Guesses`` of lm_head(ln_f(stream)) for the residual
stream after the embedding and after every block. The head was trained to read the last one alone,
so the others are raw: they show what already points at the answer, not what a block "thinks".
Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from gptjax.checkpoints.run import Run
from gptjax.interpret import capture, text
from gptjax.interpret.capture import Captured
from gptjax.interpret.text import Guesses
from gptjax.models.gpt import GPTLanguageModel

TOP = 3  # likeliest tokens that are told of each place and layer


def lens(run: Run, found: Captured, y_T: np.ndarray, k: int = TOP) -> Guesses | None:
    """Of a row, a batch of one: guesses (L, T) after the embedding and each block, L = N + 1.

    ``y_T``: the tokens that came at its first T places. The last layer's are the model's own: they
    come from its logits. None of a model that has no residual stream.
    """
    if found.streams_LxBxTxC is None:
        return None
    head, params = capture.plain(run.model), run.params
    raw = (np.asarray(_logits(head, params, x)[0]) for x in found.streams_LxBxTxC[:-1])
    each = [text.guesses(logits, y_T, k) for logits in (*raw, found.logits_BxTxV[0])]
    return Guesses(*map(np.stack, zip(*each, strict=True)))


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: GPTLanguageModel, params: Any, x_BxTxC: jax.Array) -> jax.Array:
    """lm_head(ln_f(x)), (B, T, V)."""
    return model.apply({"params": params}, x_BxTxC, method=model.logits)
