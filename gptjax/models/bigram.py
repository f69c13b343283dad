"""The two bigram models: a table of logits, and its factored form with positions.

In: tokens (B, T). Out: logits (B, T, V). Each position sees its own token alone (the second model
also where it stands), so both learn the statistics of pairs. Source: the notes, pages 4 and 5.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn


class BigramLanguageModel(nn.Module):
    """logits[b, t] = token_embedding_table[x[b, t]]: row i holds the logits of what follows i.

    The table starts at N(0, 1), as PyTorch's ``nn.Embedding`` does. Source: page 4.
    """

    vocab_size: int
    block_size = 1
    lookback, slides = 0, True

    @nn.compact
    def __call__(self, x_BxT: jax.Array, train: bool = False) -> jax.Array:
        """Look up the row of each token: (B, T) int32 -> logits (B, T, V) float32."""
        table = nn.Embed(
            self.vocab_size,
            self.vocab_size,
            embedding_init=nn.initializers.normal(1.0),
            name="token_embedding_table",
        )
        return table(x_BxT)


class BigramEmbedLanguageModel(nn.Module):
    """logits = lm_head(token_embedding_table[x] + position_embedding_table[0..T-1]).

    Source: page 5, "updated __init__" and "forward()".
    """

    vocab_size: int
    block_size: int
    n_embd: int
    lookback, slides = 0, False

    @nn.compact
    def __call__(self, x_BxT: jax.Array, train: bool = False) -> jax.Array:
        """Embed, add positions, project: (B, T) int32 -> logits (B, T, V) float32; T <= block."""
        normal = nn.initializers.normal(0.02)
        tok_emb = nn.Embed(
            self.vocab_size, self.n_embd, embedding_init=normal, name="token_embedding_table"
        )(x_BxT)
        pos_emb = nn.Embed(
            self.block_size, self.n_embd, embedding_init=normal, name="position_embedding_table"
        )(jnp.arange(x_BxT.shape[1]))
        return nn.Dense(self.vocab_size, kernel_init=normal, name="lm_head")(tok_emb + pos_emb)
