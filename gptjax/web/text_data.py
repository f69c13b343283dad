"""The text panel: each token's loss and likeliest others, what each head looked at, the lens.

In: a run and a text. Out: one JSON of it all, for a report and for a live page alike.

P predictions that are shown, N layers, H heads, L = N + 1 streams, K likeliest tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gptjax.checkpoints.run import Run
from gptjax.evaluation.count_models import CountBigram, count_bigram
from gptjax.interpret import lens, text
from gptjax.interpret.capture import Captured
from gptjax.interpret.text import Guesses, Rows
from gptjax.web.arrays import pack
from gptjax.web.context import Context

# A page has about 3 MB, and these of it, all checkpoints together.
TEXT_BYTES, LENS_BYTES, ATTENTION_BYTES = 150_000, 100_000, 360_000
VALUE_BYTES = 2 * 4 / 3  # of a share or a small integer, as base64
LENS_LOGITS = 5e7  # of one checkpoint: some seconds
MOST_TOKENS, LEAST_TOKENS = 256, 32
MOST_PAIRS = 2**26  # of train that are counted, in some seconds; of a larger text none


def text_data(run: Run, context: Context) -> dict[str, Any] | None:
    """The panel of the context's text; None of a run that did not learn what comes next."""
    return of_text(run, context, context.text) if run.config.predicts_next else None


def inspect(run: Run, context: Context, typed: str) -> dict[str, Any]:
    """The same of a text that somebody types; UserError: it cannot be asked about."""
    run.require_next("score a text")
    return of_text(run, dataclasses.replace(context, n_checkpoints=1, text_from="user"), typed)


def of_text(run: Run, context: Context, shown: str) -> dict[str, Any]:
    """The beginning of a text, as much as the page has room for.

    {"ids" (P + 1), "first", "count" (of each row), "n_predicted" (of the whole text), "from",
    "sees" (the most tokens that a guess looks at), "slides", "nats" (P), "rank" (P), "bigram_nats"
    (P) or None, "top_ids", "top_p" (P, K), "attention" or None, "lens" or None}; "finite" False and
    nothing of the model where its logits are not finite.
    """
    cut = text.rows(run, shown, tokens_shown(run, context.n_checkpoints))
    data: dict[str, Any] = {
        "from": context.text_from,
        "ids": pack(cut.ids, "int"),
        "first": cut.first_R.tolist(),
        "count": cut.count_R.tolist(),
        "n_predicted": cut.n_predicted,
        "sees": run.model.block_size,
        "slides": run.model.slides,
        "finite": True,
    }
    bigram = _bigram(run, context)
    data["bigram_nats"] = bigram and pack(text.bigram_nats(cut, bigram), "float")
    guesses, weights, layers, places = [], [], [], []
    of_lens = lens_places(run, cut, context.n_checkpoints)
    for r, found in enumerate(text.captures(run, cut)):
        if not np.isfinite(found.logits_BxTxV[0, : cut.count_R[r]]).all():
            return data | {"finite": False}
        guesses.append(text.guesses(found.logits_BxTxV[0], cut.y_RxT[r, : cut.count_R[r]]))
        if found.attention_NxBxHxTxS is not None:
            places = places or attention_places(found, cut, context.n_checkpoints)
            weights.append(_triangle(found, places[r]))
        if of_lens[r]:
            layers.append(lens.lens(run, found, cut.y_RxT[r, : of_lens[r]]))
    data |= _packed(text.joined(guesses))
    data["attention"] = data["lens"] = None
    if weights:
        all_weights = np.concatenate(weights, axis=2)
        data["attention"] = {"places": places, "weights": pack(all_weights, "unit")}
    if layers:
        joined = Guesses(*(np.concatenate(parts, axis=1) for parts in zip(*layers, strict=True)))
        data["lens"] = {"places": of_lens, **_packed(joined)}
    return data


def tokens_shown(run: Run, n_checkpoints: int) -> int:
    """How many predictions of a text a page has room for."""
    each = (2 * text.TOP + 4) * VALUE_BYTES * n_checkpoints
    return int(np.clip(TEXT_BYTES // each, LEAST_TOKENS, MOST_TOKENS))


def attention_places(found: Captured, cut: Rows, n_checkpoints: int) -> list[int]:
    """Of how many places of each row the attention is shown: all of the first rows, then none.

    The first t places of a row have t (t + 1) / 2 weights of each head.
    """
    N, _, H, _, _ = found.attention_NxBxHxTxS.shape
    room, places = ATTENTION_BYTES / VALUE_BYTES / n_checkpoints / (N * H), []
    for count in cut.count_R.tolist():
        t = min(count, int((np.sqrt(8 * room + 1) - 1) / 2))
        places.append(t)
        room -= t * (t + 1) / 2
        if t < count:  # a part of a row is the last one
            room = 0
    return places


def lens_places(run: Run, cut: Rows, n_checkpoints: int) -> list[int]:
    """Of how many places of each row the lens is shown; 0 of all where there is none."""
    if not has_lens(run):
        return [0] * len(cut.count_R)
    L = run.model.n_layer + 1
    by_bytes = LENS_BYTES / (L * (2 * lens.TOP + 3) * VALUE_BYTES * n_checkpoints)
    room = int(min(by_bytes, LENS_LOGITS / (L * run.model.vocab_size)))
    before = np.cumsum(cut.count_R) - cut.count_R
    return np.clip(room - before, 0, cut.count_R).tolist()


def has_lens(run: Run) -> bool:
    """Whether the model has a residual stream."""
    return run.config.model.kind == "gpt"


def _triangle(found: Captured, places: int) -> np.ndarray:
    """The weights of the first places of a row, each with those up to it: (N, H, t (t + 1) / 2)."""
    t, s = np.tril_indices(places)
    return found.attention_NxBxHxTxS[:, 0, :, t, s].transpose(1, 2, 0)


def _packed(found: Guesses) -> dict[str, Any]:
    return {
        "nats": pack(found.nats, "float"),
        "rank": pack(found.rank, "int"),
        "top_ids": pack(found.top_ids, "int"),
        "top_p": pack(found.top_p, "unit"),
    }


def _bigram(run: Run, context: Context) -> CountBigram | None:
    """The count bigram of train, counted once; None where the corpus is not there, or too large."""
    if "bigram" not in context.kept:
        train = None if context.splits is None else context.splits["train"]
        if train is None or train.n_predicted > MOST_PAIRS:
            context.kept["bigram"] = None
        else:
            context.kept["bigram"] = count_bigram(*train.pairs(), run.tokenizer.vocab_size)
    return context.kept["bigram"]
