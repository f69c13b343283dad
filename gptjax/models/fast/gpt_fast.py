"""The GPT of gpt.py made quick: one product for q, k and v, attention in blocks, cheap dropout.

In, out and parameters are those of gpt.py, from which each class inherits. Logits are equal but for
rounding; dropout falls on other places. B, T, C, H, K, V as in gpt.py.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.sharding import PartitionSpec

from gptjax.models.fast import block_attention
from gptjax.models.gpt import (
    ACTIVATIONS,
    Block,
    FeedForward,
    GPTLanguageModel,
    MultiHeadAttention,
)
from gptjax.runtime import mesh_rules


def dropout(module: nn.Module, x: jax.Array, train: bool) -> jax.Array:
    """``nn.Dropout(module.dropout)(x)``, by the hash of ``block_attention.keeps``."""
    if not train or not module.dropout:
        return x
    place = mesh_rules.numbers(x.size).reshape(x.shape)
    return block_attention.drop(x, module.dropout, key_words(module), place)


def key_words(module: nn.Module) -> jax.Array:
    """The key of a module's dropout as two uint32."""
    return jax.random.key_data(module.make_rng("dropout"))[:2]


def rows_apart(x_BxTxC: jax.Array) -> jax.Array:
    """The residual stream on a mesh: each device has all of its rows, and of no others."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x_BxTxC
    return lax.with_sharding_constraint(x_BxTxC, PartitionSpec(mesh_rules.rows_of(mesh)))


def on_each_device(attend: Callable, *arrays: jax.Array) -> jax.Array:
    """``attend`` of heads (B, H, ...), on a mesh by each device of its own rows and heads.

    No product is between rows or heads, so there is nothing to send; and a device's own kernel
    cannot be cut by the compiler. What has one axis, a key, is everybody's. (B, T, H, K) comes out.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return attend(*arrays)
    B, H = arrays[0].shape[:2]  # what cannot be dealt out is done by all
    rows = mesh_rules.rows_of(mesh)
    rows = None if B % mesh_rules.parts_of(mesh, rows) else rows
    heads = None if H % mesh.shape["tensor"] else "tensor"
    cut = tuple(PartitionSpec(rows, heads) if x.ndim > 1 else PartitionSpec() for x in arrays)
    out = PartitionSpec(rows, None, heads)
    # Named, or JAX before 0.10.2 would sum gradients over the axes of ``apart``, too.
    free = set(mesh.axis_names) - set(mesh.manual_axes)
    local = jax.shard_map(attend, in_specs=cut, out_specs=out, axis_names=free, check_vma=False)
    return local(*arrays)


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
        qkv = self.precision.dense(x_BxTxC.reshape(B * T, C), w_Cx3C)
        if self.qkv_bias:
            b_3xHxK = jnp.stack([kernels[name]["bias"] for name in names])
            qkv = self.precision.store(qkv + b_3xHxK.reshape(-1))
        qkv = qkv.reshape(B, T, 3, self.num_heads, -1)
        out_BxTxHxK = self.attend(*qkv.transpose(2, 0, 3, 1, 4), train)
        out = self.proj(out_BxTxHxK.reshape(B * T, C))
        return dropout(self, out, train).reshape(B, T, C)

    def attend(self, q_BxHxTxK, k_BxHxTxK, v_BxHxTxK, train: bool) -> jax.Array:
        """What each head gathers, (B, T, H, K)."""
        B, H = q_BxHxTxK.shape[:2]
        rate = self.dropout if train else 0.0
        key = key_words(self) if rate else jnp.zeros(2, jnp.uint32)
        number_BxH = mesh_rules.numbers(B * H).reshape(B, H)

        def attend(q, k, v, key, number_BxH):
            heads = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
            out = block_attention.attend(self.precision, rate, *heads, key, number_BxH.reshape(-1))
            return out.reshape(q.shape).swapaxes(1, 2)

        return on_each_device(attend, q_BxHxTxK, k_BxHxTxK, v_BxHxTxK, key, number_BxH)


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
        return rows_apart(self.precision.store(x_BxTxC + self.ffwd(self.ln2(x_BxTxC), train)))


class FastGPT(GPTLanguageModel):
    """The quick GPT, and what large ones want on an accelerator.

    ``remat``: the backward pass computes a block's values again and does not keep them.
    ``scan_layers``: one compiled block for all layers; the parameters keep their names.
    ``pad_vocab``: the last product is as wide as a multiple of it; the loss alone sees the padding.
    """

    remat: bool = False
    scan_layers: bool = False
    pad_vocab: int = 1
    block = FastBlock
    drops_by_place = True  # dropout asks where a value is in the batch, and not who has it

    def __call__(self, x_BxT: jax.Array, train: bool = False) -> jax.Array:
        if self.is_initializing():
            return super().__call__(x_BxT, train)
        x = rows_apart(self.precision.store(self.embed(x_BxT, jnp.arange(x_BxT.shape[1]))))
        block = self.blocks[0].clone(parent=None)
        key = self.make_rng("dropout") if train and self.dropout else jax.random.key(0)

        def apply(x: jax.Array, layer: tuple[Any, jax.Array]) -> tuple[jax.Array, None]:
            params, key = mesh_rules.gathered(layer[0]), layer[1]
            return block.apply({"params": params}, x, train, rngs={"dropout": key}), None

        if self.remat:  # in a loop nothing can be computed once for both passes anyway
            apply = jax.checkpoint(apply, prevent_cse=not self.scan_layers)
        layers = [block.variables["params"] for block in self.blocks]
        keys = jax.random.split(key, self.n_layer)
        if self.scan_layers:
            x, _ = lax.scan(apply, x, (jax.tree.map(lambda *leaf: jnp.stack(leaf), *layers), keys))
        else:
            for layer in zip(layers, keys, strict=True):
                x, _ = apply(x, layer)
        return self.logits(x, padded=train)

    def embed(self, x_BxT: jax.Array, positions: jax.Array) -> jax.Array:
        if self.is_initializing() or jax.sharding.get_abstract_mesh().empty:
            return super().embed(x_BxT, positions)
        # Each device looks its rows up in whole tables: of cut ones it would get parts of all rows.
        tables = (self.token_embedding_table, self.position_embedding_table)
        whole = (lax.with_sharding_constraint(t.embedding, PartitionSpec()) for t in tables)
        tok_emb, pos_emb = (t[i] for t, i in zip(whole, (x_BxT, positions), strict=True))
        return tok_emb + pos_emb

    def logits(self, x_BxTxC: jax.Array, padded: bool = False) -> jax.Array:
        """lm_head(ln_f(x)); ``padded`` leaves the padding there, -inf: to a softmax it is nothing.

        To cut it off is to copy all the others.
        """
        padding = -self.vocab_size % self.pad_vocab
        if self.is_initializing() or not padding:
            return super().logits(x_BxTxC)
        x = self.ln_f(x_BxTxC).reshape(-1, self.n_embd)
        no_bias_V = jnp.zeros(self.vocab_size, self.precision.storage)
        if self.tie_lm_head:
            kernel_CxV, bias_V = self.token_embedding_table.embedding.T, no_bias_V
        else:
            head = self.lm_head.variables["params"]
            kernel_CxV, bias_V = head["kernel"], head.get("bias", no_bias_V)
        logits = self.precision.dense(x, jnp.pad(kernel_CxV, ((0, 0), (0, padding))))
        if padded:
            bias_V = jnp.pad(bias_V, (0, padding), constant_values=-jnp.inf)
        return (logits[:, : bias_V.size] + bias_V).reshape(*x_BxTxC.shape[:2], -1)


class FusedMultiHeadAttention(FastMultiHeadAttention):
    """Attention by the device's own kernel; it cannot drop out attention weights."""

    def attend(self, q_BxHxTxK, k_BxHxTxK, v_BxHxTxK, train: bool) -> jax.Array:
        if train and self.dropout:
            raise ValueError("model.attention='fused' cannot drop out attention weights")
        heads = [self.precision.read(x) for x in (q_BxHxTxK, k_BxHxTxK, v_BxHxTxK)]
        attend = functools.partial(lax.platform_dependent, tpu=_flash, default=_of_jax)
        return on_each_device(attend, *heads)


def _of_jax(*heads_BxHxTxK: jax.Array) -> jax.Array:
    """JAX's own, (B, T, H, K): by cuDNN on NVIDIA where its types are cuDNN's."""
    on_gpu = jax.default_backend() == "gpu" and heads_BxHxTxK[0].dtype == jnp.bfloat16
    heads = (x.swapaxes(1, 2) for x in heads_BxHxTxK)
    return jax.nn.dot_product_attention(
        *heads, is_causal=True, implementation="cudnn" if on_gpu else "xla"
    )


def _flash(*heads_BxHxTxK: jax.Array) -> jax.Array:
    """The kernel for TPUs that JAX ships, (B, T, H, K); of a T that it cannot cut, JAX's own."""
    from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

    T, K = heads_BxHxTxK[0].shape[2:]
    if T % 128:
        return _of_jax(*heads_BxHxTxK)
    return flash_attention(*heads_BxHxTxK, causal=True, sm_scale=K**-0.5).swapaxes(1, 2)


class FusedBlock(FastBlock):
    """A block with the device's own attention."""

    attention = FusedMultiHeadAttention


class FusedGPT(FastGPT):
    """The quick GPT with the device's own attention."""

    block = FusedBlock
