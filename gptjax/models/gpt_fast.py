"""The GPT of gpt.py made quick: one product for q, k and v, attention in blocks, cheap dropout.

In and out, and the parameters, are those of gpt.py, from which each class inherits; the logits are
equal but for rounding, dropout falls on other places. B, T, C, H, K, V as in gpt.py.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gptjax.models import block_attention
from gptjax.models.gpt import (
    ACTIVATIONS,
    Block,
    FeedForward,
    GPTLanguageModel,
    MultiHeadAttention,
)


def dropout(module: Any, x: jax.Array, train: bool) -> jax.Array:
    """``nn.Dropout`` by the hash of ``block_attention.keeps``."""
    if not train or not module.dropout:
        return x
    place = lax.iota(jnp.uint32, x.size).reshape(x.shape)
    return block_attention.drop(x, module.dropout, key_of(module), place)


def key_of(module: Any) -> jax.Array:
    """The key of a module's dropout, two uint32."""
    return jax.random.key_data(module.make_rng("dropout"))[:2]


class FastMultiHeadAttention(MultiHeadAttention):
    """All heads at once: one product for queries, keys and values, one for each block of rows."""

    def __call__(self, x_BxTxC: jax.Array, train: bool = False) -> jax.Array:
        if self.is_initializing():
            return super().__call__(x_BxTxC, train)
        B, T, C = x_BxTxC.shape
        kernels = self.heads.variables["params"]
        names = ("query", "key", "value")
        w_3xHxCxK = jnp.stack([kernels[name]["kernel"] for name in names])
        w_Cx3C = w_3xHxCxK.transpose(2, 0, 1, 3).reshape(C, -1)
        qkv = self.precision.dense(x_BxTxC.reshape(B * T, C), w_Cx3C, (((1,), (0,)), ((), ())))
        qkv = qkv.reshape(B, T, 3, self.num_heads, -1)
        out_BxTxHxK = self.attend(*qkv.transpose(2, 0, 3, 1, 4), train)
        out = self.proj(out_BxTxHxK.reshape(B * T, C))
        return dropout(self, out, train).reshape(B, T, C)

    def attend(self, q_BxHxTxK, k_BxHxTxK, v_BxHxTxK, train: bool) -> jax.Array:
        """What each head gathers, (B, T, H, K)."""
        B, H, T, K = q_BxHxTxK.shape
        rate = self.dropout if train else 0.0
        key = key_of(self) if rate else jnp.zeros(2, jnp.uint32)
        heads = (x.reshape(B * H, T, K) for x in (q_BxHxTxK, k_BxHxTxK, v_BxHxTxK))
        out = block_attention.attend(self.precision, rate, *heads, key)
        return out.reshape(B, H, T, K).swapaxes(1, 2)


class FastFeedForward(FeedForward):
    """The two layers, with the cheap dropout."""

    def __call__(self, x_BxTxC: jax.Array, train: bool = False) -> jax.Array:
        B, T, C = x_BxTxC.shape
        x = self.proj(ACTIVATIONS[self.activation](self.fc(x_BxTxC.reshape(B * T, C))))
        return dropout(self, x, train).reshape(B, T, C)


class FastBlock(Block):
    """The block, its residual stream stored in ``precision.storage``."""

    attention, feed_forward = FastMultiHeadAttention, FastFeedForward

    def __call__(self, x_BxTxC: jax.Array, train: bool = False) -> jax.Array:
        x_BxTxC = self.precision.store(x_BxTxC + self.sa(self.ln1(x_BxTxC), train))
        return self.precision.store(x_BxTxC + self.ffwd(self.ln2(x_BxTxC), train))


class FastGPT(GPTLanguageModel):
    """The quick GPT."""

    block = FastBlock
