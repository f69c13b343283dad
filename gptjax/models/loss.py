"""The loss of every model: how surprised it was, in nats.

In: logits, the tokens that came, and a weight per place. Out: a sum of nats and a count, never a
mean, so that parts of any size add up exactly; whoever wants the mean divides once.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def cross_entropy(
    logits_BxTxV: jax.Array, y_BxT: jax.Array, w_BxT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sum over places of w · -ln softmax(logits)[y], the notes' F.cross_entropy before the mean.

    Args:
      logits_BxTxV: raw scores, any float type; the sum is taken in float32.
      y_BxT: the tokens that came, int32.
      w_BxT: 1 where the place counts, 0 where it is padding.

    Returns:
      The sum in nats and the count of places, both float32 scalars.

    Source: page 4, sections 6 and 7.
    """
    logits_BxTxV = logits_BxTxV.astype(jnp.float32)
    right_BxT = jnp.take_along_axis(logits_BxTxV, y_BxT[..., None], axis=-1)[..., 0]
    nll_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1) - right_BxT
    w_BxT = w_BxT.astype(jnp.float32)
    return jnp.sum(nll_BxT * w_BxT), jnp.sum(w_BxT)
