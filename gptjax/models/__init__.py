"""The models of the notes under one contract; ``build`` makes the one that a config names.

In reading order:

- ``bigram``: the tables of pages 4 and 5
- ``loss``: cross-entropy in nats
- ``averaging``: three ways to average the past
- ``gpt``: from one head to the GPT
- ``precision``: its one product, in float32 or bfloat16
- ``fast``: the same GPT, quicker
- ``rungs``: the steps between the bigram and the GPT
- ``mlp``: the slides' model of names
- ``ngram``: counted tables

A model is a Flax module whose ``apply({"params": params}, x_BxT, train=False, rngs=...)`` gives
logits (B, T, V). Its attributes: ``block_size``, the most tokens it looks at; ``lookback``, how
many tokens before the first of a row its first prediction would like to see (0, or block_size - 1
for the MLP); ``slides``, whether T may be any length, or at most block_size.
"""

import math

from flax import linen as nn

from gptjax.config.schema import RUNGS, ModelConfig
from gptjax.errors import UserError
from gptjax.models.bigram import BigramEmbedLanguageModel, BigramLanguageModel
from gptjax.models.fast.gpt_fast import FastGPT, FusedGPT
from gptjax.models.gpt import GPTLanguageModel
from gptjax.models.mlp import MLPLanguageModel
from gptjax.models.ngram import NGramLanguageModel
from gptjax.models.precision import Precision
from gptjax.models.rungs import RungLanguageModel

LARGEST_TABLE = 2**25  # entries of an ngram's table: 134 MB
LARGEST_TRAINED = 2**28  # of a bigram's: 1 GB, and with its gradients and averages four times that


def build(config: ModelConfig, vocab_size: int, start_id: int = 0) -> nn.Module:
    """Make the module that ``config.kind`` names; ``start_id`` stands before a beginning.

    "auto" is for ``runtime.fast_paths`` to decide: what is left of it is the notes' plain float32.

    Raises:
      UserError: an ngram or a bigram whose table would not fit in memory.
    """
    c, V = config, vocab_size
    if c.kind == "bigram":
        if V * V > LARGEST_TRAINED:
            raise UserError(
                f"model.kind='bigram' is a table of {V:,} x {V:,} tokens, and {LARGEST_TRAINED:,} "
                "entries are the most: use a smaller vocabulary, or model.kind=bigram_embed"
            )
        return BigramLanguageModel(V)
    if c.kind == "bigram_embed":
        return BigramEmbedLanguageModel(V, c.block_size, c.n_embd)
    if c.kind == "ngram":
        # In logarithms: the number itself may have more digits than Python writes.
        if (c.block_size + 1) * math.log(V) > math.log(LARGEST_TABLE):
            raise UserError(
                f"model.block_size={c.block_size} asks for a table of {V:,}^{c.block_size} "
                f"contexts x {V:,} tokens, and {LARGEST_TABLE:,} entries are the most: set a "
                "smaller model.block_size"
            )
        return NGramLanguageModel(V, c.block_size, start_id)
    if c.kind == "mlp":
        return MLPLanguageModel(V, c.block_size, c.n_embd, c.n_hidden, c.n_layer, start_id)
    sizes = (V, c.block_size, c.n_embd, c.n_head)
    if c.kind in RUNGS:
        return RungLanguageModel(c.kind, *sizes, c.dropout, c.activation)
    dtypes = ("float32" if d == "auto" else d for d in (c.compute_dtype, c.storage_dtype))
    rest = (c.dropout, c.activation, c.tie_lm_head, c.scale_residual, Precision(*dtypes))
    rest += (c.qkv_bias, c.lm_head_bias)
    if c.attention in ("auto", "plain"):
        return GPTLanguageModel(*sizes, c.n_layer, *rest)
    fast = FusedGPT if c.attention == "fused" else FastGPT
    return fast(*sizes, c.n_layer, *rest, c.remat, c.scan_layers, c.pad_vocab)
