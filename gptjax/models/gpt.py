"""The GPT of the notes, from one attention head to the whole language model.

In: tokens (B, T) with T <= block_size. Out: logits (B, T, V). Names and order are the lecture's
gpt.py; what decoding needs stands beside it in gpt_cached.py. Source: the notes, pages 9 and 10.

B batch, T time, S source time, C channels (n_embd), H heads, K head size, V vocabulary.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.models.precision import Precision

# GELU is x Φ(x); GPT-2's is the form with tanh, at most 5e-4 away.
ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
}

# PyTorch's LayerNorm adds 1e-5 to the variance; Linen's default is 1e-6.
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5)


def normal(std: float = 0.02) -> nn.initializers.Initializer:
    """The lecture's ``_init_weights``: N(0, 0.02)."""
    return nn.initializers.normal(std)


def dense(features: int, std: float, precision: Precision, **more) -> nn.Dense:
    """The lecture's ``nn.Linear``: x W + b, W from N(0, std), b zero."""
    return nn.Dense(features, kernel_init=normal(std), dot_general=precision.dense, **more)


class Head(nn.Module):
    """One head of self-attention: softmax(q kᵀ / sqrt(K), causal) v. Source: page 9, section 10."""

    head_size: int
    block_size: int
    dropout: float = 0.0
    precision: Precision = Precision()
    bias: bool = False

    def setup(self):
        linear = functools.partial(dense, self.head_size, 0.02, self.precision, use_bias=self.bias)
        self.key, self.query, self.value = linear(), linear(), linear()
        self.tril = np.tril(np.ones((self.block_size, self.block_size), bool))

    @nn.compact
    def __call__(self, x_BxTxC: jax.Array, train: bool = False) -> jax.Array:
        """Let every token gather from itself and the past: (B, T, C) -> (B, T, K)."""
        T = x_BxTxC.shape[1]
        k = self.key(x_BxTxC)
        q = self.query(x_BxTxC)
        wei_BxTxS = self.precision.matmul(q, k.swapaxes(-2, -1)) * self.head_size**-0.5
        wei_BxTxS = jnp.where(self.tril[:T, :T], wei_BxTxS, -jnp.inf)
        # Softmax in float32 whatever the compute dtype: its sum over S loses digits otherwise.
        wei_BxTxS = nn.softmax(wei_BxTxS.astype(jnp.float32)).astype(q.dtype)
        self.sow("intermediates", "wei", wei_BxTxS)  # nothing, unless someone asks for it
        wei_BxTxS = nn.Dropout(self.dropout)(wei_BxTxS, deterministic=not train)
        v = self.value(x_BxTxC)
        return self.precision.matmul(wei_BxTxS, v)


class MultiHeadAttention(nn.Module):
    """proj(concat(head_1(x), ..., head_H(x))). Source: page 9, "MultiHeadAttention".

    ``Head`` is mapped over stacked parameters (H, C, K), so the compiler sees one large product.
    """

    num_heads: int
    head_size: int
    block_size: int
    dropout: float = 0.0
    proj_std: float = 0.02
    precision: Precision = Precision()
    qkv_bias: bool = False

    def setup(self):
        side_by_side = nn.vmap(
            Head,
            in_axes=None,
            out_axes=2,
            axis_size=self.num_heads,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
        )
        sizes = (self.head_size, self.block_size)
        self.heads = side_by_side(*sizes, self.dropout, self.precision, self.qkv_bias)
        self.proj = dense(self.num_heads * self.head_size, self.proj_std, self.precision)

    def __call__(self, x_BxTxC: jax.Array, train: bool = False) -> jax.Array:
        """Run the heads side by side and mix them: (B, T, C) -> (B, T, C)."""
        return self.mix(self.heads(x_BxTxC, train), train)

    @nn.compact
    def mix(self, out_BxTxHxK: jax.Array, train: bool = False) -> jax.Array:
        """Concatenate what the heads gave and project it: (B, T, H, K) -> (B, T, C)."""
        B, T, H, K = out_BxTxHxK.shape
        out = self.proj(out_BxTxHxK.reshape(B * T, H * K))
        out = nn.Dropout(self.dropout)(out, deterministic=not train)
        return out.reshape(B, T, H * K)


class FeedForward(nn.Module):
    """proj(activation(fc(x))), four times as wide inside; each token thinks for itself."""

    n_embd: int
    dropout: float = 0.0
    activation: str = "relu"
    proj_std: float = 0.02
    precision: Precision = Precision()

    def setup(self):
        self.fc = dense(4 * self.n_embd, 0.02, self.precision)
        self.proj = dense(self.n_embd, self.proj_std, self.precision)

    @nn.compact
    def __call__(self, x_BxTxC: jax.Array, train: bool = False) -> jax.Array:
        """Apply the two layers: (B, T, C) -> (B, T, C)."""
        B, T, C = x_BxTxC.shape
        # Two axes instead of three: the backward product runs twice as fast on a CPU.
        x = ACTIVATIONS[self.activation](self.fc(x_BxTxC.reshape(B * T, C)))
        x = nn.Dropout(self.dropout)(self.proj(x), deterministic=not train)
        return x.reshape(B, T, C)


class Block(nn.Module):
    """x + sa(ln1(x)), then x + ffwd(ln2(x)): communication, then computation. Source: page 10."""

    n_embd: int
    n_head: int
    block_size: int
    dropout: float = 0.0
    activation: str = "relu"
    proj_std: float = 0.02
    precision: Precision = Precision()
    qkv_bias: bool = False
    attention, feed_forward = MultiHeadAttention, FeedForward  # gpt_cached.py puts its own here

    def setup(self):
        sizes = (self.n_head, self.n_embd // self.n_head, self.block_size)
        rest = (self.proj_std, self.precision)
        self.sa = self.attention(*sizes, self.dropout, *rest, self.qkv_bias)
        self.ffwd = self.feed_forward(self.n_embd, self.dropout, self.activation, *rest)
        self.ln1 = LayerNorm()
        self.ln2 = LayerNorm()

    def __call__(self, x_BxTxC: jax.Array, train: bool = False) -> jax.Array:
        """Add what attention gathers and what the feed-forward makes of it: (B, T, C) -> same."""
        x_BxTxC = x_BxTxC + self.sa(self.ln1(x_BxTxC), train)
        x_BxTxC = x_BxTxC + self.ffwd(self.ln2(x_BxTxC), train)
        return x_BxTxC


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
    precision: Precision = Precision()
    qkv_bias: bool = False
    lm_head_bias: bool = True
    lookback, slides = 0, False
    block = Block

    def setup(self):
        embed = functools.partial(nn.Embed, features=self.n_embd, embedding_init=normal())
        self.token_embedding_table = embed(self.vocab_size)
        self.position_embedding_table = embed(self.block_size)
        sizes = (self.n_embd, self.n_head, self.block_size)
        proj_std = 0.02 / (2 * self.n_layer) ** 0.5 if self.scale_residual else 0.02
        rest = (self.dropout, self.activation, proj_std, self.precision, self.qkv_bias)
        self.blocks = [self.block(*sizes, *rest) for _ in range(self.n_layer)]
        self.ln_f = LayerNorm()
        if not self.tie_lm_head:
            bias = self.lm_head_bias
            self.lm_head = dense(self.vocab_size, 0.02, self.precision, use_bias=bias)

    def __call__(self, x_BxT: jax.Array, train: bool = False) -> jax.Array:
        """Predict every next token at once: (B, T) int32 -> logits (B, T, V); T <= block_size."""
        x_BxTxC = self.embed(x_BxT, jnp.arange(x_BxT.shape[1]))
        for block in self.blocks:
            x_BxTxC = block(x_BxTxC, train)
        return self.logits(x_BxTxC)

    def embed(self, x_BxT: jax.Array, positions: jax.Array) -> jax.Array:
        """tok_emb + pos_emb: what each token is and where it stands, (B, T) -> (B, T, C).

        ``positions`` are (T,), or (B, T) where rows stand at different places.
        """
        tok_emb = self.token_embedding_table(x_BxT)
        pos_emb = self.position_embedding_table(positions)
        return tok_emb + pos_emb

    def logits(self, x_BxTxC: jax.Array) -> jax.Array:
        """lm_head(ln_f(x)): (B, T, C) -> (B, T, V)."""
        B, T, C = x_BxTxC.shape
        x = self.ln_f(x_BxTxC).reshape(B * T, C)
        if self.tie_lm_head:
            logits = self.precision.matmul(x, self.token_embedding_table.embedding.T)
        else:
            logits = self.lm_head(x)
        return logits.reshape(B, T, self.vocab_size)


def twin(cls: type[GPTLanguageModel], model: GPTLanguageModel, **changes) -> Any:
    """The same model computed another way: the notes', the quick or the cached."""
    fields = dataclasses.fields(GPTLanguageModel)  # those of a quick one are its own
    names = [field.name for field in fields if field.name not in ("parent", "name")]
    return cls(**{name: getattr(model, name) for name in names} | changes)
