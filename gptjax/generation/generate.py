"""The notes' ``generate``, and prompts to texts.

In: a model with its tokenizer, prompts, a seed. Out: ids, as on page 6; or texts, piece by piece
as they are made, and a ``Sample`` per row. The seed, the prompt, its place and the number of the
sample decide a text; how many rows are made together, or in what pieces, does not.
"""

import dataclasses
import functools
import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.config.schema import MOST_NEW_TOKENS, MOST_SEED, WINDOWS, SampleConfig
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError
from gptjax.generation import decode
from gptjax.generation.decode import ROOM
from gptjax.generation.sampling import Chain, Temperature, draw
from gptjax.generation.stopping import RowText, Sample
from gptjax.runtime.mesh_rules import put_array, whole_beside
from gptjax.runtime.pace import Busy, pieces

# Tokens between two looks at the text: streamed text flows, stop strings waste few tokens.
STREAM_TOKENS, STOP_TOKENS = 8, 32
FIRST_TOKENS = 32  # of a text made without such looks: as many as a large model makes in a second
GROUP_ROWS = 1024  # are made together; more come in groups, for a cache of all would not fit
ITEMS_SHOWN = 10


def generate(model, params, idx, max_new_tokens: int, key_B, temperature=1.0) -> jax.Array:
    """Page 6: predict, keep the last place, draw, append; again.

    ``idx``: ids (B, T); ``key_B``: a PRNG key per row. The logits are divided by ``temperature``; 0
    takes the likeliest token. Returns ids (B, T + max_new_tokens).
    """
    T = idx.shape[1]
    end = T + max_new_tokens
    idx = jnp.pad(idx, ((0, 0), (0, max(end, model.block_size) - T)))  # in the loop no array grows
    return append(model, params, idx, T, end, key_B, temperature)[:, :end]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def append(model, params, idx, begin, end, key_B, temperature) -> jax.Array:
    """The loop of ``generate``: fill the places from ``begin`` to ``end`` of idx (B, >= W)."""
    B, W = len(idx), model.block_size

    def one(t, idx):
        first = jnp.maximum(t - W, 0)
        idx_cond = jax.lax.dynamic_slice_in_dim(idx, first, W, axis=1)  # idx[:, -block_size:]
        logits = model.apply({"params": params}, idx_cond)[:, t - 1 - first]  # the last place
        logits = Temperature(temperature)(logits.astype(jnp.float32), None)
        idx_next = draw(key_B, jnp.full(B, t), logits)  # from softmax(logits)
        return idx.at[:, t].set(idx_next)

    return jax.lax.fori_loop(begin, end, one, idx)


@functools.cache
def _append_at(place: jax.sharding.Sharding | None) -> Callable[..., jax.Array]:
    """``append``; beside parameters that a mesh cuts, its result is whole on each device."""
    if place is None or len(place.device_set) == 1:
        return append
    return jax.jit(append, static_argnums=0, donate_argnums=2, out_shardings=place)


def preview(
    model: nn.Module,
    params: Any,
    tok: Tokenizer,
    config: SampleConfig,
    items: bool,
    key: jax.Array,
    busy: Busy = None,
) -> str:
    """The sample a run shows at an evaluation: a text, or a few items, one a line.

    It is what ``generate`` gives, in pieces: between them ``busy`` is told (done, total) tokens.
    """
    if not config.max_new_tokens:
        return ""
    ids = prompt_ids(tok, config.prompt, items)
    key_B = row_keys(key, 1, ITEMS_SHOWN if items else 1)
    T, n = len(ids), config.max_new_tokens
    idx = np.zeros((len(key_B), max(T + n, model.block_size)), np.int32)
    idx[:, :T] = ids
    place = whole_beside(params)
    idx = put_array(idx, place)  # as each piece returns it: another would compile again
    for begin, end in pieces(n, FIRST_TOKENS, ROOM, steady=jax.process_count() > 1):
        idx = _append_at(place)(model, params, idx, T + begin, T + end, key_B, config.temperature)
        jax.block_until_ready(idx)
        if busy:
            busy(end, n)
    texts = []
    for new in np.asarray(idx)[:, T : T + n]:
        ends = np.flatnonzero(new == tok.end_id) if items else []
        texts.append(config.prompt + tok.decode(new[: ends[0]] if len(ends) else new))
    return "\n".join(texts)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to continue a prompt, whatever the prompt.

    ``stop``: strings that cut a text, before the one that is complete first. ``window``: see
    ``decode.advance``. ``items``: the model writes items (names), from an end token to the next.
    """

    max_new_tokens: int = 200
    sampler: Chain = Chain((Temperature(0.8),))
    stop: tuple[str, ...] = ()
    window: str = "exact"
    items: bool = False

    def __post_init__(self):
        n = self.max_new_tokens
        if not 1 <= n <= MOST_NEW_TOKENS:
            raise UserError(f"max_new_tokens={n} must be 1 or more, at most {MOST_NEW_TOKENS:,}")
        if self.window not in WINDOWS:
            known = " or ".join(WINDOWS)
            raise UserError(f"window={self.window!r} is unknown: choose {known}")
        if "" in self.stop:
            raise UserError("a stop string must not be empty: every text begins with ''")


def row_keys(seed: int | jax.Array, n_prompts: int, num_samples: int) -> jax.Array:
    """Keys of n_prompts * num_samples rows: sample j of prompt i draws with (seed, i, j).

    So the first samples stay the same when more are asked for, or another prompt follows. The seed
    is a key or a whole number from 0 to 2**32 - 1; anything else is a UserError.
    """
    if not isinstance(seed, jax.Array):
        if not isinstance(seed, numbers.Integral) or not 0 <= seed <= MOST_SEED:
            raise UserError(f"seed={seed} must be a whole number, at least 0 and below 2**32")
        seed = jax.random.key(int(seed))  # it would take another number for a wrong one
    fold = jax.random.fold_in
    prompt_R, sample_R = np.divmod(np.arange(n_prompts * num_samples), num_samples)
    return jax.vmap(lambda i, j: fold(fold(seed, i), j))(prompt_R, sample_R)


def prompt_ids(tok: Tokenizer, prompt: str | np.ndarray, items: bool) -> np.ndarray:
    """The tokens of a prompt; an item begins after an end token, a text without one after a line.

    A prompt may be tokens (T,) already. UserError for a character or an id outside the vocabulary,
    or an item that goes over a line's end.
    """
    told = prompt if isinstance(prompt, str) else tok.decode(prompt)
    if items and ("\n" in told or (not isinstance(prompt, str) and tok.end_id in prompt)):
        raise UserError(
            f"the prompt {told!r:.80} goes over a line's end, and this run writes an item a "
            "line: give one line of it, or several prompts"
        )
    began = [tok.start_id] if items else [] if len(prompt) else [tok.begin_id]
    ids = tok.encode(prompt) if isinstance(prompt, str) else prompt
    return np.concatenate([began, ids]).astype(np.int32)


class Piece(NamedTuple):
    """Text of a row that is sure to stay; the last piece of a row has its whole ``sample``.

    ``made``: how many tokens of the row there are by then, the prompt's not among them; ``ids``
    those since its piece before. A stop string may yet cut the last of them off.
    """

    row: int
    text: str
    made: int
    sample: Sample | None = None
    ids: np.ndarray = np.zeros(0, np.int32)


def stream(
    model: nn.Module,
    params: Any,
    tok: Tokenizer,
    prompts: Sequence[str | np.ndarray],
    key_R: jax.Array,
    settings: Settings,
    look_every: int = STREAM_TOKENS,
) -> Iterator[Piece]:
    """Continue a prompt per row, and yield the texts piece by piece; stop asking to stop early.

    A prompt is a text or its tokens; an empty one begins as the corpus does, after a line's end. A
    row's prompt and its key in ``key_R`` alone decide its text. ``look_every``: the most tokens
    between two looks at the texts.
    UserError for no prompt, a character outside the vocabulary, or logits that are not finite.
    """
    if not len(prompts):
        raise UserError("there is no prompt to continue: give one; '' begins as the corpus does")
    stop, items = settings.stop, settings.items
    texts = [p if isinstance(p, str) else tok.decode(p) for p in prompts]
    rows = [
        RowText(tok, text, prompt_ids(tok, p, items), stop, items)
        for text, p in zip(texts, prompts, strict=True)
    ]
    model, params = decode.prepare(model, params)
    for first in range(0, len(rows), GROUP_ROWS):
        group = slice(first, first + GROUP_ROWS)
        yield from _group(model, params, first, rows[group], key_R[group], settings, look_every)


def _group(model, params, first, rows, key_B, settings, look_every) -> Iterator[Piece]:
    """The pieces of one group of rows, the first of which is row ``first``."""
    window, sampler, end_id = settings.window, settings.sampler, rows[0].end_id
    state = decode.start(model, params, [row.prompt_ids for row in rows], key_B)
    taken, total = [len(row.prompt_ids) for row in rows], settings.max_new_tokens
    for begin, end in pieces(total, FIRST_TOKENS, min(look_every, ROOM)):
        state = decode.advance(model, window, params, state, sampler, end - begin, end_id)
        seen = jax.device_get(state.replace(cache=None, key_B=None, seen_BxV=None))
        for b, row in enumerate(rows):
            place = int(seen.begin_B[b] + seen.length_B[b])
            if seen.bad_B[b]:
                raise UserError(
                    f"row {first + b}: the logits after token {place} are not finite: the "
                    "parameters are damaged, or training diverged; try --checkpoint=best or an "
                    "earlier step"
                )
            new = slice(taken[b] - seen.begin_B[b], seen.length_B[b])
            text = row.look(seen.ids_BxL[b, new], seen.log_prob_BxL[b, new], end == total)
            taken[b] = place
            if text:
                yield Piece(first + b, text, place - len(row.prompt_ids), ids=row.fresh())
        if all(row.why for row in rows):
            break
        state = state.replace(done_B=jnp.asarray(np.array([bool(row.why) for row in rows])))
    for b, row in enumerate(rows):
        yield Piece(first + b, "", total, row.sample(), row.fresh())


def continue_rows(
    model: nn.Module,
    params: Any,
    tok: Tokenizer,
    prompts: Sequence[str],
    key_R: jax.Array,
    settings: Settings,
    on_text: Callable[[int, str], None] | None = None,
    busy: Busy = None,
) -> list[Sample]:
    """``stream`` to its end: a sample per row; ``on_text`` gets (row, text) of each piece.

    ``busy`` is told (done, total) tokens; those of a row that ended early count as done.
    """
    look_every = STREAM_TOKENS if on_text else STOP_TOKENS if settings.stop else ROOM
    made, done, total = [], 0, len(prompts) * settings.max_new_tokens
    before = np.zeros(len(prompts), np.int64)
    for piece in stream(model, params, tok, prompts, key_R, settings, look_every):
        done, before[piece.row] = done + piece.made - before[piece.row], piece.made
        if piece.sample is not None:
            made.append(piece.sample)
        elif on_text:
            on_text(piece.row, piece.text)
        if busy:
            busy(int(done), total)
    return made
