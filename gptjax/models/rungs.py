"""The rungs between the bigram and the GPT: attention without what later makes it trainable.

In: tokens (B, T), T <= block_size. Out: logits (B, T, V). The notes build the GPT in steps; the
ones in the middle are here, put together from the GPT's own modules: one head of self-attention,
several side by side, and a feed-forward after them. Source: the lecture's steps; page 9.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from gptjax.models.gpt import FeedForward, Head, MultiHeadAttention, normal


class RungLanguageModel(nn.Module):
    """lm_head(ffwd(sa(tok_emb + pos_emb))): no residual path, no LayerNorm, one layer.

    ``rung`` says how much of it is there: "head" is lm_head(Head(...)), "multihead" has n_head
    heads and their ``proj``, "ffwd" the feed-forward too.
    """

    rung: str
    vocab_size: int
    block_size: int
    n_embd: int
    n_head: int
    dropout: float = 0.0
    activation: str = "relu"
    lookback, slides = 0, False

    @nn.compact
    def __call__(self, x_BxT: jax.Array, train: bool = False) -> jax.Array:
        """Predict every next token at once: (B, T) int32 -> logits (B, T, V) float32."""
        # Without LayerNorm the values must begin large, as PyTorch's do: from 0.02 everywhere, a
        # thousand steps go by before the heads pass anything on.
        C, init = self.n_embd, normal(1.0)
        proj_std = C**-0.5
        tok_emb = nn.Embed(self.vocab_size, C, embedding_init=init, name="token_embedding_table")
        pos_emb = nn.Embed(self.block_size, C, embedding_init=init, name="position_embedding_table")
        x = tok_emb(x_BxT) + pos_emb(jnp.arange(x_BxT.shape[1]))
        if self.rung == "head":
            sa = Head(C, self.block_size, self.dropout, name="sa")
        else:
            sizes = (self.n_head, C // self.n_head, self.block_size)
            sa = MultiHeadAttention(*sizes, self.dropout, proj_std, name="sa")
        x = sa(x, train)
        if self.rung == "ffwd":
            x = FeedForward(C, self.dropout, self.activation, proj_std, name="ffwd")(x, train)
        return nn.Dense(self.vocab_size, kernel_init=normal(), name="lm_head")(x)
