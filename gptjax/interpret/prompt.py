"""What a model makes of a prompt: what its heads look at, what each block guesses, what follows.

In: a run and a text, or single tokens. Out: the tokens that it read, with attention, guesses and
probabilities as numpy: the values of ``look attention``, ``lens`` and ``table``, printed and drawn.

T tokens, N layers and H heads that were asked for, L = all layers + 1; R tokens alone, K followers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gptjax.checkpoints.run import Run
from gptjax.config.schema import ATTENTION_MODELS
from gptjax.data.dataset import Split
from gptjax.errors import UserError
from gptjax.evaluation import probe
from gptjax.generation.generate import prompt_ids
from gptjax.interpret import capture, lens, tables
from gptjax.interpret.capture import Captured
from gptjax.interpret.text import Guesses

MOST_READ = 256  # tokens: what a picture can hold, and a head's matrix in every head's
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


class Followers(NamedTuple):
    """P(next | one token and nothing before it), of the model and of the count bigram.

    ``p_RxK``: row tokens ``ids_R``, then ``ids_K``. ``counted_RxK``: None without a corpus. Rows do
    not add up to 1 where the vocabulary has other tokens than these K.
    """

    ids_R: np.ndarray
    ids_K: np.ndarray
    p_RxK: np.ndarray
    counted_RxK: np.ndarray | None


def attention(run: Run, text: str, layer: int | None = None, head: int | None = None) -> Attention:
    """What each head looks at in the last tokens of a text: ``block_size``, or ``MOST_READ``.

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
    """The logit lens on the last tokens of a text, as many as ``attention``; UserError: no GPT."""
    if run.config.model.kind != "gpt":
        raise _has_none(run, "residual stream")
    ids_T, n_read = _tokens(run, text)
    found = _capture(run, ids_T)
    y_S = np.zeros(found.logits_BxTxV.shape[1], np.int32)
    y_S[: len(ids_T) - 1] = ids_T[1:]
    guesses = lens.lens(run, found, y_S)
    return Lens(ids_T, Guesses(*(array[:, : len(ids_T)] for array in guesses)), n_read)


def followers(
    run: Run, splits: Mapping[str, Split] | None, words: Sequence[str] = (), n: int = 0
) -> Followers:
    """What comes after each of these tokens alone, and how often it did in the train split.

    Without ``words`` after the n most frequent (``tables.IN_TABLE`` at most, also where n is 0);
    what may follow are these. Raises:
      UserError: an unknown token, or a model that looks at more than one.
    """
    asked, V = probe.find(run, words), run.tokenizer.vocab_size
    run.require_next("say what follows a token")
    common = tables.frequent(run.tokenizer, splits, list(range(V)), n or tables.IN_TABLE)
    ids_K = np.union1d(common, np.array(asked, np.int64))
    p_KxK = tables.after_each(run, ids_K)
    if p_KxK is None:
        kind, size = run.config.model.kind, run.model.block_size
        raise UserError(f"this {kind} looks at {size} tokens, and has no table of pairs: ask next")
    at_R = np.searchsorted(ids_K, asked) if asked else np.arange(len(ids_K))
    if splits is None:
        return Followers(ids_K[at_R], ids_K, p_KxK[at_R], None)
    pairs, first, add = tables.counts(splits, V, ids_K)
    counted = (pairs + add) / (first[:, None] + add * V)
    return Followers(ids_K[at_R], ids_K, p_KxK[at_R], counted[at_R])


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
    tok = run.tokenizer
    texts = (tok.token_text(int(i)) for i in ids)
    return [_SIGNS.get(text, text.replace(" ", "␣")) for text in texts]


def _tokens(run: Run, text: str) -> tuple[np.ndarray, int]:
    """The tokens that the model reads of a text, (T,) int32, and how many the text has."""
    ids_T = prompt_ids(run.tokenizer, run.tokenizer.close_up(text), run.items)
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
