"""The loss of every model: how surprised it was, in nats.

In: logits, the tokens that came, and a weight per place. Out: a sum of nats and a count, never a
mean, so that parts of any size add up exactly; whoever wants the mean divides once.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def logits_of(model: Any, params: Any, batch: Any, train: bool = False, **rngs) -> jax.Array:
    """The logits (B, T, V) of a batch, x (B, lookback + T): those it looks back on are not made."""
    skip = batch.x.shape[-1] - batch.y.shape[-1]
    options = {"train": train, "rngs": rngs} | ({"skip": skip} if skip else {})
    return model.apply({"params": params}, batch.x, **options)


def cross_entropy(
    logits_BxTxV: jax.Array, y_BxT: jax.Array, w_BxT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sum over places of w · -ln softmax(logits)[y], the notes' F.cross_entropy before the mean.

    Targets y are ids; w is 1 where the place counts, 0 where it is padding. Returns the sum in
    nats and the count of places, float32 scalars whatever comes in. Source: page 4, sections 6, 7.
    """
    w_BxT = w_BxT.astype(jnp.float32)
    return jnp.sum(token_nats(logits_BxTxV, y_BxT) * w_BxT), jnp.sum(w_BxT)


def token_nats(logits_BxTxV: jax.Array, y_BxT: jax.Array) -> jax.Array:
    """-ln softmax(logits)[y] at each place, nats, (B, T) float32."""
    optaxs = optax.losses.softmax_cross_entropy_with_integer_labels
    logits_BxTxV = logits_BxTxV.astype(jnp.float32)
    return jax.lax.platform_dependent(logits_BxTxV, y_BxT, tpu=_by_mask, default=optaxs)


def _by_mask(logits_BxTxV: jax.Array, y_BxT: jax.Array) -> jax.Array:
    """The same, [y] as a sum that leaves all others out, and all places along one axis.

    To look [y] up, or to have places along two, a TPU copies all logits, in float32.
    """
    logits_MxV, y_M = logits_BxTxV.reshape(-1, logits_BxTxV.shape[-1]), y_BxT.reshape(-1)
    logits_MxV = logits_MxV - jax.lax.stop_gradient(logits_MxV.max(axis=1, keepdims=True))
    came_MxV = y_M[:, None] == jnp.arange(logits_MxV.shape[1])
    right_M = jnp.where(came_MxV, logits_MxV, 0).sum(axis=1)
    return (jnp.log(jnp.exp(logits_MxV).sum(axis=1)) - right_M).reshape(y_BxT.shape)
