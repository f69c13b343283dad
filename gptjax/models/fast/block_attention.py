"""Causal attention in blocks of rows: exact, nothing above the diagonal, no (T, T) square kept.

In: queries, keys, values of all heads. Out: what each place gathers. The backward pass computes the
weights again, from sums that the forward pass kept. Source: Dao et al. 2022, "FlashAttention".
G batch times heads, T time, S source time, R rows of a block, K head size.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gptjax.models.precision import Precision, dot

EACH = ((0,), (0,))  # of G on both sides


def blocks(precision: Precision, T: int) -> list[tuple[int, int]]:
    """Where each block of places begins and ends; a short context is one block.

    On 2 CPU cores 4 to 8 are best: more of the upper half is left out, and a block stays in the
    cache; of smaller ones the products are slow. Accelerators want wider ones.
    """
    least = 64 if precision.storage == "float32" else 256
    rows = T if 2 * least > T else max(least, -(-T // 8))
    return [(begin, min(T, begin + rows)) for begin in range(0, T, rows)]


def keeps(key: jax.Array, rate: float, place: jax.Array) -> jax.Array:
    """Which places dropout keeps, a hash of key (two uint32) and place (uint32).

    Two rounds of MurmurHash3's finalizer: a fortieth of the time of ``jax.random.bernoulli`` on a
    CPU, and nothing is stored for the backward pass, which asks again.
    """
    bits = place
    for word in key:
        bits = bits ^ word
        bits = (bits ^ (bits >> 16)) * np.uint32(0x85EBCA6B)
        bits = (bits ^ (bits >> 13)) * np.uint32(0xC2B2AE35)
        bits = bits ^ (bits >> 16)
    return bits >= np.uint32(rate * 2**32)


def drop(x: jax.Array, rate: float, key: jax.Array, place: jax.Array) -> jax.Array:
    """Zero a fraction of x and divide the rest by 1 - rate."""
    return jnp.where(keeps(key, rate, place), x / (1 - rate), 0) if rate else x


def _places(g_G: jax.Array, tile: jax.Array, T: int, t_axis: int, t: int, s: int) -> jax.Array:
    """The number of each (g, t, s) of a tile (G, ., .) at (t, s) of all (T, T) squares."""
    one, two = (lax.broadcasted_iota(jnp.uint32, tile.shape, axis) for axis in (1, 2))
    row, column = (one, two) if t_axis == 1 else (two, one)
    g = g_G[:, None, None]
    return (g * np.uint32(T) + row + np.uint32(t)) * np.uint32(T) + column + np.uint32(s)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend(precision: Precision, rate: float, q_GxTxK, k_GxTxK, v_GxTxK, key, g_G) -> jax.Array:
    """softmax(q kᵀ / sqrt(K), causal), dropped out at ``rate`` by ``key``, times v: (G, T, K).

    ``g_G`` numbers the squares (uint32), of which another device may have others: what is dropped
    out depends on the number.
    """
    return _forward(precision, rate, q_GxTxK, k_GxTxK, v_GxTxK, key, g_G)[0]


def _forward(precision, rate, q, k, v, key, g_G):
    T, K = q.shape[1:]
    like, outs, log_sums = jnp.zeros((), q.dtype), [], []
    q = precision.read(q.astype(jnp.float32) * K**-0.5)
    k, v = precision.read(k), precision.read(v)
    for begin, end in blocks(precision, T):
        scores_GxRxS = dot(precision, q[:, begin:end], k[:, :end], ((2,), (2,)), EACH)
        causal_RxS = np.arange(begin, end)[:, None] >= np.arange(end)
        scores_GxRxS = jnp.where(causal_RxS, scores_GxRxS, -jnp.inf)
        most_GxRx1 = scores_GxRxS.max(axis=2, keepdims=True)
        p_GxRxS = jnp.exp(scores_GxRxS - most_GxRx1)
        sum_GxRx1 = p_GxRxS.sum(axis=2, keepdims=True)
        p_GxRxS = drop(p_GxRxS, rate, key, _places(g_G, p_GxRxS, T, 1, begin, 0))
        outs.append(dot(precision, p_GxRxS, v[:, :end], ((2,), (1,)), EACH) / sum_GxRx1)
        log_sums.append(most_GxRx1 + jnp.log(sum_GxRx1))
    out = precision.store(jnp.concatenate(outs, axis=1))
    return out, (q, k, v, out, jnp.concatenate(log_sums, axis=1), key, g_G, like)


def _backward(precision, rate, kept, g):
    q, k, v, out, log_sum_GxTx1, key, g_G, like = kept
    T, K = q.shape[1:]
    # All of it is transposed, keys by queries: XLA's CPU products are slow where the left side is.
    log_sum_Gx1xT = log_sum_GxTx1.swapaxes(1, 2)
    delta_Gx1xT = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=2)[:, None]
    g, k_GxKxT = precision.read(g), k.swapaxes(1, 2)
    dq_GxKxT, dk, dv = None, [], []
    for begin, end in blocks(precision, T):
        keys, rows = slice(begin, end), slice(begin, T)  # who sees these keys
        scores_GxRxT = dot(precision, k[:, keys], q[:, rows], ((2,), (2,)), EACH)
        causal_RxT = np.arange(begin, end)[:, None] <= np.arange(begin, T)
        p_GxRxT = jnp.where(causal_RxT, jnp.exp(scores_GxRxT - log_sum_Gx1xT[:, :, rows]), 0)
        place = _places(g_G, p_GxRxT, T, 2, begin, begin)
        dropped = drop(p_GxRxT, rate, key, place)
        dv.append(dot(precision, dropped, g[:, rows], ((2,), (1,)), EACH))
        dp_GxRxT = dot(precision, v[:, keys], g[:, rows], ((2,), (2,)), EACH)
        dp_GxRxT = drop(dp_GxRxT, rate, key, place) - delta_Gx1xT[:, :, rows]
        ds_GxRxT = precision.read(p_GxRxT * dp_GxRxT)
        dk.append(dot(precision, ds_GxRxT, q[:, rows], ((2,), (1,)), EACH))
        part = dot(precision, k_GxKxT[:, :, keys], ds_GxRxT, ((2,), (1,)), EACH)
        dq_GxKxT = part if dq_GxKxT is None else dq_GxKxT.at[:, :, rows].add(part)
    dq = dq_GxKxT.swapaxes(1, 2) * K**-0.5
    dk, dv = jnp.concatenate(dk, axis=1), jnp.concatenate(dv, axis=1)
    return *(d.astype(like.dtype) for d in (dq, dk, dv)), None, None


attend.defvjp(_forward, _backward)
