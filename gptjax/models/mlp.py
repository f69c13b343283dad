"""The multi-layer perceptron over a fixed window of tokens.

In: tokens (B, T). Out: logits (B, T, V), where position t sees tokens t - block_size + 1 .. t and
a start token where the text has not begun. Source: the slides "next token generation"; Bengio et
al. 2003, "A neural probabilistic language model"; makemore part 2.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


class MLPLanguageModel(nn.Module):
    """logits = lm_head(tanh(W ... tanh(W [e(x_{t-n+1}); ...; e(x_t)] + b) ... + b)).

    The lookup table ``token_embedding_table`` (V, n_embd) is shared by all n = block_size places;
    with n_embd = 2 its rows are points of a plane, as the slides draw them.
    """

    vocab_size: int
    block_size: int
    n_embd: int
    n_hidden: int
    n_layer: int = 1
    start_id: int = 0
    slides = True

    @property
    def lookback(self) -> int:
        """Tokens before a row that its first position would see in running text."""
        return self.block_size - 1

    @nn.compact
    def __call__(self, x_BxT: jax.Array, train: bool = False, skip: int = 0) -> jax.Array:
        """Predict every next token at once: (B, T) int32 -> logits (B, T - skip, V) float32.

        The first ``skip`` places are only looked back on.
        """
        T, n = x_BxT.shape[1], self.block_size
        V, C, init = self.vocab_size, self.n_embd, nn.initializers.normal(1.0)
        padded = jnp.pad(x_BxT, ((0, 0), (n - 1, 0)), constant_values=self.start_id)
        emb = nn.Embed(V, C, embedding_init=init, name="token_embedding_table")(padded)
        # The oldest of the n embeddings stands first, as in makemore's `emb.view(-1, n * C)`.
        h = jnp.concatenate([emb[:, i + skip : i + T] for i in range(n)], axis=-1)
        for layer in range(self.n_layer):
            # Gain 5/3 keeps the variance of tanh layers near 1 (makemore part 3).
            init = nn.initializers.variance_scaling((5 / 3) ** 2, "fan_in", "normal")
            h = nn.tanh(nn.Dense(self.n_hidden, kernel_init=init, name=f"hidden_{layer}")(h))
        # A small head starts near the uniform guess: no first steps spent on undoing chance.
        init = nn.initializers.normal(0.01)
        return nn.Dense(V, kernel_init=init, name="lm_head")(h)
