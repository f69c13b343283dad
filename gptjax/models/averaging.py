"""The mathematical trick in self-attention: three equal ways to average the past.

In: vectors (B, T, C). Out: at each place the mean of itself and all before it, (B, T, C). The third
way is a ``Head`` whose scores are all zero; attention learns to weigh the past unequally.
Source: the concepts file, "The Mathematical trick in self attention"; page 9, causal masking.
"""

import jax
import jax.numpy as jnp


def average_loop(x_BxTxC: jax.Array) -> jax.Array:
    """xbow[b, t] = mean(x[b, 0..t]), said one place at a time."""
    T = x_BxTxC.shape[1]
    return jnp.stack([x_BxTxC[:, : t + 1].mean(axis=1) for t in range(T)], axis=1)


def average_matmul(x_BxTxC: jax.Array) -> jax.Array:
    """wei @ x: row t of wei holds 1/(t + 1) at places 0..t, which is tril(1) over its row sums."""
    T = x_BxTxC.shape[1]
    tril = jnp.tril(jnp.ones((T, T), x_BxTxC.dtype))
    wei_TxS = tril / tril.sum(axis=1, keepdims=True)
    return wei_TxS @ x_BxTxC


def average_softmax(x_BxTxC: jax.Array, scores_TxS: jax.Array | None = None) -> jax.Array:
    """softmax(scores, -inf above the diagonal) @ x; scores of 0 (or None) give the mean.

    ``scores_TxS``: how much place t wants of place s, (T, T) or (B, T, T).
    """
    T = x_BxTxC.shape[1]
    scores_TxS = jnp.zeros((T, T), x_BxTxC.dtype) if scores_TxS is None else scores_TxS
    tril = jnp.tril(jnp.ones((T, T), bool))
    return jax.nn.softmax(jnp.where(tril, scores_TxS, -jnp.inf), axis=-1) @ x_BxTxC
