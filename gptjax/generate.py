"""Text, one token at a time: the notes' ``generate`` as one compiled loop.

In: a model, its parameters, prompts as ids, one key per row. Out: ids. No text here: a verb
encodes and decodes. The buffer has a fixed size, so that one program serves every prompt.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gptjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """The sample a run shows at each evaluation."""

    prompt: Annotated[str, "what it continues; empty begins as the corpus does"] = ""
    max_new_tokens: Annotated[int, "length of the sample, tokens; 0 shows none"] = 200
    temperature: Annotated[float, "logits are divided by it; 0 takes the likeliest token"] = 0.8

    def __post_init__(self):
        if self.max_new_tokens < 0:
            raise UserError(f"sample.max_new_tokens={self.max_new_tokens} must not be negative")
        if not self.temperature >= 0:
            raise UserError(f"sample.temperature={self.temperature} must not be negative")


def sample_token(logits_BxV: jax.Array, key_B: jax.Array, temperature: jax.Array) -> jax.Array:
    """Draw a token per row from softmax(logits / temperature); at 0 take the likeliest.

    Args:
      logits_BxV: scores of the last place, float32.
      key_B: a PRNG key per row.
      temperature: scalar, at least 0.

    Returns:
      Ids (B,), int32.

    Source: page 1 section 10, page 6 sections 7 and 8.
    """
    scaled = logits_BxV / jnp.where(temperature > 0, temperature, 1.0)
    drawn = jax.vmap(jax.random.categorical)(key_B, scaled)
    return jnp.where(temperature > 0, drawn, logits_BxV.argmax(axis=-1)).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def generate(
    model: nn.Module,
    params: Any,
    buffer_BxL: jax.Array,
    length: jax.Array,
    max_new_tokens: jax.Array,
    key: jax.Array,
    temperature: jax.Array,
) -> jax.Array:
    """Continue every row by ``max_new_tokens``, from the last ``model.block_size`` tokens of each.

    Args:
      model: any of the models (static).
      params: its parameters.
      buffer_BxL: the prompts, ids (B, L) with room behind them, L >= length + max_new_tokens.
      length: tokens of each prompt, at least 1; a scalar, so no length compiles anew.
      max_new_tokens: how many to add; a scalar.
      key: PRNG key; row b draws token t with a key made of (key, b, t).
      temperature: scalar, at least 0.

    Returns:
      The buffer with the new tokens in it.

    Source: page 6: ``idx[:, -block_size:]``, ``logits[:, -1, :]``, softmax, multinomial, cat.
    """
    B, L = buffer_BxL.shape
    window = min(model.block_size, L)
    row_keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(B))

    def one(t, buffer_BxL):
        start = jnp.maximum(t - window, 0)
        x_BxT = jax.lax.dynamic_slice_in_dim(buffer_BxL, start, window, axis=1)
        # Places behind t hold nothing yet; a causal model does not look at them.
        logits_BxTxV = model.apply({"params": params}, x_BxT)
        last_BxV = logits_BxTxV[:, t - 1 - start].astype(jnp.float32)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(row_keys, t)
        token_B = sample_token(last_BxV, keys, temperature)
        return jax.lax.dynamic_update_slice_in_dim(buffer_BxL, token_B[:, None], t, axis=1)

    return jax.lax.fori_loop(length, length + max_new_tokens, one, buffer_BxL)
