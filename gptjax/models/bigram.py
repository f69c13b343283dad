"""The two bigram models: a table of logits, and its factored form with positions.

In: tokens (B, T). Out: logits (B, T, V). Each position sees its own token alone (the second model
also where it stands), so both learn the statistics of pairs. Source: the notes, pages 4 and 5.
"""

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
        V, init = self.vocab_size, nn.initializers.normal(1.0)
        return nn.Embed(V, V, embedding_init=init, name="token_embedding_table")(x_BxT)


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
        C, init = self.n_embd, nn.initializers.normal(0.02)
        tok_emb = nn.Embed(self.vocab_size, C, embedding_init=init, name="token_embedding_table")
        pos_emb = nn.Embed(self.block_size, C, embedding_init=init, name="position_embedding_table")
        x = tok_emb(x_BxT) + pos_emb(jnp.arange(x_BxT.shape[1]))
        return nn.Dense(self.vocab_size, kernel_init=init, name="lm_head")(x)
