"""Text, one token at a time: the notes' ``generate`` as one compiled loop.

In: a model, its parameters, prompts as ids, a key per row. Out: the rows, longer. Ids only: text
is continuation.py's. A GPT reads its prompt in one pass and then one token at a time, with the keys
and values of the past in a ``Cache``; every other model looks at its last few tokens anew.

B rows, L places of the buffer, W = model.block_size, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.generation.sampling import Chain

WINDOWS = ("exact", "refill")


@flax.struct.dataclass
class Rows:
    """Texts in the making: all that one call of ``advance`` hands to the next.

    ``ids_BxL`` hold ``length_B`` tokens each, ``log_prob_BxL`` the model's ln P of those it made.
    Row b draws its token number t with the key (``key_B[b]``, t) and nothing else, so its text is
    the same in any company. ``done_B``: it ended; ``bad_B``: its logits were not finite.
    """

    ids_BxL: jax.Array
    length_B: jax.Array
    log_prob_BxL: jax.Array
    key_B: jax.Array
    done_B: jax.Array
    bad_B: jax.Array
    cache: Any


def bucket(n: int, least: int = 16) -> int:
    """The next power of two: sizes of one bucket share a compiled program."""
    return 1 << (max(n, least) - 1).bit_length()


def turn(params: Any) -> Any:
    """Lay the weights of all heads (H, C, K) as (C, H, K), or back.

    A product with every head at once reads them in this order. Turned once, before the first
    token, they need not be at every one: a sixth of a GPT's time.
    """
    return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1) if leaf.ndim == 3 else leaf, params)


def start(
    model: nn.Module,
    turned: Any,
    prompts: Sequence[np.ndarray],
    max_new_tokens: int,
    key_B: jax.Array,
    cached: bool = True,
) -> Rows:
    """Lay prompts of any lengths into one buffer with room behind them; a GPT reads them.

    Args:
      model: any of the models.
      turned: ``turn`` of its parameters.
      prompts: ids of each row, at least one.
      max_new_tokens: the most that ``advance`` may add.
      key_B: a PRNG key per row.
      cached: whether a GPT keeps keys and values; without, it computes its window for each token,
        which takes one program instead of three.

    Returns:
      The rows; L is a power of two, or W where that is more.
    """
    B, longest = len(prompts), max(map(len, prompts))
    ids_BxL = np.zeros((B, max(bucket(longest + max_new_tokens), model.block_size)), np.int32)
    for row, prompt in zip(ids_BxL, prompts, strict=True):
        row[: len(prompt)] = prompt
    rows = Rows(
        ids_BxL=jnp.asarray(ids_BxL),
        length_B=jnp.asarray([len(prompt) for prompt in prompts], jnp.int32),
        log_prob_BxL=jnp.zeros(ids_BxL.shape, jnp.float32),
        key_B=jnp.copy(key_B),  # the rows are donated, the caller's keys are not
        done_B=jnp.zeros(B, bool),
        bad_B=jnp.zeros(B, bool),
        cache=None,
    )
    if not (cached and hasattr(model, "empty_cache")):
        return rows
    read = ids_BxL[:, : min(bucket(longest), model.block_size)]
    return rows.replace(cache=_read_prompts(model, turned, read, rows.length_B))


def advance(
    model: nn.Module,
    window: str,
    turned: Any,
    rows: Rows,
    sampler: Chain,
    n: int,
    end_id: int | None = None,
) -> Rows:
    """Add up to ``n`` tokens to every row that is not done: page 6's ``generate``.

    Args:
      model: any of the models.
      window: what a GPT does past W tokens. "exact": the notes' idx[:, -block_size:], all W places
        computed anew for each token. "refill": when the cache is full it is filled again with the
        most recent W // 2 tokens, so that a token costs one place, and what is visible varies
        between W // 2 + 1 and W tokens.
      turned: ``turn`` of the model's parameters.
      rows: donated.
      sampler: what happens to the logits before the draw.
      n: no other number compiles anew.
      end_id: the token that ends a row; None where only ``n`` does.

    Returns:
      The rows, longer.
    """
    end = None if end_id is None else jnp.int32(end_id)
    # A program for each of the three, and not one that asks at every token which it is: a branch
    # around the cache would copy it.
    while n > 0:
        source, m = _plan(model, window, rows, n)
        if not m:
            break
        if source == "refill":
            rows = rows.replace(cache=_refill(model, turned, rows))
            source, m = _plan(model, window, rows, n)
        rows = _draw(model, source, turned, rows, sampler, jnp.int32(m), end)
        n -= m
    return rows


def _plan(model, window: str, rows: Rows, n: int) -> tuple[str, int]:
    """Where the next logits come from, and for how many tokens; 0 when all rows are done."""
    if rows.cache is None:
        return "window", n
    done_B, read_B = jax.device_get((rows.done_B, rows.cache.length_B))
    if done_B.all():
        return "", 0
    room_B = model.block_size - read_B[~done_B]
    if room_B.min() > 0:
        return "cache", min(n, int(room_B.min()))
    if window == "refill":
        return "refill", n
    # Ragged rows: those whose cache has room use it, the others have all their window computed.
    return ("both", min(n, int(room_B.max()))) if room_B.max() > 0 else ("window", n)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _draw(model, source: str, turned, rows: Rows, sampler: Chain, n, end_id) -> Rows:
    """Up to n tokens in one loop."""

    def one(_, rows):
        return _one_token(model, source, turn(turned), rows, sampler, end_id)

    if end_id is None:
        return jax.lax.fori_loop(0, n, one, rows)

    # Names end after a few tokens: the loop ends with the longest.
    def going(carry):
        return (carry[0] < n) & ~carry[1].done_B.all()

    def body(carry):
        return carry[0] + 1, one(*carry)

    return jax.lax.while_loop(going, body, (jnp.zeros((), jnp.int32), rows))[1]


def _one_token(model, source: str, params, rows: Rows, sampler: Chain, end_id) -> Rows:
    logits_BxV, cache = _next_logits(model, source, params, rows)
    logits_BxV = logits_BxV.astype(jnp.float32)
    B, L = rows.ids_BxL.shape
    row_B = jnp.arange(B)
    seen_BxV = jnp.zeros(logits_BxV.shape, bool)
    if sampler.reads_past:
        there_BxL = jnp.arange(L) < rows.length_B[:, None]
        seen_BxV = seen_BxV.at[row_B[:, None], rows.ids_BxL].max(there_BxL)
    drawn_B = jax.vmap(jax.random.categorical)(
        jax.vmap(jax.random.fold_in)(rows.key_B, rows.length_B), sampler(logits_BxV, seen_BxV)
    ).astype(jnp.int32)
    log_prob_B = jax.nn.log_softmax(logits_BxV)[row_B, drawn_B]
    bad_B = ~rows.done_B & ~jnp.isfinite(logits_BxV).all(axis=-1)
    grows_B = ~rows.done_B & ~bad_B
    # A row that does not grow writes behind the buffer's end, where nothing is.
    place_B = jnp.where(grows_B, rows.length_B, L)
    return rows.replace(
        ids_BxL=rows.ids_BxL.at[row_B, place_B].set(drawn_B, mode="drop"),
        log_prob_BxL=rows.log_prob_BxL.at[row_B, place_B].set(log_prob_B, mode="drop"),
        length_B=rows.length_B + grows_B,
        done_B=rows.done_B | bad_B | (False if end_id is None else drawn_B == end_id),
        bad_B=rows.bad_B | bad_B,
        cache=cache,
    )


def _next_logits(model, source: str, params, rows: Rows):
    """Logits (B, V) behind the last token of each row, and the cache with that token in it."""
    if source == "window":
        return _window_logits(model, params, rows), rows.cache
    last_B = jnp.take_along_axis(rows.ids_BxL, rows.length_B[:, None] - 1, axis=1)
    logits_BxTxV, cache = model.apply({"params": params}, last_B, rows.cache, method="decode")
    # A row that is done reads its last token again and again: it must not fill the cache.
    cache = cache.replace(length_B=jnp.where(rows.done_B, rows.cache.length_B, cache.length_B))
    if source == "cache":
        return logits_BxTxV[:, 0], cache
    full_B = rows.cache.length_B >= model.block_size
    anew_BxV = _window_logits(model, params, rows)
    return jnp.where(full_B[:, None], anew_BxV, logits_BxTxV[:, 0]), cache


def _window_logits(model, params, rows: Rows) -> jax.Array:
    """Page 6: the last W tokens of each row through the model, the logits of the last place."""
    W = min(model.block_size, rows.ids_BxL.shape[1])
    start_B = jnp.maximum(rows.length_B - W, 0)
    x_BxW = jax.vmap(lambda ids, at: jax.lax.dynamic_slice(ids, (at,), (W,)))(rows.ids_BxL, start_B)
    # Places behind the text hold nothing yet; a causal model does not look at them.
    last_B = rows.length_B - 1 - start_B
    if hasattr(model, "last_logits"):
        return model.apply({"params": params}, x_BxW, last_B, method="last_logits")
    return model.apply({"params": params}, x_BxW)[jnp.arange(len(last_B)), last_B]


@functools.partial(jax.jit, static_argnums=0)
def _read_prompts(model, turned, x_BxP: jax.Array, length_B: jax.Array):
    """All prompts in one pass. The last token stays out: the loop reads it to begin."""
    cache = model.empty_cache(len(x_BxP))
    _, cache = model.apply({"params": turn(turned)}, x_BxP, cache, method="decode")
    # What was read behind a shorter prompt is overwritten before it is ever looked at.
    return cache.replace(length_B=jnp.minimum(length_B - 1, model.block_size))


@functools.partial(jax.jit, static_argnums=0)
def _refill(model, turned, rows: Rows):
    """Make room: rows whose cache is full read their W // 2 tokens before the last one anew."""
    half = model.block_size // 2
    full_B = rows.cache.length_B >= model.block_size
    fresh = model.empty_cache(len(full_B))
    if half:
        at_B = jnp.maximum(rows.length_B - 1 - half, 0)
        cut = jax.vmap(lambda ids, at: jax.lax.dynamic_slice(ids, (at,), (half,)))
        x_BxT = cut(rows.ids_BxL, at_B)
        fresh = model.apply({"params": turn(turned)}, x_BxT, fresh, method="decode")[1]
    # The rows are the last axis of length_B, and the second of keys and values.
    choose = functools.partial(jnp.where, full_B[:, None, None])
    return rows.cache.replace(
        keys=jax.tree.map(choose, fresh.keys, rows.cache.keys),
        values=jax.tree.map(choose, fresh.values, rows.cache.values),
        length_B=jnp.where(full_B, fresh.length_B, rows.cache.length_B),
    )
