"""The n-gram model: one row of logits per context of n - 1 tokens.

In: tokens (B, T). Out: logits (B, T, V), where position t sees tokens t - block_size + 1 .. t and a
start token where the text has not begun. Its table is counted, by evaluation/count_models.py: with
block_size 1 it is the bigram table of page 4, at the answer that training approaches.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


class NGramLanguageModel(nn.Module):
    """logits[b, t] = table[x[t - n + 2] · V^(n-2) + ... + x[t - 1] · V + x[t]], n = block_size + 1.

    The table has V^block_size rows of V numbers: two or three tokens of context are its limit.
    Source: makemore part 1, which counts pairs and names trigrams as the exercise.
    """

    vocab_size: int
    block_size: int
    start_id: int = 0
    slides = True

    @property
    def lookback(self) -> int:
        """Tokens before a row that its first position would see in running text."""
        return self.block_size - 1

    @nn.compact
    def __call__(self, x_BxT: jax.Array, train: bool = False, skip: int = 0) -> jax.Array:
        """Look up the row of each context: (B, T) int32 -> logits (B, T - skip, V) float32."""
        V, init = self.vocab_size, nn.initializers.zeros
        rows = V**self.block_size
        table = nn.Embed(rows, V, embedding_init=init, name="token_embedding_table")
        return table(contexts(x_BxT, V, self.block_size, self.start_id)[:, skip:])


def contexts(x_BxT: jax.Array, vocab_size: int, block_size: int, start_id: int) -> jax.Array:
    """Number the last ``block_size`` tokens at each place, the newest as the last digit in base V.

    ``start_id`` stands before a row. Returns 0 .. V^block_size - 1, (B, T) int32.
    """
    T = x_BxT.shape[1]
    padded = jnp.pad(x_BxT, ((0, 0), (block_size - 1, 0)), constant_values=start_id)
    number = jnp.zeros_like(x_BxT)
    for i in range(block_size):
        number = number * vocab_size + padded[:, i : i + T]
    return number
