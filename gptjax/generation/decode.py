"""The notes' ``generate`` as one compiled loop with a cache: the same tokens, sooner.

In: a model, its parameters, prompts as ids, a key per row. Out: the rows, longer; text is made of
them by generate.py. A GPT reads its prompt in one pass and then one token at a time, with the keys
and values of the past in a ``Cache``; every other model looks at its last few tokens anew.
B rows, L places of the buffer, W = model.block_size, V vocabulary.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.generation.sampling import Chain, draw
from gptjax.models.fast.gpt_cached import Cache, CachedGPT
from gptjax.models.gpt import GPTLanguageModel

ROOM = 1024  # the most tokens of one call
ASKED = 64  # tokens: what a shorter question costs is not its products


@flax.struct.dataclass
class DecodeState:
    """Unfinished texts: all that one call of ``advance`` hands to the next.

    ``ids_BxL`` hold the last ``length_B`` tokens of each text, which begin at its place
    ``begin_B``; ``log_prob_BxL`` the model's ln P of those it made; ``seen_BxV`` which tokens stand
    in all of it, where the sampler asks. Row b draws its token number t with the key (``key_B[b]``,
    t) and nothing else, so its text is the same in any company. ``done_B``: it ended; ``bad_B``:
    its logits were not finite.
    """

    ids_BxL: jax.Array
    length_B: jax.Array
    begin_B: jax.Array
    log_prob_BxL: jax.Array
    seen_BxV: jax.Array
    key_B: jax.Array
    done_B: jax.Array
    bad_B: jax.Array
    cache: Cache | None


def bucket(n: int, least: int = 16) -> int:
    """The next power of two: sizes of one bucket share a compiled program."""
    return 1 << (max(n, least) - 1).bit_length()


def prepare(model: nn.Module, params: Any) -> tuple[nn.Module, Any]:
    """A model and its parameters as the loop wants them: of a GPT its cached twin."""
    if not isinstance(model, GPTLanguageModel):
        return model, params
    cached = CachedGPT.of(model)
    return cached, cached.prepare(params)


def start(
    model: nn.Module, params: Any, prompts: list[np.ndarray], key_B: jax.Array, room: int = ROOM
) -> DecodeState:
    """Lay the ends of prompts of any lengths (>= 1) into one buffer; a GPT reads them.

    Model and params are of ``prepare``. ``room``: the most tokens of one ``advance``. Of a text
    W + 1 tokens are enough to go on as if all of it stood there.
    """
    B, keep = len(prompts), model.block_size + 1
    ends = [prompt[-keep:] for prompt in prompts]
    ids_BxL = np.zeros((B, keep + room), np.int32)
    seen_BxV = np.zeros((B, model.vocab_size), bool)
    for ids, seen, end, prompt in zip(ids_BxL, seen_BxV, ends, prompts, strict=True):
        ids[: len(end)] = end
        seen[prompt] = True
    length_B = jnp.asarray([len(end) for end in ends], jnp.int32)
    begin_B = jnp.asarray([len(prompt) for prompt in prompts], jnp.int32) - length_B
    cache = None
    if isinstance(model, CachedGPT):
        if (longest := max(map(len, ends))) > 1:
            read = ids_BxL[:, : min(bucket(longest), model.block_size)]
            cache = _read_prompts(model, params, read, length_B)
        else:  # the loop reads the only token: one program less to compile
            cache = model.empty_cache(B)
    return DecodeState(
        ids_BxL=jnp.asarray(ids_BxL),
        length_B=length_B,
        begin_B=begin_B,
        log_prob_BxL=jnp.zeros(ids_BxL.shape, jnp.float32),
        seen_BxV=jnp.asarray(seen_BxV),
        key_B=jnp.copy(key_B),  # the state is donated, the caller's keys are not
        done_B=jnp.zeros(B, bool),
        bad_B=jnp.zeros(B, bool),
        cache=cache,
    )


def advance(
    model: nn.Module,
    window: str,
    params: Any,
    state: DecodeState,
    sampler: Chain,
    n: int,
    end_id: int | None = None,
) -> DecodeState:
    """Add up to ``n`` tokens to every row that is not done; another ``n`` compiles nothing.

    Model and params are of ``prepare``, the state is donated, and ``end_id`` ends a row before
    ``n`` does. ``n`` is at most ``start``'s ``room``; what stands in the buffer may leave it for
    these tokens, all but the last W + 1.

    ``window`` says what a GPT does past W tokens. "exact": the notes' idx[:, -block_size:], all W
    places computed anew for each token. "refill": when the cache is full it is filled again with
    the most recent W // 2 tokens, so that a token costs one place, and what is visible varies
    between W // 2 + 1 and W tokens.
    """
    end = None if end_id is None else jnp.int32(end_id)
    if int(state.length_B.max()) + n > state.ids_BxL.shape[1]:
        state = _keep_end(model.block_size + 1, state)
    # A program for each of the three, and not one that asks at every token which it is: a branch
    # around the cache would copy it.
    while n > 0:
        source, m = _plan(model, window, state, n)
        if not m:
            break
        if source == "refill":
            state = state.replace(cache=_refill(model, params, state))
            source, m = _plan(model, window, state, n)
        state = _draw_tokens(model, source, params, state, sampler, jnp.int32(m), end)
        n -= m
    return state


def _plan(model, window: str, state: DecodeState, n: int) -> tuple[str, int]:
    """Where the next logits come from, and for how many tokens; 0 when all rows are done."""
    if state.cache is None:
        return "window", n
    done_B, read_B = jax.device_get((state.done_B, state.cache.length_B))
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
def _draw_tokens(model, source: str, params, state: DecodeState, sampler: Chain, n, end_id):
    def one(_, state):
        return _one_token(model, source, params, state, sampler, end_id)

    if end_id is None:
        return jax.lax.fori_loop(0, n, one, state)
    # Names end after a few tokens: the loop ends with the longest.
    return jax.lax.while_loop(
        lambda carry: (carry[0] < n) & ~carry[1].done_B.all(),
        lambda carry: (carry[0] + 1, one(*carry)),
        (jnp.zeros((), jnp.int32), state),
    )[1]


def _one_token(model, source: str, params, state: DecodeState, sampler: Chain, end_id):
    logits_BxV, cache = _next_logits(model, source, params, state)
    logits_BxV = logits_BxV.astype(jnp.float32)
    B, L = state.ids_BxL.shape
    row_B, seen_BxV = jnp.arange(B), state.seen_BxV
    place_B = state.begin_B + state.length_B
    drawn_B = draw(state.key_B, place_B, sampler(logits_BxV, seen_BxV))
    if sampler.reads_past:
        seen_BxV = seen_BxV.at[row_B, drawn_B].set(True)
    log_prob_B = jax.nn.log_softmax(logits_BxV)[row_B, drawn_B]
    bad_B = ~state.done_B & ~jnp.isfinite(logits_BxV).all(axis=-1)
    grows_B = ~state.done_B & ~bad_B
    # A row that does not grow writes after the buffer's end, where nothing is.
    at_B = jnp.where(grows_B, state.length_B, L)
    return state.replace(
        ids_BxL=state.ids_BxL.at[row_B, at_B].set(drawn_B, mode="drop"),
        log_prob_BxL=state.log_prob_BxL.at[row_B, at_B].set(log_prob_B, mode="drop"),
        seen_BxV=seen_BxV,
        length_B=state.length_B + grows_B,
        done_B=state.done_B | bad_B | (False if end_id is None else drawn_B == end_id),
        bad_B=state.bad_B | bad_B,
        cache=cache,
    )


def _next_logits(model, source: str, params, state: DecodeState):
    """Logits (B, V) after the last token of each row, and the cache with that token in it."""
    if source == "window":
        return _window_logits(model, params, state), state.cache
    last_B = jnp.take_along_axis(state.ids_BxL, state.length_B[:, None] - 1, axis=1)
    logits_BxTxV, cache = model.apply({"params": params}, last_B, state.cache, method="read")
    # A row that is done reads its last token again and again: it must not fill the cache.
    cache = cache.replace(length_B=jnp.where(state.done_B, state.cache.length_B, cache.length_B))
    if source == "cache":
        return logits_BxTxV[:, 0], cache
    full_B = state.cache.length_B >= model.block_size
    anew_BxV = _window_logits(model, params, state)
    return jnp.where(full_B[:, None], anew_BxV, logits_BxTxV[:, 0]), cache


def _window_logits(model, params, state: DecodeState) -> jax.Array:
    """Page 6: the last W tokens of each row through the model, the logits of the last place."""
    start_B = jnp.maximum(state.length_B - model.block_size, 0)
    x_BxW = _cut(state.ids_BxL, start_B, model.block_size)
    return _logits_at(model, params, x_BxW, state.length_B - 1 - start_B)


def _logits_at(model, params, x_BxT: jax.Array, at_B: jax.Array) -> jax.Array:
    """The logits (B, V) of one place of each row; a causal model does not look past it."""
    if isinstance(model, CachedGPT):
        return model.apply({"params": params}, x_BxT, at_B, method="at")
    return model.apply({"params": params}, x_BxT)[jnp.arange(len(at_B)), at_B]


def next_logits(model: nn.Module, params: Any, ids_T: np.ndarray) -> np.ndarray:
    """The logits (V,) float32 after a text of one token or more, of which the last W count.

    Model and params are of ``prepare``. Texts of up to ``ASKED`` tokens share one program, longer
    ones have one per ``bucket``.
    """
    end = ids_T[-model.block_size :]
    x_1xS = np.zeros((1, min(bucket(len(end), ASKED), model.block_size)), np.int32)
    x_1xS[0, : len(end)] = end
    logits = _asked(model, params, x_1xS, np.array([len(end) - 1], np.int32))
    return np.asarray(logits, np.float32)[0]


_asked = jax.jit(_logits_at, static_argnums=0)


def _cut(ids_BxL: jax.Array, at_B: jax.Array, n: int) -> jax.Array:
    """n tokens of each row, from its own place on: (B, n)."""
    return jax.vmap(lambda ids, at: jax.lax.dynamic_slice(ids, (at,), (n,)))(ids_BxL, at_B)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _keep_end(n: int, state: DecodeState) -> DecodeState:
    """Move the last ``n`` tokens of each row to the front of the buffer."""
    L = state.ids_BxL.shape[1]
    gone_B = jnp.maximum(state.length_B - n, 0)
    from_BxL = jnp.minimum(gone_B[:, None] + jnp.arange(L), L - 1)
    return state.replace(
        ids_BxL=jnp.take_along_axis(state.ids_BxL, from_BxL, axis=1),
        log_prob_BxL=jnp.take_along_axis(state.log_prob_BxL, from_BxL, axis=1),
        length_B=state.length_B - gone_B,
        begin_B=state.begin_B + gone_B,
    )


@functools.partial(jax.jit, static_argnums=0)
def _read_prompts(model: CachedGPT, params, x_BxP: jax.Array, length_B: jax.Array) -> Cache:
    """All prompts in one pass. The last token stays out: the loop reads it to begin."""
    _, cache = model.apply({"params": params}, x_BxP, model.empty_cache(len(x_BxP)), method="read")
    # What was read after a shorter prompt is overwritten before it is ever looked at.
    return cache.replace(length_B=jnp.minimum(length_B - 1, model.block_size))


@functools.partial(jax.jit, static_argnums=0)
def _refill(model: CachedGPT, params, state: DecodeState) -> Cache:
    """Make room: rows whose cache is full read their W // 2 tokens before the last one anew."""
    half = model.block_size // 2
    past = state.cache
    full_B = past.length_B >= model.block_size
    fresh = model.empty_cache(len(full_B))
    if half:
        x_BxT = _cut(state.ids_BxL, jnp.maximum(state.length_B - 1 - half, 0), half)
        fresh = model.apply({"params": params}, x_BxT, fresh, method="read")[1]
    # The rows are the last axis of length_B, and the second of keys and values.
    choose = functools.partial(jnp.where, full_B[:, None, None])
    keys = jax.tree.map(choose, fresh.keys, past.keys)
    values = jax.tree.map(choose, fresh.values, past.values)
    return Cache(keys, values, jnp.where(full_B, fresh.length_B, past.length_B))
