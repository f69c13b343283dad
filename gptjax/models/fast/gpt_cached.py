"""The GPT one piece at a time: the keys and values of the past are kept in a ``Cache``.

In: new tokens (B, T), and the cache of those before them. Out: their logits, and the cache with
them in it. Each class inherits its plain ``__call__`` and its parameters from gpt.py and adds
``read``, of T more tokens of each row after those in the cache, and ``at``, of the one place of a
whole window whose logits are wanted. ``CachedGPT.prepare`` lays the weights out as both read them.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from gptjax.models.gpt import Block, GPTLanguageModel, Head, MultiHeadAttention, dense, twin
from gptjax.models.precision import Precision

Past = tuple[jax.Array, jax.Array]  # keys and values of a layer


@flax.struct.dataclass
class Cache:
    """Keys and values of the tokens a GPT has read, an array per layer, S = block_size places.

    Keys are (H, B, K, S), transposed as their product with q wants them: transposing them at every
    token would copy them all. Values are (H, B, S, K). ``length_B`` counts the tokens of each row;
    what stands after them is never looked at.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    length_B: jax.Array


class CachedHead(Head):
    """A head that gathers from a past it is handed."""

    def read(self, x_BxTxC: jax.Array, past: Past, length_B: jax.Array) -> tuple[jax.Array, Past]:
        """Let new tokens gather from themselves and the past: keys (B, K, S), values (B, S, K).

        Returns what was gathered, (B, T, K), and the past with the new tokens in it.
        """
        k_BxKxT = self.key(x_BxTxC).swapaxes(-2, -1)
        q, v = self.query(x_BxTxC), self.value(x_BxTxC)
        B, T, _ = x_BxTxC.shape
        if B == T == 1:
            return self._read_one(q, k_BxKxT, v, past, length_B[0])
        keys = _write(past[0], self.precision.read(k_BxKxT), length_B, axis=1)
        values = _write(past[1], self.precision.read(v), length_B, axis=0)
        allowed = jnp.asarray(self.tril)[length_B[:, None] + jnp.arange(T)]
        return self._attend(q, keys, values, allowed), (keys, values)

    def _read_one(self, q, k, v, past: Past, length) -> tuple[jax.Array, Past]:
        # The sums over the past and itself apart: the past is then written after its last use, so
        # that XLA changes one place of it, a tenth less time for a token than with a copy of all.
        keys, values = past
        matmul, read = self.precision.matmul, self.precision.read
        seen_S = jnp.arange(self.block_size) < length
        scores_1x1xS = jnp.where(seen_S, matmul(q, keys), -jnp.inf)
        scores = jnp.concatenate([scores_1x1xS, matmul(q, k)], axis=-1) * self.head_size**-0.5
        wei = nn.softmax(scores.astype(jnp.float32))
        out = matmul(wei[..., :-1], values) + matmul(wei[..., -1:], v)
        put = jax.lax.dynamic_update_slice_in_dim
        return out, (put(keys, read(k), length, axis=2), put(values, read(v), length, axis=1))

    def at(self, x_BxTxC: jax.Array, at_B: jax.Array) -> jax.Array:
        """Let one place of each row gather from itself and those before it: (B, 1, K)."""
        k_BxKxT = self.key(x_BxTxC).swapaxes(-2, -1)
        q, v = self.query(_place(x_BxTxC, at_B)), self.value(x_BxTxC)
        allowed = jnp.asarray(self.tril)[at_B, None, : x_BxTxC.shape[1]]
        return self._attend(q, k_BxKxT, v, allowed)

    def _attend(self, q, k_BxKxS, v, allowed_BxTxS) -> jax.Array:
        """softmax(q kᵀ / sqrt(K), only where allowed) v: what ``Head`` does, without dropout."""
        scores = self.precision.matmul(q, k_BxKxS) * self.head_size**-0.5
        wei = nn.softmax(jnp.where(allowed_BxTxS, scores, -jnp.inf).astype(jnp.float32))
        return self.precision.matmul(wei, v)


def _write(past, new, length_B, axis):
    """Put the new places of each row after those it has: ``axis`` is S without the batch."""
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=axis)
    return jax.vmap(put)(past, new, length_B)


def _place(x_BxTxC, at_B):
    """One place of each row: (B, 1, C)."""
    return jnp.take_along_axis(x_BxTxC, at_B[:, None, None], axis=1)


class CachedMultiHeadAttention(MultiHeadAttention):
    """The heads of gpt.py over weights (C, H, K), as ``CachedGPT.prepare`` lays them out."""

    def setup(self):
        common = {"axis_size": self.num_heads, "variable_axes": {"params": 1}}
        common |= {"split_rngs": {"params": True, "dropout": True}}
        plain = common | {"in_axes": None, "out_axes": 2}
        with_past = common | {"in_axes": (None, 0, None), "out_axes": (2, 0)}
        heads = nn.vmap(CachedHead, methods={"__call__": plain, "read": with_past, "at": plain})
        sizes = (self.head_size, self.block_size)
        self.heads = heads(*sizes, self.dropout, self.precision, self.qkv_bias)
        self.proj = dense(self.num_heads * self.head_size, self.proj_std, self.precision)

    def read(self, x_BxTxC: jax.Array, past: Past, length_B: jax.Array) -> tuple[jax.Array, Past]:
        """As of a head, for all of them; keys (H, B, K, S), values (H, B, S, K)."""
        out_BxTxHxK, past = self.heads.read(x_BxTxC, past, length_B)
        return self.mix(out_BxTxHxK), past

    def at(self, x_BxTxC: jax.Array, at_B: jax.Array) -> jax.Array:
        """As of a head, for all of them: (B, 1, C)."""
        return self.mix(self.heads.at(x_BxTxC, at_B))


class CachedBlock(Block):
    """A block whose attention is handed its past."""

    attention = CachedMultiHeadAttention

    def read(self, x_BxTxC: jax.Array, past: Past, length_B: jax.Array) -> tuple[jax.Array, Past]:
        """``__call__`` of new tokens (B, T, C), and the past with them in it."""
        out, past = self.sa.read(self.ln1(x_BxTxC), past, length_B)
        x_BxTxC = x_BxTxC + out
        return x_BxTxC + self.ffwd(self.ln2(x_BxTxC)), past

    def at(self, x_BxTxC: jax.Array, at_B: jax.Array) -> jax.Array:
        """What becomes of one place of each row: (B, 1, C)."""
        x_Bx1xC = _place(x_BxTxC, at_B) + self.sa.at(self.ln1(x_BxTxC), at_B)
        return x_Bx1xC + self.ffwd(self.ln2(x_Bx1xC))


class CachedGPT(GPTLanguageModel):
    """The GPT of gpt.py, read one piece at a time."""

    block = CachedBlock

    @classmethod
    def of(cls, model: GPTLanguageModel) -> "CachedGPT":
        """The cached twin of a model; its products read what is stored: memory is the limit here.

        On a CPU that is float32: at 6/6/384 a token takes 2.4 ms in it and 2.8 ms in bfloat16.
        """
        stored = model.precision.storage
        return twin(cls, model, precision=Precision(stored, stored))

    def prepare(self, params: Any) -> Any:
        """Lay the weights of all heads (H, C, K) as (C, H, K), kernels in the compute dtype.

        A product with every head at once reads them in this order: laid out once, before the first
        token, they need not be at every one, which is a sixth of a GPT's time.
        """

        def laid_out(path: tuple[str, ...], weights: jax.Array) -> jax.Array:
            weights = weights.swapaxes(0, 1) if "heads" in path else weights
            return self.precision.read(weights) if path[-1] == "kernel" else weights

        return traverse_util.path_aware_map(laid_out, params)

    def empty_cache(self, batch_size: int) -> Cache:
        """A cache of no tokens for ``batch_size`` rows: 2 · N · B · block_size · C numbers."""
        shape = (self.n_head, batch_size, self.n_embd // self.n_head, self.block_size)
        dtype = self.precision.compute
        # An array of its own for each, as one that stands twice could not be donated.
        keys = tuple(jnp.zeros(shape, dtype) for _ in range(self.n_layer))
        values = tuple(jnp.zeros(shape, dtype).swapaxes(-2, -1) for _ in range(self.n_layer))
        return Cache(keys, values, jnp.zeros(batch_size, jnp.int32))

    def read(self, x_BxT: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Read T more tokens of each row; length_B + T must not pass block_size.

        Returns the logits (B, T, V) of the new tokens, and the cache with them in it.
        """
        x = self.embed(x_BxT, cache.length_B[:, None] + jnp.arange(x_BxT.shape[1]))
        pasts = []
        for block, *past in zip(self.blocks, cache.keys, cache.values, strict=True):
            x, past = block.read(x, tuple(past), cache.length_B)
            pasts.append(past)
        keys, values = zip(*pasts, strict=True)
        return self.logits(x), Cache(keys, values, cache.length_B + x_BxT.shape[1])

    def at(self, x_BxT: jax.Array, at_B: jax.Array) -> jax.Array:
        """The logits (B, V) of one place of each row: what the others lead to is left out."""
        x = self.embed(x_BxT, jnp.arange(x_BxT.shape[1]))
        # The last block need only tell what is asked for; those below it tell each other all.
        for block in self.blocks[:-1]:
            x = block(x)
        return self.logits(self.blocks[-1].at(x, at_B))[:, 0]
