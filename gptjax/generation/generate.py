"""Prompts in, texts out: what people mean by sampling from a language model.

In: a model with its tokenizer, prompts, samplers, a seed. Out: a ``Sample`` per row, with ids,
log-probabilities and the reason why it stopped. Streaming calls back with text as it is made; the
text is the same as without: the seed, the prompt, its place and the number of the sample decide it.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError
from gptjax.generation import decode as decoding
from gptjax.generation.sampling import Chain, Temperature

# Tokens between two looks at the text: streamed text flows, stop strings waste few tokens.
STREAM_TOKENS, STOP_TOKENS = 8, 32

MOST_TOKENS = 2**24  # of one text

# Rows that are made together; more come in groups, for a cache of all would not fit.
GROUP_ROWS = 1024

# A character of several bytes shows as U+FFFD at the end of a text until its last byte is made.
HALF = "\ufffd"


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """The sample a run shows at each evaluation."""

    prompt: Annotated[str, "what it continues; empty begins as the corpus does"] = ""
    max_new_tokens: Annotated[int, "length of the sample, tokens; 0 shows none"] = 200
    temperature: Annotated[float, "logits are divided by it; 0 takes the likeliest token"] = 0.8

    def __post_init__(self):
        if not 0 <= self.max_new_tokens <= MOST_TOKENS:
            raise UserError(
                f"sample.max_new_tokens={self.max_new_tokens} must not be negative or above "
                f"{MOST_TOKENS:,}"
            )
        if not 0 <= self.temperature < math.inf:
            raise UserError(
                f"sample.temperature={self.temperature} must not be negative or infinite"
            )


@dataclasses.dataclass(frozen=True)
class Sample:
    """One continuation: its text without the prompt, the tokens made, and their ln P (nats).

    ``why`` it stopped: "length", "end" (an item's end token, not in the text) or "stop" (a stop
    string, cut off with what followed it).
    """

    prompt: str
    text: str
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    why: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to continue a prompt, whatever the prompt.

    ``items`` says that the model writes items (names): each begins behind an end token and stops
    at one. ``stop``: strings that cut a text, before the one that is complete first. ``window``:
    see ``decoding.advance``.
    """

    max_new_tokens: int = 200
    sampler: Chain = Chain((Temperature(0.8),))
    stop: tuple[str, ...] = ()
    window: str = "exact"
    items: bool = False

    def __post_init__(self):
        if not 1 <= self.max_new_tokens <= MOST_TOKENS:
            raise UserError(
                f"max_new_tokens={self.max_new_tokens} must be 1 or more, at most {MOST_TOKENS:,}"
            )
        if self.window not in decoding.WINDOWS:
            known = " or ".join(decoding.WINDOWS)
            raise UserError(f"window={self.window!r} is unknown: choose {known}")
        if "" in self.stop:
            raise UserError("a stop string must not be empty: every text begins with ''")


def row_keys(seed: int | jax.Array, n_prompts: int, num_samples: int) -> jax.Array:
    """Keys of n_prompts * num_samples rows: sample j of prompt i draws with (seed, i, j).

    So the first samples stay the same when more are asked for, or another prompt follows.

    Raises:
      UserError: a seed that is not a whole number from 0 to 2**32 - 1 (or a key).
    """
    if not isinstance(seed, jax.Array):
        # JAX would take another number for it.
        if not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
            raise UserError(f"seed={seed} must be a whole number, at least 0 and below 2**32")
        seed = jax.random.key(int(seed))
    fold = jax.random.fold_in
    of_prompt = jax.vmap(fold, (None, 0))(seed, jnp.arange(n_prompts))
    each = jax.vmap(jax.vmap(fold, (None, 0)), (0, None))(of_prompt, jnp.arange(num_samples))
    return each.reshape(-1)


def continue_rows(
    model: nn.Module,
    params: Any,
    tok: Tokenizer,
    prompts: Sequence[str],
    key_R: jax.Array,
    settings: Settings,
    on_text: Callable[[int, str], None] | None = None,
    cached: bool = True,
) -> list[Sample]:
    """Continue a prompt per row, ``GROUP_ROWS`` rows in a batch.

    Args:
      model, params, tok: a trained model.
      prompts: of any lengths; an empty one begins as the corpus does, behind a line's end.
      key_R: a PRNG key per row; with its prompt it alone decides the row's text.
      settings: how.
      on_text: called with (row, new text) as soon as text is sure to stay.
      cached: see ``decoding.start``.

    Returns:
      A sample per row.

    Raises:
      UserError: no prompt, a character outside the vocabulary, or logits that are not finite.
    """
    if not len(prompts):
        raise UserError("there is no prompt to continue: give one; '' begins as the corpus does")
    ids = [prompt_ids(tok, prompt, settings.items) for prompt in prompts]
    turned, made = decoding.turn(params), []
    for first in range(0, len(ids), GROUP_ROWS):
        group = slice(first, first + GROUP_ROWS)
        both = zip(prompts[group], ids[group], strict=True)
        watched = [Watched(tok, *row, settings) for row in both]
        _write(model, turned, tok, first, watched, key_R[group], settings, on_text, cached)
        made += [row.sample() for row in watched]
    return made


def _write(model, turned, tok, first, watched, key_B, settings, on_text, cached) -> None:
    """One group of rows, the first of which is row ``first``, until each has its end."""
    ids = [row.prompt_ids for row in watched]
    rows = decoding.start(model, turned, ids, settings.max_new_tokens, key_B, cached)
    chunk = settings.max_new_tokens
    if on_text or settings.stop:
        chunk = min(chunk, STREAM_TOKENS if on_text else STOP_TOKENS)
    end_id = tok.start_id if settings.items else None
    left = settings.max_new_tokens
    while left > 0 and not all(row.why for row in watched):
        n = min(chunk, left)
        left -= n
        rows = decoding.advance(model, settings.window, turned, rows, settings.sampler, n, end_id)
        all_ids, lengths = np.asarray(rows.ids_BxL), np.asarray(rows.length_B)
        log_probs, done = np.asarray(rows.log_prob_BxL), np.array(rows.done_B)
        for b, row in enumerate(watched):
            if np.asarray(rows.bad_B)[b]:
                raise UserError(
                    f"row {first + b}: the logits behind token {lengths[b]} are not finite: the "
                    "parameters are damaged, or training diverged; try --checkpoint=best or an "
                    "earlier step"
                )
            new = row.look(all_ids[b, : lengths[b]], log_probs[b, : lengths[b]], left == 0)
            done[b] |= bool(row.why)
            if on_text and new:
                on_text(first + b, new)
        rows = rows.replace(done_B=jnp.asarray(done))


def prompt_ids(tok: Tokenizer, prompt: str, items: bool) -> np.ndarray:
    """The tokens of a prompt; items, and a text without a prompt, begin behind an end token.

    Raises:
      UserError: a character outside the vocabulary, or an item that goes over a line's end.
    """
    if items and "\n" in prompt:
        raise UserError(
            f"the prompt {prompt!r:.80} goes over a line's end, and this run writes an item a "
            "line: give one line of it, or several prompts"
        )
    began = [tok.start_id] if items or not prompt else []
    return np.concatenate([began, tok.encode(prompt)]).astype(np.int32)


class Watched:
    """One row as its text grows: finds its end, and says which text is sure to stay."""

    def __init__(self, tok: Tokenizer, prompt: str, prompt_ids: np.ndarray, settings: Settings):
        self._tok, self._prompt, self._settings = tok, prompt, settings
        self.prompt_ids = prompt_ids
        self._told, self._text, self._ids, self._log_probs = 0, "", (), ()
        self.why = ""

    def look(self, ids: np.ndarray, log_probs: np.ndarray, last: bool) -> str:
        """Take in the row so far; returns the text that became sure since the last look."""
        if self.why:
            return ""
        n_prompt = len(self.prompt_ids)
        made, log_probs = ids[n_prompt:], log_probs[n_prompt:]
        if self._settings.items and len(made) and made[-1] == self._tok.start_id:
            made, log_probs, self.why = made[:-1], log_probs[:-1], "end"
        text = self._tok.decode(made)
        # A character half made is no U+FFFD yet that a stop string could name.
        whole = text if last or self.why else text.removesuffix(HALF)
        # Where each is complete, and where it began. The first to be complete counts: which one
        # that is does not depend on how much text there is at a look.
        found = [
            (at + len(stop), at) for stop in self._settings.stop if (at := whole.find(stop)) >= 0
        ]
        if found:
            text, self.why = text[: min(found)[1]], "stop"
            n = 0
            while not self._tok.decode(made[:n]).startswith(text):
                n += 1
            made, log_probs = made[:n], log_probs[:n]
        if last and not self.why:
            self.why = "length"
        self._text, self._ids, self._log_probs = text, made, log_probs
        sure = len(text) if self.why else self._sure(text)
        new, self._told = text[self._told : sure], max(self._told, sure)
        return new

    def _sure(self, text: str) -> int:
        """How much of an unfinished text no later token can change or cut off."""
        whole = text.removesuffix(HALF)
        sure = len(whole)
        for stop in self._settings.stop:
            for so_far in {whole, text}:
                for n in range(min(len(stop) - 1, len(so_far)), 0, -1):
                    if so_far.endswith(stop[:n]):
                        sure = min(sure, len(so_far) - n)
                        break
        return sure

    def sample(self) -> Sample:
        """The finished row."""
        ids = tuple(int(i) for i in self._ids)
        log_probs = tuple(round(float(p), 6) for p in self._log_probs)
        return Sample(self._prompt, self._text, ids, log_probs, self.why)
