"""Into a model while it reads: what each head looks at, and the logit lens, of a prompt or a row.

The lens is what a GPT would guess if it ended after each of its blocks: lm_head(ln_f(stream)) for
the residual stream after the embedding and after every block. The head was trained to read the last
one alone, so the others are raw: they show what already points at the answer, not what a block
"thinks". Source: nostalgebraist 2020, "interpreting GPT: the logit lens".

In: a run and a text, or what ``capture`` kept of a row. Out: numpy, printed and drawn by ``look``.

T tokens, N layers and H heads that were asked for, L = all layers + 1.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gptjax.checkpoints.run import Run
from gptjax.config.schema import ATTENTION_MODELS
from gptjax.errors import UserError
from gptjax.generation.generate import prompt_ids
from gptjax.interpret import capture, text
from gptjax.interpret.capture import Captured
from gptjax.interpret.text import Guesses
from gptjax.models.gpt import GPTLanguageModel

TOP = 3  # likeliest tokens that are told of each place and layer
MOST_READ = 256  # tokens of a prompt: what a picture can hold
_SIGNS = {" ": "␣", "\n": "⏎", "\\n": "⏎", "\t": "⇥", "\\t": "⇥"}


class Attention(NamedTuple):
    """How some heads deal 1 out over the tokens up to their own place.

    ``wei_NxHxTxT``: row t of a head is what it looks at from place t. ``layers``, ``heads``: the
    numbers of those that are here, from 1. ``n_read``: how many tokens the text had.
    """

    ids_T: np.ndarray
    wei_NxHxTxT: np.ndarray
    layers: list[int]
    heads: list[int]
    n_read: int


class Lens(NamedTuple):
    """The guesses after the embedding and after each block, (L, T): see ``lens``.

    No token came at the last place: its nats and rank mean nothing.
    """

    ids_T: np.ndarray
    guesses: Guesses
    n_read: int


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


def attention(
    run: Run, prompt: str, layer: int | None = None, head: int | None = None
) -> Attention:
    """What each head looks at in the last tokens of a text: ``block_size``, or ``MOST_READ``.

    ``layer``, ``head``: of which alone, from 1. Raises:
      UserError: a model without heads, no such head, fewer than 2 tokens.
    """
    if run.config.model.kind not in ATTENTION_MODELS:
        raise _has_none(run, "attention")
    ids_T, n_read = _tokens(run, prompt)
    if len(ids_T) < 2:
        raise UserError("the text has 1 token, which can look at itself alone: give at least 2")
    wei_NxHxSxS = _capture(run, ids_T).attention_NxBxHxTxS[:, 0]
    layers = _numbers("layer", layer, wei_NxHxSxS.shape[0])
    heads = _numbers("head", head, wei_NxHxSxS.shape[1])
    kept = wei_NxHxSxS[np.ix_(np.array(layers) - 1, np.array(heads) - 1)]
    return Attention(ids_T, kept[..., : len(ids_T), : len(ids_T)], layers, heads, n_read)


def look_through(run: Run, prompt: str) -> Lens:
    """The logit lens on the last tokens of a text, as many as ``attention``; UserError: no GPT."""
    if run.config.model.kind != "gpt":
        raise _has_none(run, "residual stream")
    ids_T, n_read = _tokens(run, prompt)
    found = _capture(run, ids_T)
    y_S = np.zeros(found.logits_BxTxV.shape[1], np.int32)
    y_S[: len(ids_T) - 1] = ids_T[1:]
    guesses = lens(run, found, y_S)
    return Lens(ids_T, Guesses(*(array[:, : len(ids_T)] for array in guesses)), n_read)


def habit(wei_TxT: np.ndarray) -> tuple[str, float]:
    """Where a head looks most: at the first token, at itself, or so many places back.

    Its name, and its share of the attention of all places but the first, which has no choice.
    """
    T = len(wei_TxT)
    shares = {"the first token": float(wei_TxT[1:, 0].sum())}
    for back in range(T):
        name = "itself" if back == 0 else f"{back} back"
        shares[name] = float(np.diagonal(wei_TxT, -back)[back == 0 :].sum())
    best = max(shares, key=shares.__getitem__)
    return best, shares[best] / (T - 1)


def layer_names(n: int) -> list[str]:
    """What the ``n`` layers of a lens are called: the last one alone was trained to be read."""
    blocks = [f"block {i}" for i in range(1, n)]
    return [f"{name} (raw)" for name in ["embedding", *blocks[:-1]]] + [f"{blocks[-1]}: output"]


def names(run: Run, ids: Sequence[int] | np.ndarray) -> list[str]:
    """Tokens as they can be seen: a space is ␣, a new line ⏎."""
    shown = (run.tokenizer.token_text(int(i)) for i in ids)
    return [_SIGNS.get(token, token.replace(" ", "␣")) for token in shown]


def _tokens(run: Run, prompt: str) -> tuple[np.ndarray, int]:
    """The tokens that the model reads of a text, (T,) int32, and how many the text has."""
    ids_T = prompt_ids(run.tokenizer, run.tokenizer.close_up(prompt), run.items)
    return ids_T[-_width(run) :], len(ids_T)


def _capture(run: Run, ids_T: np.ndarray) -> Captured:
    """What the model goes through, filled up to one length, so that all texts share a program.

    No place of a text can see what with.
    """
    x_S = np.pad(ids_T, (0, _width(run) - len(ids_T)))
    return capture.capture(run.model, run.params, x_S[None])


def _width(run: Run) -> int:
    return min(run.model.block_size, MOST_READ)


def _has_none(run: Run, of: str) -> UserError:
    ask = "next" if run.config.predicts_next else "near"
    return UserError(f"this {run.config.model.kind} has no {of}: ask {ask}")


def _numbers(name: str, asked: int | None, n: int) -> list[int]:
    if asked is not None and not 1 <= asked <= n:
        known = f"{name}s 1 to {n}" if n > 1 else f"one {name}, 1"
        raise UserError(f"{name}={asked} is none of this model's: it has {known}")
    return [asked] if asked is not None else list(range(1, n + 1))


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: GPTLanguageModel, params: Any, x_BxTxC: jax.Array) -> jax.Array:
    """lm_head(ln_f(x)), (B, T, V)."""
    return model.apply({"params": params}, x_BxTxC, method=model.logits)
