"""The GPT of the notes, from one attention head to the whole language model.

In: tokens (B, T) with T <= block_size. Out: logits (B, T, V). ``GPTLanguageModel.decode`` is the
same function one piece at a time: it reads the keys and values of the past from a ``Cache`` that
is passed in and handed back. Source: the notes, pages 9 and 10, and the lecture's gpt.py.

B batch, T time, S source time, C channels (n_embd), H heads, K head size, V vocabulary.
"""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

ACTIVATIONS = {"relu": nn.relu, "gelu": functools.partial(nn.gelu, approximate=False)}

# PyTorch's LayerNorm adds 1e-5 to the variance; Linen's default is 1e-6.
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5)


@flax.struct.dataclass
class Cache:
    """Keys and values of the tokens a GPT has read, an array per layer, S = block_size places.

    Keys are (H, B, K, S), transposed as their product with q wants them: turning them at every
    token would copy them all. Values are (H, B, S, K). ``length_B`` counts the tokens of each row;
    what stands behind them is never looked at.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    length_B: jax.Array


class Head(nn.Module):
    """One head of self-attention: softmax(q kᵀ / sqrt(K), causal) v. Source: page 9, section 10."""

    head_size: int
    block_size: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x_BxTxC, past=None, length_B=None, train: bool = False, at_B=None):
        """Let every token gather from itself and the past.

        Args:
          x_BxTxC: the tokens' vectors, float.
          past: None, or the keys (B, K, S) and values (B, S, K) so far, S = block_size.
          length_B: with ``past``, how many tokens of each row stand in it.
          train: whether dropout is on (needs the rng "dropout").
          at_B: without ``past``, the one place of each row that gathers; None means all.

        Returns:
          The gathered values (B, T, K), or (B, 1, K) with ``at_B``, and the new ``past`` (None if
          there was none).
        """
        T = x_BxTxC.shape[1]
        linear = functools.partial(
            nn.Dense, self.head_size, use_bias=False, kernel_init=nn.initializers.normal(0.02)
        )
        k = linear(name="key")(x_BxTxC)
        q = linear(name="query")(x_BxTxC if at_B is None else _place(x_BxTxC, at_B))
        v = linear(name="value")(x_BxTxC)
        tril = np.tril(np.ones((self.block_size, self.block_size), bool))
        k_BxKxS = k.swapaxes(-2, -1)
        if past is not None and len(x_BxTxC) == T == 1:
            return _gather_one(q, k_BxKxS, v, past, length_B[0])
        if past is None:
            allowed = tril[:T, :T] if at_B is None else jnp.asarray(tril)[at_B, None, :T]
        else:
            k_BxKxS = _write(past[0], k_BxKxS, length_B, axis=1)
            v = _write(past[1], v, length_B, axis=0)
            past = (k_BxKxS, v)
            allowed = jnp.asarray(tril)[length_B[:, None] + jnp.arange(T)]
        wei_BxTxS = q @ k_BxKxS * self.head_size**-0.5
        wei_BxTxS = jnp.where(allowed, wei_BxTxS, -jnp.inf)
        # Softmax in float32 whatever the compute dtype: its sum over S loses digits otherwise.
        wei_BxTxS = nn.softmax(wei_BxTxS.astype(jnp.float32)).astype(v.dtype)
        wei_BxTxS = nn.Dropout(self.dropout, deterministic=not train)(wei_BxTxS)
        return wei_BxTxS @ v, past


def _write(past, new, length_B, axis):
    """Put the new places of each row behind those it has: ``axis`` is S without the batch."""
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=axis)
    return jax.vmap(put)(past, new, length_B)


def _gather_one(q, k, v, past, length):
    """What ``Head`` does, for one token of one row: the sums over the past and itself apart.

    The past is then written behind its last use, so that XLA changes one place of it: a tenth less
    time for a token than with a copy of all.
    """
    keys, values = past
    scores_1x1xS = jnp.where(jnp.arange(keys.shape[-1]) < length, q @ keys, -jnp.inf)
    scores = jnp.concatenate([scores_1x1xS, q @ k], axis=-1) * q.shape[-1] ** -0.5
    wei = nn.softmax(scores.astype(jnp.float32)).astype(v.dtype)
    out = wei[..., :-1] @ values + wei[..., -1:] * v
    put = jax.lax.dynamic_update_slice_in_dim
    return out, (put(keys, k, length, axis=2), put(values, v, length, axis=1))


def _place(x_BxTxC, at_B):
    """One place of each row: (B, 1, C)."""
    return jnp.take_along_axis(x_BxTxC, at_B[:, None, None], axis=1)


class MultiHeadAttention(nn.Module):
    """proj(concat(head_1(x), ..., head_H(x))). Source: page 9, "MultiHeadAttention".

    ``Head`` is mapped over stacked parameters (H, C, K), so the compiler sees one large product.
    """

    n_head: int
    head_size: int
    block_size: int
    dropout: float = 0.0
    proj_std: float = 0.02

    @nn.compact
    def __call__(self, x_BxTxC, past=None, length_B=None, train: bool = False, at_B=None):
        """Run the heads side by side and mix them: (B, T, C) -> (B, T, C), and the new past."""
        C = x_BxTxC.shape[-1]
        heads = nn.vmap(
            Head,
            in_axes=(None, 0, None, None, None),
            out_axes=(2, 0),
            axis_size=self.n_head,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
        )(self.head_size, self.block_size, self.dropout, name="heads")
        out_BxTxHxK, past = heads(x_BxTxC, past, length_B, train, at_B)
        B, T = out_BxTxHxK.shape[:2]
        out = out_BxTxHxK.reshape(B * T, self.n_head * self.head_size)
        out = nn.Dense(C, kernel_init=nn.initializers.normal(self.proj_std), name="proj")(out)
        out = nn.Dropout(self.dropout, deterministic=not train)(out)
        return out.reshape(B, T, C), past


class FeedForward(nn.Module):
    """proj(activation(fc(x))), four times as wide inside; each token thinks for itself."""

    activation: str = "relu"
    dropout: float = 0.0
    proj_std: float = 0.02

    @nn.compact
    def __call__(self, x_BxTxC: jax.Array, train: bool = False) -> jax.Array:
        """Apply the two layers: (B, T, C) -> (B, T, C)."""
        B, T, C = x_BxTxC.shape
        # Two axes instead of three: the backward product runs twice as fast on a CPU.
        x = x_BxTxC.reshape(B * T, C)
        x = nn.Dense(4 * C, kernel_init=nn.initializers.normal(0.02), name="fc")(x)
        x = ACTIVATIONS[self.activation](x)
        x = nn.Dense(C, kernel_init=nn.initializers.normal(self.proj_std), name="proj")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return x.reshape(B, T, C)


class Block(nn.Module):
    """x + sa(ln1(x)), then x + ffwd(ln2(x)): communication, then computation. Source: page 10."""

    n_head: int
    block_size: int
    dropout: float = 0.0
    activation: str = "relu"
    proj_std: float = 0.02

    @nn.compact
    def __call__(self, x_BxTxC, past=None, length_B=None, train: bool = False, at_B=None):
        """Add what attention gathers and what the feed-forward makes of it: (B, T, C) -> same."""
        head_size = x_BxTxC.shape[-1] // self.n_head
        sa = MultiHeadAttention(
            self.n_head, head_size, self.block_size, self.dropout, self.proj_std, name="sa"
        )
        ffwd = FeedForward(self.activation, self.dropout, self.proj_std, name="ffwd")
        out, past = sa(LayerNorm(name="ln1")(x_BxTxC), past, length_B, train, at_B)
        x_BxTxC = (x_BxTxC if at_B is None else _place(x_BxTxC, at_B)) + out
        x_BxTxC = x_BxTxC + ffwd(LayerNorm(name="ln2")(x_BxTxC), train)
        return x_BxTxC, past


class GPTLanguageModel(nn.Module):
    """lm_head(ln_f(block_N(... block_1(tok_emb + pos_emb)))). Source: page 10, diagrams 1 and 3."""

    vocab_size: int
    block_size: int
    n_embd: int
    n_head: int
    n_layer: int
    dropout: float = 0.0
    activation: str = "relu"
    tie_lm_head: bool = False
    scale_residual: bool = False
    lookback, slides = 0, False

    def setup(self):
        normal = nn.initializers.normal(0.02)
        proj_std = 0.02 / (2 * self.n_layer) ** 0.5 if self.scale_residual else 0.02
        embed = functools.partial(nn.Embed, features=self.n_embd, embedding_init=normal)
        self.token_embedding_table = embed(self.vocab_size)
        self.position_embedding_table = embed(self.block_size)
        self.blocks = [
            Block(self.n_head, self.block_size, self.dropout, self.activation, proj_std)
            for _ in range(self.n_layer)
        ]
        self.ln_f = LayerNorm()
        if not self.tie_lm_head:
            self.lm_head = nn.Dense(self.vocab_size, kernel_init=normal)

    def __call__(self, x_BxT: jax.Array, train: bool = False) -> jax.Array:
        """Predict every next token at once: (B, T) int32 -> logits (B, T, V); T <= block_size."""
        return self._run(x_BxT, jnp.arange(x_BxT.shape[1]), None, train)[0]

    def decode(self, x_BxT: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Read T more tokens of each row, behind those in the cache.

        Args:
          x_BxT: the new tokens; length_B + T must not pass block_size.
          cache: what has been read so far.

        Returns:
          The logits (B, T, V) of the new tokens, and the cache with them in it.
        """
        positions_BxT = cache.length_B[:, None] + jnp.arange(x_BxT.shape[1])
        return self._run(x_BxT, positions_BxT, cache, False)

    def last_logits(self, x_BxT: jax.Array, at_B: jax.Array) -> jax.Array:
        """The logits (B, V) of one place a row, ``at_B``: what the others lead to is left out."""
        return self._run(x_BxT, jnp.arange(x_BxT.shape[1]), None, False, at_B)[0][:, 0]

    def empty_cache(self, batch_size: int, dtype=jnp.float32) -> Cache:
        """A cache of no tokens for ``batch_size`` rows: 2 · N · B · block_size · C numbers."""
        head_size = self.n_embd // self.n_head
        shape = (self.n_head, batch_size, head_size, self.block_size)
        # An array of its own for each, as one that stands twice could not be donated.
        keys = tuple(jnp.zeros(shape, dtype) for _ in range(self.n_layer))
        values = tuple(jnp.zeros(shape, dtype).swapaxes(-2, -1) for _ in range(self.n_layer))
        return Cache(keys, values, jnp.zeros(batch_size, jnp.int32))

    def _run(self, x_BxT, positions, cache, train, at_B=None):
        x = self.token_embedding_table(x_BxT) + self.position_embedding_table(positions)
        pasts = []
        for n, block in enumerate(self.blocks):
            past = None if cache is None else (cache.keys[n], cache.values[n])
            length_B = None if cache is None else cache.length_B
            # The last block need only tell what is asked for; those below it tell each other all.
            x, past = block(x, past, length_B, train, at_B if n == self.n_layer - 1 else None)
            pasts.append(past)
        B, T = x.shape[:2]
        x = self.ln_f(x).reshape(B * T, self.n_embd)
        head = self.token_embedding_table.attend if self.tie_lm_head else self.lm_head
        logits_BxTxV = head(x).reshape(B, T, self.vocab_size)
        if cache is not None:
            keys, values = zip(*pasts, strict=True)
            cache = Cache(keys, values, cache.length_B + T)
        return logits_BxTxV, cache
