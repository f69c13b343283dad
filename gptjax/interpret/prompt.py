"""What a model makes of a prompt, at every place: what its heads look at, what each block guesses.

In: a run and a text. Out: the tokens that it read, with attention and guesses as numpy: the values
of ``look attention`` and ``look lens``, and of their pictures.

T tokens, N layers and H heads that were asked for, L = all layers + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gptjax.checkpoints.run import Run
from gptjax.config.schema import ATTENTION_MODELS
from gptjax.errors import UserError
from gptjax.generation.generate import prompt_ids
from gptjax.interpret import capture, lens
from gptjax.interpret.capture import Captured
from gptjax.interpret.text import Guesses

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
    """The guesses after the embedding and after each block, (L, T): see ``lens.lens``.

    No token came at the last place: its nats and rank mean nothing.
    """

    ids_T: np.ndarray
    guesses: Guesses
    n_read: int


def attention(run: Run, text: str, layer: int | None = None, head: int | None = None) -> Attention:
    """What each head looks at in the last ``block_size`` tokens of a text.

    ``layer``, ``head``: of which alone, from 1. Raises:
      UserError: a model without heads, no such head, fewer than 2 tokens.
    """
    if run.config.model.kind not in ATTENTION_MODELS:
        raise _has_none(run, "attention")
    ids_T, n_read = _tokens(run, text)
    if len(ids_T) < 2:
        raise UserError("the text has 1 token, which can look at itself alone: give at least 2")
    wei_NxHxSxS = _capture(run, ids_T).attention_NxBxHxTxS[:, 0]
    layers = _numbers("layer", layer, wei_NxHxSxS.shape[0])
    heads = _numbers("head", head, wei_NxHxSxS.shape[1])
    kept = wei_NxHxSxS[np.ix_(np.array(layers) - 1, np.array(heads) - 1)]
    return Attention(ids_T, kept[..., : len(ids_T), : len(ids_T)], layers, heads, n_read)


def look_through(run: Run, text: str) -> Lens:
    """The logit lens on the last ``block_size`` tokens of a text; UserError: no GPT."""
    if run.config.model.kind != "gpt":
        raise _has_none(run, "residual stream")
    ids_T, n_read = _tokens(run, text)
    found = _capture(run, ids_T)
    y_S = np.zeros(found.logits_BxTxV.shape[1], np.int32)
    y_S[: len(ids_T) - 1] = ids_T[1:]
    guesses = lens.lens(run, found, y_S)
    return Lens(ids_T, Guesses(*(array[:, : len(ids_T)] for array in guesses)), n_read)


def layer_names(n: int) -> list[str]:
    """What the ``n`` layers of a lens are called: the last one alone was trained to be read."""
    blocks = [f"block {i}" for i in range(1, n)]
    return [f"{name} (raw)" for name in ["embedding", *blocks[:-1]]] + [f"{blocks[-1]}: output"]


def names(run: Run, ids: Sequence[int] | np.ndarray) -> list[str]:
    """Tokens as they can be seen: a space is ␣, a new line ⏎."""
    tok = run.tokenizer
    texts = (tok.token_text(int(i)) for i in ids)
    return [_SIGNS.get(text, text.replace(" ", "␣")) for text in texts]


def _tokens(run: Run, text: str) -> tuple[np.ndarray, int]:
    """The tokens that the model reads of a text, (T,) int32, and how many the text has."""
    ids_T = prompt_ids(run.tokenizer, run.tokenizer.close_up(text), run.items)
    return ids_T[-run.model.block_size :], len(ids_T)


def _capture(run: Run, ids_T: np.ndarray) -> Captured:
    """What the model goes through, its places filled up to ``block_size``: one program for all.

    No place before them can see what with.
    """
    x_S = np.pad(ids_T, (0, run.model.block_size - len(ids_T)))
    return capture.capture(run.model, run.params, x_S[None])


def _has_none(run: Run, of: str) -> UserError:
    ask = "next" if run.config.predicts_next else "near"
    return UserError(f"this {run.config.model.kind} has no {of}: ask {ask}")


def _numbers(name: str, asked: int | None, n: int) -> list[int]:
    if asked is not None and not 1 <= asked <= n:
        known = f"{name}s 1 to {n}" if n > 1 else f"one {name}, 1"
        raise UserError(f"{name}={asked} is none of this model's: it has {known}")
    return [asked] if asked is not None else list(range(1, n + 1))
